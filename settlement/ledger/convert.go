package ledger

import "math"

// convertMax bounds how many waiting leases one command converts. The lowest
// ids go first; a Tick goes on with the rest.
const convertMax = 4096

// charge moves what the lease owes out of its hold, as far as the hold goes,
// and converts it (rules M3, M4). What the hold does not cover stays owed.
func (l *Ledger) charge(id LeaseID, le *LeaseRow) (charged NUSD) {
	amount := min(le.owed(), le.HeldNUSD)
	if le.PayIn == JOULE {
		if l.pause != PauseNone {
			l.deferCharge(id, le, amount)
			return 0
		}
		amount = l.chargeJoule(id, le, amount)
		l.undefer(id, le)
	} else if amount > 0 || le.Unconverted > 0 {
		l.chargeUSD(id, le, amount)
	}
	le.Charged += amount
	sums := l.jobs.edit(int(le.Job))
	sums.held -= amount
	sums.charged += amount
	return amount
}

// chargeUSD converts the amount together with what is still waiting, or lets
// all of it wait while the rate may not convert or the treasury has too little
// JOULE (rule M6).
func (l *Ledger) chargeUSD(id LeaseID, le *LeaseRow, amount NUSD) {
	rate := l.rate()
	total := le.Unconverted + amount
	nj, rem, ok := gross(total, le.Carry, rate.NUSDPerJoule)
	if l.pause != PauseNone || !ok || int64(nj) > l.balance(treasuryJoule) {
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

// deferCharge lets a charge in JOULE wait for a rate (rule M6): it stays owed in
// USD, and the hold stays where it is, beyond the lease's end if need be.
func (l *Ledger) deferCharge(id LeaseID, le *LeaseRow, amount NUSD) {
	if amount > 0 && !le.Deferred {
		le.Deferred = true
		l.deferred++
		l.pending.add(uint64(id))
	}
}

func (l *Ledger) undefer(id LeaseID, le *LeaseRow) {
	if le.Deferred {
		le.Deferred = false
		l.deferred--
		l.pending.remove(uint64(id))
	}
}

// convertPending converts what waits, in the order of lease ids.
func (l *Ledger) convertPending() {
	l.convertNext = 1
	l.convertOn()
}

// treasuryGained converts what waited for the treasury's JOULE.
func (l *Ledger) treasuryGained() {
	if l.pending.n > 0 {
		l.convertPending()
	}
}

// convertOn goes on with what waits, until nothing does, or convertMax leases
// were looked at. The last one that the treasury's JOULE is enough for may
// convert in part.
func (l *Ledger) convertOn() {
	id, ok := l.pending.next(uint64(l.convertNext))
	l.convertNext = 0
	if l.pause != PauseNone {
		return // judgeRate begins anew when the pause ends
	}
	for range convertMax {
		have := l.balance(treasuryJoule)
		if !ok || have == 0 && l.deferred == 0 {
			return
		}
		le := l.leases.edit(int(id))
		if le.PayIn == JOULE {
			l.settle(LeaseID(id), le)
		} else {
			l.convertWaiting(LeaseID(id), le, have)
		}
		id, ok = l.pending.next(id + 1)
	}
	if ok {
		l.convertNext = LeaseID(id)
	}
}

// convertWaiting converts as much of what waits as have buys.
func (l *Ledger) convertWaiting(id LeaseID, le *LeaseRow, have int64) {
	rate := l.rate()
	amount := min(le.Unconverted, affordable(NJ(have), le.Carry, rate.NUSDPerJoule))
	if amount <= 0 {
		return
	}
	nj, rem, _ := gross(amount, le.Carry, rate.NUSDPerJoule)
	l.convertAccrued(id, le, amount, rate)
	le.Carry = rem
	l.pay(id, le, treasuryJoule, nj, rate)
}

// settle makes up for a charge that was deferred.
func (l *Ledger) settle(id LeaseID, le *LeaseRow) {
	l.raise(id, le, le.owed())
	l.charge(id, le)
	if le.Reason != CloseNone {
		l.release(id, le)
	}
}
