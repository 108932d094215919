package hostd

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/session/sessiontest"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/wire"
)

func TestStopHonoursSignalAndTimeout(t *testing.T) {
	r := newRig(t).start()
	for i, tc := range []struct {
		name     string
		req      hostapi.StopRequest
		obeys    unix.Signal // ends on this one
		signals  []unix.Signal
		min, max time.Duration
		exit     int
	}{
		{"default signal", hostapi.StopRequest{TimeoutMs: 60_000}, unix.SIGTERM, []unix.Signal{unix.SIGTERM}, 0, 5 * time.Second, int(unix.SIGTERM)},
		{"named signal", hostapi.StopRequest{Signal: "SIGINT", TimeoutMs: 60_000}, unix.SIGINT, []unix.Signal{unix.SIGINT}, 0, 5 * time.Second, int(unix.SIGINT)},
		{"short name", hostapi.StopRequest{Signal: "usr1", TimeoutMs: 60_000}, unix.SIGUSR1, []unix.Signal{unix.SIGUSR1}, 0, 5 * time.Second, int(unix.SIGUSR1)},
		{"number", hostapi.StopRequest{Signal: "3", TimeoutMs: 60_000}, unix.SIGQUIT, []unix.Signal{unix.SIGQUIT}, 0, 5 * time.Second, int(unix.SIGQUIT)},
		{"deaf task is killed after the timeout", hostapi.StopRequest{TimeoutMs: 300}, 0, []unix.Signal{unix.SIGTERM}, 300 * time.Millisecond, 3 * time.Second, int(unix.SIGKILL)},
		{"no timeout", hostapi.StopRequest{}, 0, []unix.Signal{unix.SIGTERM}, 0, 3 * time.Second, int(unix.SIGKILL)},
		{"kill", hostapi.StopRequest{Signal: "SIGKILL", TimeoutMs: 60_000}, 0, nil, 0, 3 * time.Second, int(unix.SIGKILL)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			req := request(i)
			_, p := r.run(req)
			p.mu.Lock()
			p.onSignal = func(s unix.Signal) {
				if s == tc.obeys {
					p.end(0, s)
				}
			}
			p.mu.Unlock()
			began := time.Now()
			st, err := r.client.Stop(t.Context(), req.ID, &tc.req)
			took := time.Since(began)
			if err != nil || st.State != hostapi.StateExited || st.Exit.Signal != tc.exit || st.Exit.Reason != "" {
				t.Fatalf("got %+v, %v", st, err)
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			if diff := cmp.Diff(tc.signals, p.signals); diff != "" {
				t.Errorf("signals (-want +got):\n%s", diff)
			}
			if took < tc.min || took > tc.max {
				t.Errorf("took %v, want from %v to %v", took, tc.min, tc.max)
			}
		})
	}
	_, p := r.run(request(99))
	for _, bad := range []hostapi.StopRequest{{Signal: "SIGNONE"}, {Signal: "0"}, {TimeoutMs: -1}} {
		if _, err := r.client.Stop(t.Context(), request(99).ID, &bad); !isCode(err, hostapi.ErrInvalid) {
			t.Errorf("Stop %+v: got %v, want %q", bad, err, hostapi.ErrInvalid)
		}
	}
	if err := r.client.Signal(t.Context(), request(99).ID, &hostapi.SignalRequest{Signal: "HUP"}); err != nil {
		t.Error(err)
	}
	if err := r.client.Signal(t.Context(), request(99).ID, &hostapi.SignalRequest{Signal: "NOPE"}); !isCode(err, hostapi.ErrInvalid) {
		t.Errorf("unknown signal: got %v", err)
	}
	p.mu.Lock()
	if diff := cmp.Diff([]unix.Signal{unix.SIGHUP}, p.signals); diff != "" {
		t.Errorf("signals (-want +got):\n%s", diff)
	}
	p.mu.Unlock()
	if err := r.client.Destroy(t.Context(), request(99).ID, true); err != nil || p.kills != 1 {
		t.Errorf("forced destroy: %v, %d kills", err, p.kills)
	}
}

func TestFundsStop(t *testing.T) {
	r := newRig(t).start()
	req := request(1)
	st, p := r.run(req)
	r.await("a session", func() bool { return r.srv.Sessions() > 0 })
	r.srv.Command(wire.LeaseID(st.LeaseID), joulev1.StopReason_STOP_REASON_FUNDS)
	r.srv.Command(wire.LeaseID(st.LeaseID), joulev1.StopReason_STOP_REASON_FUNDS)
	r.srv.Command(4711, joulev1.StopReason_STOP_REASON_FUNDS)
	st, err := r.client.Wait(t.Context(), req.ID)
	if err != nil || st.Exit.Reason != "stopped: the customer's funds ran out" {
		t.Errorf("got %+v, %v", st, err)
	}
	p.mu.Lock()
	if diff := cmp.Diff([]unix.Signal{unix.SIGTERM}, p.signals); diff != "" || p.kills != 0 {
		t.Errorf("%d kills, signals (-want +got):\n%s", p.kills, diff)
	}
	p.mu.Unlock()
	r.bill(req)
	// The reason outlives hostd.
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.await("the reason", func() bool {
		st, err := r.client.Task(t.Context(), req.ID)
		return err == nil && st.Exit != nil && st.Exit.Reason == "stopped: the customer's funds ran out"
	})
}

func TestClosedLeaseStopsItsTask(t *testing.T) {
	r := newRig(t)
	// The server takes the first record for the lease's last.
	r.srv.Set(func(h *sessiontest.Hooks) {
		h.Batch = func(_ int, b *wire.UsageBatch) sessiontest.Action {
			b.Records[0].Final = true
			return sessiontest.Normal
		}
	})
	r.start()
	req := request(1)
	r.run(req)
	st, err := r.client.Wait(t.Context(), req.ID)
	if err != nil || st.Exit.Reason != "stopped: the settlement cluster has closed the lease" {
		t.Errorf("got %+v, %v", st, err)
	}
	r.emptySpool()
}

func TestNewInvocationReplacesTheOld(t *testing.T) {
	r := newRig(t).start()
	old := request(1)
	_, p := r.run(old)
	p.mu.Lock()
	p.onSignal = func(unix.Signal) {} // deaf
	p.mu.Unlock()
	anew := request(1)
	anew.Invocation, anew.ID = "inv2", "alloc1/web/inv2"
	r.run(anew)
	st, err := r.client.Task(t.Context(), old.ID)
	if err != nil || st.State != hostapi.StateExited || !strings.Contains(st.Exit.Reason, "anew") {
		t.Errorf("old invocation: got %+v, %v", st, err)
	}
	r.bill(old)
}
