package ledger_test

import (
	"bytes"
	"testing"

	"github.com/joulecloud/joule/settlement/ledger"
)

// funded is a bench with an open lease and plenty of everything.
func funded(t *testing.T, change ...func(*ledger.OpenLease)) (*bench, ledger.LeaseID) {
	b := newBench(t, ledger.USD, ledger.Prices{Base: 3_600_000_000, CPU: 3_600_000_000, GPU: 3_600_000_000, Memory: 3_600_000_000})
	b.must(&ledger.Mint{Amount: 1_000_000 * joule, Ref: "r"})
	b.must(&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: 1000 * usd, Ref: "r"})
	id := b.open("a", change...)
	b.now += 60_000
	return b, id
}

// U2: totals are cumulative, active and standby apart; only active time is
// charged.
func TestU2_TotalsAreCumulativePerState(t *testing.T) {
	b, id := funded(t)
	r := b.record(id, ledger.Totals{WallMs: 1000}, false)
	r.Standby = ledger.Totals{WallMs: 9000, CPUMs: 10}
	if res := b.usage(sealed(r)); res.Charged != 1_000_000 {
		t.Errorf("charged %d nUSD, want 1000000", res.Charged)
	}
	r = b.record(id, ledger.Totals{WallMs: 1500}, false)
	r.Standby = ledger.Totals{WallMs: 9500, CPUMs: 10}
	if res := b.usage(sealed(r)); res.Charged != 500_000 {
		t.Errorf("charged %d nUSD, want 500000", res.Charged)
	}
	if le := b.lease(id); le.Billed != (ledger.Totals{WallMs: 1500}) || le.Standby != (ledger.Totals{WallMs: 9500, CPUMs: 10}) {
		t.Errorf("billed %+v, standby %+v", le.Billed, le.Standby)
	}
}

// U3: a repeat changes nothing, an old record is ignored, a lost one costs
// nothing once a later one arrives, other content is equivocation.
func TestU3_RepeatsOldAndLostRecordsCostNothing(t *testing.T) {
	b, id := funded(t)
	first := b.record(id, ledger.Totals{WallMs: 1000}, false)
	b.usage(first)
	lost := b.record(id, ledger.Totals{WallMs: 2000}, false)
	third := sealed(ledger.Record{Lease: id, Seq: 3, Epoch: 1, Prev: lost.Hash, Known: ledger.KnownAll, Active: ledger.Totals{WallMs: 3000}})
	if res := b.usage(third); res.Status != ledger.RecordAccepted || res.Charged != 2_000_000 {
		t.Errorf("after a gap: got %+v, want 2000000 nUSD charged", res)
	}
	forged := third
	forged.Active.WallMs++
	offChain := sealed(ledger.Record{Lease: id, Seq: 4, Epoch: 1, Known: ledger.KnownAll, Active: ledger.Totals{WallMs: 4000}})
	for _, tt := range []struct {
		name string
		r    ledger.Record
		want ledger.RecordStatus
	}{
		{"repeat", third, ledger.RecordRepeat},
		{"old", first, ledger.RecordOld},
		{"late", lost, ledger.RecordOld},
		{"same sequence, other content", sealed(forged), ledger.RecordEquivocation},
		{"next sequence, other chain", offChain, ledger.RecordEquivocation},
	} {
		b.l.TakeEntries()
		before := b.lease(id)
		if res := b.usage(tt.r); res.Status != tt.want || res.Charged != 0 {
			t.Errorf("%s: got %+v, want status %d and no charge", tt.name, res, tt.want)
		}
		if after := b.lease(id); after != before {
			t.Errorf("%s: the lease changed from %+v to %+v", tt.name, before, after)
		}
		entries := b.l.TakeEntries()
		if tt.want != ledger.RecordEquivocation {
			if len(entries) != 0 {
				t.Errorf("%s: made %d entries", tt.name, len(entries))
			}
			continue
		}
		if f, ok := entries[0].Fact.(*ledger.RecordRefused); !ok || len(entries) != 1 || f.Record != tt.r || f.Status != tt.want || f.Host != 1 {
			t.Errorf("%s: got %+v, want the record kept as evidence", tt.name, entries)
		}
	}
}

// U3: records may come in any order and any number of times: the bill is that
// of the last one.
func TestU3_OrderDoesNotMatter(t *testing.T) {
	var records []ledger.Record
	var prev ledger.Hash
	for seq := uint64(1); seq <= 6; seq++ {
		r := sealed(ledger.Record{Lease: 1, Seq: seq, Epoch: 1, Prev: prev, Known: ledger.KnownAll, Active: ledger.Totals{WallMs: 1000 * seq, CPUMs: 7 * seq}})
		records, prev = append(records, r), r.Hash
	}
	for _, order := range [][]int{{0, 1, 2, 3, 4, 5}, {5}, {5, 4, 3, 2, 1, 0}, {2, 2, 0, 5, 5, 1}, {0, 3, 5, 3}} {
		b, id := funded(t)
		for _, i := range order {
			b.usage(records[i])
		}
		if le := b.lease(id); le.ChargedNUSD != 6_042_000 || le.LastSeq != 6 {
			t.Errorf("order %v: charged %d nUSD up to record %d, want 6042000 up to 6", order, le.ChargedNUSD, le.LastSeq)
		}
	}
}

// U4: unknown is not zero: an unknown total neither counts nor decreases, and
// the flags say so.
func TestU4_UnknownIsNotZero(t *testing.T) {
	b, id := funded(t)
	b.usage(b.record(id, ledger.Totals{WallMs: 1000, CPUMs: 900}, false))
	r := b.record(id, ledger.Totals{WallMs: 2000}, false)
	r.Known, r.Quality = ledger.KnownWall, ledger.QualityCPUUnread
	if res := b.usage(sealed(r)); res.Status != ledger.RecordAccepted || res.Charged != 1_000_000 {
		t.Errorf("got %+v, want 1000000 nUSD for the wall time alone", res)
	}
	if le := b.lease(id); le.Billed.CPUMs != 900 || le.Quality != ledger.QualityCPUUnread || le.Known != ledger.KnownWall {
		t.Errorf("cpu %d ms, quality %b, known %b, want 900, the flag, wall only", le.Billed.CPUMs, le.Quality, le.Known)
	}
	if res := b.usage(b.record(id, ledger.Totals{WallMs: 2000, CPUMs: 1500}, false)); res.Charged != 600_000 {
		t.Errorf("once it is known: charged %d nUSD, want 600000", res.Charged)
	}
	for _, bad := range []func(*ledger.Record){
		func(r *ledger.Record) { r.Known = ledger.KnownAll &^ ledger.KnownCPU },
		func(r *ledger.Record) { r.Known = ledger.KnownAll &^ ledger.KnownWall },
		func(r *ledger.Record) { r.Known = 0x80 | ledger.KnownAll },
		func(r *ledger.Record) { r.Known, r.Active = 0, ledger.Totals{}; r.Standby.MemoryMiBMs = 1 },
		func(r *ledger.Record) { r.Seq = 0 },
		func(r *ledger.Record) { r.Epoch = 0 },
	} {
		r := b.record(id, ledger.Totals{WallMs: 3000, CPUMs: 1500}, false)
		bad(&r)
		if res := b.usage(sealed(r)); res.Status != ledger.RecordInvalid {
			t.Errorf("record %+v: got status %d, want invalid", r, res.Status)
		}
	}
}

// U3: the same holds once the lease is closed: a host that lost the
// acknowledgement of its last batch sends all of it again.
func TestU3_AfterTheCloseOldIsOld(t *testing.T) {
	b, id := funded(t)
	first := b.record(id, ledger.Totals{WallMs: 1000}, false)
	b.usage(first)
	last := b.record(id, ledger.Totals{WallMs: 2000}, true)
	b.usage(last)
	entries, digests := b.l.EntryCount(), b.balances()
	for _, tt := range []struct {
		record ledger.Record
		want   ledger.RecordStatus
	}{{first, ledger.RecordOld}, {last, ledger.RecordRepeat}} {
		if res := b.usage(tt.record); res.Status != tt.want || res.Stop != ledger.CloseNone {
			t.Errorf("record %d after the close: got %+v, want status %d and no stop", tt.record.Seq, res, tt.want)
		}
	}
	if b.l.EntryCount() != entries || !bytes.Equal(b.balances(), digests) {
		t.Error("records sent again changed something")
	}
	forged := last
	forged.Active.WallMs++
	if res := b.usage(sealed(forged)); res.Status != ledger.RecordEquivocation {
		t.Errorf("another last record: got %+v, want equivocation", res)
	}
	if _, ok := b.l.Offence(id, ledger.FineEquivocation); !ok {
		t.Error("the equivocation was not kept as evidence")
	}
}

// U6: what exceeds a bound is refused and recorded, not paid; it may become
// billed once there was time for it, and never the reverse.
func TestU6_ClaimsAreBounded(t *testing.T) {
	res := func(c *ledger.OpenLease) {
		c.Resources = ledger.Resources{MilliCores: 1500, MemoryMiB: 512, GPUs: 2}
	}
	for _, tt := range []struct {
		name   string
		claim  ledger.Totals
		billed ledger.Totals
		bounds ledger.Bound
	}{
		{"within", ledger.Totals{WallMs: 60_000, CPUMs: 90_000, GPUMs: 120_000, MemoryMiBMs: 512 * 60_000},
			ledger.Totals{WallMs: 60_000, CPUMs: 90_000, GPUMs: 120_000, MemoryMiBMs: 512 * 60_000}, 0},
		{"at the edges", ledger.Totals{WallMs: 61_030, CPUMs: 91_565, GPUMs: 122_060, MemoryMiBMs: 512 * 61_030},
			ledger.Totals{WallMs: 61_030, CPUMs: 91_565, GPUMs: 122_060, MemoryMiBMs: 512 * 61_030}, 0},
		{"time", ledger.Totals{WallMs: 61_031}, ledger.Totals{WallMs: 61_030}, ledger.BoundWitnessed},
		{"cores", ledger.Totals{WallMs: 1000, CPUMs: 1521}, ledger.Totals{WallMs: 1000, CPUMs: 1520}, ledger.BoundCores},
		{"gpus", ledger.Totals{WallMs: 1000, GPUMs: 2001}, ledger.Totals{WallMs: 1000, GPUMs: 2000}, ledger.BoundGPUs},
		{"memory", ledger.Totals{WallMs: 1000, MemoryMiBMs: 512_001}, ledger.Totals{WallMs: 1000, MemoryMiBMs: 512_000}, ledger.BoundMemory},
	} {
		b, id := funded(t, res)
		b.usage(b.record(id, tt.claim, false))
		le := b.lease(id)
		refused := ledger.Totals{WallMs: tt.claim.WallMs - tt.billed.WallMs, CPUMs: tt.claim.CPUMs - tt.billed.CPUMs,
			GPUMs: tt.claim.GPUMs - tt.billed.GPUMs, MemoryMiBMs: tt.claim.MemoryMiBMs - tt.billed.MemoryMiBMs}
		if le.Billed != tt.billed || le.Bounds != tt.bounds || le.Refused != refused {
			t.Errorf("%s: billed %+v, refused %+v by %b, want %+v, %+v by %b", tt.name, le.Billed, le.Refused, le.Bounds, tt.billed, refused, tt.bounds)
		}
		if le.ChargedNUSD != ledger.CostNUSD(tt.billed, le.Prices) {
			t.Errorf("%s: charged %d, want the cost of what was billed", tt.name, le.ChargedNUSD)
		}
	}

	b, id := funded(t)
	b.usage(b.record(id, ledger.Totals{WallMs: 90_000}, false))
	if got := b.lease(id).Billed.WallMs; got != 61_030 {
		t.Fatalf("billed %d ms, want 61030", got)
	}
	b.now += 29_000
	b.usage(b.record(id, ledger.Totals{WallMs: 90_001}, false))
	if le := b.lease(id); le.Billed.WallMs != 90_001 || le.Refused.WallMs != 0 {
		t.Errorf("billed %d, refused %d ms, want 90001 and 0", le.Billed.WallMs, le.Refused.WallMs)
	}
	if res := b.usage(b.record(id, ledger.Totals{WallMs: 90_000}, false)); res.Status != ledger.RecordDecreasing {
		t.Errorf("a smaller claim: got status %d, want decreasing", res.Status)
	}
}

// S1: a lease without a pool is its own slot: one epoch, one holder.
func TestS1_OneEpochOneHolder(t *testing.T) {
	b, id := funded(t)
	b.must(&ledger.EnrollHost{Name: "dc-2", Supplier: "west-dc", Class: ledger.ClassCrowd, PublicKey: [32]byte{2}})
	if le := b.lease(id); le.Epoch != 1 {
		t.Errorf("epoch %d, want 1", le.Epoch)
	}
	r := b.record(id, ledger.Totals{WallMs: 1000}, false)
	other := b.must(&ledger.UsageBatch{Host: 2, Records: []ledger.Record{r}}).Records[0]
	if other.Status != ledger.RecordWrongHost || other.Charged != 0 {
		t.Errorf("another host's claim: got %+v, want wrong host", other)
	}
	r.Epoch = 2
	if res := b.usage(sealed(r)); res.Status != ledger.RecordInvalid {
		t.Errorf("an epoch never granted: got status %d, want invalid", res.Status)
	}
	if got := b.open("a"); got != id {
		t.Errorf("opening the same invocation again gave lease %d, want %d", got, id)
	}
	if got := b.open("a", func(c *ledger.OpenLease) { c.Invocation = "next" }); got == id {
		t.Error("a new invocation gave the same lease")
	}
}

// S2: slot time is paid to one lease: after its close nothing is.
func TestS2_NothingIsPaidAfterTheClose(t *testing.T) {
	b, id := funded(t)
	b.wall(id, 1000, false)
	b.must(&ledger.CloseLease{Lease: id, Reason: ledger.CloseHostLost})
	paid := b.balance("supplier/west-dc", ledger.JOULE)
	res := b.usage(b.record(id, ledger.Totals{WallMs: 2000}, false))
	if res.Status != ledger.RecordLeaseClosed || res.Stop != ledger.CloseHostLost {
		t.Errorf("got %+v, want lease closed and told to stop", res)
	}
	if got := b.balance("supplier/west-dc", ledger.JOULE); got != paid {
		t.Errorf("the supplier got %d nJ after the close", got-paid)
	}
}

// S3: standby time is accepted, bounded and recorded; without a standby
// fraction in the offer it is not charged.
func TestS3_StandbyIsRecordedNotCharged(t *testing.T) {
	b, id := funded(t)
	r := b.record(id, ledger.Totals{}, false)
	r.Standby = ledger.Totals{WallMs: 100_000, CPUMs: 1}
	if res := b.usage(sealed(r)); res.Status != ledger.RecordAccepted || res.Charged != 0 {
		t.Errorf("got %+v, want it accepted without a charge", res)
	}
	if le := b.lease(id); le.Standby.WallMs != 61_030 || le.Refused.WallMs != 38_970 || le.CostNUSD != 0 {
		t.Errorf("standby %d, refused %d ms, cost %d, want 61030, 38970, 0", le.Standby.WallMs, le.Refused.WallMs, le.CostNUSD)
	}
}

// A batch that cannot be anyone's is refused whole.
func TestUsageBatchRefusedWhole(t *testing.T) {
	b, id := funded(t)
	r := b.record(id, ledger.Totals{WallMs: 1}, false)
	b.refused(&ledger.UsageBatch{Host: 0, Records: []ledger.Record{r}}, ledger.CodeNotFound)
	b.refused(&ledger.UsageBatch{Host: 2, Records: []ledger.Record{r}}, ledger.CodeNotFound)
	b.refused(&ledger.UsageBatch{Host: 1}, ledger.CodeInvalid)
	b.refused(&ledger.UsageBatch{Host: 1, Records: make([]ledger.Record, ledger.BatchRecordsMax+1)}, ledger.CodeInvalid)
	if res := b.l.Apply(b.now, &ledger.Envelope{Key: "k", Command: &ledger.UsageBatch{Host: 1, Records: []ledger.Record{r}}}); res.Code != ledger.CodeInvalid {
		t.Errorf("a batch with a key: got %v, want invalid", res.Code)
	}
}
