package ledger

import "math"

// BuyStake is stake for USD that came from outside, at the rate in force, so
// that a supplier can begin without having earned anything: external →
// treasury in USD, treasury → stake in JOULE. The remainder of the division is
// the treasury's. Nothing is bought while conversion is paused (rule M6).
type BuyStake struct {
	Supplier string
	Paid     NUSD
	Ref      string // outside reference of the payment
}

// Kind implements Command.
func (*BuyStake) Kind() CommandKind { return KindBuyStake }

// StakeBought records a purchase; the two transfers follow it.
type StakeBought struct {
	Supplier SupplierID
	Paid     NUSD
	Amount   NJ // floor of what was paid at the rate
	Rate     RateID
}

func (*StakeBought) entryKind() EntryKind { return EntryStakeBought }

func (l *Ledger) buyStake(c *BuyStake) Result {
	var ck check
	ck.name("supplier", c.Supplier)
	ck.amount("paid", int64(c.Paid))
	ck.text("ref", c.Ref, RefBytesMax)
	if res, ok := ck.result(); !ok {
		return res
	}
	id, ok := supplierNamed(l, c.Supplier)
	if !ok {
		return refuse(CodeNotFound, "supplier %q not found", c.Supplier)
	}
	switch {
	case len(l.rates) == 0:
		return refuse(CodeNoRate, "no rate was ever set")
	case l.pause != PauseNone:
		return refuse(CodeNoRate, "the rate is %s, and nothing converts until there is another", nameOf(l.pause, "stale", "doubtful"))
	case l.balance(externalUSD) < -math.MaxInt64+int64(c.Paid):
		return refuse(CodeOverflow, "paid %s would take all deposits beyond %s", money(int64(c.Paid), USD), money(math.MaxInt64, USD))
	}
	rate := l.rate()
	nj, _, ok := gross(c.Paid, 0, rate.NUSDPerJoule)
	if have := l.balance(treasuryJoule); !ok || int64(nj) > have {
		return refuse(CodeInsufficient, "the treasury has %s, which is less than %s buys", money(have, JOULE), money(int64(c.Paid), USD))
	}
	if nj == 0 {
		return refuse(CodeInsufficient, "paid %s buys nothing at %s per JOULE", money(int64(c.Paid), USD), money(int64(rate.NUSDPerJoule), USD))
	}
	to := l.stakeAccount(id)
	l.emit(EntryStakeBought).Fact = &StakeBought{Supplier: id, Paid: c.Paid, Amount: nj, Rate: rate.ID}
	l.transfer(&Transfer{Debit: externalUSD, Credit: treasuryUSD, Amount: int64(c.Paid), Reason: ReasonBuyStake, Rate: rate.ID, Ref: c.Ref})
	l.transfer(&Transfer{Debit: treasuryJoule, Credit: to, Amount: int64(nj), Reason: ReasonBuyStake, Rate: rate.ID, Ref: c.Ref})
	return Result{}
}
