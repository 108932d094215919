package session

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/joulecloud/joule/driver/session/sessiontest"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/wire"
)

// fakeHost keeps records in memory, with their chains.
type fakeHost struct {
	mu         sync.Mutex
	records    []wire.Record
	last       map[wire.LeaseID]wire.Record
	stops      []string
	checkpoint time.Duration
	beats      uint64
	failReads  int
	failAcks   int
}

func (h *fakeHost) Totals() []Totals {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.beats++
	return []Totals{{Lease: 1, WallMs: 10 * h.beats, CPUMs: h.beats}}
}

func (h *fakeHost) Pending(limit int) ([]wire.Record, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failReads > 0 {
		h.failReads--
		return nil, errors.New("disk on fire")
	}
	return append([]wire.Record(nil), h.records[:min(limit, len(h.records))]...), nil
}

func (h *fakeHost) Settled(out []Outcome) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failAcks > 0 {
		h.failAcks--
		return errors.New("disk full")
	}
	settled := map[Outcome]bool{}
	for _, o := range out {
		settled[Outcome{Lease: o.Lease, Seq: o.Seq}] = true
	}
	h.records = slices.DeleteFunc(h.records, func(r wire.Record) bool { return settled[Outcome{Lease: r.Lease, Seq: r.Seq}] })
	return nil
}

func (h *fakeHost) Stop(l wire.LeaseID, r joulev1.StopReason) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stops = append(h.stops, fmt.Sprintf("%d %v", l, r))
}

func (h *fakeHost) CheckpointEvery(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checkpoint = d
}

// add appends n records of the lease.
func (h *fakeHost) add(lease wire.LeaseID, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for range n {
		last := h.last[lease]
		r := wire.Record{Lease: lease, Seq: last.Seq + 1, Epoch: 1, Prev: last.Hash, Known: wire.KnownWall}
		r.Active.WallMs = r.Seq * 100
		r.Hash = wire.HashRecord(wire.AppendRecord(nil, &r))
		h.last[lease] = r
		h.records = append(h.records, r)
	}
}

func (h *fakeHost) left() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.records)
}

type fixture struct {
	*Sessions
	host *fakeHost
	srv  *sessiontest.Server
	key  ed25519.PrivateKey
}

func config(t testing.TB, url ...string) Config {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Default()
	cfg.Host, cfg.Class, cfg.Version, cfg.Key, cfg.Servers = "h1", "crowd", "test", key, url
	cfg.BackoffMin, cfg.BackoffMax = 5*time.Millisecond, 50*time.Millisecond
	return cfg
}

// newServer returns a server that knows leases 1 and 2 of the host.
func newServer(t testing.TB) *sessiontest.Server {
	srv := sessiontest.New(t)
	srv.AddLease(1, "h1", "a/t/1")
	srv.AddLease(2, "h1", "a/t/2")
	return srv
}

// start runs sessions to a server that knows the host.
func start(t testing.TB, change func(*Config)) *fixture {
	srv := newServer(t)
	cfg := config(t, srv.URL())
	if change != nil {
		change(&cfg)
	}
	srv.Enroll("h1", cfg.Key.Public().(ed25519.PublicKey))
	return &fixture{run(t, cfg, newHost()), nil, srv, cfg.Key}
}

func newHost() *fakeHost { return &fakeHost{last: map[wire.LeaseID]wire.Record{}} }

func run(t testing.TB, cfg Config, host *fakeHost) *Sessions {
	t.Helper()
	s, err := New(cfg, host, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			buf := make([]byte, 1<<20)
			t.Errorf("Run didn't end:\n%s", buf[:runtime.Stack(buf, true)])
		}
	})
	return s
}

func (f *fixture) hostOf() *fakeHost { return f.Sessions.host.(*fakeHost) }

func (f *fixture) drained(t *testing.T) {
	t.Helper()
	f.srv.Await(t, "an empty spool", func() bool { return f.hostOf().left() == 0 })
}

func (f *fixture) accepted(t *testing.T, key string, want int) {
	t.Helper()
	l, _ := f.srv.Lease(key)
	if len(l.Accepted) != want {
		t.Errorf("lease %s: got %d records accepted (%v), want %d", key, len(l.Accepted), l.Statuses, want)
	}
}
