package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/joulecloud/joule/settlement/bench/proc"
	"github.com/joulecloud/joule/settlement/bench/workload"
	"github.com/joulecloud/joule/settlement/ledger"
)

// connections is how many batches are under way at once.
const connections = 4

// Load is one measured run.
type Load struct {
	Batch       int     `json:"batch"`
	PerS        float64 `json:"records_per_s"`
	CPUUs       float64 `json:"cpu_us_per_record"` // of the servers
	ClientCPUUs float64 `json:"client_cpu_us_per_record"`
	P50Ms       float64 `json:"p50_ms"`
	P99Ms       float64 `json:"p99_ms"`
	Records     int64   `json:"records"`
}

// Bench is a loaded database with its clients. Close ends it. Its methods are
// not safe for concurrent use.
type Bench struct {
	srv    *Server
	conns  []*pgx.Conn // one for each of the hot accounts' rows
	spec   workload.Spec
	feeds  []*workload.Feed
	posted int64
}

// Load fills the database with a workload. spread as in SpreadOf: the suppliers
// of the leases in a batch differ, which no host's batch has in our ledger.
func (s *Server) Load(ctx context.Context, spec workload.Spec, spread bool) (*Bench, error) {
	if err := s.load(ctx, spec, connections, spread); err != nil {
		return nil, err
	}
	b := &Bench{srv: s, spec: spec, feeds: spec.Feeds(workload.CheapHash)}
	// The first round is settled already.
	for _, f := range b.feeds {
		f.Fill(make([]ledger.Record, f.Leases()))
	}
	for range connections {
		c, err := s.Connect(ctx)
		if err != nil {
			return nil, errors.Join(err, b.Close(ctx))
		}
		b.conns = append(b.conns, c)
	}
	return b, b.warm(ctx)
}

// Close closes the connections.
func (b *Bench) Close(ctx context.Context) error {
	var errs []error
	for _, c := range b.conns {
		errs = append(errs, c.Close(ctx))
	}
	b.conns = nil
	return errors.Join(errs...)
}

// warm reads every page of the leases and of their index over each connection.
// Its process then has them mapped, as one that is not new; a run of seconds
// would spend half of its time on that.
func (b *Bench) warm(ctx context.Context) error {
	for _, c := range b.conns {
		if err := touch(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// touch has the server read the tables that batches update.
func touch(ctx context.Context, c *pgx.Conn) error {
	for _, q := range []string{"SELECT sum(charged) FROM lease", "SELECT sum(charged) FROM lease WHERE id > 0",
		"SELECT sum(joule) FROM supplier WHERE id > 0"} {
		if _, err := c.Exec(ctx, q); err != nil {
			return fmt.Errorf("%s: %w", q, err)
		}
	}
	return nil
}

// columns is a batch as the statement takes it.
type columns struct {
	n    int
	args []any
}

func (b *Bench) columns(f *workload.Feed, n int) columns {
	records := make([]ledger.Record, min(n, f.Leases()))
	f.Fill(records)
	// In this order the lookups of a batch go through the index once.
	slices.SortFunc(records, func(a, b ledger.Record) int { return cmp.Compare(a.Lease, b.Lease) })
	var c [6][]int64
	for i := range records {
		r := &records[i]
		for j, v := range []int64{int64(r.Lease), int64(r.Seq), int64(r.Active.WallMs), int64(r.Active.CPUMs),
			int64(r.Active.GPUMs), int64(r.Active.MemoryMiBMs)} {
			c[j] = append(c[j], v)
		}
	}
	return columns{len(records), []any{nil, c[0], c[1], c[2], c[3], c[4], c[5]}}
}

// Run posts batches of n records for a while, after half of it for warming
// up; a checkpoint falls into the middle. The batches are made before it.
func (b *Bench) Run(ctx context.Context, n int, each time.Duration) (*Load, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		mu       sync.Mutex
		total    int64
		samples  []float64
		failures []error
		measure  bool
	)
	queues := make([]chan columns, connections)
	var done, feeding sync.WaitGroup
	for w := range connections {
		queues[w] = make(chan columns, 64)
		// A host's batches go to one connection, in order.
		var mine []*workload.Feed
		for i := w; i < len(b.feeds); i += connections {
			mine = append(mine, b.feeds[i])
		}
		if len(mine) == 0 {
			close(queues[w])
			continue
		}
		feeding.Go(func() {
			defer close(queues[w])
			for i := 0; ; i++ {
				select {
				case queues[w] <- b.columns(mine[i%len(mine)], n):
				case <-ctx.Done():
					return
				}
			}
		})
	}
	fail := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		failures = append(failures, err)
		cancel()
	}
	for w := range connections {
		done.Go(func() {
			for q := range queues[w] {
				if ctx.Err() != nil {
					return
				}
				q.args[0] = int32(w)
				t0 := time.Now()
				var count, usd int64
				var err error
				// What was begun is finished, so that the count is right.
				for {
					err = b.conns[w].QueryRow(context.WithoutCancel(ctx), settle, q.args...).Scan(&count, &usd)
					var pg *pgconn.PgError
					if !errors.As(err, &pg) || pg.Code != "40P01" { // a deadlock over suppliers is tried again
						break
					}
				}
				if err != nil {
					fail(err)
					return
				}
				if count != int64(q.n) || usd <= 0 {
					fail(fmt.Errorf("posted %d records of %d for %d", count, q.n, usd))
					return
				}
				d := time.Since(t0)
				mu.Lock()
				b.posted += count
				if measure {
					total += count
					samples = append(samples, float64(d)/float64(time.Millisecond))
				}
				mu.Unlock()
			}
		})
	}
	out, err := b.clock(ctx, each, func(on bool) { mu.Lock(); measure = on; mu.Unlock() },
		func() bool { mu.Lock(); defer mu.Unlock(); return total > 0 })
	cancel()
	feeding.Wait()
	done.Wait()
	if err := errors.Join(append(failures, err)...); err != nil {
		return nil, err
	}
	out.finish(n, total, samples)
	return out, nil
}

// clock lets the load run: half of the time to warm up, then the measured
// time with a checkpoint in it.
func (b *Bench) clock(ctx context.Context, each time.Duration, measure func(bool), any func() bool) (*Load, error) {
	wait := func(d time.Duration) error {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	cpu := func() (servers, self time.Duration, err error) {
		if servers, err = proc.TreeCPU(b.srv.PIDs()...); err != nil {
			return
		}
		self, err = proc.OwnCPU()
		return
	}
	if err := wait(each / 2); err != nil {
		return nil, err
	}
	s0, c0, err := cpu()
	if err != nil {
		return nil, err
	}
	t0 := time.Now()
	measure(true)
	if err := wait(each / 3); err != nil {
		return nil, err
	}
	c, err := b.srv.Connect(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := c.Exec(ctx, "CHECKPOINT"); err != nil {
		return nil, err
	}
	if err := c.Close(ctx); err != nil {
		return nil, err
	}
	if err := wait(each - time.Since(t0)); err != nil {
		return nil, err
	}
	for !any() { // the machine may be busy
		if err := wait(each); err != nil {
			return nil, err
		}
	}
	measure(false)
	wall := time.Since(t0)
	s1, c1, err := cpu()
	return &Load{PerS: wall.Seconds(), CPUUs: float64(s1 - s0), ClientCPUUs: float64(c1 - c0)}, err
}

func (l *Load) finish(n int, total int64, samples []float64) {
	l.Batch, l.Records = n, total
	l.PerS = float64(total) / l.PerS
	l.CPUUs /= float64(total) * 1000
	l.ClientCPUUs /= float64(total) * 1000
	slices.Sort(samples)
	if len(samples) > 0 {
		l.P50Ms, l.P99Ms = samples[len(samples)/2], samples[len(samples)*99/100]
	}
}

// Check compares the database with what the rules say for what was posted.
func (b *Bench) Check(ctx context.Context) error { return b.srv.check(ctx, b.spec, b.posted) }
