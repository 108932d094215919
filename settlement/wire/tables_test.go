package wire_test

import (
	"bytes"
	"testing"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// tablesLedger is sampleLedger with rows in every table, a rate overridden and
// a charge in JOULE that waits for one.
func tablesLedger(tb testing.TB) *ledger.Ledger {
	tb.Helper()
	l := sampleLedger(tb)
	now := ledger.Time(10_000)
	key := 0
	do := func(cmds ...ledger.Command) {
		tb.Helper()
		for _, cmd := range cmds {
			key++
			now += 100
			env := &ledger.Envelope{Command: cmd}
			if k := cmd.Kind(); k != ledger.KindUsageBatch && k != ledger.KindTick {
				env.Key = "t" + string(rune('a'+key))
			}
			if res := l.Apply(now, env); res.Code != ledger.CodeOK {
				tb.Fatalf("%T: got %v %q", cmd, res.Code, res.Msg)
			}
		}
	}
	const nano = 1_000_000_000
	equivocation := sampleRecord(2, 1)
	do(&ledger.Mint{Amount: 200 * nano, Ref: "m"},
		&ledger.Withdraw{Party: ledger.PartyTreasury, Currency: ledger.JOULE, Amount: 150 * nano, Ref: "w"},
		&ledger.Deposit{Customer: "solar", Currency: ledger.JOULE, Amount: 50 * nano, Ref: "d"},
		&ledger.SetStakePolicy{StakePolicy: ledger.StakePolicy{BasePerHost: 10 * nano, FactorPPM: 5, UnbondMs: 3_600_000}},
		&ledger.SetFineSchedule{FineSchedule: sampleSchedule()},
		&ledger.Bond{Supplier: "west-dc", Amount: 20 * nano, From: ledger.BondDeposit, Ref: "b"},
		&ledger.OpenLease{Host: "dc-1", Namespace: "solar", Job: "j", Group: "g", Task: "t", Alloc: "s1", Invocation: "i"},
		&ledger.UsageBatch{Host: 1, Records: []ledger.Record{equivocation}},
		&ledger.RequestWithdrawal{Party: ledger.PartyCustomer, Name: "solar", Currency: ledger.JOULE, Amount: 9, To: "addr"},
		&ledger.RequestWithdrawal{Party: ledger.PartyTreasury, Currency: ledger.JOULE, Amount: 8, To: "addr"},
		&ledger.ConfirmWithdrawal{Withdrawal: 1, Ref: "tx"},
		&ledger.Correct{Lease: 1, Entry: 40, Operator: "ann", Why: "clock", Legs: []ledger.CorrectionLeg{
			{From: ledger.PartyTreasury, To: ledger.PartySupplier, Currency: ledger.JOULE, Amount: 3}}},
		&ledger.Unbond{Supplier: "west-dc", Amount: 19 * nano}, &ledger.Unbond{Supplier: "west-dc", Amount: nano})
	o, ok := l.Offence(2, ledger.FineEquivocation)
	if !ok {
		tb.Fatal("no offence")
	}
	do(&ledger.IssueFine{FineCase: ledger.FineCase{Lease: 2, Reason: ledger.FineEquivocation, Evidence: []ledger.Evidence{o.Evidence}}},
		&ledger.AppealFine{Fine: 1, Supplier: "west-dc", Why: "not us"},
		&ledger.ProposeFine{FineCase: ledger.FineCase{Supplier: "west-dc", Reason: ledger.FineHostLost, Evidence: []ledger.Evidence{{Entry: 30}}},
			Operator: "ann", Why: "gone"},
		&ledger.VoidFine{Fine: 2, Operator: "bob", Why: "came back"},
		&ledger.SetRateGuard{RateGuard: ledger.RateGuard{MaxAgeMs: 360_000, DeviationPPM: 15_000, WindowMs: 1_800_000}},
		&ledger.ProposeRate{NUSDPerJoule: 90_000_000})
	now += 60_000
	do(&ledger.UsageBatch{Host: 1, Records: []ledger.Record{{Lease: 3, Seq: 1, Epoch: 1, Known: ledger.KnownAll, Hash: ledger.Hash{5}, Active: ledger.Totals{WallMs: 5000}}}},
		&ledger.CloseLease{Lease: 3, Reason: ledger.CloseHostLost})
	if le, _ := l.Lease(3); le.Hold == 0 || le.Reason == 0 {
		tb.Fatalf("nothing waits: %+v", le)
	}
	return l
}

func TestSnapshotOfEveryTable(t *testing.T) {
	l := tablesLedger(t)
	b := snapshotOf(t, l, nil)
	golden(t, "snapshot_tables", b)
	again, _, err := wire.ReadSnapshot(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Verify(); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(snapshotOf(t, again, nil), b) {
		t.Error("the restored ledger writes another snapshot")
	}
	l.TakeEntries()
	// Both go on alike, through all that is due.
	for _, cmd := range []ledger.Command{&ledger.Tick{}, &ledger.Tick{}, &ledger.OverrideRate{Rate: 2, ForMs: 50, Operator: "ann", Why: "w"}, &ledger.Tick{}} {
		env := &ledger.Envelope{Command: cmd}
		if cmd.Kind() != ledger.KindTick {
			env.Key = "again"
		}
		now := l.Now() + 700_000_000
		x, y := l.Apply(now, env), again.Apply(now, env)
		if x.Code != y.Code || x.Msg != y.Msg || len(l.TakeEntries()) != len(again.TakeEntries()) {
			t.Errorf("%T: got %+v, want %+v", cmd, y, x)
		}
	}
	if !bytes.Equal(snapshotOf(t, again, nil), snapshotOf(t, l, nil)) {
		t.Error("the restored ledger went on another way")
	}
	for i := 0; i < len(b); i += 5 {
		bent := bytes.Clone(b)
		bent[i] ^= 1 << (i % 8)
		if _, _, err := wire.ReadSnapshot(bytes.NewReader(bent)); err == nil {
			t.Fatalf("a snapshot with a bit of byte %d flipped was read", i)
		}
	}
}
