package wire_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// settledBlock is a block as a usage batch makes it: each accepted record has
// its usage entry and the transfers of its charge. Here and there something is
// not as the short form expects.
func settledBlock(t *rapid.T) *wire.Block {
	odd := func(what string) bool { return rapid.IntRange(0, 7).Draw(t, what) == 0 }
	b := &wire.Block{Seq: 3, Index: 4, Time: 1_763_800_000_000}
	seq := rapid.Uint64Range(0, 1<<40).Draw(t, "first")
	emit := func(e ledger.Entry) {
		seq++
		if odd("placed") {
			seq = rapid.Uint64().Draw(t, "seq")
		}
		e.Seq, e.Time = seq, b.Time
		if odd("time") {
			e.Time++
		}
		b.Entries = append(b.Entries, e)
	}
	for range rapid.IntRange(0, 3).Draw(t, "batches") {
		batch := &ledger.UsageBatch{Host: 3}
		var res ledger.Result
		for i := range rapid.IntRange(0, 5).Draw(t, "records") {
			r := sampleRecord(ledger.LeaseID(rapid.Uint64Range(1, 1<<20).Draw(t, "lease")), uint64(i+1))
			batch.Records = append(batch.Records, r)
			o := ledger.RecordResult{Lease: r.Lease, Seq: r.Seq, Status: ledger.RecordAccepted, Charged: ledger.NUSD(rapid.Int64Range(0, 1<<50).Draw(t, "charged"))}
			if odd("stop") {
				o.Stop = ledger.CloseFunds
			}
			if odd("status") {
				o.Status = ledger.RecordStatus(rapid.Byte().Draw(t, "other"))
			}
			if odd("negative") {
				o.Charged = -o.Charged
			}
			res.Records = append(res.Records, o)
			if o.Status != ledger.RecordAccepted && !odd("usage of another") {
				continue
			}
			u := ledger.Usage{Lease: r.Lease, Seq: r.Seq, Billed: r.Active, Standby: r.Standby, Known: r.Known, Quality: r.Quality, Final: r.Final}
			if odd("bound") {
				u.Bounds, u.Billed.WallMs = ledger.BoundWitnessed, 1
			}
			emit(ledger.Entry{Kind: ledger.EntryUsage, Usage: u})
			for range rapid.IntRange(0, 4).Draw(t, "transfers") {
				tr := ledger.Transfer{Debit: 7, Credit: 9, Currency: ledger.USD, Amount: rapid.Int64().Draw(t, "amount"), Reason: ledger.ReasonCharge, Lease: r.Lease, Rate: 2}
				if odd("joule") {
					tr.Currency, tr.Rate = ledger.JOULE, ledger.RateID(rapid.Uint32().Draw(t, "rate"))
				}
				if odd("currency") {
					tr.Currency = 7
				}
				if odd("ref") {
					tr.Ref = "r"
				}
				emit(ledger.Entry{Kind: ledger.EntryTransfer, Transfer: tr})
			}
			if odd("fact") {
				emit(sampleEntries()[2])
			}
		}
		if odd("an outcome too many") {
			res.Records = append(res.Records, ledger.RecordResult{Lease: 1, Seq: 2, Status: ledger.RecordAccepted})
		}
		b.Envelopes = append(b.Envelopes, ledger.Envelope{Command: batch})
		b.Results = append(b.Results, res)
	}
	return b
}

// The short forms of results and entries lose nothing, and copying a batch's
// bytes gives the same block as making them again.
func TestSettledBlockRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := settledBlock(t)
		enc := wire.AppendBlock(nil, ledger.Digest{1}, in)
		out, err := wire.DecodeBlock(enc)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(in.Results, out.Results); diff != "" {
			t.Fatalf("results differ (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(in.Entries, out.Entries); diff != "" {
			t.Fatalf("entries differ (-want +got):\n%s", diff)
		}
		if again := wire.AppendBlock(nil, ledger.Digest{1}, out); !bytes.Equal(again, enc) {
			t.Fatal("a decoded block encodes differently")
		}
		batch := wire.AppendCommandBatch(nil, &wire.CommandBatch{Time: in.Time, Envelopes: in.Envelopes})
		if copied := wire.AppendAppliedBlock(nil, ledger.Digest{1}, in, batch); !bytes.Equal(copied, enc) {
			t.Fatal("copied envelopes differ from those made again")
		}
	})
}

// A settled record takes 40 bytes or so besides itself.
func TestSettledRecordIsShort(t *testing.T) {
	b := &wire.Block{Time: 1_763_800_000_000}
	batch := &ledger.UsageBatch{Host: 1}
	var res ledger.Result
	const n = 1000
	for i := range n {
		r := sampleRecord(ledger.LeaseID(i+1), 1)
		batch.Records = append(batch.Records, r)
		res.Records = append(res.Records, ledger.RecordResult{Lease: r.Lease, Seq: r.Seq, Status: ledger.RecordAccepted, Charged: 1_400_000})
		u := ledger.Usage{Lease: r.Lease, Seq: r.Seq, Billed: r.Active, Standby: r.Standby, Known: r.Known, Quality: r.Quality, Final: r.Final}
		for _, e := range []ledger.Entry{
			{Kind: ledger.EntryUsage, Usage: u},
			{Kind: ledger.EntryTransfer, Transfer: ledger.Transfer{Debit: 4000, Credit: 4, Currency: ledger.USD, Amount: 1_400_000, Reason: ledger.ReasonCharge, Lease: r.Lease, Rate: 1}},
			{Kind: ledger.EntryTransfer, Transfer: ledger.Transfer{Debit: 5, Credit: 9000, Currency: ledger.JOULE, Amount: 28_000_000, Reason: ledger.ReasonPay, Lease: r.Lease, Rate: 1}},
			{Kind: ledger.EntryTransfer, Transfer: ledger.Transfer{Debit: 5, Credit: 6, Currency: ledger.JOULE, Amount: 500_000, Reason: ledger.ReasonFee, Lease: r.Lease, Rate: 1}},
		} {
			e.Seq, e.Time = uint64(len(b.Entries)+1), b.Time
			b.Entries = append(b.Entries, e)
		}
	}
	b.Envelopes, b.Results = []ledger.Envelope{{Command: batch}}, []ledger.Result{res}
	enc := wire.AppendBlock(nil, ledger.Digest{}, b)
	if got := (len(enc) - wire.BatchSize(n)) / n; got > 40 {
		t.Errorf("got %d bytes a record, want at most 40", got)
	}
}
