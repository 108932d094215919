package meter

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/joulecloud/joule/settlement/wire"
)

func ptr[T any](v T) *T { return &v }

const gpuFlags = wire.QualityGPUUnread | wire.QualityGPUEnergyUnread | wire.QualityGPUEstimated | wire.QualityGPULost

// gpu is a reading of one device, "GPU-a", at a moment.
func gpu(monoNs int64, d DeviceReading) Reading {
	r := known(monoNs, 0)
	d.UUID = "GPU-a"
	r.GPU = &GPUReading{Devices: []DeviceReading{d}}
	return r
}

func samples(pairs ...uint64) []Sample {
	out := []Sample{}
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, Sample{AtUs: pairs[i], Percent: uint8(pairs[i+1])})
	}
	return out
}

func TestGPUUsage(t *testing.T) {
	const s = 1_000_000 // µs
	full := func(mono int64, mj uint64, ss []Sample) Reading {
		return gpu(mono, DeviceReading{EnergyMJ: &mj, Samples: ss})
	}
	for _, tt := range []struct {
		name    string
		run     func(m *Meter)
		wantGPU uint64 // held ms
		want    GPUUsage
		quality wire.Quality
	}{
		{
			"busy time and energy between the boundaries, and none of the time before the exec",
			func(m *Meter) {
				must(t, m.Start(full(0, 700, samples(99*s, 80, 100*s-s/2, 90)), Active, 1))
				must(t, m.Checkpoint(full(1000*ms, 1000, samples(100*s+s/2, 100, 101*s, 50))))
				must(t, m.Stop(full(2000*ms, 1700, samples(102*s, 10))))
			},
			// 500 ms at 100 % (of a sample of 1 s that began before), 500 at 50, 1000 at 10.
			2000, GPUUsage{BusyMs: 500 + 250 + 100, EnergyMJ: 1000}, wire.QualityGPUEstimated,
		},
		{
			"nothing was ever read",
			func(m *Meter) {
				must(t, m.Start(known(0, 0), Active, 1))
				must(t, m.Stop(known(137*ms, 0)))
			},
			137, GPUUsage{}, wire.QualityGPUUnread | wire.QualityGPUEnergyUnread,
		},
		{
			"a device that says neither is held all the same",
			func(m *Meter) {
				must(t, m.Start(gpu(0, DeviceReading{}), Active, 1))
				must(t, m.Stop(gpu(137*ms, DeviceReading{})))
			},
			137, GPUUsage{}, wire.QualityGPUUnread | wire.QualityGPUEnergyUnread,
		},
		{
			"energy first read after the start is a lower bound",
			func(m *Meter) {
				must(t, m.Start(known(0, 0), Active, 1))
				must(t, m.Checkpoint(full(10*ms, 500, samples(100*s, 0, 101*s, 0))))
				must(t, m.Stop(full(20*ms, 600, samples())))
			},
			20, GPUUsage{EnergyMJ: 100}, wire.QualityGPUEstimated | wire.QualityGPUEnergyUnread,
		},
		{
			"an energy counter that begins anew is flagged and takes nothing back",
			func(m *Meter) {
				must(t, m.Start(full(0, 500, samples(100*s, 0, 101*s, 0)), Active, 1))
				must(t, m.Checkpoint(full(10*ms, 600, samples())))
				must(t, m.Checkpoint(full(20*ms, 5, samples())))
				must(t, m.Stop(full(30*ms, 7, samples())))
			},
			30, GPUUsage{EnergyMJ: 102}, wire.QualityGPUEstimated | wire.QualityGPUEnergyUnread,
		},
		{
			"samples that are missing in between are a gap, and only the last second of it counts",
			func(m *Meter) {
				must(t, m.Start(full(0, 0, samples(100*s, 0)), Active, 1))
				must(t, m.Stop(full(5000*ms, 0, samples(105*s, 100))))
			},
			5000, GPUUsage{BusyMs: SamplePeriodMaxUs / 1000}, wire.QualityGPUEstimated | wire.QualityGPUUnread,
		},
		{
			"what nobody could read for too long is flagged, until it can be read again",
			func(m *Meter) {
				must(t, m.Start(full(0, 0, samples(100*s, 0)), Active, 1))
				r := known(1000*ms, 0)
				r.GPU = &GPUReading{Unread: true}
				must(t, m.Checkpoint(r))
				if q := m.Usage().Quality; q&wire.QualityGPUUnread == 0 || q&wire.QualityGPUEnergyUnread == 0 {
					t.Errorf("quality %b, want it flagged", q)
				}
				must(t, m.Stop(full(2000*ms, 9, samples(101*s, 50, 102*s, 50))))
			},
			2000, GPUUsage{BusyMs: 1000, EnergyMJ: 9}, wire.QualityGPUEstimated,
		},
		{
			"nothing after the exit is the task's",
			func(m *Meter) {
				must(t, m.Start(full(0, 0, samples(100*s, 0)), Active, 1))
				r := full(500*ms, 3, samples(101*s, 100))
				r.GPU.UntilUs = 100*s + s/4
				must(t, m.Stop(r))
			},
			500, GPUUsage{BusyMs: 250, EnergyMJ: 3}, wire.QualityGPUEstimated,
		},
		{
			"a device that is gone isn't billed from where it was last seen",
			func(m *Meter) {
				must(t, m.Start(full(0, 0, samples(100*s, 0, 101*s, 0)), Active, 1))
				must(t, m.Checkpoint(full(1000*ms, 5, samples())))
				must(t, m.Checkpoint(gpu(2000*ms, DeviceReading{Lost: true})))
				must(t, m.Checkpoint(known(3000*ms, 0))) // nobody knows better
				must(t, m.Checkpoint(full(4000*ms, 7, samples())))
				must(t, m.Stop(full(4500*ms, 8, samples())))
			},
			1500, GPUUsage{EnergyMJ: 8}, wire.QualityGPUEstimated | wire.QualityGPULost,
		},
		{
			"lost time that was counted beyond the exit is taken back with the rest",
			func(m *Meter) {
				must(t, m.Start(full(0, 0, samples(100*s, 0, 101*s, 0)), Active, 1))
				must(t, m.Checkpoint(full(1000*ms, 5, samples())))
				must(t, m.Checkpoint(gpu(2000*ms, DeviceReading{Lost: true})))
				must(t, m.Stop(known(1500*ms, 0)))
			},
			1000, GPUUsage{EnergyMJ: 5}, wire.QualityGPUEstimated | wire.QualityGPULost,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := New(Held{GPUs: 1})
			m.HoldGPUs([]string{"GPU-a"}, 100*s)
			tt.run(m)
			u := m.Usage()
			if u.Active.GPUMs != tt.wantGPU {
				t.Errorf("held: got %d ms, want %d", u.Active.GPUMs, tt.wantGPU)
			}
			if diff := cmp.Diff(tt.want, m.GPUUsage()); diff != "" {
				t.Errorf("usage (-want +got):\n%s", diff)
			}
			if got := u.Quality & gpuFlags; got != tt.quality {
				t.Errorf("quality: got %b, want %b", got, tt.quality)
			}
		})
	}
}

func TestSeveralGPUs(t *testing.T) {
	m := New(Held{GPUs: 3})
	m.HoldGPUs([]string{"GPU-a", "MIG-b", "GPU-c"}, 0)
	must(t, m.Start(known(0, 0), Active, 1))
	r := known(100*ms, 0)
	r.GPU = &GPUReading{Devices: []DeviceReading{{UUID: "GPU-c", Lost: true}, {UUID: "MIG-b"}, {UUID: "GPU-x", Lost: true}}}
	must(t, m.Freeze(r))
	must(t, m.Thaw(known(150*ms, 0), 2))
	must(t, m.Stop(known(170*ms, 0)))
	u := m.Usage()
	if u.Active.GPUMs != 40 || u.Standby.GPUMs != 100 {
		t.Errorf("got %d ms active, %d ms standby, want two devices for 20 and for 50 ms", u.Active.GPUMs, u.Standby.GPUMs)
	}
}

// A copy shares nothing: a heartbeat looks ahead on one.
func TestClone(t *testing.T) {
	m := New(Held{GPUs: 1})
	m.HoldGPUs([]string{"GPU-a"}, 0)
	must(t, m.Start(gpu(0, DeviceReading{EnergyMJ: ptr[uint64](1)}), Active, 1))
	before, err := json.Marshal(m)
	must(t, err)
	must(t, m.Clone().Checkpoint(gpu(9*ms, DeviceReading{EnergyMJ: ptr[uint64](5), Lost: true})))
	after, err := json.Marshal(m)
	must(t, err)
	if string(before) != string(after) {
		t.Errorf("got %s, want it as before: %s", after, before)
	}
}

// bruteForce integrates ms by ms: all times are whole ms.
func bruteForce(all []Sample, fromUs, untilUs uint64) (percentUs uint64) {
	at := map[uint64]uint8{}
	first := uint64(1 << 62)
	for _, s := range all {
		if p, ok := at[s.AtUs]; !ok || s.Percent > p {
			at[s.AtUs] = s.Percent
		}
		first = min(first, s.AtUs)
	}
	for us := first; us < untilUs; us += 1000 {
		if us < fromUs {
			continue
		}
		// The next sample at or after this ms's end says what it was like.
		for next := us + 1000; next <= us+SamplePeriodMaxUs; next += 1000 {
			if p, ok := at[next]; ok {
				percentUs += uint64(p) * 1000
				break
			}
		}
	}
	return percentUs
}

// The integral of random samples is what brute force makes of them, in however
// many readings they come, in whatever order within one, repeated at will,
// whatever crash lies in between.
func TestBusyIsTheIntegral(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := rapid.Uint64Range(1, 500).Draw(t, "first") * 1000
		var all []Sample
		for range rapid.IntRange(0, 25).Draw(t, "samples") {
			all = append(all, Sample{AtUs: at, Percent: rapid.Uint8Range(0, 100).Draw(t, "percent")})
			step := rapid.Uint64Range(1, 300)
			if rapid.IntRange(0, 9).Draw(t, "gap") == 0 {
				step = rapid.Uint64Range(1, 3000)
			}
			at += step.Draw(t, "step") * 1000
		}
		from := rapid.Uint64Range(0, 1000).Draw(t, "from") * 1000
		until := from + rapid.Uint64Range(1, 5000).Draw(t, "until")*1000
		var b Busy
		for i := 0; i < len(all); {
			n := rapid.IntRange(1, len(all)-i).Draw(t, "reading")
			reading := slices.Clone(all[i : i+n])
			// Some of an earlier reading's, and some twice.
			for range rapid.IntRange(0, 5).Draw(t, "repeats") {
				reading = append(reading, all[rapid.IntRange(0, i+n-1).Draw(t, "repeat")])
			}
			b.Add(rapid.Permutation(reading).Draw(t, "order"), from, until)
			i += n
			state, err := json.Marshal(b)
			must(t, err)
			b = Busy{}
			must(t, json.Unmarshal(state, &b))
		}
		if want := bruteForce(all, from, until); b.PercentUs != want {
			t.Fatalf("got %d, want %d %%·µs of %v from %d to %d", b.PercentUs, want, all, from, until)
		}
		before := b
		b.Add(rapid.Permutation(all).Draw(t, "again"), from, until)
		if b != before {
			t.Fatalf("all samples once more: got %+v, want %+v", b, before)
		}
	})
}

// Held time is wall time of each device less what it was gone for, whatever
// the boundaries, and a reported total never goes back.
func TestHeldTimeOfLostDevices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		uuids := []string{"GPU-a", "GPU-b", "MIG-c"}[:rapid.IntRange(1, 3).Draw(t, "devices")]
		m := New(Held{GPUs: uint32(len(uuids))})
		m.HoldGPUs(uuids, 0)
		now := int64(5)
		must(t, m.Start(known(now, 0), Active, 1))
		lost := map[string]bool{}
		held := map[string]int64{}
		var prev uint64
		for range rapid.IntRange(1, 30).Draw(t, "boundaries") {
			dt := rapid.Int64Range(0, 3_000_000).Draw(t, "dt")
			now += dt
			r := known(now, 0)
			if rapid.Bool().Draw(t, "read") {
				r.GPU = &GPUReading{}
			}
			for _, u := range uuids {
				was := lost[u]
				if r.GPU != nil {
					lost[u] = rapid.IntRange(0, 3).Draw(t, "lost") == 0
					r.GPU.Devices = append(r.GPU.Devices, DeviceReading{UUID: u, Lost: lost[u]})
				}
				if !was && !lost[u] {
					held[u] += dt
				}
			}
			must(t, m.Checkpoint(r))
			u := m.Usage()
			if u.Active.GPUMs < prev || u.Active.GPUMs > u.Active.WallMs*uint64(len(uuids)) {
				t.Fatalf("held: got %d ms after %d, with %d ms of wall time", u.Active.GPUMs, prev, u.Active.WallMs)
			}
			prev = u.Active.GPUMs
		}
		var want uint64
		for _, u := range uuids {
			want += uint64(held[u]+ms/2) / ms
		}
		if prev != want {
			t.Fatalf("held: got %d ms, want %d", prev, want)
		}
	})
}
