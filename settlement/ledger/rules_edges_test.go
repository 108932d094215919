package ledger_test

import (
	"testing"

	"github.com/joulecloud/joule/settlement/ledger"
)

// M6: an override is for one rate: the next one is judged as ever.
func TestM6_ANewRateEndsAnOverride(t *testing.T) {
	b := proposed(t, ledger.USD)
	b.now += 60_000
	b.must(&ledger.ProposeRate{NUSDPerJoule: 60_000_000})
	b.must(&ledger.OverrideRate{Rate: 2, ForMs: 3_600_000, Operator: "ann", Why: "w"})
	b.now += 1000
	b.must(&ledger.ProposeRate{NUSDPerJoule: 70_000_000})
	if st, _ := b.l.RateState(); st.Paused != ledger.PauseDoubtful || st.InForce.ID != 2 || st.OverrideUntil != 0 {
		t.Errorf("got %+v, want a pause and rate 2 in force", st)
	}
}

// M6: the average is over the window alone, each rate weighed by its time in it.
func TestM6_TheAverageIsOverTheWindow(t *testing.T) {
	b := proposed(t, ledger.USD)
	b.must(&ledger.SetRateGuard{RateGuard: ledger.RateGuard{DeviationPPM: 15_000, WindowMs: 10_000}})
	b.now += 1_000_000
	b.must(&ledger.SetRate{NUSDPerJoule: 90_000_000})
	b.now += 2500
	b.must(&ledger.ProposeRate{NUSDPerJoule: 60_000_000})
	st, _ := b.l.RateState()
	if want := ledger.NUSD((7500*50_000_000 + 2500*90_000_000) / 10_000); st.Newest.Average != want || st.Newest.Doubtful {
		t.Errorf("got %+v, want an average of %d", st.Newest, want)
	}
	b.now += 10_000
	b.must(&ledger.ProposeRate{NUSDPerJoule: 60_000_000})
	if st, _ = b.l.RateState(); st.Newest.Average != 60_000_000 {
		t.Errorf("got %+v, want an average of 60000000", st.Newest)
	}
}

// M6: what waited for a rate is paid in full at the fresh one, though it asks
// more JOULE than was held.
func TestM6_ADearerRateIsPaidFromTheBalance(t *testing.T) {
	b := proposed(t, ledger.JOULE)
	b.must(&ledger.SetPolicy{SliceMs: 1})
	id := b.open("a")
	b.now += 6*60_000 + 1
	b.wall(id, 2000, true)
	b.must(&ledger.SetRate{NUSDPerJoule: 5_000_000}) // ten times the JOULE
	if le := b.lease(id); le.ChargedNUSD != 2_000_000 || le.PaidNJ != 400_000_000 || le.Hold != 0 {
		t.Errorf("charged %d, paid %d, hold %d, want 2000000, 400000000, 0", le.ChargedNUSD, le.PaidNJ, le.Hold)
	}
}

// M2: the legs of a correction are bounded by what the ones before leave.
func TestM2_LegsOfACorrectionShareABalance(t *testing.T) {
	b := proposed(t, ledger.USD)
	id := b.open("a")
	b.wall(id, 1000, true) // 20,000,000 nJ to the supplier
	b.must(&ledger.Withdraw{Party: ledger.PartySupplier, Name: "west-dc", Currency: ledger.JOULE, Amount: 15_000_000, Ref: "r"})
	leg := ledger.CorrectionLeg{From: ledger.PartySupplier, To: ledger.PartyTreasury, Currency: ledger.JOULE, Amount: 4_000_000}
	b.refused(&ledger.Correct{Lease: id, Entry: 1, Operator: "ann", Why: "w", Legs: []ledger.CorrectionLeg{leg, leg}}, ledger.CodeInsufficient)
	back := ledger.CorrectionLeg{From: ledger.PartyTreasury, To: ledger.PartySupplier, Currency: ledger.JOULE, Amount: 3_000_000}
	b.must(&ledger.Correct{Lease: id, Entry: 1, Operator: "ann", Why: "w", Legs: []ledger.CorrectionLeg{leg, back, leg}})
	if got := b.balance("supplier/west-dc", ledger.JOULE); got != 0 {
		t.Errorf("the supplier has %d nJ, want 0", got)
	}
}
