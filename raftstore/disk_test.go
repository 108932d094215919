package raftstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/segment"

	"github.com/joulecloud/joule/raftstore/faultfs"
)

// diskLog is the real raft-wal on a disk that can be broken, behind the store's
// own wrapping, with what it acknowledged.
type diskLog struct {
	disk *faultfs.Disk
	meta *faultfs.Meta
	wal  *wal.WAL
	log  *failStop

	entries map[uint64]string // acknowledged
	last    uint64
	term    uint64
	doing   string // what failed: entries that may be there though nobody said so
}

const diskDir = "/log"

func openDisk(disk *faultfs.Disk, meta *faultfs.Meta) (*diskLog, error) {
	w, err := openWALIn(diskDir, 4096, meta, disk.VFS(), hclog.NewNullLogger())
	if err != nil {
		return nil, err
	}
	f, err := disk.Open("/mark")
	if err != nil {
		if f, err = disk.Create("/mark"); err != nil {
			return nil, errors.Join(err, w.Close())
		}
	}
	m := mark{f}
	if err := m.check(w); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return &diskLog{disk: disk, meta: meta, wal: w, entries: map[uint64]string{},
		log: &failStop{store: w, mark: m, f: newFailure(func(error) {})}}, nil
}

// use does what Raft does with a log, until something fails: appends in
// batches, a conflicting tail that goes, old entries that go, everything that
// goes (a snapshot), terms. It returns the first error.
func (d *diskLog) use(r *rand.Rand, steps int) error {
	for n := range steps {
		var err error
		switch k := r.IntN(10); {
		case k == 0 && len(d.entries) > 3:
			cut := d.last - uint64(r.IntN(3))
			d.doing = "delete"
			if err = d.log.DeleteRange(cut, d.last); err == nil {
				for i := cut; i <= d.last; i++ {
					delete(d.entries, i)
				}
				d.last = cut - 1
			}
		case k == 1 && len(d.entries) > 8:
			first := d.first()
			d.doing = "delete"
			if err = d.log.DeleteRange(first, first+3); err == nil {
				for i := first; i <= first+3; i++ {
					delete(d.entries, i)
				}
			}
		case k == 2 && n%5 == 0 && len(d.entries) > 0:
			d.doing = "delete"
			if err = d.log.DeleteRange(d.first(), d.last); err == nil {
				clear(d.entries)
				d.last += 10
			}
		case k <= 4:
			d.doing = "term"
			if err = d.log.SetUint64([]byte("CurrentTerm"), d.term+1); err == nil {
				d.term++
			}
		default:
			d.doing = "append"
			var batch []*raft.Log
			for i := range 1 + r.IntN(4) {
				data := fmt.Appendf(nil, "entry %d of step %d %s", i, n, strings.Repeat("x", r.IntN(900)))
				batch = append(batch, &raft.Log{Index: d.last + 1 + uint64(i), Term: 7, Data: data})
			}
			if err = d.log.StoreLogs(batch); err == nil {
				for _, l := range batch {
					d.entries[l.Index] = string(l.Data)
				}
				d.last += uint64(len(batch))
			}
		}
		if err != nil {
			return err
		}
	}
	d.doing = ""
	return nil
}

func (d *diskLog) first() uint64 {
	first := d.last
	for i := range d.entries {
		first = min(first, i)
	}
	return first
}

// acknowledged compares a log that was opened again with what was acknowledged
// before: all of that is there, and nothing else but what was under way.
func (d *diskLog) acknowledged(again *diskLog) error {
	first, err := again.log.FirstIndex()
	if err != nil {
		return err
	}
	last, err := again.log.LastIndex()
	if err != nil {
		return err
	}
	if d.doing != "delete" {
		for i, want := range d.entries {
			var l raft.Log
			if err := again.log.GetLog(i, &l); err != nil {
				return fmt.Errorf("acknowledged entry %d: %w", i, err)
			} else if string(l.Data) != want || l.Term != 7 {
				return fmt.Errorf("entry %d: got %.40q, want %.40q", i, l.Data, want)
			}
		}
		if len(d.entries) > 0 && (first != d.first() || last < d.last) {
			return fmt.Errorf("got entries %d to %d, want %d to %d", first, last, d.first(), d.last)
		}
	}
	for i := max(first, 1); i <= last; i++ {
		var l raft.Log
		if err := again.log.GetLog(i, &l); err != nil {
			return fmt.Errorf("entry %d of %d to %d: %w", i, first, last, err)
		}
		if want, ok := d.entries[i]; ok && string(l.Data) != want {
			return fmt.Errorf("entry %d: got %.40q, want %.40q", i, l.Data, want)
		} else if !ok && d.doing != "append" && d.doing != "delete" {
			return fmt.Errorf("entry %d appeared: %.40q", i, l.Data)
		}
	}
	term, err := again.log.GetUint64([]byte("CurrentTerm"))
	if err != nil {
		return err
	}
	if term != d.term && !(d.doing == "term" && term == d.term+1) {
		return fmt.Errorf("term: got %d, want %d", term, d.term)
	}
	return nil
}

// Whatever the disk does to whichever write or fsync, a log that is opened
// again has every entry that was acknowledged, and no other.
func TestLogOnABrokenDisk(t *testing.T) {
	t.Parallel()
	const steps = 40
	for name, fault := range map[string]error{"power loss": faultfs.ErrPower, "EIO": faultfs.ErrIO, "ENOSPC": faultfs.ErrFull} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for at, failed := 1, true; failed; at++ {
				disk := faultfs.New()
				disk.Fault = func(op faultfs.Op) error {
					if op.N == at {
						return fault
					}
					return nil
				}
				failed = brokenAt(t, disk, at, steps)
			}
		})
	}
	t.Run("full disk", func(t *testing.T) {
		t.Parallel()
		for size := int64(2000); size < 30000; size += 371 {
			disk := faultfs.New()
			disk.Capacity = size
			brokenAt(t, disk, int(size), steps)
		}
	})
}

// brokenAt uses a log on a disk until it breaks, and checks what every kind of
// restart makes of it; false: it did not break.
func brokenAt(t *testing.T, disk *faultfs.Disk, at, steps int) bool {
	t.Helper()
	d, err := openDisk(disk, faultfs.NewMeta(disk))
	if err != nil {
		return true // before anything was acknowledged
	}
	err = d.use(rand.New(rand.NewPCG(11, 0)), steps)
	if err != nil {
		// Nothing more is taken once a write has failed.
		if again := d.log.StoreLog(&raft.Log{Index: d.last + 1}); !errors.Is(again, ErrFailed) {
			t.Fatalf("fault %d: a write after %v: got %v, want %v", at, err, again, ErrFailed)
		}
	}
	r := rand.New(rand.NewPCG(uint64(at), 1))
	for _, kept := range []faultfs.Kept{faultfs.KeptAll, faultfs.KeptNothing, faultfs.KeptSome, faultfs.KeptSome, faultfs.KeptSome} {
		next := disk.Restart(r, kept)
		next.Capacity = 0
		again, oerr := openDisk(next, d.meta.On(next))
		if oerr != nil {
			t.Fatalf("fault %d (%v) while %q, kept %d: open: %v", at, err, d.doing, kept, oerr)
		}
		if err := d.acknowledged(again); err != nil {
			t.Fatalf("fault %d while %q, kept %d: %v", at, d.doing, kept, err)
		}
		// It goes on from there.
		again.last, _ = again.wal.LastIndex()
		if again.last == 0 {
			again.last = d.last
		}
		if err := again.use(r, 3); err != nil {
			t.Fatalf("fault %d, kept %d: use after the restart: %v", at, kept, err)
		}
		again.wal.Close()
	}
	d.wal.Close()
	return err != nil
}

// No bit of the log can change without the change being seen: opening it or
// reading the entry fails, or nothing is wrong. TestMarkCatches says what the
// mark has to do with it.
func TestFlippedBitsOfTheLogAreFound(t *testing.T) {
	t.Parallel()
	disk := faultfs.New()
	d, err := openDisk(disk, faultfs.NewMeta(disk))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.use(rand.New(rand.NewPCG(3, 0)), 40); err != nil {
		t.Fatal(err)
	}
	disk.PowerOff()
	d.wal.Close()
	found, harmless := 0, 0
	for _, path := range disk.Paths(diskDir) {
		used := len(strings.TrimRight(string(disk.Content(path)), "\x00"))
		for bit := 0; bit < used*8; bit += 61 {
			next := disk.Restart(nil, faultfs.KeptAll)
			next.Flip(path, int64(bit))
			again, err := openDisk(next, d.meta.On(next))
			if err == nil {
				err = d.acknowledged(again)
				again.wal.Close()
				if err != nil && !errors.Is(err, ErrDamaged) {
					t.Fatalf("bit %d of %s: served: %v", bit, path, err)
				}
			}
			if err != nil {
				found++
			} else {
				harmless++
			}
		}
	}
	t.Logf("%d flips found, %d changed nothing that is read", found, harmless)
	if found == 0 {
		t.Error("no flip was found")
	}
	for bit := range 12 * 8 {
		next := disk.Restart(nil, faultfs.KeptAll)
		meta := d.meta.On(next)
		meta.FlipStable("CurrentTerm", bit)
		again, err := openDisk(next, meta)
		if err != nil {
			t.Fatal(err)
		}
		if term, err := again.log.GetUint64([]byte("CurrentTerm")); !errors.Is(err, ErrDamaged) {
			t.Fatalf("bit %d of the term: got %d, %v, want %v", bit, term, err, ErrDamaged)
		}
		again.wal.Close()
	}
}

// Damage at the log's end looks to the log store like a torn write, which it
// drops without a word. The mark knows better.
func TestMarkCatchesALogThatLostItsEnd(t *testing.T) {
	t.Parallel()
	disk := faultfs.New()
	d, err := openDisk(disk, faultfs.NewMeta(disk))
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= 3; i++ {
		if err := d.log.StoreLog(&raft.Log{Index: i, Data: []byte("acknowledged")}); err != nil {
			t.Fatal(err)
		}
	}
	disk.PowerOff()
	path := disk.Paths(diskDir)[0]
	last := strings.LastIndex(string(disk.Content(path)), "acknowledged")
	next := disk.Restart(nil, faultfs.KeptAll)
	next.Flip(path, int64(last)*8)
	if _, err := openDisk(next, d.meta.On(next)); !errors.Is(err, ErrDamaged) {
		t.Fatalf("got %v, want %v", err, ErrDamaged)
	}
	// Without the mark the entry would be gone and nobody the wiser.
	next.SetContent("/mark", nil)
	again, err := openDisk(next, d.meta.On(next))
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := again.log.LastIndex(); got != 2 {
		t.Errorf("the log store kept %d entries: if it finds the damage by itself, the mark can go", got)
	}
}

func TestSealNamesThePlace(t *testing.T) {
	t.Parallel()
	l := sealEntry(&raft.Log{Index: 5, Term: 2, Data: []byte("d"), Extensions: []byte("e")})
	ok := *l
	if err := unsealEntry(5, &ok); err != nil || string(ok.Extensions) != "e" {
		t.Errorf("got %q, %v", ok.Extensions, err)
	}
	for name, change := range map[string]func(*raft.Log){
		"index": func(l *raft.Log) { l.Index = 6 }, "term": func(l *raft.Log) { l.Term = 3 },
		"type": func(l *raft.Log) { l.Type = raft.LogNoop }, "data": func(l *raft.Log) { l.Data = []byte("x") },
		"extensions": func(l *raft.Log) { l.Extensions = slices.Concat([]byte("f"), l.Extensions[1:]) },
		"no seal":    func(l *raft.Log) { l.Extensions = nil },
	} {
		c := *l
		change(&c)
		if err := unsealEntry(5, &c); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: got %v, want %v", name, err, ErrDamaged)
		}
	}
	v := sealValue([]byte("k"), binary.LittleEndian.AppendUint64(nil, 9))
	if _, err := unsealValue([]byte("other"), v); !errors.Is(err, ErrDamaged) {
		t.Errorf("a value under another key: got %v, want %v", err, ErrDamaged)
	}
}

// raft-wal v0.4.2 by itself can't append to a segment that was filled when the
// process died; ours can.
func TestSegmentFilledAtACrash(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"not noted", "torn"} {
		disk := faultfs.New()
		meta := faultfs.NewMeta(disk)
		d, err := openDisk(disk, meta)
		if err != nil {
			t.Fatal(err)
		}
		for i := uint64(1); i <= 3; i++ {
			if err := d.log.StoreLog(&raft.Log{Index: i, Data: bytes.Repeat([]byte("x"), 1000)}); err != nil {
				t.Fatal(err)
			}
		}
		want := uint64(4)
		disk.Fault = func(op faultfs.Op) error {
			if mode == "not noted" && op.Path == "meta/segments" || mode == "torn" && op.Kind == "sync" {
				return faultfs.ErrPower
			}
			return nil
		}
		// The library notes that a segment is full on a goroutine of its own, so
		// the power may be gone before the log's mark is written, too.
		err = d.log.StoreLog(&raft.Log{Index: 4, Data: bytes.Repeat([]byte("x"), 1000)})
		if err == nil && mode == "torn" || err != nil && !errors.Is(err, faultfs.ErrPower) {
			t.Fatal(err)
		}
		d.wal.Close()
		next := disk.Restart(nil, faultfs.KeptAll)
		if mode == "torn" { // the entry did not get there, what follows it did
			path := next.Paths(diskDir)[0]
			b := next.Content(path)
			end := bytes.LastIndexByte(b, 'x')
			clear(b[end-600 : end-80])
			next.SetContent(path, b)
			want = 3
		}
		plain, err := wal.Open(diskDir, wal.WithLogger(hclog.NewNullLogger()), wal.WithSegmentSize(4096),
			wal.WithMetaStore(meta.On(next)), wal.WithSegmentFiler(segment.NewFiler(diskDir, next.VFS())))
		if err != nil {
			t.Fatal(err)
		}
		if err := plain.StoreLog(&raft.Log{Index: want + 1}); !errors.Is(err, wal.ErrSealed) {
			t.Errorf("%s: the library alone: got %v; if it appends, renewSealedTail can go", mode, err)
		}
		plain.Close()
		again, err := openDisk(next, meta.On(next))
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := again.log.LastIndex(); got != want {
			t.Errorf("%s: got %d entries, want %d", mode, got, want)
		}
		for i := want + 1; i < want+8; i++ {
			if err := again.log.StoreLog(&raft.Log{Index: i, Data: bytes.Repeat([]byte("x"), 1000)}); err != nil {
				t.Fatalf("%s: entry %d: %v", mode, i, err)
			}
		}
		for i := uint64(1); i < want+8; i++ {
			var l raft.Log
			if err := again.log.GetLog(i, &l); err != nil || len(l.Data) != 1000 {
				t.Fatalf("%s: entry %d: got %d bytes, %v", mode, i, len(l.Data), err)
			}
		}
		again.wal.Close()
	}
}

// A server that stops while it installs a snapshot has both the snapshot and
// the log from before it: it goes on behind the snapshot. Where the snapshot
// can't be restored it must not start from an older one, since what lies
// between the two is nowhere.
func TestStopWhileASnapshotIsInstalled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := testConfig(t, "s1", dir)
	s := mustOpen(t, cfg, &list{})
	mustLead(t, s)
	for i := range 10 {
		mustPropose(t, s, fmt.Sprint("entry ", i))
	}
	if err := s.TakeSnapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	conf := s.raft.GetConfiguration().Configuration()
	term := s.raft.CurrentTerm()
	s.Close()
	// The snapshot that was being installed.
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, 2, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	_, trans := raft.NewInmemTransport("")
	sink, err := snaps.Create(raft.SnapshotVersionMax, 100, term, conf, 1, trans)
	if err != nil {
		t.Fatal(err)
	}
	if err := (&fsmSnapshot{s: listSnapshot{[]byte("from the snapshot")}, index: 100}).Persist(sink); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	refusal := errors.New("this state machine can't take it")
	picky := &picky{list: &list{}, refuse: 1, err: refusal}
	if s, err := Open(cfg, picky, testLog(t)); !errors.Is(err, refusal) {
		if err == nil {
			s.Close()
		}
		t.Fatalf("open where the newest snapshot is refused: got %v, want %v", err, refusal)
	}
	sm := &list{}
	s = mustOpen(t, cfg, sm)
	mustLead(t, s)
	if index := mustPropose(t, s, "next"); index <= 100 {
		t.Errorf("the next entry: got index %d, want one behind the snapshot", index)
	}
	if got, want := sm.strings(), []string{"from the snapshot", "next"}; !slices.Equal(got, want) {
		t.Errorf("entries: got %q, want %q", got, want)
	}
	s.Close()
	sm = &list{}
	mustLead(t, mustOpen(t, cfg, sm))
}

// picky refuses its first restores.
type picky struct {
	*list
	refuse int
	err    error
}

func (p *picky) Restore(r io.Reader) error {
	if p.refuse > 0 {
		p.refuse--
		return p.err
	}
	return p.list.Restore(r)
}
