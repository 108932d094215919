package spool

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/joulecloud/joule/settlement/wire"
)

func openTest(t testing.TB, path string) *Spool {
	t.Helper()
	s, err := Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// putOne spools one record and returns it as stored.
func putOne(t testing.TB, s *Spool, lease wire.LeaseID, wallMs uint64) wire.Record {
	t.Helper()
	r := record(wallMs)
	if err := s.Put(Update{Lease: lease, Record: &r, State: fmt.Appendf(nil, "state %d", wallMs)}); err != nil {
		t.Fatalf("Put: %v", err)
	}
	return r
}

func record(wallMs uint64) wire.Record {
	return wire.Record{Epoch: 1, Known: wire.KnownWall, Active: wire.Totals{WallMs: wallMs}}
}

func pending(t testing.TB, s *Spool, limit int) []wire.Record {
	t.Helper()
	rs, err := s.Pending(limit)
	if err != nil {
		t.Fatalf("Pending: %v", err)
	}
	return rs
}

func TestPutContinuesTheChainAcrossReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "spool.db")
	s := openTest(t, path)
	first := putOne(t, s, 7, 100)
	second := putOne(t, s, 7, 200)
	if err := s.Ack(Acked{7, 2}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openTest(t, path)
	third := putOne(t, s, 7, 300)

	if first.Seq != 1 || first.Prev != (wire.Hash{}) {
		t.Errorf("first record: got seq %d prev %x, want seq 1 and no prev", first.Seq, first.Prev)
	}
	if second.Prev != first.Hash || third.Prev != second.Hash || third.Seq != 3 {
		t.Errorf("chain broken: %+v, %+v, %+v", first, second, third)
	}
	if got, want := third.Hash, wire.HashRecord(wire.AppendRecord(nil, &third)); got != want {
		t.Errorf("hash: got %x, want %x", got, want)
	}
	if diff := cmp.Diff([]wire.Record{third}, pending(t, s, 10)); diff != "" {
		t.Errorf("pending (-want +got):\n%s", diff)
	}
	chain, ok, err := s.Chain(7)
	if err != nil || !ok {
		t.Fatalf("Chain: %v, %v", ok, err)
	}
	if diff := cmp.Diff(Chain{Seq: 3, Hash: third.Hash, State: []byte("state 300")}, chain); diff != "" {
		t.Errorf("chain (-want +got):\n%s", diff)
	}
}

func TestBaseAppliesOnlyWithoutAChain(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "spool.db"))
	r := record(1)
	if err := s.Put(Update{Lease: 1, State: []byte("s"), Base: 1000}); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(Update{Lease: 1, Record: &r, Base: 5000}); err != nil {
		t.Fatal(err)
	}
	if r.Seq != 1001 || r.Prev != (wire.Hash{}) {
		t.Errorf("got seq %d prev %x, want 1001 and no prev", r.Seq, r.Prev)
	}
}

func TestTodosAreDurable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "spool.db")
	s := openTest(t, path)
	for _, td := range []Todo{{"b", []byte("2")}, {"a", []byte("1")}, {"a", []byte("3")}, {"c", nil}} {
		if err := s.PutTodo(td); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.DeleteTodo("c"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = openTest(t, path)
	got, err := s.Todos()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Todo{{"a", []byte("3")}, {"b", []byte("2")}}, got); diff != "" {
		t.Errorf("todos (-want +got):\n%s", diff)
	}
}

func TestSecondOpenIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "spool.db")
	openTest(t, path)
	if _, err := Open(path, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrLocked) {
		t.Errorf("second Open: got %v, want ErrLocked", err)
	}
}

func TestConcurrentPutsKeepEachChain(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "spool.db"))
	const leases, each = 8, 20
	var wg sync.WaitGroup
	for lease := wire.LeaseID(1); lease <= leases; lease++ {
		wg.Go(func() {
			var prev wire.Hash
			for i := range uint64(each) {
				r := record(i)
				if err := s.Put(Update{Lease: lease, Record: &r}); err != nil {
					t.Errorf("Put: %v", err)
					return
				}
				if r.Seq != i+1 || r.Prev != prev {
					t.Errorf("lease %d: got seq %d prev %x, want %d %x", lease, r.Seq, r.Prev, i+1, prev)
				}
				prev = r.Hash
				if i%3 == 2 {
					if err := s.Ack(Acked{lease, i}); err != nil {
						t.Errorf("Ack: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
	if got, want := s.Count(), len(pending(t, s, 1<<20)); got != want {
		t.Errorf("Count: got %d, want %d", got, want)
	}
}

// TestModel runs random operations, with reopening among them, against plain
// Go maps.
func TestModel(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "spool") // in memory: what survives a crash is TestKill9's matter
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		path := filepath.Join(dir, fmt.Sprintf("%d.db", n))
		log := slog.New(slog.DiscardHandler)
		s, err := Open(path, log)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { s.Close() }()
		records := map[wire.LeaseID][]wire.Record{}
		chains := map[wire.LeaseID]Chain{}
		lease := rapid.Map(rapid.Uint64Range(1, 4), func(v uint64) wire.LeaseID { return wire.LeaseID(v) })
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				id := lease.Draw(t, "lease")
				r := record(rapid.Uint64Range(0, 1<<40).Draw(t, "wall"))
				state := rapid.SliceOfN(rapid.Byte(), 1, 20).Draw(t, "state")
				if err := s.Put(Update{Lease: id, Record: &r, State: state}); err != nil {
					t.Fatal(err)
				}
				if c := chains[id]; r.Seq != c.Seq+1 || r.Prev != c.Hash {
					t.Fatalf("lease %d: got seq %d after %d", id, r.Seq, c.Seq)
				}
				chains[id] = Chain{r.Seq, r.Hash, state}
				records[id] = append(records[id], r)
			},
			"ack": func(t *rapid.T) {
				id, seq := lease.Draw(t, "lease"), rapid.Uint64Range(0, 12).Draw(t, "seq")
				if err := s.Ack(Acked{id, seq}); err != nil {
					t.Fatal(err)
				}
				records[id] = slices.DeleteFunc(records[id], func(r wire.Record) bool { return r.Seq <= seq })
			},
			"forget": func(t *rapid.T) {
				id := lease.Draw(t, "lease")
				// A lease is only forgotten when it is over: its sequences don't come back.
				if len(records[id]) > 0 {
					t.Skip("has records")
				}
				if err := s.Forget(id); err != nil {
					t.Fatal(err)
				}
				delete(chains, id)
			},
			"reopen": func(t *rapid.T) {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if s, err = Open(path, log); err != nil {
					t.Fatal(err)
				}
			},
			"": func(t *rapid.T) {
				var want []wire.Record
				for id := wire.LeaseID(1); id <= 4; id++ {
					want = append(want, records[id]...)
					c, ok, err := s.Chain(id)
					if err != nil {
						t.Fatal(err)
					}
					if w, has := chains[id]; has != ok || !cmp.Equal(w, c) {
						t.Fatalf("chain of %d: got %+v, want %+v", id, c, w)
					}
				}
				got, err := s.Pending(1 << 20)
				if err != nil {
					t.Fatal(err)
				}
				if !cmp.Equal(want, got) || s.Count() != len(want) {
					t.Fatalf("pending: got %v (count %d), want %v", got, s.Count(), want)
				}
			},
		})
	})
}

func TestDamagedFileIsSetAside(t *testing.T) {
	for _, tc := range []struct {
		name    string
		damage  func([]byte) []byte
		carried int // least number of records that must be carried over
	}{
		{"cut to a few bytes", func(b []byte) []byte { return b[:100] }, 0},
		{"cut in the middle", func(b []byte) []byte { return b[:3*os.Getpagesize()] }, 0},
		{"not a spool at all", func(b []byte) []byte { return bytes.Repeat([]byte("junk"), 4096) }, 0},
		{"both meta pages zeroed", func(b []byte) []byte { clear(b[:2*os.Getpagesize()]); return b }, 0},
		{"one meta page flipped", func(b []byte) []byte { b[30] ^= 1; return b }, 49},
		{"one record flipped", flipRecord, 49},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "spool.db")
			s := openTest(t, path)
			for i := range uint64(50) {
				putOne(t, s, wire.LeaseID(1+i%5), 0xABCDEF000000+i)
			}
			s.Close()
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			damaged := tc.damage(b)
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}

			var logged bytes.Buffer
			s, err = Open(path, slog.New(slog.NewTextHandler(&logged, nil)))
			if err != nil {
				t.Fatalf("Open: %v", err)
			}
			defer s.Close()
			kept, err := os.ReadFile(s.SetAside())
			if err != nil {
				t.Fatalf("SetAside %q: %v", s.SetAside(), err)
			}
			if !bytes.Equal(kept, damaged) {
				t.Errorf("the file set aside isn't the damaged one")
			}
			for _, want := range []string{"level=ERROR", s.SetAside()} {
				if !strings.Contains(logged.String(), want) {
					t.Errorf("log lacks %q: %s", want, logged.String())
				}
			}
			if got := s.Count(); got < tc.carried || got != len(pending(t, s, 100)) {
				t.Errorf("carried over: got %d, want at least %d", got, tc.carried)
			}
			// The chain is gone, and the new file works.
			if _, ok, err := s.Chain(1); ok || err != nil {
				t.Errorf("chain: got %v %v, want none", ok, err)
			}
			r := record(5)
			if err := s.Put(Update{Lease: 1, Record: &r, Base: 1 << 40}); err != nil || r.Seq != 1<<40+1 {
				t.Errorf("Put: got seq %d, %v", r.Seq, err)
			}
			s.Close()
			if s = openTest(t, path); s.SetAside() != "" {
				t.Errorf("the new file was set aside too: %q", s.SetAside())
			}
		})
	}
}

// flipRecord flips one bit of the newest copy of one record.
func flipRecord(b []byte) []byte {
	needle := []byte{44, 0, 0, 0xEF, 0xCD, 0xAB, 0, 0} // the wall time, little-endian
	// Copies of the page from earlier transactions have it too: flip all.
	for i := 0; ; {
		j := bytes.Index(b[i:], needle)
		if j < 0 {
			return b
		}
		b[i+j+1] ^= 1
		i += j + len(needle)
	}
}

// TestAnyBitFlipIsSurvived flips single bits all over the file: Open must find
// it or be unaffected, and never crash or lose a record silently.
func TestAnyBitFlipIsSurvived(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "spool.db")
	s := openTest(t, path)
	for i := range uint64(30) {
		putOne(t, s, wire.LeaseID(1+i%3), i)
	}
	s.Close()
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	step := 499
	if testing.Short() {
		step = 4999
	}
	for i := 0; i < len(sound); i += step {
		b := bytes.Clone(sound)
		b[i] ^= 1 << (i % 8)
		p := filepath.Join(dir, "flipped.db")
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(p, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatalf("byte %d: Open: %v", i, err)
		}
		if s.SetAside() == "" && s.Count() != 30 {
			t.Errorf("byte %d: %d records left and nothing said", i, s.Count())
		}
		r := record(1)
		if err := s.Put(Update{Lease: 1, Record: &r, Base: 1 << 30}); err != nil {
			t.Errorf("byte %d: Put: %v", i, err)
		}
		s.Close()
		if s.SetAside() != "" {
			os.Remove(s.SetAside())
		}
	}
}
