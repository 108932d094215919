package ledger

import (
	"math"
	"slices"
)

// corrected sums what the corrections of a lease have moved, in the customer's
// favour and out of the supplier.
type corrected struct {
	toCustomer   int64 // net, in the lease's PayIn
	fromSupplier int64 // net, nJ
}

// add counts one leg; ok is false if the sums leave int64 or go beyond what
// the lease's customer paid and its supplier got.
func (s *corrected) add(leg *CorrectionLeg, le *LeaseRow) (ok bool) {
	paid := int64(le.Charged)
	if le.PayIn == JOULE {
		paid = int64(le.Paid + le.Fee)
	}
	switch PartyCustomer {
	case leg.To:
		if leg.Amount > math.MaxInt64-max(0, s.toCustomer) {
			return false
		}
		s.toCustomer += leg.Amount
	case leg.From:
		s.toCustomer -= leg.Amount
	}
	switch PartySupplier {
	case leg.From:
		if leg.Amount > math.MaxInt64-max(0, s.fromSupplier) {
			return false
		}
		s.fromSupplier += leg.Amount
	case leg.To:
		s.fromSupplier -= leg.Amount
	}
	return s.toCustomer <= paid && s.toCustomer > -math.MaxInt64/2 &&
		s.fromSupplier <= int64(le.Paid) && s.fromSupplier > -math.MaxInt64/2
}

func (c *Correct) validate() (Result, bool) {
	var ck check
	if n := len(c.Legs); n == 0 || n > CorrectionLegsMax {
		ck.failf("legs must be 1 to %d, got %d", CorrectionLegsMax, n)
	}
	for i := range c.Legs {
		leg := &c.Legs[i]
		for _, p := range []Party{leg.From, leg.To} {
			if p < PartyCustomer || p > PartyTreasury {
				ck.failf("legs[%d]: a party must be 1 (customer), 2 (supplier) or 3 (treasury), got %d", i, p)
			}
		}
		if leg.From == leg.To {
			ck.failf("legs[%d]: from and to must differ, got %d twice", i, leg.From)
		}
		ck.currency("legs.currency", leg.Currency)
		if leg.Currency == USD && (leg.From == PartySupplier || leg.To == PartySupplier) {
			ck.failf("legs[%d]: currency must be JOULE for a supplier, got USD", i)
		}
		ck.amount("legs.amount", leg.Amount)
	}
	ck.name("operator", c.Operator)
	ck.text("why", c.Why, WhyBytesMax)
	return ck.result()
}

// correct moves all legs or none. The entry that it corrects is in the journal,
// which the ledger does not read: that it concerns the lease is for the audit
// to see.
func (l *Ledger) correct(c *Correct) Result {
	if res, ok := c.validate(); !ok {
		return res
	}
	if c.Lease == 0 || c.Lease > l.LeaseCount() {
		return refuse(CodeNotFound, "lease %d not found", c.Lease)
	}
	if c.Entry == 0 || c.Entry > l.entryCount {
		return refuse(CodeNotFound, "entry %d not found, the last is %d", c.Entry, l.entryCount)
	}
	le := l.leases.get(int(c.Lease))
	sums := l.corrected[c.Lease]
	transfers := make([]Transfer, 0, CorrectionLegsMax)
	left := make(map[AccountID]int64, 2*CorrectionLegsMax) // never ranged over
	for i := range c.Legs {
		leg := &c.Legs[i]
		if leg.Currency != le.PayIn && (leg.From == PartyCustomer || leg.To == PartyCustomer) {
			return refuse(CodeInvalid, "legs[%d]: lease %d was paid in %s, a leg of its customer must be too",
				i, c.Lease, unit(le.PayIn))
		}
		if !sums.add(leg, le) {
			return refuse(CodeInsufficient, "legs[%d]: %s is more than is left of what lease %d charged its customer or paid its supplier",
				i, money(leg.Amount, leg.Currency), c.Lease)
		}
		t := Transfer{Debit: l.partyOf(le, leg.From, leg.Currency), Credit: l.partyOf(le, leg.To, leg.Currency),
			Amount: leg.Amount, Reason: ReasonCorrect, Lease: c.Lease}
		for _, id := range []AccountID{t.Debit, t.Credit} {
			if _, ok := left[id]; !ok {
				left[id] = l.balance(id)
			}
		}
		if left[t.Debit] < t.Amount {
			return refuse(CodeInsufficient, "legs[%d]: account %q has %s, amount is %s",
				i, l.accountName(t.Debit), money(left[t.Debit], leg.Currency), money(t.Amount, leg.Currency))
		}
		left[t.Debit] -= t.Amount
		left[t.Credit] += t.Amount
		transfers = append(transfers, t)
	}
	i, row := l.corrections.add()
	id := CorrectionID(i)
	*row = Correction{ID: id, Lease: c.Lease, Corrects: c.Entry, At: l.now, Legs: slices.Clone(c.Legs), Operator: c.Operator, Why: c.Why}
	l.corrected[c.Lease] = sums
	l.emit(EntryCorrection).Fact = &CorrectionMade{ID: id, Lease: c.Lease, Corrects: c.Entry, Legs: uint32(len(transfers)),
		Operator: c.Operator, Why: c.Why}
	for i := range transfers {
		transfers[i].Ref = ref("correction", id)
		l.transfer(&transfers[i])
	}
	l.treasuryGained()
	return Result{ID: uint64(id)}
}

// partyOf is the account of a party to a lease.
func (l *Ledger) partyOf(le *LeaseRow, party Party, cur Currency) AccountID {
	switch party {
	case PartyCustomer:
		return le.balance
	case PartySupplier:
		return le.supplier
	}
	return treasury(cur)
}

// CorrectionCount returns how many corrections there are; ids run from 1 to it.
func (l *Ledger) CorrectionCount() CorrectionID { return CorrectionID(l.corrections.len()) }

// Correction returns a correction. Its legs may not be changed.
func (l *Ledger) Correction(id CorrectionID) (Correction, bool) { return rowOf(&l.corrections, id) }
