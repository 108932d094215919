package ledger_test

import (
	"math"
	"testing"

	"github.com/joulecloud/joule/settlement/ledger"
)

const (
	minute = 60_000
	hour   = 60 * minute
)

// staked is a bench whose supplier has 100 JOULE at stake, of which its host
// asks all, and whose schedule has a fine for everything.
func staked(t *testing.T) *bench {
	b := newBench(t, ledger.USD, ledger.Prices{Base: 3_600_000_000})
	b.must(&ledger.Mint{Amount: 1000 * joule, Ref: "r"})
	b.must(&ledger.Withdraw{Party: ledger.PartyTreasury, Currency: ledger.JOULE, Amount: 500 * joule, Ref: "r"})
	b.must(&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: 100 * usd, Ref: "r"})
	b.must(&ledger.SetStakePolicy{StakePolicy: ledger.StakePolicy{BasePerHost: 100 * joule, UnbondMs: 21 * day}})
	b.must(&ledger.SetFineSchedule{FineSchedule: ledger.FineSchedule{AppealMs: 7 * day, RepeatMs: 30 * day, DayCapPPM: 1_000_000, Rules: []ledger.FineRule{
		{Reason: ledger.FineEquivocation, SharePPM: 200_000, RepeatPPM: 1_000_000, RemedyMs: hour / 2},
		{Reason: ledger.FineHostLost, SharePPM: 10_000, RepeatPPM: 1_000_000, RemedyMs: hour / 2},
		{Reason: ledger.FineBreach, SharePPM: 300_000, RepeatPPM: 1_000_000}}}})
	b.must(&ledger.Bond{Supplier: "west-dc", Amount: 100 * joule, From: ledger.BondDeposit, Ref: "in"})
	return b
}

// equivocate opens a lease and tells two stories of its first second.
func (b *bench) equivocate(alloc string) ledger.LeaseID {
	b.t.Helper()
	id := b.open(alloc)
	r := b.record(id, ledger.Totals{WallMs: 100}, false)
	b.now += 1000
	b.usage(r)
	r.GPUBusyMs++
	if res := b.usage(sealed(r)); res.Status != ledger.RecordEquivocation {
		b.t.Fatalf("got %+v, want equivocation", res)
	}
	return id
}

// byLedger is the case that the ledger itself has evidence for.
func (b *bench) byLedger(lease ledger.LeaseID, reason ledger.FineReason) ledger.FineCase {
	b.t.Helper()
	o, ok := b.l.Offence(lease, reason)
	if !ok {
		b.t.Fatalf("no %s on lease %d", reason, lease)
	}
	return ledger.FineCase{Lease: lease, Reason: reason, Evidence: []ledger.Evidence{o.Evidence}}
}

func (b *bench) fine(lease ledger.LeaseID, reason ledger.FineReason) ledger.Fine {
	b.t.Helper()
	res := b.must(&ledger.IssueFine{FineCase: b.byLedger(lease, reason)})
	f, _ := b.l.Fine(ledger.FineID(res.ID))
	return f
}

func (b *bench) state(id ledger.FineID, want ledger.FineState) {
	b.t.Helper()
	if f, _ := b.l.Fine(id); f.State != want {
		b.t.Errorf("fine %d is %s, want %s", id, f.State, want)
	}
}

// F1: leases open only on enough stake: a base for each host and a factor of
// the hourly value of all open leases; without a policy none is asked.
func TestF1_ALeaseOpensOnlyOnEnoughStake(t *testing.T) {
	b := newBench(t, ledger.USD, ledger.Prices{Base: 3_600_000_000}) // 3.60 USD an hour, 72 JOULE
	b.must(&ledger.Mint{Amount: 1000 * joule, Ref: "r"})
	b.must(&ledger.Withdraw{Party: ledger.PartyTreasury, Currency: ledger.JOULE, Amount: 500 * joule, Ref: "r"})
	b.must(&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: 100 * usd, Ref: "r"})
	first := b.open("free")
	b.must(&ledger.EnrollHost{Name: "dc-2", Supplier: "west-dc", Class: ledger.ClassCrowd, PublicKey: [32]byte{2}})
	b.must(&ledger.SetStakePolicy{StakePolicy: ledger.StakePolicy{BasePerHost: 10 * joule, FactorPPM: 250_000, UnbondMs: hour}})
	need := int64(2*10*joule + 36*joule) // two hosts, two leases
	b.must(&ledger.Bond{Supplier: "west-dc", Amount: ledger.NJ(need - 1), From: ledger.BondDeposit, Ref: "in"})
	b.refused(openCommand("a"), ledger.CodeStake)
	b.must(&ledger.Bond{Supplier: "west-dc", Amount: 1, From: ledger.BondDeposit, Ref: "in"})
	second := b.open("a")
	b.refused(openCommand("b"), ledger.CodeStake)
	want := ledger.Stake{Supplier: 1, Bonded: ledger.NJ(need), Required: ledger.NJ(need), Hosts: 2, Exposure: 7_200_000_000}
	if got, _ := b.l.Stake(1); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	// A lease's end frees its share.
	b.wall(second, 1000, true)
	b.open("b")
	b.must(&ledger.CloseLease{Lease: first, Reason: ledger.CloseOperator})
	if got, _ := b.l.Stake(1); got.Exposure != 3_600_000_000 || got.Required != 38*joule {
		t.Errorf("got %+v, want 3.60 USD an hour and 38 JOULE", got)
	}
	// What is unbonding no longer counts.
	b.must(&ledger.Unbond{Supplier: "west-dc", Amount: 1})
	b.refused(openCommand("c"), ledger.CodeStake)
	b.refused(openCommand("d", func(c *ledger.OpenLease) { c.Resources.MilliCores = math.MaxUint32 }), ledger.CodeInvalid)
}

// F2: unbonding takes its time, by the clock of the ledger and a Tick, and can
// be fined until then.
func TestF2_UnbondingTakesItsTimeAndStaysFinable(t *testing.T) {
	b := staked(t)
	id := b.equivocate("a")
	b.must(&ledger.Unbond{Supplier: "west-dc", Amount: 40 * joule})
	b.now += day
	b.must(&ledger.Unbond{Supplier: "west-dc", Amount: 60 * joule})
	f := b.fine(id, ledger.FineEquivocation)
	if f.Plan.FromEarnings != 2_000_000 || f.Plan.FromStake != 0 || f.Plan.FromUnbonding != 20*joule-2_000_000 {
		t.Errorf("got %+v, want all but the earnings from what is unbonding", f.Plan)
	}
	if u, _ := b.l.Unbonding(1); u.Amount != 20*joule+2_000_000 { // what leaves first is fined first
		t.Errorf("unbonding 1 has %d nJ left", u.Amount)
	}
	due, _ := b.l.NextDue()
	b.now = due - 1
	b.must(&ledger.Tick{})
	if got := b.balance("unbonding/west-dc", ledger.JOULE); got != 80*joule+2_000_000 {
		t.Errorf("unbonding has %d nJ", got)
	}
	first, _ := b.l.Unbonding(1)
	b.now = first.Matures - 1
	b.must(&ledger.Tick{})
	if first.Matures != first.Started+21*day || b.balance("supplier/west-dc", ledger.JOULE) != 0 {
		t.Errorf("started %d, matures %d, and %d nJ are back early", first.Started, first.Matures, b.balance("supplier/west-dc", ledger.JOULE))
	}
	b.now++
	b.must(&ledger.Tick{})
	if got := b.balance("supplier/west-dc", ledger.JOULE); got != int64(first.Amount) {
		t.Errorf("%d nJ are back, want %d", got, first.Amount)
	}
	b.now += day
	b.must(&ledger.Tick{})
	if got := b.balance("unbonding/west-dc", ledger.JOULE); got != 0 {
		t.Errorf("unbonding has %d nJ, want 0", got)
	}
}

// F2: evidence older than the time that unbonding takes is void.
func TestF2_OldEvidenceIsVoid(t *testing.T) {
	b := staked(t)
	a, c := b.equivocate("a"), b.equivocate("b")
	o, _ := b.l.Offence(a, ledger.FineEquivocation)
	minuteOf := func(at ledger.Time) ledger.Time { return at - at%minute }
	b.now = minuteOf(o.At) + 21*day - 1
	b.fine(a, ledger.FineEquivocation)
	b.now = o.At + 21*day
	b.refused(&ledger.IssueFine{FineCase: b.byLedger(c, ledger.FineEquivocation)}, ledger.CodeEvidence)
	b.refused(&ledger.ProposeFine{FineCase: ledger.FineCase{Supplier: "west-dc", Reason: ledger.FineBreach, Evidence: []ledger.Evidence{{Entry: 1}}},
		Operator: "ann", Why: "w"}, ledger.CodeEvidence)
}

// F3: the fine is what the schedule says: a share of the required stake, after
// a grace, times a multiplier for repeats, within the cap of a day; and exactly
// what was simulated.
func TestF3_TheScheduleSaysWhatAFineIs(t *testing.T) {
	b := staked(t)
	b.must(&ledger.SetFineSchedule{FineSchedule: ledger.FineSchedule{AppealMs: 7 * day, RepeatMs: 3 * day, DayCapPPM: 150_000, Rules: []ledger.FineRule{
		{Reason: ledger.FineEquivocation, SharePPM: 20_000, Grace: 2, RepeatPPM: 3_000_000, RemedyMs: hour}}}})
	var leases []ledger.LeaseID
	for i := range 8 {
		leases = append(leases, b.equivocate(string(rune('a'+i))))
	}
	next := 0
	fine := func(want ledger.NJ, prior uint32) {
		t.Helper()
		c := b.byLedger(leases[next], ledger.FineEquivocation)
		next++
		plan, err := b.l.SimulateFine(b.now, &c, false)
		if err != nil {
			t.Fatal(err)
		}
		before := snapshotBytes(t, b.l)
		if _, err := b.l.SimulateFine(b.now, &c, false); err != nil || string(snapshotBytes(t, b.l)) != string(before) {
			t.Errorf("a simulation changes something, %v", err)
		}
		f := b.fine(c.Lease, c.Reason)
		if f.Plan != plan {
			t.Errorf("issued %+v, simulated %+v", f.Plan, plan)
		}
		if f.Plan.Amount != want || f.Plan.Prior != prior || f.Plan.Required != 100*joule || f.Plan.Taken() != want {
			t.Errorf("got %+v, want %d nJ after %d", f.Plan, want, prior)
		}
	}
	fine(0, 0)
	fine(0, 1)
	fine(2*joule, 2)
	fine(6*joule, 3)
	fine(7*joule, 4) // 18, but the day has 15
	fine(0, 5)
	b.now += day
	fine(15*joule, 6)
	b.now += 2 * day // the first six no longer count
	fine(0, 1)
}

// F3: a fine names its evidence: entries that are there, each for one fine
// only; the ledger's own must be just what it saw.
func TestF3_AFineNamesItsEvidence(t *testing.T) {
	b := staked(t)
	id := b.equivocate("a")
	own := b.byLedger(id, ledger.FineEquivocation)
	for name, change := range map[string]func(*ledger.FineCase){
		"another entry":  func(c *ledger.FineCase) { c.Evidence[0].Entry-- },
		"another record": func(c *ledger.FineCase) { c.Evidence[0].Hash[3] ^= 1 },
		"more than one":  func(c *ledger.FineCase) { c.Evidence = append(c.Evidence, ledger.Evidence{Entry: 5}) },
		"another reason": func(c *ledger.FineCase) { c.Reason = ledger.FineHostLost },
	} {
		c := b.byLedger(id, ledger.FineEquivocation)
		change(&c)
		if res := b.apply(&ledger.IssueFine{FineCase: c}); res.Code != ledger.CodeEvidence {
			t.Errorf("%s: got %v %q, want evidence", name, res.Code, res.Msg)
		}
	}
	none := own
	none.Evidence = nil
	b.refused(&ledger.IssueFine{FineCase: none}, ledger.CodeInvalid)
	b.refused(&ledger.ProposeFine{FineCase: ledger.FineCase{Supplier: "west-dc", Reason: ledger.FineBreach,
		Evidence: []ledger.Evidence{{Entry: b.l.EntryCount() + 1}}}, Operator: "ann", Why: "w"}, ledger.CodeEvidence)
	f := b.fine(id, ledger.FineEquivocation)
	b.refused(&ledger.IssueFine{FineCase: own}, ledger.CodeEvidence)
	b.must(&ledger.VoidFine{Fine: f.ID, Operator: "ann", Why: "w"})
	b.refused(&ledger.IssueFine{FineCase: own}, ledger.CodeEvidence) // not twice for the same
	if o, _ := b.l.Offence(id, ledger.FineEquivocation); o.Fine != f.ID {
		t.Errorf("the offence names fine %d, want %d", o.Fine, f.ID)
	}
}

// F3: what only people can judge takes two of them.
func TestF3_AManualFineNeedsTwoOperators(t *testing.T) {
	b := staked(t)
	breach := ledger.FineCase{Supplier: "west-dc", Reason: ledger.FineBreach, Evidence: []ledger.Evidence{{Entry: 3}}}
	b.refused(&ledger.IssueFine{FineCase: breach}, ledger.CodeForbidden)
	b.refused(&ledger.ProposeFine{FineCase: breach, Why: "w"}, ledger.CodeInvalid)
	id := ledger.FineID(b.must(&ledger.ProposeFine{FineCase: breach, Operator: "ann", Why: "mined"}).ID)
	if b.balance("stake/west-dc", ledger.JOULE) != 100*joule {
		t.Error("a proposal alone took money")
	}
	b.refused(&ledger.ApproveFine{Fine: id, Operator: "ann"}, ledger.CodeSameOperator)
	b.refused(&ledger.AppealFine{Fine: id, Supplier: "west-dc", Why: "w"}, ledger.CodeClosed)
	b.must(&ledger.ApproveFine{Fine: id, Operator: "bob"})
	f, _ := b.l.Fine(id)
	if f.State != ledger.FineInEscrow || f.Proposed != "ann" || f.Approved != "bob" || f.Plan.Taken() != 30*joule {
		t.Errorf("got %+v, want 30 JOULE by ann and bob", f)
	}
	// A proposal that nobody approves lapses.
	other := breach
	other.Evidence = []ledger.Evidence{{Entry: 4}}
	lapsing := ledger.FineID(b.must(&ledger.ProposeFine{FineCase: other, Operator: "ann", Why: "w"}).ID)
	b.now += 7 * day
	b.refused(&ledger.ApproveFine{Fine: lapsing, Operator: "bob"}, ledger.CodeClosed) // even before the Tick
	b.must(&ledger.Tick{})
	b.state(lapsing, ledger.FineLapsed)
}

// F4: a fine takes unpaid earnings first, then stake, then what is unbonding,
// and no more than there is.
func TestF4_AFineTakesEarningsFirst(t *testing.T) {
	b := staked(t)
	id := b.equivocate("a")
	b.wall(id, 1_000_000, false)                                    // 1 USD, 20 JOULE
	b.must(&ledger.Unbond{Supplier: "west-dc", Amount: 95 * joule}) // 5 left
	b.must(&ledger.SetStakePolicy{StakePolicy: ledger.StakePolicy{BasePerHost: 300 * joule, UnbondMs: 21 * day}})
	f := b.fine(id, ledger.FineEquivocation) // 60 of 300
	if f.Plan.FromEarnings != 20*joule || f.Plan.FromStake != 5*joule || f.Plan.FromUnbonding != 35*joule {
		t.Errorf("got %+v, want 20, 5 and 35 JOULE", f.Plan)
	}
	if got := b.balance("escrow", ledger.JOULE); got != 60*joule {
		t.Errorf("escrow has %d nJ, want 60 JOULE", got)
	}
	more := b.l.LeaseCount() // none can open: fine what is left, and no more
	breach := ledger.FineCase{Supplier: "west-dc", Reason: ledger.FineBreach, Evidence: []ledger.Evidence{{Entry: 3}}}
	p := ledger.FineID(b.must(&ledger.ProposeFine{FineCase: breach, Operator: "ann", Why: "w"}).ID)
	b.must(&ledger.ApproveFine{Fine: p, Operator: "bob"}) // 90 of 300
	if f, _ := b.l.Fine(p); f.Plan.Amount != 90*joule || f.Plan.Taken() != 60*joule || more != 1 {
		t.Errorf("got %+v, want 60 JOULE taken of 90", f.Plan)
	}
}

// F4: the harmed customer's remedy comes first, the rest goes to the treasury;
// not before the window is over.
func TestF4_TheRemedyComesFirst(t *testing.T) {
	b := staked(t)
	id := b.equivocate("a")
	f := b.fine(id, ledger.FineEquivocation) // 20 JOULE; half an hour of the lease is 36
	treasury := b.balance("treasury", ledger.JOULE)
	if f.Plan.Remedy != 20*joule || f.Plan.Customer != 1 {
		t.Errorf("remedy %d to customer %d, want all of 20 JOULE", f.Plan.Remedy, f.Plan.Customer)
	}
	b.now += 7*day - 1
	b.must(&ledger.Tick{})
	b.state(f.ID, ledger.FineInEscrow)
	b.now++
	b.must(&ledger.Tick{})
	b.state(f.ID, ledger.FineFinal)
	if got := b.balance("customer/acme", ledger.JOULE); got != 20*joule || b.balance("treasury", ledger.JOULE) != treasury {
		t.Errorf("the customer has %d nJ, the treasury %d more", got, b.balance("treasury", ledger.JOULE)-treasury)
	}
	b.refused(&ledger.VoidFine{Fine: f.ID, Operator: "ann", Why: "w"}, ledger.CodeClosed)
	b.refused(&ledger.AppealFine{Fine: f.ID, Supplier: "west-dc", Why: "w"}, ledger.CodeClosed)

	b.must(&ledger.Bond{Supplier: "west-dc", Amount: 100 * joule, From: ledger.BondDeposit, Ref: "in"})
	second := b.open("cheap")
	b.must(&ledger.SetFineSchedule{FineSchedule: ledger.FineSchedule{AppealMs: minute, RepeatMs: minute, DayCapPPM: 1_000_000, Rules: []ledger.FineRule{
		{Reason: ledger.FineHostLost, SharePPM: 100_000, RepeatPPM: 1_000_000, RemedyMs: 5 * minute}}}})
	b.must(&ledger.CloseLease{Lease: second, Reason: ledger.CloseHostLost})
	f = b.fine(second, ledger.FineHostLost) // 10 JOULE, of which five minutes are 6
	b.now += minute
	b.must(&ledger.Tick{})
	if got := b.balance("customer/acme", ledger.JOULE); f.Plan.Remedy != 6*joule || got != 26*joule || b.balance("treasury", ledger.JOULE) != treasury+4*joule {
		t.Errorf("remedy %d, the customer has %d nJ, the treasury %d more", f.Plan.Remedy, got, b.balance("treasury", ledger.JOULE)-treasury)
	}
}

// F4: an appeal gives the operators a window of their own; a void gives back
// where it was taken.
func TestF4_AppealAndVoid(t *testing.T) {
	b := staked(t)
	id := b.equivocate("a")
	b.must(&ledger.Unbond{Supplier: "west-dc", Amount: 90 * joule})
	f := b.fine(id, ledger.FineEquivocation)
	b.refused(&ledger.AppealFine{Fine: f.ID, Supplier: "acme", Why: "w"}, ledger.CodeForbidden)
	b.now += 6 * day
	b.must(&ledger.AppealFine{Fine: f.ID, Supplier: "west-dc", Why: "a disk was restored"})
	b.refused(&ledger.AppealFine{Fine: f.ID, Supplier: "west-dc", Why: "again"}, ledger.CodeClosed)
	b.now += 6 * day
	b.must(&ledger.Tick{})
	b.state(f.ID, ledger.FineAppealed)
	b.l = throughSnapshot(t, b.l)
	b.must(&ledger.VoidFine{Fine: f.ID, Operator: "ann", Why: "shown to be true"})
	b.refused(&ledger.VoidFine{Fine: f.ID, Operator: "ann", Why: "again"}, ledger.CodeClosed)
	for account, want := range map[string]int64{"supplier/west-dc": 2_000_000, "stake/west-dc": 10 * joule, "unbonding/west-dc": 90 * joule, "escrow": 0} {
		if got := b.balance(account, ledger.JOULE); got != want {
			t.Errorf("%s has %d nJ, want %d", account, got, want)
		}
	}
	b.now += 9 * day
	b.must(&ledger.Tick{})
	if got := b.balance("supplier/west-dc", ledger.JOULE); got != 90*joule+2_000_000 {
		t.Errorf("the supplier has %d nJ, want its unbonding back whole", got)
	}
	// What was unbonding when it was fined, and has matured since.
	b = staked(t)
	id = b.equivocate("a")
	b.must(&ledger.SetStakePolicy{StakePolicy: ledger.StakePolicy{BasePerHost: 100 * joule, UnbondMs: day}})
	b.must(&ledger.Unbond{Supplier: "west-dc", Amount: 100 * joule})
	f = b.fine(id, ledger.FineEquivocation)
	b.now += day
	b.must(&ledger.Tick{})
	b.must(&ledger.VoidFine{Fine: f.ID, Operator: "ann", Why: "w"})
	if got := b.balance("supplier/west-dc", ledger.JOULE); got != 100*joule+2_000_000 {
		t.Errorf("the supplier has %d nJ, want all of it", got)
	}
}

// F5: windows end by ledger time, and what comes of it by a Tick, in the order
// of time and id, however late it comes; no command before it can use a window
// that is over.
func TestF5_WindowsExpireByTick(t *testing.T) {
	b := staked(t)
	a, c := b.equivocate("a"), b.equivocate("b")
	fa := b.fine(a, ledger.FineEquivocation)
	b.must(&ledger.Unbond{Supplier: "west-dc", Amount: joule}) // matures at 21 days
	fc := b.fine(c, ledger.FineEquivocation)
	b.l.TakeEntries()
	if due, ok := b.l.NextDue(); !ok || due != fa.Ends {
		t.Errorf("next due %d, %v, want %d", due, ok, fa.Ends)
	}
	b.now += 30 * day
	b.refused(&ledger.AppealFine{Fine: fa.ID, Supplier: "west-dc", Why: "late"}, ledger.CodeClosed)
	b.refused(&ledger.VoidFine{Fine: fc.ID, Operator: "ann", Why: "late"}, ledger.CodeClosed)
	b.state(fa.ID, ledger.FineInEscrow) // nothing happens without a Tick
	b.l.TakeEntries()
	b.l = throughSnapshot(t, b.l)
	b.must(&ledger.Tick{})
	var order []any
	for _, e := range b.l.TakeEntries() {
		switch f := e.Fact.(type) {
		case *ledger.FineChanged:
			order = append(order, f.ID)
		case *ledger.UnbondingEnded:
			order = append(order, f.ID)
		}
	}
	want := []any{fa.ID, fc.ID, ledger.UnbondingID(1)}
	if len(order) != 3 || order[0] != want[0] || order[1] != want[1] || order[2] != want[2] {
		t.Errorf("got %v, want %v", order, want)
	}
	if _, ok := b.l.NextDue(); ok {
		t.Error("something is still due")
	}
}

// T4: faults have a side, and only the supplier's can be fined.
func TestT4_OnlyTheSuppliersSideCanBeFined(t *testing.T) {
	b := staked(t)
	id := b.open("a")
	sides := map[ledger.FineReason]ledger.FaultSide{ledger.FineNetwork: ledger.SideNetwork, ledger.FineWorkload: ledger.SideWorkload,
		ledger.FineFunds: ledger.SideFunds, ledger.FinePlatform: ledger.SidePlatform}
	for reason := ledger.FineEquivocation; reason <= ledger.FinePlatform; reason++ {
		side, other := sides[reason]
		if !other {
			side = ledger.SideSupplier
		}
		if reason.Side() != side {
			t.Errorf("%s is on the side %s, want %s", reason, reason.Side(), side)
		}
		if !other {
			continue
		}
		c := ledger.FineCase{Lease: id, Reason: reason, Evidence: []ledger.Evidence{{Entry: 3}}}
		b.refused(&ledger.IssueFine{FineCase: c}, ledger.CodeNotFinable)
		b.refused(&ledger.ProposeFine{FineCase: c, Operator: "ann", Why: "w"}, ledger.CodeNotFinable)
		b.refused(&ledger.SetFineSchedule{FineSchedule: ledger.FineSchedule{AppealMs: 1, RepeatMs: 1, DayCapPPM: 1,
			Rules: []ledger.FineRule{{Reason: reason}}}}, ledger.CodeInvalid)
	}
	// The end of a lease has a side too, and only a lost host is evidence.
	for reason, side := range map[ledger.CloseReason]ledger.FaultSide{ledger.CloseFinished: ledger.SideNone, ledger.CloseFunds: ledger.SideFunds,
		ledger.CloseNotRun: ledger.SideNone, ledger.CloseOperator: ledger.SidePlatform, ledger.CloseHostLost: ledger.SideSupplier} {
		if reason.Side() != side {
			t.Errorf("close reason %d is on the side %s, want %s", reason, reason.Side(), side)
		}
		lease := b.open(string(rune('b' + reason)))
		b.must(&ledger.CloseLease{Lease: lease, Reason: reason})
		if _, seen := b.l.Offence(lease, ledger.FineHostLost); seen != (side == ledger.SideSupplier) {
			t.Errorf("close reason %d: an offence %v", reason, seen)
		}
	}
}

// U3: equivocation is refused, kept as evidence, and can be fined.
func TestU3_EquivocationCanBeFined(t *testing.T) {
	b := staked(t)
	id := b.open("a")
	r := b.record(id, ledger.Totals{WallMs: 100}, false)
	b.now += 1000
	b.usage(r)
	paid := b.balance("supplier/west-dc", ledger.JOULE)
	forged := r
	forged.Active.WallMs = 900
	forged = sealed(forged)
	b.l.TakeEntries()
	if res := b.usage(forged); res.Status != ledger.RecordEquivocation || b.balance("supplier/west-dc", ledger.JOULE) != paid {
		t.Errorf("got %+v, want it refused and not paid", res)
	}
	entry := b.l.TakeEntries()[0]
	refused, ok := entry.Fact.(*ledger.RecordRefused)
	if !ok || refused.Record.Hash != forged.Hash {
		t.Fatalf("got entry %+v, want the refused record", entry)
	}
	o, ok := b.l.Offence(id, ledger.FineEquivocation)
	if !ok || o.Evidence != (ledger.Evidence{Entry: entry.Seq, Hash: forged.Hash}) || o.At != b.now || o.Fine != 0 {
		t.Errorf("got %+v, %v, want entry %d", o, ok, entry.Seq)
	}
	forged.GPUBusyMs = 7
	b.usage(sealed(forged)) // one offence a lease
	if again, _ := b.l.Offence(id, ledger.FineEquivocation); again != o || b.l.OffenceCount() != 1 {
		t.Errorf("got %+v, want the first one kept", again)
	}
	if f := b.fine(id, ledger.FineEquivocation); f.Plan.Taken() != 20*joule {
		t.Errorf("got %+v, want 20 JOULE", f.Plan)
	}
}
