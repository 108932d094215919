package audit

import (
	"cmp"
	"fmt"
	"math/big"
	"slices"

	"github.com/joulecloud/joule/settlement/ledger"
)

// The checks, in the order of the report.
const (
	CheckFiles       = "files"
	CheckChain       = "chain"
	CheckReplay      = "replay"
	CheckBalances    = "balances"
	CheckRoutes      = "routes"
	CheckCharges     = "charges"
	CheckConversions = "conversions"
	CheckRates       = "rates"
	CheckWithdrawals = "withdrawals"
	CheckCorrections = "corrections"
	CheckStakes      = "stakes"
	CheckFines       = "fines"
	CheckSignatures  = "signatures"
)

var checks = [...]string{CheckFiles, CheckChain, CheckReplay, CheckBalances, CheckRoutes, CheckCharges, CheckConversions,
	CheckRates, CheckWithdrawals, CheckCorrections, CheckStakes, CheckFines, CheckSignatures}

// FindingsMax is how many findings of one check a report carries in full; the
// verdict counts all of them.
const FindingsMax = 100

// Report is the outcome of an audit.
type Report struct {
	Dir       string
	Blocks    uint64
	Commands  uint64
	Entries   uint64
	Transfers uint64
	Leases    uint64
	Batches   uint64 // of usage records
	Records   uint64
	From, To  ledger.Time   // of the first and the last block; 0 without blocks
	Digest    ledger.Digest // of the last block, recomputed
	Accounts  []Balance     // by id
	Sums      []Sum         // per currency
	Verdicts  []Verdict     // one per check
	Findings  []Finding     // in the order in which they were met
	// Note is about something that is no fault, such as an unfinished block at
	// the end of a journal that is being written; "" if there is nothing.
	Note string
}

// Balance is an account as its transfers make it.
type Balance struct {
	ID       ledger.AccountID
	Name     string
	Currency ledger.Currency
	Balance  int64
}

// Sum is what all balances of a currency add up to; 0 unless something is
// wrong.
type Sum struct {
	Currency ledger.Currency
	Sum      *big.Int
}

// Verdict is one check's outcome.
type Verdict struct {
	Check    string
	Checked  uint64 // what it was made on: frames, blocks, commands, transfers, leases, batches
	Findings uint64
	// Stopped says why the check did not see the whole journal; "" if it did.
	Stopped string
}

// Finding is one fault.
type Finding struct {
	Check    string
	BlockSeq uint64 // 0: none in particular
	EntrySeq uint64 // 0: none in particular
	Text     string
}

// OK reports whether every check saw the whole journal and found nothing.
func (r *Report) OK() bool {
	return !slices.ContainsFunc(r.Verdicts, func(v Verdict) bool { return v.Findings > 0 || v.Stopped != "" })
}

func newReport(dir string) *Report {
	r := &Report{Dir: dir}
	for _, c := range checks {
		r.Verdicts = append(r.Verdicts, Verdict{Check: c})
	}
	return r
}

func (r *Report) verdict(check string) *Verdict {
	i := slices.IndexFunc(r.Verdicts, func(v Verdict) bool { return v.Check == check })
	return &r.Verdicts[i]
}

func (r *Report) checked(check string) { r.verdict(check).Checked++ }

func (r *Report) find(check string, block, entry uint64, format string, args ...any) {
	v := r.verdict(check)
	v.Findings++
	if v.Findings <= FindingsMax {
		r.Findings = append(r.Findings, Finding{Check: check, BlockSeq: block, EntrySeq: entry, Text: fmt.Sprintf(format, args...)})
	}
}

func (r *Report) stop(check, format string, args ...any) {
	if v := r.verdict(check); v.Stopped == "" {
		v.Stopped = fmt.Sprintf(format, args...)
	}
}

func (b *books) report(r *Report) {
	sums := map[ledger.Currency]*big.Int{ledger.USD: new(big.Int), ledger.JOULE: new(big.Int)}
	for id, a := range b.accounts {
		r.Accounts = append(r.Accounts, Balance{ID: id, Name: a.Name, Currency: a.Currency, Balance: a.balance})
		if sum := sums[a.Currency]; sum != nil {
			sum.Add(sum, big.NewInt(a.balance))
		}
	}
	slices.SortFunc(r.Accounts, func(a, b Balance) int { return cmp.Compare(a.ID, b.ID) })
	for _, c := range []ledger.Currency{ledger.USD, ledger.JOULE} {
		r.Sums = append(r.Sums, Sum{Currency: c, Sum: sums[c]})
		if sums[c].Sign() != 0 {
			r.find(CheckBalances, 0, 0, "all balances of currency %d sum to %s, want 0", c, sums[c])
		}
	}
}
