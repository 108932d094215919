package wire

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/joulecloud/joule/settlement/ledger"
)

// A snapshot is its magic, its version, and frames: the head, one per row of
// the state in the order of ledger.State (version 1, of before the first
// release, had fewer tables), the owner's extra bytes in chunks,
// an empty frame, then the SHA-256 of all before it. A frame is its length
// (uint32) and its bytes.
const (
	snapshotMagic   = "JOULESNP"
	snapshotVersion = 2
	frameMax        = 64 << 10
)

// ErrSnapshotDigest is returned for a snapshot whose bytes are not those that
// were written.
var ErrSnapshotDigest = errors.New("snapshot digest does not match its bytes")

// WriteSnapshot writes the whole ledger, idempotency keys and their results
// included, and extra, which is opaque. The ledger may not change meanwhile.
func WriteSnapshot(w io.Writer, l *ledger.Ledger, extra []byte) error {
	return WriteState(w, l.State(), extra)
}

// WriteState is WriteSnapshot of a state, which may be that of a capture.
func WriteState(w io.Writer, st *ledger.State, extra []byte) error {
	s := &snapshotWriter{sum: sha256.New()}
	s.w = bufio.NewWriterSize(io.MultiWriter(w, s.sum), 64<<10)
	_, _ = s.w.WriteString(snapshotMagic)
	_ = s.w.WriteByte(snapshotVersion)

	s.frame(appendHead(nil, st, uint64(len(extra))))
	for i := range st.Rates {
		s.frame(appendRate(s.buf[:0], &st.Rates[i]))
	}
	for i := range st.Accounts {
		s.frame(appendAccount(s.buf[:0], &st.Accounts[i]))
	}
	for i := range st.Customers {
		s.frame(appendCustomer(s.buf[:0], &st.Customers[i]))
	}
	for i := range st.Suppliers {
		s.frame(appendSupplier(s.buf[:0], &st.Suppliers[i]))
	}
	for i := range st.Hosts {
		s.frame(appendHost(s.buf[:0], &st.Hosts[i]))
	}
	s.tables(st)
	for row, names := range st.Leases {
		s.frame(appendLease(s.buf[:0], row, names))
	}
	for k := range st.Keys {
		s.frame(appendKey(s.buf[:0], &k))
	}
	for len(extra) > 0 {
		n := min(len(extra), frameMax)
		s.frame(append(s.buf[:0], extra[:n]...))
		extra = extra[n:]
	}
	s.frame(s.buf[:0])
	if err := s.w.Flush(); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	if _, err := w.Write(s.sum.Sum(nil)); err != nil {
		return fmt.Errorf("write snapshot digest: %w", err)
	}
	return nil
}

// snapshotWriter leaves its write errors to bufio, which keeps the first.
type snapshotWriter struct {
	w   *bufio.Writer
	sum hash.Hash
	buf []byte
}

func (s *snapshotWriter) frame(b []byte) {
	s.buf = b
	var n [4]byte
	binary.LittleEndian.PutUint32(n[:], uint32(len(b)))
	_, _ = s.w.Write(n[:])
	_, _ = s.w.Write(b)
}

// ReadSnapshot is the inverse of WriteSnapshot. r must hold the snapshot and
// nothing more. A snapshot of another version is ErrUnknownVersion, one whose
// digest is wrong ErrSnapshotDigest, unless the damage shows earlier.
func ReadSnapshot(r io.Reader) (*ledger.Ledger, []byte, error) {
	s := &snapshotReader{r: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}
	l, extra, err := s.read()
	if s.err != nil { // what went wrong first
		err = s.err
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read snapshot: %w", err)
	}
	return l, extra, nil
}

type snapshotReader struct {
	r   *bufio.Reader
	sum hash.Hash
	buf []byte
	off int
	err error
}

// bytes reads the next n bytes into s.buf, which grows no faster than the
// bytes arrive.
func (s *snapshotReader) bytes(what string, n int) []byte {
	if s.err != nil {
		return nil
	}
	if cap(s.buf) < n {
		s.buf = make([]byte, n)
	}
	s.buf = s.buf[:n]
	if _, err := io.ReadFull(s.r, s.buf); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		s.err = fmt.Errorf("%s at offset %d: %w", what, s.off, err)
		return nil
	}
	s.off += n
	s.sum.Write(s.buf)
	return s.buf
}

// frame reads the next frame and decodes it whole.
func (s *snapshotReader) frame(what string, decode func(d *decoder)) bool {
	head := s.bytes(what, 4)
	if s.err != nil {
		return false
	}
	n := binary.LittleEndian.Uint32(head)
	if n > frameMax {
		s.err = fmt.Errorf("%s at offset %d: frame of %d bytes, at most %d", what, s.off-4, n, frameMax)
		return false
	}
	at := s.off
	d := decoder{what: "snapshot", base: at, b: s.bytes(what, int(n))}
	if s.err != nil {
		return false
	}
	d.push(what)
	decode(&d)
	s.err = d.end()
	return s.err == nil
}

func (s *snapshotReader) read() (*ledger.Ledger, []byte, error) {
	magic := s.bytes("magic", len(snapshotMagic)+1)
	if s.err != nil {
		return nil, nil, s.err
	}
	if !bytes.Equal(magic[:len(snapshotMagic)], []byte(snapshotMagic)) {
		return nil, nil, fmt.Errorf("magic is %q, want %q", magic[:len(snapshotMagic)], snapshotMagic)
	}
	if v := magic[len(snapshotMagic)]; v != snapshotVersion {
		return nil, nil, &DecodeError{What: "snapshot", Field: "version", Offset: len(snapshotMagic),
			Reason: fmt.Sprintf("got %d, want %d", v, snapshotVersion), err: ErrUnknownVersion}
	}
	st := new(ledger.State)
	var h snapshotHead
	s.frame("head", func(d *decoder) { h = d.head(st) })
	readRows(s, "rates", h.rates, &st.Rates, (*decoder).rate)
	readRows(s, "accounts", h.accounts, &st.Accounts, (*decoder).account)
	readRows(s, "customers", h.customers, &st.Customers, (*decoder).customer)
	readRows(s, "suppliers", h.suppliers, &st.Suppliers, (*decoder).supplier)
	readRows(s, "hosts", h.hosts, &st.Hosts, (*decoder).host)
	s.tables(&h.tables, st)
	if s.err != nil {
		return nil, nil, s.err
	}
	st.Leases = func(yield func(*ledger.LeaseRow, *ledger.LeaseNames) bool) {
		for range st.LeaseCount {
			var row ledger.LeaseRow
			var names ledger.LeaseNames
			if !s.frame("lease", func(d *decoder) { d.lease(&row, &names) }) || !yield(&row, &names) {
				return
			}
		}
	}
	st.Keys = func(yield func(ledger.KeyState) bool) {
		for range st.KeyCount {
			var k ledger.KeyState
			if !s.frame("key", func(d *decoder) { d.key(&k) }) || !yield(k) {
				return
			}
		}
	}
	l, err := ledger.FromState(st)
	if err != nil || s.err != nil {
		return nil, nil, errors.Join(s.err, err)
	}
	extra, err := s.tail(h.extra)
	return l, extra, err
}

// tail reads the extra bytes, the empty frame, and the digest.
func (s *snapshotReader) tail(size uint64) ([]byte, error) {
	var extra []byte
	for left := size; left > 0; left = size - uint64(len(extra)) {
		if !s.frame("extra", func(d *decoder) {
			if n := d.left(); uint64(n) != min(left, frameMax) {
				d.fail("length", d.off, nil, "got %d bytes, want %d", n, min(left, frameMax))
			}
			extra = append(extra, d.take("bytes", d.left())...)
		}) {
			return nil, s.err
		}
	}
	if !s.frame("end", func(*decoder) {}) {
		return nil, s.err
	}
	want := s.sum.Sum(nil)
	got := s.bytes("digest", len(want))
	if s.err != nil {
		return nil, s.err
	}
	if !bytes.Equal(got, want) {
		return nil, ErrSnapshotDigest
	}
	if _, err := s.r.ReadByte(); !errors.Is(err, io.EOF) {
		return nil, errors.Join(fmt.Errorf("trailing bytes at offset %d", s.off), err)
	}
	return extra, nil
}

// readRows appends rows one by one: the count is not trusted with an
// allocation.
func readRows[T any](s *snapshotReader, what string, n uint64, rows *[]T, decode func(*decoder, *T)) {
	for range n {
		var row T
		if !s.frame(what, func(d *decoder) { decode(d, &row) }) {
			return
		}
		*rows = append(*rows, row)
	}
}
