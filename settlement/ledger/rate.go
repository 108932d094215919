package ledger

// averageRatesMax bounds how many rates an average looks back over.
const averageRatesMax = 4096

// override is an operator's word for a rate (see OverrideRate).
type override struct {
	rate  RateID // 0: none
	until Time
}

func (l *Ledger) setRate(c *SetRate) Result {
	var ck check
	ck.amount("nusd_per_joule", int64(c.NUSDPerJoule))
	if res, ok := ck.result(); !ok {
		return res
	}
	return l.addRate(Rate{NUSDPerJoule: c.NUSDPerJoule})
}

func (l *Ledger) proposeRate(c *ProposeRate) Result {
	var ck check
	ck.amount("nusd_per_joule", int64(c.NUSDPerJoule))
	if res, ok := ck.result(); !ok {
		return res
	}
	rate := Rate{NUSDPerJoule: c.NUSDPerJoule, Proposed: true}
	if guard := &l.policy.Guard; guard.DeviationPPM > 0 {
		rate.Average = l.averageRate(guard.WindowMs)
		rate.Doubtful = rate.Average > 0 && apart(rate.NUSDPerJoule, rate.Average, guard.DeviationPPM)
	}
	return l.addRate(rate)
}

func (l *Ledger) addRate(rate Rate) Result {
	rate.ID, rate.Set = RateID(len(l.rates)+1), l.now
	l.rates = append(l.rates, rate)
	if rate.Proposed {
		l.emit(EntryRateProposed).Fact = &RateProposed{ID: rate.ID, NUSDPerJoule: rate.NUSDPerJoule, Average: rate.Average, Doubtful: rate.Doubtful}
	} else {
		l.emit(EntryRate).Fact = &RateSet{ID: rate.ID, NUSDPerJoule: rate.NUSDPerJoule}
	}
	l.override = override{}
	l.judgeRate()
	l.convertPending()
	return Result{ID: uint64(rate.ID)}
}

// averageRate is the average of the rates over the time before now, each
// weighed by how long it was the newest, rounded down; 0 if there was none.
//
// No intermediate overflows: a rate is below 2⁶³ and the weights sum up to less
// than 2³⁵ (WindowMsMax).
func (l *Ledger) averageRate(windowMs uint64) NUSD {
	var sum u128
	var all uint64
	from, end := max(0, l.now-Time(windowMs)), l.now
	for i := len(l.rates) - 1; i >= 0 && i >= len(l.rates)-averageRatesMax && end > from; i-- {
		begin := max(l.rates[i].Set, from)
		weight := uint64(end - begin)
		sum = sum.addMul(uint64(l.rates[i].NUSDPerJoule), weight)
		all += weight
		end = begin
	}
	average, _, _ := sum.div(all)
	return NUSD(average)
}

// apart says whether v is further than ppm millionths of from away from it.
func apart(v, from NUSD, ppm uint32) bool {
	diff := uint64(v - from)
	if v < from {
		diff = uint64(from - v)
	}
	a, b := u128{}.addMul(diff, 1_000_000), u128{}.addMul(uint64(from), uint64(ppm))
	return a.hi > b.hi || a.hi == b.hi && a.lo > b.lo
}

// judgeRate decides whether the newest rate may convert now (rule M6), and
// says so in the journal when that changes.
func (l *Ledger) judgeRate() {
	if len(l.rates) == 0 {
		return
	}
	newest := &l.rates[len(l.rates)-1]
	why := PauseNone
	if newest.Proposed {
		if l.override.rate != 0 && l.now >= l.override.until {
			l.override = override{}
		}
		switch {
		case l.override.rate != 0:
		case newest.Doubtful:
			why = PauseDoubtful
		case l.now > l.staleAfter(newest):
			why = PauseStale
		}
	}
	if why == PauseNone {
		l.inForce = newest.ID
	}
	if why == l.pause {
		return
	}
	l.pause, l.pauseSince = why, l.now
	l.emit(EntryConversion).Fact = &ConversionChanged{Paused: why, Rate: newest.ID}
	if why == PauseNone {
		l.convertNext = 1
	}
}

// staleAfter is the last moment at which a proposed rate may convert.
func (l *Ledger) staleAfter(r *Rate) Time {
	if l.policy.Guard.MaxAgeMs == 0 {
		return timeMax
	}
	return later(r.Set, l.policy.Guard.MaxAgeMs)
}

// rateDue is when judgeRate may change its mind by the mere passing of time.
func (l *Ledger) rateDue() (Time, bool) {
	if len(l.rates) == 0 || l.pause != PauseNone {
		return 0, false
	}
	newest := &l.rates[len(l.rates)-1]
	switch {
	case !newest.Proposed:
		return 0, false
	case l.override.rate != 0:
		return l.override.until, true
	}
	after := l.staleAfter(newest)
	return after + 1, after < timeMax
}

func (l *Ledger) overrideRate(c *OverrideRate) Result {
	var ck check
	ck.within("for_ms", c.ForMs, 1, WindowMsMax)
	ck.name("operator", c.Operator)
	ck.text("why", c.Why, WhyBytesMax)
	if res, ok := ck.result(); !ok {
		return res
	}
	newest := RateID(len(l.rates))
	switch {
	case c.Rate == 0 || c.Rate > newest:
		return refuse(CodeNotFound, "rate %d not found", c.Rate)
	case c.Rate != newest:
		return refuse(CodeClosed, "rate %d is not the newest, that is rate %d", c.Rate, newest)
	case !l.rates[newest-1].Proposed:
		return refuse(CodeInvalid, "rate %d was set by hand: nothing is held against it", c.Rate)
	}
	l.override = override{rate: c.Rate, until: later(l.now, c.ForMs)}
	l.emit(EntryRateOverridden).Fact = &RateOverridden{Rate: c.Rate, Until: l.override.until, Operator: c.Operator, Why: c.Why}
	l.judgeRate()
	l.convertPending()
	return Result{}
}

func (l *Ledger) setRateGuard(c *SetRateGuard) Result {
	if res, ok := c.RateGuard.validate(); !ok {
		return res
	}
	l.policy.Guard = c.RateGuard
	l.emit(EntryRateGuard).Fact = &RateGuardSet{RateGuard: c.RateGuard}
	l.judgeRate()
	l.convertPending()
	return Result{}
}

func (g *RateGuard) validate() (Result, bool) {
	var ck check
	ck.within("max_age_ms", g.MaxAgeMs, 0, WindowMsMax)
	ck.within("deviation_ppm", uint64(g.DeviationPPM), 0, 1_000_000)
	ck.within("window_ms", g.WindowMs, 1, WindowMsMax)
	return ck.result()
}

// RateState returns what may convert; false if no rate was ever set.
func (l *Ledger) RateState() (RateState, bool) {
	newest, ok := l.NewestRate()
	inForce, _ := l.Rate()
	return RateState{Newest: newest, InForce: inForce, Paused: l.pause, Since: l.pauseSince, OverrideUntil: l.override.until}, ok
}

// NewestRate returns the last rate of the history, in force or doubtful.
func (l *Ledger) NewestRate() (Rate, bool) { return l.RateByID(l.RateCount()) }

// RateCount returns how many rates there are; ids run from 1 to it.
func (l *Ledger) RateCount() RateID { return RateID(len(l.rates)) }
