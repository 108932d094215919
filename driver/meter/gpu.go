package meter

import (
	"cmp"
	"slices"

	"github.com/joulecloud/joule/settlement/wire"
)

// GPUReading is what is known of a task's GPUs at a boundary. What it lacks is
// unknown and leaves the totals as they were (rule U4).
type GPUReading struct {
	// Unread: for too long nobody could read the devices.
	Unread  bool
	Devices []DeviceReading
	// UntilUs ends the task's use, in Unix µs: nothing after it counts; 0: it
	// goes on.
	UntilUs uint64
}

// DeviceReading is one GPU's or MIG device's counters.
type DeviceReading struct {
	UUID string
	// Lost: the driver says that the device is gone.
	Lost     bool
	EnergyMJ *uint64  // cumulative; nil: unknown
	Samples  []Sample // in any order, with repeats; nil: unknown
}

// Sample says how busy a device was from the sample before to this one.
type Sample struct {
	AtUs    uint64 // Unix µs
	Percent uint8  // at most 100
}

// Device is the meter of one GPU or MIG device that the task holds.
type Device struct {
	UUID string `json:"uuid"`
	// How long the task held it in vain, since it was gone. Such time is not
	// billed: it begins where the device was last known to be there.
	LostActiveNs  int64 `json:"lost_active_ns,omitempty"`
	LostStandbyNs int64 `json:"lost_standby_ns,omitempty"`
	Lost          bool  `json:"lost,omitempty"`
	LostFromNs    int64 `json:"lost_from_ns,omitempty"`

	Busy Busy `json:"busy"`

	EnergyMJ     uint64 `json:"energy_mj"`   // since the task's start
	EnergyBase   uint64 `json:"energy_base"` // the counter as last read
	EnergySeen   bool   `json:"energy_seen"`
	EnergyUnread bool   `json:"energy_unread"` // part of it is unknown for good
}

// Busy estimates how long a device was busy, from samples of its utilisation.
// The zero value is ready.
type Busy struct {
	PercentUs uint64 `json:"percent_us"` // integral of the percentage over µs
	LastUs    uint64 `json:"last_us"`    // the newest sample's time; 0: none yet
	Seen      bool   `json:"seen"`       // something was integrated
	Gap       bool   `json:"gap"`        // samples are missing in between
}

// SamplePeriodMaxUs is how much time a sample can stand for: NVIDIA's documents
// say at most 1 s. A longer silence is a gap: what went on in it is unknown.
const SamplePeriodMaxUs = 1_100_000

// Add integrates the samples that are newer than all before, as far as they lie
// from fromUs to untilUs (0: open). A sample stands for the time since the one
// before it, so the first of all stands for none. Order and repeats don't matter.
func (b *Busy) Add(samples []Sample, fromUs, untilUs uint64) {
	sorted := slices.Clone(samples)
	slices.SortFunc(sorted, func(x, y Sample) int {
		return cmp.Or(cmp.Compare(x.AtUs, y.AtUs), cmp.Compare(y.Percent, x.Percent))
	})
	for _, s := range sorted {
		if s.AtUs <= b.LastUs {
			continue
		}
		last := b.LastUs
		b.LastUs = s.AtUs
		if last == 0 {
			continue
		}
		begin, end := max(last, fromUs), s.AtUs
		if untilUs != 0 {
			end = min(end, untilUs)
		}
		if begin >= end {
			continue
		}
		if s.AtUs-last > SamplePeriodMaxUs {
			b.Gap = true
			if begin = max(begin, s.AtUs-SamplePeriodMaxUs); begin >= end {
				continue
			}
		}
		b.PercentUs += uint64(min(s.Percent, 100)) * (end - begin)
		b.Seen = true
	}
}

// Ms is the estimate, rounded to the nearest ms.
func (b *Busy) Ms() uint64 { return (b.PercentUs + 50_000) / 100_000 }

// HoldGPUs says which devices the task holds, before Start. fromUs is the
// task's exec in Unix µs: samples of the time before are not its own.
func (m *Meter) HoldGPUs(uuids []string, fromUs uint64) {
	m.Devices, m.GPUFromUs = nil, fromUs
	for _, u := range uuids {
		m.Devices = append(m.Devices, Device{UUID: u})
	}
}

// takeGPUs takes a reading's devices in; dtNs is the time since the last
// boundary. The time up to now counts as lost if the device was lost at either
// end of it.
func (m *Meter) takeGPUs(r *GPUReading, dtNs, fromNs int64) {
	for i := range m.Devices {
		d := &m.Devices[i]
		wasLost := d.Lost
		if r != nil {
			for j := range r.Devices {
				if r.Devices[j].UUID == d.UUID {
					m.takeDevice(d, &r.Devices[j], r.UntilUs)
				}
			}
		}
		if d.Lost && !wasLost {
			d.LostFromNs = fromNs
			m.Quality |= wire.QualityGPULost
		}
		if d.Lost || wasLost {
			*d.lostNs(m.State) += dtNs
		}
	}
	if r != nil {
		m.GPUUnread = r.Unread
	}
}

func (m *Meter) takeDevice(d *Device, r *DeviceReading, untilUs uint64) {
	d.Lost = r.Lost
	if r.Samples != nil {
		d.Busy.Add(r.Samples, m.GPUFromUs, untilUs)
	}
	switch {
	case r.EnergyMJ == nil:
	case !d.EnergySeen:
		// What it used between the start and this first reading is unknown.
		d.EnergyUnread = d.EnergyUnread || m.State != Idle
		d.EnergySeen, d.EnergyBase = true, *r.EnergyMJ
	case *r.EnergyMJ < d.EnergyBase:
		// The driver was loaded anew: it counts from zero.
		d.EnergyUnread, d.EnergyBase = true, *r.EnergyMJ
	default:
		d.EnergyMJ += *r.EnergyMJ - d.EnergyBase
		d.EnergyBase = *r.EnergyMJ
	}
}

// lostNs is where lost time counts in a state.
func (d *Device) lostNs(s State) *int64 {
	if s == Standby {
		return &d.LostStandbyNs
	}
	return &d.LostActiveNs
}

// takeBackLost takes lost time back with the wall time from newNs to oldNs.
func (m *Meter) takeBackLost(newNs, oldNs int64) {
	for i := range m.Devices {
		d := &m.Devices[i]
		if from := max(newNs, d.LostFromNs); d.Lost && from < oldNs {
			*d.lostNs(m.State) -= oldNs - from
		}
	}
}

// gpuMs is the time that devices were held in a state: per device, so that none
// is billed while it was gone.
func (m *Meter) gpuMs(s State, wallNs int64) uint64 {
	var sum uint64
	for i := range m.Held.GPUs {
		ns := wallNs
		if int(i) < len(m.Devices) {
			ns -= *m.Devices[i].lostNs(s)
		}
		sum += uint64(max(ns, 0)+500_000) / 1_000_000
	}
	return sum
}

// GPUUsage is what a usage record says of GPUs beside the time held. Both are
// sums over the devices, and lower bounds where Usage's quality says so.
type GPUUsage struct {
	BusyMs   uint64 // an estimate
	EnergyMJ uint64
}

// GPUUsage reports the totals up to the last boundary.
func (m *Meter) GPUUsage() GPUUsage {
	var u GPUUsage
	for i := range m.Devices {
		u.BusyMs += m.Devices[i].Busy.Ms()
		u.EnergyMJ += m.Devices[i].EnergyMJ
	}
	return u
}

// gpuQuality is what the readings were worth.
func (m *Meter) gpuQuality() wire.Quality {
	var q wire.Quality
	for i := range m.Devices {
		d := &m.Devices[i]
		if d.Busy.Seen {
			q |= wire.QualityGPUEstimated
		}
		if !d.Busy.Seen || d.Busy.Gap || m.GPUUnread {
			q |= wire.QualityGPUUnread
		}
		if !d.EnergySeen || d.EnergyUnread || m.GPUUnread {
			q |= wire.QualityGPUEnergyUnread
		}
	}
	return q
}

// SamplesSince is the newest sample that was counted of a device, in Unix µs; 0:
// none. Later ones are asked for from there.
func (m *Meter) SamplesSince(uuid string) uint64 {
	for i := range m.Devices {
		if m.Devices[i].UUID == uuid {
			return m.Devices[i].Busy.LastUs
		}
	}
	return 0
}

// Clone returns a meter of its own with the same state.
func (m *Meter) Clone() *Meter {
	c := *m
	c.Devices = slices.Clone(m.Devices)
	return &c
}
