package journal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// chain makes blocks that follow one another.
type chain struct {
	blocks  []*wire.Block
	encoded [][]byte
	entries uint64
}

func (c *chain) digest() ledger.Digest {
	if len(c.blocks) == 0 {
		return ledger.Digest{}
	}
	return c.blocks[len(c.blocks)-1].Digest
}

// add appends a block with the entries, numbering them.
func (c *chain) add(entries ...ledger.Entry) {
	n := uint64(len(c.blocks) + 1)
	for i := range entries {
		c.entries++
		entries[i].Seq, entries[i].Time = c.entries, ledger.Time(1000+n/2)
	}
	b := &wire.Block{
		Seq: n, Index: n + 2, Time: ledger.Time(1000 + n/2),
		Envelopes: []ledger.Envelope{{Key: fmt.Sprint("key ", n), Command: &ledger.CreateSupplier{Name: fmt.Sprint("s", n)}}},
		Results:   []ledger.Result{{ID: n}},
		Entries:   entries,
	}
	c.encoded = append(c.encoded, wire.AppendBlock(nil, c.digest(), b))
	c.blocks = append(c.blocks, b)
}

// fill adds n blocks about leases 1 to 3 and accounts 1 to 5.
func (c *chain) fill(n int) *chain {
	r := rand.New(rand.NewPCG(1, uint64(len(c.blocks))))
	for range n {
		lease := ledger.LeaseID(1 + r.IntN(3))
		var entries []ledger.Entry
		for range r.IntN(4) {
			switch r.IntN(3) {
			case 0:
				entries = append(entries, ledger.Entry{Kind: ledger.EntryUsage, Usage: ledger.Usage{Lease: lease, Seq: uint64(len(c.blocks))}})
			case 1:
				entries = append(entries, ledger.Entry{Kind: ledger.EntryLeaseClosed, Fact: &ledger.LeaseClosed{ID: lease}})
			default:
				debit := ledger.AccountID(1 + r.IntN(4))
				entries = append(entries, ledger.Entry{Kind: ledger.EntryTransfer, Transfer: ledger.Transfer{
					Debit: debit, Credit: debit + 1, Currency: ledger.USD, Amount: 5, Reason: ledger.ReasonHold, Lease: lease}})
			}
		}
		c.add(entries...)
	}
	return c
}

func (c *chain) entriesWhere(want func(*ledger.Entry) bool) []ledger.Entry {
	var out []ledger.Entry
	for _, b := range c.blocks {
		for i := range b.Entries {
			if want(&b.Entries[i]) {
				out = append(out, b.Entries[i])
			}
		}
	}
	return out
}

func mustOpen(tb testing.TB, dir string, rotate int64) *Journal {
	tb.Helper()
	j, err := open(OS, dir, rotate)
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	tb.Cleanup(func() { j.Close() })
	return j
}

func mustAppend(tb testing.TB, j *Journal, c *chain, from, to int) {
	tb.Helper()
	for i := from; i < to; i++ {
		if err := j.Append(c.encoded[i], c.blocks[i]); err != nil {
			tb.Fatalf("append block %d: %v", i+1, err)
		}
	}
}

// check compares everything that the journal answers with the chain's first n
// blocks.
func check(tb testing.TB, j *Journal, c *chain, n int) {
	tb.Helper()
	short := &chain{blocks: c.blocks[:n]}
	if seq, digest := j.Last(); seq != uint64(n) || digest != short.digest() {
		tb.Fatalf("last: got block %d with %x, want %d with %x", seq, digest, n, short.digest())
	}
	var got []*wire.Block
	for b, err := range j.Blocks(0) {
		if err != nil {
			tb.Fatalf("blocks: %v", err)
		}
		got = append(got, b)
	}
	if diff := cmp.Diff(short.blocks, got); n > 0 && diff != "" {
		tb.Fatalf("blocks (-want +got):\n%s", diff)
	}
	for id := ledger.LeaseID(0); id <= 4; id++ {
		got, err := j.EntriesOfLease(id, Range{})
		if err != nil {
			tb.Fatal(err)
		}
		want := short.entriesWhere(func(e *ledger.Entry) bool { return id != 0 && leaseOf(e) == id })
		if diff := cmp.Diff(want, got); diff != "" {
			tb.Errorf("entries of lease %d (-want +got):\n%s", id, diff)
		}
	}
	for id := ledger.AccountID(1); id <= 6; id++ {
		for _, page := range []struct {
			after uint64
			limit int
		}{{0, 0}, {0, 2}, {uint64(n), 3}} {
			got, err := j.EntriesOfAccounts([]ledger.AccountID{id}, Range{After: page.after, Limit: page.limit})
			if err != nil {
				tb.Fatal(err)
			}
			want := short.entriesWhere(func(e *ledger.Entry) bool { return e.Seq > page.after && concerns(e, id) })
			if page.limit > 0 && len(want) > page.limit {
				want = want[:page.limit]
			}
			if diff := cmp.Diff(want, got); diff != "" {
				tb.Errorf("entries of account %d after %d, at most %d (-want +got):\n%s", id, page.after, page.limit, diff)
			}
		}
	}
}

func TestRoundTripAndRotation(t *testing.T) {
	t.Parallel()
	for _, rotate := range []int64{1, 700, segmentBytes} {
		dir := filepath.Join(t.TempDir(), "new", "journal")
		c := new(chain).fill(40)
		j := mustOpen(t, dir, rotate)
		check(t, j, c, 0)
		mustAppend(t, j, c, 0, 25)
		check(t, j, c, 25)
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if err := j.Append(c.encoded[25], c.blocks[25]); !errors.Is(err, ErrClosed) {
			t.Errorf("append after close: got %v, want %v", err, ErrClosed)
		}
		if _, err := j.EntriesOfLease(1, Range{}); !errors.Is(err, ErrClosed) {
			t.Errorf("read after close: got %v, want %v", err, ErrClosed)
		}
		j = mustOpen(t, dir, rotate)
		check(t, j, c, 25)
		mustAppend(t, j, c, 25, 40)
		check(t, j, c, 40)
		files, err := filepath.Glob(filepath.Join(dir, "*.jl"))
		if err != nil || (len(files) > 1) != (rotate < segmentBytes) || rotate == 1 && len(files) != 40 {
			t.Errorf("rotating at %d: got %d files, %v", rotate, len(files), err)
		}
		j.Close()
	}
}

func TestReplayIsSkippedAndCompared(t *testing.T) {
	t.Parallel()
	c := new(chain).fill(10)
	dir := t.TempDir()
	j := mustOpen(t, dir, 300)
	mustAppend(t, j, c, 0, 8)
	mustAppend(t, j, c, 0, 10) // a replay, then new blocks
	check(t, j, c, 10)

	other := new(chain).fill(3)
	other.blocks[2].Index = 77
	other.encoded[2] = wire.AppendBlock(nil, other.blocks[1].Digest, other.blocks[2])
	var mismatch *MismatchError
	if err := j.Append(other.encoded[2], other.blocks[2]); !errors.As(err, &mismatch) || mismatch.Seq != 3 {
		t.Errorf("replay of another block 3: got %v, want a MismatchError", err)
	}
	gap := new(chain).fill(12)
	if err := j.Append(gap.encoded[11], gap.blocks[11]); err == nil || !strings.Contains(err.Error(), "append block 12 to the journal: its last is 10") {
		t.Errorf("append with a gap: got %v", err)
	}
	// The right sequence on another history.
	foreign := &chain{blocks: other.blocks[:3], encoded: other.encoded[:3]}
	foreign.fill(8)
	if err := j.Append(foreign.encoded[10], foreign.blocks[10]); !errors.As(err, &mismatch) || mismatch.Seq != 11 {
		t.Errorf("append of another history's block 11: got %v, want a MismatchError", err)
	}
	check(t, j, c, 10)
}

func TestOneWriter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := mustOpen(t, dir, segmentBytes)
	if _, err := Open(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("second open: got %v, want %v", err, ErrLocked)
	}
	j.Close()
	mustOpen(t, dir, segmentBytes)
}

func TestReadersBesideTheWriter(t *testing.T) {
	t.Parallel()
	const n = 300
	c := new(chain).fill(n)
	j := mustOpen(t, t.TempDir(), 4000)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for seen := 0; seen < n; {
				seen = 0
				for b, err := range j.Blocks(1) {
					if err != nil || b.Digest != c.blocks[seen].Digest {
						t.Errorf("block %d: got %v, %v", seen+1, b, err)
						return
					}
					seen++
				}
				if _, err := j.EntriesOfAccounts([]ledger.AccountID{2}, Range{Limit: 10}); err != nil {
					t.Errorf("entries: %v", err)
					return
				}
				if err := j.Sync(); err != nil {
					t.Errorf("sync: %v", err)
					return
				}
			}
		})
	}
	mustAppend(t, j, c, 0, n)
	wg.Wait()
	// A scan of the files is a reader too.
	seen := 0
	for f, err := range Scan(j.dir) {
		if err != nil || f.Block.Digest != c.blocks[seen].Digest {
			t.Fatalf("scan: block %d: %v", seen+1, err)
		}
		seen++
	}
	if seen != n {
		t.Errorf("scan: got %d blocks, want %d", seen, n)
	}
}

// failingFile fails its n-th write or sync.
type failingFile struct {
	File
	left *int
	err  error
}

type failingFS struct {
	FS
	left *int
	err  error
}

func (fs failingFS) Create(path string) (File, error) {
	f, err := fs.FS.Create(path)
	if filepath.Ext(path) != ".jl" {
		return f, err // an index is no more than a copy
	}
	return failingFile{f, fs.left, fs.err}, err
}

func (f failingFile) step() error {
	if *f.left--; *f.left == 0 {
		return f.err
	}
	return nil
}

func (f failingFile) Write(p []byte) (int, error) {
	if err := f.step(); err != nil {
		n, _ := f.File.Write(p[:len(p)/2])
		return n, err
	}
	return f.File.Write(p)
}

func (f failingFile) Sync() error {
	if err := f.step(); err != nil {
		return err
	}
	return f.File.Sync()
}

// The first write error ends the journal, and what it left behind is no harm.
func TestFirstWriteErrorIsKept(t *testing.T) {
	t.Parallel()
	errDisk := errors.New("no space left on device")
	c := new(chain).fill(12)
	for at := 1; at <= 20; at++ {
		dir, left := t.TempDir(), at
		j, err := open(failingFS{OS, &left, errDisk}, dir, 700)
		if err != nil {
			t.Fatal(err)
		}
		acked := 0
		for i := range c.blocks {
			if err := j.Append(c.encoded[i], c.blocks[i]); err == nil {
				if acked != i {
					t.Fatalf("write %d: block %d was taken after an error", at, i+1)
				}
				acked++
			} else if !errors.Is(err, errDisk) {
				t.Errorf("write %d: got %v, want %v", at, err, errDisk)
			}
		}
		if acked == len(c.blocks) {
			t.Fatalf("write %d: no error appeared", at)
		}
		if err := j.Sync(); !errors.Is(err, errDisk) {
			t.Errorf("write %d: sync: got %v, want %v", at, err, errDisk)
		}
		j.Close()
		j = mustOpen(t, dir, 700)
		seq, _ := j.Last()
		if seq != uint64(acked) {
			t.Errorf("write %d: after reopening got %d blocks, want the %d acknowledged", at, seq, acked)
		}
		mustAppend(t, j, c, 0, 12)
		check(t, j, c, 12)
		j.Close()
	}
}
