package main

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// NVIDIA's symbols are unresolved until its library is loaded: a program bound
// at its start would not start at all. Built as the Makefile builds it.
func TestLazyBinding(t *testing.T) {
	if testing.Short() {
		t.Skip("needs to link the probe")
	}
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("needs gcc")
	}
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	var ldflags string
	for line := range strings.Lines(string(makefile)) {
		if rest, ok := strings.CutPrefix(line, "PROBE_LDFLAGS := "); ok {
			ldflags = strings.TrimSpace(rest)
		}
	}
	if ldflags == "" {
		t.Fatal("the Makefile has no PROBE_LDFLAGS")
	}
	bin := filepath.Join(t.TempDir(), "joule-gpu-probe")
	build := exec.Command("go", "build", "-ldflags", ldflags, "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	f, err := elf.Open(bin)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for tag, now := range map[elf.DynTag]uint64{elf.DT_FLAGS: uint64(elf.DF_BIND_NOW), elf.DT_FLAGS_1: uint64(elf.DF_1_NOW)} {
		values, err := f.DynValue(tag)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range values {
			if v&now != 0 {
				t.Errorf("%v has the flag that binds at the start: %#x", tag, v)
			}
		}
	}
	if out, err := exec.Command(bin).CombinedOutput(); err == nil || !strings.Contains(string(out), "usage") {
		t.Errorf("run by hand: got %v, %q, want its usage", err, out)
	}
}
