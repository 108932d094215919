package audit

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

const minute = 60_000

// equivocate queues another content under the lease's last sequence.
func (w *world) equivocate(host string, lease ledger.LeaseID) *world {
	h, _ := w.l.Host(host)
	r := *w.tasks[lease]
	r.GPUBusyMs++
	r.Hash = wire.HashRecord(wire.AppendRecord(nil, &r))
	b := &ledger.UsageBatch{Host: h.ID, Boot: [16]byte{7}, Records: []ledger.Record{r}}
	sign(b, host)
	return w.do(b)
}

// fine queues a fine by the ledger's own evidence.
func (w *world) fine(lease ledger.LeaseID, reason ledger.FineReason) *world {
	c := &ledger.IssueFine{FineCase: ledger.FineCase{Lease: lease, Reason: reason, Evidence: []ledger.Evidence{{Entry: 1}}}}
	if o, ok := w.l.Offence(lease, reason); ok {
		c.Evidence[0] = o.Evidence
	}
	return w.do(c)
}

// must fails where a command of the last block was refused.
func (w *world) must(ms int) *world {
	for i, r := range w.commit(ms) {
		if r.Code != ledger.CodeOK {
			panic(fmt.Sprintf("command %d: %v %s", i, r.Code, r.Msg))
		}
	}
	return w
}

// fullScript goes on from script, with every kind of entry that there is and
// every reason for a transfer.
func fullScript() *world {
	w := script()
	w.do(&ledger.SetRate{NUSDPerJoule: 50_000_000}, &ledger.Mint{Amount: 500 * usd, Ref: "m3"},
		&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: 50 * usd, Ref: "d3"}).must(10)

	// Two withdrawals, one that fails.
	w.do(&ledger.RequestWithdrawal{Party: ledger.PartyCustomer, Name: "acme", Currency: ledger.USD, Amount: usd, To: "iban"},
		&ledger.RequestWithdrawal{Party: ledger.PartyTreasury, Currency: ledger.JOULE, Amount: 200 * usd, To: "addr"}).must(10)
	w.do(&ledger.FailWithdrawal{Withdrawal: 1, Why: "closed"}, &ledger.ConfirmWithdrawal{Withdrawal: 2, Ref: "tx"}).must(10)

	// Stakes.
	w.do(&ledger.SetStakePolicy{StakePolicy: ledger.StakePolicy{BasePerHost: usd, FactorPPM: 300_000, UnbondMs: 90 * minute}},
		&ledger.Bond{Supplier: "west", Amount: 20 * usd, From: ledger.BondDeposit, Ref: "b1"},
		&ledger.Bond{Supplier: "home", Amount: 20 * usd, From: ledger.BondDeposit, Ref: "b2"},
		&ledger.Bond{Supplier: "west", Amount: 1000, From: ledger.BondEarnings},
		openLease("h1", "acme", "b1"), openLease("h2", "jou", "b2"), openLease("h1", "acme", "b3"),
		&ledger.Unbond{Supplier: "west", Amount: 15 * usd}, &ledger.Unbond{Supplier: "west", Amount: 3 * usd}).must(10)

	// The guard of the rate: doubtful, overridden, stale, good again.
	w.do(&ledger.SetRateGuard{RateGuard: ledger.RateGuard{MaxAgeMs: 2 * minute, DeviationPPM: 15_000, WindowMs: 20_000}},
		&ledger.ProposeRate{NUSDPerJoule: 50_100_000}).must(30_000)
	w.use("h1", false, 1000, 1000, 4, 6).use("h2", false, 1000, 1000, 5).must(1000)
	w.do(&ledger.ProposeRate{NUSDPerJoule: 70_000_000}).must(1000)
	w.use("h1", false, 1000, 1000, 4).use("h2", false, 1000, 1000, 5).must(1000)
	w.do(&ledger.OverrideRate{Rate: w.l.RateCount(), ForMs: 5000, Operator: "ann", Why: "true"}).must(10)
	w.do(&ledger.Tick{}).must(6000)
	w.use("h1", false, 1000, 1000, 4).use("h2", true, 1000, 1000, 5).must(1000)
	w.do(&ledger.ProposeRate{NUSDPerJoule: 50_200_000}).must(1000)
	w.do(&ledger.ProposeRate{NUSDPerJoule: 50_200_000}).must(21_000)
	w.do(&ledger.Tick{}).must(2*minute + 1)
	w.use("h1", false, 1000, 1000, 4).must(1000)
	w.do(&ledger.SetRate{NUSDPerJoule: 51_000_000}).must(1000)

	// Fines: own evidence, appealed, voided, proposed, final.
	rules := []ledger.FineRule{{Reason: ledger.FineEquivocation, SharePPM: 900_000, RepeatPPM: 2_000_000, RemedyMs: 5 * minute},
		{Reason: ledger.FineHostLost, SharePPM: 100_000, Grace: 1, RepeatPPM: 1_000_000, RemedyMs: minute},
		{Reason: ledger.FineBreach, SharePPM: 400_000, RepeatPPM: 1_500_000}}
	w.do(&ledger.SetFineSchedule{FineSchedule: ledger.FineSchedule{AppealMs: 10 * minute, RepeatMs: 60 * minute, DayCapPPM: 1_000_000, Rules: rules}}).must(10)
	w.equivocate("h1", 4).equivocate("h1", 6).must(10)
	w.fine(4, ledger.FineEquivocation).must(10)
	w.do(&ledger.AppealFine{Fine: 1, Supplier: "west", Why: "not us"}).must(10)
	w.do(&ledger.VoidFine{Fine: 1, Operator: "ann", Why: "right"}).must(10)
	w.fine(6, ledger.FineEquivocation).must(10)
	w.do(&ledger.CloseLease{Lease: 4, Reason: ledger.CloseHostLost}).must(10)
	w.fine(4, ledger.FineHostLost).must(10)
	o, _ := w.l.Offence(6, ledger.FineEquivocation)
	w.do(&ledger.ProposeFine{FineCase: ledger.FineCase{Supplier: "home", Reason: ledger.FineBreach, Evidence: []ledger.Evidence{{Entry: o.Evidence.Entry - 2}}},
		Operator: "ann", Why: "mined"},
		&ledger.ProposeFine{FineCase: ledger.FineCase{Supplier: "home", Reason: ledger.FineBreach, Evidence: []ledger.Evidence{{Entry: o.Evidence.Entry - 3}}},
			Operator: "ann", Why: "mined"}).must(10)
	w.do(&ledger.ApproveFine{Fine: 4, Operator: "bob"}).must(10)
	w.do(&ledger.Tick{}).must(11 * minute)

	// What is left of the unbondings, and a correction in both currencies.
	w.do(&ledger.Tick{}).must(90 * minute)
	le, _ := w.l.Lease(1)
	w.do(&ledger.Correct{Lease: 1, Entry: w.charge(1), Operator: "ann", Why: "clock", Legs: []ledger.CorrectionLeg{
		{From: ledger.PartyTreasury, To: ledger.PartyCustomer, Currency: ledger.USD, Amount: int64(le.ChargedNUSD)},
		{From: ledger.PartySupplier, To: ledger.PartyTreasury, Currency: ledger.JOULE, Amount: 5}}}).must(10)
	return w
}

// charge is the sequence of the first charge of a lease.
func (w *world) charge(lease ledger.LeaseID) uint64 {
	for _, b := range w.blocks {
		for _, e := range b.Entries {
			if e.Kind == ledger.EntryTransfer && e.Transfer.Reason == ledger.ReasonCharge && e.Transfer.Lease == lease {
				return e.Seq
			}
		}
	}
	return 0
}

// later queues some command of the later kinds.
func (w *world) later(rt *rapid.T, lease ledger.LeaseID, amount int64) {
	party := rapid.SampledFrom([]string{"west", "home"}).Draw(rt, "supplier")
	fine := ledger.FineID(rapid.Uint32Range(1, max(1, uint32(w.l.FineCount()))).Draw(rt, "fine"))
	withdrawal := ledger.WithdrawalID(rapid.Uint32Range(1, max(1, uint32(w.l.WithdrawalCount()))).Draw(rt, "withdrawal"))
	operator := rapid.SampledFrom([]string{"ann", "bob"}).Draw(rt, "operator")
	reason := rapid.SampledFrom([]ledger.FineReason{ledger.FineEquivocation, ledger.FineHostLost, ledger.FineBreach}).Draw(rt, "fine reason")
	switch rapid.IntRange(0, 17).Draw(rt, "later") {
	case 0, 1:
		w.do(&ledger.ProposeRate{NUSDPerJoule: ledger.NUSD(rapid.Int64Range(50_000_000, 52_000_000).Draw(rt, "rate"))})
	case 2:
		w.do(&ledger.OverrideRate{Rate: w.l.RateCount(), ForMs: uint64(rapid.IntRange(1, 5000).Draw(rt, "for")), Operator: operator, Why: "w"})
	case 3:
		w.do(&ledger.SetRateGuard{RateGuard: ledger.RateGuard{MaxAgeMs: uint64(rapid.IntRange(0, 9000).Draw(rt, "age")),
			DeviationPPM: rapid.Uint32Range(0, 30_000).Draw(rt, "ppm"), WindowMs: uint64(rapid.IntRange(1, 20_000).Draw(rt, "window"))}})
	case 4:
		w.do(&ledger.RequestWithdrawal{Party: ledger.PartySupplier, Name: party, Currency: ledger.JOULE, Amount: max(1, amount/100), To: "a"})
	case 5:
		w.do(&ledger.ConfirmWithdrawal{Withdrawal: withdrawal, Ref: "r"})
	case 6:
		w.do(&ledger.FailWithdrawal{Withdrawal: withdrawal, Why: "w"})
	case 7, 8:
		le, _ := w.l.Lease(lease)
		if w.charge(lease) == 0 {
			return
		}
		parties := rapid.SampledFrom([]ledger.Party{ledger.PartyCustomer, ledger.PartySupplier, ledger.PartyTreasury})
		w.do(&ledger.Correct{Lease: lease, Entry: w.charge(lease), Operator: operator, Why: "w", Legs: []ledger.CorrectionLeg{
			{From: parties.Draw(rt, "from"), To: parties.Draw(rt, "to"), Currency: le.PayIn, Amount: max(1, amount/10_000)}}})
	case 9:
		w.do(&ledger.SetStakePolicy{StakePolicy: ledger.StakePolicy{BasePerHost: ledger.NJ(amount / 4), FactorPPM: rapid.Uint32Range(0, 9999).Draw(rt, "factor"),
			UnbondMs: uint64(rapid.IntRange(minute, 2*minute).Draw(rt, "unbond"))}})
	case 10:
		w.do(&ledger.Bond{Supplier: party, Amount: ledger.NJ(amount), From: ledger.BondDeposit, Ref: "r"})
	case 11:
		w.do(&ledger.Bond{Supplier: party, Amount: ledger.NJ(max(1, amount/1000)), From: ledger.BondEarnings})
	case 12:
		w.do(&ledger.Unbond{Supplier: party, Amount: ledger.NJ(max(1, amount/3))})
	case 13:
		if le, ok := w.l.Lease(lease); ok && w.tasks[lease] != nil {
			h, _ := w.l.HostByID(le.Host)
			w.equivocate(h.Name, lease)
		}
	case 14:
		w.fine(lease, reason)
	case 15:
		w.do(&ledger.ProposeFine{FineCase: ledger.FineCase{Supplier: party, Reason: reason,
			Evidence: []ledger.Evidence{{Entry: rapid.Uint64Range(1, w.l.EntryCount()).Draw(rt, "entry")}}}, Operator: operator, Why: "w"})
	case 16:
		w.do(&ledger.ApproveFine{Fine: fine, Operator: operator}, &ledger.AppealFine{Fine: fine, Supplier: party, Why: "w"})
	case 17:
		w.do(&ledger.VoidFine{Fine: fine, Operator: operator, Why: "w"})
	}
	if rapid.IntRange(0, 3).Draw(rt, "tick") == 0 {
		w.do(&ledger.Tick{})
	}
}

// One flipped bit anywhere in a whole journal is found.
func TestRandomFlippedBits(t *testing.T) {
	t.Parallel()
	dir := write(t, fullScript().blocks)
	path, content := segment(t, dir)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		changed := slices.Clone(content)
		bit := r.IntN(len(content) * 8)
		changed[bit/8] ^= 1 << (bit % 8)
		if err := os.WriteFile(path, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		if rep, err := Run(t.Context(), dir); err == nil && rep.OK() {
			t.Fatalf("bit %d flipped: got no finding", bit)
		}
	}
}
