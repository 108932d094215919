package ledger_test

import (
	"testing"

	"github.com/joulecloud/joule/settlement/ledger"
)

// F3: a voided fine is no offence, and takes nothing of the day's cap.
func TestF3_AVoidedFineDoesNotCount(t *testing.T) {
	b := staked(t)
	b.must(&ledger.SetFineSchedule{FineSchedule: ledger.FineSchedule{AppealMs: 7 * day, RepeatMs: 3 * day, DayCapPPM: 20_000, Rules: []ledger.FineRule{
		{Reason: ledger.FineEquivocation, SharePPM: 15_000, RepeatPPM: 1_000_000}}}})
	first, second := b.equivocate("a"), b.equivocate("b")
	f := b.fine(first, ledger.FineEquivocation)
	b.must(&ledger.VoidFine{Fine: f.ID, Operator: "ann", Why: "w"})
	if again := b.fine(second, ledger.FineEquivocation); again.Plan.Prior != 0 || again.Plan.Amount != 1_500_000_000 {
		t.Errorf("got %+v, want 1.5 JOULE and no offence before", again.Plan)
	}
}

// F3: the stake that the shares are of was there for the harmed lease too, if
// that has ended.
func TestF3_TheHarmedLeaseCountsForTheStake(t *testing.T) {
	b := staked(t)
	b.must(&ledger.SetStakePolicy{StakePolicy: ledger.StakePolicy{BasePerHost: joule, FactorPPM: 500_000, UnbondMs: 21 * day}})
	id := b.open("a") // 3.60 USD an hour: half of it is 36 JOULE
	b.must(&ledger.CloseLease{Lease: id, Reason: ledger.CloseHostLost})
	if f := b.fine(id, ledger.FineHostLost); f.Plan.Required != 37*joule {
		t.Errorf("got %+v, want 37 JOULE required", f.Plan)
	}
}

// F4: a remedy is out of what was taken, not out of what was asked.
func TestF4_ARemedyIsNoMoreThanWasTaken(t *testing.T) {
	b := staked(t)
	id := b.open("a")
	b.must(&ledger.SetStakePolicy{StakePolicy: ledger.StakePolicy{BasePerHost: 5000 * joule, UnbondMs: 21 * day}})
	b.must(&ledger.SetFineSchedule{FineSchedule: ledger.FineSchedule{AppealMs: day, RepeatMs: day, DayCapPPM: 1_000_000, Rules: []ledger.FineRule{
		{Reason: ledger.FineHostLost, SharePPM: 1_000_000, RemedyMs: 100 * hour}}}})
	b.must(&ledger.CloseLease{Lease: id, Reason: ledger.CloseHostLost})
	f := b.fine(id, ledger.FineHostLost)
	if f.Plan.Amount != 5000*joule || f.Plan.Taken() != 100*joule || f.Plan.Remedy != 100*joule {
		t.Errorf("got %+v, want 5000 asked, 100 taken, all of it the remedy", f.Plan)
	}
	b.now += day
	b.must(&ledger.Tick{})
	if got := b.balance("customer/acme", ledger.JOULE); got != 100*joule {
		t.Errorf("the customer has %d nJ, want 100 JOULE", got)
	}
}

// M6: JOULE that comes back to the treasury, by a correction or a fine, converts
// what waits for it.
func TestM6_WhatTheTreasuryGainsConverts(t *testing.T) {
	b := staked(t)
	paid, broke := b.open("a"), b.open("b")
	b.wall(paid, 1000, false)
	treasury := b.balance("treasury", ledger.JOULE)
	b.must(&ledger.Withdraw{Party: ledger.PartyTreasury, Currency: ledger.JOULE, Amount: treasury, Ref: "r"})
	b.wall(broke, 1000, false)
	if le := b.lease(broke); le.UnconvertedNUSD != 1_000_000 {
		t.Fatalf("unconverted %d, want 1000000", le.UnconvertedNUSD)
	}
	b.must(&ledger.Correct{Lease: paid, Entry: 1, Operator: "ann", Why: "w", Legs: []ledger.CorrectionLeg{
		{From: ledger.PartySupplier, To: ledger.PartyTreasury, Currency: ledger.JOULE, Amount: 5_000_000}}})
	if le := b.lease(broke); le.UnconvertedNUSD != 750_000 {
		t.Errorf("unconverted %d after a correction, want a quarter less", le.UnconvertedNUSD)
	}
	breach := ledger.FineCase{Supplier: "west-dc", Reason: ledger.FineBreach, Evidence: []ledger.Evidence{{Entry: 3}}}
	id := ledger.FineID(b.must(&ledger.ProposeFine{FineCase: breach, Operator: "ann", Why: "w"}).ID)
	b.must(&ledger.ApproveFine{Fine: id, Operator: "bob"})
	b.now += 7 * day
	b.must(&ledger.Tick{})
	if le := b.lease(broke); le.UnconvertedNUSD != 0 || b.balance("accrued", ledger.USD) != 0 {
		t.Errorf("unconverted %d after a fine, want 0", le.UnconvertedNUSD)
	}
}
