package wire

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/joulecloud/joule/settlement/ledger"
)

// A block holds the results and entries of usage records in a short form: most
// of what they say, the records have said. What the short form cannot hold is
// written whole, so a decoded block is always what was encoded.

// A result begins with one of these.
const (
	resultWhole   = 0
	resultRecords = 1 // of a usage batch that was taken: an outcome for each of its records, in order
)

// An outcome begins with its status; with outcomeStop a reason follows.
const outcomeStop = 0x80

// outcomesOf reports whether r is no more than the outcomes of env's records.
func outcomesOf(env *ledger.Envelope, r *ledger.Result) (*ledger.UsageBatch, bool) {
	b, ok := env.Command.(*ledger.UsageBatch)
	if !ok || r.Code != ledger.CodeOK || r.Msg != "" || r.ID != 0 || r.Lease != nil || len(r.Records) != len(b.Records) || len(b.Records) == 0 {
		return nil, false
	}
	for i := range r.Records {
		o, rec := &r.Records[i], &b.Records[i]
		if o.Lease != rec.Lease || o.Seq != rec.Seq || o.Charged < 0 || o.Status >= outcomeStop {
			return nil, false
		}
	}
	return b, true
}

func appendBlockResults(dst []byte, b *Block) []byte {
	dst = appendU32(dst, uint32(len(b.Results)))
	for i := range b.Results {
		r := &b.Results[i]
		if i >= len(b.Envelopes) {
			dst = appendResult(append(dst, resultWhole), r)
			continue
		}
		if _, ok := outcomesOf(&b.Envelopes[i], r); !ok {
			dst = appendResult(append(dst, resultWhole), r)
			continue
		}
		dst = slices.Grow(append(dst, resultRecords), len(r.Records)*(2+binary.MaxVarintLen64))
		for i := range r.Records {
			o := &r.Records[i]
			if o.Stop == ledger.CloseNone {
				dst = append(dst, byte(o.Status))
			} else {
				dst = append(dst, byte(o.Status)|outcomeStop, byte(o.Stop))
			}
			dst = binary.AppendUvarint(dst, uint64(o.Charged))
		}
	}
	return dst
}

func (d *decoder) blockResults(b *Block) {
	n := d.count("results", 1)
	d.push("results")
	defer d.pop()
	for i := 0; i < n && d.err == nil; i++ {
		d.at(i)
		at := d.off
		var r ledger.Result
		switch form := d.u8("form"); {
		case d.err != nil:
		case form == resultWhole:
			d.result(&r)
			if i < len(b.Envelopes) && d.err == nil {
				if _, short := outcomesOf(&b.Envelopes[i], &r); short {
					d.fail("form", at, nil, "a short form was not taken")
				}
			}
		case form == resultRecords:
			d.outcomes(&r, b, i)
		default:
			d.fail("form", at, nil, "got %d", form)
		}
		b.Results = append(b.Results, r)
	}
}

func (d *decoder) outcomes(r *ledger.Result, b *Block, i int) {
	var batch *ledger.UsageBatch
	if i < len(b.Envelopes) {
		batch, _ = b.Envelopes[i].Command.(*ledger.UsageBatch)
	}
	if batch == nil || len(batch.Records) == 0 {
		d.fail("form", d.off-1, nil, "outcomes for what is no usage batch")
		return
	}
	r.Records = make([]ledger.RecordResult, len(batch.Records))
	d.push("records")
	defer d.pop()
	for k := 0; k < len(r.Records) && d.err == nil; k++ {
		d.at(k)
		o, rec := &r.Records[k], &batch.Records[k]
		o.Lease, o.Seq = rec.Lease, rec.Seq
		status := d.u8("status")
		if status&outcomeStop != 0 {
			at := d.off
			if o.Stop = ledger.CloseReason(d.u8("stop")); o.Stop == ledger.CloseNone {
				d.fail("stop", at, nil, "must not be 0")
			}
		}
		o.Status = ledger.RecordStatus(status &^ outcomeStop)
		o.Charged = ledger.NUSD(d.uvarint("charged", math.MaxInt64))
	}
}

// An entry begins with a byte: its form, and flags.
const (
	entryWhole    = 0 // kind and body as AppendEntry has them
	entryTransfer = 1 // a transfer without a reference
	entryUsage    = 2 // of the next accepted record, all of it billed
	entryForms    = 3

	entryPlaced   = 1 << 2 // sequence and time follow; otherwise the next after the entry before, and the block's
	transferLease = 1 << 3 // the lease follows; otherwise the one of the entry before
	transferRate  = 1 << 4 // the rate follows; otherwise the one of the transfer before
	transferJoule = 1 << 5 // in JOULE, otherwise in USD
	entryFlags    = entryPlaced | transferLease | transferRate | transferJoule
)

// entryContext is what an entry's short form leaves out because it came
// before. Encoder and decoder keep it in step.
type entryContext struct {
	seq   uint64 // of the entry before
	time  ledger.Time
	lease ledger.LeaseID
	rate  ledger.RateID
	block *Block
	env   int // the next record to look at
	rec   int
}

// accepted returns the next record that was accepted; nil: there is none.
func (c *entryContext) accepted() *ledger.Record {
	for ; c.env < len(c.block.Envelopes) && c.env < len(c.block.Results); c.env, c.rec = c.env+1, 0 {
		batch, ok := c.block.Envelopes[c.env].Command.(*ledger.UsageBatch)
		if !ok {
			continue
		}
		outcomes := c.block.Results[c.env].Records
		for c.rec < len(batch.Records) && c.rec < len(outcomes) {
			i := c.rec
			c.rec++
			if outcomes[i].Status == ledger.RecordAccepted {
				return &batch.Records[i]
			}
		}
	}
	return nil
}

// usageOf is the entry of a record that was billed as it was claimed, the first
// of its lease to have these quality flags.
func usageOf(r *ledger.Record) ledger.Usage {
	return ledger.Usage{Lease: r.Lease, Seq: r.Seq, Billed: r.Active, Standby: r.Standby, Known: r.Known, Quality: r.Quality, Final: r.Final}
}

func appendBlockEntries(dst []byte, b *Block) []byte {
	dst = appendU32(dst, uint32(len(b.Entries)))
	c := entryContext{block: b, time: b.Time}
	for i := range b.Entries {
		// Room for any short form: the loop below then grows nothing.
		dst = slices.Grow(dst, 64)
		dst = c.append(dst, &b.Entries[i])
	}
	return dst
}

func (c *entryContext) append(dst []byte, e *ledger.Entry) []byte {
	var placed byte
	if e.Seq != c.seq+1 || e.Time != c.time {
		placed = entryPlaced
	}
	at := len(dst)
	dst = append(dst, placed)
	if placed != 0 {
		dst = appendI64(appendU64(dst, e.Seq), int64(e.Time))
	}
	c.seq, c.time = e.Seq, e.Time
	switch e.Kind {
	case ledger.EntryUsage:
		r := c.accepted()
		c.lease = e.Usage.Lease
		if r != nil && e.Usage == usageOf(r) {
			dst[at] |= entryUsage
			return dst
		}
	case ledger.EntryTransfer:
		t := &e.Transfer
		if t.Ref != "" || t.Amount < 0 || t.Currency != ledger.USD && t.Currency != ledger.JOULE {
			c.lease, c.rate = t.Lease, t.Rate
			break
		}
		form := byte(entryTransfer)
		if t.Currency == ledger.JOULE {
			form |= transferJoule
		}
		dst = append(dst, byte(t.Reason))
		if t.Lease != c.lease {
			form |= transferLease
			dst = binary.AppendUvarint(dst, uint64(t.Lease))
		}
		if t.Rate != c.rate {
			form |= transferRate
			dst = binary.AppendUvarint(dst, uint64(t.Rate))
		}
		c.lease, c.rate = t.Lease, t.Rate
		dst[at] |= form
		dst = binary.AppendUvarint(dst, uint64(t.Debit))
		dst = binary.AppendUvarint(dst, uint64(t.Credit))
		return binary.AppendUvarint(dst, uint64(t.Amount))
	}
	return appendEntryBody(dst, e)
}

func (d *decoder) blockEntries(b *Block) {
	n := d.count("entries", 1)
	c := entryContext{block: b, time: b.Time}
	d.push("entries")
	defer d.pop()
	for i := 0; i < n && d.err == nil; i++ {
		d.at(i)
		var e ledger.Entry
		d.blockEntry(&c, &e)
		b.Entries = append(b.Entries, e)
	}
}

func (d *decoder) blockEntry(c *entryContext, e *ledger.Entry) {
	at := d.off
	form := d.u8("form")
	flags := form &^ entryForms
	e.Seq, e.Time = c.seq+1, c.time
	if flags&entryPlaced != 0 {
		e.Seq, e.Time = d.u64("seq"), ledger.Time(d.i64("time"))
		if e.Seq == c.seq+1 && e.Time == c.time {
			d.fail("form", at, nil, "a place that follows anyway")
		}
	}
	c.seq, c.time = e.Seq, e.Time
	form &= entryForms
	if flags&^entryFlags != 0 || form == entryForms || form != entryTransfer && flags&^entryPlaced != 0 {
		d.fail("form", at, nil, "got %#x", form|flags)
	}
	switch form {
	case entryTransfer:
		d.shortTransfer(c, e, flags)
	case entryUsage:
		e.Kind = ledger.EntryUsage
		r := c.accepted()
		if r == nil {
			d.fail("form", at, nil, "usage without an accepted record")
			return
		}
		e.Usage = usageOf(r)
		c.lease = r.Lease
	default:
		d.entryBody(e)
		switch e.Kind {
		case ledger.EntryUsage:
			if r := c.accepted(); d.err == nil && r != nil && e.Usage == usageOf(r) {
				d.fail("form", at, nil, "a short form was not taken")
			}
			c.lease = e.Usage.Lease
		case ledger.EntryTransfer:
			t := &e.Transfer
			if d.err == nil && t.Ref == "" && t.Amount >= 0 && (t.Currency == ledger.USD || t.Currency == ledger.JOULE) {
				d.fail("form", at, nil, "a short form was not taken")
			}
			c.lease, c.rate = t.Lease, t.Rate
		}
	}
}

func (d *decoder) shortTransfer(c *entryContext, e *ledger.Entry, flags byte) {
	e.Kind = ledger.EntryTransfer
	t := &e.Transfer
	t.Currency = ledger.USD
	if flags&transferJoule != 0 {
		t.Currency = ledger.JOULE
	}
	at := d.off
	t.Reason = ledger.Reason(d.u8("reason"))
	t.Lease, t.Rate = c.lease, c.rate
	if flags&transferLease != 0 {
		t.Lease = ledger.LeaseID(d.uvarint("lease", math.MaxUint64))
	}
	if flags&transferRate != 0 {
		t.Rate = ledger.RateID(d.uvarint("rate", math.MaxUint32))
	}
	if flags&transferLease != 0 && t.Lease == c.lease || flags&transferRate != 0 && t.Rate == c.rate {
		d.fail("form", at, nil, "a lease or a rate that follows anyway")
	}
	c.lease, c.rate = t.Lease, t.Rate
	t.Debit = ledger.AccountID(d.uvarint("debit", math.MaxUint32))
	t.Credit = ledger.AccountID(d.uvarint("credit", math.MaxUint32))
	t.Amount = int64(d.uvarint("amount", math.MaxInt64))
}

// uvarint reads a number of at most most, in its shortest form.
func (d *decoder) uvarint(field string, most uint64) uint64 {
	if d.err != nil {
		return 0
	}
	v, n := binary.Uvarint(d.b[d.off:])
	switch {
	case n <= 0:
		d.fail(field, d.off, nil, "no number, %d bytes left", d.left())
		return 0
	case n > 1 && d.b[d.off+n-1] == 0:
		d.fail(field, d.off, nil, "a number of %d bytes could be shorter", n)
		return 0
	case v > most:
		d.fail(field, d.off, nil, "got %d, at most %d", v, most)
		return 0
	}
	d.off += n
	return v
}
