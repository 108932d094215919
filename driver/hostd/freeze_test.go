package hostd

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/meter"
	"github.com/joulecloud/joule/driver/session/sessiontest"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

// wantApart checks that a task that ended was billed, by state, what it was in
// that state by its own account, to the millisecond, and in all what it ran.
func (r *rig) wantApart(tb interface{ Errorf(string, ...any) }, l sessiontest.Lease, p *fakeProc, slack time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	end := p.exit.ExitMonoNs
	whole, frozen := end-p.started.ExecMonoNs, p.frozenUntil(end)
	off := func(name string, got uint64, truth int64, within time.Duration) {
		if d := time.Duration(int64(got)*1e6 - truth).Abs(); d > within {
			tb.Errorf("%s: billed %d ms, truth %.3f ms", name, got, float64(truth)/1e6)
		}
	}
	last := l.Last()
	active, standby := last.Active, last.Standby
	off("active", active.WallMs, whole-frozen, time.Millisecond+slack)
	off("standby", standby.WallMs, frozen, time.Millisecond+slack)
	off("both", active.WallMs+standby.WallMs, whole, time.Millisecond)
	off("cpu", active.CPUMs+standby.CPUMs, (whole-frozen)/cpuShare, time.Millisecond)
	off("cpu of standby", standby.CPUMs, 0, time.Millisecond)
	for i := 1; i < len(l.Accepted); i++ {
		if a, b := l.Accepted[i-1], l.Accepted[i]; b.Seq <= a.Seq || b.Active.WallMs < a.Active.WallMs || b.Standby.WallMs < a.Standby.WallMs {
			tb.Errorf("records %d and %d go back: %+v, %+v", a.Seq, b.Seq, a, b)
		}
	}
	for status := range l.Statuses {
		if status != joulev1.RecordStatus_RECORD_STATUS_ACCEPTED && status != joulev1.RecordStatus_RECORD_STATUS_REPEAT {
			tb.Errorf("a record was %v", status)
		}
	}
}

func TestFreezeAndThaw(t *testing.T) {
	r := newRig(t).start()
	req := request(1)
	_, p := r.run(req)
	for range 2 { // the second time nothing happens
		st, err := r.client.Freeze(t.Context(), req.ID)
		if err != nil || !st.Standby {
			t.Fatalf("freeze: got %+v, %v", st, err)
		}
	}
	r.records(req, 4)
	if _, err := r.client.Thaw(t.Context(), req.ID, &hostapi.ThawRequest{Epoch: 0}); err != nil {
		t.Fatal(err)
	}
	if st, err := r.client.Task(t.Context(), req.ID); err != nil || st.Standby {
		t.Errorf("after the thaw: got %+v, %v", st, err)
	}
	if _, err := r.client.Thaw(t.Context(), req.ID, &hostapi.ThawRequest{Epoch: 9}); err == nil {
		t.Error("a running task was put under another epoch")
	}
	p.end(0, 0)
	r.wantApart(t, r.bill(req), p, 0)
	if _, err := r.client.Freeze(t.Context(), req.ID); err == nil {
		t.Error("a task that has ended was frozen")
	}
}

// A task that stands by is killed at once: it may not run for its end's sake.
func TestStopOfAFrozenTask(t *testing.T) {
	r := newRig(t).start()
	req := request(1)
	_, p := r.run(req)
	if _, err := r.client.Freeze(t.Context(), req.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := r.client.Stop(t.Context(), req.ID, &hostapi.StopRequest{TimeoutMs: 60_000}); err != nil {
		t.Fatal(err)
	}
	if len(p.signals) != 0 || p.kills == 0 {
		t.Errorf("got signals %v and %d kills, want a kill alone", p.signals, p.kills)
	}
	r.wantApart(t, r.bill(req), p, 0)
}

// A hostd that is killed in the middle of a freeze or thaw leaves word of it;
// the next one counts it if it came about, from when it did.
func TestTurnCutOff(t *testing.T) {
	for name, tc := range map[string]struct {
		first   bool // it stands by before
		carried bool // the turn came about
		ends    bool // and the task ended before the next hostd
	}{
		"freeze, not carried out": {false, false, false}, "freeze, carried out": {false, true, false}, "freeze, then the end": {false, true, true},
		"thaw, not carried out": {true, false, false}, "thaw, carried out": {true, true, false}, "thaw, then the end": {true, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t).start()
			req := request(1)
			_, p := r.run(req)
			to := meter.Standby
			if tc.first {
				if _, err := r.client.Freeze(t.Context(), req.ID); err != nil {
					t.Fatal(err)
				}
				to = meter.Active
			}
			r.records(req, 2)
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(r.cfg.DataDir, tasksDir, hostapi.ContainerID(req.ID))
			rec, err := readRecord(dir)
			if err != nil {
				t.Fatal(err)
			}
			rec.Turn = &turn{To: to, Epoch: 1, MonoNs: monoNow()}
			if err := writeRecord(dir, rec); err != nil {
				t.Fatal(err)
			}
			if tc.carried {
				time.Sleep(5 * time.Millisecond)
				if _, err := p.turn(!tc.first); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(20 * time.Millisecond)
			if tc.ends {
				p.end(0, unix.SIGKILL)
			}
			r.start()
			if !tc.ends {
				r.await("the turn to be taken up", func() bool {
					rec, err := readRecord(dir)
					return err == nil && rec.Turn == nil
				})
				st, err := r.client.Task(t.Context(), req.ID)
				if err != nil || st.Standby != (tc.first != tc.carried) {
					t.Errorf("got %+v, %v", st, err)
				}
				p.end(0, 0)
			}
			r.wantApart(t, r.bill(req), p, 0)
		})
	}
}

// damageSpool loses every chain; hostd is down.
func (r *rig) damageSpool(tb interface{ Fatal(...any) }) {
	if err := os.WriteFile(filepath.Join(r.cfg.DataDir, spoolFile), []byte("not a spool"), 0o600); err != nil {
		tb.Fatal(err)
	}
}

// The spool is lost twice, and between the clock is stepped back by an hour: no
// sequence is given out again.
func TestSequenceGoesOnWhateverTheClock(t *testing.T) {
	r := newRig(t).start()
	req := request(1)
	_, p := r.run(req)
	last := r.records(req, 2).Last().Seq
	for _, step := range []time.Duration{time.Hour, -2 * time.Hour, 0} {
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		r.clock.step(step)
		r.damageSpool(t)
		r.start()
		r.await("records after the loss", func() bool {
			l, _ := r.srv.Lease(req.ID)
			return l.Last().Seq > last+2
		})
		l, _ := r.srv.Lease(req.ID)
		last = l.Last().Seq
	}
	p.end(0, 0)
	r.wantApart(t, r.bill(req), p, 0)
}

// Whatever happens to a task and its host, in whatever order: what is billed by
// state is what it was, without a gap and without an overlap.
func TestAnySequenceSumsToTheTruth(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many daemons: not with -short")
	}
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(t)
		r.start()
		defer func() { _ = r.stop() }()
		req := request(1)
		_, p := r.run(req)
		epoch := uint32(1)
		frozen := false
		must := func(_ any, err error) {
			if err != nil {
				rt.Fatal(err)
			}
		}
		crash := func(lose bool) {
			must(nil, r.stop())
			if lose {
				r.damageSpool(rt)
			}
			r.start()
			// It is taken up soon after hostd answers; thawed or frozen, it stays so.
			r.await("the task taken up", func() bool {
				var e *hostapi.Error
				turn := func() error { _, err := r.client.Thaw(t.Context(), req.ID, &hostapi.ThawRequest{}); return err }
				if frozen {
					turn = func() error { _, err := r.client.Freeze(t.Context(), req.ID); return err }
				}
				err := turn()
				if errors.As(err, &e) && e.Code == hostapi.ErrUnavailable {
					return false
				}
				must(nil, err)
				return true
			})
		}
		for _, op := range rapid.SliceOfN(rapid.SampledFrom([]string{"freeze", "thaw", "price", "checkpoint", "crash", "lose spool", "clock", "wait"}), 1, 12).Draw(rt, "ops") {
			switch op {
			case "freeze":
				must(r.client.Freeze(t.Context(), req.ID))
				frozen = true
			case "thaw":
				must(r.client.Thaw(t.Context(), req.ID, &hostapi.ThawRequest{}))
				frozen = false
			case "price": // a segment ends and another begins, in the same state
				if frozen {
					must(r.client.Thaw(t.Context(), req.ID, &hostapi.ThawRequest{}))
					must(r.client.Freeze(t.Context(), req.ID))
				} else {
					must(r.client.Freeze(t.Context(), req.ID))
					must(r.client.Thaw(t.Context(), req.ID, &hostapi.ThawRequest{Epoch: epoch}))
				}
			case "checkpoint":
				l, _ := r.srv.Lease(req.ID)
				r.records(req, len(l.Accepted)+1)
			case "crash":
				crash(false)
			case "lose spool":
				crash(true)
			case "clock":
				r.clock.step(time.Duration(rapid.IntRange(-3600, 3600).Draw(rt, "seconds")) * time.Second)
			case "wait":
				time.Sleep(time.Duration(rapid.IntRange(0, 7).Draw(rt, "ms")) * time.Millisecond)
			}
		}
		p.end(0, 0)
		r.wantApart(rt, r.bill(req), p, 0)
	})
}

// The record of a task before this version has no turn: it is read all the same.
func TestRecordsWithoutTurns(t *testing.T) {
	b, err := json.Marshal(&record{Version: recordVersion})
	if err != nil || bytes.Contains(b, []byte("turn")) || bytes.Contains(b, []byte("seq_base")) {
		t.Errorf("got %s, %v, want no word of turns", b, err)
	}
}
