package journal

import (
	"encoding/binary"
	"fmt"
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
func (j *Journal) at(seq uint64) (p place, path string, ok bool, err error) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if j.err == ErrClosed {
		return place{}, "", false, ErrClosed
	}
	if seq == 0 || seq > uint64(len(j.index.blocks)) {
		return place{}, "", false, nil
	}
	p = j.index.blocks[seq-1]
	return p, j.segs[p.segment].path, true, nil
}

// open positions the reader and reads the frame's header.
func (r *reader) open(seq uint64) (p place, header [frameHeader]byte, ok bool, err error) {
	p, path, ok, err := r.j.at(seq)
	if err != nil || !ok {
		return p, header, ok, err
	}
	if path != r.path {
		r.close()
		if r.f, err = r.j.fs.Open(path); err != nil {
			return p, header, false, fmt.Errorf("read journal block %d: %w", seq, err)
		}
		r.path = path
	}
	if _, err := r.f.ReadAt(header[:], int64(p.offset)); err != nil {
		return p, header, false, fmt.Errorf("read journal block %d: %w", seq, err)
	}
	return p, header, true, nil
}

// block reads a block and checks its checksum again: the disk may have changed
// its mind since Open.
func (r *reader) block(seq uint64) (b *wire.Block, ok bool, err error) {
	p, header, ok, err := r.open(seq)
	if err != nil || !ok {
		return nil, ok, err
	}
	corrupt := func(reason string, err error) error {
		return &CorruptError{File: r.path, Offset: int64(p.offset), Reason: reason, Err: err}
	}
	n := int64(binary.LittleEndian.Uint32(header[:]))
	if size, err := r.f.Size(); err != nil {
		return nil, false, fmt.Errorf("read journal block %d: %w", seq, err)
	} else if n > size-int64(p.offset)-frameHeader {
		return nil, false, corrupt(fmt.Sprintf("block %d has a length of %d, beyond the file", seq, n), nil)
	}
	if int64(cap(r.buf)) < n {
		r.buf = make([]byte, n)
	}
	r.buf = r.buf[:n]
	if _, err := r.f.ReadAt(r.buf, int64(p.offset)+frameHeader); err != nil {
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
	p, header, ok, err := r.open(seq)
	if err != nil {
		return ledger.Digest{}, err
	}
	n := int64(binary.LittleEndian.Uint32(header[:]))
	if !ok || n < int64(digestSize) {
		return ledger.Digest{}, &CorruptError{File: r.path, Offset: int64(p.offset), Reason: fmt.Sprintf("block %d has a length of %d", seq, n)}
	}
	var d ledger.Digest
	if _, err := r.f.ReadAt(d[:], int64(p.offset)+frameHeader+n-int64(digestSize)); err != nil {
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

// EntriesOfLease returns the entries about a lease, in order: its terms, its
// usage, every transfer for it, refused records that named it, its end. None
// for an unknown lease.
func (j *Journal) EntriesOfLease(id ledger.LeaseID) ([]ledger.Entry, error) {
	j.mu.RLock()
	var p posting
	if known := j.index.leases[id]; known != nil {
		p = *known
	}
	j.mu.RUnlock()
	return j.collect(p, 0, 0, func(e *ledger.Entry) bool { return leaseOf(e) == id })
}

// EntriesOfAccount returns the entries with a sequence above afterSeq that move
// an account's money or open it, in order, at most limit of them (0: all).
func (j *Journal) EntriesOfAccount(id ledger.AccountID, afterSeq uint64, limit int) ([]ledger.Entry, error) {
	j.mu.RLock()
	var p posting
	if known := j.index.accounts[id]; known != nil {
		p = *known
	}
	j.mu.RUnlock()
	return j.collect(p, afterSeq, limit, func(e *ledger.Entry) bool { return concerns(e, id) })
}

// collect reads the posting's blocks and keeps the entries that are wanted.
func (j *Journal) collect(p posting, afterSeq uint64, limit int, want func(*ledger.Entry) bool) ([]ledger.Entry, error) {
	r := reader{j: j}
	defer r.close()
	var out []ledger.Entry
	for seq := range p.all() {
		if afterSeq > 0 && !j.endsAfter(seq, afterSeq) {
			continue
		}
		b, ok, err := r.block(seq)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fmt.Errorf("read journal block %d: it is indexed but missing", seq)
		}
		for i := range b.Entries {
			if e := &b.Entries[i]; e.Seq > afterSeq && want(e) {
				out = append(out, *e)
				if limit > 0 && len(out) == limit {
					return out, nil
				}
			}
		}
	}
	return out, nil
}

// endsAfter reports whether a block may have entries above afterSeq.
func (j *Journal) endsAfter(seq, afterSeq uint64) bool {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if seq < uint64(len(j.index.blocks)) {
		return j.index.blocks[seq].before > afterSeq
	}
	return true
}

// Account returns the name and currency of an account that was opened.
func (j *Journal) Account(id ledger.AccountID) (ledger.AccountOpened, bool) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	a, ok := j.index.names[id]
	return a, ok
}

// EntryCount is the sequence of the last entry.
func (j *Journal) EntryCount() uint64 {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.index.entries
}
