// Package nvmlstub builds a stand-in for NVIDIA's management library, for tests
// on machines without a GPU. It is a shared object, loaded by the real loader.
//
// A file tells it what to say, a line each:
//
//	driver VERSION
//	gpu UUID MODEL                          a GPU, in the order of the lines
//	mem UUID TOTAL USED                     MiB
//	mig UUID 0|1                            whether it is divided
//	slice UUID MIG-UUID GI CI               a MIG device of it, with its slices
//	energy UUID MILLIJOULES
//	sample UUID MICROSECONDS PERCENT        a utilisation sample
//	nosamples UUID                          samples are not supported
//	process UUID PID MIB                    a process with a compute context
//	accounting UUID 0|1                     accounting mode
//	account UUID PID TIME_MS START_US 0|1   an account; 1: it still runs
//	lost UUID                               it has fallen off the bus
//	hang|crash FUNCTION                     what a call of it does
//	fail FUNCTION CODE                      what it returns
//
// What has no line is not supported. A MIG device has no samples.
package nvmlstub

import (
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

//go:embed testdata/stub.c
var source []byte

const (
	library = "libnvidia-ml.so.1"
	script  = "stub.txt"
)

// Stub is a built library.
type Stub struct {
	tb   testing.TB
	dir  string
	Path string // of the library
}

// Build builds the library in a directory of the test's own. old leaves out
// the functions that NVIDIA added later. It skips the test where there is no C
// compiler.
func Build(tb testing.TB, old bool) *Stub {
	tb.Helper()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		tb.Skip("needs gcc to build the stub of NVIDIA's library")
	}
	dir := tb.TempDir()
	s := &Stub{tb: tb, dir: dir, Path: filepath.Join(dir, library)}
	builds.Lock()
	defer builds.Unlock()
	if builds.done[old] == nil {
		build(tb, gcc, s.Path, old)
		if builds.done[old], err = os.ReadFile(s.Path); err != nil {
			tb.Fatal(err)
		}
	} else if err := os.WriteFile(s.Path, builds.done[old], 0o755); err != nil {
		tb.Fatal(err)
	}
	s.Set()
	return s
}

// builds are the libraries that this process has built.
var builds = struct {
	sync.Mutex
	done map[bool][]byte
}{done: map[bool][]byte{}}

func build(tb testing.TB, gcc, path string, old bool) {
	tb.Helper()
	src := filepath.Join(filepath.Dir(path), "stub.c")
	if err := os.WriteFile(src, source, 0o600); err != nil {
		tb.Fatal(err)
	}
	list, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/NVIDIA/go-nvml").Output()
	if err != nil {
		tb.Fatalf("find nvml.h: %v", err)
	}
	args := []string{"-shared", "-fPIC", "-O1", "-Wall", "-DNVML_NO_UNVERSIONED_FUNC_DEFS=1",
		"-I", filepath.Join(strings.TrimSpace(string(list)), "pkg", "nvml"), "-Wl,-soname," + library, "-o", path, src}
	if old {
		args = append([]string{"-DOLD"}, args...)
	}
	if out, err := exec.Command(gcc, append(args, "-ldl", "-lpthread")...).CombinedOutput(); err != nil {
		tb.Fatalf("build the stub: %v\n%s", err, out)
	}
}

// Set replaces what the library says from its next call on.
func (s *Stub) Set(lines ...string) {
	s.tb.Helper()
	path := filepath.Join(s.dir, script)
	if err := os.WriteFile(path+".new", []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		s.tb.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		s.tb.Fatal(err)
	}
}
