package shim

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestParseStat(t *testing.T) {
	const tail = " S 1 2 2 0 -1 4194560 1 0 0 0 3 4 0 0 20 0 1 0 987654 1000 200 18446744073709551615"
	for _, name := range []string{"(sleep)", "(a) b) (c)", "()"} {
		got, err := parseStat([]byte("42 " + name + tail))
		if want := (stat{state: 'S', flags: 4194560, startTime: 987654}); err != nil || got != want {
			t.Errorf("%s: got %+v %v, want %+v", name, got, err, want)
		}
	}
	for _, bad := range []string{"", "42", "42 (x)", "42 (x) S 1", "42 (x" + tail, "42 (x) S 1 2 2 0 -1 x 1 0 0 0 3 4 0 0 20 0 1 0 y 1"} {
		if got, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: got %+v, want an error", bad, got)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("42 (x) S 1 2 2 0 -1 4194560 1 0 0 0 3 4 0 0 20 0 1 0 987654 1000"))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = parseStat(b) })
}

func TestFilesAreWholeOrNotThere(t *testing.T) {
	dir := t.TempDir()
	if _, err := readJSON[Exit](dir, ExitFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want ErrNotExist", err)
	}
	for code := range 3 {
		if err := writeJSON(dir, ExitFile, &Exit{Code: code}); err != nil {
			t.Fatal(err)
		}
		if e, err := readJSON[Exit](dir, ExitFile); err != nil || e.Code != code || e.CPUUsec != nil {
			t.Errorf("got %+v %v, want code %d and unknown CPU", e, err, code)
		}
	}
	if names, _ := filepath.Glob(filepath.Join(dir, ".*")); len(names) > 0 {
		t.Errorf("left %q", names)
	}
	if err := os.WriteFile(filepath.Join(dir, ExitFile), []byte(`{"code":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if e, err := readJSON[Exit](dir, ExitFile); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("a torn file: got %+v %v, want an error", e, err)
	}
	if err := writeJSON(filepath.Join(dir, "none"), ExitFile, &Exit{}); err == nil {
		t.Error("no directory: got no error")
	}
}

func TestIdentity(t *testing.T) {
	self, err := identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	fd, err := openProcess(self)
	if err != nil {
		t.Fatal(err)
	}
	_ = os.NewFile(uintptr(fd), "pidfd").Close()
	if !runs(self) {
		t.Error("we do not run")
	}
	for name, other := range map[string]Process{
		"a later process of the same pid": {Pid: self.Pid, StartTime: self.StartTime + 1, BootID: self.BootID},
		"another boot":                    {Pid: self.Pid, StartTime: self.StartTime, BootID: "x"},
		"no such pid":                     {Pid: 1 << 22, StartTime: 1, BootID: self.BootID},
	} {
		if _, err := openProcess(other); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("%s: got %v, want ErrProcessDone", name, err)
		}
		if name != "another boot" && runs(other) {
			t.Errorf("%s runs", name)
		}
	}
}
