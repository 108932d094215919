package hostd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/joulecloud/joule/driver/cgroup"
	"github.com/joulecloud/joule/settlement/wire"
)

// crun refuses a hybrid host, which is known before a task asks for it, in its
// own words; gVisor runs tasks, and where the start of one is not the kernel's
// stamp the bill says so.
func TestRealOtherRuntimes(t *testing.T) {
	find := func(name string) string {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
		path, err := filepath.Abs("../../build/bin/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); err != nil {
			return ""
		}
		return path
	}
	crun, runsc := find("crun"), find("runsc")
	if crun == "" && runsc == "" {
		t.Skip("needs crun or runsc (make runsc)")
	}
	list := "RUNC"
	for _, path := range []string{crun, runsc} {
		if path != "" {
			list += fmt.Sprintf(", %q", path)
		}
	}
	r := newRealRig(t, "runtimes = ["+list+"]\n")
	info, err := r.client.Host(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if crun != "" && info.Cgroup == string(cgroup.Hybrid) {
		if why := info.RuntimeFaults["crun"]; !strings.Contains(why, "hybrid") {
			t.Errorf("crun: got fault %q, want that it refuses a hybrid host", why)
		}
	}
	if runsc == "" {
		return
	}
	if info.Runtimes["runsc"] == "" {
		t.Fatalf("runsc: %q", info.RuntimeFaults["runsc"])
	}
	req := r.task(1, "sleep 0.2; exit 6")
	req.Runtime = "runsc"
	if _, err := r.client.Start(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	st, err := r.client.Wait(t.Context(), req.ID)
	if err != nil || st.Exit.Code != 6 {
		t.Errorf("got %+v, %v", st, err)
	}
	if rec := r.wantStamped(req); rec.Quality != wire.QualityStartUnstamped || rec.Active.WallMs < 190 {
		t.Errorf("got %+v, want at least 200 ms, and only the start unstamped", rec)
	}
}
