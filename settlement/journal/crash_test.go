package journal_test

import (
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/joulecloud/joule/raftstore/faultfs"
	"github.com/joulecloud/joule/settlement/journal"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/sim"
	"github.com/joulecloud/joule/settlement/wire"
)

const (
	crashRotate = 900
	crashBlocks = 24
)

// journaled is how far a journal had got when its disk broke.
type journaled struct {
	appended, synced int
	broke            bool
}

// use appends the chain's blocks from where the journal is, with a Sync now and
// then, until something fails.
func use(j *journal.Journal, blocks []*wire.Block, encoded [][]byte) journaled {
	var at journaled
	last, _ := j.Last()
	at.appended = int(last)
	for i := int(last); i < len(blocks); i++ {
		if err := j.Append(encoded[i], blocks[i]); err != nil {
			at.broke = true
			return at
		}
		at.appended = i + 1
		if i%5 == 4 {
			if err := j.Sync(); err != nil {
				at.broke = true
				return at
			}
			at.synced = i + 1
		}
	}
	return at
}

// holds checks a journal that was opened after the disk broke: it has what was
// synced, nothing but the chain's blocks, and goes on.
func (at journaled) holds(t *testing.T, disk *faultfs.Disk, blocks []*wire.Block, encoded [][]byte) {
	t.Helper()
	j, err := journal.OpenRotating(sim.JournalFS(disk), "/journal", crashRotate)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	defer j.Close()
	last, digest := j.Last()
	if int(last) < at.synced || int(last) > at.appended+1 {
		t.Fatalf("got %d blocks, want %d, which were synced, to %d, which were appended", last, at.synced, at.appended)
	}
	if last > 0 && digest != blocks[last-1].Digest {
		t.Fatalf("digest of block %d: got %x, want %x", last, digest, blocks[last-1].Digest)
	}
	if again := use(j, blocks, encoded); again.broke || again.appended != len(blocks) {
		t.Fatalf("after the restart %d of %d blocks could be appended", again.appended, len(blocks))
	}
	n := 0
	for b, err := range j.Blocks(0) {
		if err != nil {
			t.Fatalf("block %d: %v", n+1, err)
		}
		if b.Digest != blocks[n].Digest {
			t.Fatalf("block %d: another block", n+1)
		}
		n++
	}
	if n != len(blocks) {
		t.Fatalf("got %d blocks, want %d", n, len(blocks))
	}
	if _, err := j.EntriesOfLease(ledger.LeaseID(1), journal.Range{}); err != nil {
		t.Fatalf("entries of a lease: %v", err)
	}
}

// Whatever the disk does to whichever operation, what was synced is there
// afterwards, and nothing that never was.
func TestJournalOnABrokenDisk(t *testing.T) {
	t.Parallel()
	blocks, encoded := journal.NewChain(crashBlocks)
	broken := func(t *testing.T, disk *faultfs.Disk, n int) bool {
		t.Helper()
		disk.StrictNames = true
		var at journaled
		j, err := journal.OpenRotating(sim.JournalFS(disk), "/journal", crashRotate)
		if err != nil {
			at.broke = true
		} else {
			at = use(j, blocks, encoded)
		}
		r := rand.New(rand.NewPCG(uint64(n), 5))
		for _, kept := range []faultfs.Kept{faultfs.KeptAll, faultfs.KeptNothing, faultfs.KeptSome, faultfs.KeptSome, faultfs.KeptSome} {
			next := disk.Restart(r, kept)
			next.Capacity = 0
			at.holds(t, next, blocks, encoded)
		}
		if j != nil {
			j.Close()
		}
		return at.broke
	}
	for name, fault := range map[string]error{"power loss": faultfs.ErrPower, "EIO": faultfs.ErrIO, "ENOSPC": faultfs.ErrFull} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for n, broke := 1, true; broke; n++ {
				disk := faultfs.New()
				disk.Fault = func(op faultfs.Op) error {
					if op.N == n {
						return fault
					}
					return nil
				}
				if broke = broken(t, disk, n); !broke && disk.Ops() >= n {
					broke = true // the fault was survived: an index file is only a help
				}
			}
		})
	}
	t.Run("full disk", func(t *testing.T) {
		t.Parallel()
		for size := int64(1); size < 9000; size += 97 {
			disk := faultfs.New()
			disk.Capacity = size
			broken(t, disk, int(size))
		}
	})
}

// A crash while the journal is opened again, with its own repairs, is one more
// crash.
func TestCrashWhileOpening(t *testing.T) {
	t.Parallel()
	blocks, encoded := journal.NewChain(crashBlocks)
	r := rand.New(rand.NewPCG(8, 8))
	for round := range 60 {
		disk := faultfs.New()
		disk.StrictNames = true
		stop := 20 + r.IntN(60)
		disk.Fault = func(op faultfs.Op) error {
			if op.N == stop {
				return faultfs.ErrPower
			}
			return nil
		}
		j, err := journal.OpenRotating(sim.JournalFS(disk), "/journal", crashRotate)
		if err != nil {
			t.Fatal(err)
		}
		at := use(j, blocks, encoded)
		for n := 1; n < 6; n++ {
			disk = disk.Restart(r, faultfs.Kept(r.IntN(3)))
			disk.Fault = func(op faultfs.Op) error {
				if op.N == n {
					return faultfs.ErrPower
				}
				return nil
			}
			j, err := journal.OpenRotating(sim.JournalFS(disk), "/journal", crashRotate)
			if err == nil {
				j.Close()
			} else if !errors.Is(err, faultfs.ErrPower) {
				t.Fatalf("round %d, restart %d: %v", round, n, err)
			}
		}
		at.holds(t, disk.Restart(r, faultfs.KeptNothing), blocks, encoded)
	}
}

// The mark of what is synced outlasts a loss of power with it: a bit that flips
// later in what was synced is damage, no torn tail to be cut off.
func TestSyncMarkOutlastsPowerLoss(t *testing.T) {
	t.Parallel()
	blocks, encoded := journal.NewChain(7)
	disk := faultfs.New()
	disk.StrictNames = true
	j, err := journal.OpenRotating(sim.JournalFS(disk), "/journal", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range blocks {
		if err := j.Append(encoded[i], b); err != nil {
			t.Fatal(err)
		}
		if i == 4 {
			if err := j.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	disk.PowerOff()
	disk = disk.Restart(rand.New(rand.NewPCG(1, 1)), faultfs.KeptNothing)
	j.Close() // whatever it says: it has no disk any more
	for _, path := range disk.Paths("/journal") {
		if filepath.Ext(path) == ".jl" {
			disk.Flip(path, 8*200)
		}
	}
	var corrupt *journal.CorruptError
	if j, err := journal.OpenRotating(sim.JournalFS(disk), "/journal", 1<<20); !errors.As(err, &corrupt) {
		last, _ := j.Last()
		t.Errorf("got a journal of %d blocks, %v, want a CorruptError", last, err)
	}
}
