package procevent

import (
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/joulecloud/joule/driver/procevent/tracetest"
)

// The main goroutine of the helper modes stays on the leader thread.
func init() {
	if len(os.Args) > 1 && os.Args[1] == "threads" {
		runtime.LockOSThread()
	}
}

// threads is a task whose leader thread doesn't live or exec as usual.
func threads(mode string) {
	switch mode {
	case "leader-exits-first":
		go func() {
			time.Sleep(40 * time.Millisecond)
			os.Exit(3)
		}()
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0) // this thread only
	case "other-thread-execs":
		go func() {
			runtime.LockOSThread()
			_ = unix.Exec("/bin/sleep", []string{"sleep", "0.03"}, nil)
			os.Exit(9)
		}()
		time.Sleep(time.Minute)
	}
	os.Exit(8)
}

func TestLeaderThreadExitsFirst(t *testing.T) {
	needRoot(t)
	obs := tracetest.New(t)
	cmd, open := gated(t, "/proc/self/exe", "threads", "leader-exits-first")
	w, err := Watch(cmd.Process.Pid, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	open()
	if _, err := w.Exec(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	end, now := w.Exit(), monoNow()
	if got := cmd.ProcessState.ExitCode(); got != 3 {
		t.Fatalf("got exit code %d, want 3", got)
	}
	var leader int64
	for _, e := range obs.Events(t, cmd.Process.Pid) {
		if !e.Exec {
			leader = e.MonoNs
			if e.GroupDead {
				t.Fatal("the leader was the last thread to exit")
			}
		}
	}
	if after := time.Duration(end.MonoNs - leader); after < 30*time.Millisecond {
		t.Errorf("got an exit %v after the leader's, want the last thread's, 40 ms after it", after)
	}
	if ago := time.Duration(now - end.MonoNs); ago < 0 || ago > 30*time.Millisecond {
		t.Errorf("got an exit %v ago, want the last thread's", ago)
	}
	if !end.Kernel() {
		t.Errorf("got source %q, want the kernel's", end.Source)
	}
}

func TestExecByAnotherThread(t *testing.T) {
	needRoot(t)
	obs := tracetest.New(t)
	d, _, src := watchOnce(t, obs, Options{}, "/proc/self/exe", "threads", "other-thread-execs")
	t.Logf("exec off by %v, exit (%s) off by %v", d.exec, src, d.exit)
	if max(d.exec.Abs(), d.exit.Abs()) > time.Millisecond {
		t.Errorf("got exec off by %v, exit off by %v, want within 1 ms", d.exec, d.exit)
	}
}

func TestExitOfAForkingTask(t *testing.T) {
	needRoot(t)
	obs := tracetest.New(t)
	d, _, _ := watchOnce(t, obs, Options{}, "/bin/sh", "-c", "sleep 0.05 & /bin/true; exec /bin/sleep 0.01")
	if max(d.exec.Abs(), d.exit.Abs()) > time.Millisecond {
		t.Errorf("got exec off by %v, exit off by %v, want within 1 ms", d.exec, d.exit)
	}
}

// What 200 listening watchers cost each process that exits on the host.
func BenchmarkExitBeside200Watchers(b *testing.B) {
	needRoot(b)
	for _, tt := range []struct {
		name string
		n    int
		opt  Options
	}{
		{"alone", 0, Options{}},
		{"bpf", 200, Options{NoConnector: true}},
		{"taskstats", 200, Options{NoConnector: true, NoBPF: true}},
	} {
		b.Run(tt.name, func(b *testing.B) {
			for range tt.n {
				w, err := Watch(os.Getpid(), tt.opt)
				if err != nil {
					b.Fatal(err)
				}
				defer w.Close()
				if w.exit == nil {
					b.Skipf("needs an exit source: %v", w.Missing())
				}
			}
			var cpu int64
			for b.Loop() {
				cmd := exec.Command("/bin/true")
				if err := cmd.Run(); err != nil {
					b.Fatal(err)
				}
				cpu += int64(cmd.ProcessState.SystemTime())
			}
			b.ReportMetric(float64(cpu)/float64(b.N), "sys-ns/op")
		})
	}
}
