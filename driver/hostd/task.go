package hostd

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/meter"
	"github.com/joulecloud/joule/driver/session"
	"github.com/joulecloud/joule/driver/shim"
	"github.com/joulecloud/joule/driver/spool"
	"github.com/joulecloud/joule/settlement/wire"
)

// task is one invocation of a Nomad task, from the request until it is
// destroyed.
type task struct {
	d   *daemon
	id  string
	dir string
	log *slog.Logger

	alloc, name string                   // Nomad's allocation and task
	devices     []string                 // UUIDs of the GPUs it holds until it has exited
	gpu         atomic.Pointer[gpuTrack] // nil: it has none, or isn't launched yet

	// ready is closed when the start has come to an end: the task runs, or has
	// exited, or start holds why there is no task.
	ready    chan struct{}
	start    error // set before ready is closed; then the task isn't listed any more
	exited   chan struct{}
	giveUp   func() // ends a start under way
	finished chan struct{}

	mu      sync.Mutex
	rec     record
	proc    proc          // nil before the shim is launched
	started *shim.Started // nil before the task runs
	exit    *hostapi.Exit // nil before it has exited
	endedAt time.Time
	notes   []string // see hostapi.TaskStatus
	// accounted is how long the driver's accounts say that its GPUs were used,
	// in ms; nil: they don't say.
	accounted *uint64

	// meterMu orders the lease's records: it is held from a reading until the
	// record with it is spooled.
	meterMu sync.Mutex
	meter   *meter.Meter
	final   bool   // the final record is spooled
	base    uint64 // see spool.Update.Base

	beatMu sync.Mutex
	beat   session.Totals // the highest totals that a heartbeat has said

	standby atomic.Bool // it is frozen

	// ending is set by the first stop that we decided on ourselves: the command
	// that asked for it and a start that finds it on disk may come at once.
	ending atomic.Bool
}

func (d *daemon) newTask(rec record) *task {
	return &task{
		d:        d,
		id:       rec.Request.ID,
		dir:      d.taskDir(rec.Request.ID),
		alloc:    rec.Request.AllocID,
		name:     rec.Request.Task,
		devices:  rec.Request.Devices,
		log:      d.log.With("task", rec.Request.ID),
		ready:    make(chan struct{}),
		exited:   make(chan struct{}),
		finished: make(chan struct{}),
		giveUp:   func() {},
		rec:      rec,
	}
}

// save changes the task's record, on disk first.
func (t *task) save(change func(*record)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	rec := t.rec
	change(&rec)
	if err := writeRecord(t.dir, &rec); err != nil {
		return err
	}
	t.rec = rec
	return nil
}

func (t *task) record() record {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rec
}

// lease is the task's lease; 0 before it is open.
func (t *task) lease() wire.LeaseID {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rec.Grant == nil {
		return 0
	}
	return t.rec.Grant.Lease
}

// process returns the task's process; nil before it is launched.
func (t *task) process() proc {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.proc
}

// hasExited says whether the task has ended, or never ran.
func (t *task) hasExited() bool {
	select {
	case <-t.exited:
		return true
	default:
		return false
	}
}

// status is the task as the API shows it.
func (t *task) status() *hostapi.TaskStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	st := &hostapi.TaskStatus{ID: t.id, State: hostapi.StateStarting, ContainerID: t.rec.ContainerID, Notes: slices.Clone(t.notes), GPU: t.gpuStatus()}
	if t.rec.Grant != nil {
		st.LeaseID = uint64(t.rec.Grant.Lease)
	}
	if t.proc != nil {
		spec := t.proc.Spec()
		st.Runtime, st.RuntimeRoot = spec.Runtime, spec.RuntimeRoot
	}
	st.Standby = t.standby.Load()
	if t.started != nil {
		st.State, st.Pid = hostapi.StateRunning, t.started.Pid
		st.StartedAt = time.Unix(0, t.started.ExecWallNs)
	}
	if t.exit != nil {
		e := *t.exit
		st.State, st.Exit, st.CompletedAt = hostapi.StateExited, &e, t.endedAt
	}
	return st
}

// notesMax bounds what is kept of a start: Nomad keeps ten events of a task.
const notesMax = 8

// note keeps a word for the customer on what happens before the task runs.
func (t *task) note(text string) {
	t.log.Info("note", "text", text)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.notes) < notesMax {
		t.notes = append(t.notes, text)
	}
}

// meterState is what the spool keeps for a lease beside its chain. It is
// stored in the same transaction as the record that came of it, so that after
// a crash the two agree.
type meterState struct {
	Meter *meter.Meter `json:"meter"`
	Final bool         `json:"final"`
}

// update is the task's next record and state for the spool. With final it is
// the lease's last one. The caller holds meterMu.
func (t *task) update(final bool) (spool.Update, error) {
	state, err := json.Marshal(meterState{t.meter, final})
	if err != nil {
		return spool.Update{}, fmt.Errorf("encode meter: %w", err)
	}
	u, g := t.meter.Usage(), t.meter.GPUUsage()
	return spool.Update{
		Lease: t.lease(),
		Record: &wire.Record{
			Epoch:   u.Epoch,
			Known:   u.Known,
			Final:   final,
			Active:  u.Active,
			Standby: u.Standby,
			Quality: u.Quality,

			GPUBusyMs:   g.BusyMs,
			GPUEnergyMJ: g.EnergyMJ,
		},
		State: state,
		Base:  t.base,
	}, nil
}

// held is what the lease reserves: what settlement granted, which is what the
// customer pays for.
func held(g *session.Grant, req *hostapi.StartRequest) meter.Held {
	h := meter.Held{GPUs: g.Resources.GPUs, MemoryMiB: g.Resources.MemoryMiB}
	if h.MemoryMiB == 0 {
		h.MemoryMiB = uint32(max(req.MemoryMiB, 0))
	}
	return h
}

// startMeter starts the meter at the exec, unless it runs already. The caller
// holds meterMu.
func (t *task) startMeter(s *shim.Started) error {
	if t.meter.State != meter.Idle {
		return nil
	}
	if !s.ExecStamped {
		t.meter.Quality |= wire.QualityStartUnstamped
	}
	rec := t.record()
	if len(t.devices) > 0 {
		t.meter.HoldGPUs(t.devices, uint64(s.ExecWallNs/1000))
	}
	return t.meter.Start(meter.Reading{MonoNs: s.ExecMonoNs, CPUUsec: s.CPUBaseUsec, CPUKnown: true, GPU: t.gpuReading()}, meter.Active, max(rec.Grant.Epoch, 1))
}

func reading(s shim.Sample) meter.Reading {
	r := meter.Reading{MonoNs: s.MonoNs}
	if s.CPUUsec != nil {
		r.CPUUsec, r.CPUKnown = *s.CPUUsec, true
	}
	return r
}

// beatMaxAge is how old what a heartbeat says may be: as old as a checkpoint,
// so that as a rule a heartbeat costs no reading of its own.
const beatMaxAge = 2500 * time.Millisecond

// totals is what the lease has used until now, or a moment ago, for a heartbeat.
// ok is false when the task doesn't run. It doesn't wait for a record being
// written.
func (t *task) totals() (tot session.Totals, ok bool) {
	lease := t.lease()
	if lease == 0 || t.hasExited() {
		return session.Totals{}, false
	}
	t.beatMu.Lock()
	defer t.beatMu.Unlock()
	if t.meterMu.TryLock() {
		if t.meter != nil && t.meter.State != meter.Idle {
			m := t.meter
			// A meter that was just loaded may be behind what was said before:
			// the spool that had its last checkpoint may be lost.
			first := t.beat.Lease == 0
			if m.State != meter.Ended && (first || monoNow()-m.LastNs > int64(beatMaxAge)) {
				s, err := t.process().Sample()
				if err == nil {
					m = m.Clone() // a look ahead, no boundary
					// The state was checked: a checkpoint fits it.
					_ = m.Checkpoint(reading(s))
				} else if first {
					t.meterMu.Unlock()
					return session.Totals{}, false
				}
			}
			u := m.Usage()
			t.beat.WallMs = max(t.beat.WallMs, u.Active.WallMs)
			t.beat.CPUMs = max(t.beat.CPUMs, u.Active.CPUMs)
			t.beat.Lease = lease
		}
		t.meterMu.Unlock()
	}
	// Nothing read yet, as just after a start: nothing said is better than less
	// than before.
	return t.beat, t.beat.Lease != 0
}

// seqStride is more records than a lease ever has.
const seqStride = 1 << 40

// loadMeter restores the meter from the spool. A lease that the spool doesn't
// know though its task was launched lost its chain with a damaged file: its
// totals come again from the last turn or the start's stamps, exactly. Its
// sequence goes on from a base that is on disk before it is used and beyond
// every sequence given out before: past the last base where the chain was lost
// before, whatever has become of the clock.
func (t *task) loadMeter() error {
	rec := t.record()
	chain, ok, err := t.d.spool.Chain(rec.Grant.Lease)
	if err != nil {
		return err
	}
	t.meterMu.Lock()
	defer t.meterMu.Unlock()
	t.meter = meter.New(held(rec.Grant, &rec.Request))
	if !ok {
		if rec.Turned != nil {
			t.meter = rec.Turned.Clone()
		}
		t.base = max(uint64(max(t.d.around.now().UnixMilli(), 0)), rec.SeqBase+seqStride)
		return t.save(func(r *record) { r.SeqBase = t.base })
	}
	if chain.State == nil {
		return nil
	}
	var state meterState
	if err := json.Unmarshal(chain.State, &state); err != nil {
		return fmt.Errorf("decode meter of lease %d: %w", rec.Grant.Lease, err)
	}
	if state.Meter == nil {
		return errors.New("decode meter: none is there")
	}
	t.meter, t.final = state.Meter, state.Final
	if rec.Turned != nil && rec.Turned.LastNs > t.meter.LastNs {
		t.meter = rec.Turned.Clone() // hostd was killed before the turn was in the spool
	}
	return nil
}
