package ledger_test

import (
	"testing"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// Whatever commands the bytes hold, at whatever time: no panic, and every
// invariant stands.
func FuzzApply(f *testing.F) {
	prices := ledger.Prices{Base: 360_000_000, CPU: 40_000_000, GPU: 2_500_000_000, Memory: 5_000_000}
	cmds := []ledger.Command{
		&ledger.CreateCustomer{Name: "acme", Namespace: "acme", PayIn: ledger.USD},
		&ledger.CreateCustomer{Name: "solar", Namespace: "solar", PayIn: ledger.JOULE},
		&ledger.CreateSupplier{Name: "s"},
		&ledger.EnrollHost{Name: "h", Supplier: "s", Class: ledger.ClassCrowd, PublicKey: [32]byte{1}},
		&ledger.SetOffer{Host: "h", Prices: prices},
		&ledger.SetRate{NUSDPerJoule: 50_000_000},
		&ledger.SetPolicy{FeePPM: 20_000, SliceMs: 10_000},
		&ledger.Mint{Amount: 50_000_000, Ref: "r"},
		&ledger.Withdraw{Party: ledger.PartyTreasury, Currency: ledger.JOULE, Amount: 9_000_000, Ref: "r"},
		&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: 5_000_000_000, Ref: "r"},
		&ledger.Deposit{Customer: "solar", Currency: ledger.JOULE, Amount: 9_000_000, Ref: "r"},
		&ledger.OpenLease{Host: "h", Namespace: "acme", Job: "j", Group: "g", Task: "t", Alloc: "a", Invocation: "i",
			Resources: ledger.Resources{MilliCores: 100, MemoryMiB: 64, GPUs: 1}, Budget: 4_000_000_000},
		&ledger.OpenLease{Host: "h", Namespace: "solar", Job: "j", Group: "g", Task: "t", Alloc: "b", Invocation: "i"},
		&ledger.TopUpLease{Lease: 1, Slices: 2},
	}
	usage := func(lease ledger.LeaseID, wall uint64, final bool) *ledger.UsageBatch {
		return &ledger.UsageBatch{Host: 1, Records: []ledger.Record{{Lease: lease, Seq: wall, Epoch: 1, Known: ledger.KnownAll,
			Active: ledger.Totals{WallMs: wall, CPUMs: wall / 10, GPUMs: wall, MemoryMiBMs: wall}, Final: final}}}
	}
	cmds = append(cmds, usage(1, 800, false), usage(2, 900, false), &ledger.SetRate{NUSDPerJoule: 3}, usage(1, 990, true),
		&ledger.CloseLease{Lease: 2, Reason: ledger.CloseOperator}, &ledger.Mint{Amount: 1 << 60, Ref: "r"})
	evidence := []ledger.Evidence{{Entry: 9}}
	cmds = append(cmds, &ledger.SetStakePolicy{StakePolicy: ledger.StakePolicy{BasePerHost: 1000, FactorPPM: 3, UnbondMs: 60_000}},
		&ledger.Bond{Supplier: "s", Amount: 3000, From: ledger.BondEarnings}, &ledger.Bond{Supplier: "s", Amount: 3000, From: ledger.BondDeposit, Ref: "r"},
		&ledger.Unbond{Supplier: "s", Amount: 1500}, &ledger.SetRateGuard{RateGuard: ledger.RateGuard{MaxAgeMs: 2, DeviationPPM: 9, WindowMs: 5}},
		&ledger.ProposeRate{NUSDPerJoule: 50_000_000}, &ledger.ProposeRate{NUSDPerJoule: 90_000_000},
		&ledger.OverrideRate{Rate: 4, ForMs: 3, Operator: "ann", Why: "w"},
		&ledger.RequestWithdrawal{Party: ledger.PartyCustomer, Name: "acme", Currency: ledger.USD, Amount: 7, To: "x"},
		&ledger.ConfirmWithdrawal{Withdrawal: 1, Ref: "r"}, &ledger.FailWithdrawal{Withdrawal: 1, Why: "w"},
		&ledger.Correct{Lease: 1, Entry: 9, Operator: "ann", Why: "w", Legs: []ledger.CorrectionLeg{{From: ledger.PartyTreasury, To: ledger.PartyCustomer,
			Currency: ledger.USD, Amount: 2}}},
		&ledger.SetFineSchedule{FineSchedule: ledger.FineSchedule{AppealMs: 4, RepeatMs: 9, DayCapPPM: 900_000, Rules: []ledger.FineRule{
			{Reason: ledger.FineEquivocation, SharePPM: 400_000, RepeatPPM: 2_000_000, RemedyMs: 50}, {Reason: ledger.FineBreach, SharePPM: 90_000}}}},
		usage(2, 900, false), &ledger.IssueFine{FineCase: ledger.FineCase{Lease: 1, Reason: ledger.FineEquivocation, Evidence: evidence}},
		&ledger.ProposeFine{FineCase: ledger.FineCase{Supplier: "s", Reason: ledger.FineBreach, Evidence: evidence}, Operator: "ann", Why: "w"},
		&ledger.ApproveFine{Fine: 1, Operator: "bob"}, &ledger.AppealFine{Fine: 1, Supplier: "s", Why: "w"},
		&ledger.VoidFine{Fine: 1, Operator: "bob", Why: "w"}, &ledger.Tick{})
	seed := &wire.CommandBatch{Time: 1000}
	for i, cmd := range cmds {
		env := ledger.Envelope{Command: cmd}
		if keyed(cmd) {
			env.Key = string(rune('A' + i))
		}
		seed.Envelopes = append(seed.Envelopes, env)
		f.Add(wire.AppendCommandBatch(nil, seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var b wire.CommandBatch
		if err := wire.DecodeCommandBatch(in, &b); err != nil {
			return
		}
		l := ledger.New()
		for i := range b.Envelopes {
			l.Apply(b.Time+ledger.Time(i), &b.Envelopes[i])
			if err := l.Verify(); err != nil {
				t.Fatalf("command %d, %+v: %v", i, b.Envelopes[i].Command, err)
			}
		}
		throughSnapshot(t, l)
	})
}
