package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// reader reads blocks at their places, keeping the last used segment open.
type reader struct {
	j    *Journal
	path string
	f    Reader
	buf  []byte
}

func (r *reader) close() {
	if r.f != nil {
		r.f.Close()
	}
}

// at returns the place of a block and its file; ok is false if the journal has
// no such block.
func (j *Journal) at(seq uint64) (offset uint32, path string, ok bool, err error) {
	s, err := j.shape()
	if err != nil || seq == 0 || seq > s.seq {
		return 0, "", false, err
	}
	i := segmentOf(s.segs, seq)
	ref, err := j.ref(i, int(seq-s.segs[i].first))
	return ref.offset, s.segs[i].path, err == nil, err
}

// ref looks a block up in a segment's index.
func (j *Journal) ref(segment, ordinal int) (ref blockRef, err error) {
	err = j.ask(segment, func(p part) error {
		ref, err = p.block(ordinal)
		return err
	})
	return ref, err
}

// open positions the reader and reads the frame's header.
func (r *reader) open(seq uint64) (offset uint32, header [frameHeader]byte, ok bool, err error) {
	offset, path, ok, err := r.j.at(seq)
	if err != nil || !ok {
		return offset, header, ok, err
	}
	if path != r.path {
		r.close()
		if r.f, err = r.j.fs.Open(path); err != nil {
			return offset, header, false, fmt.Errorf("read journal block %d: %w", seq, err)
		}
		r.path = path
	}
	if _, err := r.f.ReadAt(header[:], int64(offset)); errors.Is(err, io.EOF) {
		return offset, header, false, &CorruptError{File: path, Offset: int64(offset), Reason: fmt.Sprintf("block %d is beyond the file", seq)}
	} else if err != nil {
		return offset, header, false, fmt.Errorf("read journal block %d: %w", seq, err)
	}
	return offset, header, true, nil
}

// block reads a block and checks its checksum again: the disk may have changed
// its mind since Open.
func (r *reader) block(seq uint64) (b *wire.Block, ok bool, err error) {
	offset, header, ok, err := r.open(seq)
	if err != nil || !ok {
		return nil, ok, err
	}
	corrupt := func(reason string, err error) error {
		return &CorruptError{File: r.path, Offset: int64(offset), Reason: reason, Err: err}
	}
	n := int64(binary.LittleEndian.Uint32(header[:]))
	if size, err := r.f.Size(); err != nil {
		return nil, false, fmt.Errorf("read journal block %d: %w", seq, err)
	} else if n > size-int64(offset)-frameHeader {
		return nil, false, corrupt(fmt.Sprintf("block %d has a length of %d, beyond the file", seq, n), nil)
	}
	if int64(cap(r.buf)) < n {
		r.buf = make([]byte, n)
	}
	r.buf = r.buf[:n]
	if _, err := r.f.ReadAt(r.buf, int64(offset)+frameHeader); err != nil {
		return nil, false, fmt.Errorf("read journal block %d: %w", seq, err)
	}
	if !checkFrame(header, r.buf) {
		return nil, false, corrupt(fmt.Sprintf("block %d has a wrong checksum", seq), nil)
	}
	b, err = wire.DecodeBlock(r.buf)
	if err != nil {
		return nil, false, corrupt(err.Error(), err)
	}
	if b.Seq != seq {
		return nil, false, corrupt(fmt.Sprintf("block %d stands where block %d was", b.Seq, seq), nil)
	}
	return b, true, nil
}

// digestOf reads only a block's digest.
func (j *Journal) digestOf(seq uint64) (ledger.Digest, error) {
	r := reader{j: j}
	defer r.close()
	offset, header, ok, err := r.open(seq)
	if err != nil {
		return ledger.Digest{}, err
	}
	n := int64(binary.LittleEndian.Uint32(header[:]))
	if !ok || n < int64(digestSize) {
		return ledger.Digest{}, &CorruptError{File: r.path, Offset: int64(offset), Reason: fmt.Sprintf("block %d has a length of %d", seq, n)}
	}
	var d ledger.Digest
	if _, err := r.f.ReadAt(d[:], int64(offset)+frameHeader+n-int64(digestSize)); err != nil {
		return ledger.Digest{}, fmt.Errorf("read journal block %d: %w", seq, err)
	}
	return d, nil
}

// Blocks yields the blocks from sequence from on (0 is the first) up to the
// last that was appended when it gets there. An error ends it.
func (j *Journal) Blocks(from uint64) iter.Seq2[*wire.Block, error] {
	return func(yield func(*wire.Block, error) bool) {
		r := reader{j: j}
		defer r.close()
		for seq := max(from, 1); ; seq++ {
			b, ok, err := r.block(seq)
			if err != nil {
				yield(nil, err)
				return
			}
			if !ok || !yield(b, nil) {
				return
			}
		}
	}
}

// EntryCount is the sequence of the last entry.
func (j *Journal) EntryCount() uint64 {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.entryCount()
}
