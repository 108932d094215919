package ledger

import (
	"math"
	"slices"
)

// hourMs is the time that a lease's value is reckoned over.
const hourMs = 3_600_000

// hourly is what a lease can cost in an hour; ok is false if that leaves int64.
func hourly(r Resources, p *Prices) (NUSD, bool) { return sliceCost(hourMs, r, p) }

// required is the stake that hosts and an exposure ask (rule F1), MaxInt64 if
// that is less. There is a rate wherever there is an exposure.
func (l *Ledger) required(hosts uint32, exposure NUSD) NJ {
	p := &l.policy.Stake
	base := u128{}.addMul(uint64(p.BasePerHost), uint64(hosts)).divSat(1)
	if p.FactorPPM == 0 || exposure == 0 {
		return NJ(base)
	}
	value := u128{}.addMul(uint64(exposure), uint64(p.FactorPPM)).add(1_000_000 - 1).divSat(1_000_000)
	return NJ(addSat(base, jouleFor(NUSD(value), 0, l.rate().NUSDPerJoule)))
}

// staked says whether the supplier may take on a lease of this hourly value
// (rule F1).
func (l *Ledger) staked(id SupplierID, value NUSD) (Result, bool) {
	s := l.suppliers.get(int(id))
	if value > math.MaxInt64-s.exposure {
		return refuse(CodeOverflow, "the leases of supplier %q are worth more than %s an hour", l.supplierName(id), money(math.MaxInt64, USD)), false
	}
	need, have := l.required(s.hosts, s.exposure+value), l.bonded(s)
	if have < need {
		return refuse(CodeStake, "supplier %q has %s at stake, %s are asked for its %d hosts and leases worth %s an hour with this one",
			l.supplierName(id), money(int64(have), JOULE), money(int64(need), JOULE), s.hosts, money(int64(s.exposure+value), USD)), false
	}
	return Result{}, true
}

func (l *Ledger) bonded(s *supplier) NJ { return l.balanceOr0(s.stake) }

// balanceOr0 is the balance of an account that may not have been opened.
func (l *Ledger) balanceOr0(id AccountID) NJ {
	if id == 0 {
		return 0
	}
	return NJ(l.balance(id))
}

// stakeAccount returns the supplier's account for stake, which it opens if
// need be.
func (l *Ledger) stakeAccount(id SupplierID) AccountID {
	s := l.suppliers.edit(int(id))
	if s.stake == 0 {
		s.stake = l.openAccount(accountStake, uint32(id), l.supplierName(id), JOULE)
	}
	return s.stake
}

func (l *Ledger) unbondingAccount(id SupplierID) AccountID {
	s := l.suppliers.edit(int(id))
	if s.unbonding == 0 {
		s.unbonding = l.openAccount(accountUnbonding, uint32(id), l.supplierName(id), JOULE)
	}
	return s.unbonding
}

func (l *Ledger) setStakePolicy(c *SetStakePolicy) Result {
	if res, ok := c.StakePolicy.validate(); !ok {
		return res
	}
	l.policy.Stake = c.StakePolicy
	l.emit(EntryStakePolicy).Fact = &StakePolicySet{StakePolicy: c.StakePolicy}
	return Result{}
}

func (p *StakePolicy) validate() (Result, bool) {
	var ck check
	if p.BasePerHost < 0 || p.BasePerHost > JouleSupplyMax {
		ck.failf("base_per_host must be 0 to %d nJ, got %d", JouleSupplyMax, p.BasePerHost)
	}
	ck.within("unbond_ms", p.UnbondMs, markMs, WindowMsMax)
	return ck.result()
}

func (l *Ledger) bond(c *Bond) Result {
	var ck check
	ck.name("supplier", c.Supplier)
	ck.amount("amount", int64(c.Amount))
	switch c.From {
	case BondEarnings:
		if c.Ref != "" {
			ck.failf("ref must be empty for a bond from earnings, got %s", quote(c.Ref))
		}
	case BondDeposit:
		ck.text("ref", c.Ref, RefBytesMax)
	default:
		ck.failf("from must be 1 (earnings) or 2 (deposit), got %d", c.From)
	}
	if res, ok := ck.result(); !ok {
		return res
	}
	id, ok := supplierNamed(l, c.Supplier)
	if !ok {
		return refuse(CodeNotFound, "supplier %q not found", c.Supplier)
	}
	s := l.suppliers.get(int(id))
	t := Transfer{Debit: s.joule, Amount: int64(c.Amount), Reason: ReasonBond, Ref: c.Ref}
	if c.From == BondDeposit {
		t.Debit = externalJoule
		if out := l.balance(externalJoule); t.Amount > out {
			return refuse(CodeInsufficient, "amount is %s, but only %s that was withdrawn can come back",
				money(t.Amount, JOULE), money(out, JOULE))
		}
	} else if have := l.balance(s.joule); t.Amount > have {
		return refuse(CodeInsufficient, "supplier %q has %s, amount is %s", c.Supplier, money(have, JOULE), money(t.Amount, JOULE))
	}
	t.Credit = l.stakeAccount(id)
	l.transfer(&t)
	return Result{}
}

func (l *Ledger) unbond(c *Unbond) Result {
	var ck check
	ck.name("supplier", c.Supplier)
	ck.amount("amount", int64(c.Amount))
	if res, ok := ck.result(); !ok {
		return res
	}
	sup, ok := supplierNamed(l, c.Supplier)
	if !ok {
		return refuse(CodeNotFound, "supplier %q not found", c.Supplier)
	}
	s := l.suppliers.get(int(sup))
	if have := l.bonded(s); have < c.Amount {
		return refuse(CodeInsufficient, "supplier %q has %s at stake, amount is %s",
			c.Supplier, money(int64(have), JOULE), money(int64(c.Amount), JOULE))
	}
	from := s.stake
	to := l.unbondingAccount(sup)
	i, row := l.unbondings.add()
	id := UnbondingID(i)
	*row = Unbonding{ID: id, Supplier: sup, Amount: c.Amount, Started: l.now, Matures: later(l.now, l.policy.Stake.UnbondMs)}
	l.linkUnbonding(row)
	l.emit(EntryUnbonding).Fact = &UnbondingStarted{ID: id, Supplier: sup, Amount: c.Amount, Matures: row.Matures}
	l.transfer(&Transfer{Debit: from, Credit: to, Amount: int64(c.Amount), Reason: ReasonUnbond, Ref: ref("unbonding", id)})
	return Result{ID: uint64(id)}
}

// linkUnbonding puts an open unbonding on its supplier's list and among what
// falls due.
func (l *Ledger) linkUnbonding(u *Unbonding) {
	l.unbondingsOf[u.Supplier] = append(l.unbondingsOf[u.Supplier], u.ID)
	l.due.push(dueItem{at: u.Matures, kind: dueUnbonding, id: uint32(u.ID)})
}

// matureUnbonding gives back what fines have left of an unbonding.
func (l *Ledger) matureUnbonding(id UnbondingID) {
	u := l.unbondings.edit(int(id))
	s := l.suppliers.get(int(u.Supplier))
	u.Ended = true
	open := l.unbondingsOf[u.Supplier]
	i := slices.Index(open, id)
	if open = slices.Delete(open, i, i+1); len(open) > 0 {
		l.unbondingsOf[u.Supplier] = open
	} else {
		delete(l.unbondingsOf, u.Supplier)
	}
	l.emit(EntryUnbondingEnded).Fact = &UnbondingEnded{ID: id, Amount: u.Amount}
	if u.Amount > 0 {
		l.transfer(&Transfer{Debit: s.unbonding, Credit: s.joule, Amount: int64(u.Amount), Reason: ReasonUnbonded, Ref: ref("unbonding", id)})
	}
}

// Stake returns what a supplier has at stake and what is asked of it now.
func (l *Ledger) Stake(id SupplierID) (Stake, bool) {
	s, ok := rowOf(&l.suppliers, id)
	if !ok {
		return Stake{}, false
	}
	return Stake{Supplier: id, Bonded: l.bonded(&s), Unbonding: l.balanceOr0(s.unbonding),
		Required: l.required(s.hosts, s.exposure), Hosts: s.hosts, Exposure: s.exposure}, true
}

// UnbondingCount returns how many unbondings there are; ids run from 1 to it.
func (l *Ledger) UnbondingCount() UnbondingID { return UnbondingID(l.unbondings.len()) }

// Unbonding returns an unbonding.
func (l *Ledger) Unbonding(id UnbondingID) (Unbonding, bool) { return rowOf(&l.unbondings, id) }
