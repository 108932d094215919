package devcluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// What a killed cluster left is ended and removed by the next one; one whose
// process lives is left alone.
func TestAbandonedClustersAreEnded(t *testing.T) {
	parent := t.TempDir()
	owner := exec.Command("sleep", "600")
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	began, err := startTime(owner.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	// cluster makes a directory with a daemon that has a file of it open.
	cluster := func(name, owner string) (dir string, daemon *exec.Cmd) {
		t.Helper()
		dir = filepath.Join(parent, "joule-demo-"+name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, ownerFile), []byte(owner), 0o600); err != nil {
			t.Fatal(err)
		}
		log, err := os.Create(filepath.Join(dir, "log"))
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		daemon = exec.Command("sleep", "600")
		daemon.Stdout = log
		if err := daemon.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = daemon.Process.Kill() })
		return dir, daemon
	}
	word := fmt.Sprintf("%d %s %s\n", owner.Process.Pid, began, bootID())
	lives, livesOn := cluster("lives", word)
	other, otherOn := cluster("other", fmt.Sprintf("%d 1 %s\n", owner.Process.Pid, bootID())) // its pid is another process's now
	unclear, unclearOn := cluster("unclear", "")

	check := func(dir string, daemon *exec.Cmd, gone bool) {
		t.Helper()
		ended := make(chan struct{})
		go func() { _ = daemon.Wait(); close(ended) }()
		if gone {
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Errorf("%s: its daemon runs on", dir)
			}
		} else if _, err := startTime(daemon.Process.Pid); err != nil {
			t.Errorf("%s: its daemon was ended", dir)
		}
		if _, err := os.Stat(dir); (err != nil) != gone {
			t.Errorf("%s: got %v, want it gone: %t", dir, err, gone)
		}
	}
	own := filepath.Join(parent, "joule-demo-own")
	if err := claim(own); err != nil {
		t.Fatal(err)
	}
	if err := endAbandoned(own); err != nil {
		t.Fatal(err)
	}
	check(lives, livesOn, false)
	check(unclear, unclearOn, false)
	check(other, otherOn, true)
	_ = owner.Process.Kill()
	_ = owner.Wait()
	if err := endAbandoned(own); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(lives); err == nil {
		t.Error("a cluster whose process was killed is still there")
	}
	if _, err := os.Stat(own); err != nil {
		t.Errorf("our own was removed: %v", err)
	}
}
