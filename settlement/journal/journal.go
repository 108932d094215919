package journal

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// segmentBytes is the size beyond which a segment is followed by a new one.
const segmentBytes = 64 << 20

// blockBytesMax keeps frames and offsets within uint32.
const blockBytesMax = 1 << 30

// Journal is an open journal. One goroutine appends; any number may read and
// sync meanwhile.
type Journal struct {
	fs      FS
	dir     string
	rotate  int64
	lock    io.Closer
	mark    File // the sync mark
	dropped *TornError

	syncMu sync.Mutex // held over fsync and rotation; before mu
	marked uint64     // what the mark says, if this journal wrote it

	mu     sync.RWMutex
	segs   []segment
	tail   File  // the last segment; nil: the next block begins one
	size   int64 // of tail
	seq    uint64
	digest ledger.Digest
	linked bool  // the last append continued the journal's own last block
	err    error // the first write error, or ErrClosed
	frame  []byte
	spare  *memPart // a sealed segment's: nobody reads it any more

	rebuilding sync.Mutex // one damaged index at a time
	sealing    sync.WaitGroup
}

// Open opens the journal in dir for appending, creating dir if needed. It reads
// the last segment, and every other one that has no sound index beside it,
// checks form, sequence and digest of each block there, and drops a damaged
// tail that was never synced (see Dropped). It returns a *CorruptError for any
// other damage that it meets (Verify reads everything) and ErrLocked when
// another process has it open.
func Open(dir string) (*Journal, error) { return OpenIn(OS, dir) }

// OpenIn is Open in another file system.
func OpenIn(fs FS, dir string) (*Journal, error) { return open(fs, dir, segmentBytes) }

func open(fs FS, dir string, rotate int64) (_ *Journal, err error) {
	if err := fs.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("create journal directory: %w", err)
	}
	j := &Journal{fs: fs, dir: dir, rotate: rotate}
	defer func() {
		if err != nil {
			j.release()
		}
	}()
	if j.lock, err = fs.Lock(filepath.Join(dir, "LOCK")); err != nil {
		return nil, fmt.Errorf("lock journal: %w", err)
	}
	if err := j.load(); err != nil {
		return nil, err
	}
	if j.mark, err = fs.Update(filepath.Join(dir, syncedName)); err != nil {
		return nil, fmt.Errorf("open journal's sync mark: %w", err)
	}
	if err := j.syncDir(); err != nil { // the mark may be new
		return nil, err
	}
	if err := j.openTail(); err != nil {
		return nil, err
	}
	return j, nil
}

// openTail opens the last segment for appending.
func (j *Journal) openTail() error {
	if len(j.segs) == 0 {
		return nil
	}
	f, err := j.fs.Append(j.segs[len(j.segs)-1].path)
	if err != nil {
		return fmt.Errorf("open journal segment: %w", err)
	}
	size, err := f.Size()
	if err != nil {
		f.Close()
		return fmt.Errorf("open journal segment: %w", err)
	}
	j.tail, j.size = f, size
	return nil
}

// Dropped says what Open cut off; nil if nothing.
func (j *Journal) Dropped() *TornError { return j.dropped }

// Last returns the last block's sequence and digest; zeros for an empty
// journal.
func (j *Journal) Last() (seq uint64, digest ledger.Digest) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.seq, j.digest
}

// Append adds the next block; encoded are its bytes as wire.AppendBlock made
// them. Neither is kept or
// changed. A block that the journal has already (the Raft log is
// replayed after a restart) is skipped, after a comparison of its digest. Errors
// are *MismatchError, a gap in the sequence, and the first write error, which
// every later call returns too: what a failed write left behind is unknown.
//
// When Append returns, readers see the block, but it need not survive a crash
// of the machine: the Raft log is the durable copy, and whoever lets that go
// (a snapshot) calls Sync first.
func (j *Journal) Append(encoded []byte, b *wire.Block) error {
	j.mu.RLock() // this is the only goroutine that writes these
	err, seq, prev, size, linked := j.err, j.seq, j.digest, j.size, j.linked
	j.mu.RUnlock()
	if err != nil {
		return err
	}
	if len(encoded) > blockBytesMax {
		return fmt.Errorf("append block %d to the journal: it has %d bytes, at most %d", b.Seq, len(encoded), blockBytesMax)
	}
	if b.Seq <= seq {
		j.linked = false
		return j.compare(b)
	}
	if b.Seq != seq+1 {
		return fmt.Errorf("append block %d to the journal: its last is %d", b.Seq, seq)
	}
	if !linked {
		// The first block after Open or after a replay could belong to another
		// history; its successors are the caller's own chain.
		want, err := wire.BlockDigest(prev, encoded)
		if err != nil {
			return fmt.Errorf("append block %d to the journal: %w", b.Seq, err)
		}
		if want != b.Digest {
			return &MismatchError{Seq: b.Seq, Have: want, Got: b.Digest}
		}
	}
	if j.tail == nil || size >= j.rotate && size > int64(headerSize) {
		if err := j.nextSegment(b.Seq, prev); err != nil {
			return j.fail(err)
		}
		size = j.size
	}
	j.frame = appendFrame(j.frame[:0], encoded)
	if _, err := j.tail.Write(j.frame); err != nil {
		return j.fail(fmt.Errorf("write journal block %d: %w", b.Seq, err))
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil {
		return j.err
	}
	j.tailPart().add(b, size)
	j.size += int64(len(j.frame))
	j.seq, j.digest, j.linked = b.Seq, b.Digest, true
	return nil
}

// compare checks a block that the journal has.
func (j *Journal) compare(b *wire.Block) error {
	have, err := j.digestOf(b.Seq)
	if err != nil {
		return err
	}
	if have != b.Digest {
		return &MismatchError{Seq: b.Seq, Have: have, Got: b.Digest}
	}
	return nil
}

// nextSegment makes the full segment durable and begins a new one.
func (j *Journal) nextSegment(first uint64, prev ledger.Digest) error {
	j.syncMu.Lock()
	defer j.syncMu.Unlock()
	if j.tail != nil {
		if err := j.tail.Sync(); err != nil {
			return fmt.Errorf("sync journal segment: %w", err)
		}
		if err := writeSynced(j.mark, first-1); err != nil {
			return fmt.Errorf("write journal's sync mark: %w", err)
		}
		j.marked = first - 1
		if err := j.tail.Close(); err != nil {
			return fmt.Errorf("close journal segment: %w", err)
		}
		j.tail = nil
	}
	j.mu.Lock()
	spare := j.spare
	j.spare = nil
	j.mu.Unlock()
	seg := segment{path: filepath.Join(j.dir, segmentName(first)), first: first, part: newMemPart(spare)}
	f, err := j.fs.Create(seg.path)
	if err != nil {
		return fmt.Errorf("create journal segment: %w", err)
	}
	j.tail = f
	header := appendHeader(nil, first, prev)
	if _, err := f.Write(header); err != nil {
		return fmt.Errorf("write journal segment's header: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync journal segment: %w", err)
	}
	if err := j.syncDir(); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if n := len(j.segs); n > 0 {
		m, full := j.tailPart(), &j.segs[n-1]
		path := full.path
		seg.before = full.before + uint64(m.entries)
		meta := indexMeta{first: full.first, size: j.size, blocks: uint32(len(m.blocks)), entries: m.entries, digest: prev}
		j.sealing.Go(func() { j.seal(n-1, path, meta, m) })
	}
	j.segs = append(j.segs, seg)
	j.size = int64(len(header))
	return nil
}

func (j *Journal) syncDir() error {
	if err := j.fs.SyncDir(j.dir); err != nil {
		return fmt.Errorf("sync journal directory: %w", err)
	}
	return nil
}

// fail keeps the first error.
func (j *Journal) fail(err error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err == nil {
		j.err = err
	}
	return j.err
}

// Sync returns when every block appended before the call is on disk. Appending
// and reading go on meanwhile. Its first error ends the journal as Append's
// does.
func (j *Journal) Sync() error {
	j.syncMu.Lock()
	defer j.syncMu.Unlock()
	return j.syncLocked()
}

func (j *Journal) syncLocked() error {
	j.mu.RLock()
	seq, err := j.seq, j.err
	j.mu.RUnlock()
	if err != nil {
		return err
	}
	if j.tail == nil {
		return nil
	}
	if seq == j.marked {
		return nil
	}
	if err := j.tail.Sync(); err != nil {
		return j.fail(fmt.Errorf("sync journal segment: %w", err))
	}
	if err := writeSynced(j.mark, seq); err != nil {
		return j.fail(fmt.Errorf("write journal's sync mark: %w", err))
	}
	j.marked = seq
	return nil
}

// Close syncs and closes the journal. It must not be called while Append runs.
// A second call does nothing.
func (j *Journal) Close() error {
	j.syncMu.Lock()
	defer j.syncMu.Unlock()
	err := j.syncLocked()
	if errors.Is(err, ErrClosed) {
		return nil
	}
	j.mu.Lock()
	j.err = ErrClosed
	j.mu.Unlock()
	j.sealing.Wait()
	return errors.Join(err, j.release())
}

func (j *Journal) release() error {
	var errs []error
	if j.tail != nil {
		errs = append(errs, j.tail.Close())
		j.tail = nil
	}
	if j.mark != nil {
		errs = append(errs, j.mark.Close())
		j.mark = nil
	}
	if j.lock != nil {
		errs = append(errs, j.lock.Close())
		j.lock = nil
	}
	return errors.Join(errs...)
}
