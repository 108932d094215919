package audit

import (
	"slices"
	"testing"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// fact is the n-th fact of a type.
func fact[F ledger.Fact](blocks []*wire.Block, n int) F {
	for _, b := range blocks {
		for i := range b.Entries {
			if f, ok := b.Entries[i].Fact.(F); ok {
				if n--; n == 0 {
					return f
				}
			}
		}
	}
	panic("no such fact")
}

// moved is the n-th transfer for a reason.
func moved(blocks []*wire.Block, n int, reason ledger.Reason) *ledger.Transfer {
	for _, b := range blocks {
		for i := range b.Entries {
			if e := &b.Entries[i]; e.Kind == ledger.EntryTransfer && e.Transfer.Reason == reason {
				if n--; n == 0 {
					return &e.Transfer
				}
			}
		}
	}
	panic("no such transfer")
}

// What is forged of rates, withdrawals, corrections, stakes and fines is found
// apart from the replay.
func TestForgedLaterEntries(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		forge func(bs []*wire.Block)
		want  string // the check that finds it, besides the replay
	}{
		{"an average", func(bs []*wire.Block) { fact[*ledger.RateProposed](bs, 1).Average++ }, CheckRates},
		{"a doubtful rate called good", func(bs []*wire.Block) { fact[*ledger.RateProposed](bs, 2).Doubtful = false }, CheckRates},
		{"a proposed rate", func(bs []*wire.Block) { fact[*ledger.RateProposed](bs, 2).NUSDPerJoule = 50_100_000 }, CheckRates},
		{"an override's end", func(bs []*wire.Block) { fact[*ledger.RateOverridden](bs, 1).Until += 10_000 }, CheckRates},
		{"an override by nobody", func(bs []*wire.Block) { fact[*ledger.RateOverridden](bs, 1).Operator = "" }, CheckRates},
		{"the guard's age", func(bs []*wire.Block) { fact[*ledger.RateGuardSet](bs, 1).MaxAgeMs = 0 }, CheckRates},
		{"a pause", func(bs []*wire.Block) { fact[*ledger.ConversionChanged](bs, 1).Paused = ledger.PauseStale }, CheckRates},
		{"a withdrawal's amount", func(bs []*wire.Block) { fact[*ledger.WithdrawalRequested](bs, 1).Amount++ }, CheckRoutes},
		{"a failed withdrawal paid out", func(bs []*wire.Block) { fact[*ledger.WithdrawalEnded](bs, 1).Confirmed = true }, CheckRoutes},
		{"a withdrawal ended twice", func(bs []*wire.Block) { fact[*ledger.WithdrawalEnded](bs, 2).ID = 1 }, CheckWithdrawals},
		{"a reference", func(bs []*wire.Block) { fact[*ledger.WithdrawalEnded](bs, 2).Text = "other" }, CheckRoutes},
		{"what a correction corrects", func(bs []*wire.Block) { fact[*ledger.CorrectionMade](bs, 1).Corrects = 5 }, CheckCorrections},
		{"a correction of a later entry", func(bs []*wire.Block) { fact[*ledger.CorrectionMade](bs, 1).Corrects = 1 << 30 }, CheckCorrections},
		{"a correction by nobody", func(bs []*wire.Block) { fact[*ledger.CorrectionMade](bs, 1).Operator = "" }, CheckCorrections},
		{"a refund too high", func(bs []*wire.Block) { moved(bs, 1, ledger.ReasonCorrect).Amount++ }, CheckCorrections},
		{"a leg of another lease", func(bs []*wire.Block) { moved(bs, 2, ledger.ReasonCorrect).Lease = 2 }, CheckCorrections},
		{"the stake policy", func(bs []*wire.Block) { fact[*ledger.StakePolicySet](bs, 1).BasePerHost = 100 * usd }, CheckStakes},
		{"a bond for another", func(bs []*wire.Block) {
			moved(bs, 3, ledger.ReasonBond).Credit = moved(bs, 2, ledger.ReasonBond).Credit
		}, CheckRoutes},
		{"an unbonding that matures early", func(bs []*wire.Block) { fact[*ledger.UnbondingStarted](bs, 1).Matures-- }, CheckStakes},
		{"what is left of an unbonding", func(bs []*wire.Block) { fact[*ledger.UnbondingEnded](bs, 1).Amount++ }, CheckStakes},
		{"the schedule", func(bs []*wire.Block) { fact[*ledger.FineScheduleSet](bs, 1).Rules[0].SharePPM-- }, CheckFines},
		{"the required stake", func(bs []*wire.Block) { fact[*ledger.FineIssued](bs, 1).Plan.Required++ }, CheckFines},
		{"an offence forgotten", func(bs []*wire.Block) { fact[*ledger.FineIssued](bs, 4).Plan.Prior++ }, CheckFines},
		{"a fine", func(bs []*wire.Block) { fact[*ledger.FineIssued](bs, 2).Plan.Amount-- }, CheckFines},
		{"a remedy", func(bs []*wire.Block) { fact[*ledger.FineIssued](bs, 2).Plan.Remedy-- }, CheckFines},
		{"a fine out of stake instead of earnings", func(bs []*wire.Block) {
			p := &fact[*ledger.FineIssued](bs, 2).Plan
			p.FromEarnings, p.FromStake = p.FromStake, p.FromEarnings
		}, CheckFines},
		{"a fine final early", func(bs []*wire.Block) { fact[*ledger.FineIssued](bs, 2).Plan.FinalAt -= minute }, CheckFines},
		{"evidence of another record", func(bs []*wire.Block) { fact[*ledger.FineIssued](bs, 2).Evidence[0].Hash[0] ^= 1 }, CheckFines},
		{"evidence used twice", func(bs []*wire.Block) {
			fact[*ledger.FineIssued](bs, 2).Evidence[0] = fact[*ledger.FineIssued](bs, 1).Evidence[0]
		}, CheckFines},
		{"evidence that is none", func(bs []*wire.Block) { fact[*ledger.FineIssued](bs, 1).Evidence[0].Entry = 3 }, CheckFines},
		{"evidence that is void", func(bs []*wire.Block) { fact[*ledger.StakePolicySet](bs, 1).UnbondMs = 5 }, CheckFines},
		{"one operator", func(bs []*wire.Block) { fact[*ledger.FineIssued](bs, 4).Approved = "ann" }, CheckFines},
		{"an appeal by another", func(bs []*wire.Block) { fact[*ledger.FineChanged](bs, 1).By = "home" }, CheckFines},
		{"a void by nobody", func(bs []*wire.Block) { fact[*ledger.FineChanged](bs, 2).By = "" }, CheckFines},
		{"a final fine lapsed", func(bs []*wire.Block) { fact[*ledger.FineChanged](bs, 3).State = ledger.FineLapsed }, CheckFines},
		{"a remedy kept", func(bs []*wire.Block) { moved(bs, 1, ledger.ReasonRemedy).Credit = 5 }, CheckRoutes},
		{"a forfeit out of nothing", func(bs []*wire.Block) { moved(bs, 1, ledger.ReasonForfeit).Reason = ledger.ReasonFineReturn }, CheckRoutes},
	} {
		blocks := fullScript().blocks
		tt.forge(blocks)
		r := mustRun(t, write(t, blocks))
		for _, check := range []string{CheckReplay, tt.want} {
			if !slices.Contains(found(r), check) {
				t.Errorf("%s: found by %q, want %q among them\n%v", tt.name, found(r), check, r.Findings)
			}
		}
	}
}
