package audit

import (
	"fmt"

	"github.com/joulecloud/joule/settlement/ledger"
)

// expected is a transfer that a fact announces: it must be the very next entry.
// An amount of 0 leaves it open.
type expected struct {
	reason   ledger.Reason
	from, to string
	currency ledger.Currency
	amount   int64
	lease    ledger.LeaseID
	ref      string
	rate     ledger.RateID
	anyRef   bool // of the outside
}

func (b *books) expect(x expected) { b.follow = append(b.follow, x) }

// follows checks an entry against what the one before announced. It reports
// whether the entry is a transfer that was announced, and then it is checked.
func (b *books) follows(e *ledger.Entry) bool {
	if len(b.follow) == 0 {
		return false
	}
	x := b.follow[0]
	b.follow = b.follow[1:]
	if e.Kind != ledger.EntryTransfer {
		b.find(CheckRoutes, e, "a transfer for reason %d of %d from %q to %q was to come here", x.reason, x.amount, x.from, x.to)
		b.follow = nil
		return false
	}
	t := &e.Transfer
	got := expected{reason: t.Reason, currency: t.Currency, amount: t.Amount, lease: t.Lease, ref: t.Ref, rate: t.Rate,
		from: b.nameOf(t.Debit), to: b.nameOf(t.Credit)}
	if x.amount == 0 {
		x.amount = t.Amount
	}
	if x.anyRef && t.Ref != "" {
		x.ref, x.anyRef = t.Ref, false
	}
	b.r.checked(CheckRoutes)
	if got != x {
		b.find(CheckRoutes, e, "the transfer is %+v, announced was %+v", got, x)
	}
	return true
}

func (b *books) nameOf(id ledger.AccountID) string {
	if a := b.accounts[id]; a != nil {
		return a.Name
	}
	return fmt.Sprintf("account %d", id)
}

// withdrawal is one that was requested.
type withdrawal struct {
	ledger.WithdrawalRequested
	ended bool
}

// correctedSums is what corrections moved for a lease, net.
type correctedSums struct{ toCustomer, fromSupplier int64 }

// followFact takes a fact of withdrawals and corrections; false for another
// one.
func (b *books) followFact(e *ledger.Entry) bool {
	switch f := e.Fact.(type) {
	case *ledger.WithdrawalRequested:
		b.r.checked(CheckWithdrawals)
		if int(f.ID) != len(b.withdrawals)+1 || f.Amount <= 0 || f.To == "" {
			b.find(CheckWithdrawals, e, "withdrawal %d of %d to %q follows withdrawal %d", f.ID, f.Amount, f.To, len(b.withdrawals))
		}
		b.withdrawals = append(b.withdrawals, withdrawal{WithdrawalRequested: *f})
		b.expect(expected{reason: ledger.ReasonWithdrawRequest, from: b.nameOf(f.Account), to: "withdrawing", currency: f.Currency,
			amount: f.Amount, ref: fmt.Sprintf("withdrawal/%d", f.ID)})
	case *ledger.WithdrawalEnded:
		b.r.checked(CheckWithdrawals)
		if f.ID == 0 || int(f.ID) > len(b.withdrawals) || b.withdrawals[f.ID-1].ended || f.Text == "" {
			b.find(CheckWithdrawals, e, "withdrawal %d ends without being under way, or without a word: %q", f.ID, f.Text)
			return true
		}
		w := &b.withdrawals[f.ID-1]
		w.ended = true
		x := expected{reason: ledger.ReasonWithdrawReturn, from: "withdrawing", to: b.nameOf(w.Account), currency: w.Currency,
			amount: w.Amount, ref: fmt.Sprintf("withdrawal/%d", f.ID)}
		if f.Confirmed {
			x.reason, x.to, x.ref = ledger.ReasonWithdraw, "external", f.Text
		}
		b.expect(x)
	case *ledger.CorrectionMade:
		b.correction(e, f)
	default:
		return false
	}
	return true
}

// correction takes the announcement of a correction's legs: they are checked as
// they come.
func (b *books) correction(e *ledger.Entry, f *ledger.CorrectionMade) {
	b.r.checked(CheckCorrections)
	l := b.leases[f.Lease]
	b.corrections++
	if uint64(f.ID) != b.corrections || l == nil || f.Corrects == 0 || f.Corrects >= e.Seq || f.Legs == 0 || f.Operator == "" || f.Why == "" {
		b.find(CheckCorrections, e, "correction %+v follows correction %d and entry %d", *f, b.corrections-1, e.Seq-1)
		return
	}
	b.links = append(b.links, link{by: e.Seq, block: b.block, entry: f.Corrects, lease: f.Lease})
	b.legs, b.leg = int(f.Legs), expected{reason: ledger.ReasonCorrect, lease: f.Lease, ref: fmt.Sprintf("correction/%d", f.ID)}
}

// correctionLeg checks a leg: it reports whether one was to come.
func (b *books) correctionLeg(e *ledger.Entry) bool {
	if b.legs == 0 {
		return false
	}
	b.legs--
	b.r.checked(CheckCorrections)
	t, l := &e.Transfer, b.leases[b.leg.lease]
	if e.Kind != ledger.EntryTransfer || t.Reason != ledger.ReasonCorrect || t.Lease != b.leg.lease || t.Ref != b.leg.ref || t.Rate != 0 {
		b.find(CheckCorrections, e, "a leg of correction %q of lease %d was to come here", b.leg.ref, b.leg.lease)
		b.legs = 0
		return false
	}
	p := b.parties(l)
	from, to := b.nameOf(t.Debit), b.nameOf(t.Credit)
	one := func(name string) bool {
		return name == "treasury" || name == p.customer && t.Currency == l.PayIn || name == p.supplier && t.Currency == ledger.JOULE
	}
	if !one(from) || !one(to) || from == to {
		b.find(CheckCorrections, e, "a leg in currency %d from %q to %q, which are not two of the lease's", t.Currency, from, to)
	}
	sums := b.corrected[l.ID]
	for _, side := range []struct {
		name string
		sign int64
	}{{from, -1}, {to, 1}} {
		switch side.name {
		case p.customer:
			sums.toCustomer += side.sign * t.Amount
		case p.supplier:
			sums.fromSupplier -= side.sign * t.Amount
		}
	}
	b.corrected[l.ID] = sums
	paid := l.charged
	if l.PayIn == ledger.JOULE {
		paid = l.gross.Int64()
	}
	if net := l.gross.Int64() - l.fee.Int64(); sums.toCustomer > paid || sums.fromSupplier > net {
		b.find(CheckCorrections, e, "corrections give the customer %d of %d it paid, and take %d of %d from the supplier",
			sums.toCustomer, paid, sums.fromSupplier, net)
	}
	return true
}
