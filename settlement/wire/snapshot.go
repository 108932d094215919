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
	"iter"

	"github.com/joulecloud/joule/settlement/ledger"
)

// A snapshot is its magic, its version, the head, the tables of ledger.State in
// its order, the owner's extra bytes, an empty frame, and the SHA-256 of all
// before it. All but the first and the last of these are in frames: a length
// (uint32) and as many bytes. A table's rows stand one behind the other in
// frames of its own, each of which ends with the first row that brings it to
// frameBytes. (Versions 1 and 2, of before the first release, had fewer tables,
// and a frame for each row.)
const (
	snapshotMagic   = "JOULESNP"
	snapshotVersion = 3
	frameBytes      = 64 << 10
	frameMax        = 1 << 20
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
	writeTable(s, pointers(st.Rates), appendRate)
	writeTable(s, pointers(st.Withdrawals), appendWithdrawal)
	writeTable(s, pointers(st.Corrections), appendCorrection)
	writeTable(s, pointers(st.Unbondings), appendUnbonding)
	writeTable(s, pointers(st.Fines), appendFine)
	writeTable(s, pointers(st.Offences), appendOffence)
	writeTable(s, pointers(st.Marks), appendMark)
	writeTable(s, st.Balances.Rows, appendBalance)
	writeTable(s, st.Customers.Rows, appendCustomer)
	writeTable(s, st.Suppliers.Rows, appendSupplier)
	writeTable(s, st.Hosts.Rows, appendHost)
	writeTable(s, st.Jobs.Rows, appendJob)
	writeTable(s, st.Leases.Rows, appendLease)
	writeTable(s, st.Keys.Rows, appendKey)
	for len(extra) > 0 {
		n := min(len(extra), frameBytes)
		s.frame(extra[:n])
		extra = extra[n:]
	}
	s.frame(nil)
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
	var n [4]byte
	binary.LittleEndian.PutUint32(n[:], uint32(len(b)))
	_, _ = s.w.Write(n[:])
	_, _ = s.w.Write(b)
}

func writeTable[T any](s *snapshotWriter, rows iter.Seq[*T], add func([]byte, *T) []byte) {
	b := s.buf[:0]
	for row := range rows {
		if b = add(b, row); len(b) >= frameBytes {
			s.frame(b)
			b = b[:0]
		}
	}
	if len(b) > 0 {
		s.frame(b)
	}
	s.buf = b
}

func pointers[T any](rows []T) iter.Seq[*T] {
	return func(yield func(*T) bool) {
		for i := range rows {
			if !yield(&rows[i]) {
				return
			}
		}
	}
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
	readTable(s, "rates", h.rates, &st.Rates, (*decoder).rate)
	readTable(s, "withdrawals", h.withdrawals, &st.Withdrawals, (*decoder).withdrawal)
	readTable(s, "corrections", h.corrections, &st.Corrections, (*decoder).correction)
	readTable(s, "unbondings", h.unbondings, &st.Unbondings, (*decoder).unbonding)
	readTable(s, "fines", h.fines, &st.Fines, (*decoder).fine)
	readTable(s, "offences", h.offences, &st.Offences, (*decoder).offence)
	readTable(s, "marks", h.marks, &st.Marks, (*decoder).mark)
	if s.err != nil {
		return nil, nil, s.err
	}
	stream(s, "accounts", &st.Balances, new(int64), (*decoder).balance)
	stream(s, "customers", &st.Customers, new(ledger.CustomerState), (*decoder).customer)
	stream(s, "suppliers", &st.Suppliers, new(ledger.SupplierState), (*decoder).supplier)
	stream(s, "hosts", &st.Hosts, new(ledger.HostState), (*decoder).host)
	stream(s, "jobs", &st.Jobs, new(ledger.JobState), (*decoder).job)
	stream(s, "leases", &st.Leases, &ledger.LeaseState{Row: new(ledger.LeaseRow)}, (*decoder).lease)
	stream(s, "keys", &st.Keys, new(ledger.KeyState), (*decoder).key)
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
			if n := d.left(); uint64(n) != min(left, frameBytes) {
				d.fail("length", d.off, nil, "got %d bytes, want %d", n, min(left, frameBytes))
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

// rows reads a table of n rows, each into row.
func rows[T any](s *snapshotReader, what string, n uint64, row *T, decode func(*decoder, *T), yield func(*T) bool) {
	for i := uint64(0); i < n && s.err == nil; {
		stopped := false
		s.frame(what, func(d *decoder) {
			for i < n && d.off < frameBytes && (d.left() > 0 || d.off == 0) {
				d.at(int(i))
				if decode(d, row); d.err != nil {
					return
				}
				i++
				if stopped = !yield(row); stopped {
					return
				}
			}
			if i < n && d.off < frameBytes {
				d.fail("end", d.off, nil, "the frame ends after %d bytes, %d rows are to come", d.off, n-i)
			}
		})
		if stopped {
			s.err = nil // whoever reads the rows has an error of its own
			return
		}
	}
}

// readTable appends rows one by one: the count is not trusted with an
// allocation.
func readTable[T any](s *snapshotReader, what string, n uint64, into *[]T, decode func(*decoder, *T)) {
	rows(s, what, n, new(T), decode, func(row *T) bool {
		*into = append(*into, *row)
		return true
	})
}

// stream makes a table that is read while the ledger is made of it. One that
// ends too early leaves why in s.err.
func stream[T any](s *snapshotReader, what string, t *ledger.Table[T], row *T, decode func(*decoder, *T)) {
	t.Rows = func(yield func(*T) bool) { rows(s, what, t.Count, row, decode, yield) }
}
