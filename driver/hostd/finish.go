package hostd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/meter"
	"github.com/joulecloud/joule/driver/shim"
	"github.com/joulecloud/joule/driver/spool"
	"github.com/joulecloud/joule/settlement/wire"
)

const (
	cleanupWait = 30 * time.Second
	retryMin    = 100 * time.Millisecond // between tries to store a final record
	retryMax    = 5 * time.Second
)

// finish takes in the task's end: the final record goes to the spool, then the
// task counts as exited. The shim is gone.
func (t *task) finish(p proc) {
	end, told, err := t.meterEnd(p)
	if err != nil {
		// The meter has ended already, as after a restart: the record is what counts.
		t.log.Error("end of the task can't be metered", "error", err)
	}
	err = t.putFinal()
	if !told {
		if err := t.save(func(r *record) { r.Outcome = &end }); err != nil {
			t.log.Error("end of the task can't be stored", "error", err)
		}
	}
	t.end(end)
	t.log.Info("task ended", "lease", t.lease(), "code", end.Exit.Code, "signal", end.Exit.Signal,
		"oom_killed", end.Exit.OOMKilled, "error", end.Exit.Error, "reason", end.Exit.Reason)
	t.d.sessions.Wake()
	// Nomad learns of the end even if the disk is full; the record is made as
	// soon as there is room, from the stamps that are on disk.
	for pause := retryMin; err != nil; pause = min(2*pause, retryMax) {
		if t.d.fatal(err) || !sleep(t.d.ctx, pause) {
			return
		}
		if err = t.putFinal(); err == nil {
			t.d.sessions.Wake()
		}
	}
	t.cleanUp()
	close(t.finished)
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// meterEnd ends the meter with what is known of the task's end. told says that
// the shim's exit.json tells the outcome again after a restart.
func (t *task) meterEnd(p proc) (end outcome, told bool, err error) {
	t.meterMu.Lock()
	defer t.meterMu.Unlock()
	rec := t.record()
	exit, exitErr := p.Exit()
	if exitErr == nil && exit.Error == "" {
		end = outcome{
			Exit: hostapi.Exit{Code: exit.Code, Signal: exit.Signal, OOMKilled: exit.OOMKilled, Reason: rec.StopReason},
			At:   time.Unix(0, exit.ExitWallNs),
		}
		if t.meter.State == meter.Ended {
			return end, true, nil
		}
		if !exit.ExitStamped {
			t.meter.Quality |= wire.QualityExitUnstamped
		}
		t.resumeTurn(p, exit)
		r := reading(shim.Sample{MonoNs: exit.ExitMonoNs, CPUUsec: exit.CPUUsec})
		r.GPU = t.gpuEnd(exit)
		return end, true, t.meter.Stop(r)
	}

	// Nobody saw the end.
	end = outcome{At: time.Now()}
	var why wire.Quality
	switch {
	case rec.Outcome != nil:
		end = *rec.Outcome
	case rec.BootID != t.d.boot:
		end.Exit = hostapi.Exit{Error: "the host restarted while the task ran", Reason: rec.StopReason}
	case exitErr == nil:
		end.Exit = hostapi.Exit{Error: exit.Error, Reason: rec.StopReason}
	case errors.Is(exitErr, shim.ErrNoExit):
		end.Exit = hostapi.Exit{Error: "the task's shim died: the task was killed, and is billed up to the last moment it is known to have run", Reason: rec.StopReason}
	default:
		end.Exit = hostapi.Exit{Error: fmt.Sprintf("how the task ended can't be read: %v", exitErr), Reason: rec.StopReason}
	}
	if rec.BootID != t.d.boot {
		why = wire.QualityRebooted
	} else {
		// The task may have outlived its shim: then this moment is known, too.
		if s, sampleErr := p.Sample(); sampleErr == nil && t.meter.State != meter.Ended {
			r := reading(s)
			r.GPU = t.gpuReading()
			err = t.meter.Checkpoint(r)
		}
		if killErr := p.Kill(); killErr != nil {
			t.log.Error("task without a shim can't be killed", "error", killErr)
		}
	}
	if t.meter.State != meter.Ended {
		err = errors.Join(err, t.meter.StopEstimated(why))
	}
	return end, false, err
}

// putFinal spools the lease's final record, once.
func (t *task) putFinal() error {
	t.meterMu.Lock()
	defer t.meterMu.Unlock()
	if t.final {
		return nil
	}
	u, err := t.update(true)
	if err == nil {
		err = t.d.spool.Put(u)
	}
	if err != nil {
		t.log.Error("final usage record can't be stored, will try again", "lease", u.Lease, "error", err)
		return err
	}
	t.final = true
	return nil
}

// cleanUp removes what the task left on the host, but for its directory.
func (t *task) cleanUp() {
	p := t.process()
	ctx, cancel := context.WithTimeout(t.d.ctx, cleanupWait)
	defer cancel()
	var err error
	if p == nil {
		err = t.d.runner.Discard(t.dir)
	} else {
		err = p.Cleanup(ctx)
	}
	// A hostd that ends in the middle of it leaves the rest to the next one.
	if err != nil && t.d.ctx.Err() == nil {
		t.log.Error("what the task left can't all be removed", "error", err)
	}
}

// removeDir removes the task's directory. Where there is still a bundle it
// doesn't: a mount of the host's own directories may be left in it.
func (t *task) removeDir() error {
	bundle := filepath.Join(t.dir, shim.BundleDir)
	if _, err := os.Lstat(bundle); !errors.Is(err, os.ErrNotExist) {
		return errors.Join(fmt.Errorf("bundle %q is still there", bundle), err)
	}
	return os.RemoveAll(t.dir)
}

// fatal ends hostd if err says that the spool's file is damaged: opening it
// again sets it aside, and nothing can be recorded before that.
func (d *daemon) fatal(err error) bool {
	if !errors.Is(err, spool.ErrCorrupt) {
		return false
	}
	d.cancel(err)
	return true
}

// checkpoints reads all meters every now and then, until ctx ends, and once
// more then.
func (d *daemon) checkpoints() {
	every := d.checkpointEvery()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-d.ctx.Done():
			d.checkpoint()
			return
		case <-d.recheck:
			every = d.checkpointEvery()
			tick.Reset(every)
		case <-tick.C:
			d.checkpoint()
		}
	}
}

// checkpointEvery is how often the meters are read: as often as the one of
// supplier and settlement asks that wants it more often.
func (d *daemon) checkpointEvery() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.asked > 0 {
		return max(min(d.asked, d.cfg.Checkpoint), checkpointMin)
	}
	return d.cfg.Checkpoint
}

// checkpoint records what every running task has used so far, with one fsync.
// A task whose meter is in use is passed over: its next record includes this.
func (d *daemon) checkpoint() {
	var updates []spool.Update
	for _, t := range d.list() {
		if !t.meterMu.TryLock() {
			continue
		}
		u, ok := t.checkpoint()
		if !ok {
			t.meterMu.Unlock()
			continue
		}
		// Until its record is stored no later one may be made.
		defer t.meterMu.Unlock()
		updates = append(updates, u)
	}
	if len(updates) == 0 && !d.spoolFailed() {
		return
	}
	// Where it failed before, a Put of nothing tells whether it works again.
	err := d.spool.Put(updates...)
	d.setSpoolError(err)
	if err != nil {
		// Totals are cumulative: the next record makes up for these.
		d.log.Error("usage records can't be stored", "records", len(updates), "error", err)
		d.fatal(err)
		return
	}
	d.sessions.Wake()
}

// checkpoint counts up to now. false: there is nothing to record. The caller
// holds meterMu.
func (t *task) checkpoint() (spool.Update, bool) {
	if t.meter == nil || t.final || (t.meter.State != meter.Active && t.meter.State != meter.Standby) {
		return spool.Update{}, false
	}
	s, err := t.process().Sample()
	if err != nil {
		// It is ending: its final record is next.
		return spool.Update{}, false
	}
	r := reading(s)
	r.GPU = t.gpuReading()
	if err := t.meter.Checkpoint(r); err != nil {
		t.log.Error("checkpoint doesn't fit the meter", "error", err)
		return spool.Update{}, false
	}
	u, err := t.update(false)
	if err != nil {
		t.log.Error("checkpoint can't be recorded", "error", err)
		return spool.Update{}, false
	}
	return u, true
}

// destroy removes an exited task for good. With force a running one is killed
// first.
func (d *daemon) destroy(ctx context.Context, id string, force bool) error {
	t, err := d.task(id)
	if err != nil {
		return err
	}
	if !t.hasExited() {
		if !force {
			return apiError(hostapi.ErrRunning, "task %q is running", id)
		}
		t.giveUp()
		d.wg.Go(func() { t.stop(unix.SIGKILL, 0) })
	}
	select {
	case <-t.finished:
	case <-t.ready:
		if t.start != nil {
			return nil // it never came to be
		}
		select {
		case <-t.finished:
		case <-ctx.Done():
			return apiError(hostapi.ErrUnavailable, "the caller gave up waiting for task %q to end", id)
		}
	case <-ctx.Done():
		return apiError(hostapi.ErrUnavailable, "the caller gave up waiting for task %q to end", id)
	}
	t.cleanUp() // again, in case that it couldn't do all of it then
	if err := t.removeDir(); err != nil {
		return apiError(hostapi.ErrInternal, "remove the directory of task %q: %v", id, err)
	}
	d.forget(t)
	// Last: a chain without its task is only some bytes, a task without its
	// chain would look like a lost one.
	if err := d.spool.Forget(t.lease()); err != nil {
		return apiError(hostapi.ErrInternal, "%v", err)
	}
	t.log.Info("task forgotten", "lease", t.lease())
	return nil
}
