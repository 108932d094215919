package raftstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// list is a StateMachine that keeps every entry in order.
type list struct {
	mu      sync.Mutex
	entries [][]byte
	indexes []uint64
	batches int
	restore error // returned by the next Restore
	hold    chan struct{}
}

func (l *list) Apply(index uint64, data []byte) any {
	l.mu.Lock()
	hold := l.hold
	l.mu.Unlock()
	if hold != nil {
		<-hold
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, bytes.Clone(data))
	l.indexes = append(l.indexes, index)
	return len(l.entries)
}

func (l *list) BatchDone(uint64) { l.mu.Lock(); l.batches++; l.mu.Unlock() }

func (l *list) Snapshot() (Snapshot, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return listSnapshot(slices.Clone(l.entries)), nil
}

func (l *list) Restore(r io.Reader) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.restore; err != nil {
		return err
	}
	l.entries, l.indexes = nil, nil
	for {
		var n uint32
		if err := binary.Read(r, binary.LittleEndian, &n); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		l.entries = append(l.entries, b)
	}
}

func (l *list) strings() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for _, e := range l.entries {
		out = append(out, string(e))
	}
	return out
}

type listSnapshot [][]byte

func (s listSnapshot) Persist(w io.Writer) error {
	for _, e := range s {
		if err := binary.Write(w, binary.LittleEndian, uint32(len(e))); err != nil {
			return err
		}
		if _, err := w.Write(e); err != nil {
			return err
		}
	}
	return nil
}

func (listSnapshot) Release() {}

// testLog shows raft's lines only where a test fails verbosely: its warnings
// are what these tests provoke.
func testLog(tb testing.TB) *slog.Logger {
	if !testing.Verbose() {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(tb.Output(), nil))
}

// testConfig is a lone server's; an unexpected fatal error fails the test.
func testConfig(tb testing.TB, id, dir string) Config {
	cfg := Default()
	cfg.ID, cfg.Dir = id, dir
	cfg.Bootstrap = []Peer{{ID: id}}
	cfg.Fatal = func(err error) { tb.Errorf("server %s: unexpected fatal error: %v", id, err) }
	return cfg
}

func mustOpen(tb testing.TB, cfg Config, sm StateMachine) *Store {
	tb.Helper()
	s, err := Open(cfg, sm, testLog(tb))
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

func testContext(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	tb.Cleanup(cancel)
	return ctx
}

func mustLead(tb testing.TB, s *Store) {
	tb.Helper()
	if err := s.WaitLeader(testContext(tb)); err != nil {
		tb.Fatal(err)
	}
	if !s.IsLeader() {
		tb.Fatal("a lone server knows a leader but is not it")
	}
}

func mustPropose(tb testing.TB, s *Store, data string) uint64 {
	tb.Helper()
	_, index, err := s.Propose(testContext(tb), []byte(data))
	if err != nil {
		tb.Fatalf("propose %q: %v", data, err)
	}
	return index
}

// cluster is three servers in one process over loopback TCP.
type cluster struct {
	tb    testing.TB
	dir   string
	peers []Peer
	conf  func(*Config)
	sms   []*list
	nodes []*Store // nil: not running
}

func newCluster(tb testing.TB, conf func(*Config)) *cluster {
	tb.Helper()
	c := &cluster{tb: tb, dir: tb.TempDir(), conf: conf, sms: make([]*list, 3), nodes: make([]*Store, 3)}
	var listeners []net.Listener
	for i := range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		listeners = append(listeners, l)
		c.peers = append(c.peers, Peer{ID: fmt.Sprint("s", i+1), Addr: l.Addr().String()})
	}
	for i, l := range listeners {
		c.start(i, l)
	}
	return c
}

// start runs a server; l may be nil for one that is started again.
func (c *cluster) start(i int, l net.Listener) {
	c.tb.Helper()
	cfg := testConfig(c.tb, c.peers[i].ID, filepath.Join(c.dir, c.peers[i].ID))
	cfg.Bootstrap = c.peers
	cfg.BindAddr, cfg.Listener = c.peers[i].Addr, l
	cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaderLeaseTimeout = 300*time.Millisecond, 300*time.Millisecond, 200*time.Millisecond
	cfg.CommitTimeout = 10 * time.Millisecond
	if c.conf != nil {
		c.conf(&cfg)
	}
	c.sms[i] = &list{}
	c.nodes[i] = mustOpen(c.tb, cfg, c.sms[i])
}

func (c *cluster) stop(i int) {
	c.tb.Helper()
	if err := c.nodes[i].Close(); err != nil {
		c.tb.Errorf("close %s: %v", c.peers[i].ID, err)
	}
	c.nodes[i] = nil
}

// leader waits until a running server makes a barrier, so is the leader.
func (c *cluster) leader() int {
	c.tb.Helper()
	ctx := testContext(c.tb)
	for ctx.Err() == nil {
		for i, n := range c.nodes {
			if n != nil && n.IsLeader() && n.VerifyRead(ctx) == nil {
				return i
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	c.tb.Fatal("no leader was elected")
	return -1
}

// propose retries over elections; the entry may be applied more than once.
func (c *cluster) propose(data string) uint64 {
	c.tb.Helper()
	for ctx := testContext(c.tb); ctx.Err() == nil; {
		if _, index, err := c.nodes[c.leader()].Propose(ctx, []byte(data)); err == nil {
			return index
		}
	}
	c.tb.Fatalf("propose %q: no leader took it", data)
	return 0
}

// converge waits until every running server has applied index, and compares.
func (c *cluster) converge(index uint64) {
	c.tb.Helper()
	var first []string
	for i, n := range c.nodes {
		if n == nil {
			continue
		}
		if err := n.WaitApplied(testContext(c.tb), index); err != nil {
			c.tb.Fatalf("server %s at %d of %d: %v", c.peers[i].ID, n.AppliedIndex(), index, err)
		}
		got := c.sms[i].strings()
		if first == nil {
			first = got
		} else if !slices.Equal(got, first) {
			c.tb.Fatalf("server %s: got entries %q, want %q", c.peers[i].ID, got, first)
		}
	}
}

// memStore is an in-memory LogStore that can fail a write.
type memStore struct {
	*raft.InmemStore
	mu     sync.Mutex
	writes int
	failAt int // the write, from 1, that fails; 0: none
	err    error
}

func newMemStore() *memStore { return &memStore{InmemStore: raft.NewInmemStore()} }

func (m *memStore) IsMonotonic() bool { return true }

func (m *memStore) fail() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writes++
	if m.failAt != 0 && m.writes == m.failAt {
		return m.err
	}
	return nil
}

func (m *memStore) StoreLogs(logs []*raft.Log) error {
	if err := m.fail(); err != nil {
		return err
	}
	return m.InmemStore.StoreLogs(logs)
}

func (m *memStore) DeleteRange(min, max uint64) error {
	if err := m.fail(); err != nil {
		return err
	}
	return m.InmemStore.DeleteRange(min, max)
}

func (m *memStore) Set(k, v []byte) error {
	if err := m.fail(); err != nil {
		return err
	}
	return m.InmemStore.Set(k, v)
}

func (m *memStore) SetUint64(k []byte, v uint64) error {
	if err := m.fail(); err != nil {
		return err
	}
	return m.InmemStore.SetUint64(k, v)
}
