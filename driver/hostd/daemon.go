package hostd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"

	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/session"
	"github.com/joulecloud/joule/driver/spool"
	"github.com/joulecloud/joule/settlement/wire"
)

// daemon is a running hostd.
type daemon struct {
	cfg      Config
	log      *slog.Logger
	runner   runner
	around   surroundings
	spool    *spool.Spool
	sessions *session.Sessions
	todos    *todos
	gpus     *gpus
	boot     string

	ctx     context.Context // ends when hostd does
	cancel  context.CancelCauseFunc
	wg      sync.WaitGroup // of everything that uses the spool
	recheck chan struct{}  // the checkpoint interval has changed

	mu    sync.Mutex
	tasks map[string]*task
	asked time.Duration // the checkpoint interval a server asked for

	spoolErr error // of the last checkpoint
}

// Run is the host's daemon. It returns nil when ctx ends; the tasks run on, and
// the next Run takes them up. ErrAlreadyRunning: another process serves the
// data directory. It may be called once at a time per data directory.
func Run(ctx context.Context, cfg Config, log *slog.Logger) error {
	cfg.setPaths()
	return run(ctx, cfg, newShimRunner(cfg), surroundings{openWait: openWait, now: time.Now}, log)
}

// surroundings are what tests change around a hostd.
type surroundings struct {
	openWait time.Duration    // for a settlement server to open a lease
	now      func() time.Time // the wall clock: it may be stepped at any time
}

func run(ctx context.Context, cfg Config, r runner, around surroundings, log *slog.Logger) (err error) {
	if err := cfg.Validate(); err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("make data_dir: %w", err)
	}
	held, err := lock(cfg.DataDir)
	if err != nil {
		return err
	}
	defer held.Close()
	if err := r.Open(log); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	key, err := hostKey(cfg.DataDir)
	if err != nil {
		return err
	}
	boot, bootRaw, err := bootID()
	if err != nil {
		return err
	}
	sp, err := spool.Open(filepath.Join(cfg.DataDir, spoolFile), log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sp.Close()) }()

	d := &daemon{
		cfg: cfg, log: log, runner: r, around: around, spool: sp, boot: boot,
		recheck: make(chan struct{}, 1),
		tasks:   map[string]*task{},
		gpus:    newGPUs(cfg.GPU, log),
	}
	d.ctx, d.cancel = context.WithCancelCause(ctx)
	defer d.cancel(nil)

	sc := session.Default()
	sc.Host, sc.Class, sc.Version, sc.Key = cfg.Host, cfg.Class, Version(), key
	sc.BootID, sc.Servers, sc.CAFile, sc.Now = bootRaw, cfg.Servers, cfg.CAFile, around.now
	if _, err := rand.Read(sc.Incarnation[:]); err != nil {
		return fmt.Errorf("make incarnation: %w", err)
	}
	if d.sessions, err = session.New(sc, d, log); err != nil {
		return err
	}
	if d.todos, err = newTodos(sp, around.now, log); err != nil {
		return err
	}
	d.todos.sessions = d.sessions

	srv, err := d.listen()
	if err != nil {
		return err
	}
	// From here on goroutines use the spool: it is closed after them.
	defer d.wg.Wait()
	defer d.cancel(nil)
	if err := d.load(); err != nil {
		return errors.Join(err, srv.close())
	}
	if err := r.Sweep(func(id string) bool { _, err := os.Lstat(filepath.Join(d.tasksDir(), id)); return err == nil }); err != nil {
		log.Error("roots of tasks that are no more can't all be removed", "error", err)
	}
	d.wg.Go(func() { d.sessions.Run(d.ctx) })
	d.wg.Go(func() { d.todos.run(d.ctx) })
	d.wg.Go(d.checkpoints)
	d.wg.Go(func() { d.gpus.run(d.ctx) })
	srv.serve()
	log.Info("hostd runs", "host", cfg.Host, "class", cfg.Class, "data_dir", cfg.DataDir, "socket", cfg.Socket,
		"tasks", len(d.list()), "spool_records", sp.Count())

	select {
	case err = <-srv.failed:
		err = fmt.Errorf("serve %q: %w", cfg.Socket, err)
	case <-d.ctx.Done():
		// The caller's end is no error; our own reason is.
		if cause := context.Cause(d.ctx); ctx.Err() == nil {
			err = cause
		}
	}
	d.cancel(nil)
	err = errors.Join(err, srv.close())
	d.wg.Wait()
	log.Info("hostd stops, tasks run on", "tasks", len(d.list()), "spool_records", sp.Count())
	return err
}

// Version is this build's, as hostd tells it to servers and to the plugin.
func Version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

func (d *daemon) tasksDir() string { return filepath.Join(d.cfg.DataDir, tasksDir) }

func (d *daemon) taskDir(id string) string {
	return filepath.Join(d.tasksDir(), hostapi.ContainerID(id))
}

func notFound(id string) error { return apiError(hostapi.ErrNotFound, "no task %q on this host", id) }

func (d *daemon) task(id string) (*task, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t := d.tasks[id]; t != nil {
		return t, nil
	}
	return nil, notFound(id)
}

// list returns the tasks in the order of their ids.
func (d *daemon) list() []*task {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]*task, 0, len(d.tasks))
	for _, id := range slices.Sorted(maps.Keys(d.tasks)) {
		out = append(out, d.tasks[id])
	}
	return out
}

// add puts the task on the list.
func (d *daemon) add(t *task) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tasks[t.id] = t
}

// forget takes the task off the list.
func (d *daemon) forget(t *task) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.tasks[t.id] == t {
		delete(d.tasks, t.id)
	}
}

func (d *daemon) byLease(lease wire.LeaseID) *task {
	for _, t := range d.list() {
		if t.lease() == lease {
			return t
		}
	}
	return nil
}

// Totals implements session.Host.
func (d *daemon) Totals() []session.Totals {
	var out []session.Totals
	for _, t := range d.list() {
		if tot, ok := t.totals(); ok {
			out = append(out, tot)
		}
	}
	return out
}

// Pending implements session.Host.
func (d *daemon) Pending(limit int) ([]wire.Record, error) {
	rs, err := d.spool.Pending(limit)
	d.fatal(err)
	return rs, err
}

// Settled implements session.Host.
func (d *daemon) Settled(outcomes []session.Outcome) error {
	acked := make([]spool.Acked, 0, len(outcomes))
	for _, o := range outcomes {
		acked = append(acked, spool.Acked{Lease: o.Lease, Seq: o.Seq})
		switch o.Status {
		case joulev1.RecordStatus_RECORD_STATUS_ACCEPTED, joulev1.RecordStatus_RECORD_STATUS_REPEAT, joulev1.RecordStatus_RECORD_STATUS_OLD:
			continue
		}
		d.log.Error("usage record refused for good", "lease", o.Lease, "seq", o.Seq, "status", o.Status)
		switch o.Status {
		case joulev1.RecordStatus_RECORD_STATUS_LEASE_CLOSED:
			d.stopLease(o.Lease, "stopped: the settlement cluster has closed the lease")
		case joulev1.RecordStatus_RECORD_STATUS_UNKNOWN_LEASE, joulev1.RecordStatus_RECORD_STATUS_WRONG_HOST:
			d.stopLease(o.Lease, "stopped: the settlement cluster knows no such lease on this host")
		}
	}
	err := d.spool.Ack(acked...)
	d.fatal(err)
	return err
}

// Stop implements session.Host.
func (d *daemon) Stop(lease wire.LeaseID, why joulev1.StopReason) {
	reason := "stopped by the settlement cluster"
	switch why {
	case joulev1.StopReason_STOP_REASON_FUNDS:
		reason = "stopped: the customer's funds ran out"
	case joulev1.StopReason_STOP_REASON_OPERATOR:
		reason = "stopped by an operator of the settlement cluster"
	case joulev1.StopReason_STOP_REASON_UNKNOWN_LEASE:
		reason = "stopped: the settlement cluster knows no such lease on this host"
	}
	d.stopLease(lease, reason)
}

// stopLease stops the lease's task, if there is one, without waiting for it.
func (d *daemon) stopLease(lease wire.LeaseID, reason string) {
	t := d.byLease(lease)
	if t == nil || t.hasExited() {
		return
	}
	d.wg.Go(func() { t.stopFor(reason, stopGrace) })
}

// CheckpointEvery implements session.Host.
func (d *daemon) CheckpointEvery(every time.Duration) {
	d.mu.Lock()
	changed := d.asked != every
	d.asked = every
	d.mu.Unlock()
	if changed {
		select {
		case d.recheck <- struct{}{}:
		default:
		}
	}
}

func (d *daemon) setSpoolError(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.spoolErr = err
}

func (d *daemon) spoolFailed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.spoolErr != nil
}

// problems is why no task can be run, or be recorded.
func (d *daemon) problems(r runnerInfo) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := slices.Clone(r.Problems)
	if d.spoolErr != nil {
		out = append(out, d.spoolErr.Error())
	}
	return out
}

// info is what hostd knows of itself.
func (d *daemon) info(ctx context.Context) *hostapi.HostInfo {
	r := d.runner.Info(ctx)
	info := &hostapi.HostInfo{
		ProtocolVersion: hostapi.Version,
		Version:         Version(),
		Host:            d.cfg.Host,
		Class:           d.cfg.Class,
		Cgroup:          r.Cgroup,
		Runtimes:        r.Runtimes,
		RuntimeFaults:   r.Faults,
		HostRoot:        d.cfg.AllowHostRoot,
		Isolation:       r.Isolation,
		Problems:        d.problems(r),
		SpoolRecords:    d.spool.Count(),
		Tasks:           len(d.list()),
		Pid:             os.Getpid(),
		Goroutines:      runtime.NumGoroutine(),
		GPU:             d.gpus.info(),
	}
	if info.GPU != nil && d.cfg.GPU.Required {
		info.Problems = append(info.Problems, info.GPU.Problems...)
	}
	for _, s := range d.sessions.Status() {
		si := hostapi.ServerInfo{URL: s.URL, Connected: s.Connected}
		if s.Err != nil {
			si.Error = s.Err.Error()
		}
		info.Servers = append(info.Servers, si)
	}
	return info
}
