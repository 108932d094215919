package raftstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func TestLoneServerElectsItselfQuickly(t *testing.T) {
	t.Parallel()
	sm := &list{}
	start := time.Now()
	s := mustOpen(t, testConfig(t, "s1", t.TempDir()), sm)
	mustLead(t, s)
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("election: got %s, want well under a second", d)
	}
	for i := range 10 {
		result, index, err := s.Propose(t.Context(), fmt.Append(nil, "entry ", i))
		if err != nil {
			t.Fatal(err)
		}
		if result != i+1 {
			t.Errorf("result of entry %d: got %v, want %d", i, result, i+1)
		}
		if got := s.AppliedIndex(); got < index {
			t.Errorf("applied index: got %d, want at least %d", got, index)
		}
	}
	if err := s.VerifyRead(t.Context()); err != nil {
		t.Errorf("verify read: %v", err)
	}
	if err := s.VerifyRead(t.Context()); err != nil {
		t.Errorf("second verify read: %v", err)
	}
	if sm.batches == 0 {
		t.Error("BatchDone was never called")
	}
	if id, addr := s.Leader(); id != "s1" || addr != s.Addr() {
		t.Errorf("leader: got %q at %q, want %q at %q", id, addr, "s1", s.Addr())
	}
	want := Peer{ID: "s1", Addr: s.Addr()}
	if got := s.Peers(); len(got) != 1 || got[0] != want {
		t.Errorf("peers: got %v, want [%v]", got, want)
	}
	if st := s.Stats(); st.State != "Leader" || st.LastContact != 0 || st.AppliedIndex == 0 || st.LeaderID != "s1" {
		t.Errorf("stats: got %+v", st)
	}
	if err := s.AddVoter(t.Context(), "s2", "127.0.0.1:1"); !errors.Is(err, ErrAlone) {
		t.Errorf("add voter to a lone server: got %v, want %v", err, ErrAlone)
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		snapshot bool
	}{
		{"from the log", false},
		{"from a snapshot and the log behind it", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t, "s1", t.TempDir())
			cfg.TrailingLogs = 2
			var want []string
			for round := range 3 {
				sm := &list{}
				s := mustOpen(t, cfg, sm)
				mustLead(t, s)
				if err := s.VerifyRead(t.Context()); err != nil {
					t.Fatal(err)
				}
				if got := sm.strings(); !slices.Equal(got, want) {
					t.Fatalf("round %d: got %q, want %q", round, got, want)
				}
				for i := range 8 {
					e := fmt.Sprintf("round %d entry %d", round, i)
					mustPropose(t, s, e)
					want = append(want, e)
					if tt.snapshot && i == 5 {
						if err := s.TakeSnapshot(t.Context()); err != nil {
							t.Fatal(err)
						}
						if got := s.Stats().SnapshotIndex; got != s.AppliedIndex() {
							t.Errorf("snapshot index: got %d, want %d", got, s.AppliedIndex())
						}
					}
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// After a restore the applied index is the snapshot's, before any entry.
func TestSnapshotCarriesItsIndex(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "s1", t.TempDir())
	s := mustOpen(t, cfg, &list{})
	mustLead(t, s)
	index := mustPropose(t, s, "a")
	if err := s.TakeSnapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Close()
	// Without a vote it elects nobody and applies nothing.
	cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaderLeaseTimeout = time.Hour, time.Hour, time.Hour
	sm := &list{}
	s = mustOpen(t, cfg, sm)
	if got := s.AppliedIndex(); got != index {
		t.Errorf("applied index: got %d, want %d", got, index)
	}
	if got := sm.strings(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("entries: got %q, want [a]", got)
	}
}

func TestCorruptSnapshotIsRefused(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "s1", t.TempDir())
	cfg.TrailingLogs = 1
	s := mustOpen(t, cfg, &list{})
	mustLead(t, s)
	for i := range 20 {
		mustPropose(t, s, fmt.Sprint("entry ", i))
	}
	if err := s.TakeSnapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Close()
	files, err := filepath.Glob(filepath.Join(cfg.Dir, "snapshots", "*", "state.bin"))
	if err != nil || len(files) != 1 {
		t.Fatalf("snapshot files: got %q, %v, want one", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 1
	if err := os.WriteFile(files[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(cfg, &list{}, testLog(t)); err == nil {
		s.Close()
		t.Fatal("open with a flipped bit in the only snapshot: got no error")
	}
	refusal := errors.New("a reason of the state machine")
	if _, err := Open(cfg, &list{restore: refusal}, testLog(t)); !errors.Is(err, refusal) && !strings.Contains(err.Error(), "snapshot") {
		t.Errorf("open: got %v, without a reason", err)
	}
	// The refusal let go of everything: putting the bit back is enough.
	b[len(b)-1] ^= 1
	if err := os.WriteFile(files[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, cfg, &list{})
}

func TestOneProcessPerDirectory(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "s1", t.TempDir())
	s := mustOpen(t, cfg, &list{})
	if _, err := Open(cfg, &list{}, testLog(t)); !errors.Is(err, ErrLocked) {
		t.Errorf("second open: got %v, want %v", err, ErrLocked)
	}
	s.Close()
	mustOpen(t, cfg, &list{})
}

func TestCloseWhileProposing(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, testConfig(t, "s1", t.TempDir()), &list{})
	mustLead(t, s)
	var wg sync.WaitGroup
	acked := make([]int, 16)
	for w := range acked {
		wg.Go(func() {
			for {
				_, _, err := s.Propose(t.Context(), []byte("x"))
				if err != nil {
					if !errors.Is(err, ErrShutdown) && !errors.Is(err, ErrLeadershipLost) {
						t.Errorf("propose during close: got %v, want %v", err, ErrShutdown)
					}
					return
				}
				acked[w]++
			}
		})
	}
	for deadline := time.Now().Add(20 * time.Second); s.AppliedIndex() < 100 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	for _, op := range []func() error{
		func() error { _, _, err := s.Propose(t.Context(), nil); return err },
		func() error { return s.VerifyRead(t.Context()) },
		func() error { return s.Barrier(t.Context()) },
		func() error { return s.TakeSnapshot(t.Context()) },
		func() error { return s.WaitApplied(t.Context(), 1<<60) },
	} {
		if err := op(); !errors.Is(err, ErrShutdown) {
			t.Errorf("after close: got %v, want %v", err, ErrShutdown)
		}
	}
}

// A proposal that is held up in the state machine ends with its context.
func TestProposeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	sm := &list{hold: make(chan struct{})}
	s := mustOpen(t, testConfig(t, "s1", t.TempDir()), sm)
	mustLead(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := s.Propose(ctx, []byte("x")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("propose: got %v, want %v", err, context.DeadlineExceeded)
	}
	close(sm.hold)
	if err := s.Barrier(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if got := sm.strings(); !slices.Equal(got, []string{"x"}) {
		t.Errorf("entries: got %q; the outcome was unknown to the caller, but the entry was in", got)
	}
	if _, _, err := s.Propose(t.Context(), make([]byte, EntryBytesMax+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("propose too much: got %v, want %v", err, ErrTooLarge)
	}
}

func TestRestoreFailureOfARunningServerIsFatal(t *testing.T) {
	t.Parallel()
	var got error
	f := newFSM(&list{restore: errors.New("bad bytes")}, func(err error) { got = err })
	snapshot := func() *strings.Reader { return strings.NewReader(string(snapshotMagic) + "12345678") }
	if err := f.Restore(readCloser{snapshot()}); err == nil || got != nil {
		t.Errorf("restore at start: got %v and fatal %v, want an error and no fatal", err, got)
	}
	f.restored = func() {}
	f.running.Store(true)
	if err := f.Restore(readCloser{snapshot()}); err == nil || got == nil {
		t.Errorf("restore later: got %v and fatal %v, want both", err, got)
	}
	if err := f.Restore(readCloser{strings.NewReader("something else that is long enough")}); err == nil || !strings.Contains(err.Error(), "unknown format") {
		t.Errorf("restore of an unknown format: got %v", err)
	}
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

func TestValidateReportsEveryFault(t *testing.T) {
	t.Parallel()
	cfg := Default()
	cfg.BindAddr = "nowhere"
	cfg.AdvertiseAddr = ":0"
	cfg.Bootstrap = []Peer{{ID: "s2", Addr: "a:1"}, {ID: "s2", Addr: "a:1"}, {ID: "s3", Addr: "x"}}
	cfg.HeartbeatTimeout = time.Second
	cfg.MaxAppendEntries = 4096
	cfg.SnapshotsRetained = 0
	err := cfg.Validate()
	if err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{
		"raft.id: must be set", "raft.dir: must be set", "raft.fatal: must be set",
		`raft.bind_addr: must be host:port (got "nowhere")`, `raft.advertise_addr: must be host:port with a host and a port (got ":0")`,
		`raft.bootstrap[1].id: is given twice (got "s2")`, `raft.bootstrap[1].addr: is given twice (got "a:1")`,
		`raft.bootstrap[2].addr: must be host:port`,
		"raft.bootstrap: must name this server", "must be all given or all left out (got 1s, 0s, 0s)",
		"raft.max_append_entries: must be 1 to 1024 (got 4096)", "raft.snapshots_retained: must be at least 1 (got 0)",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got\n%v\nwithout %q", err, want)
		}
	}
}

func TestTimeoutsByServerCount(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		bootstrap []Peer
		given     time.Duration
		heartbeat time.Duration
		alone     bool
	}{
		{"alone", []Peer{{ID: "s1"}}, 0, AloneTimeout, true},
		{"three", []Peer{{ID: "s1"}, {ID: "s2"}, {ID: "s3"}}, 0, ClusterHeartbeatTimeout, false},
		{"joining", nil, 0, ClusterHeartbeatTimeout, false},
		{"alone with given ones", []Peer{{ID: "s1"}}, time.Second, time.Second, false},
	} {
		cfg := Config{ID: "s1", Bootstrap: tt.bootstrap, HeartbeatTimeout: tt.given, ElectionTimeout: tt.given, LeaderLeaseTimeout: tt.given}
		got, alone := cfg.withTimeouts()
		if got.HeartbeatTimeout != tt.heartbeat || alone != tt.alone {
			t.Errorf("%s: got %s, alone %t, want %s, %t", tt.name, got.HeartbeatTimeout, alone, tt.heartbeat, tt.alone)
		}
		if err := raft.ValidateConfig(func() *raft.Config {
			d := Default()
			d.ID = "s1"
			d, _ = merge(d, got).withTimeouts()
			return d.raftConfig()
		}()); err != nil {
			t.Errorf("%s: the library refuses it: %v", tt.name, err)
		}
	}
}

func merge(d, timeouts Config) Config {
	d.HeartbeatTimeout, d.ElectionTimeout, d.LeaderLeaseTimeout = timeouts.HeartbeatTimeout, timeouts.ElectionTimeout, timeouts.LeaderLeaseTimeout
	return d
}

// A log that does not reach back to the snapshot is an error, not a panic.
func TestLogWithAGapIsRefused(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	if err := errors.Join(store.StoreLogs([]*raft.Log{sealEntry(&raft.Log{Index: 10, Term: 1})}),
		store.Set([]byte("CurrentTerm"), sealValue([]byte("CurrentTerm"), binary.LittleEndian.AppendUint64(nil, 1)))); err != nil {
		t.Fatal(err)
	}
	s, err := Open(withStore(testConfig(t, "s1", t.TempDir()), store), &list{}, testLog(t))
	if err == nil {
		s.Close()
		t.Fatal("got no error")
	}
	if !strings.Contains(err.Error(), "start raft: ") {
		t.Errorf("got %v", err)
	}
}
