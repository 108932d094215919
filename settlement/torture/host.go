package torture

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/joulecloud/joule/driver/session"
	"github.com/joulecloud/joule/driver/spool"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
	"github.com/joulecloud/joule/settlement/wire"
)

const (
	tasksPerHost = 3
	memoryMiB    = 512
	dollar       = 1_000_000_000
)

// host is the metering side of a supplier's host: the real spool and the real
// sessions, which it drops and takes up again as a crashed daemon does. Its tasks
// use what they say.
type host struct {
	name   string
	cfg    session.Config
	spool  string
	ld     *load
	allocs *placements

	mu       sync.RWMutex // held for writing while the daemon is down
	records  *spool.Spool
	sessions *session.Sessions
	leave    func() // ends the sessions and waits

	runs struct {
		sync.Mutex
		beat map[wire.LeaseID]session.Totals
		last map[wire.LeaseID]wire.Record // put in the spool
	}
}

// newHost enrolls a host and starts its daemon; run ends it.
func newHost(ctx context.Context, ld *load, dir, name string, seed uint64, allocs *placements, urls []string) (*host, error) {
	h := &host{name: name, cfg: session.Default(), spool: filepath.Join(dir, name+".db"), ld: ld, allocs: allocs}
	h.runs.beat, h.runs.last = map[wire.LeaseID]session.Totals{}, map[wire.LeaseID]wire.Record{}
	private := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(name), seed))
	h.cfg.Host, h.cfg.Class, h.cfg.Version, h.cfg.Servers = name, "crowd", "torture", urls
	h.cfg.Key = ed25519.NewKeyFromSeed(private[:])
	h.cfg.BootID = [16]byte(private[:])
	h.cfg.BackoffMin, h.cfg.BackoffMax = 20*time.Millisecond, 500*time.Millisecond
	h.cfg.Silence, h.cfg.Attempt = 3*time.Second, 2*time.Second
	r := rand.New(rand.NewPCG(seed, 1000))
	for _, step := range []call{
		func(ctx context.Context, api joulev1connect.SettlementServiceClient, key string) error {
			_, err := api.CreateSupplier(ctx, &joulev1.CreateSupplierRequest{Key: key + "-supplier", Name: name})
			return err
		},
		func(ctx context.Context, api joulev1connect.SettlementServiceClient, key string) error {
			_, err := api.EnrollHost(ctx, &joulev1.EnrollHostRequest{Key: key + "-host", Name: name, Supplier: name, Class: h.cfg.Class,
				PublicKey: h.cfg.Key.Public().(ed25519.PublicKey)})
			return err
		},
		func(ctx context.Context, api joulev1connect.SettlementServiceClient, key string) error {
			_, err := api.SetOffer(ctx, &joulev1.SetOfferRequest{Key: key + "-offer", Host: name,
				Prices: &joulev1.Prices{BaseNusdPerHour: dollar, CpuNusdPerHour: 2 * dollar, MemoryNusdPerHour: dollar / 3}})
			return err
		},
	} {
		if !ld.call(ctx, r, name, step) {
			return nil, fmt.Errorf("host %s: not enrolled", name)
		}
	}
	return h, h.enter()
}

// enter starts the daemon; the caller keeps everybody else away.
func (h *host) enter() error {
	log := slog.New(slog.DiscardHandler)
	sp, err := spool.Open(h.spool, log)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint64(h.cfg.Incarnation[:], binary.BigEndian.Uint64(h.cfg.Incarnation[:])+1)
	ses, err := session.New(h.cfg, h, log)
	if err != nil {
		sp.Close()
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		ses.Run(ctx)
	}()
	h.records, h.sessions = sp, ses
	h.leave = func() { cancel(); <-done; sp.Close() }
	return nil
}

// restart is a daemon that dies and comes back.
func (h *host) restart() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leave()
	return h.enter()
}

// run has tasks until stop is closed, ends them, and returns once every record
// is settled.
func (h *host) run(ctx context.Context, stop <-chan struct{}, seed uint64) {
	var tasks, crashes sync.WaitGroup
	over := make(chan struct{})
	for i := range tasksPerHost {
		tasks.Go(func() { h.tasks(ctx, stop, rand.New(rand.NewPCG(seed, uint64(2000+i)))) })
	}
	crashes.Go(func() {
		for r := rand.New(rand.NewPCG(seed, 3000)); wait(stop, time.Duration(r.IntN(4000))*time.Millisecond); {
			if err := h.restart(); err != nil {
				h.ld.fault("host %s: %v", h.name, err)
				return
			}
		}
	})
	crashes.Wait()
	tasks.Wait()
	for h.records.Count() > 0 && wait(over, 20*time.Millisecond) {
		if ctx.Err() != nil {
			h.ld.fault("host %s: %d records were never settled: %+v", h.name, h.records.Count(), h.sessions.Status())
			break
		}
	}
	h.leave()
}

// tasks runs one task after another.
func (h *host) tasks(ctx context.Context, stop <-chan struct{}, r *rand.Rand) {
	for n := 0; n == 0 || wait(stop, 0); n++ {
		alloc := h.allocs.place(h.name)
		grant, err := h.open(ctx, alloc)
		if err != nil {
			h.ld.fault("host %s: lease for allocation %s: %v", h.name, alloc, err)
			return
		}
		start := time.Now()
		for left := 5 + r.IntN(60); left > 0 && wait(stop, time.Duration(10+r.IntN(60))*time.Millisecond); left-- {
			h.checkpoint(grant, start, false)
		}
		h.checkpoint(grant, start, true)
	}
}

// open asks for a lease until it is granted or refused.
func (h *host) open(ctx context.Context, alloc string) (*session.Grant, error) {
	for {
		h.mu.RLock()
		ses := h.sessions
		h.mu.RUnlock()
		tctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		grant, err := ses.OpenLease(tctx, alloc, taskName, "1")
		cancel()
		if _, refused := err.(*session.RefusedError); err == nil || refused || ctx.Err() != nil {
			return grant, err
		}
	}
}

// checkpoint puts what the task has used so far into the spool.
func (h *host) checkpoint(g *session.Grant, start time.Time, final bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	wall := uint64(time.Since(start).Milliseconds())
	r := wire.Record{Lease: g.Lease, Epoch: g.Epoch, Known: wire.KnownAll, Final: final,
		Active: wire.Totals{WallMs: wall, CPUMs: wall * 3 / 2, MemoryMiBMs: wall * memoryMiB}}
	h.runs.Lock()
	if h.runs.beat[g.Lease] = (session.Totals{Lease: g.Lease, WallMs: wall, CPUMs: r.Active.CPUMs}); final {
		delete(h.runs.beat, g.Lease)
	}
	h.runs.Unlock()
	if err := h.records.Put(spool.Update{Lease: g.Lease, Record: &r}); err != nil {
		h.ld.fault("host %s: spool: %v", h.name, err)
		return
	}
	h.runs.Lock()
	h.runs.last[g.Lease] = r
	h.runs.Unlock()
	h.sessions.Wake()
}

// wait waits for a while and reports whether stop is still open.
func wait(stop <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-stop:
		return false
	case <-t.C:
		return true
	}
}

// Totals implements session.Host.
func (h *host) Totals() []session.Totals {
	h.runs.Lock()
	defer h.runs.Unlock()
	return slices.Collect(maps.Values(h.runs.beat))
}

// Pending implements session.Host.
func (h *host) Pending(limit int) ([]wire.Record, error) { return h.records.Pending(limit) }

// Settled implements session.Host.
func (h *host) Settled(outcomes []session.Outcome) error {
	var acked []spool.Acked
	for _, o := range outcomes {
		switch o.Status {
		case joulev1.RecordStatus_RECORD_STATUS_ACCEPTED, joulev1.RecordStatus_RECORD_STATUS_REPEAT, joulev1.RecordStatus_RECORD_STATUS_OLD:
		default:
			h.ld.fault("host %s: record %d of lease %d: %s", h.name, o.Seq, o.Lease, o.Status)
		}
		acked = append(acked, spool.Acked{Lease: o.Lease, Seq: o.Seq})
	}
	return h.records.Ack(acked...)
}

// Stop implements session.Host. Nothing here gives a reason to stop a task; one
// that has just ended may be in a heartbeat that its final record overtook.
func (h *host) Stop(lease wire.LeaseID, reason joulev1.StopReason) {
	h.runs.Lock()
	_, running := h.runs.beat[lease]
	h.runs.Unlock()
	if !running {
		return
	}
	h.ld.fault("host %s: told to stop lease %d: %s", h.name, lease, reason)
}

// CheckpointEvery implements session.Host.
func (h *host) CheckpointEvery(time.Duration) {}

// check compares each lease with what the host recorded of it.
func (h *host) check(leases []*joulev1.Lease) error {
	seen := map[wire.LeaseID]bool{}
	for _, l := range leases {
		id := wire.LeaseID(l.Id)
		seen[id] = true
		last, ok := h.runs.last[id]
		if !ok {
			return fmt.Errorf("host %s: lease %d is not one that it was granted", h.name, id)
		}
		got := wire.Totals{WallMs: l.Billed.GetWallMs(), CPUMs: l.Billed.GetCpuMs(), MemoryMiBMs: l.Billed.GetMemoryMibMs()}
		if l.State != "closed" || l.Reason != "finished" || l.LastSeq != last.Seq || got != last.Active || l.ChargedNusd == 0 && got.WallMs > 0 {
			return fmt.Errorf("host %s: its last record is %+v, the ledger has %v", h.name, last, l)
		}
	}
	for id, last := range h.runs.last {
		if !seen[id] {
			return fmt.Errorf("host %s: the ledger doesn't know lease %d, whose last record is %+v", h.name, id, last)
		}
	}
	return nil
}
