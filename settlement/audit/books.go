package audit

import (
	"math"
	"math/big"
	"strings"

	"github.com/joulecloud/joule/settlement/ledger"
)

// books are kept from the journal's entries alone: who exists, what they have,
// what each lease used and paid.
type books struct {
	r     *Report
	block uint64

	accounts  map[ledger.AccountID]*account
	customers map[ledger.CustomerID]*ledger.CustomerCreated
	suppliers map[ledger.SupplierID]*ledger.SupplierCreated
	hosts     map[ledger.HostID]*ledger.HostEnrolled
	rates     rateBooks
	leases    map[ledger.LeaseID]*lease
	touched   []*lease // in this block
	now       ledger.Time

	named       map[accountName]*account
	withdrawals []withdrawal // by id, from 1
	corrections uint64
	corrected   map[ledger.LeaseID]correctedSums
	stakes      stakeBooks
	follow      []expected // transfers that are to come next
	legs        int        // of a correction, to come next
	leg         expected   // what they have in common
	links       []link
}

type accountName struct {
	name     string
	currency ledger.Currency
}

type account struct {
	ledger.AccountOpened
	balance int64
}

func (b *books) init(r *Report) {
	*b = books{
		r:         r,
		accounts:  make(map[ledger.AccountID]*account),
		customers: make(map[ledger.CustomerID]*ledger.CustomerCreated),
		suppliers: make(map[ledger.SupplierID]*ledger.SupplierCreated),
		hosts:     make(map[ledger.HostID]*ledger.HostEnrolled),
		rates:     rateBooks{all: make(map[ledger.RateID]ledger.NUSD), guard: ledger.New().Policy().Guard},
		named:     make(map[accountName]*account),
		corrected: make(map[ledger.LeaseID]correctedSums),
		stakes:    newStakeBooks(),
		leases:    make(map[ledger.LeaseID]*lease),
	}
}

func (b *books) find(check string, e *ledger.Entry, format string, args ...any) {
	b.r.find(check, b.block, e.Seq, format, args...)
}

func (b *books) entry(e *ledger.Entry) {
	b.now = e.Time
	announced := b.follows(e) || b.correctionLeg(e)
	b.goOn(e)
	switch e.Kind {
	case ledger.EntryTransfer:
		b.transfer(e, announced)
		return
	case ledger.EntryUsage:
		b.usage(e)
		return
	}
	switch f := e.Fact.(type) {
	case *ledger.AccountOpened:
		if _, ok := b.accounts[f.ID]; ok || f.ID == 0 || f.Currency != ledger.USD && f.Currency != ledger.JOULE {
			b.find(CheckBalances, e, "account %d (%q, currency %d) can't be opened", f.ID, f.Name, f.Currency)
			return
		}
		b.accounts[f.ID] = &account{AccountOpened: *f}
		b.named[accountName{f.Name, f.Currency}] = b.accounts[f.ID]
	case *ledger.CustomerCreated:
		b.customers[f.ID] = f
	case *ledger.SupplierCreated:
		b.suppliers[f.ID] = f
		b.stakes.suppliers[f.ID] = &staker{name: f.Name, exposure: new(big.Int)}
	case *ledger.HostEnrolled:
		if old, ok := b.hosts[f.ID]; ok {
			b.find(CheckSignatures, e, "host %d was enrolled before as %q: its key can't change", f.ID, old.Name)
			return
		}
		b.hosts[f.ID] = f
		if s := b.stakes.suppliers[f.Supplier]; s != nil {
			s.hosts++
		}
	case *ledger.LeaseOpened:
		b.opened(e, f)
	case *ledger.LeaseClosed:
		b.closed(e, f)
	default:
		if !b.rateFact(e) && !b.followFact(e) {
			b.stakeFact(e)
		}
	}
}

// transfer books a transfer, and checks rules M1 and M2.
func (b *books) transfer(e *ledger.Entry, announced bool) {
	t := &e.Transfer
	b.r.Transfers++
	b.r.checked(CheckBalances)
	from, to := b.accounts[t.Debit], b.accounts[t.Credit]
	switch {
	case from == nil || to == nil || t.Debit == t.Credit:
		b.find(CheckBalances, e, "a transfer from account %d to account %d, which are not two accounts", t.Debit, t.Credit)
		return
	case from.Currency != t.Currency || to.Currency != t.Currency:
		b.find(CheckBalances, e, "a transfer in currency %d from %q (currency %d) to %q (currency %d)", t.Currency, from.Name, from.Currency, to.Name, to.Currency)
		return
	case t.Amount <= 0:
		b.find(CheckBalances, e, "a transfer of %d from %q to %q", t.Amount, from.Name, to.Name)
		return
	case from.balance < math.MinInt64+t.Amount || to.balance > math.MaxInt64-t.Amount:
		b.find(CheckBalances, e, "a transfer of %d from %q (%d) to %q (%d) overflows", t.Amount, from.Name, from.balance, to.Name, to.balance)
		return
	}
	from.balance -= t.Amount
	to.balance += t.Amount
	if from.balance < 0 && !from.mayOverdraw() {
		b.find(CheckBalances, e, "account %q is taken to %d by a transfer of %d", from.Name, from.balance, t.Amount)
	}
	if from.Name == "issuance" && from.balance < -int64(ledger.JouleSupplyMax) {
		b.find(CheckBalances, e, "%d nJ are minted, the cap is %d", -from.balance, int64(ledger.JouleSupplyMax))
	}
	if !announced {
		b.route(e, from, to)
	}
}

// mayOverdraw: only the outside and the mint carry the negative side, and of
// JOULE the outside has no more than was withdrawn.
func (a *account) mayOverdraw() bool {
	return a.Name == "external" && a.Currency == ledger.USD || a.Name == "issuance" && a.Currency == ledger.JOULE
}

// parties are the account names that a lease's transfers may go between.
type parties struct{ customer, hold, supplier string }

func (b *books) parties(l *lease) parties {
	var p parties
	if c := b.customers[l.Customer]; c != nil {
		p.customer, p.hold = "customer/"+c.Name, "hold/"+c.Name
	}
	if h := b.hosts[l.Host]; h != nil {
		if s := b.suppliers[h.Supplier]; s != nil {
			p.supplier = "supplier/" + s.Name
		}
	}
	return p
}

// route checks where a transfer goes, and books it on its lease.
func (b *books) route(e *ledger.Entry, from, to *account) {
	t := &e.Transfer
	b.r.checked(CheckRoutes)
	wrong := func() {
		b.find(CheckRoutes, e, "a transfer for reason %d in currency %d from %q to %q, lease %d", t.Reason, t.Currency, from.Name, to.Name, t.Lease)
	}
	switch t.Reason {
	case ledger.ReasonDeposit:
		if from.Name != "external" || !strings.HasPrefix(to.Name, "customer/") || t.Lease != 0 {
			wrong()
		}
		return
	case ledger.ReasonWithdraw:
		payer, _, _ := strings.Cut(from.Name, "/")
		if payer != "customer" && payer != "supplier" && payer != "treasury" || to.Name != "external" || t.Lease != 0 {
			wrong()
		}
		return
	case ledger.ReasonBond:
		name, ok := strings.CutPrefix(to.Name, "stake/")
		if !ok || from.Name != "external" && from.Name != "supplier/"+name || t.Lease != 0 || t.Currency != ledger.JOULE {
			wrong()
		}
		return
	case ledger.ReasonMint:
		if from.Name != "issuance" || to.Name != "treasury" || t.Lease != 0 {
			wrong()
		}
		return
	}
	l := b.leases[t.Lease]
	if l == nil {
		b.find(CheckRoutes, e, "a transfer for reason %d, for lease %d, which was never opened", t.Reason, t.Lease)
		return
	}
	b.touch(l)
	p := b.parties(l)
	usd, payIn := t.Currency == ledger.USD, t.Currency == l.PayIn
	var source, target string
	ok := true
	switch t.Reason {
	case ledger.ReasonHold:
		source, target, ok = p.customer, p.hold, payIn
	case ledger.ReasonRelease:
		source, target, ok = p.hold, p.customer, payIn
	case ledger.ReasonCharge:
		if source, target, ok = p.hold, "treasury", payIn; !usd {
			target = p.supplier
		}
	case ledger.ReasonPay:
		source, target, ok = "treasury", p.supplier, !usd && l.PayIn == ledger.USD
	case ledger.ReasonFee:
		if source, target, ok = "treasury", "fees", !usd; l.PayIn == ledger.JOULE {
			source = p.hold
		}
	case ledger.ReasonAccrue:
		source, target, ok = p.hold, "accrued", usd && payIn
	case ledger.ReasonConvert:
		source, target, ok = "accrued", "treasury", usd && payIn
	default:
		ok = false
	}
	if !ok || source == "" || target == "" || from.Name != source || to.Name != target {
		wrong()
	}
	if converts := t.Reason != ledger.ReasonHold && t.Reason != ledger.ReasonRelease && t.Reason != ledger.ReasonAccrue; converts && t.Rate != b.rates.inForce {
		b.find(CheckRoutes, e, "a conversion at rate %d while rate %d is in force", t.Rate, b.rates.inForce)
	} else if converts && b.rates.said != ledger.PauseNone {
		b.find(CheckRates, e, "a conversion while that is paused, for reason %d", b.rates.said)
	} else if !converts && t.Rate != 0 {
		b.find(CheckRoutes, e, "a transfer for reason %d, which converts nothing, at rate %d", t.Reason, t.Rate)
	}
	b.book(e, l)
}
