package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/hostd"
)

// checkHostd looks at hostd's key, its shim, and at hostd itself where it runs.
func checkHostd(ctx context.Context, e *examination) {
	if e.needsConfig("running") {
		return
	}
	checkKey(e)
	shim := e.cfg.Shim
	if shim == "" {
		shim = e.besideUs("joule-shim")
	}
	info, err := e.sys.stat(shim)
	switch {
	case shim == "":
		e.fail("shim", "install joule-shim beside joule, or set shim in "+e.opt.Config, "no joule-shim")
	case err != nil:
		e.fail("shim", "correct shim in "+e.opt.Config, "%v", err)
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		e.fail("shim", "chmod 0755 "+shim, "%s isn't executable (mode %v)", shim, info.Mode())
	default:
		e.ok("shim", "%s", shim)
	}
	checkRunning(ctx, e)
}

func checkKey(e *examination) {
	path := filepath.Join(e.cfg.DataDir, hostd.KeyFile)
	key, err := hostd.ReadKey(e.sys.path(e.cfg.DataDir))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.warn("host key", "joule host key --config "+e.opt.Config+" makes one and prints its public half, by which the host is enrolled", "%s: none yet", path)
	case err != nil:
		advice := "restore it from a backup; a new key must be enrolled anew"
		if info, statErr := os.Lstat(e.sys.path(path)); statErr == nil && info.Mode().Perm()&0o077 != 0 {
			advice = "chmod 0600 " + path + "; who read it meanwhile can speak for this host: make and enrol a new one if that may be"
		}
		e.fail("host key", advice, "%s", strings.ReplaceAll(oneLine(err), e.sys.Root, ""))
	default:
		e.ok("host key", "%s: Ed25519, mode 0600, public half %x", path, key.Public())
	}
}

func checkRunning(ctx context.Context, e *examination) {
	ctx, cancel := context.WithTimeout(ctx, e.opt.Timeout)
	defer cancel()
	info, err := hostapi.NewClient(e.sys.path(e.cfg.Socket)).Host(ctx)
	switch {
	case errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED):
		e.warn("running", "systemctl start joule-hostd; without systemd the plugin starts it", "no: nobody listens on %s", e.cfg.Socket)
		return
	case err != nil:
		e.fail("running", "systemctl restart joule-hostd; its tasks run on", "it doesn't answer on %s: %s", e.cfg.Socket, oneLine(err))
		return
	case info.ProtocolVersion != hostapi.Version:
		e.fail("running", "upgrade the older one, then systemctl restart joule-hostd", "it speaks protocol %d, this program %d", info.ProtocolVersion, hostapi.Version)
		return
	}
	found := fmt.Sprintf("version %s, process %d, %d tasks, %d records to send", info.Version, info.Pid, info.Tasks, info.SpoolRecords)
	if info.Version != e.sys.Version {
		e.warn("running", "systemctl restart joule-hostd; its tasks run on", "%s; this program is version %s", found, e.sys.Version)
	} else {
		e.ok("running", "%s", found)
	}
	for _, p := range info.Problems {
		e.fail("problems", "until it is solved the host takes no tasks", "%s", p)
	}
	connected := 0
	var faults []string
	for _, s := range info.Servers {
		if s.Connected {
			connected++
		} else {
			faults = append(faults, s.URL+": "+s.Error)
		}
	}
	switch {
	case connected == 0:
		e.fail("sessions", "see the findings about the servers", "none of %d servers hears this host: %s", len(info.Servers), strings.Join(faults, "; "))
	case len(faults) > 0:
		e.warn("sessions", "see the findings about the servers", "%d of %d servers hear this host: %s", connected, len(info.Servers), strings.Join(faults, "; "))
	default:
		e.ok("sessions", "every server hears this host")
	}
}
