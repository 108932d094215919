package plugin

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/client/lib/cpustats"
	"github.com/hashicorp/nomad/drivers/shared/eventer"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"

	"github.com/joulecloud/joule/driver/hostapi"
)

// How long a call may take before Nomad is told that hostd does not answer.
const (
	startTaskTimeout = 60 * time.Second // settlement and the runtime included
	recoverTimeout   = 30 * time.Second
	stopGrace        = 30 * time.Second // beyond the task's own kill timeout
	destroyTimeout   = 30 * time.Second
	askTimeout       = 10 * time.Second
)

var errNotConfigured = errors.New("driver joule is not configured")

// Driver is the Nomad task driver. It is safe for concurrent use.
type Driver struct {
	ctx    context.Context // the plugin's life
	log    hclog.Logger
	events *eventer.Eventer

	mu      sync.RWMutex
	link    *link // nil until SetConfig brings an agent's configuration
	compute cpustats.Compute
}

var (
	_ drivers.DriverPlugin               = (*Driver)(nil)
	_ drivers.ExecTaskStreamingRawDriver = (*Driver)(nil)
)

// New returns a driver that lives until ctx ends. It does nothing yet.
func New(ctx context.Context, log hclog.Logger) *Driver {
	log = log.Named(Name)
	return &Driver{ctx: ctx, log: log, events: eventer.NewEventer(ctx, log)}
}

// PluginInfo implements base.BasePlugin.
func (d *Driver) PluginInfo() (*base.PluginInfoResponse, error) { return pluginInfo(), nil }

// ConfigSchema implements base.BasePlugin.
func (d *Driver) ConfigSchema() (*hclspec.Spec, error) { return configSpec(), nil }

// TaskConfigSchema implements drivers.DriverPlugin.
func (d *Driver) TaskConfigSchema() (*hclspec.Spec, error) { return taskConfigSpec(), nil }

// Capabilities implements drivers.DriverPlugin.
func (d *Driver) Capabilities() (*drivers.Capabilities, error) { return capabilities(), nil }

// SetConfig checks the whole configuration. Only a call with the agent's own
// configuration takes it into use; Nomad calls it before with none, to validate.
func (d *Driver) SetConfig(c *base.Config) error {
	var cfg Config
	if len(c.PluginConfig) > 0 {
		if err := base.MsgPackDecode(c.PluginConfig, &cfg); err != nil {
			return fmt.Errorf("decode plugin config: %w", err)
		}
	}
	set, err := cfg.resolve()
	if err != nil {
		return err
	}
	if c.AgentConfig == nil || c.AgentConfig.Driver == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.compute = c.AgentConfig.Compute()
	if d.link == nil || d.link.set != set {
		d.link = newLink(d.ctx, set, d.log)
	}
	return nil
}

func (d *Driver) hostd() (*link, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.link == nil {
		return nil, errNotConfigured
	}
	return d.link, nil
}

// ask makes one idempotent call to hostd, within timeout. A task that hostd does
// not know is drivers.ErrTaskNotFound.
func (d *Driver) ask(timeout time.Duration, fn func(context.Context, *hostapi.Client) error) error {
	l, err := d.hostd()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(d.ctx, timeout)
	defer cancel()
	err = l.call(ctx, func(ctx context.Context) error { return fn(ctx, l.client) })
	if isCode(err, hostapi.ErrNotFound) {
		return drivers.ErrTaskNotFound
	}
	return err
}

func (d *Driver) status(id string) (*hostapi.TaskStatus, error) {
	var st *hostapi.TaskStatus
	err := d.ask(askTimeout, func(ctx context.Context, c *hostapi.Client) (err error) {
		st, err = c.Task(ctx, id)
		return err
	})
	return st, err
}

// StartTask has hostd open a lease and run the task. Faults of the job and
// refusals (funds, price, …) are final for this allocation, so that Nomad
// reschedules it; an unreachable hostd or settlement may be tried again.
func (d *Driver) StartTask(cfg *drivers.TaskConfig) (*drivers.TaskHandle, *drivers.DriverNetwork, error) {
	l, err := d.hostd()
	if err != nil {
		return nil, nil, err
	}
	req, err := startRequest(cfg)
	if err != nil {
		return nil, nil, structs.NewRecoverableError(err, false)
	}
	files, err := networkFiles(cfg, req.NetworkNone)
	if err != nil {
		return nil, nil, err
	}
	req.Mounts = append(req.Mounts, files...)
	var st *hostapi.TaskStatus
	told := d.tell(cfg, req)
	err = d.ask(startTaskTimeout+time.Duration(req.PullMs)*time.Millisecond, func(ctx context.Context, c *hostapi.Client) (err error) {
		st, err = c.Start(ctx, req)
		return err
	})
	told(st)
	switch {
	case isCode(err, hostapi.ErrUnavailable):
		d.abandon(cfg.ID)
		return nil, nil, structs.NewRecoverableError(err, true)
	case answered(err):
		d.abandon(cfg.ID)
		return nil, nil, structs.NewRecoverableError(err, false)
	case err != nil:
		// hostd may have the task all the same, and run it when it comes back.
		d.abandon(cfg.ID)
		return nil, nil, structs.NewRecoverableError(err, true)
	case st.State == hostapi.StateExited && st.Pid == 0 && st.Exit != nil && st.Exit.Error != "":
		d.abandon(cfg.ID)
		return nil, nil, structs.NewRecoverableError(errors.New(st.Exit.Error), false)
	}

	handle := drivers.NewTaskHandle(handleVersion)
	handle.Config = cfg
	handle.State = drivers.TaskStateRunning
	state := taskState{TaskID: cfg.ID, Socket: l.set.socket, LeaseID: st.LeaseID, ContainerID: st.ContainerID}
	if err := handle.SetDriverState(&state); err != nil {
		d.abandon(cfg.ID)
		return nil, nil, fmt.Errorf("encode the task's handle: %w", err)
	}
	if _, dropped := withoutNVIDIA(cfg); len(dropped) > 0 {
		d.emit(cfg, "Not passed on, since they steer what GPUs a container gets: "+strings.Join(dropped, ", "), nil)
	}
	d.emit(cfg, fmt.Sprintf("Lease %d opened", st.LeaseID), map[string]string{"lease_id": strconv.FormatUint(st.LeaseID, 10)})
	return handle, nil, nil
}

// abandon has hostd kill and forget a task that Nomad was told did not start, as
// soon as hostd answers: Nomad itself never destroys such a task.
func (d *Driver) abandon(id string) {
	l, err := d.hostd()
	if err != nil {
		return
	}
	go func() {
		err := l.call(d.ctx, func(ctx context.Context) error { return l.client.Destroy(ctx, id, true) })
		if err != nil && !isCode(err, hostapi.ErrNotFound) && d.ctx.Err() == nil {
			d.log.Error("task that did not start could not be removed", "task_id", id, "error", err)
		}
	}()
}

// RecoverTask succeeds when hostd still knows the very task of the handle,
// running or exited. Nomad also calls it for allocations that ended long ago.
func (d *Driver) RecoverTask(h *drivers.TaskHandle) error {
	if h == nil || h.Config == nil {
		return errors.New("recover task: no handle")
	}
	if h.Version != handleVersion {
		return fmt.Errorf("recover task %q: unknown handle version %d", h.Config.ID, h.Version)
	}
	var state taskState
	if err := h.GetDriverState(&state); err != nil {
		return fmt.Errorf("recover task %q: decode its handle: %w", h.Config.ID, err)
	}
	if state.TaskID != h.Config.ID {
		return fmt.Errorf("recover task %q: its handle is of task %q", h.Config.ID, state.TaskID)
	}
	var st *hostapi.TaskStatus
	err := d.ask(recoverTimeout, func(ctx context.Context, c *hostapi.Client) (err error) {
		st, err = c.Task(ctx, h.Config.ID)
		return err
	})
	switch {
	case errors.Is(err, drivers.ErrTaskNotFound):
		return fmt.Errorf("recover task %q: hostd does not know it", h.Config.ID)
	case err != nil:
		return fmt.Errorf("recover task %q: %w", h.Config.ID, err)
	case st.LeaseID != state.LeaseID:
		return fmt.Errorf("recover task %q: hostd has it under lease %d, not %d", h.Config.ID, st.LeaseID, state.LeaseID)
	case st.ContainerID != state.ContainerID:
		return fmt.Errorf("recover task %q: hostd has it in container %q, not %q", h.Config.ID, st.ContainerID, state.ContainerID)
	}
	return nil
}

// WaitTask yields the task's exit once, however often hostd is restarted
// meanwhile. Any number of callers may wait.
func (d *Driver) WaitTask(ctx context.Context, id string) (<-chan *drivers.ExitResult, error) {
	l, err := d.hostd()
	if err != nil {
		return nil, err
	}
	if _, err := d.status(id); errors.Is(err, drivers.ErrTaskNotFound) {
		return nil, err
	}
	ch := make(chan *drivers.ExitResult, 1)
	go func() {
		// When ctx ends first, nothing is sent and ch stays open: Nomad's server
		// answers a closed channel with a message that crashes its client.
		if r := waitTask(ctx, l, id); r != nil {
			ch <- r
			close(ch)
		}
	}()
	return ch, nil
}

func waitTask(ctx context.Context, l *link, id string) *drivers.ExitResult {
	for attempt := 1; ctx.Err() == nil; attempt++ {
		var st *hostapi.TaskStatus
		err := l.call(ctx, func(ctx context.Context) (err error) {
			st, err = l.client.Wait(ctx, id)
			return err
		})
		switch {
		case err == nil && st.State == hostapi.StateExited:
			return exitResult(st)
		case isCode(err, hostapi.ErrNotFound):
			return &drivers.ExitResult{Err: drivers.ErrTaskNotFound}
		}
		// A hostd that is shutting down, or in trouble, has not said that the
		// task ended.
		pause(ctx, backoff(attempt, restartMax))
	}
	return nil
}

// exitResult is a task's end as Nomad words it.
func exitResult(st *hostapi.TaskStatus) *drivers.ExitResult {
	x := st.Exit
	if x == nil {
		return &drivers.ExitResult{Err: errors.New("hostd does not know how the task ended")}
	}
	r := &drivers.ExitResult{ExitCode: x.Code, Signal: x.Signal, OOMKilled: x.OOMKilled}
	if x.Signal != 0 && x.Code == 0 {
		r.ExitCode = 128 + x.Signal // as a shell, and every other driver, has it
	}
	if x.OOMKilled { // Nomad's events show this one to people, but not the flag
		r.Err = errors.New("OOM Killed: the task used more memory than it may")
	}
	if x.Error != "" || x.Reason != "" {
		r.Err = errors.New(strings.Trim(x.Error+"; "+x.Reason, "; "))
	}
	return r
}

// StopTask sends the signal ("": SIGTERM), kills the task when timeout has
// passed, and returns once it has exited. A task that has exited already is
// stopped.
func (d *Driver) StopTask(id string, timeout time.Duration, signal string) error {
	deadline, attempts := time.Now().Add(timeout), 0
	return d.ask(timeout+stopGrace, func(ctx context.Context, c *hostapi.Client) error {
		left := timeout
		if attempts++; attempts > 1 {
			// Repeated because hostd was restarted; the timeout is not.
			left = max(time.Until(deadline), 0)
		}
		_, err := c.Stop(ctx, id, &hostapi.StopRequest{Signal: signal, TimeoutMs: left.Milliseconds()})
		return err
	})
}

// DestroyTask has hostd forget an exited task; a running one only with force,
// which kills it first.
func (d *Driver) DestroyTask(id string, force bool) error {
	attempts := 0
	err := d.ask(destroyTimeout, func(ctx context.Context, c *hostapi.Client) error {
		attempts++
		err := c.Destroy(ctx, id, force)
		if attempts > 1 && isCode(err, hostapi.ErrNotFound) {
			return nil // an attempt whose answer was lost did it
		}
		return err
	})
	if isCode(err, hostapi.ErrRunning) {
		return fmt.Errorf("destroy task %q: still running, and force is not set", id)
	}
	return err
}

// InspectTask implements drivers.DriverPlugin.
func (d *Driver) InspectTask(id string) (*drivers.TaskStatus, error) {
	st, err := d.status(id)
	if err != nil {
		return nil, err
	}
	out := &drivers.TaskStatus{
		ID:          id,
		Name:        taskName(id),
		State:       drivers.TaskStateUnknown, // while it starts
		StartedAt:   st.StartedAt,
		CompletedAt: st.CompletedAt,
		DriverAttributes: map[string]string{
			"lease_id":     strconv.FormatUint(st.LeaseID, 10),
			"container_id": st.ContainerID,
			"pid":          strconv.Itoa(st.Pid),
		},
	}
	switch st.State {
	case hostapi.StateRunning:
		out.State = drivers.TaskStateRunning
	case hostapi.StateExited:
		out.State = drivers.TaskStateExited
		out.ExitResult = exitResult(st)
	}
	return out, nil
}

// taskName is the task's name in a task id (alloc/task/invocation).
func taskName(id string) string {
	_, rest, _ := strings.Cut(id, "/")
	if i := strings.LastIndexByte(rest, '/'); i >= 0 {
		return rest[:i]
	}
	return rest
}

// SignalTask sends a signal, by its name as the user wrote it. It is sent once
// unless hostd went away before it answered.
func (d *Driver) SignalTask(id string, signal string) error {
	return d.ask(askTimeout, func(ctx context.Context, c *hostapi.Client) error {
		return c.Signal(ctx, id, &hostapi.SignalRequest{Signal: signal})
	})
}

// TaskEvents implements drivers.DriverPlugin. Its channel is closed with ctx,
// which the eventer's own is not until it has something to send.
func (d *Driver) TaskEvents(ctx context.Context) (<-chan *drivers.TaskEvent, error) {
	in, err := d.events.TaskEvents(ctx)
	if err != nil {
		return nil, err
	}
	out := make(chan *drivers.TaskEvent)
	go func() {
		defer close(out)
		for {
			select {
			case ev, ok := <-in:
				if !ok {
					return
				}
				select {
				case out <- ev:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

// emit sends a task event; Nomad keeps a task's last ten, so they are rare.
func (d *Driver) emit(cfg *drivers.TaskConfig, message string, notes map[string]string) {
	err := d.events.EmitEvent(&drivers.TaskEvent{
		TaskID:      cfg.ID,
		TaskName:    cfg.Name,
		AllocID:     cfg.AllocID,
		Timestamp:   time.Now(),
		Message:     message,
		Annotations: notes,
	})
	if err != nil {
		d.log.Debug("task event not sent", "task_id", cfg.ID, "message", message, "error", err)
	}
}

// noteEvery is how often hostd is asked what a start is at.
const noteEvery = time.Second

// tell passes on, as task events, what hostd notes while it starts a task with an
// image. The function that it returns ends that with the start's outcome.
func (d *Driver) tell(cfg *drivers.TaskConfig, req *hostapi.StartRequest) func(*hostapi.TaskStatus) {
	if req.Image == "" {
		return func(*hostapi.TaskStatus) {}
	}
	seen := 0
	emit := func(st *hostapi.TaskStatus) {
		for ; st != nil && seen < len(st.Notes); seen++ {
			d.emit(cfg, st.Notes[seen], map[string]string{"image": req.Image})
		}
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(noteEvery)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-d.ctx.Done():
				return
			case <-tick.C:
			}
			if st, err := d.status(cfg.ID); err == nil {
				emit(st)
			}
		}
	}()
	return func(st *hostapi.TaskStatus) {
		close(stop)
		<-stopped
		emit(st)
	}
}
