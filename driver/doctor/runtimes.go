package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/joulecloud/joule/driver/cgroup"
	"github.com/joulecloud/joule/driver/oci"
)

const (
	trialWord   = "joule-doctor"
	cleanupWait = 10 * time.Second
)

// checkRuntimes looks at every OCI runtime that the configuration names; one
// that works is enough.
func checkRuntimes(ctx context.Context, e *examination) {
	if e.needsConfig("all") {
		return
	}
	host, err := cgroup.Detect(e.sys.path(cgroup.DefaultRoot))
	hybrid := err == nil && host.Mode == cgroup.Hybrid
	works := 0
	type fault struct{ name, advice, found string }
	var faults []fault
	for _, name := range e.cfg.Runtimes {
		look := name
		if filepath.IsAbs(name) {
			look = e.sys.path(name)
		}
		found := oci.FindRuntime(ctx, look, nil)
		err := found.Err
		if err == nil && found.Name == "crun" && hybrid {
			err = errors.New("crun refuses hosts with a hybrid cgroup hierarchy; use runc, or boot with systemd.unified_cgroup_hierarchy=1")
		}
		if err != nil {
			advice := fmt.Sprintf("apt-get install %s, or take %q out of runtimes", filepath.Base(name), name)
			switch {
			case errors.Is(err, fs.ErrNotExist), errors.Is(err, exec.ErrNotFound):
			case strings.Contains(err.Error(), "version"):
				advice = fmt.Sprintf("is %s an OCI runtime? correct runtimes in %s", name, e.opt.Config)
			case strings.Contains(err.Error(), "hybrid"):
				advice = fmt.Sprintf("boot with systemd.unified_cgroup_hierarchy=1, or take %q out of runtimes", name)
			}
			faults = append(faults, fault{name, advice, reason(err)})
			continue
		}
		trialCtx, cancel := context.WithTimeout(ctx, e.opt.Timeout)
		took := time.Now()
		err = e.sys.Trial(trialCtx, found.Path)
		cancel()
		if err != nil {
			faults = append(faults, fault{name, fmt.Sprintf("see what %s says; hostd's own attempts are in <data_dir>/tasks/*/shim.log", found.Path),
				fmt.Sprintf("version %s, but a container doesn't run: %s", found.Version, oneLine(err))})
			continue
		}
		works++
		e.ok(name, "version %s runs a container (%d ms)", found.Version, time.Since(took).Milliseconds())
	}
	for _, f := range faults {
		status := Warn
		if works == 0 {
			status = Fail
		}
		e.add(status, f.name, f.advice, "%s", f.found)
	}
}

// reason is an error's last words, without the name that the check has already.
func reason(err error) string {
	text := oneLine(err)
	if _, rest, ok := strings.Cut(text, `": `); ok {
		return rest
	}
	return text
}

// token is a name that nobody else has.
func token() string { return strings.ToLower(rand.Text()[:12]) }

// trial has the runtime run `echo` as it would a task, and checks what it says.
func trial(ctx context.Context, path string) (err error) {
	dir, err := os.MkdirTemp("", "joule-doctor-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	id := "doctor-" + token()
	host, err := cgroup.Detect(cgroup.DefaultRoot)
	if err != nil {
		return err
	}
	group, err := host.Group(id)
	if err != nil {
		return err
	}
	defer tidy(host)()
	bundle := filepath.Join(dir, "bundle")
	task := &oci.Task{Args: []string{"/bin/echo", trialWord}, CgroupPath: group.OCIPath()}
	if err := (oci.Host{Root: "/"}).WriteBundle(bundle, task); err != nil {
		return err
	}
	runtime := oci.NewRunc(path, filepath.Join(dir, "state"))
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	defer func() {
		// ctx may be at its end.
		ctx, cancel := context.WithTimeout(context.Background(), cleanupWait)
		defer cancel()
		err = errors.Join(err, group.Kill(), runtime.Delete(ctx, id, true), group.Remove(ctx), oci.RemoveBundle(bundle))
	}()
	pidFile := filepath.Join(dir, "pid")
	err = runtime.Create(ctx, oci.CreateOptions{ID: id, Bundle: bundle, PidFile: pidFile,
		LogFile: filepath.Join(dir, "log"), Stdout: w, Stderr: w})
	if err := errors.Join(err, w.Close()); err != nil {
		return err
	}
	pid, err := oci.ReadPid(pidFile)
	if err != nil {
		return err
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("open pidfd of the container's first process: %w", err)
	}
	defer unix.Close(pidfd)
	if err := runtime.Start(ctx, id); err != nil {
		return err
	}
	if err := waitPidfd(ctx, pidfd); err != nil {
		return fmt.Errorf("wait for `echo` in a container: %w", err)
	}
	said, err := io.ReadAll(io.LimitReader(r, 4096)) // its writers are gone
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(string(said)); got != trialWord {
		return fmt.Errorf("`echo %s` in a container said %q", trialWord, got)
	}
	return nil
}

// waitPidfd waits for the end of a process.
func waitPidfd(ctx context.Context, fd int) error {
	for {
		wait := 1000 // ms
		if deadline, ok := ctx.Deadline(); ok {
			wait = int(min(time.Until(deadline).Milliseconds()+1, int64(wait)))
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, max(wait, 1))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 {
			return nil
		}
	}
}
