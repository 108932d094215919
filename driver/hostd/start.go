package hostd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/joulecloud/joule/driver/gpu"
	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/meter"
	"github.com/joulecloud/joule/driver/session"
	"github.com/joulecloud/joule/driver/shim"
	"github.com/joulecloud/joule/driver/spool"
	"github.com/joulecloud/joule/settlement/wire"
)

const (
	openWait    = 10 * time.Second // for a settlement server to open a lease
	startWait   = 60 * time.Second // for the runtime to start a task
	replaceWait = 10 * time.Second // for an older invocation to be gone
	// orphanWait is how long a lease that may have been opened for nothing is
	// left alone: the plugin may ask for the same task again meanwhile.
	orphanWait = time.Minute
)

func apiError(code hostapi.ErrorCode, format string, args ...any) *hostapi.Error {
	return &hostapi.Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// startTask starts a task, or joins the start of it, or returns it as it is.
// ctx ends only the caller's wait.
func (d *daemon) startTask(ctx context.Context, req *hostapi.StartRequest) (*hostapi.TaskStatus, error) {
	if err := validateStart(req); err != nil {
		return nil, apiError(hostapi.ErrInvalid, "%v", err)
	}
	d.mu.Lock()
	t := d.tasks[req.ID]
	if t == nil {
		if err := d.admit(req); err != nil {
			d.mu.Unlock()
			return nil, err
		}
		t = d.newTask(record{
			Version:     recordVersion,
			Request:     *req,
			ContainerID: hostapi.ContainerID(req.ID),
			BootID:      d.boot,
		})
		startCtx, giveUp := context.WithCancel(d.ctx)
		t.giveUp = giveUp
		d.tasks[req.ID] = t
		d.wg.Go(func() {
			defer giveUp()
			t.begin(startCtx)
		})
	}
	d.mu.Unlock()
	select {
	case <-t.ready:
	case <-ctx.Done():
		return nil, apiError(hostapi.ErrUnavailable, "the caller gave up waiting for task %q to start", req.ID)
	}
	if t.start != nil {
		return nil, t.start
	}
	return t.status(), nil
}

// admit refuses what can't be run before anything is written or asked.
func (d *daemon) admit(req *hostapi.StartRequest) error {
	if req.Image == "" && !d.cfg.AllowHostRoot {
		return apiError(hostapi.ErrRefused, "image: must not be empty: the supplier of host %q doesn't allow tasks on the host's own root file system (allow_host_root is false in its hostd configuration)", d.cfg.Host)
	}
	if err := d.admitDevices(req); err != nil {
		return err
	}
	if err := d.runner.Check(req, hostapi.ContainerID(req.ID)); err != nil {
		return apiError(hostapi.ErrInvalid, "%v", err)
	}
	return nil
}

func validateStart(req *hostapi.StartRequest) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, f := range []struct{ name, v string }{
		{"id", req.ID}, {"alloc_id", req.AllocID}, {"task", req.Task}, {"invocation", req.Invocation}, {"command", req.Command},
	} {
		switch {
		case f.v == "" && (f.name != "command" || req.Image == ""):
			bad("%s: must not be empty", f.name)
		case strings.ContainsRune(f.v, 0):
			bad("%s: must not hold a NUL byte (got %q)", f.name, f.v)
		}
	}
	for _, f := range []struct {
		name string
		v    int64
	}{{"cpu_shares", req.CPUShares}, {"memory_mib", req.MemoryMiB}, {"memory_max_mib", req.MemoryMax},
		{"image_pull_timeout_ms", req.PullMs}, {"pids_limit", req.PidsLimit}, {"cpu_milli", req.CPUMilli}} {
		if f.v < 0 || f.v > 64<<20 {
			bad("%s: must be from 0 to %d (got %d)", f.name, 64<<20, f.v)
		}
	}
	if err := gpu.CheckUUIDs("devices", req.Devices); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// begin takes the task from the request to its run.
func (t *task) begin(ctx context.Context) {
	err := t.open(ctx)
	if err != nil {
		// There is no lease, and nothing of the task is left.
		t.d.forget(t)
		t.start = err
		close(t.ready)
		return
	}
	p, err := t.launch(ctx)
	if t.d.ctx.Err() != nil {
		return // hostd ends, and the next one finds how far this got
	}
	if err != nil {
		t.notStarted(err)
		return
	}
	t.hold(ctx, p)
}

// open makes the intent durable and opens the lease.
func (t *task) open(ctx context.Context) error {
	if err := os.MkdirAll(t.dir, 0o700); err != nil {
		return apiError(hostapi.ErrInternal, "make the task's directory: %v", err)
	}
	err := errors.Join(t.save(func(*record) {}), syncDir(t.d.tasksDir()))
	if err != nil {
		return t.undo(apiError(hostapi.ErrInternal, "%v", err))
	}
	t.d.todos.cancel(t.id)
	t.d.replace(ctx, t)
	if err := t.waitForDevices(ctx); err != nil {
		return t.undo(apiError(hostapi.ErrUnavailable, "%v", err))
	}

	req := t.record().Request
	askCtx, cancel := context.WithTimeout(ctx, t.d.around.openWait)
	defer cancel()
	grant, err := t.d.sessions.OpenLease(askCtx, req.AllocID, req.Task, req.Invocation)
	var refused *session.RefusedError
	var unavailable *session.UnavailableError
	switch {
	case errors.As(err, &refused):
		t.log.Info("lease refused", "reason", refused.Reason, "message", refused.Message)
		return t.undo(apiError(hostapi.ErrRefused, "%s", refused.Message))
	case errors.As(err, &unavailable):
		t.log.Warn("lease not opened", "error", err)
		if unavailable.MaybeDone {
			t.orphaned(0)
		}
		return t.undo(apiError(hostapi.ErrUnavailable, "%v", err))
	case err != nil:
		t.orphaned(0)
		return t.undo(apiError(hostapi.ErrInternal, "open lease: %v", err))
	}
	t.log.Info("lease opened", "lease", grant.Lease)
	if err := t.save(func(r *record) { r.Grant = grant }); err != nil {
		t.orphaned(grant.Lease)
		return t.undo(apiError(hostapi.ErrInternal, "%v", err))
	}
	return nil
}

// undo removes the directory of a task that never came to be.
func (t *task) undo(err error) error {
	if rmErr := t.removeDir(); rmErr != nil {
		t.log.Error("directory of a task that didn't start can't be removed", "dir", t.dir, "error", rmErr)
	}
	return err
}

// orphaned notes a lease that was or may have been opened for nothing.
func (t *task) orphaned(lease wire.LeaseID) {
	req := t.record().Request
	t.d.todos.add(todo{
		TaskID: t.id, Lease: lease, AllocID: req.AllocID, Task: req.Task, Invocation: req.Invocation,
		NotBeforeMs: t.d.around.now().Add(orphanWait).UnixMilli(),
	})
}

// launch starts the shim. Meanwhile the lease's chain is begun in the spool: a
// lease without one has lost it (see loadMeter).
func (t *task) launch(ctx context.Context) (proc, error) {
	rec := t.record()
	if err := t.checkGrant(rec.Grant.Resources.GPUs); err != nil {
		return nil, err
	}
	t.meterMu.Lock()
	t.meter = meter.New(held(rec.Grant, &rec.Request))
	state, err := json.Marshal(meterState{Meter: t.meter})
	t.meterMu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("encode meter: %w", err)
	}
	begun := make(chan error, 1)
	t.d.wg.Go(func() { begun <- t.d.spool.Put(spool.Update{Lease: rec.Grant.Lease, State: state}) })
	p, err := t.d.runner.Launch(ctx, t.dir, rec.ContainerID, &rec.Request, t.note)
	if err != nil {
		return nil, errors.Join(err, <-begun)
	}
	t.mu.Lock()
	t.proc = p
	t.mu.Unlock()
	if err := <-begun; err != nil {
		// What couldn't be recorded isn't run.
		return nil, errors.Join(err, t.abort(p))
	}
	return p, nil
}

// abort kills a task that must not run and waits until its shim is gone.
func (t *task) abort(p proc) error {
	err := p.Kill()
	select {
	case <-p.Done():
	case <-time.After(replaceWait):
		err = errors.Join(err, errors.New("its shim is still there"))
	case <-t.d.ctx.Done():
	}
	return err
}

// hold waits for the task's start, then for its end. p is launched.
func (t *task) hold(ctx context.Context, p proc) {
	t.mu.Lock()
	t.proc = p
	t.mu.Unlock()
	if len(t.devices) > 0 {
		// From before the start on: what a GPU used until then isn't the task's.
		track := t.track(t.meter.SamplesSince)
		t.gpu.Store(track)
		trackCtx, stop := context.WithCancel(t.d.ctx)
		defer stop()
		t.d.wg.Go(func() { track.run(trackCtx) })
	}
	startCtx, cancel := context.WithTimeoutCause(ctx, startWait, fmt.Errorf("the runtime didn't start the task within %v", startWait))
	started, err := p.Started(startCtx)
	cause := context.Cause(startCtx)
	cancel()
	if t.d.ctx.Err() != nil {
		return // the next hostd goes on
	}
	var failed *shim.StartError
	switch {
	case errors.As(err, &failed):
		t.notStarted(err)
		return
	case err != nil:
		if cause != nil {
			err = cause
		}
		if abortErr := t.abort(p); abortErr != nil {
			t.log.Error("task that didn't start can't be killed", "error", abortErr)
		}
		// It may have started after all, at the last moment.
		lookCtx, cancel := context.WithTimeout(t.d.ctx, time.Second)
		started, _ = p.Started(lookCtx)
		cancel()
		if started == nil {
			t.notStarted(err)
			return
		}
	}
	if g := t.gpu.Load(); g != nil {
		g.awaitFirst(t.d.ctx)
	}
	t.meterMu.Lock()
	err = t.startMeter(started)
	t.meterMu.Unlock()
	if err != nil {
		t.log.Error("meter can't be started", "error", err)
	}
	t.mu.Lock()
	t.started = started
	t.mu.Unlock()
	close(t.ready)
	t.log.Info("task started", "lease", t.lease(), "pid", started.Pid)
	if reason := t.record().StopReason; reason != "" {
		t.d.wg.Go(func() { t.stopOnce(stopGrace) })
	}
	select {
	case <-p.Done():
		t.finish(p)
	case <-t.d.ctx.Done():
	}
}

// notStarted ends a task that has a lease and never ran. The task stays listed,
// exited, so that a repeated request doesn't run it on a closed lease.
func (t *task) notStarted(cause error) {
	t.log.Warn("task didn't start", "lease", t.lease(), "error", cause)
	// First the note: a crash in between notes it again.
	t.d.todos.add(todo{TaskID: t.id, Lease: t.lease()})
	exit := hostapi.Exit{Error: cause.Error()}
	if reason := t.record().StopReason; reason != "" {
		exit.Reason = reason
	}
	end := outcome{Exit: exit, At: time.Now()}
	if err := t.save(func(r *record) { r.Outcome = &end }); err != nil {
		t.log.Error("end of the task can't be stored", "error", err)
	}
	t.meterMu.Lock()
	t.final = true // there is nothing to record
	t.meterMu.Unlock()
	t.end(end)
	close(t.ready)
	if p := t.process(); p != nil {
		// The shim says why the task didn't start a moment before it is gone.
		select {
		case <-p.Done():
		case <-time.After(replaceWait):
		case <-t.d.ctx.Done():
		}
	}
	t.cleanUp()
	close(t.finished)
}

// end lets everyone know that the task has exited.
func (t *task) end(o outcome) {
	t.mu.Lock()
	t.exit, t.endedAt = &o.Exit, o.At
	t.mu.Unlock()
	close(t.exited)
}

// replace kills older invocations of the same task: Nomad runs one at a time,
// so it has given up those, or never learned of them.
func (d *daemon) replace(ctx context.Context, t *task) {
	req := t.record().Request
	for _, old := range d.list() {
		o := old.record().Request
		if old == t || o.AllocID != req.AllocID || o.Task != req.Task || old.hasExited() {
			continue
		}
		old.log.Warn("Nomad starts the task anew: this invocation is killed", "by", t.id)
		d.wg.Go(func() { old.stopFor("stopped: Nomad started the task anew", 0) })
		select {
		case <-old.exited:
		case <-old.ready:
			select {
			case <-old.exited:
			case <-time.After(replaceWait):
			case <-ctx.Done():
			}
		case <-time.After(replaceWait):
		case <-ctx.Done():
		}
	}
}
