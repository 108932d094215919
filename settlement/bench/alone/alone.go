// Package alone measures the ledger by itself, in this process: the cost of a
// usage record, what a snapshot does to Apply, how long a restore takes, and
// how much memory a lease and an account take.
package alone

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/joulecloud/joule/settlement/bench/proc"
	"github.com/joulecloud/joule/settlement/bench/workload"
	"github.com/joulecloud/joule/settlement/ledger"
)

// Records is what one usage record cost in batches of a size.
type Records struct {
	Batch       int     `json:"batch"`
	NsPerRecord float64 `json:"ns_per_record"`     // processor time of the applying thread
	WallNs      float64 `json:"wall_ns_median"`    // elapsed, of the middle batch
	WallNsP99   float64 `json:"wall_ns_p99"`       // elapsed, of the slowest in a hundred batches
	Allocs      float64 `json:"allocs_per_record"` // heap allocations
	Count       int     `json:"records"`
}

// Result is what a ledger of some size did.
type Result struct {
	Leases        int       `json:"leases"`
	BuildS        float64   `json:"build_s"`         // opening all leases
	BytesPerLease float64   `json:"bytes_per_lease"` // heap, with its names, its key and the indexes
	Records       []Records `json:"usage"`
	Snapshot      *Snapshot `json:"snapshot,omitempty"`
}

const start ledger.Time = 1_763_800_000_000

// Build makes a ledger with the workload's leases, each with its first record
// settled, so that the holds are as they are later on.
func Build(ctx context.Context, spec workload.Spec) (*ledger.Ledger, []*workload.Feed, error) {
	l := ledger.New()
	for env := range spec.Setup() {
		if res := l.Apply(start, &env); res.Code != ledger.CodeOK {
			return nil, nil, fmt.Errorf("set up: %T: %w", env.Command, res.Err())
		}
		l.TakeEntries()
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
	}
	feeds := spec.Feeds(workload.CheapHash)
	now := start + ledger.Time(spec.StepMs)
	for _, f := range feeds {
		for f.Round() == 1 {
			batch := &ledger.UsageBatch{Host: f.Host(), Records: make([]ledger.Record, min(1024, f.Rest()))}
			f.Fill(batch.Records)
			if err := accept(l, now, batch); err != nil {
				return nil, nil, err
			}
		}
	}
	return l, feeds, nil
}

func accept(l *ledger.Ledger, now ledger.Time, batch *ledger.UsageBatch) error {
	res := l.Apply(now, &ledger.Envelope{Command: batch})
	l.TakeEntries()
	if res.Code != ledger.CodeOK {
		return res.Err()
	}
	for _, r := range res.Records {
		if r.Status != ledger.RecordAccepted || r.Charged <= 0 {
			return fmt.Errorf("record %+v was not charged", r)
		}
	}
	return nil
}

// Run measures a ledger of spec's size in batches of the sizes, each for about
// a duration; with snapshots if asked.
func Run(ctx context.Context, spec workload.Spec, batches []int, each time.Duration, snapshot bool) (*Result, error) {
	before := heap()
	t0 := time.Now()
	l, feeds, err := Build(ctx, spec)
	if err != nil {
		return nil, err
	}
	res := &Result{Leases: spec.Leases, BuildS: time.Since(t0).Seconds()}
	feedBytes := uint64(spec.Leases) * 24 // of the feeds, which are ours
	res.BytesPerLease = float64(heap()-before-feedBytes) / float64(spec.Leases)
	m := &meter{l: l, spec: spec, feeds: feeds, now: start + ledger.Time(spec.StepMs)}
	l = nil // m alone holds it, and lets go of it to restore another
	for _, n := range batches {
		r, err := m.run(ctx, n, each)
		if err != nil {
			return nil, err
		}
		res.Records = append(res.Records, *r)
	}
	if snapshot {
		if res.Snapshot, err = m.snapshot(ctx, each); err != nil {
			return nil, err
		}
	}
	if err := m.l.Verify(); err != nil {
		return nil, fmt.Errorf("after the load: %w", err)
	}
	return res, nil
}

func heap() uint64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

// meter gives batches to a ledger and takes the time of that alone.
type meter struct {
	l     *ledger.Ledger
	spec  workload.Spec
	feeds []*workload.Feed
	turn  int
	now   ledger.Time
}

// made is how many records are made at a time, before the clock runs.
const made = 1 << 17

// fill makes batches of n records, host by host.
func (m *meter) fill(batches []*ledger.UsageBatch, n int) {
	for _, b := range batches {
		f := m.feeds[m.turn%len(m.feeds)]
		m.turn++
		if cap(b.Records) < n {
			b.Records = make([]ledger.Record, n)
		}
		b.Host, b.Records = f.Host(), b.Records[:min(n, f.Leases())]
		f.Fill(b.Records)
		m.now = max(m.now, start+ledger.Time(m.spec.StepMs*f.Round()))
	}
}

func (m *meter) run(ctx context.Context, n int, each time.Duration) (*Records, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	batches := make([]*ledger.UsageBatch, made/n)
	envs := make([]ledger.Envelope, len(batches))
	for i := range batches {
		batches[i] = new(ledger.UsageBatch)
		envs[i].Command = batches[i]
	}
	walls := make([]float64, 0, 1<<20)
	var cpu, wall time.Duration
	var allocs uint64
	out := &Records{Batch: n}
	for warm := true; warm || wall < each; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		m.fill(batches, n)
		var s0, s1 runtime.MemStats
		runtime.ReadMemStats(&s0)
		c0 := proc.ThreadCPU()
		bad, count := 0, 0
		for i, b := range batches {
			t0 := time.Now()
			res := m.l.Apply(m.now, &envs[i])
			m.l.TakeEntries()
			d := time.Since(t0)
			count += len(res.Records)
			for i := range res.Records {
				if res.Records[i].Status != ledger.RecordAccepted || res.Records[i].Charged <= 0 {
					bad++
				}
			}
			wall += d
			if len(walls) < cap(walls) {
				walls = append(walls, float64(d)/float64(len(b.Records)))
			}
		}
		c1 := proc.ThreadCPU()
		runtime.ReadMemStats(&s1)
		if bad > 0 {
			return nil, fmt.Errorf("%d records were not charged", bad)
		}
		if warm { // the first turn let the buffers grow
			warm, wall, walls = false, 0, walls[:0]
			continue
		}
		cpu += c1 - c0
		allocs += s1.Mallocs - s0.Mallocs
		out.Count += count
	}
	slices.Sort(walls)
	out.NsPerRecord = float64(cpu) / float64(out.Count)
	out.Allocs = float64(allocs) / float64(out.Count)
	out.WallNs = walls[len(walls)/2]
	out.WallNsP99 = walls[len(walls)*99/100]
	return out, nil
}
