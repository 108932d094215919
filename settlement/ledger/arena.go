package ledger

import (
	"encoding/binary"
	"math"
)

// chunkBytes is how many bytes an arena's chunk has, unless a single record
// needs more.
const chunkBytes = 1 << 16

// arena keeps the ledger's texts: records of one or more strings, which are
// added and never change or go. Its chunks hold no pointers, so they cost the
// collector nothing, and a capture shares them without copying.
type arena struct {
	chunks [][]byte // in full length from the start; none is ever replaced
	used   int      // bytes of the last chunk
}

// textRef is where a record begins: its chunk's number and, in the low 16 bits,
// the offset in it.
type textRef uint64

// add keeps a record, which appendText made.
func (a *arena) add(record []byte) textRef {
	if n := len(a.chunks); n == 0 || len(a.chunks[n-1])-a.used < len(record) {
		a.chunks = append(a.chunks, make([]byte, max(chunkBytes, len(record))))
		a.used = 0
	}
	last := len(a.chunks) - 1
	at := a.used
	a.used += copy(a.chunks[last][at:], record)
	return textRef(last<<16 | at)
}

// from is what is kept from a record on: the record, and what follows it. The
// strings carry their lengths, so a record that begins with the bytes of some
// strings has just those.
func (a *arena) from(r textRef) []byte { return a.chunks[r>>16][r&(chunkBytes-1):] }

// text is the string of number i, from 0, of a record, for reading.
func (a *arena) text(r textRef, i int) []byte {
	b := a.from(r)
	for ; i > 0; i-- {
		b = b[2+int(binary.LittleEndian.Uint16(b)):]
	}
	n := 2 + int(binary.LittleEndian.Uint16(b))
	return b[2:n:n]
}

// textMax is the longest string that a record can have.
const textMax = math.MaxUint16

// appendText appends a string to a record that is being made. All input is
// checked for far narrower limits beforehand.
func appendText[T string | []byte](record []byte, s T) []byte {
	if len(s) > textMax {
		panic("ledger: a text beyond every limit")
	}
	record = binary.LittleEndian.AppendUint16(record, uint16(len(s)))
	return append(record, s...)
}
