// Package meter turns readings of a task's counters into cumulative usage: the
// time between two boundaries is a segment, and a segment counts for the state
// the task was in. It is pure: no clock, no file; the same readings give the
// same totals.
//
// Time is kept in ns and CPU in µs, and both are rounded to the nearest ms only
// when a total is reported. So a reported total is within 0.5 ms of the exact
// one however many boundaries there were, and it never drifts. Memory totals are
// the reported wall milliseconds times what is reserved, exactly; so are GPU
// totals, less the time that a device was gone.
//
// A Meter is not safe for concurrent use. Its JSON form is its whole state:
// a caller that writes it to disk after each boundary and reads it back after a
// crash loses nothing, since the counters are cumulative.
package meter

import (
	"errors"
	"fmt"

	"github.com/joulecloud/joule/settlement/wire"
)

// Reading is a task's counters at a moment.
type Reading struct {
	MonoNs   int64       // CLOCK_MONOTONIC
	CPUUsec  uint64      // cumulative, of the task's cgroup
	CPUKnown bool        // false: the counter could not be read, CPUUsec means nothing
	GPU      *GPUReading // nil: nothing new is known of its GPUs
}

// State is what a task is doing, as far as its price goes. The numbers are on
// disk: append only.
type State uint8

// The states.
const (
	Idle    State = 0 // not started
	Active  State = 1
	Standby State = 2
	Ended   State = 3
)

// String returns the state's name.
func (s State) String() string {
	switch s {
	case Idle:
		return "idle"
	case Active:
		return "active"
	case Standby:
		return "standby"
	case Ended:
		return "ended"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// ErrState is returned when a boundary does not fit the meter's state.
var ErrState = errors.New("the boundary does not fit the meter's state")

// Held is what the task has reserved.
type Held struct {
	GPUs      uint32 `json:"gpus"`
	MemoryMiB uint32 `json:"memory_mib"`
}

// Sum is exact usage in one state.
type Sum struct {
	WallNs  int64  `json:"wall_ns"`
	CPUUsec uint64 `json:"cpu_usec"`
}

// Meter meters one task. The zero value and a decoded one work; New gives one
// that holds something.
type Meter struct {
	Held    Held   `json:"held"`
	State   State  `json:"state"`
	Epoch   uint32 `json:"epoch"` // of the slot; Active counts since it began
	Active  Sum    `json:"active"`
	Standby Sum    `json:"standby"`

	// Where the open segment stands.
	SegmentNs int64  `json:"segment_ns"` // when it began
	LastNs    int64  `json:"last_ns"`    // up to when it has been counted
	CPUBase   uint64 `json:"cpu_base"`   // the highest CPU counter that has been counted
	CPUSeen   bool   `json:"cpu_seen"`   // the counter could be read at least once

	Quality wire.Quality `json:"quality"` // of all that has been counted
	// CPUUnread is set while the latest reading had no CPU counter.
	CPUUnread bool `json:"cpu_unread"`

	// The devices it holds, see HoldGPUs, and whether the latest reading of them
	// failed.
	Devices   []Device `json:"devices,omitempty"`
	GPUFromUs uint64   `json:"gpu_from_us,omitempty"`
	GPUUnread bool     `json:"gpu_unread,omitempty"`
}

// New returns a meter of a task that holds h.
func New(h Held) *Meter { return &Meter{Held: h} }

// Start begins metering: the task executes, r is taken at its exec. In state
// Active the epoch is that of its slot (1 without a pool).
func (m *Meter) Start(r Reading, s State, epoch uint32) error {
	if m.State != Idle || (s != Active && s != Standby) {
		return fmt.Errorf("start in state %s as %s: %w", m.State, s, ErrState)
	}
	m.takeGPUs(r.GPU, 0, r.MonoNs)
	m.State, m.Epoch = s, epoch
	m.SegmentNs, m.LastNs = r.MonoNs, r.MonoNs
	if r.CPUKnown {
		m.CPUBase, m.CPUSeen = r.CPUUsec, true
	} else {
		// What the task uses until the first reading is never known.
		m.CPUUnread = true
		m.Quality |= wire.QualityCPUUnread
	}
	return nil
}

// Checkpoint counts the segment up to r and leaves it open.
func (m *Meter) Checkpoint(r Reading) error {
	if m.State != Active && m.State != Standby {
		return fmt.Errorf("checkpoint in state %s: %w", m.State, ErrState)
	}
	m.count(r)
	return nil
}

// Freeze counts the segment up to r; from there the task stands by.
func (m *Meter) Freeze(r Reading) error {
	if m.State != Active {
		return fmt.Errorf("freeze in state %s: %w", m.State, ErrState)
	}
	m.count(r)
	m.State, m.SegmentNs = Standby, m.LastNs
	return nil
}

// Thaw counts the segment up to r; from there the task is active under the
// epoch. A new epoch's active totals begin at zero.
func (m *Meter) Thaw(r Reading, epoch uint32) error {
	if m.State != Standby || epoch < m.Epoch {
		return fmt.Errorf("thaw in state %s from epoch %d to %d: %w", m.State, m.Epoch, epoch, ErrState)
	}
	m.count(r)
	if epoch != m.Epoch {
		m.Active = Sum{}
		for i := range m.Devices {
			m.Devices[i].LostActiveNs = 0
		}
	}
	m.State, m.Epoch, m.SegmentNs = Active, epoch, m.LastNs
	return nil
}

// Stop counts the segment up to r, the task's exit, and ends metering. The exit
// is the truth: where a checkpoint was read after it, the excess is taken back.
func (m *Meter) Stop(r Reading) error {
	if m.State != Active && m.State != Standby {
		return fmt.Errorf("stop in state %s: %w", m.State, ErrState)
	}
	if r.MonoNs < m.LastNs {
		back := m.LastNs - max(r.MonoNs, m.SegmentNs)
		m.takeBackLost(m.LastNs-back, m.LastNs)
		m.sum().WallNs -= back
		m.LastNs -= back
	}
	m.count(r)
	m.State = Ended
	return nil
}

// StopEstimated ends metering at the last boundary: the exit was seen by nobody
// (the shim died, the host rebooted). why is added to the quality.
func (m *Meter) StopEstimated(why wire.Quality) error {
	if m.State != Active && m.State != Standby {
		return fmt.Errorf("stop in state %s: %w", m.State, ErrState)
	}
	m.State = Ended
	m.Quality |= why | wire.QualityExitEstimated
	return nil
}

// sum is where the open segment counts.
func (m *Meter) sum() *Sum {
	if m.State == Standby {
		return &m.Standby
	}
	return &m.Active
}

// count counts the segment up to r.
func (m *Meter) count(r Reading) {
	s := m.sum()
	m.takeGPUs(r.GPU, max(r.MonoNs-m.LastNs, 0), m.LastNs)
	if r.MonoNs >= m.LastNs {
		s.WallNs += r.MonoNs - m.LastNs
		m.LastNs = r.MonoNs
	} else {
		m.Quality |= wire.QualityClockStepped
	}
	switch {
	case !r.CPUKnown:
		m.CPUUnread = true
	case !m.CPUSeen:
		m.CPUBase, m.CPUSeen, m.CPUUnread = r.CPUUsec, true, false
	case r.CPUUsec < m.CPUBase:
		// A counter that went back counts again once it is past where it was.
		m.CPUUnread = true
		m.Quality |= wire.QualityCPUUnread
	default:
		// What could not be read at earlier boundaries is in here.
		s.CPUUsec += r.CPUUsec - m.CPUBase
		m.CPUBase, m.CPUUnread = r.CPUUsec, false
	}
}

// Usage is what a usage record says.
type Usage struct {
	Epoch   uint32
	Active  wire.Totals // since the epoch began
	Standby wire.Totals // since the lease began
	Known   wire.Known
	Quality wire.Quality
}

// Usage reports the totals up to the last boundary. CPU that was never read is
// not Known; CPU that could not be read the last time is reported as it last
// was, and flagged.
func (m *Meter) Usage() Usage {
	u := Usage{
		Epoch:   m.Epoch,
		Active:  m.totals(Active, m.Active),
		Standby: m.totals(Standby, m.Standby),
		Known:   wire.KnownWall | wire.KnownGPU | wire.KnownMemory,
		Quality: m.Quality | m.gpuQuality(),
	}
	if m.CPUSeen {
		u.Known |= wire.KnownCPU
	}
	if m.CPUUnread {
		u.Quality |= wire.QualityCPUUnread
	}
	return u
}

func (m *Meter) totals(state State, s Sum) wire.Totals {
	wall := uint64(s.WallNs+500_000) / 1_000_000
	return wire.Totals{
		WallMs:      wall,
		CPUMs:       (s.CPUUsec + 500) / 1000,
		GPUMs:       m.gpuMs(state, s.WallNs),
		MemoryMiBMs: wall * uint64(m.Held.MemoryMiB),
	}
}
