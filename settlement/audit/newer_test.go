package audit

import (
	"slices"
	"testing"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// boughtAndRetired goes on from script: stake is bought, a host with a lease is
// retired, and lost, and its supplier fined.
func boughtAndRetired() *world {
	w := script()
	w.do(&ledger.SetRate{NUSDPerJoule: 50_000_000}, &ledger.Mint{Amount: 500 * usd, Ref: "m3"},
		&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: 50 * usd, Ref: "d3"},
		&ledger.SetStakePolicy{StakePolicy: ledger.StakePolicy{BasePerHost: usd, FactorPPM: 300_000, UnbondMs: 90 * minute}},
		&ledger.SetFineSchedule{FineSchedule: ledger.FineSchedule{AppealMs: minute, RepeatMs: minute, DayCapPPM: 1_000_000,
			Rules: []ledger.FineRule{{Reason: ledger.FineHostLost, SharePPM: 500_000, RepeatPPM: 1_000_000}}}},
		&ledger.BuyStake{Supplier: "west", Paid: usd + 7, Ref: "pay"}, openLease("h1", "acme", "r1")).must(10)
	lease := w.l.LeaseCount()
	w.do(&ledger.RetireHost{Host: "h1"}).must(10)
	w.do(&ledger.CloseLease{Lease: lease, Reason: ledger.CloseHostLost}).must(10)
	w.fine(lease, ledger.FineHostLost).must(10)
	return w
}

func TestBoughtStakeAndRetiredHosts(t *testing.T) {
	w := boughtAndRetired()
	if r := mustRun(t, write(t, w.blocks)); len(r.Findings) > 0 {
		t.Fatalf("a true journal: %v", r.Findings)
	}
	for _, tt := range []struct {
		name  string
		forge func(bs []*wire.Block)
		want  string
	}{
		{"more stake than was paid for", func(bs []*wire.Block) { fact[*ledger.StakeBought](bs, 1).Amount++ }, CheckStakes},
		{"at another rate", func(bs []*wire.Block) { fact[*ledger.StakeBought](bs, 1).Rate = 1 }, CheckStakes},
		{"for another supplier", func(bs []*wire.Block) { fact[*ledger.StakeBought](bs, 1).Supplier = 2 }, CheckRoutes},
		{"out of another account", func(bs []*wire.Block) { moved(bs, 2, ledger.ReasonBuyStake).Debit = 6 }, CheckRoutes},
		{"without a reference", func(bs []*wire.Block) { moved(bs, 1, ledger.ReasonBuyStake).Ref = "" }, CheckRoutes},
		{"a host retired that is not there", func(bs []*wire.Block) { fact[*ledger.HostRetired](bs, 1).ID = 99 }, CheckStakes},
	} {
		blocks := boughtAndRetired().blocks
		tt.forge(blocks)
		r := mustRun(t, write(t, blocks))
		for _, check := range []string{CheckReplay, tt.want} {
			if !slices.Contains(found(r), check) {
				t.Errorf("%s: found by %q, want %q among them\n%v", tt.name, found(r), check, r.Findings)
			}
		}
	}
}
