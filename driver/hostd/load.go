package hostd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/joulecloud/joule/driver/meter"
	"github.com/joulecloud/joule/driver/shim"
)

// load takes up every task of an earlier hostd.
func (d *daemon) load() error {
	if err := os.MkdirAll(d.tasksDir(), 0o700); err != nil {
		return fmt.Errorf("make tasks directory: %w", err)
	}
	entries, err := os.ReadDir(d.tasksDir())
	if err != nil {
		return fmt.Errorf("list tasks: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(d.tasksDir(), e.Name())
		rec, err := readRecord(dir)
		switch {
		case errors.Is(err, os.ErrNotExist):
			// Made, and no more: hostd was killed before the intent was on disk.
			if err := os.RemoveAll(dir); err != nil {
				return fmt.Errorf("remove empty task directory: %w", err)
			}
			continue
		case err != nil:
			if err := d.setAside(dir, err); err != nil {
				return err
			}
			continue
		}
		if err := d.resume(rec); err != nil {
			return fmt.Errorf("take up task %q: %w", rec.Request.ID, err)
		}
	}
	return nil
}

// setAside moves a task that can't be understood out of the way, shim and all:
// its exit and stamps stay on disk for a person to look at.
func (d *daemon) setAside(dir string, cause error) error {
	to := filepath.Join(d.cfg.DataDir, damagedDir)
	if err := os.MkdirAll(to, 0o700); err != nil {
		return fmt.Errorf("set aside damaged task: %w", err)
	}
	aside := filepath.Join(to, filepath.Base(dir))
	for i := 2; ; i++ {
		if _, err := os.Lstat(aside); errors.Is(err, os.ErrNotExist) {
			break
		}
		aside = filepath.Join(to, fmt.Sprintf("%s-%d", filepath.Base(dir), i))
	}
	p, err := d.runner.Attach(dir)
	if err == nil {
		err = p.Kill() // nobody could be billed for it
	}
	d.log.Error("task can't be taken up: killed and set aside, keep it for inspection",
		"dir", dir, "set_aside", aside, "error", cause, "kill_error", err)
	if err := os.Rename(dir, aside); err != nil {
		return fmt.Errorf("set aside damaged task: %w", err)
	}
	return nil
}

// resume takes up one task.
func (d *daemon) resume(rec *record) error {
	t := d.newTask(*rec)
	if rec.Grant == nil {
		// The lease may be open without our knowing. Whoever asked for the task
		// has had no answer and may ask again; until then it isn't one.
		t.log.Warn("start of a task was cut off before its lease was stored")
		t.orphaned(0)
		return t.removeDir()
	}
	p, err := d.attach(t.dir)
	switch {
	case errors.Is(err, shim.ErrNotLaunched) && rec.Outcome != nil:
		d.add(t)
		t.final = true
		t.end(*rec.Outcome)
		close(t.ready)
		close(t.finished)
		return nil
	case errors.Is(err, shim.ErrNotLaunched):
		t.log.Warn("start of a task was cut off before its shim was launched", "lease", rec.Grant.Lease)
		t.orphaned(rec.Grant.Lease)
		t.cleanUp()
		return t.removeDir()
	case err != nil:
		return err
	}
	if err := t.loadMeter(); err != nil {
		return err
	}
	if err := t.loadTurn(p); err != nil {
		return err
	}
	d.add(t)
	t.proc = p
	t.log.Info("task taken up", "lease", rec.Grant.Lease)
	ctx, giveUp := context.WithCancel(d.ctx)
	t.giveUp = giveUp
	d.wg.Go(func() {
		defer giveUp()
		if rec.Outcome != nil && startOf(p) == nil {
			// It was found out and noted before.
			t.end(*rec.Outcome)
			close(t.ready)
			t.cleanUp()
			close(t.finished)
			return
		}
		t.hold(ctx, p)
	})
	return nil
}

// attach finds the shim of dir. One that was told what to run but has not said
// who it is may be about to: hostd was killed right after launching it.
func (d *daemon) attach(dir string) (proc, error) {
	for range 20 {
		p, err := d.runner.Attach(dir)
		if !errors.Is(err, shim.ErrNotLaunched) {
			return p, err
		}
		if _, err := os.Stat(filepath.Join(dir, shim.SpecFile)); err != nil {
			break
		}
		if !sleep(d.ctx, 50*time.Millisecond) {
			break
		}
	}
	return d.runner.Attach(dir)
}

// loadTurn takes up a turn that was cut off, before any checkpoint counts past
// it.
func (t *task) loadTurn(p proc) error {
	t.meterMu.Lock()
	defer t.meterMu.Unlock()
	if started := startOf(p); started != nil && t.record().Turn != nil {
		if err := t.startMeter(started); err != nil { // nothing is recorded of it yet
			return err
		}
		t.resumeTurn(p, nil)
	}
	t.standby.Store(t.meter.State == meter.Standby)
	return nil
}

// startOf is the mark that the shim left of a start; nil: there is none.
func startOf(p proc) *shim.Started {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	started, err := p.Started(ctx)
	if err != nil {
		return nil
	}
	return started
}
