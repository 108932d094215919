package ledger

import (
	"math"
	"slices"
)

const dayMs = 86_400_000

func (l *Ledger) setFineSchedule(c *SetFineSchedule) Result {
	if res, ok := c.FineSchedule.validate(); !ok {
		return res
	}
	l.policy.Fines = c.FineSchedule
	l.policy.Fines.Rules = slices.Clone(c.Rules)
	l.emit(EntryFineSchedule).Fact = &FineScheduleSet{FineSchedule: l.policy.Fines}
	return Result{}
}

func (s *FineSchedule) validate() (Result, bool) {
	var ck check
	ck.within("appeal_ms", s.AppealMs, 1, WindowMsMax)
	ck.within("repeat_ms", s.RepeatMs, 1, WindowMsMax)
	ck.within("day_cap_ppm", uint64(s.DayCapPPM), 1, 1_000_000)
	last := FineReason(0)
	for i := range s.Rules {
		r := &s.Rules[i]
		if r.Reason.Side() != SideSupplier {
			ck.failf("rules[%d].reason must be one of the supplier's side, got %d", i, r.Reason)
		}
		if r.Reason <= last {
			ck.failf("rules[%d].reason must be above the one before, %d, got %d", i, last, r.Reason)
		}
		last = r.Reason
		ck.within("rules.share_ppm", uint64(r.SharePPM), 0, 1_000_000)
		ck.within("rules.grace", uint64(r.Grace), 0, 1_000_000)
		ck.within("rules.repeat_ppm", uint64(r.RepeatPPM), 0, 100_000_000)
		ck.within("rules.remedy_ms", r.RemedyMs, 0, WindowMsMax)
	}
	return ck.result()
}

func (s *FineSchedule) rule(reason FineReason) (*FineRule, bool) {
	for i := range s.Rules {
		if s.Rules[i].Reason == reason {
			return &s.Rules[i], true
		}
	}
	return nil, false
}

func (c *FineCase) validate(ck *check) {
	if c.Supplier != "" {
		ck.name("supplier", c.Supplier)
	}
	if c.Supplier == "" && c.Lease == 0 {
		ck.failf("supplier or lease must be given")
	}
	if c.Reason < FineEquivocation || c.Reason > FinePlatform {
		ck.failf("reason must be %d to %d, got %d", FineEquivocation, FinePlatform, c.Reason)
	}
	if n := len(c.Evidence); n == 0 || n > EvidenceMax {
		ck.failf("evidence must be 1 to %d entries, got %d", EvidenceMax, n)
	}
	for i := range c.Evidence {
		for j := range i {
			if c.Evidence[i].Entry == c.Evidence[j].Entry {
				ck.failf("evidence[%d]: entry %d is there twice", i, c.Evidence[i].Entry)
			}
		}
	}
}

// planFine says what a fine issued at now would do, and changes nothing. Checks
// come in this order: the fields; who; whose fault; the schedule; the evidence.
func (l *Ledger) planFine(c *FineCase, now Time) (p FinePlan, res Result) {
	var ck check
	c.validate(&ck)
	if res, ok := ck.result(); !ok {
		return p, res
	}
	p.Reason, p.Lease, p.FinalAt = c.Reason, c.Lease, later(now, l.policy.Fines.AppealMs)
	if c.Supplier != "" {
		id, ok := supplierNamed(l, c.Supplier)
		if !ok {
			return p, refuse(CodeNotFound, "supplier %q not found", c.Supplier)
		}
		p.Supplier = id
	}
	var le *LeaseRow
	if c.Lease != 0 {
		if c.Lease > l.LeaseCount() {
			return p, refuse(CodeNotFound, "lease %d not found", c.Lease)
		}
		le = l.leases.get(int(c.Lease))
		by := l.hosts.get(int(le.Host)).supplier
		if p.Supplier != 0 && p.Supplier != by {
			return p, refuse(CodeInvalid, "supplier: lease %d is of supplier %q, not of %q", c.Lease, l.supplierName(by), c.Supplier)
		}
		p.Supplier, p.Customer = by, le.Customer
	}
	if side := c.Reason.Side(); side != SideSupplier {
		return p, refuse(CodeNotFinable, "a fault on the side of the %s can't be fined, only the supplier's", side)
	}
	rule, ok := l.policy.Fines.rule(c.Reason)
	if !ok {
		return p, refuse(CodeNotFinable, "the schedule has no fine for %s", c.Reason)
	}
	if res := l.checkEvidence(c.Evidence, now); res.Code != CodeOK {
		return p, res
	}
	l.reckon(&p, rule, le, now)
	return p, Result{}
}

// checkEvidence says whether each piece is there, not too old, and unused.
func (l *Ledger) checkEvidence(list []Evidence, now Time) Result {
	for i, e := range list {
		at, ok := l.dated(e.Entry)
		switch {
		case e.Entry == 0 || e.Entry > l.entryCount:
			return refuse(CodeEvidence, "evidence[%d]: entry %d not found, the last is %d", i, e.Entry, l.entryCount)
		case !ok || l.tooOld(at, now):
			return refuse(CodeEvidence, "evidence[%d]: entry %d is older than %d ms, which makes it void", i, e.Entry, l.policy.Stake.UnbondMs)
		}
		if f, used := l.evidenceUsed[e.Entry]; used {
			return refuse(CodeEvidence, "evidence[%d]: entry %d served fine %d", i, e.Entry, f)
		}
	}
	return Result{}
}

// reckon applies the schedule to the supplier's stake and record (rule F3),
// and sees what there is to take (rule F4).
func (l *Ledger) reckon(p *FinePlan, rule *FineRule, le *LeaseRow, now Time) {
	s := l.suppliers.get(int(p.Supplier))
	exposure, remedy, hosts := s.exposure, NUSD(0), s.hosts
	if le != nil {
		value, _ := hourly(le.Resources, &le.Prices) // a lease whose value leaves int64 was never opened
		remedy = NUSD(u128{}.addMul(uint64(value), rule.RemedyMs).divSat(hourMs))
		if le.Reason != CloseNone {
			// The stake was there for this lease too.
			exposure = NUSD(addSat(int64(exposure), int64(value)))
			if !l.hosts.get(int(le.Host)).staked() {
				hosts++
			}
		}
	}
	p.Required = l.required(hosts, exposure)

	var today NJ
	for _, id := range slices.Backward(l.finesOf[p.Supplier]) {
		f := l.fines.get(int(id))
		age := uint64(now - f.Issued)
		if f.State == FineVoided {
			continue
		}
		if age < l.policy.Fines.RepeatMs && f.Plan.Reason == p.Reason {
			p.Prior++
		}
		if age < dayMs {
			today += f.Plan.Taken()
		}
	}
	if p.Prior >= rule.Grace {
		p.Schedule = share(p.Required, rule.SharePPM)
		for n := p.Prior - rule.Grace; n > 0 && p.Schedule > 0 && p.Schedule < math.MaxInt64 && rule.RepeatPPM != 1_000_000; n-- {
			p.Schedule = share(p.Schedule, rule.RepeatPPM)
		}
	}
	p.Amount = min(p.Schedule, max(0, share(p.Required, l.policy.Fines.DayCapPPM)-today))

	left := p.Amount
	take := func(have NJ) NJ {
		n := min(left, have)
		left -= n
		return n
	}
	p.FromEarnings = take(NJ(l.balance(s.joule)))
	p.FromStake = take(l.bonded(s))
	p.FromUnbonding = take(l.balanceOr0(s.unbonding))
	if remedy > 0 {
		p.Remedy = min(p.Taken(), NJ(jouleFor(remedy, 0, l.rate().NUSDPerJoule)))
	}
}

// share is ppm millionths of v, rounded down; MaxInt64 where that is less.
func share(v NJ, ppm uint32) NJ {
	return NJ(u128{}.addMul(uint64(v), uint64(ppm)).divSat(1_000_000))
}

// SimulateFine returns exactly what IssueFine, or with manual the approval of a
// proposal, would do at now, and changes nothing. The error is an *Error.
func (l *Ledger) SimulateFine(now Time, c *FineCase, manual bool) (FinePlan, error) {
	if !manual {
		if res := l.ownEvidence(c); res.Code != CodeOK {
			return FinePlan{}, res.Err()
		}
	}
	p, res := l.planFine(c, max(l.now, now))
	return p, res.Err()
}
