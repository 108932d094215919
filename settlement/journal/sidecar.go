package journal

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// The index of a full segment is the file journal-<first>.jx beside it. Its
// content, in pages (see paged.go), is: a header; the blocks, blockRefSize
// bytes each; for each section its keys, keySize bytes each and sorted, with
// where their rows begin; the fences, every fenceEvery-th key; the rows.
const (
	indexMagic   = "joule index 1\n\x00\x00"
	blockRefSize = 16
	keySize      = 16
	fenceEvery   = 256
)

// The sections, in order.
const (
	sectionLeases = iota
	sectionAccounts
	sectionCustomers
	sectionHosts
	sections
)

const indexHeaderSize = len(indexMagic) + 8 + 8 + 4 + 4 + digestSize + sections*16

// indexMeta ties an index to its segment.
type indexMeta struct {
	first   uint64 // sequence of the segment's first block
	size    int64  // of the segment's file
	blocks  uint32
	entries uint32
	digest  ledger.Digest // of its last block
}

func indexPath(segment string) string { return strings.TrimSuffix(segment, ".jl") + ".jx" }

// rowList is a section in the making: keys, and where their rows stand in data.
type rowList struct {
	rows []row
	data []byte
}

type row struct {
	key      uint64
	from, to uint32 // in data
}

// add adds a row; encode appends its data.
func (l *rowList) add(key uint64, encode func([]byte) []byte) {
	from := uint32(len(l.data))
	l.data = encode(l.data)
	l.rows = append(l.rows, row{key, from, uint32(len(l.data))})
}

// rowLists returns what the sections hold, each sorted by key.
func rowLists(m *memPart) (lists [sections]rowList) {
	leases := &lists[sectionLeases]
	leases.rows = make([]row, 0, len(m.leases.ids))
	leases.data = make([]byte, 0, 5*len(m.leases.ids)) // most have one block
	for at, id := range m.leases.ids {
		leases.add(uint64(id), m.row(uint32(at)).encode)
	}
	for id, moves := range m.accounts {
		lists[sectionAccounts].add(uint64(id), func(data []byte) []byte { return encodeMoves(data, *moves) })
	}
	for t, section := range [tables]int{sectionCustomers, sectionHosts} {
		for key, ids := range m.lists[t] {
			lists[section].add(key, func(data []byte) []byte {
				var last ledger.LeaseID
				for _, id := range *ids {
					data = binary.AppendUvarint(data, uint64(id-last))
					last = id
				}
				return data
			})
		}
	}
	for i := range lists {
		slices.SortFunc(lists[i].rows, func(a, b row) int { return cmp.Compare(a.key, b.key) })
	}
	return lists
}

func (r *leaseRow) encode(data []byte) []byte {
	data = binary.AppendUvarint(data, uint64(r.n))
	last := uint32(0)
	for b := range r.each() {
		data = binary.AppendUvarint(data, uint64(b-last))
		last = b
	}
	if r.sum == nil {
		return data
	}
	sum, err := r.sum.entries()
	if err != nil {
		panic(fmt.Sprintf("journal: decode an entry of its own: %v", err))
	}
	for i := range sum {
		e := wire.AppendEntry(nil, &sum[i])
		data = binary.AppendUvarint(data, uint64(len(e)))
		data = append(data, e...)
	}
	return data
}

// encodeMoves puts the sum first: most lookups want no more.
func encodeMoves(data []byte, moves []move) []byte {
	data = binary.AppendVarint(data, moves[len(moves)-1].after)
	var last move
	for _, mv := range moves {
		data = binary.AppendUvarint(data, uint64(mv.block-last.block))
		data = binary.AppendVarint(data, mv.after-last.after)
		last = mv
	}
	return data
}

// encodeIndex writes the content of the index file of a full segment, in small
// parts: in one piece it would be fresh memory for each segment, which costs
// more than all the rest.
func encodeIndex(w *pageWriter, meta indexMeta, m *memPart) {
	lists := rowLists(m)
	le := binary.LittleEndian
	out := append(make([]byte, 0, indexHeaderSize), indexMagic...)
	out = le.AppendUint64(out, meta.first)
	out = le.AppendUint64(out, uint64(meta.size))
	out = le.AppendUint32(out, meta.blocks)
	out = le.AppendUint32(out, meta.entries)
	out = append(out, meta.digest[:]...)
	at := uint64(indexHeaderSize + blockRefSize*len(m.blocks))
	for _, l := range lists {
		out = le.AppendUint64(out, at)
		out = le.AppendUint64(out, uint64(len(l.rows)))
		at += uint64(keySize*len(l.rows) + 8*fences(len(l.rows)) + len(l.data))
	}
	w.write(out)
	var b [blockRefSize]byte
	for _, ref := range m.blocks {
		le.PutUint32(b[:], ref.offset)
		le.PutUint32(b[4:], ref.before)
		le.PutUint64(b[8:], uint64(ref.time))
		w.write(b[:])
	}
	at = uint64(indexHeaderSize + blockRefSize*len(m.blocks))
	for _, l := range lists {
		at += uint64(keySize*len(l.rows) + 8*fences(len(l.rows)))
		for _, r := range l.rows {
			le.PutUint64(b[:], r.key)
			le.PutUint64(b[8:], at)
			w.write(b[:keySize])
			at += uint64(r.to - r.from)
		}
		for i := 0; i < len(l.rows); i += fenceEvery {
			le.PutUint64(b[:], l.rows[i].key)
			w.write(b[:8])
		}
		for _, r := range l.rows {
			w.write(l.data[r.from:r.to])
		}
	}
}

func fences(keys int) int { return (keys + fenceEvery - 1) / fenceEvery }

// writeIndex writes a segment's index file in place of any there is. A crash
// may leave it torn, which its pages' checksums tell.
func writeIndex(fs FS, dir, path string, encode func(*pageWriter)) error {
	if err := fs.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("replace journal index: %w", err)
	}
	f, err := fs.Create(path)
	if err != nil {
		return fmt.Errorf("create journal index: %w", err)
	}
	w := newPageWriter(f)
	encode(w)
	if err = w.finish(); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = fs.SyncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("write journal index: %w", err)
	}
	return nil
}

// diskPart is an index file. It keeps no more in memory than the fences.
type diskPart struct {
	pagedFile
	meta     indexMeta
	end      int64 // of the content, at most
	sections [sections]section
}

type section struct {
	keys   int64 // where they begin
	n      int
	fences []uint64
}

// openIndex opens a segment's index file, which may be absent, torn or of an
// earlier state of the segment: an *indexError.
func openIndex(fs FS, path string) (*diskPart, error) {
	d := &diskPart{pagedFile: pagedFile{fs: fs, path: path}}
	f, err := fs.Open(path)
	if err != nil {
		return nil, &indexError{path, err.Error()}
	}
	size, err := f.Size()
	f.Close()
	if err != nil {
		return nil, &indexError{path, err.Error()}
	}
	d.end = size / pageSize * pageBody
	header, err := d.read(0, indexHeaderSize)
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(header, []byte(indexMagic)) {
		return nil, &indexError{path, fmt.Sprintf("it begins with %q, want %q", header[:len(indexMagic)], indexMagic)}
	}
	le, at := binary.LittleEndian, header[len(indexMagic):]
	d.meta = indexMeta{first: le.Uint64(at), size: int64(le.Uint64(at[8:])), blocks: le.Uint32(at[16:]), entries: le.Uint32(at[20:]),
		digest: ledger.Digest(at[24 : 24+digestSize])}
	at = at[24+digestSize:]
	for i := range d.sections {
		s := &d.sections[i]
		keys, n := le.Uint64(at[i*16:]), le.Uint64(at[i*16+8:])
		if keys > uint64(d.end) || n > uint64(d.end)/keySize {
			return nil, &indexError{path, fmt.Sprintf("section %d has %d keys at %d, beyond the file", i, n, keys)}
		}
		s.keys, s.n = int64(keys), int(n)
		b, err := d.span(s.keys+int64(keySize*s.n), s.keys+int64(keySize*s.n+8*fences(s.n)))
		if err != nil {
			return nil, err
		}
		for ; len(b) > 0; b = b[8:] {
			s.fences = append(s.fences, le.Uint64(b))
		}
	}
	return d, nil
}

// span reads the content from one offset to another.
func (d *diskPart) span(from, to int64) ([]byte, error) {
	if from < 0 || to < from || to > d.end {
		return nil, &indexError{d.path, fmt.Sprintf("it has no bytes %d to %d", from, to)}
	}
	return d.read(from, int(to-from))
}

// find returns where a key's row begins and ends; ok is false if there is none.
func (d *diskPart) find(which int, key uint64) (from, to int64, ok bool, err error) {
	s := &d.sections[which]
	group := sort.Search(len(s.fences), func(i int) bool { return s.fences[i] > key }) - 1
	if group < 0 {
		return 0, 0, false, nil
	}
	first := group * fenceEvery
	last := min(first+fenceEvery+1, s.n) // one more, for where the last row ends
	b, err := d.span(s.keys+int64(first*keySize), s.keys+int64(last*keySize))
	if err != nil {
		return 0, 0, false, err
	}
	le := binary.LittleEndian
	i := sort.Search(last-first, func(i int) bool { return le.Uint64(b[i*keySize:]) >= key })
	if i == last-first || le.Uint64(b[i*keySize:]) != key {
		return 0, 0, false, nil
	}
	from = int64(le.Uint64(b[i*keySize+8:]))
	switch {
	case i+1 < last-first:
		to = int64(le.Uint64(b[(i+1)*keySize+8:]))
	case which+1 < sections:
		to = d.sections[which+1].keys
	default:
		to = d.end
	}
	return from, to, true, nil
}

func (d *diskPart) row(which int, key uint64) ([]byte, error) {
	from, to, ok, err := d.find(which, key)
	if err != nil || !ok {
		return nil, err
	}
	return d.span(from, to)
}

func (d *diskPart) block(ordinal int) (blockRef, error) {
	at := int64(indexHeaderSize + blockRefSize*ordinal)
	b, err := d.span(at, at+blockRefSize)
	if err != nil {
		return blockRef{}, err
	}
	le := binary.LittleEndian
	return blockRef{offset: le.Uint32(b), before: le.Uint32(b[4:]), time: ledger.Time(le.Uint64(b[8:]))}, nil
}

// varints reads a row.
type varints struct {
	d    *diskPart
	rest []byte
	err  error
}

func (v *varints) unsigned() uint64 {
	n, k := binary.Uvarint(v.rest)
	return v.took(n, k)
}

func (v *varints) signed() int64 {
	n, k := binary.Varint(v.rest)
	return int64(v.took(uint64(n), k))
}

func (v *varints) took(n uint64, k int) uint64 {
	if k <= 0 {
		v.err = &indexError{v.d.path, "a row is cut short"}
		v.rest = nil
		return 0
	}
	v.rest = v.rest[k:]
	return n
}

func (d *diskPart) lease(id ledger.LeaseID) (*leasePart, error) {
	data, err := d.row(sectionLeases, uint64(id))
	if err != nil || data == nil {
		return nil, err
	}
	v := varints{d: d, rest: data}
	n := v.unsigned()
	out := &leasePart{}
	at := uint32(0)
	for range min(n, uint64(d.meta.blocks)) {
		at += uint32(v.unsigned())
		out.blocks = append(out.blocks, at)
	}
	if n <= headBlocks {
		return out, v.err
	}
	for len(v.rest) > 0 {
		size := v.unsigned()
		if size == 0 || size > uint64(len(v.rest)) { // 0: the filling of the last page
			break
		}
		e, err := wire.DecodeEntry(v.rest[:size])
		if err != nil {
			return nil, &indexError{d.path, err.Error()}
		}
		out.sum, v.rest = append(out.sum, e), v.rest[size:]
	}
	return out, v.err
}

func (d *diskPart) account(id ledger.AccountID) ([]move, error) {
	data, err := d.row(sectionAccounts, uint64(id))
	if err != nil || data == nil {
		return nil, err
	}
	v := varints{d: d, rest: data}
	v.signed()
	var out []move
	var last move
	for len(v.rest) > 0 {
		last.block += uint32(v.unsigned())
		last.after += v.signed()
		out = append(out, last)
	}
	return out, v.err
}

func (d *diskPart) net(id ledger.AccountID) (int64, error) {
	from, to, ok, err := d.find(sectionAccounts, uint64(id))
	if err != nil || !ok {
		return 0, err
	}
	data, err := d.span(from, min(to, from+binary.MaxVarintLen64))
	if err != nil {
		return 0, err
	}
	v := varints{d: d, rest: data}
	return v.signed(), v.err
}

func (d *diskPart) opened(t table, key uint64) ([]ledger.LeaseID, error) {
	data, err := d.row([tables]int{sectionCustomers, sectionHosts}[t], key)
	if err != nil || data == nil {
		return nil, err
	}
	v := varints{d: d, rest: data}
	var out []ledger.LeaseID
	var last ledger.LeaseID
	for len(v.rest) > 0 {
		delta := v.unsigned()
		if delta == 0 { // the filling of the last page: ids grow
			break
		}
		last += ledger.LeaseID(delta)
		out = append(out, last)
	}
	return out, v.err
}
