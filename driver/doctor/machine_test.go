package doctor

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/joulecloud/joule/driver/cgroup"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func runcPath(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("runc")
	if err != nil {
		path, err = filepath.Abs("../../build/bin/runc")
		if _, statErr := os.Stat(path); err != nil || statErr != nil {
			t.Skip("needs runc (make tools)")
		}
	}
	return path
}

// traces are what a trial could leave behind.
func traces(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{cgroup.DefaultRoot + "/joule/doctor-*", cgroup.DefaultRoot + "/*/joule/doctor-*", filepath.Join(os.TempDir(), "joule-doctor-*")} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "joule-doctor-") {
			all = append(all, line)
		}
	}
	return all
}

// A real container runs, and nothing of it is left; one whose runtime is broken
// says why, and leaves nothing either.
func TestTrial(t *testing.T) {
	needRoot(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	t.Setenv("TMPDIR", t.TempDir())
	if err := os.Chmod(os.TempDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	runc := runcPath(t)
	if err := trial(ctx, runc); err != nil {
		t.Error(err)
	}
	refuses := filepath.Join(t.TempDir(), "refuses")
	script := "#!/bin/sh\ncase \" $* \" in *' create '*) exit 3;; esac\nexec " + runc + " \"$@\"\n"
	if err := os.WriteFile(refuses, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := trial(ctx, refuses); err == nil || !strings.Contains(err.Error(), "create container") {
		t.Errorf("a runtime that refuses: got %v", err)
	}
	if left := traces(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// The questions to this machine's kernel have answers.
func TestMachine(t *testing.T) {
	needRoot(t)
	m := Machine("v")
	if r, err := m.Release(); err != nil || r == "" {
		t.Errorf("release: got %q, %v", r, err)
	}
	if _, err := m.Clock(); err != nil {
		t.Errorf("clock: %v", err)
	}
	dir := t.TempDir()
	if s, err := m.Space(dir); err != nil || s.Total == 0 || s.Free > s.Total {
		t.Errorf("space: got %+v, %v", s, err)
	}
	if _, err := m.Space(filepath.Join(dir, "none")); err == nil {
		t.Error("space of nothing: got no error")
	}
	if _, err := m.SyncFile(dir); err != nil {
		t.Errorf("fsync: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("fsync left %v, %v", left, err)
	}
	if err := m.MakeCgroup(); err != nil {
		t.Errorf("cgroup: %v", err)
	}
	if left := traces(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
