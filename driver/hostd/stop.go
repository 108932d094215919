package hostd

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/shim"
)

const (
	stopGrace = 5 * time.Second // from SIGTERM to SIGKILL when we stop a task ourselves
	killAgain = 2 * time.Second // a task that is still there is killed again
	stopMax   = 24 * time.Hour
)

// parseSignal understands "SIGTERM", "TERM", "term" and "15"; "" is SIGTERM.
func parseSignal(s string) (unix.Signal, error) {
	if s == "" {
		return unix.SIGTERM, nil
	}
	if n, err := strconv.Atoi(s); err == nil && n >= 1 && n <= 64 {
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	return 0, apiError(hostapi.ErrInvalid, "signal: unknown (got %q)", s)
}

// stop signals the task's first process, kills all of the task after the
// timeout, and returns once it has exited or hostd ends.
func (t *task) stop(sig unix.Signal, timeout time.Duration) {
	select {
	case <-t.ready:
	case <-t.d.ctx.Done():
		return
	}
	if t.start != nil || t.hasExited() {
		return
	}
	p := t.process()
	if t.standby.Load() {
		sig = unix.SIGKILL // it stands still, and may run only where it is told to
	}
	if sig != unix.SIGKILL {
		if err := p.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.log.Error("task can't be signalled", "signal", unix.SignalName(sig), "error", err)
		}
	} else {
		timeout = 0
	}
	for {
		select {
		case <-t.exited:
			return
		case <-p.Done():
			// The shim has seen the end: finish is at work.
			select {
			case <-t.exited:
			case <-t.d.ctx.Done():
			}
			return
		case <-t.d.ctx.Done():
			return
		case <-time.After(timeout):
		}
		if err := p.Kill(); err != nil {
			t.log.Error("task can't be killed, will try again", "error", err)
		}
		timeout = killAgain
	}
}

// stopFor stops the task for a reason of ours, which is on disk first so that
// the next hostd goes on with it. A stop under way for a reason isn't repeated.
func (t *task) stopFor(reason string, grace time.Duration) {
	if t.hasExited() {
		return
	}
	already := false
	err := t.save(func(r *record) {
		if already = r.StopReason != ""; !already {
			r.StopReason = reason
		}
	})
	if already {
		return
	}
	if err != nil {
		t.log.Error("reason of the stop can't be stored", "reason", reason, "error", err)
	}
	t.log.Info("stopping task", "reason", reason)
	t.stopOnce(grace)
}

// stopOnce carries a stop of our own out, once.
func (t *task) stopOnce(grace time.Duration) {
	if t.ending.CompareAndSwap(false, true) {
		t.stop(unix.SIGTERM, grace)
	}
}

// stopTask serves a stop. It goes on when the caller goes away.
func (d *daemon) stopTask(ctx context.Context, id string, req *hostapi.StopRequest) (*hostapi.TaskStatus, error) {
	name := req.Signal
	if name == "" {
		name = stopSignal(d.taskDir(id))
	}
	sig, err := parseSignal(name)
	if err != nil {
		return nil, err
	}
	if req.TimeoutMs < 0 || req.TimeoutMs > stopMax.Milliseconds() {
		return nil, apiError(hostapi.ErrInvalid, "timeout_ms: must be from 0 to %d (got %d)", stopMax.Milliseconds(), req.TimeoutMs)
	}
	t, err := d.task(id)
	if err != nil {
		return nil, err
	}
	d.wg.Go(func() { t.stop(sig, time.Duration(req.TimeoutMs)*time.Millisecond) })
	return t.wait(ctx)
}

// wait returns once the task has exited.
func (t *task) wait(ctx context.Context) (*hostapi.TaskStatus, error) {
	select {
	case <-t.exited:
		return t.status(), nil
	case <-t.ready:
		if t.start != nil {
			return nil, notFound(t.id)
		}
	case <-ctx.Done():
		return nil, apiError(hostapi.ErrUnavailable, "the caller gave up waiting for task %q to end", t.id)
	}
	select {
	case <-t.exited:
		return t.status(), nil
	case <-ctx.Done():
		return nil, apiError(hostapi.ErrUnavailable, "the caller gave up waiting for task %q to end", t.id)
	}
}

// signalTask sends a signal to the task's first process.
func (d *daemon) signalTask(id string, req *hostapi.SignalRequest) error {
	sig, err := parseSignal(req.Signal)
	if err != nil {
		return err
	}
	t, err := d.task(id)
	if err != nil {
		return err
	}
	p := t.process()
	if t.hasExited() || p == nil {
		return apiError(hostapi.ErrInvalid, "task %q isn't running", id)
	}
	err = p.Signal(sig)
	switch {
	case errors.Is(err, os.ErrProcessDone), errors.Is(err, shim.ErrNotStarted):
		return apiError(hostapi.ErrInvalid, "task %q isn't running", id)
	case err != nil:
		return apiError(hostapi.ErrInternal, "signal task %q: %v", id, err)
	}
	return nil
}
