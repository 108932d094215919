package plugin

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/fsisolation"

	"github.com/joulecloud/joule/driver/hostapi"
)

func TestCapabilitiesOverTheWire(t *testing.T) {
	r := newRig(t)
	caps, err := r.Capabilities()
	if err != nil {
		t.Fatal(err)
	}
	if !caps.SendSignals || !caps.Exec || caps.FSIsolation != fsisolation.Image {
		t.Errorf("got %+v, want signals, exec and image isolation", caps)
	}
	if !caps.HasNetIsolationMode(drivers.NetIsolationModeHost) || !caps.HasNetIsolationMode(drivers.NetIsolationModeGroup) {
		t.Errorf("got network modes %v, want host and group", caps.NetIsolationModes)
	}
	info, err := r.PluginInfo()
	if err != nil || info.Name != "joule" {
		t.Errorf("got %+v, %v, want name joule", info, err)
	}
}

// A task from start to oblivion, in real directories with real log FIFOs.
func TestTaskLife(t *testing.T) {
	r := newRig(t)
	cfg := task(t, TaskConfig{Command: "/bin/sh", Args: []string{"-c", `echo "$NOMAD_TASK_DIR $NOMAD_SECRETS_DIR $NOMAD_ALLOC_DIR"; pwd; read x < /dev/null; exit 7`}})
	r.harness(t, cfg, true)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	events, err := r.TaskEvents(ctx)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond) // the stream's call has no answer by which to know that it arrived

	handle, network, err := r.StartTask(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if network != nil || handle.Config.ID != cfg.ID || handle.Version != handleVersion || handle.State != drivers.TaskStateRunning {
		t.Errorf("got handle %+v and network %v", handle, network)
	}
	ev := within(t, 5*time.Second, events, "task event")
	if ev.TaskID != cfg.ID || ev.AllocID != cfg.AllocID || ev.TaskName != cfg.Name || ev.Message != "Lease 13 opened" || ev.Annotations["lease_id"] != "13" {
		t.Errorf("got event %+v", ev)
	}

	// Several waiters, and one that comes too late.
	var waits []<-chan *drivers.ExitResult
	for range 3 {
		ch, err := r.WaitTask(ctx, cfg.ID)
		if err != nil {
			t.Fatal(err)
		}
		waits = append(waits, ch)
	}
	for i, ch := range waits {
		if x := within(t, 5*time.Second, ch, "exit"); x.ExitCode != 7 || x.Signal != 0 || x.Err != nil {
			t.Errorf("waiter %d: got %+v, want exit code 7", i, x)
		}
	}
	late, err := r.WaitTask(ctx, cfg.ID)
	if err != nil {
		t.Fatal(err)
	}
	if x := within(t, time.Second, late, "late wait"); x.ExitCode != 7 {
		t.Errorf("late: got %+v, want exit code 7", x)
	}
	st, err := r.InspectTask(cfg.ID)
	if err != nil || st.State != drivers.TaskStateExited || st.ExitResult.ExitCode != 7 || st.CompletedAt.IsZero() || st.Name != "sleep" || st.DriverAttributes["lease_id"] != "13" {
		t.Errorf("got %+v, %v", st, err)
	}
	out := filepath.Join(cfg.TaskDir().LogDir, "sleep.stdout.0")
	want := "/local /secrets /alloc\n" + cfg.TaskDir().LocalDir + "\n"
	eventually(t, "log", func() bool { b, _ := os.ReadFile(out); return string(b) == want })

	if err := r.DestroyTask(cfg.ID, false); err != nil {
		t.Errorf("destroy: %v", err)
	}
	// In process, because gRPC keeps only the text of the sentinel.
	if err := r.d.DestroyTask(cfg.ID, false); err != drivers.ErrTaskNotFound {
		t.Errorf("destroy again: got %v, want %v", err, drivers.ErrTaskNotFound)
	}
	if _, err := r.d.InspectTask(cfg.ID); err != drivers.ErrTaskNotFound {
		t.Errorf("inspect: got %v, want %v", err, drivers.ErrTaskNotFound)
	}
	if _, err := r.d.WaitTask(ctx, cfg.ID); err != drivers.ErrTaskNotFound {
		t.Errorf("wait: got %v, want %v", err, drivers.ErrTaskNotFound)
	}
	if _, err := r.d.TaskStats(ctx, cfg.ID, time.Second); err != drivers.ErrTaskNotFound {
		t.Errorf("stats: got %v, want %v", err, drivers.ErrTaskNotFound)
	}
	if err := r.d.StopTask(cfg.ID, time.Second, ""); err != drivers.ErrTaskNotFound {
		t.Errorf("stop: got %v, want %v", err, drivers.ErrTaskNotFound)
	}
	if err := r.d.SignalTask(cfg.ID, "SIGINT"); err != drivers.ErrTaskNotFound {
		t.Errorf("signal: got %v, want %v", err, drivers.ErrTaskNotFound)
	}
}

func TestWaitHonoursItsContext(t *testing.T) {
	r := newRig(t)
	cfg, _ := r.start(t, "/bin/sleep", "60")
	ctx, cancel := context.WithCancel(t.Context())
	ch, err := r.d.WaitTask(ctx, cfg.ID)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	// Neither a result nor a closed channel: either would be taken for the
	// task's end.
	select {
	case x, ok := <-ch:
		t.Errorf("got %+v (open: %t), want nothing", x, ok)
	case <-time.After(200 * time.Millisecond):
	}
	if st, err := r.InspectTask(cfg.ID); err != nil || st.State != drivers.TaskStateRunning {
		t.Errorf("got %+v, %v, want it running", st, err)
	}
}

func TestStopPassesSignalAndTimeoutOn(t *testing.T) {
	r := newRig(t)
	cfg, _ := r.start(t, "/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.01; done")
	time.Sleep(100 * time.Millisecond) // for the trap
	began := time.Now()
	if err := r.StopTask(cfg.ID, 300*time.Millisecond, "SIGTERM"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 300*time.Millisecond || took > 3*time.Second {
		t.Errorf("took %v, want the 300 ms that the task did not use", took)
	}
	st, err := r.InspectTask(cfg.ID)
	if err != nil || st.ExitResult.Signal != 9 || st.ExitResult.ExitCode != 137 {
		t.Errorf("got %+v, %v, want signal 9", st, err)
	}
	cfg, _ = r.start(t, "/bin/sh", "-c", "trap 'exit 3' INT; while :; do sleep 0.01; done")
	time.Sleep(100 * time.Millisecond)
	if err := r.StopTask(cfg.ID, time.Minute, "SIGINT"); err != nil {
		t.Fatal(err)
	}
	if st, err = r.InspectTask(cfg.ID); err != nil || st.ExitResult.ExitCode != 3 {
		t.Errorf("got %+v, %v, want exit code 3", st, err)
	}
	// An exited task is stopped; no signal is hostd's default.
	if err := r.StopTask(cfg.ID, 1500*time.Millisecond, ""); err != nil {
		t.Errorf("stop again: %v", err)
	}
	calls := r.fake.callsOf("POST tasks/stop")
	for i, want := range []hostapi.StopRequest{{Signal: "SIGTERM", TimeoutMs: 300}, {Signal: "SIGINT", TimeoutMs: 60000}, {Signal: "", TimeoutMs: 1500}} {
		var got hostapi.StopRequest
		if err := json.Unmarshal([]byte(strings.TrimPrefix(calls[i], "POST tasks/stop ")), &got); err != nil || got != want {
			t.Errorf("call %d: got %+v, %v, want %+v", i, got, err, want)
		}
	}
}

func TestDestroyRefusesARunningTask(t *testing.T) {
	r := newRig(t)
	cfg, _ := r.start(t, "/bin/sleep", "60")
	if err := r.DestroyTask(cfg.ID, false); err == nil || !strings.Contains(err.Error(), "still running, and force is not set") {
		t.Errorf("got %v, want a refusal", err)
	}
	if st, err := r.InspectTask(cfg.ID); err != nil || st.State != drivers.TaskStateRunning {
		t.Errorf("got %+v, %v, want it running still", st, err)
	}
	ch, err := r.WaitTask(t.Context(), cfg.ID)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "hostd is asked", func() bool { r.fake.mu.Lock(); defer r.fake.mu.Unlock(); return r.fake.waits == 1 })
	if err := r.DestroyTask(cfg.ID, true); err != nil {
		t.Fatal(err)
	}
	if x := within(t, 5*time.Second, ch, "exit"); x.Signal != 9 {
		t.Errorf("got %+v, want signal 9", x)
	}
}

func TestSignal(t *testing.T) {
	r := newRig(t)
	cfg, _ := r.start(t, "/bin/sh", "-c", "trap 'exit 5' USR1; while :; do sleep 0.01; done")
	time.Sleep(100 * time.Millisecond)
	if err := r.SignalTask(cfg.ID, "BOGUS"); err == nil || !strings.Contains(err.Error(), `signal: unknown "BOGUS"`) {
		t.Errorf("got %v, want hostd's own words", err)
	}
	if err := r.SignalTask(cfg.ID, "SIGUSR1"); err != nil {
		t.Fatal(err)
	}
	ch, _ := r.WaitTask(t.Context(), cfg.ID)
	if x := within(t, 5*time.Second, ch, "exit"); x.ExitCode != 5 {
		t.Errorf("got %+v, want exit code 5", x)
	}
}

func TestExitResult(t *testing.T) {
	for name, tt := range map[string]struct {
		exit *hostapi.Exit
		want drivers.ExitResult
		err  string
	}{
		"code":    {&hostapi.Exit{Code: 3}, drivers.ExitResult{ExitCode: 3}, ""},
		"signal":  {&hostapi.Exit{Signal: 15}, drivers.ExitResult{ExitCode: 143, Signal: 15}, ""},
		"as told": {&hostapi.Exit{Signal: 9, Code: 137, OOMKilled: true}, drivers.ExitResult{ExitCode: 137, Signal: 9, OOMKilled: true}, "OOM Killed: the task used more memory than it may"},
		"funds":   {&hostapi.Exit{Signal: 15, Reason: "stopped: the customer's funds ran out"}, drivers.ExitResult{ExitCode: 143, Signal: 15}, "stopped: the customer's funds ran out"},
		"lost":    {&hostapi.Exit{Error: "the host was rebooted"}, drivers.ExitResult{}, "the host was rebooted"},
		"both":    {&hostapi.Exit{Error: "a", Reason: "b"}, drivers.ExitResult{}, "a; b"},
		"unknown": {nil, drivers.ExitResult{}, "hostd does not know how the task ended"},
	} {
		t.Run(name, func(t *testing.T) {
			got := exitResult(&hostapi.TaskStatus{State: hostapi.StateExited, Exit: tt.exit})
			text := ""
			if got.Err != nil {
				text = got.Err.Error()
			}
			got.Err = nil
			if *got != tt.want || text != tt.err {
				t.Errorf("got %+v %q, want %+v %q", *got, text, tt.want, tt.err)
			}
		})
	}
}

func TestStartErrorsSayWhetherToTryAgain(t *testing.T) {
	r := newRig(t)
	for name, tt := range map[string]struct {
		code        hostapi.ErrorCode
		text        string
		recoverable bool
	}{
		"funds":       {hostapi.ErrRefused, `customer "acme" has 0.00 USD, 0.05 USD are needed for the first minute`, false},
		"invalid":     {hostapi.ErrInvalid, `user: unknown "nobodyelse"`, false},
		"internal":    {hostapi.ErrInternal, `runc: no space left on device`, false},
		"unavailable": {hostapi.ErrUnavailable, `no settlement server answers: http://127.0.0.1:1: connection refused`, true},
	} {
		t.Run(name, func(t *testing.T) {
			r.fake.set(func() {
				r.fake.fault = func(when, op string, w http.ResponseWriter) bool {
					return when == "before" && op == "POST tasks" && refuse(w, tt.code, tt.text)
				}
			})
			_, _, err := r.StartTask(task(t, TaskConfig{Command: "true"}))
			if err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("got %v, want %q", err, tt.text)
			}
			if got := structs.IsRecoverable(err); got != tt.recoverable {
				t.Errorf("recoverable: got %t, want %t", got, tt.recoverable)
			}
		})
	}
	r.fake.set(func() { r.fake.fault = nil })
	_, _, err := r.StartTask(task(t, TaskConfig{Command: "true", Budget: "-1"}))
	if err == nil || structs.IsRecoverable(err) || !strings.Contains(err.Error(), `budget: must not be negative (got "-1")`) {
		t.Errorf("got %v, want the fault of budget, not recoverable", err)
	}
}

// Nomad never destroys a task that it was told did not start.
func TestTaskThatCannotRunIsForgotten(t *testing.T) {
	r := newRig(t)
	cfg := task(t, TaskConfig{Command: "/nonexistent/command"})
	_, _, err := r.StartTask(cfg)
	if err == nil || structs.IsRecoverable(err) || !strings.Contains(err.Error(), "no such file or directory") {
		t.Errorf("got %v, want the reason, not recoverable", err)
	}
	eventually(t, "hostd forgets the task", func() bool { return len(r.fake.callsOf("DELETE tasks")) > 0 })
	eventually(t, "task is gone", func() bool { _, err := r.d.InspectTask(cfg.ID); return err == drivers.ErrTaskNotFound })
}

func TestRecover(t *testing.T) {
	r := newRig(t)
	cfg, handle := r.start(t, "/bin/sleep", "0.2")
	// What Nomad keeps goes to a plugin that knows nothing.
	fresh := testDriver(t)
	if err := fresh.SetConfig(r.host.pluginConfig(t, Config{HostdConfig: r.host.config}, true)); err != nil {
		t.Fatal(err)
	}
	if err := fresh.RecoverTask(handle); err != nil {
		t.Fatal(err)
	}
	if err := fresh.RecoverTask(handle); err != nil {
		t.Errorf("again: %v", err)
	}
	ch, err := fresh.WaitTask(t.Context(), cfg.ID)
	if err != nil {
		t.Fatal(err)
	}
	if x := within(t, 5*time.Second, ch, "exit"); !x.Successful() {
		t.Errorf("got %+v, want success", x)
	}
	// Recovered once more, long after its end: its exit is reported at once.
	if err := fresh.RecoverTask(handle); err != nil {
		t.Errorf("exited: %v", err)
	}
	ch, _ = fresh.WaitTask(t.Context(), cfg.ID)
	if x := within(t, time.Second, ch, "exit"); !x.Successful() {
		t.Errorf("got %+v, want success", x)
	}

	for name, tt := range map[string]struct {
		change func(h *drivers.TaskHandle) *drivers.TaskHandle
		want   string
	}{
		"nil":         {func(*drivers.TaskHandle) *drivers.TaskHandle { return nil }, "no handle"},
		"no config":   {func(h *drivers.TaskHandle) *drivers.TaskHandle { h.Config = nil; return h }, "no handle"},
		"old version": {func(h *drivers.TaskHandle) *drivers.TaskHandle { h.Version = 0; return h }, "unknown handle version 0"},
		"no state":    {func(h *drivers.TaskHandle) *drivers.TaskHandle { h.DriverState = nil; return h }, "decode its handle"},
		"other task":  {func(h *drivers.TaskHandle) *drivers.TaskHandle { h.Config.ID = "x/y/z"; return h }, "its handle is of task"},
		"other lease": {func(h *drivers.TaskHandle) *drivers.TaskHandle {
			_ = h.SetDriverState(&taskState{TaskID: h.Config.ID, LeaseID: 99})
			return h
		}, "hostd has it under lease 13, not 99"},
		"other container": {func(h *drivers.TaskHandle) *drivers.TaskHandle {
			_ = h.SetDriverState(&taskState{TaskID: h.Config.ID, LeaseID: 13, ContainerID: "x"})
			return h
		}, "in container"},
	} {
		t.Run(name, func(t *testing.T) {
			err := fresh.RecoverTask(tt.change(handle.Copy()))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	// Completed and destroyed: not ours any more.
	if err := fresh.DestroyTask(cfg.ID, false); err != nil {
		t.Fatal(err)
	}
	if err := fresh.RecoverTask(handle); err == nil || !strings.Contains(err.Error(), "hostd does not know it") {
		t.Errorf("got %v, want an error", err)
	}
}

func TestTaskEventsEndWithTheirContext(t *testing.T) {
	d := testDriver(t)
	ctx, cancel := context.WithCancel(t.Context())
	ch, err := d.TaskEvents(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if ev := within(t, 5*time.Second, ch, "end of events"); ev != nil {
		t.Errorf("got %+v, want a closed channel", ev)
	}
}
