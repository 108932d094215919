package shim

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/joulecloud/joule/driver/cgroup"
	"github.com/joulecloud/joule/driver/oci"
	"github.com/joulecloud/joule/driver/procevent/tracetest"
)

func TestExitCodes(t *testing.T) {
	e := newEnv(t)
	for _, tt := range []struct {
		name string
		args []string
		code int
	}{
		{"true", []string{"/bin/true"}, 0},
		{"by the host's PATH", []string{"false"}, 1},
		{"exit 7", []string{"/bin/sh", "-c", "exit 7"}, 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, p, exit := e.run(tt.args...)
			if exit.Code != tt.code || exit.Signal != 0 || exit.Error != "" || exit.OOMKilled {
				t.Errorf("got %+v, want code %d", exit, tt.code)
			}
			s := started(t, p)
			if exit.CPUUsec == nil || *exit.CPUUsec < s.CPUBaseUsec || exit.MaxRSSKiB <= 0 {
				t.Errorf("got CPU %v after base %d and %d KiB", exit.CPUUsec, s.CPUBaseUsec, exit.MaxRSSKiB)
			}
			if wall := exit.ExitMonoNs - s.ExecMonoNs; wall <= 0 || exit.ExitWallNs-s.ExecWallNs < wall-int64(time.Millisecond) {
				t.Errorf("got %d ns on the monotonic clock", wall)
			}
			if ago := time.Since(time.Unix(0, s.ExecWallNs)); ago < 0 || ago > time.Minute {
				t.Errorf("got a start %v ago", ago)
			}
			if err := p.Signal(unix.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
				t.Errorf("signal after the end: got %v, want ErrProcessDone", err)
			}
			if _, err := p.Sample(); !errors.Is(err, ErrEnding) {
				t.Errorf("sample after the end: got %v, want ErrEnding", err)
			}
		})
	}
}

func TestCommandsThatCannotStart(t *testing.T) {
	e := newEnv(t)
	for _, tt := range []struct {
		name, command, want string
	}{
		{"not found", "no-such-command", `exec: "no-such-command": executable file not found in $PATH`},
		{"no program", "/local/text", "not a program"},
		{"not executable", "/etc/passwd", "permission denied"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := e.prepare(&oci.Task{Args: []string{tt.command}})
			if err := os.WriteFile(filepath.Join(x.dir, "local", "text"), []byte("\x01\x02"), 0o755); err != nil {
				t.Fatal(err)
			}
			p := x.launch()
			exit := wait(t, p)
			if !strings.Contains(exit.Error, tt.want) || strings.Contains(exit.Error, "runc") {
				t.Errorf("got error %q, want one with %q", exit.Error, tt.want)
			}
			_, err := p.Started(t.Context())
			var start *StartError
			if !errors.As(err, &start) || start.Message != exit.Error {
				t.Errorf("started: got %v, want the same", err)
			}
			if p.Group().Exists() {
				t.Error("the task's cgroup is still there")
			}
		})
	}
}

func TestWhatATaskSees(t *testing.T) {
	e := newEnv(t)
	x := e.prepare(&oci.Task{
		Args: []string{"/bin/sh", "-c", `id -u; pwd; echo $A $PATH; hostname; touch file /tmp/x && echo wrote; touch /usr/x /x || echo refused; ps ax | wc -l; echo warn >&2; cat /etc/shadow; ls /sys/fs`},
		Env:  map[string]string{"A": "b c"}, Hostname: "inside", MemoryBytes: 64 << 20, CPUShares: 512,
	})
	p := x.launch()
	exit := wait(t, p)
	out, errs := read(t, x.stdout), read(t, x.stderr)
	want := "65534\n/local\nb c /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\ninside\nwrote\nrefused\n"
	if !strings.HasPrefix(out, want) || exit.Code != 0 {
		t.Errorf("got code %d, output %q, want it to begin with %q", exit.Code, out, want)
	}
	if !strings.Contains(errs, "warn\n") || strings.Contains(out, "root:") {
		t.Errorf("got output %q and errors %q", out, errs)
	}
}

func TestSignals(t *testing.T) {
	e := newEnv(t)
	x := e.prepare(&oci.Task{Args: []string{"/bin/sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done"}})
	p := x.launch()
	started(t, p)
	_ = x.stdout.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := x.stdout.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Exit(); !errors.Is(err, ErrRunning) {
		t.Errorf("exit of a running task: got %v, want ErrRunning", err)
	}
	if err := p.Cleanup(t.Context()); !errors.Is(err, ErrRunning) {
		t.Errorf("clean up a running task: got %v, want ErrRunning", err)
	}
	if s, err := p.Sample(); err != nil || s.CPUUsec == nil || s.MonoNs == 0 {
		t.Errorf("sample: got %+v %v", s, err)
	}
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, p); exit.Code != 3 || exit.Signal != 0 {
		t.Errorf("got %+v, want code 3", exit)
	}
}

func TestKillOfAForkTree(t *testing.T) {
	e := newEnv(t)
	x := e.prepare(&oci.Task{Args: []string{"/bin/sh", "-c", "for i in 1 2 3; do (sleep 60 & setsid sleep 60 & wait) & done; echo ready; wait"}})
	p := x.launch()
	started(t, p)
	_ = x.stdout.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := x.stdout.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, p); exit.Signal != int(unix.SIGKILL) || exit.Code != 137 {
		t.Errorf("got %+v, want signal 9 and code 137", exit)
	}
	if pids, err := cgroup.Pids(x.spec.CgroupCPU); err != nil || len(pids) > 0 {
		t.Errorf("got processes %v left (%v)", pids, err)
	}
}

func TestOutOfMemory(t *testing.T) {
	e := newEnv(t)
	x := e.prepare(&oci.Task{Args: []string{"tail", "/dev/zero"}, MemoryBytes: 24 << 20})
	p := x.launch()
	exit := wait(t, p)
	if !exit.OOMKilled || exit.Signal != int(unix.SIGKILL) {
		t.Errorf("got %+v, want an OOM kill", exit)
	}
}

func TestFIFOs(t *testing.T) {
	e := newEnv(t)
	t.Run("a symbolic link in a fifo's place is refused", func(t *testing.T) {
		x := e.prepare(&oci.Task{Args: []string{"/bin/true"}})
		victim := filepath.Join(e.dir, "victim")
		err := errors.Join(os.WriteFile(victim, nil, 0o600), os.Remove(x.spec.StdoutPath), os.Symlink(victim, x.spec.StdoutPath))
		if err != nil {
			t.Fatal(err)
		}
		if exit := wait(t, x.launch()); !strings.Contains(exit.Error, "stdout.fifo") {
			t.Errorf("got %+v, want an error that names the fifo", exit)
		}
	})
	t.Run("a file in a fifo's place is refused", func(t *testing.T) {
		x := e.prepare(&oci.Task{Args: []string{"/bin/true"}})
		err := errors.Join(os.Remove(x.spec.StderrPath), os.WriteFile(x.spec.StderrPath, nil, 0o600))
		if err != nil {
			t.Fatal(err)
		}
		if exit := wait(t, x.launch()); !strings.Contains(exit.Error, "no fifo") {
			t.Errorf("got %+v, want an error", exit)
		}
	})
	t.Run("a task outlives its readers and is heard by the next", func(t *testing.T) {
		x := e.prepare(&oci.Task{Args: []string{"/bin/sh", "-c", "echo one; read x </local/go; echo two; exit 4"}})
		if err := unix.Mkfifo(filepath.Join(x.dir, "local", "go"), 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(x.dir, "local", "go"), 0o666); err != nil {
			t.Fatal(err)
		}
		p := x.launch()
		started(t, p)
		_, _ = x.stdout.Close(), x.stderr.Close()
		if err := os.WriteFile(filepath.Join(x.dir, "local", "go"), []byte("\n"), 0); err != nil {
			t.Fatal(err)
		}
		r, err := os.OpenFile(x.spec.StdoutPath, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if exit := wait(t, p); exit.Code != 4 {
			t.Errorf("got %+v, want code 4", exit)
		}
		if out := read(t, r); out != "one\ntwo\n" && out != "two\n" && out != "" {
			t.Errorf("got output %q", out)
		}
	})
}

func TestLaunchTwice(t *testing.T) {
	e := newEnv(t)
	x, _, _ := e.run("/bin/true")
	if _, err := Launch(t.Context(), e.as("joule-shim"), x.dir, x.spec); !errors.Is(err, os.ErrExist) {
		t.Errorf("got %v, want ErrExist", err)
	}
	if _, err := Attach(t.TempDir()); !errors.Is(err, ErrNotLaunched) {
		t.Errorf("got %v, want ErrNotLaunched", err)
	}
}

func TestAttachToAnotherBoot(t *testing.T) {
	e := newEnv(t)
	x := e.prepare(&oci.Task{Args: []string{"/bin/sleep", "30"}})
	p := x.launch()
	started(t, p)
	other := t.TempDir()
	mark := p.shim
	mark.BootID = "another"
	if err := errors.Join(writeJSON(other, ProcessFile, mark), writeJSON(other, SpecFile, x.spec)); err != nil {
		t.Fatal(err)
	}
	q, err := Attach(other)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-q.Done():
	default:
		t.Error("a shim of another boot is not done")
	}
	if _, err := q.Exit(); !errors.Is(err, ErrNoExit) {
		t.Errorf("got %v, want ErrNoExit", err)
	}
}

// A parent that dies takes neither shim nor task with it.
func TestParentIsKilled(t *testing.T) {
	e := newEnv(t)
	obs := tracetest.New(t)
	x := e.prepare(&oci.Task{Args: []string{"/bin/sleep", "0.4"}})
	if err := writeJSON(x.dir, "launch.json", x.spec); err != nil {
		t.Fatal(err)
	}
	parent := exec.Command(e.as("launcher"), e.as("joule-shim"), x.dir)
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64)
	n, _ := out.Read(b)
	if got := string(b[:n]); got != "<nil>\n" {
		t.Fatalf("launch: %s", got)
	}
	p, err := Attach(x.dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cleanup(t, p) })
	s := started(t, p)
	_ = parent.Process.Kill()
	_ = parent.Wait()
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGHUP} {
		if err := unix.Kill(p.shim.Pid, sig); err != nil {
			t.Fatal(err)
		}
	}
	exit := wait(t, p)
	if exit.Code != 0 || exit.Error != "" {
		t.Errorf("got %+v, want code 0", exit)
	}
	within(t, obs, s, exit)
}

// A shim that is killed leaves the task, which can be killed and cleaned up.
func TestShimIsKilled(t *testing.T) {
	e := newEnv(t)
	x := e.prepare(&oci.Task{Args: []string{"/bin/sleep", "60"}})
	p := x.launch()
	s := started(t, p)
	if err := unix.Kill(p.shim.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if _, err := p.Exit(); !errors.Is(err, ErrNoExit) {
		t.Errorf("got %v, want ErrNoExit", err)
	}
	if got, err := p.Started(t.Context()); err != nil || got.Pid != s.Pid {
		t.Errorf("started: got %+v %v", got, err)
	}
	if _, err := p.Sample(); err != nil {
		t.Errorf("the task is still metered: got %v", err)
	}
	q, err := Attach(x.dir)
	if err != nil {
		t.Fatal(err)
	}
	<-q.Done()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := q.Cleanup(ctx); err != nil {
		t.Fatal(err)
	}
	if st, err := readStat(strconv.Itoa(s.Pid)); err == nil && st.startTime == s.StartTime && st.state != 'Z' {
		t.Errorf("the task is still alive, in state %c", st.state)
	}
}

// wallDifference is how far the stamps' wall time is from the observer's.
func wallDifference(tb testing.TB, obs *tracetest.Observer, s *Started, exit *Exit) time.Duration {
	tb.Helper()
	execNs, exitNs := obs.Run(tb, s.Pid)
	if execNs == 0 || exitNs == 0 {
		tb.Fatalf("the observer saw exec %d and exit %d", execNs, exitNs)
	}
	return time.Duration((exit.ExitMonoNs - s.ExecMonoNs) - (exitNs - execNs))
}

// within holds a task's wall time to 1 ms of the observer's.
//
// The exit's stamp is taken at the observer's own tracepoint. The exec's is
// taken 1 µs after it, where a timer tick can take the core away for
// milliseconds: about one start in ten thousand on a loaded machine. Such a run
// is told by its exec stamp, which no other fault makes late, and is logged.
func within(tb testing.TB, obs *tracetest.Observer, s *Started, exit *Exit) {
	tb.Helper()
	if !s.ExecStamped || !exit.ExitStamped {
		tb.Logf("stamps are by our own clock: exec %v exit %v", s.ExecStamped, exit.ExitStamped)
		return
	}
	d := wallDifference(tb, obs, s, exit)
	tb.Logf("wall %v, off by %v", time.Duration(exit.ExitMonoNs-s.ExecMonoNs), d)
	execNs, _ := obs.Run(tb, s.Pid)
	if late := time.Duration(s.ExecMonoNs - execNs); late > time.Millisecond && (d+late).Abs() < time.Millisecond {
		tb.Logf("the exec lost its core for %v between the two stamps", late)
		return
	}
	if d.Abs() > time.Millisecond {
		tb.Errorf("got a wall time %v off the observer's, want within 1 ms", d)
	}
}

func TestWallTimeIsTheObservers(t *testing.T) {
	e := newEnv(t)
	obs := tracetest.New(t)
	for _, args := range [][]string{{"/bin/true"}, {"/bin/sleep", "0.137"}, {"/bin/sh", "-c", "sleep 5 & sleep 0.02"}} {
		_, p, exit := e.run(args...)
		within(t, obs, started(t, p), exit)
	}
}

func TestWallTimeIsTheObserversUnderBusyLoops(t *testing.T) {
	e := newEnv(t)
	obs := tracetest.New(t)
	for range 2 {
		cmd := exec.Command("/bin/sh", "-c", "while :; do :; done")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	}
	for range 3 {
		_, p, exit := e.run("/bin/sleep", "0.05")
		within(t, obs, started(t, p), exit)
	}
}

// What a task is billed is what its processes used from the exec on.
func TestCPUIsTheTasksOwn(t *testing.T) {
	e := newEnv(t)
	x := e.prepare(&oci.Task{Args: []string{"/bin/sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"}})
	if err := writeJSON(x.dir, SpecFile, x.spec); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(e.as("cpuprobe"), x.dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := oci.RemoveBundle(x.spec.Bundle); err != nil {
		t.Error(err)
	}
	var p probe
	if err := json.Unmarshal(out, &p); err != nil {
		t.Fatal(err)
	}
	billed := time.Duration(p.FinalUsec-p.BaseUsec) * time.Microsecond
	used := time.Duration(p.FinalNs - p.BaseNs)
	t.Logf("billed %v, used %v by rusage less the CPU clock before the exec: off by %v", billed, used, billed-used)
	if d := billed - used; d.Abs() > time.Millisecond {
		t.Errorf("got %v billed, want %v within 1 ms", billed, used)
	}
}

// A command run beside the task is in its namespaces and its cgroup.
func TestExecBesideATask(t *testing.T) {
	e := newEnv(t)
	x := e.prepare(&oci.Task{Args: []string{"/bin/sleep", "60"}, Hostname: "inside"})
	p := x.launch()
	started(t, p)
	args := oci.NewRunc(x.spec.Runtime, x.spec.RuntimeRoot).ExecArgs(x.spec.ContainerID,
		oci.ExecOptions{Args: []string{"/bin/sh", "-c", "hostname; id -u; cat /proc/1/comm; wc -l <$0", "/proc/self/cgroup"}})
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if want := "inside\n65534\nsleep\n"; err != nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("got %q %v, want it to begin with %q", out, err, want)
	}
	beside := exec.Command(args[0], append(args[1:len(args)-4], "/bin/sleep", "60")...)
	if err := beside.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = beside.Wait() }()
	for pids := []int(nil); len(pids) < 2; {
		if pids, err = cgroup.Pids(x.spec.CgroupCPU); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	wait(t, p)
}
