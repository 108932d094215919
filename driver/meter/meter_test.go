package meter

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/joulecloud/joule/settlement/wire"
)

const ms = 1_000_000

func known(monoNs int64, cpuUsec uint64) Reading {
	return Reading{MonoNs: monoNs, CPUUsec: cpuUsec, CPUKnown: true}
}

func unread(monoNs int64) Reading { return Reading{MonoNs: monoNs} }

func must(tb interface{ Fatal(...any) }, err error) {
	if err != nil {
		tb.Fatal(err)
	}
}

func TestUsage(t *testing.T) {
	const all = wire.KnownAll
	for _, tt := range []struct {
		name string
		run  func(m *Meter) error
		want Usage
	}{
		{
			"a task that ran 2.32 s and used 1.5 s of CPU",
			func(m *Meter) error {
				return errors.Join(m.Start(known(5*ms, 700), Active, 1), m.Stop(known(2325*ms, 1_500_700)))
			},
			Usage{1, wire.Totals{WallMs: 2320, CPUMs: 1500, GPUMs: 4640, MemoryMiBMs: 2320 * 256}, wire.Totals{}, all, 0},
		},
		{
			"half a millisecond is rounded up, less is rounded down",
			func(m *Meter) error {
				return errors.Join(m.Start(known(0, 0), Active, 1), m.Stop(known(1*ms+500_000, 499)))
			},
			Usage{1, wire.Totals{WallMs: 2, GPUMs: 4, MemoryMiBMs: 512}, wire.Totals{}, all, 0},
		},
		{
			"frozen time is standby time",
			func(m *Meter) error {
				return errors.Join(m.Start(known(0, 0), Active, 1), m.Freeze(known(10*ms, 8000)),
					m.Checkpoint(known(30*ms, 8000)), m.Thaw(known(40*ms, 9000), 1), m.Stop(known(45*ms, 12000)))
			},
			Usage{1, wire.Totals{WallMs: 15, CPUMs: 11, GPUMs: 30, MemoryMiBMs: 15 * 256},
				wire.Totals{WallMs: 30, CPUMs: 1, GPUMs: 60, MemoryMiBMs: 30 * 256}, all, 0},
		},
		{
			"a new epoch's active totals begin at zero",
			func(m *Meter) error {
				return errors.Join(m.Start(known(0, 0), Active, 1), m.Freeze(known(10*ms, 8000)),
					m.Thaw(known(20*ms, 8000), 3), m.Checkpoint(known(24*ms, 10000)))
			},
			Usage{3, wire.Totals{WallMs: 4, CPUMs: 2, GPUMs: 8, MemoryMiBMs: 4 * 256},
				wire.Totals{WallMs: 10, GPUMs: 20, MemoryMiBMs: 2560}, all, 0},
		},
		{
			"CPU that was never read is unknown, not zero",
			func(m *Meter) error {
				return errors.Join(m.Start(unread(0), Active, 1), m.Stop(unread(10*ms)))
			},
			Usage{1, wire.Totals{WallMs: 10, GPUMs: 20, MemoryMiBMs: 2560}, wire.Totals{}, all &^ wire.KnownCPU, wire.QualityCPUUnread},
		},
		{
			"CPU that could not be read at a checkpoint is counted at the next and the flag goes",
			func(m *Meter) error {
				return errors.Join(m.Start(known(0, 0), Active, 1), m.Checkpoint(unread(5*ms)), m.Stop(known(10*ms, 7000)))
			},
			Usage{1, wire.Totals{WallMs: 10, CPUMs: 7, GPUMs: 20, MemoryMiBMs: 2560}, wire.Totals{}, all, 0},
		},
		{
			"CPU that cannot be read at the end is reported as it last was",
			func(m *Meter) error {
				return errors.Join(m.Start(known(0, 0), Active, 1), m.Checkpoint(known(5*ms, 4000)), m.Stop(unread(10*ms)))
			},
			Usage{1, wire.Totals{WallMs: 10, CPUMs: 4, GPUMs: 20, MemoryMiBMs: 2560}, wire.Totals{}, all, wire.QualityCPUUnread},
		},
		{
			"a CPU counter that goes back is flagged and takes nothing back",
			func(m *Meter) error {
				return errors.Join(m.Start(known(0, 1000), Active, 1), m.Checkpoint(known(5*ms, 6000)),
					m.Checkpoint(known(6*ms, 2000)), m.Stop(known(10*ms, 9000)))
			},
			Usage{1, wire.Totals{WallMs: 10, CPUMs: 8, GPUMs: 20, MemoryMiBMs: 2560}, wire.Totals{}, all, wire.QualityCPUUnread},
		},
		{
			"a clock that goes back is flagged and takes nothing back",
			func(m *Meter) error {
				return errors.Join(m.Start(known(0, 0), Active, 1), m.Checkpoint(known(5*ms, 0)),
					m.Checkpoint(known(4*ms, 0)), m.Stop(known(10*ms, 0)))
			},
			Usage{1, wire.Totals{WallMs: 10, GPUMs: 20, MemoryMiBMs: 2560}, wire.Totals{}, all, wire.QualityClockStepped},
		},
		{
			"a checkpoint that was read after the exit is taken back",
			func(m *Meter) error {
				return errors.Join(m.Start(known(0, 0), Active, 1), m.Checkpoint(known(10*ms, 3000)), m.Stop(known(7*ms, 3000)))
			},
			Usage{1, wire.Totals{WallMs: 7, CPUMs: 3, GPUMs: 14, MemoryMiBMs: 7 * 256}, wire.Totals{}, all, 0},
		},
		{
			"a stop before the open segment began ends there",
			func(m *Meter) error {
				return errors.Join(m.Start(known(0, 0), Active, 1), m.Freeze(known(5*ms, 0)),
					m.Checkpoint(known(9*ms, 0)), m.Stop(known(2*ms, 0)))
			},
			Usage{1, wire.Totals{WallMs: 5, GPUMs: 10, MemoryMiBMs: 5 * 256}, wire.Totals{}, all, wire.QualityClockStepped},
		},
		{
			"a task whose exit nobody saw ends at its last checkpoint",
			func(m *Meter) error {
				return errors.Join(m.Start(known(0, 0), Active, 1), m.Checkpoint(known(5*ms, 4000)), m.StopEstimated(wire.QualityRebooted))
			},
			Usage{1, wire.Totals{WallMs: 5, CPUMs: 4, GPUMs: 10, MemoryMiBMs: 5 * 256}, wire.Totals{}, all,
				wire.QualityExitEstimated | wire.QualityRebooted},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := New(Held{GPUs: 2, MemoryMiB: 256})
			must(t, tt.run(m))
			if diff := cmp.Diff(tt.want, m.Usage()); diff != "" {
				t.Errorf("usage (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBoundariesThatDoNotFit(t *testing.T) {
	r := known(1, 1)
	ended := func() *Meter {
		m := New(Held{})
		must(t, errors.Join(m.Start(r, Active, 2), m.Stop(r)))
		return m
	}
	started := func(s State) *Meter {
		m := New(Held{})
		must(t, m.Start(r, s, 2))
		return m
	}
	for name, err := range map[string]error{
		"start twice":             started(Active).Start(r, Active, 2),
		"start as ended":          New(Held{}).Start(r, Ended, 1),
		"checkpoint before start": New(Held{}).Checkpoint(r),
		"checkpoint after stop":   ended().Checkpoint(r),
		"freeze a standby":        started(Standby).Freeze(r),
		"thaw an active one":      started(Active).Thaw(r, 2),
		"thaw under an old epoch": started(Standby).Thaw(r, 1),
		"stop twice":              ended().Stop(r),
		"estimate after stop":     ended().StopEstimated(0),
	} {
		if !errors.Is(err, ErrState) {
			t.Errorf("%s: got %v, want ErrState", name, err)
		}
	}
}

// Random boundaries and crashes sum to the outside truth within 1 ms, with no
// gap and no overlap.
func TestSumsToTheTruth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		held := Held{GPUs: rapid.Uint32Range(0, 8).Draw(t, "gpus"), MemoryMiB: rapid.Uint32Range(0, 1<<20).Draw(t, "mib")}
		m := New(held)
		now := rapid.Int64Range(0, 1<<50).Draw(t, "boot")
		cpu := rapid.Uint64Range(0, 1<<40).Draw(t, "base")
		first, cpu0 := now, cpu
		var active, standby Sum // the truth; CPU as of the last reading
		var frozenCPU, activeCPU uint64
		must(t, m.Start(known(now, cpu), Active, 1))
		frozen, prev := false, Usage{}
		for i, n := 0, rapid.IntRange(1, 40).Draw(t, "boundaries"); i < n; i++ {
			dt := rapid.Int64Range(0, 3_000_000_000).Draw(t, "dt")
			now += dt
			if frozen {
				standby.WallNs += dt
			} else {
				active.WallNs += dt
				used := rapid.Uint64Range(0, uint64(dt)/1000*4).Draw(t, "used")
				cpu, activeCPU = cpu+used, activeCPU+used
			}
			r := known(now, cpu)
			if !frozen && rapid.IntRange(0, 9).Draw(t, "unread") == 0 {
				must(t, m.Checkpoint(unread(now)))
				continue
			}
			switch rapid.SampledFrom([]string{"checkpoint", "move", "crash"}).Draw(t, "boundary") {
			case "checkpoint":
				must(t, m.Checkpoint(r))
			case "move":
				if frozen {
					must(t, m.Thaw(r, 1))
				} else {
					must(t, m.Freeze(r))
				}
				frozen = !frozen
			case "crash": // hostd dies, comes back from its file and reads on
				b, err := json.Marshal(m)
				must(t, err)
				m = New(Held{})
				must(t, json.Unmarshal(b, m))
				must(t, m.Checkpoint(r))
			}
			u := m.Usage()
			if u.Active.WallMs < prev.Active.WallMs || u.Active.CPUMs < prev.Active.CPUMs || u.Standby.WallMs < prev.Standby.WallMs {
				t.Fatalf("totals went back: %+v after %+v", u, prev)
			}
			prev = u
		}
		must(t, m.Stop(known(now, cpu)))
		u := m.Usage()
		near := func(what string, gotMs uint64, wantNs int64) {
			if d := int64(gotMs)*ms - wantNs; d > ms/2 || d < -ms/2 {
				t.Fatalf("%s: got %d ms, want %d ns", what, gotMs, wantNs)
			}
		}
		near("active wall", u.Active.WallMs, active.WallNs)
		near("standby wall", u.Standby.WallMs, standby.WallNs)
		near("active CPU", u.Active.CPUMs, int64(activeCPU)*1000)
		near("standby CPU", u.Standby.CPUMs, int64(frozenCPU)*1000)
		if got, want := m.Active.WallNs+m.Standby.WallNs, now-first; got != want {
			t.Fatalf("segments: got %d ns in all, want %d: a gap or an overlap", got, want)
		}
		if got, want := m.Active.CPUUsec+m.Standby.CPUUsec, cpu-cpu0; got != want {
			t.Fatalf("CPU: got %d µs in all, want %d", got, want)
		}
		if got, want := u.Active.MemoryMiBMs, u.Active.WallMs*uint64(held.MemoryMiB); got != want {
			t.Fatalf("memory: got %d MiB ms, want %d", got, want)
		}
		if u.Known != wire.KnownAll || u.Quality != 0 {
			t.Fatalf("got known %b quality %b, want all known and no flag", u.Known, u.Quality)
		}
	})
}
