package wire

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/joulecloud/joule/settlement/ledger"
)

// RecordSize is the length of an encoded usage record in bytes.
const RecordSize = 123

const recordVersion = 1

// The layout of a record, version 1.
const (
	recVersion = 0
	recLease   = 1
	recSeq     = 9
	recEpoch   = 17
	recPrev    = 21
	recKnown   = 37
	recFinal   = 38
	recActive  = 39
	recStandby = 71
	recBusy    = 103
	recEnergy  = 111
	recQuality = 119
)

// AppendRecord appends the record's bytes. A record carries its own version, so
// that a host upgraded in between can still send those it kept. Hash is not
// carried.
func AppendRecord(dst []byte, r *Record) []byte {
	dst = append(dst, recordVersion)
	dst = appendU64(dst, uint64(r.Lease))
	dst = appendU64(dst, r.Seq)
	dst = appendU32(dst, r.Epoch)
	dst = append(dst, r.Prev[:]...)
	dst = append(dst, byte(r.Known))
	dst = appendBool(dst, r.Final)
	dst = appendTotals(dst, &r.Active)
	dst = appendTotals(dst, &r.Standby)
	dst = appendU64(dst, r.GPUBusyMs)
	dst = appendU64(dst, r.GPUEnergyMJ)
	return appendU32(dst, uint32(r.Quality))
}

// HashRecord is the identity of a record: the hash of its bytes.
func HashRecord(record []byte) Hash {
	sum := sha256.Sum256(record)
	return Hash(sum[:len(Hash{})])
}

// DecodeRecord is the inverse of AppendRecord; it fills Hash.
func DecodeRecord(b []byte) (Record, error) {
	d := newDecoder("usage record", b)
	var r Record
	d.record(&r)
	return r, d.end()
}

// record decodes the next RecordSize bytes. It is the hot path of a batch, so
// it checks the length once instead of field by field.
func (d *decoder) record(r *ledger.Record) {
	at := d.off
	if d.err == nil && d.left() < RecordSize {
		// The version comes first: a later one may well be shorter.
		if d.version("version", recordVersion); d.err != nil {
			return
		}
		d.fail("record", at, nil, "needs %d bytes, %d left", RecordSize, d.left()+1)
		return
	}
	b := d.take("record", RecordSize)
	if b == nil {
		return
	}
	if b[recVersion] != recordVersion {
		d.fail("version", at, ErrUnknownVersion, "got %d, want %d", b[recVersion], recordVersion)
		return
	}
	if b[recFinal] > 1 {
		d.fail("final", at+recFinal, nil, "must be 0 or 1, got %d", b[recFinal])
		return
	}
	r.Lease = ledger.LeaseID(binary.LittleEndian.Uint64(b[recLease:]))
	r.Seq = binary.LittleEndian.Uint64(b[recSeq:])
	r.Epoch = binary.LittleEndian.Uint32(b[recEpoch:])
	r.Prev = Hash(b[recPrev:recKnown])
	r.Hash = HashRecord(b)
	r.Known = Known(b[recKnown])
	r.Final = b[recFinal] == 1
	getTotals(&r.Active, b[recActive:])
	getTotals(&r.Standby, b[recStandby:])
	r.GPUBusyMs = binary.LittleEndian.Uint64(b[recBusy:])
	r.GPUEnergyMJ = binary.LittleEndian.Uint64(b[recEnergy:])
	r.Quality = Quality(binary.LittleEndian.Uint32(b[recQuality:]))
}

func appendTotals(dst []byte, t *Totals) []byte {
	dst = appendU64(dst, t.WallMs)
	dst = appendU64(dst, t.CPUMs)
	dst = appendU64(dst, t.GPUMs)
	return appendU64(dst, t.MemoryMiBMs)
}

const totalsSize = 32

func getTotals(t *Totals, b []byte) {
	_ = b[totalsSize-1]
	t.WallMs = binary.LittleEndian.Uint64(b)
	t.CPUMs = binary.LittleEndian.Uint64(b[8:])
	t.GPUMs = binary.LittleEndian.Uint64(b[16:])
	t.MemoryMiBMs = binary.LittleEndian.Uint64(b[24:])
}

func (d *decoder) totals(field string) (t Totals) {
	if b := d.take(field, totalsSize); b != nil {
		getTotals(&t, b)
	}
	return t
}
