package ledger

import "math"

// convertMax bounds how many waiting leases one Mint or SetRate converts. The
// lowest ids go first; the rest waits for the next such command, or for a
// record of its own.
const convertMax = 4096

// charge moves what the lease owes out of its hold, as far as the hold goes,
// and converts it (rules M3, M4). What the hold does not cover stays owed.
func (l *Ledger) charge(id LeaseID, le *LeaseRow) (charged NUSD) {
	amount := min(le.owed(), le.HeldNUSD)
	if le.PayIn == JOULE {
		amount = l.chargeJoule(id, le, amount)
	} else if amount > 0 || le.Unconverted > 0 {
		l.chargeUSD(id, le, amount)
	}
	le.Charged += amount
	sums := l.jobs.edit(int(le.job))
	sums.held -= amount
	sums.charged += amount
	return amount
}

// chargeUSD converts the amount together with what is still waiting, or lets
// all of it wait if the treasury has too little JOULE (rule M6).
func (l *Ledger) chargeUSD(id LeaseID, le *LeaseRow, amount NUSD) {
	rate := l.rate()
	total := le.Unconverted + amount
	nj, rem, ok := gross(total, le.Carry, rate.NUSDPerJoule)
	if !ok || int64(nj) > l.balance(treasuryJoule) {
		if amount > 0 {
			l.transfer(&Transfer{Debit: le.hold, Credit: accruedUSD, Amount: int64(amount), Reason: ReasonAccrue, Lease: id})
			le.Unconverted = total
			l.pending.add(uint64(id))
		}
	} else {
		if amount > 0 {
			l.transfer(&Transfer{Debit: le.hold, Credit: treasuryUSD, Amount: int64(amount), Reason: ReasonCharge, Lease: id, Rate: rate.ID})
		}
		l.convertAccrued(id, le, le.Unconverted, rate)
		le.Carry = rem
		l.pay(id, le, treasuryJoule, nj, rate)
	}
	le.Hold -= int64(amount)
	le.HeldNUSD -= amount
}

// convertAccrued moves USD that waited to the treasury; the caller pays JOULE
// for it.
func (l *Ledger) convertAccrued(id LeaseID, le *LeaseRow, amount NUSD, rate *Rate) {
	if amount == 0 {
		return
	}
	l.transfer(&Transfer{Debit: accruedUSD, Credit: treasuryUSD, Amount: int64(amount), Reason: ReasonConvert, Lease: id, Rate: rate.ID})
	le.Unconverted -= amount
	if le.Unconverted == 0 {
		l.pending.remove(uint64(id))
	}
}

// chargeJoule pays the supplier out of a JOULE hold, and returns how much of
// the amount it could cover.
func (l *Ledger) chargeJoule(id LeaseID, le *LeaseRow, amount NUSD) NUSD {
	rate := l.rate()
	// The second bound keeps what one lease ever paid within int64.
	most := min(NJ(le.Hold), math.MaxInt64-le.Paid-le.Fee)
	amount = min(amount, affordable(most, le.Carry, rate.NUSDPerJoule))
	if amount <= 0 {
		return 0
	}
	nj, rem, _ := gross(amount, le.Carry, rate.NUSDPerJoule)
	le.Carry = rem
	le.Hold -= int64(nj)
	le.HeldNUSD -= amount
	l.pay(id, le, le.hold, nj, rate)
	return amount
}

// pay gives the supplier nj less the fee, out of the treasury or, for a JOULE
// payer, out of the hold. The fee is the floor of the lease's whole gross, so
// it does not drift either.
func (l *Ledger) pay(id LeaseID, le *LeaseRow, from AccountID, nj NJ, rate *Rate) {
	le.ManyRates = le.ManyRates || le.LastRate != 0 && le.LastRate != rate.ID
	le.LastRate = rate.ID
	fee := feeOf(le.Paid+le.Fee+nj, le.FeePPM) - le.Fee
	reason := ReasonPay
	if from == le.hold {
		reason = ReasonCharge
	}
	if net := nj - fee; net > 0 {
		l.transfer(&Transfer{Debit: from, Credit: le.supplier, Amount: int64(net), Reason: reason, Lease: id, Rate: rate.ID})
		le.Paid += net
	}
	if fee > 0 {
		l.transfer(&Transfer{Debit: from, Credit: feesJoule, Amount: int64(fee), Reason: ReasonFee, Lease: id, Rate: rate.ID})
		le.Fee += fee
	}
}

// convertPending converts what waits, in the order of lease ids, until the
// treasury has no JOULE left or convertMax leases were looked at. The last one
// may convert in part.
func (l *Ledger) convertPending() {
	if len(l.rates) == 0 {
		return
	}
	rate := l.rate()
	id, ok := l.pending.next(0)
	for range convertMax {
		if !ok || l.balance(treasuryJoule) == 0 {
			return
		}
		le := l.leases.edit(int(id))
		if amount := min(le.Unconverted, affordable(NJ(l.balance(treasuryJoule)), le.Carry, rate.NUSDPerJoule)); amount > 0 {
			nj, rem, _ := gross(amount, le.Carry, rate.NUSDPerJoule)
			l.convertAccrued(LeaseID(id), le, amount, rate)
			le.Carry = rem
			l.pay(LeaseID(id), le, treasuryJoule, nj, rate)
		}
		id, ok = l.pending.next(id + 1)
	}
}
