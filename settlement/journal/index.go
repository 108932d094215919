package journal

import (
	"errors"
	"fmt"
	"sort"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// load finds the segments with their indexes, reads the last segment (and those
// whose index is missing or doesn't fit) and cuts a torn tail off.
func (j *Journal) load() error {
	synced, err := readSynced(j.fs, j.dir)
	if err != nil {
		return err
	}
	if j.segs, err = segments(j.fs, j.dir); err != nil {
		return err
	}
	s := scanner{fs: j.fs, synced: synced}
	for i := range j.segs {
		seg, final := &j.segs[i], i == len(j.segs)-1
		if i > 0 {
			prev := &j.segs[i-1]
			seg.before = prev.before + prev.entries()
		}
		if !final {
			ok, err := s.indexed(seg, j.segs[i+1].first)
			if err != nil {
				return err
			}
			if ok {
				continue
			}
		}
		m, torn, err := s.index(*seg, final)
		switch {
		case err != nil:
			return err
		case torn != nil:
			seg.part = m
			if err := j.cut(torn); err != nil {
				return err
			}
		case final:
			seg.part = m
		default:
			meta := indexMeta{first: seg.first, size: s.end, blocks: uint32(len(m.blocks)), entries: m.entries, digest: s.digest}
			if seg.part, err = storeIndex(j.fs, j.dir, seg.path, meta, m); err != nil {
				return err
			}
		}
	}
	if s.last < synced {
		return &CorruptError{Offset: s.end, File: s.file,
			Reason: fmt.Sprintf("the journal ends at block %d, but had block %d on disk", s.last, synced)}
	}
	j.seq, j.digest = s.last, s.digest
	return j.loadTail()
}

// loadTail makes sure that the last segment, which grows, has its index in
// memory: a file behind it may have been dropped.
func (j *Journal) loadTail() error {
	n := len(j.segs)
	if n == 0 {
		return nil
	}
	seg := &j.segs[n-1]
	if _, ok := seg.part.(*memPart); ok {
		return nil
	}
	m, err := indexSegment(j.fs, *seg)
	if err != nil {
		return err
	}
	seg.part = m
	return nil
}

// entries is how many entries the segment holds.
func (s *segment) entries() uint64 {
	switch p := s.part.(type) {
	case *memPart:
		return uint64(p.entries)
	case *diskPart:
		return uint64(p.meta.entries)
	}
	return 0
}

// indexed takes a segment's index from its file, if that fits the segment and
// what stands before and behind it; the blocks themselves are not read.
func (s *scanner) indexed(seg *segment, next uint64) (bool, error) {
	d, err := openIndex(s.fs, indexPath(seg.path))
	if err != nil {
		var bad *indexError
		if errors.As(err, &bad) {
			return false, nil
		}
		return false, err
	}
	r, err := openSegment(s.fs, *seg)
	if r == nil {
		return false, err
	}
	defer r.close()
	if err != nil || seg.first != s.last+1 || r.prev != s.digest || d.meta.first != seg.first || d.meta.size != r.size ||
		d.meta.blocks == 0 || seg.first+uint64(d.meta.blocks) != next {
		return false, nil // reading the segment says what is wrong, or finds nothing
	}
	seg.part = d
	s.last, s.digest = seg.first+uint64(d.meta.blocks)-1, d.meta.digest
	s.file, s.end = seg.path, r.size
	return true, nil
}

// index reads a segment's blocks, checks that they follow one another, and
// returns their index, with where the segment is torn.
func (s *scanner) index(seg segment, final bool) (m *memPart, torn *TornError, err error) {
	m = newMemPart(nil)
	torn, err = s.chain(seg, final, func(f Frame) error {
		m.add(f.Block, f.Offset)
		return nil
	})
	return m, torn, err
}

// chain reads a segment's blocks, checks that they follow one another, and hands
// each to take, whose error ends it. It says where the segment is torn.
func (s *scanner) chain(seg segment, final bool, take func(Frame) error) (torn *TornError, err error) {
	seq, digest := s.last, s.digest
	s.segment(seg, final, func(f Frame, ferr error) bool {
		if errors.As(ferr, &torn) {
			return false
		}
		if ferr != nil {
			err = ferr
			return false
		}
		b := f.Block
		corrupt := func(format string, args ...any) bool {
			err = &CorruptError{File: f.File, Offset: f.Offset, Reason: fmt.Sprintf(format, args...)}
			return false
		}
		if b.Seq != seq+1 {
			return corrupt("block %d follows block %d", b.Seq, seq)
		}
		want, derr := wire.BlockDigest(digest, f.Encoded)
		if derr != nil {
			return corrupt("%v", derr)
		}
		if b.Digest != want {
			return corrupt("block %d has digest %x, its content and the block before give %x", b.Seq, b.Digest, want)
		}
		seq, digest = b.Seq, b.Digest
		err = take(f)
		return err == nil
	})
	return torn, err
}

// scanSegment begins to read one full segment by itself.
func scanSegment(fs FS, seg segment) (*scanner, error) {
	r, err := openSegment(fs, seg)
	if r != nil {
		r.close()
	}
	var bad *badBytes
	if errors.As(err, &bad) {
		return nil, &CorruptError{File: seg.path, Offset: bad.off, Reason: bad.reason}
	}
	if err != nil {
		return nil, err
	}
	return &scanner{fs: fs, last: seg.first - 1, digest: r.prev}, nil
}

// indexSegment reads one full segment by itself.
func indexSegment(fs FS, seg segment) (*memPart, error) {
	s, err := scanSegment(fs, seg)
	if err != nil {
		return nil, fmt.Errorf("index %q: %w", seg.path, err)
	}
	m, torn, err := s.index(seg, false)
	if err == nil && torn != nil {
		err = torn
	}
	return m, err
}

// storeIndex writes an index file and opens it.
func storeIndex(fs FS, dir, segment string, meta indexMeta, m *memPart) (*diskPart, error) {
	path := indexPath(segment)
	if err := writeIndex(fs, dir, path, func(w *pageWriter) { encodeIndex(w, meta, m) }); err != nil {
		return nil, err
	}
	return openIndex(fs, path)
}

// seal moves the index of a full segment from memory into its file. If that
// fails, the index stays in memory, and the next Open makes the file: it is no
// more than a copy.
func (j *Journal) seal(i int, path string, meta indexMeta, m *memPart) {
	d, err := storeIndex(j.fs, j.dir, path, meta, m)
	if err != nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.segs[i].part, j.spare = d, m // those who read m hold mu
}

// rebuild makes a damaged index again from its segment.
func (j *Journal) rebuild(i int, damaged part) error {
	j.rebuilding.Lock()
	defer j.rebuilding.Unlock()
	j.mu.RLock()
	seg := j.segs[i]
	j.mu.RUnlock()
	old, ok := damaged.(*diskPart)
	if !ok || seg.part != damaged {
		return nil // another reader was here first
	}
	m, err := indexSegment(j.fs, seg)
	if err != nil {
		return err
	}
	var p part = m
	if d, err := storeIndex(j.fs, j.dir, seg.path, old.meta, m); err == nil {
		p = d
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.segs[i].part = p
	return nil
}

// tailPart is the last segment's index; mu is held or the caller is the
// appending goroutine.
func (j *Journal) tailPart() *memPart { return j.segs[len(j.segs)-1].part.(*memPart) }

// ask puts a question to a segment's index, and makes the index again if it is
// damaged. fn may run more than once.
func (j *Journal) ask(i int, fn func(part) error) error {
	for again := false; ; again = true {
		j.mu.RLock()
		if j.err == ErrClosed {
			j.mu.RUnlock()
			return ErrClosed
		}
		p := j.segs[i].part
		var err error
		if _, grows := p.(*memPart); grows {
			err = fn(p)
			j.mu.RUnlock()
			return err
		}
		j.mu.RUnlock()
		var bad *indexError
		if err = fn(p); !errors.As(err, &bad) || again {
			return err
		}
		if err := j.rebuild(i, p); err != nil {
			return fmt.Errorf("%w; making it again: %w", bad, err)
		}
	}
}

// shape is what of the journal doesn't change any more: its blocks up to seq.
type shape struct {
	segs    []segment // their parts may be out of date
	seq     uint64
	entries uint64
	digest  ledger.Digest
}

// shape returns the journal's present extent.
func (j *Journal) shape() (shape, error) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if j.err == ErrClosed {
		return shape{}, ErrClosed
	}
	s := shape{segs: j.segs[:len(j.segs):len(j.segs)], seq: j.seq, digest: j.digest, entries: j.entryCount()}
	return s, nil
}

func (j *Journal) entryCount() uint64 {
	if n := len(j.segs); n > 0 {
		return j.segs[n-1].before + j.segs[n-1].entries()
	}
	return 0
}

// segmentOf is the segment that holds a block which the journal has.
func segmentOf(segs []segment, seq uint64) int {
	return sort.Search(len(segs), func(i int) bool { return segs[i].first > seq }) - 1
}

// Verify reads every full segment and checks each block, the chain of their
// digests, and that each segment continues the one before. Appending and reading
// go on meanwhile. checked is called for each block with its size in bytes, and
// ends Verify by an error. Other errors are a *CorruptError or one of reading.
func (j *Journal) Verify(checked func(block uint64, bytes int) error) error {
	sh, err := j.shape()
	if err != nil {
		return err
	}
	var last scanner // of the segment before
	for i := range max(len(sh.segs)-1, 0) {
		seg := segment{path: sh.segs[i].path, first: sh.segs[i].first}
		s, err := scanSegment(j.fs, seg)
		if err != nil {
			return err
		}
		if i > 0 && s.digest != last.digest {
			return &CorruptError{File: seg.path, Reason: fmt.Sprintf("the file follows digest %x, the one before it ends with %x", s.digest, last.digest)}
		}
		torn, err := s.chain(seg, false, func(f Frame) error { return checked(f.Block.Seq, len(f.Encoded)) })
		if err == nil && torn != nil {
			err = torn
		}
		if err != nil {
			return err
		}
		if next := sh.segs[i+1].first; s.last+1 != next {
			return &CorruptError{File: seg.path, Offset: s.end, Reason: fmt.Sprintf("the file ends with block %d, the next one begins with block %d", s.last, next)}
		}
		last = *s
	}
	return nil
}

// cut drops the tail that Scan found torn: its file too when not even the
// header is whole.
func (j *Journal) cut(t *TornError) error {
	j.dropped = t
	if t.Offset < int64(headerSize) {
		if err := j.fs.Remove(t.File); err != nil {
			return fmt.Errorf("drop torn journal segment: %w", err)
		}
		j.segs = j.segs[:len(j.segs)-1]
		return j.syncDir()
	}
	if err := j.fs.Truncate(t.File, t.Offset); err != nil {
		return fmt.Errorf("cut torn journal segment: %w", err)
	}
	return nil
}
