package wire_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

func sampleSchedule() ledger.FineSchedule {
	return ledger.FineSchedule{AppealMs: 604_800_000, RepeatMs: 2_592_000_000, DayCapPPM: 500_000, Rules: []ledger.FineRule{
		{Reason: ledger.FineEquivocation, SharePPM: 200_000, RepeatPPM: 2_000_000, RemedyMs: 3_600_000},
		{Reason: ledger.FineHostLost, SharePPM: 20_000, Grace: 2, RepeatPPM: 1_500_000, RemedyMs: 7_200_000}}}
}

func sampleEvidence() []ledger.Evidence {
	return []ledger.Evidence{{Entry: 12, Hash: ledger.Hash{0xe1, 15: 0xe2}}, {Entry: 1 << 40}}
}

// laterCommands holds one of every kind from ProposeRate on, in the order of
// their numbers.
func laterCommands() []ledger.Command {
	return []ledger.Command{
		&ledger.ProposeRate{NUSDPerJoule: 50_000_001},
		&ledger.OverrideRate{Rate: 7, ForMs: 3_600_000, Operator: "ann", Why: "the exchange halted"},
		&ledger.SetRateGuard{RateGuard: ledger.RateGuard{MaxAgeMs: 360_000, DeviationPPM: 15_000, WindowMs: 1_800_000}},
		&ledger.RequestWithdrawal{Party: ledger.PartySupplier, Name: "west-dc", Currency: ledger.JOULE, Amount: 9, To: "addr"},
		&ledger.ConfirmWithdrawal{Withdrawal: 3, Ref: "out_7"},
		&ledger.FailWithdrawal{Withdrawal: 4, Why: "address closed"},
		&ledger.Correct{Lease: 12, Entry: 345, Operator: "bob", Why: "clock was wrong", Legs: []ledger.CorrectionLeg{
			{From: ledger.PartyTreasury, To: ledger.PartyCustomer, Currency: ledger.USD, Amount: 6},
			{From: ledger.PartySupplier, To: ledger.PartyTreasury, Currency: ledger.JOULE, Amount: 7}}},
		&ledger.SetStakePolicy{StakePolicy: ledger.StakePolicy{BasePerHost: 8, FactorPPM: 24_000_000, UnbondMs: 1_814_400_000}},
		&ledger.Bond{Supplier: "west-dc", Amount: 10, From: ledger.BondDeposit, Ref: "in_1"},
		&ledger.Unbond{Supplier: "west-dc", Amount: 11},
		&ledger.SetFineSchedule{FineSchedule: sampleSchedule()},
		&ledger.IssueFine{FineCase: ledger.FineCase{Lease: 12, Reason: ledger.FineEquivocation, Evidence: sampleEvidence()}},
		&ledger.ProposeFine{FineCase: ledger.FineCase{Supplier: "west-dc", Reason: ledger.FineBreach, Evidence: sampleEvidence()[:1]},
			Operator: "ann", Why: "mined on the host"},
		&ledger.ApproveFine{Fine: 2, Operator: "bob"},
		&ledger.AppealFine{Fine: 2, Supplier: "west-dc", Why: "was not us"},
		&ledger.VoidFine{Fine: 2, Operator: "ann", Why: "was not them"},
		&ledger.Tick{},
	}
}

var laterNames = []string{"propose_rate", "override_rate", "set_rate_guard", "request_withdrawal", "confirm_withdrawal",
	"fail_withdrawal", "correct", "set_stake_policy", "bond", "unbond", "set_fine_schedule", "issue_fine", "propose_fine",
	"approve_fine", "appeal_fine", "void_fine", "tick"}

// laterEntries holds one of every kind from EntryRateProposed on, in the order
// of their numbers.
func laterEntries() []ledger.Entry {
	plan := ledger.FinePlan{Supplier: 2, Lease: 12, Customer: 1, Reason: ledger.FineHostLost, Required: 1000, Prior: 3,
		Schedule: 30, Amount: 20, FromEarnings: 4, FromStake: 5, FromUnbonding: 6, Remedy: 7, FinalAt: 1_763_800_000_009}
	entries := []ledger.Entry{
		{Kind: ledger.EntryRateProposed, Fact: &ledger.RateProposed{ID: 3, NUSDPerJoule: 60_000_000, Average: 50_000_000, Doubtful: true}},
		{Kind: ledger.EntryRateOverridden, Fact: &ledger.RateOverridden{Rate: 3, Until: 1_763_800_000_001, Operator: "ann", Why: "true"}},
		{Kind: ledger.EntryConversion, Fact: &ledger.ConversionChanged{Paused: ledger.PauseDoubtful, Rate: 3}},
		{Kind: ledger.EntryRateGuard, Fact: &ledger.RateGuardSet{RateGuard: ledger.RateGuard{MaxAgeMs: 1, DeviationPPM: 2, WindowMs: 3}}},
		{Kind: ledger.EntryWithdrawal, Fact: &ledger.WithdrawalRequested{ID: 1, Account: 9, Currency: ledger.USD, Amount: 5, To: "iban"}},
		{Kind: ledger.EntryWithdrawalEnded, Fact: &ledger.WithdrawalEnded{ID: 1, Confirmed: true, Text: "out_7"}},
		{Kind: ledger.EntryCorrection, Fact: &ledger.CorrectionMade{ID: 1, Lease: 12, Corrects: 345, Legs: 2, Operator: "bob", Why: "clock"}},
		{Kind: ledger.EntryStakePolicy, Fact: &ledger.StakePolicySet{StakePolicy: ledger.StakePolicy{BasePerHost: 1, FactorPPM: 2, UnbondMs: 3}}},
		{Kind: ledger.EntryUnbonding, Fact: &ledger.UnbondingStarted{ID: 1, Supplier: 2, Amount: 3, Matures: 4}},
		{Kind: ledger.EntryUnbondingEnded, Fact: &ledger.UnbondingEnded{ID: 1, Amount: 2}},
		{Kind: ledger.EntryFineSchedule, Fact: &ledger.FineScheduleSet{FineSchedule: sampleSchedule()}},
		{Kind: ledger.EntryFineProposed, Fact: &ledger.FineProposed{ID: 1, Supplier: 2, Reason: ledger.FineBreach, Evidence: sampleEvidence(),
			Operator: "ann", Why: "mined", LapsesAt: 5}},
		{Kind: ledger.EntryFineIssued, Fact: &ledger.FineIssued{ID: 1, Plan: plan, Evidence: sampleEvidence(), Approved: "bob"}},
		{Kind: ledger.EntryFineChanged, Fact: &ledger.FineChanged{ID: 1, State: ledger.FineVoided, By: "ann", Why: "not them", FinalAt: 6}},
	}
	for i := range entries {
		entries[i].Seq = uint64(200 + i)
		entries[i].Time = 1_763_800_000_000
	}
	return entries
}

func TestGoldenLaterCommands(t *testing.T) {
	batch := &wire.CommandBatch{Time: 1_763_800_000_124}
	first := int(ledger.KindProposeRate)
	for i, cmd := range laterCommands() {
		if int(cmd.Kind()) != first+i {
			t.Fatalf("sample %d has kind %d, want %d", i, cmd.Kind(), first+i)
		}
		in := &wire.CommandBatch{Time: 1_763_800_000_123, Envelopes: []ledger.Envelope{{Key: "k-" + laterNames[i], Command: cmd}}}
		enc := wire.AppendCommandBatch(nil, in)
		golden(t, "command_"+laterNames[i], enc)
		var out wire.CommandBatch
		if err := wire.DecodeCommandBatch(enc, &out); err != nil {
			t.Errorf("%s: %v", laterNames[i], err)
			continue
		}
		if diff := cmp.Diff(in, &out); diff != "" {
			t.Errorf("%s: decoded differs (-want +got):\n%s", laterNames[i], diff)
		}
		batch.Envelopes = append(batch.Envelopes, in.Envelopes...)
	}
	if n := len(batch.Envelopes); n != int(ledger.KindTick)-first+1 {
		t.Errorf("got %d samples, want one of every kind", n)
	}
}

func TestGoldenLaterEntries(t *testing.T) {
	for i, e := range laterEntries() {
		if want := int(ledger.EntryRateProposed) + i; int(e.Kind) != want {
			t.Fatalf("sample entry %d has kind %d, want %d", i, e.Kind, want)
		}
	}
	b := &wire.Block{Seq: 4, Index: 18, Time: 1_763_800_000_000, Entries: laterEntries()}
	for _, cmd := range laterCommands() {
		b.Envelopes = append(b.Envelopes, ledger.Envelope{Key: "k", Command: cmd})
		b.Results = append(b.Results, ledger.Result{Code: ledger.CodeSameOperator, Msg: "m", ID: 6})
	}
	enc := wire.AppendBlock(nil, ledger.Digest{0xd1}, b)
	golden(t, "block_later", enc)
	back, err := wire.DecodeBlock(enc)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b, back); diff != "" {
		t.Errorf("decoded block differs (-want +got):\n%s", diff)
	}
	for n := range len(enc) {
		if _, err := wire.DecodeBlock(enc[:n]); err == nil {
			t.Errorf("a block cut to %d bytes decoded", n)
		}
	}
}

// What an older server does not know it does not skip: the number after the
// last one of each form is an unknown version, on which the server halts.
func TestTheNextNumbersAreUnknown(t *testing.T) {
	cmd := wire.AppendCommandBatch(nil, &wire.CommandBatch{Envelopes: []ledger.Envelope{{Command: &ledger.Tick{}}}})
	kind := len(cmd) - 2 // a Tick is its kind alone
	cmd[kind] = byte(ledger.KindRetireHost) + 1
	if err := wire.DecodeCommandBatch(cmd, new(wire.CommandBatch)); !errors.Is(err, wire.ErrUnknownVersion) {
		t.Errorf("command %d: got %v, want ErrUnknownVersion", cmd[kind], err)
	}
	last := laterEntries()[len(laterEntries())-1]
	block := wire.AppendBlock(nil, ledger.Digest{}, &wire.Block{Entries: []ledger.Entry{last}})
	at := bytes.IndexByte(block[1+3*8+3*4+16:], byte(last.Kind)) + 1 + 3*8 + 3*4 + 16
	block[at] = byte(ledger.EntryHostRetired) + 1
	if _, err := wire.DecodeBlock(block); !errors.Is(err, wire.ErrUnknownVersion) {
		t.Errorf("entry %d: got %v, want ErrUnknownVersion", block[at], err)
	}
	snapshot := snapshotOf(t, ledger.New(), nil)
	for _, other := range []byte{snapshot[8] - 1, snapshot[8] + 1} {
		snapshot[8] = other
		if _, _, err := wire.ReadSnapshot(bytes.NewReader(snapshot)); !errors.Is(err, wire.ErrUnknownVersion) {
			t.Errorf("snapshot version %d: got %v, want ErrUnknownVersion", other, err)
		}
		snapshot[8] = 2
	}
}
