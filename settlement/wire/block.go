package wire

import (
	"crypto/sha256"

	"github.com/joulecloud/joule/settlement/ledger"
)

const blockVersion = 2

const digestSize = len(ledger.Digest{})

// Block is one applied command batch as the journal keeps it: what was asked,
// what came of it, and the entries that it made. Digest is the SHA-256 over the
// previous block's digest (zero for the first) and the block's encoding without
// its digest, so that it stands for the whole history up to here.
type Block struct {
	Seq       uint64 // dense from 1
	Index     uint64 // of the Raft log
	Time      ledger.Time
	Envelopes []ledger.Envelope
	Results   []ledger.Result // one per envelope
	Entries   []ledger.Entry
	Digest    ledger.Digest
}

// AppendBlock appends the block's bytes after computing and setting b.Digest.
func AppendBlock(dst []byte, prev ledger.Digest, b *Block) []byte {
	return appendBlock(dst, prev, b, nil)
}

// AppendAppliedBlock is AppendBlock where b.Envelopes were decoded from batch,
// the bytes of a command batch: they are copied instead of made again.
func AppendAppliedBlock(dst []byte, prev ledger.Digest, b *Block, batch []byte) []byte {
	return appendBlock(dst, prev, b, batch[commandBatchHead:])
}

func appendBlock(dst []byte, prev ledger.Digest, b *Block, envelopes []byte) []byte {
	start := len(dst)
	dst = append(dst, blockVersion)
	dst = appendU64(dst, b.Seq)
	dst = appendU64(dst, b.Index)
	dst = appendI64(dst, int64(b.Time))
	if envelopes != nil {
		dst = append(dst, envelopes...)
	} else {
		dst = appendEnvelopes(dst, b.Envelopes)
	}
	dst = appendBlockResults(dst, b)
	dst = appendBlockEntries(dst, b)
	b.Digest = digestOf(prev, dst[start:])
	return append(dst, b.Digest[:]...)
}

func digestOf(prev ledger.Digest, body []byte) ledger.Digest {
	h := sha256.New()
	h.Write(prev[:])
	h.Write(body)
	var d ledger.Digest
	h.Sum(d[:0])
	return d
}

// BlockDigest computes the digest that the encoded block should carry when it
// follows the block with digest prev. It reads no more of the block than its
// version.
func BlockDigest(prev ledger.Digest, encoded []byte) (ledger.Digest, error) {
	d := decoder{what: "block", b: encoded}
	d.version("version", blockVersion)
	if d.err == nil && d.left() < digestSize {
		d.fail("digest", d.off, nil, "needs %d bytes, %d left", digestSize, d.left())
	}
	if d.err != nil {
		return ledger.Digest{}, d.err
	}
	return digestOf(prev, encoded[:len(encoded)-digestSize]), nil
}

// DecodeBlock is the inverse of AppendBlock. It does not check the digest: see
// BlockDigest.
func DecodeBlock(b []byte) (*Block, error) {
	d := decoder{what: "block", b: b}
	blk := new(Block)
	d.version("version", blockVersion)
	blk.Seq = d.u64("seq")
	blk.Index = d.u64("index")
	blk.Time = ledger.Time(d.i64("time"))
	blk.Envelopes = d.envelopes(nil)
	d.blockResults(blk)
	d.blockEntries(blk)
	copy(blk.Digest[:], d.take("digest", digestSize))
	if err := d.end(); err != nil {
		return nil, err
	}
	return blk, nil
}

const (
	resultSizeMin    = 2 + 4 + 8 + 1 + 4
	recordResultSize = 8 + 8 + 1 + 1 + 8
)

func appendResult(dst []byte, r *ledger.Result) []byte {
	dst = appendU16(dst, uint16(r.Code))
	dst = appendStr(dst, r.Msg)
	dst = appendU64(dst, r.ID)
	dst = appendGrant(dst, r.Lease)
	dst = appendU32(dst, uint32(len(r.Records)))
	for i := range r.Records {
		rec := &r.Records[i]
		dst = appendU64(dst, uint64(rec.Lease))
		dst = appendU64(dst, rec.Seq)
		dst = append(dst, byte(rec.Status), byte(rec.Stop))
		dst = appendI64(dst, int64(rec.Charged))
	}
	return dst
}

func (d *decoder) result(r *ledger.Result) {
	r.Code = ledger.Code(d.u16("code"))
	r.Msg = d.str("msg")
	r.ID = d.u64("id")
	r.Lease = d.grant()
	n := d.count("records", recordResultSize)
	if n == 0 {
		return
	}
	r.Records = make([]ledger.RecordResult, n)
	d.push("records")
	for i := 0; i < n && d.err == nil; i++ {
		d.at(i)
		r.Records[i] = ledger.RecordResult{Lease: ledger.LeaseID(d.u64("lease")), Seq: d.u64("seq"),
			Status: ledger.RecordStatus(d.u8("status")), Stop: ledger.CloseReason(d.u8("stop")),
			Charged: ledger.NUSD(d.i64("charged"))}
	}
	d.pop()
}

func appendGrant(dst []byte, g *ledger.LeaseGrant) []byte {
	dst = appendBool(dst, g != nil)
	if g == nil {
		return dst
	}
	dst = appendU64(dst, uint64(g.Lease))
	dst = appendPrices(dst, &g.Prices)
	dst = appendU32(dst, g.Epoch)
	return appendI64(dst, g.Hold)
}

func (d *decoder) grant() *ledger.LeaseGrant {
	if !d.bool("lease") {
		return nil
	}
	return &ledger.LeaseGrant{Lease: ledger.LeaseID(d.u64("lease.id")), Prices: d.prices("lease.prices"),
		Epoch: d.u32("lease.epoch"), Hold: d.i64("lease.hold")}
}
