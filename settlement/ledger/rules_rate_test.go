package ledger_test

import (
	"testing"

	"github.com/joulecloud/joule/settlement/ledger"
)

// proposed is a bench whose rate came from a feed, with JOULE in the treasury
// and funds of its customer.
func proposed(t *testing.T, payIn ledger.Currency) *bench {
	b := &bench{t: t, l: ledger.New(), now: 1_000_000, seq: make(map[ledger.LeaseID]uint64)}
	b.must(&ledger.CreateCustomer{Name: "acme", Namespace: "acme", PayIn: payIn})
	b.must(&ledger.CreateSupplier{Name: "west-dc"})
	b.must(&ledger.EnrollHost{Name: "dc-1", Supplier: "west-dc", Class: ledger.ClassDatacenter, PublicKey: [32]byte{1}})
	b.must(&ledger.SetOffer{Host: "dc-1", Prices: ledger.Prices{Base: 3_600_000_000}}) // 1,000,000 nUSD a second
	b.must(&ledger.ProposeRate{NUSDPerJoule: 50_000_000})
	b.must(&ledger.Mint{Amount: 100 * joule, Ref: "r"})
	b.must(&ledger.Withdraw{Party: ledger.PartyTreasury, Currency: ledger.JOULE, Amount: 50 * joule, Ref: "r"})
	b.must(&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: usd, Ref: "r"})
	b.must(&ledger.Deposit{Customer: "acme", Currency: ledger.JOULE, Amount: 10 * joule, Ref: "r"})
	return b
}

// M6: a proposed rate older than six minutes pauses conversion only; usage goes
// on in USD, and the first fresh rate converts it and says so.
func TestM6_AStaleRatePausesConversionOnly(t *testing.T) {
	b := proposed(t, ledger.USD)
	id := b.open("a")
	b.now += 6 * 60_000
	b.wall(id, 1000, false)
	if le := b.lease(id); le.UnconvertedNUSD != 0 || le.PaidNJ != 20_000_000 {
		t.Fatalf("six minutes old: unconverted %d, paid %d, want 0, 20000000", le.UnconvertedNUSD, le.PaidNJ)
	}
	b.now++
	b.l.TakeEntries()
	res := b.wall(id, 3000, false)
	le := b.lease(id)
	if res.Charged != 2_000_000 || res.Stop != 0 || le.UnconvertedNUSD != 2_000_000 || le.PaidNJ != 20_000_000 {
		t.Errorf("stale: charged %d, stop %d, unconverted %d, paid %d, want 2000000 accrued and nothing paid", res.Charged, res.Stop, le.UnconvertedNUSD, le.PaidNJ)
	}
	other := b.open("b") // work can begin as ever
	b.wall(other, 500, true)
	said := 0
	for _, e := range b.l.TakeEntries() {
		if c, ok := e.Fact.(*ledger.ConversionChanged); ok && c.Paused == ledger.PauseStale {
			said++
		}
	}
	if said != 1 {
		t.Errorf("the journal says %d times that conversion pauses, want once", said)
	}
	b.must(&ledger.ProposeRate{NUSDPerJoule: 50_100_000})
	var words []any
	for _, e := range b.l.TakeEntries() {
		if c, ok := e.Fact.(*ledger.ConversionChanged); ok {
			words = append(words, *c)
		} else if e.Kind == ledger.EntryTransfer && e.Transfer.Rate != 2 {
			t.Errorf("transfer %+v is not at the fresh rate", e.Transfer)
		}
	}
	if len(words) != 1 || words[0] != (ledger.ConversionChanged{Rate: 2}) {
		t.Errorf("got %+v, want conversion going on at rate 2", words)
	}
	if a := b.balance("accrued", ledger.USD); a != 0 || b.lease(id).UnconvertedNUSD != 0 || b.lease(other).UnconvertedNUSD != 0 {
		t.Errorf("%d nUSD still accrued", a)
	}
}

// M6: a rate more than 1.5 % from the average of the time before is doubtful,
// and so is not in force; an operator may say for a while that it is right.
func TestM6_ADoubtfulRateIsNotInForce(t *testing.T) {
	b := proposed(t, ledger.USD)
	b.now += 60_000
	for _, tt := range []struct {
		rate     ledger.NUSD
		doubtful bool
	}{{50_750_000, false}, {50_750_001, true}, {49_250_000, false}, {49_249_999, true}} {
		b := proposed(t, ledger.USD)
		b.now += 60_000
		b.must(&ledger.ProposeRate{NUSDPerJoule: tt.rate})
		st, _ := b.l.RateState()
		if st.Newest.Doubtful != tt.doubtful || st.Newest.Average != 50_000_000 || (st.InForce.ID == 2) == tt.doubtful || (st.Paused == ledger.PauseDoubtful) != tt.doubtful {
			t.Errorf("%d nUSD: got %+v, want doubtful %v", tt.rate, st, tt.doubtful)
		}
	}
	b.must(&ledger.ProposeRate{NUSDPerJoule: 60_000_000})
	id := b.open("a")
	b.wall(id, 1000, false)
	if le := b.lease(id); le.UnconvertedNUSD != 1_000_000 {
		t.Errorf("unconverted %d, want 1000000", le.UnconvertedNUSD)
	}
	b.refused(&ledger.OverrideRate{Rate: 1, ForMs: 1000, Operator: "ann", Why: "w"}, ledger.CodeClosed)
	b.refused(&ledger.OverrideRate{Rate: 2, ForMs: 1000, Operator: "", Why: "w"}, ledger.CodeInvalid)
	b.refused(&ledger.OverrideRate{Rate: 2, ForMs: 1000, Operator: "ann"}, ledger.CodeInvalid)
	b.must(&ledger.OverrideRate{Rate: 2, ForMs: 1000, Operator: "ann", Why: "the market did move"})
	if le := b.lease(id); le.UnconvertedNUSD != 0 || le.LastRate != 2 {
		t.Errorf("overridden: unconverted %d at rate %d, want 0 at 2", le.UnconvertedNUSD, le.LastRate)
	}
	if due, ok := b.l.NextDue(); !ok || due != b.now+1000 {
		t.Errorf("next due %d, %v, want the override's end %d", due, ok, b.now+1000)
	}
	b.now += 1000
	b.must(&ledger.Tick{})
	if st, _ := b.l.RateState(); st.Paused != ledger.PauseDoubtful || st.Since != b.now {
		t.Errorf("after the override: got %+v, want doubtful again", st)
	}
}

// M6: a customer who pays in JOULE is not charged at a rate that may not
// convert: the charge waits with its hold, beyond the end of the lease.
func TestM6_AJoulePayersChargeWaitsForARate(t *testing.T) {
	b := proposed(t, ledger.JOULE)
	id := b.open("a")
	b.now += 6*60_000 + 1
	res := b.wall(id, 2000, false)
	if le := b.lease(id); res.Charged != 0 || res.Stop != 0 || le.CostNUSD != 2_000_000 || le.ChargedNUSD != 0 {
		t.Errorf("charged %d, stop %d, cost %d, want a cost of 2000000 that waits", res.Charged, res.Stop, le.CostNUSD)
	}
	b.wall(id, 3000, true)
	le := b.lease(id)
	if le.Reason != ledger.CloseFinished || le.Hold == 0 || b.balance("hold/acme", ledger.JOULE) != le.Hold {
		t.Errorf("closed %d with a hold of %d, want one that waits", le.Reason, le.Hold)
	}
	b.l = throughSnapshot(t, b.l)
	b.must(&ledger.ProposeRate{NUSDPerJoule: 50_000_001})
	le = b.lease(id)
	if le.ChargedNUSD != 3_000_000 || le.PaidNJ != 59_999_998 || le.Hold != 0 || b.balance("hold/acme", ledger.JOULE) != 0 {
		t.Errorf("charged %d, paid %d, hold %d, want 3000000, 59999998, 0", le.ChargedNUSD, le.PaidNJ, le.Hold)
	}
	if got := b.balance("customer/acme", ledger.JOULE); got != 10*joule-59_999_998 {
		t.Errorf("the customer has %d nJ, want all but what it paid", got)
	}
}

// M6: a rate set by hand is an operator's word: it is never stale nor doubtful,
// so that a cluster without a feed needs no one to set it again.
func TestM6_ARateSetByHandStands(t *testing.T) {
	b := newBench(t, ledger.USD, ledger.Prices{Base: 3_600_000_000})
	b.must(&ledger.Mint{Amount: joule, Ref: "r"})
	b.must(&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: usd, Ref: "r"})
	id := b.open("a")
	b.now += 400 * 86_400_000
	b.wall(id, 1000, false)
	b.must(&ledger.SetRate{NUSDPerJoule: 500_000_000})
	b.wall(id, 2000, true)
	if le := b.lease(id); le.UnconvertedNUSD != 0 || le.PaidNJ != 22_000_000 {
		t.Errorf("unconverted %d, paid %d, want 0, 22000000", le.UnconvertedNUSD, le.PaidNJ)
	}
	if _, ok := b.l.NextDue(); ok {
		t.Error("something is due by the mere passing of time")
	}
}

// M6: what one command can't convert, Ticks do.
func TestM6_TicksGoOnConverting(t *testing.T) {
	const leases = 9000
	b := newBench(t, ledger.USD, ledger.Prices{Base: 3_600_000_000})
	b.must(&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: 1000 * usd, Ref: "r"})
	for i := range leases {
		c := openCommand("a")
		c.Invocation = string(rune('a'+i/676)) + string(rune('a'+i/26%26)) + string(rune('a'+i%26))
		res := b.l.Apply(b.now, &ledger.Envelope{Key: "open" + c.Invocation, Command: c})
		r := b.record(res.Lease.Lease, ledger.Totals{WallMs: 1000}, true)
		b.l.Apply(b.now, &ledger.Envelope{Command: &ledger.UsageBatch{Host: 1, Records: []ledger.Record{r}}})
	}
	b.must(&ledger.Mint{Amount: 1000 * joule, Ref: "r"})
	ticks := 0
	for due, ok := b.l.NextDue(); ok && due <= b.now; due, ok = b.l.NextDue() {
		b.l = throughSnapshot(t, b.l)
		b.must(&ledger.Tick{})
		ticks++
	}
	if ticks != 2 || b.balance("accrued", ledger.USD) != 0 {
		t.Errorf("%d ticks, %d nUSD accrued, want 2 and 0", ticks, b.balance("accrued", ledger.USD))
	}
}

// M7: a Tick has no key and does at any time only what is due: one too many
// changes nothing.
func TestM7_ATickTooManyChangesNothing(t *testing.T) {
	b := proposed(t, ledger.USD)
	before := snapshotBytes(t, b.l)
	b.must(&ledger.Tick{})
	if string(snapshotBytes(t, b.l)) != string(before) {
		t.Error("a tick with nothing due changed the state")
	}
	if res := b.l.Apply(b.now, &ledger.Envelope{Key: "k", Command: &ledger.Tick{}}); res.Code != ledger.CodeInvalid {
		t.Errorf("a tick with a key: got %v, want invalid", res.Code)
	}
}

// M2, M8: money on its way out is on an account of its own, and leaves or comes
// back whole, once.
func TestM8_AWithdrawalIsNamedWhileItIsUnderWay(t *testing.T) {
	b := newBench(t, ledger.USD, ledger.Prices{})
	b.must(&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: 10, Ref: "r"})
	want := func(customer, withdrawing, external int64) {
		t.Helper()
		got := [3]int64{b.balance("customer/acme", ledger.USD), b.balance("withdrawing", ledger.USD), b.balance("external", ledger.USD)}
		if got != [3]int64{customer, withdrawing, external} {
			t.Errorf("customer, withdrawing, external have %v, want %d, %d, %d", got, customer, withdrawing, external)
		}
	}
	request := func(amount int64) ledger.WithdrawalID {
		t.Helper()
		return ledger.WithdrawalID(b.must(&ledger.RequestWithdrawal{Party: ledger.PartyCustomer, Name: "acme", Currency: ledger.USD, Amount: amount, To: "iban"}).ID)
	}
	paid, failed := request(7), request(2)
	want(1, 9, -10)
	b.refused(&ledger.RequestWithdrawal{Party: ledger.PartyCustomer, Name: "acme", Currency: ledger.USD, Amount: 2, To: "iban"}, ledger.CodeInsufficient)
	b.must(&ledger.ConfirmWithdrawal{Withdrawal: paid, Ref: "pay_1"})
	want(1, 2, -3)
	b.must(&ledger.FailWithdrawal{Withdrawal: failed, Why: "account closed"})
	want(3, 0, -3)
	b.must(&ledger.ConfirmWithdrawal{Withdrawal: paid, Ref: "pay_1"})
	b.refused(&ledger.ConfirmWithdrawal{Withdrawal: paid, Ref: "pay_2"}, ledger.CodeClosed)
	b.refused(&ledger.FailWithdrawal{Withdrawal: paid, Why: "no"}, ledger.CodeClosed)
	b.refused(&ledger.ConfirmWithdrawal{Withdrawal: failed, Ref: "pay_3"}, ledger.CodeClosed)
	want(3, 0, -3)
	if w, _ := b.l.Withdrawal(paid); w.State != ledger.WithdrawalConfirmed || w.Text != "pay_1" {
		t.Errorf("got %+v, want confirmed with pay_1", w)
	}
}

// M8: a correction is new transfers that name what they correct; what was
// charged stays as it was.
func TestM8_ACorrectionEditsNothing(t *testing.T) {
	b := newBench(t, ledger.USD, ledger.Prices{Base: 3_600_000_000})
	b.must(&ledger.Mint{Amount: joule, Ref: "r"})
	b.must(&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: usd, Ref: "r"})
	id := b.open("a")
	b.l.TakeEntries()
	b.wall(id, 1000, true)
	var charge uint64
	for _, e := range b.l.TakeEntries() {
		if e.Transfer.Reason == ledger.ReasonCharge {
			charge = e.Seq
		}
	}
	before := b.lease(id)
	legs := []ledger.CorrectionLeg{{From: ledger.PartyTreasury, To: ledger.PartyCustomer, Currency: ledger.USD, Amount: 400_000},
		{From: ledger.PartySupplier, To: ledger.PartyTreasury, Currency: ledger.JOULE, Amount: 8_000_000}}
	res := b.must(&ledger.Correct{Lease: id, Entry: charge, Operator: "ann", Why: "clock", Legs: legs})
	if after := b.lease(id); after != before {
		t.Errorf("the lease changed from %+v to %+v", before, after)
	}
	entries := b.l.TakeEntries()
	made, ok := entries[0].Fact.(*ledger.CorrectionMade)
	if !ok || made.Corrects != charge || made.Lease != id || len(entries) != 3 {
		t.Fatalf("got entries %+v, want a correction of entry %d and its two legs", entries, charge)
	}
	for i, leg := range legs {
		if tr := entries[i+1].Transfer; tr.Reason != ledger.ReasonCorrect || tr.Ref != "correction/1" || tr.Lease != id || tr.Amount != leg.Amount {
			t.Errorf("leg %d: got %+v", i, tr)
		}
	}
	if got := b.balance("customer/acme", ledger.USD); got != usd-600_000 {
		t.Errorf("the customer has %d nUSD, want %d", got, usd-600_000)
	}
	if c, _ := b.l.Correction(ledger.CorrectionID(res.ID)); c.Corrects != charge || c.Operator != "ann" || len(c.Legs) != 2 {
		t.Errorf("got %+v", c)
	}
	// All legs or none, and no more than was paid.
	b.refused(&ledger.Correct{Lease: id, Entry: charge, Operator: "ann", Why: "w", Legs: []ledger.CorrectionLeg{legs[0],
		{From: ledger.PartySupplier, To: ledger.PartyTreasury, Currency: ledger.JOULE, Amount: joule}}}, ledger.CodeInsufficient)
	b.refused(&ledger.Correct{Lease: id, Entry: charge, Operator: "ann", Why: "w", Legs: []ledger.CorrectionLeg{{From: ledger.PartyTreasury,
		To: ledger.PartyCustomer, Currency: ledger.USD, Amount: 600_001}}}, ledger.CodeInsufficient)
}
