package hostd

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/meter"
	"github.com/joulecloud/joule/driver/shim"
)

// freezeWait bounds how long the kernel may take to stop a task.
const freezeWait = 5 * time.Second

// A turn is a freeze or a thaw that is on disk before it is carried out, so that
// a hostd that is killed in the middle of it leaves word.
type turn struct {
	To     meter.State `json:"to"` // Standby or Active
	Epoch  uint32      `json:"epoch,omitempty"`
	MonoNs int64       `json:"mono_ns"` // it isn't carried out before
}

// freeze makes a running task stand by: it stops where it is, and is billed so.
// One that stands by already is left alone.
func (t *task) freeze(ctx context.Context) error {
	t.meterMu.Lock()
	defer t.meterMu.Unlock()
	p, err := t.turns(meter.Active)
	if err != nil || p == nil {
		return err
	}
	if err := t.intend(&turn{To: meter.Standby, MonoNs: monoNow()}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, freezeWait)
	defer cancel()
	at, err := p.Freeze(ctx)
	if err != nil {
		t.drop()
		return apiError(hostapi.ErrUnavailable, "freeze task %q: %v", t.id, err)
	}
	return t.turned(t.meter.Freeze(t.readingAt(p, at)))
}

// thaw lets a task that stands by run under the epoch; 0: the one that it has.
// One that runs under it is left alone.
func (t *task) thaw(epoch uint32) error {
	t.meterMu.Lock()
	defer t.meterMu.Unlock()
	p, err := t.turns(meter.Standby)
	if err != nil {
		return err
	}
	if epoch == 0 {
		epoch = t.meter.Epoch
	}
	if epoch < t.meter.Epoch || p == nil && epoch > t.meter.Epoch {
		return apiError(hostapi.ErrInvalid, "epoch: task %q is %s under epoch %d (got %d)", t.id, t.meter.State, t.meter.Epoch, epoch)
	}
	if p == nil {
		return nil
	}
	if err := t.intend(&turn{To: meter.Active, Epoch: epoch, MonoNs: monoNow()}); err != nil {
		return err
	}
	r := t.readingAt(p, 0) // what it uses from here on is the new segment's
	at, err := p.Thaw()
	if err != nil {
		t.drop()
		return apiError(hostapi.ErrUnavailable, "thaw task %q: %v", t.id, err)
	}
	r.MonoNs = at
	return t.turned(t.meter.Thaw(r, epoch))
}

// turns returns the process of a task whose meter is in state from; nil where
// it is in the other one already. The caller holds meterMu.
func (t *task) turns(from meter.State) (proc, error) {
	p := t.process()
	switch {
	case t.hasExited(), t.meter != nil && t.meter.State == meter.Ended:
		return nil, apiError(hostapi.ErrInvalid, "task %q isn't running", t.id)
	case p == nil, t.meter == nil, t.meter.State == meter.Idle:
		return nil, apiError(hostapi.ErrUnavailable, "task %q doesn't run yet", t.id)
	}
	if t.meter.State != from {
		return nil, nil
	}
	return p, nil
}

func (t *task) intend(next *turn) error {
	if err := t.save(func(r *record) { r.Turn = next }); err != nil {
		return apiError(hostapi.ErrInternal, "%v", err)
	}
	return nil
}

// drop takes back the word of a turn that didn't come about.
func (t *task) drop() {
	if err := t.save(func(r *record) { r.Turn = nil }); err != nil {
		t.log.Error("a turn that didn't come about can't be taken back", "error", err)
	}
}

// readingAt is a reading of a task that stands still, for a boundary at a moment.
func (t *task) readingAt(p proc, at int64) meter.Reading {
	r := meter.Reading{}
	if s, err := p.Sample(); err == nil {
		r = reading(s)
	}
	r.MonoNs, r.GPU = at, t.gpuReading()
	return r
}

// turned records a turn that was carried out and counted, or not: err. The
// caller holds meterMu.
func (t *task) turned(err error) error {
	if err != nil {
		return fmt.Errorf("count a turn of task %q: %w", t.id, err)
	}
	t.standby.Store(t.meter.State == meter.Standby)
	t.log.Info("task turned", "lease", t.lease(), "state", t.meter.State, "epoch", t.meter.Epoch)
	// Beside the spool, which may be lost: where the segments before this one
	// end is in no counter.
	if err := t.save(func(r *record) { r.Turn, r.Turned = nil, t.meter.Clone() }); err != nil {
		t.log.Error("turn can't be stored", "error", err)
	}
	u, err := t.update(false)
	if err == nil {
		err = t.d.spool.Put(u)
	}
	if err != nil {
		// The next record makes up for it.
		t.log.Error("turn can't be recorded", "error", err)
		t.d.fatal(err)
		return nil
	}
	t.d.sessions.Wake()
	return nil
}

// resumeTurn counts a turn that an earlier hostd carried out but didn't live to
// count; one that it didn't carry out is forgotten, as its caller had no answer.
// exit is the task's end, nil while it runs. The caller holds meterMu.
func (t *task) resumeTurn(p proc, exit *shim.Exit) {
	next := t.record().Turn
	if next == nil || t.meter.State == meter.Idle || t.meter.State == meter.Ended {
		return
	}
	if _, err := p.Exit(); err == nil && exit == nil {
		return // its end is next, and takes this up
	}
	frozen, err := p.Frozen()
	now := monoNow()
	from := now // the kernel's account goes on after the end of a frozen task
	if exit != nil {
		if now = exit.ExitMonoNs; !frozen {
			from = now
		}
	}
	total := p.FrozenFor()
	unaccounted := time.Duration(0) // how long it was frozen beyond what is counted
	if total != nil {
		unaccounted = *total - time.Duration(t.meter.Standby.WallNs)
	}
	switch {
	case err != nil && exit == nil, next.To == t.meter.State:
		t.drop()
	case next.To == meter.Standby && (frozen || exit != nil && unaccounted > 0):
		at := next.MonoNs // never more is billed as active than was
		if total != nil {
			at = min(max(at, from-unaccounted.Nanoseconds()), now)
		}
		r := t.readingAt(p, at)
		if exit != nil && exit.CPUUsec != nil {
			r.CPUUsec, r.CPUKnown = *exit.CPUUsec, true // it used nothing after
		}
		err = t.turned(t.meter.Freeze(r))
	case next.To == meter.Active && !frozen:
		at := next.MonoNs
		if total != nil {
			at = min(max(at, t.meter.LastNs+unaccounted.Nanoseconds()), now)
		}
		r := meter.Reading{MonoNs: at} // what it used since is the next segment's
		err = t.turned(t.meter.Thaw(r, next.Epoch))
	default:
		t.drop()
	}
	if err != nil {
		t.log.Error("turn of an earlier hostd can't be taken up", "error", err)
	}
}

// monoNow reads CLOCK_MONOTONIC.
func monoNow() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // the clock exists on every Linux
	return ts.Nano()
}

// freezeTask and thawTask serve the API.
func (d *daemon) freezeTask(ctx context.Context, id string) (*hostapi.TaskStatus, error) {
	t, err := d.task(id)
	if err != nil {
		return nil, err
	}
	if err := t.freeze(ctx); err != nil {
		return nil, err
	}
	return t.status(), nil
}

func (d *daemon) thawTask(id string, req *hostapi.ThawRequest) (*hostapi.TaskStatus, error) {
	t, err := d.task(id)
	if err != nil {
		return nil, err
	}
	if err := t.thaw(req.Epoch); err != nil {
		return nil, err
	}
	return t.status(), nil
}
