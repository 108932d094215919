package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// ErrUnknownVersion is matched by the error for a format version or a command
// kind that this build does not know. It is never right to skip what it names:
// the caller halts with "upgrade this node".
var ErrUnknownVersion = errors.New("unknown version: upgrade this node")

// DecodeError says where bytes stop being a valid encoding.
type DecodeError struct {
	What   string // what was decoded: "usage batch", "block", …
	Field  string // its field, such as "envelopes[2].key"
	Offset int    // where the field begins, in bytes from the start
	Reason string
	err    error
}

// Error implements error.
func (e *DecodeError) Error() string {
	return fmt.Sprintf("decode %s: %s at offset %d: %s", e.What, e.Field, e.Offset, e.Reason)
}

// Unwrap makes errors.Is(err, ErrUnknownVersion) work.
func (e *DecodeError) Unwrap() error { return e.err }

// decoder reads b from the front. After the first error every read returns
// zero values, so that callers check once at the end (and in loops).
type decoder struct {
	what string
	b    []byte
	off  int
	base int // offset of b in the outer form
	path [pathMax]step
	deep int // steps in use
	err  error
}

// pathMax is how deep the forms nest: envelopes[1].batch.records[2].
const pathMax = 4

type step struct {
	list  string
	index int
}

func newDecoder(what string, b []byte) *decoder { return &decoder{what: what, b: b} }

func (d *decoder) push(list string) {
	d.path[d.deep] = step{list: list, index: -1}
	d.deep++
}

func (d *decoder) at(i int) { d.path[d.deep-1].index = i }

func (d *decoder) pop() { d.deep-- }

func (d *decoder) field(name string) string {
	var s strings.Builder
	for _, p := range d.path[:d.deep] {
		s.WriteString(p.list)
		if p.index >= 0 {
			fmt.Fprintf(&s, "[%d]", p.index)
		}
		s.WriteByte('.')
	}
	s.WriteString(name)
	return s.String()
}

// fail keeps the first error; offset is relative to b.
func (d *decoder) fail(field string, offset int, cause error, format string, args ...any) {
	if d.err != nil {
		return
	}
	d.err = &DecodeError{What: d.what, Field: d.field(field), Offset: d.base + offset,
		Reason: fmt.Sprintf(format, args...), err: cause}
}

func (d *decoder) left() int { return len(d.b) - d.off }

// take returns the next n bytes, or nil after an error.
func (d *decoder) take(field string, n int) []byte {
	if d.err != nil {
		return nil
	}
	if n < 0 || d.left() < n {
		d.fail(field, d.off, nil, "needs %d bytes, %d left", n, d.left())
		return nil
	}
	s := d.b[d.off : d.off+n : d.off+n]
	d.off += n
	return s
}

func (d *decoder) u8(field string) uint8 {
	if s := d.take(field, 1); s != nil {
		return s[0]
	}
	return 0
}

func (d *decoder) u16(field string) uint16 {
	if s := d.take(field, 2); s != nil {
		return binary.LittleEndian.Uint16(s)
	}
	return 0
}

func (d *decoder) u32(field string) uint32 {
	if s := d.take(field, 4); s != nil {
		return binary.LittleEndian.Uint32(s)
	}
	return 0
}

func (d *decoder) u64(field string) uint64 {
	if s := d.take(field, 8); s != nil {
		return binary.LittleEndian.Uint64(s)
	}
	return 0
}

func (d *decoder) i64(field string) int64 { return int64(d.u64(field)) }

func (d *decoder) bool(field string) bool {
	at := d.off
	v := d.u8(field)
	if v > 1 {
		d.fail(field, at, nil, "must be 0 or 1, got %d", v)
	}
	return v == 1
}

func (d *decoder) version(field string, known uint8) {
	at := d.off
	if v := d.u8(field); d.err == nil && v != known {
		d.fail(field, at, ErrUnknownVersion, "got %d, want %d", v, known)
	}
}

func (d *decoder) str(field string) string { return string(d.bytes(field)) }

// bytes returns a string's bytes where they are.
func (d *decoder) bytes(field string) []byte {
	at := d.off
	n := d.u32(field)
	if d.err == nil && uint64(n) > uint64(d.left()) {
		d.fail(field, at, nil, "length %d, %d bytes left", n, d.left())
		return nil
	}
	return d.take(field, int(n))
}

// count reads a number of elements of at least size bytes each, and refuses
// one that cannot fit, so that callers may allocate for it.
func (d *decoder) count(field string, size int) int {
	at := d.off
	n := d.u32(field)
	if d.err == nil && uint64(n)*uint64(size) > uint64(d.left()) {
		d.fail(field, at, nil, "count %d of at least %d bytes each, %d bytes left", n, size, d.left())
		return 0
	}
	return int(n)
}

// end reports the first error, or bytes that nothing claimed.
func (d *decoder) end() error {
	if d.err == nil && d.left() > 0 {
		d.fail("end", d.off, nil, "%d trailing bytes", d.left())
	}
	return d.err
}

func appendU16(dst []byte, v uint16) []byte { return binary.LittleEndian.AppendUint16(dst, v) }
func appendU32(dst []byte, v uint32) []byte { return binary.LittleEndian.AppendUint32(dst, v) }
func appendU64(dst []byte, v uint64) []byte { return binary.LittleEndian.AppendUint64(dst, v) }
func appendI64(dst []byte, v int64) []byte  { return binary.LittleEndian.AppendUint64(dst, uint64(v)) }

func appendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, 1)
	}
	return append(dst, 0)
}

func appendStr(dst []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint32(dst, uint32(len(s))), s...)
}

func appendBytes(dst, s []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(dst, uint32(len(s))), s...)
}
