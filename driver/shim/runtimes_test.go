package shim

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/joulecloud/joule/driver/oci"
)

// otherRuntime finds a runtime besides runc: on PATH, or as make tools builds it.
func otherRuntime(t *testing.T, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	path, err := filepath.Abs("../../build/bin/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("needs %s", name)
	}
	return path
}

// Every runtime runs tasks by the same contract: exit codes, output, signals,
// what is metered.
func TestOtherRuntimes(t *testing.T) {
	for _, name := range []string{"crun", "runsc"} {
		t.Run(name, func(t *testing.T) {
			path := otherRuntime(t, name)
			e := newEnv(t)
			e.runtime = path
			x := e.prepare(&oci.Task{Args: []string{"/bin/sh", "-c", "echo hello; sleep 0.3; exit 5"}, User: "root"})
			p, err := Launch(t.Context(), e.as("joule-shim"), x.dir, x.spec)
			if err != nil {
				t.Fatal(err)
			}
			started, err := p.Started(t.Context())
			if err != nil {
				if name == "crun" && strings.Contains(err.Error(), "hybrid mode not supported") {
					<-p.Done()
					t.Skipf("crun refuses this host: %v", err)
				}
				t.Fatalf("started: %v\n%s", err, logOf(x.dir))
			}
			<-p.Done()
			exit, err := p.Exit()
			if err != nil || exit.Code != 5 || exit.Error != "" {
				t.Errorf("got %+v, %v\n%s", exit, err, logOf(x.dir))
			}
			wall := float64(exit.ExitMonoNs-started.ExecMonoNs) / 1e6
			if wall < 290 || exit.CPUUsec == nil || *exit.CPUUsec < started.CPUBaseUsec {
				t.Errorf("ran %.3f ms with %v CPU from %d, want at least 300 ms", wall, exit.CPUUsec, started.CPUBaseUsec)
			}
			t.Logf("ran %.3f ms, exec stamped %v, exit %v", wall, started.ExecStamped, exit.ExitStamped)
			if err := p.Cleanup(t.Context()); err != nil {
				t.Error(err)
			}

			x = e.prepare(&oci.Task{Args: []string{"/bin/sh", "-c", "trap 'exit 9' TERM; : > /local/ready; while :; do sleep 0.05; done"}, User: "root"})
			if p, err = Launch(t.Context(), e.as("joule-shim"), x.dir, x.spec); err != nil {
				t.Fatal(err)
			}
			if _, err := p.Started(t.Context()); err != nil {
				t.Fatalf("started: %v\n%s", err, logOf(x.dir))
			}
			ready := filepath.Join(x.dir, "local", "ready")
			for range 1000 {
				if _, err := os.Stat(ready); err == nil {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			if err := p.Signal(unix.SIGTERM); err != nil {
				t.Error(err)
			}
			<-p.Done()
			if exit, err := p.Exit(); err != nil || exit.Code != 9 {
				t.Errorf("after SIGTERM: got %+v, %v", exit, err)
			}
			if err := p.Cleanup(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func logOf(dir string) string {
	b, _ := os.ReadFile(filepath.Join(dir, LogFile))
	more, _ := os.ReadFile(filepath.Join(dir, runtimeLogFile))
	return string(b) + string(more)
}
