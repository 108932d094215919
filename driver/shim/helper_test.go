package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/joulecloud/joule/driver/cgroup"
	"github.com/joulecloud/joule/driver/oci"
)

// The test binary is the shim, too, and the processes that tests need outside.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "joule-shim":
		os.Exit(Main(os.Args[1]))
	case "launcher": // launches what the spec says and stays
		spec, err := readJSON[Spec](os.Args[2], "launch.json")
		if err == nil {
			_, err = Launch(context.Background(), os.Args[1], os.Args[2], spec)
		}
		fmt.Println(err)
		time.Sleep(time.Minute)
		os.Exit(0)
	case "cpuprobe":
		os.Exit(cpuProbe(os.Args[1]))
	}
	os.Exit(m.Run())
}

var counter atomic.Int64

// env is a place where tasks can run.
type env struct {
	tb      testing.TB
	dir     string
	runtime string
	host    *cgroup.Host
}

func newEnv(tb testing.TB) *env {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Skip("needs root")
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		runc, err = filepath.Abs("../../build/bin/runc")
		if _, serr := os.Stat(runc); err != nil || serr != nil {
			tb.Skip("needs runc")
		}
	}
	host, err := cgroup.Detect(cgroup.DefaultRoot)
	if err != nil {
		tb.Skipf("needs cgroups: %v", err)
	}
	e := &env{tb: tb, dir: tb.TempDir(), runtime: runc, host: host}
	tb.Cleanup(host.Tidy)
	tb.Cleanup(func() { e.checkLeftovers() })
	return e
}

// as links the test binary under a name that makes it another program.
func (e *env) as(name string) string {
	self, err := os.Executable()
	if err != nil {
		e.tb.Fatal(err)
	}
	path := filepath.Join(e.dir, name)
	if err := os.Symlink(self, path); err != nil && !errors.Is(err, os.ErrExist) {
		e.tb.Fatal(err)
	}
	return path
}

// task is a task that was prepared.
type task struct {
	env    *env
	dir    string
	spec   *Spec
	stdout *os.File // what it writes
	stderr *os.File
}

// prepare writes a bundle and makes the log FIFOs.
func (e *env) prepare(t *oci.Task) *task {
	e.tb.Helper()
	id := fmt.Sprintf("test-%d-%d", os.Getpid(), counter.Add(1))
	group, err := e.host.Group(id)
	if err != nil {
		e.tb.Fatal(err)
	}
	dir := filepath.Join(e.dir, id)
	local := filepath.Join(dir, "local")
	if err := os.MkdirAll(local, 0o777); err != nil {
		e.tb.Fatal(err)
	}
	if err := os.Chmod(local, 0o777); err != nil {
		e.tb.Fatal(err)
	}
	t.CgroupPath = group.OCIPath()
	t.Mounts = append(t.Mounts, oci.Mount{Source: local, Target: "/local"})
	x := &task{env: e, dir: dir, spec: &Spec{
		ContainerID: id, Runtime: e.runtime, RuntimeRoot: filepath.Join(e.dir, "runtime"),
		Bundle: filepath.Join(dir, BundleDir), CgroupCPU: group.CPUDir(),
		StdoutPath: filepath.Join(dir, "stdout.fifo"), StderrPath: filepath.Join(dir, "stderr.fifo"),
	}}
	if err := (oci.Host{Root: "/"}).WriteBundle(x.spec.Bundle, t); err != nil {
		e.tb.Fatal(err)
	}
	for path, f := range map[string]**os.File{x.spec.StdoutPath: &x.stdout, x.spec.StderrPath: &x.stderr} {
		if err := unix.Mkfifo(path, 0o600); err != nil {
			e.tb.Fatal(err)
		}
		r, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			e.tb.Fatal(err)
		}
		e.tb.Cleanup(func() { _ = r.Close() })
		*f = r
	}
	return x
}

func (x *task) launch() *Proc {
	x.env.tb.Helper()
	p, err := Launch(x.env.tb.Context(), x.env.as("joule-shim"), x.dir, x.spec)
	if err != nil {
		x.env.tb.Fatal(err)
	}
	x.env.tb.Cleanup(func() { cleanup(x.env.tb, p) })
	return p
}

// run launches a command and waits for its end.
func (e *env) run(args ...string) (*task, *Proc, *Exit) {
	e.tb.Helper()
	x := e.prepare(&oci.Task{Args: args})
	p := x.launch()
	return x, p, wait(e.tb, p)
}

func wait(tb testing.TB, p *Proc) *Exit {
	tb.Helper()
	select {
	case <-p.Done():
	case <-time.After(20 * time.Second):
		tb.Fatalf("the shim has not ended; its log:\n%s", shimLog(p))
	}
	e, err := p.Exit()
	if err != nil {
		tb.Fatalf("exit: %v; the shim's log:\n%s", err, shimLog(p))
	}
	return e
}

func started(tb testing.TB, p *Proc) *Started {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 20*time.Second)
	defer cancel()
	s, err := p.Started(ctx)
	if err != nil {
		tb.Fatalf("started: %v; the shim's log:\n%s", err, shimLog(p))
	}
	return s
}

func shimLog(p *Proc) []byte {
	b, _ := os.ReadFile(filepath.Join(p.dir, LogFile))
	return b
}

func cleanup(tb testing.TB, p *Proc) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := p.Kill(); err != nil {
		tb.Error(err)
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		tb.Fatal("the shim does not end")
	}
	for range 2 { // again is no error
		if err := p.Cleanup(ctx); err != nil {
			tb.Errorf("clean up: %v", err)
		}
	}
}

// read returns what there is in a FIFO.
func read(tb testing.TB, f *os.File) string {
	tb.Helper()
	_ = f.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	b, err := io.ReadAll(f)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		tb.Fatal(err)
	}
	return string(b)
}

// checkLeftovers fails the test where a task left a cgroup, a mount or a
// process behind.
func (e *env) checkLeftovers() {
	prefix := fmt.Sprintf("test-%d-", os.Getpid())
	left, _ := filepath.Glob(cgroup.DefaultRoot + "/*/joule/" + prefix + "*")
	left2, _ := filepath.Glob(cgroup.DefaultRoot + "/joule/" + prefix + "*")
	for _, dir := range append(left, left2...) {
		e.tb.Errorf("left cgroup %s", dir)
	}
	if b, err := os.ReadFile("/proc/self/mountinfo"); err == nil && bytes.Contains(b, []byte(e.dir+"/")) {
		e.tb.Errorf("left a mount below %s", e.dir)
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range procs {
		if b, err := os.ReadFile(path); err == nil && bytes.Contains(b, []byte(e.dir+"/")) {
			e.tb.Errorf("left process %s: %q", strings.Split(path, "/")[2], b)
		}
	}
}

// probe is what cpuprobe measures.
type probe struct {
	BaseUsec, FinalUsec uint64 // the cgroup's
	BaseNs, FinalNs     int64  // the first process's, by its CPU clock and by rusage
}

// cpuProbe is a shim that reads the first process's own CPU clock where a shim
// reads the base, and rusage at its end.
func cpuProbe(dir string) int {
	p, err := func() (*probe, error) {
		s, err := open(dir, nil)
		if err != nil {
			return nil, err
		}
		defer s.close()
		pid, err := s.create()
		if err != nil {
			return nil, err
		}
		cpu, err := cgroup.OpenCPU(s.spec.CgroupCPU)
		if err != nil {
			return nil, err
		}
		settle(pid)
		base, err := cpu.Read()
		if err != nil {
			return nil, err
		}
		var ts unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil { // CPUCLOCK_SCHED of the process
			return nil, err
		}
		if _, err := s.start(pid); err != nil {
			return nil, err
		}
		_, ru, err := reap(pid)
		if err != nil {
			return nil, err
		}
		final, err := cpu.Read()
		if err != nil {
			return nil, err
		}
		s.undo()
		return &probe{base.UsageUsec, final.UsageUsec, ts.Nano(), ru.Utime.Nano() + ru.Stime.Nano()}, nil
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_ = json.NewEncoder(os.Stdout).Encode(p)
	return 0
}
