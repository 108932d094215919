package procevent

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/joulecloud/joule/driver/procevent/tracetest"
)

// A child of the test binary that waits for a byte on stdin and then executes
// its arguments: what runc's init does.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "gate" {
		_, _ = os.Stdout.Write([]byte{0}) // our own exec is over
		_, _ = os.Stdin.Read(make([]byte, 1))
		err := unix.Exec(os.Args[2], os.Args[2:], os.Environ())
		println(err.Error())
		os.Exit(255)
	}
	if len(os.Args) > 1 && os.Args[1] == "threads" {
		threads(os.Args[2])
	}
	os.Exit(m.Run())
}

func needRoot(tb testing.TB) {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Skip("needs root")
	}
}

// gated starts a gate and returns the function that opens it.
func gated(tb testing.TB, args ...string) (*exec.Cmd, func()) {
	tb.Helper()
	cmd := exec.Command("/proc/self/exe", append([]string{"gate"}, args...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd, func() { _, _ = in.Write([]byte{0}) }
}

type difference struct{ exec, exit time.Duration }

// watchOnce runs a command and compares the stamps with the observer's.
func watchOnce(tb testing.TB, obs *tracetest.Observer, opt Options, args ...string) (d difference, execSrc, exitSrc Source) {
	tb.Helper()
	cmd, open := gated(tb, args...)
	w, err := Watch(cmd.Process.Pid, opt)
	if err != nil {
		tb.Fatal(err)
	}
	defer w.Close()
	open()
	start, err := w.Exec(5 * time.Second)
	if err != nil {
		tb.Fatalf("exec: %v (missing: %v)", err, w.Missing())
	}
	_ = cmd.Wait()
	end := w.Exit()
	wantExec, wantExit := lastRun(tb, obs, cmd.Process.Pid)
	return difference{
		exec: time.Duration(start.MonoNs - wantExec),
		exit: time.Duration(end.MonoNs - wantExit),
	}, start.Source, end.Source
}

// lastRun is the second exec (after the gate's own) and the last exit.
func lastRun(tb testing.TB, obs *tracetest.Observer, pid int) (execNs, exitNs int64) {
	n := 0
	for _, e := range obs.Events(tb, pid) {
		if e.Exec {
			if n++; n == 2 {
				execNs = e.MonoNs
			}
		} else {
			exitNs = e.MonoNs
		}
	}
	if execNs == 0 || exitNs == 0 {
		tb.Fatalf("the observer saw exec %d and exit %d of pid %d", execNs, exitNs, pid)
	}
	return execNs, exitNs
}

func quantiles(ds []time.Duration) (p50, worst time.Duration) {
	abs := make([]time.Duration, len(ds))
	for i, d := range ds {
		abs[i] = max(d, -d)
	}
	slices.Sort(abs)
	return abs[len(abs)/2], abs[len(abs)-1]
}

// busy keeps n processes spinning until the test ends.
func busy(tb testing.TB, n int) {
	for range n {
		cmd := exec.Command("/bin/sh", "-c", "while :; do :; done")
		if err := cmd.Start(); err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	}
}

func measure(t *testing.T, opt Options, runs int, args ...string) {
	t.Helper()
	obs := tracetest.New(t)
	var execs, exits []time.Duration
	var execSrc, exitSrc Source
	for range runs {
		var d difference
		d, execSrc, exitSrc = watchOnce(t, obs, opt, args...)
		execs, exits = append(execs, d.exec), append(exits, d.exit)
	}
	e50, eMax := quantiles(execs)
	x50, xMax := quantiles(exits)
	t.Logf("%d runs of %v: exec (%s) off by p50 %v max %v; exit (%s) off by p50 %v max %v",
		runs, args, execSrc, e50, eMax, exitSrc, x50, xMax)
	// A run may lose its core between the kernel's two stamps, which lie a µs
	// apart: rarely, so that two in a test are a fault.
	late := 0
	for i := range execs {
		if max(execs[i].Abs(), exits[i].Abs()) > time.Millisecond {
			late++
		}
	}
	if kernel := execSrc == SourceConnector && exitSrc != SourceConnector && exitSrc != SourceClock; kernel && late > max(1, runs/30) {
		t.Errorf("%d of %d runs are off by more than 1 ms", late, runs)
	}
}

func TestStampsMatchTheTracepoints(t *testing.T) {
	needRoot(t)
	measure(t, Options{}, 30, "/bin/sleep", "0.005")
}

func TestStampsMatchTheTracepointsUnderBusyLoops(t *testing.T) {
	needRoot(t)
	busy(t, 4)
	measure(t, Options{}, 15, "/bin/sleep", "0.005")
}

// The fallbacks are measured, not held to the millisecond.
func TestFallbackSourcesUnderBusyLoops(t *testing.T) {
	needRoot(t)
	busy(t, 4)
	for _, tt := range []struct {
		name string
		opt  Options
	}{
		{"taskstats", Options{NoBPF: true}},
		{"connector", Options{NoBPF: true, NoTaskstats: true}},
		{"clock", Options{NoBPF: true, NoTaskstats: true, NoConnector: true}},
	} {
		t.Run(tt.name, func(t *testing.T) { measure(t, tt.opt, 5, "/bin/sleep", "0.005") })
	}
}

func TestDiedBeforeExec(t *testing.T) {
	needRoot(t)
	cmd, open := gated(t, "/nonexistent")
	w, err := Watch(cmd.Process.Pid, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Exec(time.Millisecond); !errors.Is(err, ErrTimeout) {
		t.Fatalf("got %v, want ErrTimeout", err)
	}
	open()
	if _, err := w.Exec(5 * time.Second); !errors.Is(err, ErrDied) {
		t.Fatalf("got %v, want ErrDied", err)
	}
}
