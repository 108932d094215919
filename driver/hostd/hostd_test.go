package hostd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/session/sessiontest"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/wire"
)

func isCode(err error, code hostapi.ErrorCode) bool {
	var e *hostapi.Error
	return errors.As(err, &e) && e.Code == code
}

func TestRunBillDestroy(t *testing.T) {
	r := newRig(t).start()
	req := request(1)
	st, p := r.run(req)
	if st.State != hostapi.StateRunning || st.Pid != p.started.Pid || st.LeaseID == 0 || st.StartedAt.IsZero() ||
		st.Runtime != "/usr/bin/fake" || st.RuntimeRoot != "/run/fake" || st.ContainerID == "" {
		t.Errorf("Start: got %+v", st)
	}
	r.await("a checkpoint's record", func() bool { l, _ := r.srv.Lease(req.ID); return len(l.Accepted) >= 2 })
	r.await("a heartbeat", func() bool { l, _ := r.srv.Lease(req.ID); return l.Beat.GetWallMs() > 0 && l.Beat.GetCpuMs() > 0 })
	if err := r.client.Destroy(t.Context(), req.ID, false); !isCode(err, hostapi.ErrRunning) {
		t.Errorf("Destroy of a running task: got %v, want %q", err, hostapi.ErrRunning)
	}
	if s, err := r.client.Stats(t.Context(), req.ID); err != nil || s.CPUUsec == nil || s.MemoryBytes != nil {
		t.Errorf("Stats: got %+v, %v", s, err)
	}

	p.end(3, 0)
	st, err := r.client.Wait(t.Context(), req.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&hostapi.Exit{Code: 3}, st.Exit); diff != "" || st.State != hostapi.StateExited || st.CompletedAt.IsZero() {
		t.Errorf("Wait: %+v, exit (-want +got):\n%s", st, diff)
	}
	l := r.bill(req)
	if !l.Last().Final || l.Last().Known != wire.KnownWall|wire.KnownCPU|wire.KnownGPU|wire.KnownMemory || l.Last().Quality != 0 || l.Last().Epoch != 1 {
		t.Errorf("final record: got %+v", l.Last())
	}
	r.emptySpool()
	if tasks, err := r.client.Tasks(t.Context()); err != nil || len(tasks) != 1 {
		t.Errorf("Tasks: got %v, %v, want one", tasks, err)
	}
	if err := r.client.Destroy(t.Context(), req.ID, false); err != nil {
		t.Fatal(err)
	}
	if _, err := r.client.Task(t.Context(), req.ID); !isCode(err, hostapi.ErrNotFound) {
		t.Errorf("Task once destroyed: got %v, want %q", err, hostapi.ErrNotFound)
	}
	if left, err := os.ReadDir(filepath.Join(r.cfg.DataDir, tasksDir)); err != nil || len(left) != 0 {
		t.Errorf("tasks directory: got %v, %v, want nothing", left, err)
	}
	if p.cleanups == 0 {
		t.Error("the task was not cleaned up")
	}
}

func TestExactTotals(t *testing.T) {
	r := newRig(t).start()
	// Some end before any checkpoint, some after many.
	for i, wall := range []time.Duration{0, time.Millisecond, 20 * time.Millisecond, 137 * time.Millisecond, 400 * time.Millisecond} {
		req := request(i)
		_, p := r.run(req)
		time.Sleep(wall)
		p.end(0, 0)
		r.wantExact(r.bill(req), p)
	}
}

func TestTwentyTasksAtOnce(t *testing.T) {
	r := newRig(t).start()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			req := request(i)
			if _, err := r.client.Start(t.Context(), req); err != nil {
				t.Errorf("Start: %v", err)
				return
			}
			time.AfterFunc(time.Duration(50+10*i)*time.Millisecond, func() { r.proc(req.ID).end(0, 0) })
			if _, err := r.client.Wait(t.Context(), req.ID); err != nil {
				t.Errorf("Wait: %v", err)
			}
		})
	}
	wg.Wait()
	for i := range 20 {
		r.wantExact(r.bill(request(i)), r.proc(request(i).ID))
	}
	r.emptySpool()
}

func TestStartIsIdempotent(t *testing.T) {
	r := newRig(t)
	r.runner.hang = make(chan struct{})
	r.start()
	req := request(1)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			st, err := r.client.Start(t.Context(), req)
			if err != nil || st.State != hostapi.StateRunning || st.LeaseID != 1 {
				t.Errorf("Start: got %+v, %v", st, err)
			}
		})
	}
	r.await("the launch", func() bool { return r.proc(req.ID) != nil })
	if st, err := r.client.Task(t.Context(), req.ID); err != nil || st.State != hostapi.StateStarting || st.Pid != 0 {
		t.Errorf("Task while starting: got %+v, %v", st, err)
	}
	close(r.runner.hang)
	wg.Wait()
	r.proc(req.ID).end(0, 0)
	if st, err := r.client.Start(t.Context(), req); err != nil || st.LeaseID != 1 {
		t.Errorf("Start again: got %+v, %v", st, err)
	}
	if r.runner.launched != 1 {
		t.Errorf("launched %d times, want once", r.runner.launched)
	}
}

func TestRefusals(t *testing.T) {
	r := newRig(t)
	r.runner.check = nil
	r.start()
	words := `customer "acme" has 0.10 USD, the first 60 s slice of this task needs 0.25 USD`
	r.srv.Set(func(h *sessiontest.Hooks) {
		h.Open = func(req *joulev1.OpenLeaseRequest) error {
			if req.GetTask() == "poor" {
				return sessiontest.Refuse(connect.CodeFailedPrecondition, joulev1.ErrorReason_ERROR_REASON_INSUFFICIENT, words)
			}
			return nil
		}
	})
	poor := request(1)
	poor.Task = "poor"
	for range 2 {
		_, err := r.client.Start(t.Context(), poor)
		if !isCode(err, hostapi.ErrRefused) || err.Error() != words {
			t.Errorf("no funds: got %v, want the server's words", err)
		}
	}
	bad := &hostapi.StartRequest{ID: "x", MemoryMiB: -1}
	_, err := r.client.Start(t.Context(), bad)
	for _, want := range []string{"alloc_id", "task", "invocation", "command", "memory_mib", "-1"} {
		if !isCode(err, hostapi.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("bad request: got %v, want %q named", err, want)
		}
	}
	if _, err := r.client.Task(t.Context(), poor.ID); !isCode(err, hostapi.ErrNotFound) {
		t.Errorf("refused task: got %v, want it not to be listed", err)
	}
	if left, _ := os.ReadDir(filepath.Join(r.cfg.DataDir, tasksDir)); len(left) != 0 {
		t.Errorf("left in the tasks directory: %v", left)
	}
	for name, call := range map[string]func() error{
		"Task":    func() error { _, err := r.client.Task(t.Context(), "a/b/c"); return err },
		"Wait":    func() error { _, err := r.client.Wait(t.Context(), "a/b/c"); return err },
		"Stop":    func() error { _, err := r.client.Stop(t.Context(), "a/b/c", &hostapi.StopRequest{}); return err },
		"Signal":  func() error { return r.client.Signal(t.Context(), "a/b/c", &hostapi.SignalRequest{Signal: "HUP"}) },
		"Stats":   func() error { _, err := r.client.Stats(t.Context(), "a/b/c"); return err },
		"Destroy": func() error { return r.client.Destroy(t.Context(), "a/b/c", true) },
	} {
		if err := call(); !isCode(err, hostapi.ErrNotFound) {
			t.Errorf("%s of an unknown task: got %v, want %q", name, err, hostapi.ErrNotFound)
		}
	}
}

func TestHostRootNeedsTheSuppliersLeave(t *testing.T) {
	r := newRig(t)
	r.cfg.AllowHostRoot = false
	r.start()
	_, err := r.client.Start(t.Context(), request(1))
	if !isCode(err, hostapi.ErrRefused) || !strings.Contains(err.Error(), "allow_host_root") {
		t.Errorf("got %v, want a refusal that names allow_host_root", err)
	}
	if _, ok := r.srv.Lease(request(1).ID); ok {
		t.Error("a lease was opened all the same")
	}
}

func TestUnavailableServer(t *testing.T) {
	r := newRig(t)
	r.openWait = 300 * time.Millisecond
	r.srv.Stop()
	r.start()
	began := time.Now()
	_, err := r.client.Start(t.Context(), request(1))
	if !isCode(err, hostapi.ErrUnavailable) || !strings.Contains(err.Error(), r.srv.URL()) {
		t.Errorf("got %v, want unavailable, naming the server", err)
	}
	if took := time.Since(began); took < r.openWait || took > r.openWait+5*time.Second {
		t.Errorf("took %v", took)
	}
	info, err := r.client.Host(t.Context())
	if err != nil || len(info.Servers) != 1 || info.Servers[0].Connected || info.Servers[0].Error == "" || len(info.Problems) != 0 {
		t.Errorf("Host: got %+v, %v; want the server's error and no problem", info, err)
	}
}

func TestTaskThatCannotStart(t *testing.T) {
	for _, tc := range []struct {
		name  string
		setup func(*fakeRunner)
	}{
		{"the runtime refuses", func(f *fakeRunner) { f.failStart = "exec: \"/nope\": no such file" }},
		{"the shim can't be launched", func(f *fakeRunner) { f.launch = errors.New("no such file") }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			tc.setup(r.runner)
			r.start()
			req := request(1)
			st, err := r.client.Start(t.Context(), req)
			if err != nil || st.State != hostapi.StateExited || st.Pid != 0 || !strings.Contains(st.Exit.Error, "no such file") {
				t.Fatalf("Start: got %+v, %v", st, err)
			}
			r.await("the lease's close", func() bool { return strings.Contains(r.logs.String(), "never ran closed") })
			if l, _ := r.srv.Lease(req.ID); len(l.Accepted) != 0 {
				t.Errorf("billed: %+v", l.Accepted)
			}
			// After a restart it is still the same, and not closed again.
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}
			r.start()
			r.await("the task", func() bool {
				st, err := r.client.Task(t.Context(), req.ID)
				return err == nil && st.State == hostapi.StateExited && st.Pid == 0 && strings.Contains(st.Exit.Error, "no such file")
			})
			if err := r.client.Destroy(t.Context(), req.ID, true); err != nil {
				t.Fatal(err)
			}
			if got := r.srv.Closed(); len(got) != 1 {
				t.Errorf("closed: got %v, want once", got)
			}
		})
	}
}

func TestCloseIsKeptUntilAnswered(t *testing.T) {
	r := newRig(t)
	r.runner.failStart = "no such file"
	unavailable := sessiontest.Refuse(connect.CodeUnavailable, joulev1.ErrorReason_ERROR_REASON_UNAVAILABLE, "no quorum")
	r.srv.Set(func(h *sessiontest.Hooks) { h.Close = func(wire.LeaseID) error { return unavailable } })
	r.start()
	if _, err := r.client.Start(t.Context(), request(1)); err != nil {
		t.Fatal(err)
	}
	if err := r.client.Destroy(t.Context(), request(1).ID, true); err != nil {
		t.Fatal(err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r.srv.Set(func(h *sessiontest.Hooks) { h.Close = nil })
	r.start()
	r.await("the lease's close", func() bool { return cmp.Equal(r.srv.Closed(), []wire.LeaseID{1}) })
}

func TestInfo(t *testing.T) {
	r := newRig(t).start()
	r.run(request(1))
	r.await("a session", func() bool {
		info, err := r.client.Host(t.Context())
		return err == nil && len(info.Servers) == 1 && info.Servers[0].Connected
	})
	info, err := r.client.Host(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.ProtocolVersion != hostapi.Version || info.Host != "h1" || info.Class != "crowd" || info.Cgroup != "hybrid" ||
		!cmp.Equal(info.Runtimes, map[string]string{"fake": "1.0"}) || info.Tasks != 1 || info.Pid != os.Getpid() || info.Servers[0].URL != r.srv.URL() {
		t.Errorf("got %+v", info)
	}
}

func TestSecondHostdIsRefused(t *testing.T) {
	r := newRig(t).start()
	err := run(t.Context(), r.cfg, r.runner, surroundings{openWait: openWait, now: time.Now}, slog.New(slog.DiscardHandler))
	if !errors.Is(err, ErrAlreadyRunning) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("got %v, want ErrAlreadyRunning with the pid", err)
	}
	if _, err := r.client.Host(t.Context()); err != nil {
		t.Errorf("the first one doesn't answer any more: %v", err)
	}
}

func TestWaitEndsWithItsCaller(t *testing.T) {
	r := newRig(t).start()
	r.run(request(1))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.client.Wait(ctx, request(1).ID); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the caller's own deadline", err)
	}
}

func TestNothingIsLeftRunning(t *testing.T) {
	fds := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	cycle := func() {
		t.Run("cycle", func(t *testing.T) {
			r := newRig(t).start()
			_, p := r.run(request(1))
			r.run(request(2))
			p.end(0, 0)
			r.bill(request(1))
			r.client = nil
		})
	}
	cycle() // what is made once and kept
	goroutines, files := runtime.NumGoroutine(), fds()
	for range 3 {
		cycle()
	}
	// Idle connections of the tests' own clients close by and by.
	for range 200 {
		if runtime.NumGoroutine() <= goroutines+4 && fds() <= files+4 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	buf := make([]byte, 1<<20)
	t.Errorf("got %d goroutines and %d files, want %d and %d:\n%s", runtime.NumGoroutine(), fds(), goroutines, files, buf[:runtime.Stack(buf, true)])
}
