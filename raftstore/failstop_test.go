package raftstore

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
)

var errDisk = errors.New("input/output error")

// Whichever write fails, Fatal hears of it once and nothing is acknowledged
// from then on.
func TestFirstWriteErrorStopsTheServer(t *testing.T) {
	t.Parallel()
	// What a lone server's start writes: measured, so that each later write is a
	// proposal's.
	base := newMemStore()
	s := mustOpen(t, withStore(testConfig(t, "s1", t.TempDir()), base), &list{})
	mustLead(t, s)
	if err := s.VerifyRead(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Close()
	for k := 1; k <= 5; k++ {
		t.Run(fmt.Sprintf("proposal %d", k), func(t *testing.T) {
			t.Parallel()
			store := newMemStore()
			store.failAt, store.err = base.writes+k, errDisk
			cfg := withStore(testConfig(t, "s1", t.TempDir()), store)
			var mu sync.Mutex
			var fatal []error
			cfg.Fatal = func(err error) { mu.Lock(); fatal = append(fatal, err); mu.Unlock() }
			sm := &list{}
			s := mustOpen(t, cfg, sm)
			mustLead(t, s)
			if err := s.VerifyRead(t.Context()); err != nil {
				t.Fatal(err)
			}
			var acked []string
			for i := range 8 {
				e := fmt.Sprint("entry ", i)
				_, _, err := s.Propose(t.Context(), []byte(e))
				switch {
				case err == nil:
					acked = append(acked, e)
				case !errors.Is(err, ErrFailed) || !errors.Is(err, errDisk):
					t.Errorf("propose after the fault: got %v, want %v of %v", err, ErrFailed, errDisk)
				}
			}
			if len(acked) != k-1 || !slices.Equal(acked, sm.strings()) {
				t.Errorf("got %q acknowledged and %q applied, want the first %d", acked, sm.strings(), k-1)
			}
			if err := s.VerifyRead(t.Context()); !errors.Is(err, ErrFailed) {
				t.Errorf("verify read: got %v, want %v", err, ErrFailed)
			}
			s.Close()
			if len(fatal) != 1 || !errors.Is(fatal[0], errDisk) {
				t.Errorf("fatal: got %v, want one %v", fatal, errDisk)
			}
		})
	}
}

func withStore(cfg Config, store *memStore) Config {
	cfg.LogStore = store
	return cfg
}

func TestFailStopRefusesEveryLaterWrite(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]func(LogStore) error{
		"store logs":   func(s LogStore) error { return s.StoreLogs([]*raft.Log{{Index: 1}}) },
		"store log":    func(s LogStore) error { return s.StoreLog(&raft.Log{Index: 1}) },
		"delete range": func(s LogStore) error { return s.DeleteRange(1, 1) },
		"set":          func(s LogStore) error { return s.Set([]byte("k"), nil) },
		"set uint64":   func(s LogStore) error { return s.SetUint64([]byte("k"), 1) },
	} {
		store := newMemStore()
		store.failAt, store.err = 1, errDisk
		calls := 0
		s := &failStop{store: store, f: newFailure(func(error) { calls++ })}
		if err := first(s); !errors.Is(err, errDisk) {
			t.Errorf("%s: got %v, want %v", name, err, errDisk)
		}
		for _, later := range []error{s.StoreLog(&raft.Log{Index: 1}), s.DeleteRange(1, 1), s.Set(nil, nil), s.SetUint64(nil, 1)} {
			if !errors.Is(later, ErrFailed) || !errors.Is(later, errDisk) {
				t.Errorf("%s: later write: got %v, want %v", name, later, ErrFailed)
			}
		}
		if store.writes != 1 || calls != 1 {
			t.Errorf("%s: got %d writes and %d fatal calls, want 1 and 1", name, store.writes, calls)
		}
		if _, err := s.LastIndex(); err != nil {
			t.Errorf("%s: read: %v", name, err)
		}
	}
}
