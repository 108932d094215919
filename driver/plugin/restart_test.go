package plugin

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/joulecloud/joule/driver/hostapi"
)

// hostd dies while tasks are started, waited for, stopped and destroyed.
func TestCallsGoOnThroughARestartOfHostd(t *testing.T) {
	r := newRig(t)
	cfg, _ := r.start(t, "/bin/sh", "-c", "trap '' TERM; sleep 60 & wait; wait")
	time.Sleep(50 * time.Millisecond)
	ch, err := r.WaitTask(t.Context(), cfg.ID)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "wait", func() bool { return len(r.fake.callsOf("GET tasks/wait")) == 1 })

	r.crash()
	time.Sleep(300 * time.Millisecond)
	r.revive(t)
	eventually(t, "wait again", func() bool { return len(r.fake.callsOf("GET tasks/wait")) >= 2 })

	// Stop: the connection breaks after 200 of 700 ms; what is left counts.
	began := time.Now()
	stopped := make(chan error, 1)
	go func() { stopped <- r.StopTask(cfg.ID, 700*time.Millisecond, "SIGTERM") }()
	eventually(t, "stop", func() bool { return len(r.fake.callsOf("POST tasks/stop")) == 1 })
	time.Sleep(200 * time.Millisecond)
	r.crash()
	r.revive(t)
	if err := within(t, 10*time.Second, stopped, "stop"); err != nil {
		t.Errorf("stop: %v", err)
	}
	if took := time.Since(began); took < 650*time.Millisecond || took > 4*time.Second {
		t.Errorf("stop took %v, want about 700 ms", took)
	}
	var second hostapi.StopRequest
	calls := r.fake.callsOf("POST tasks/stop")
	_ = json.Unmarshal([]byte(strings.TrimPrefix(calls[len(calls)-1], "POST tasks/stop ")), &second)
	if second.Signal != "SIGTERM" || second.TimeoutMs > 510 {
		t.Errorf("got %+v, want the rest of the timeout", second)
	}
	if x := within(t, 5*time.Second, ch, "exit"); x.Signal != 9 {
		t.Errorf("got %+v, want signal 9", x)
	}

	// Destroy: done, but the answer is lost.
	var broken atomic.Bool
	r.fake.set(func() {
		r.fake.fault = func(when, op string, w http.ResponseWriter) bool {
			return when == "after" && op == "DELETE tasks" && broken.CompareAndSwap(false, true) && abort(w)
		}
	})
	if err := r.DestroyTask(cfg.ID, false); err != nil {
		t.Errorf("destroy: %v", err)
	}

	// Start: done, but the answer is lost: one task, one lease.
	var lost atomic.Bool
	r.fake.set(func() {
		r.fake.fault = func(when, op string, w http.ResponseWriter) bool {
			return when == "after" && op == "POST tasks" && lost.CompareAndSwap(false, true) && abort(w)
		}
	})
	r.start(t, "/bin/sleep", "60")
	r.fake.mu.Lock()
	defer r.fake.mu.Unlock()
	if len(r.fake.tasks) != 1 || r.fake.nextLease != 14 || !lost.Load() {
		t.Errorf("got %d tasks and leases up to %d, want 1 and 14", len(r.fake.tasks), r.fake.nextLease)
	}
}

// A hostd that is shutting down or in trouble has not said that a task ended.
func TestWaitOutlastsAHostdInTrouble(t *testing.T) {
	r := newRig(t)
	cfg, _ := r.start(t, "/bin/sleep", "0.5")
	var times atomic.Int32
	r.fake.set(func() {
		r.fake.fault = func(when, op string, w http.ResponseWriter) bool {
			if when != "before" || op != "GET tasks/wait" {
				return false
			}
			switch times.Add(1) {
			case 1:
				return refuse(w, hostapi.ErrUnavailable, "shutting down")
			case 2:
				return refuse(w, hostapi.ErrInternal, "disk full")
			case 3:
				_, _ = w.Write([]byte(`{"id":"x","state":"runn`)) // cut off
				return true
			}
			return false
		}
	})
	ch, err := r.WaitTask(t.Context(), cfg.ID)
	if err != nil {
		t.Fatal(err)
	}
	if x := within(t, 10*time.Second, ch, "exit"); !x.Successful() || times.Load() != 4 {
		t.Errorf("got %+v after %d calls, want success after 4", x, times.Load())
	}
}

// Nomad gives up on a start, and hostd comes back with the task: it must go.
func TestAbandonedStartIsDestroyedLater(t *testing.T) {
	r := newRig(t)
	cfg, _ := r.start(t, "/bin/sleep", "60")
	r.crash()
	r.d.abandon(cfg.ID)
	time.Sleep(100 * time.Millisecond)
	r.revive(t)
	eventually(t, "task is gone", func() bool { _, err := r.d.InspectTask(cfg.ID); return err == drivers.ErrTaskNotFound })
}
