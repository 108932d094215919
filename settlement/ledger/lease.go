package ledger

import "math"

// LeaseRow is a lease's terms and running values: what every usage record
// touches, and little else. It is five cache lines, without a pointer. Exported
// for snapshots; read a lease through Ledger.Lease.
type LeaseRow struct {
	Host      HostID
	Customer  CustomerID
	LastSeq   uint64
	LastHash  Hash
	Opened    Time
	Resources Resources
	FeePPM    uint32
	Job       uint32 // number of the customer's job
	LastRate  RateID // of the last conversion

	Prices   Prices
	Slice    NUSD  // what one slice can cost (rule M5)
	Budget   NUSD  // of the job; 0: none
	Hold     int64 // in PayIn
	HeldNUSD NUSD  // what Hold was set aside for; equals it for a USD payer

	Charged     NUSD
	Unconverted NUSD   // part of Charged that waits for JOULE (rule M6)
	Carry       uint64 // remainder of the last conversion, in nUSD×10⁻⁹ (rule M4)
	Paid, Fee   NJ
	Quality     Quality
	PayIn       Currency
	Reason      CloseReason
	Stop        CloseReason // a stop that the host was asked for
	Bounds      Bound
	Known       Known // of the last record
	ManyRates   bool  // converted at more than one rate
	Deferred    bool  // a charge in JOULE waits for a rate (rule M6)

	balance  AccountID // the customer's, in PayIn
	hold     AccountID
	supplier AccountID

	Claimed        Totals // as the host last said, active
	Billed         Totals // Claimed within its bounds (rule U6)
	ClaimedStandby Totals // as the host last said, standby
	Standby        Totals // ClaimedStandby within its bounds
}

// leaseTerms are the rest of a lease, which only opening, ending and reading
// touch.
type leaseTerms struct {
	texts     textRef // see leaseAlloc
	closed    Time
	firstHold int64
	sliceMs   uint32
	key       uint32 // row of the key that it was opened under, which has its input
}

// The texts of a lease's record. The first three are its natural key.
const (
	leaseAlloc = iota
	leaseTask
	leaseInvocation
	leaseGroup
)

// leaseEpoch is the epoch of every lease without a pool: such a lease is its
// own slot, which nobody else ever holds (rule S1), so all its active time is
// its own (rule S2).
const leaseEpoch = 1

// openLease checks in this order: the fields; whether the lease exists
// already; namespace, host, offer, rate; the job's max_price; the supplier's
// stake; the job's budget; the funds for the first slice.
func (l *Ledger) openLease(c *OpenLease, input *InputHash) Result {
	if res, ok := c.validate(); !ok {
		return res
	}
	if id, ok := leaseKeyed(l, c.Alloc, c.Task, c.Invocation); ok {
		terms := l.leaseTerms.get(int(id))
		if l.keys.get(int(terms.key)).input != *input {
			return refuse(CodeConflict, "lease %d was opened for alloc %q, task %q, invocation %q with other values",
				id, c.Alloc, c.Task, c.Invocation)
		}
		return l.granted(id, terms.firstHold)
	}
	cust, ok := customerOf(l, c.Namespace)
	if !ok {
		return refuse(CodeNotFound, "namespace %q belongs to no customer", c.Namespace)
	}
	hostID, ok := hostNamed(l, c.Host)
	if !ok {
		return refuse(CodeNotFound, "host %q not found", c.Host)
	}
	h := l.hosts.get(int(hostID))
	if h.retired {
		return refuse(CodeClosed, "host %q is retired", c.Host)
	}
	if !h.hasOffer {
		return refuse(CodeNoOffer, "host %q has no offer", c.Host)
	}
	if len(l.rates) == 0 {
		return refuse(CodeNoRate, "no rate was ever set")
	}
	limits := c.MaxPrices.dimensions()
	for i, d := range h.offer.dimensions() {
		if limit := limits[i].price; limit != 0 && d.price > limit {
			return refuse(CodeTooDear, "host %q asks %s per hour of %s, the job's max_price is %s",
				c.Host, money(int64(d.price), USD), d.name, money(int64(limit), USD))
		}
	}
	slice, ok := sliceCost(l.policy.SliceMs, c.Resources, &h.offer)
	if !ok {
		return refuse(CodeOverflow, "the first %s slice of this task costs more than %s",
			span(l.policy.SliceMs), money(math.MaxInt64, USD))
	}
	value, ok := hourly(c.Resources, &h.offer)
	if !ok {
		return refuse(CodeOverflow, "an hour of this task costs more than %s", money(math.MaxInt64, USD))
	}
	if res, ok := l.staked(h.supplier, value); !ok {
		return res
	}
	row := LeaseRow{Host: hostID, Customer: cust, Opened: l.now, Prices: h.offer, Resources: c.Resources,
		FeePPM: l.policy.FeePPM, Slice: slice, Budget: c.Budget, PayIn: l.customers.get(int(cust)).payIn}
	if res, ok := l.checkFirstSlice(&row, c.Job); !ok {
		return res
	}

	job, ok := jobNamed(l, cust, c.Job)
	if !ok {
		job = addJob(l, cust, c.Job)
	}
	row.Job = uint32(job)
	terms := leaseTerms{sliceMs: l.policy.SliceMs, key: uint32(l.keys.len() + 1)}
	id := addLease(l, &row, &terms, c.Alloc, c.Task, c.Invocation, c.Group)
	le := l.leases.edit(int(id))
	l.emit(EntryLeaseOpened).Fact = &LeaseOpened{ID: id, Customer: cust, Host: hostID,
		Job: c.Job, Group: c.Group, Task: c.Task, Alloc: c.Alloc, Invocation: c.Invocation,
		Prices: le.Prices, Resources: le.Resources, FeePPM: le.FeePPM, SliceMs: terms.sliceMs, PayIn: le.PayIn, Budget: le.Budget}
	l.raise(id, le, slice)
	l.leaseTerms.edit(int(id)).firstHold = le.Hold
	return l.granted(id, le.Hold)
}

func (c *OpenLease) validate() (Result, bool) {
	var ck check
	ck.name("host", c.Host)
	for _, f := range []struct{ field, value string }{
		{"namespace", c.Namespace}, {"job", c.Job}, {"group", c.Group}, {"task", c.Task},
		{"alloc", c.Alloc}, {"invocation", c.Invocation},
	} {
		ck.text(f.field, f.value, NomadNameBytesMax)
	}
	ck.resources(&c.Resources)
	ck.prices("max_prices", &c.MaxPrices)
	if c.Budget < 0 {
		ck.failf("budget must be 0 (none) or above, got %d", c.Budget)
	}
	return ck.result()
}

// checkFirstSlice says whether budget and balance allow the first hold.
func (l *Ledger) checkFirstSlice(le *LeaseRow, name string) (Result, bool) {
	var sums job
	if i, ok := jobNamed(l, le.Customer, name); ok {
		sums = *l.jobs.get(i)
	}
	if room := sums.room(le.Budget); room < le.Slice {
		return refuse(CodeInsufficient, "job %q has %s left of its budget of %s, the first %s slice of this task needs %s",
			name, money(int64(room), USD), money(int64(le.Budget), USD), span(l.policy.SliceMs), money(int64(le.Slice), USD)), false
	}
	cust := l.customers.get(int(le.Customer))
	have, need := l.balance(cust.account(le.PayIn)), l.inPayIn(le, le.Slice)
	if have < need {
		return refuse(CodeInsufficient, "customer %q has %s, the first %s slice of this task needs %s",
			l.customerName(le.Customer), money(have, le.PayIn), span(l.policy.SliceMs), money(need, le.PayIn)), false
	}
	return Result{}, true
}

// addLease stores the row under the next id and links it to the accounts and
// the job that it concerns. It moves no money and makes no entry.
func addLease[T string | []byte](l *Ledger, row *LeaseRow, terms *leaseTerms, alloc, task, invocation, group T) LeaseID {
	record := appendText(appendText(appendText(l.newRecord(), alloc), task), invocation)
	key := len(record)
	record = appendText(record, group)
	i, le := l.leases.add()
	*le = *row
	_, t := l.leaseTerms.add()
	*t = *terms
	t.texts = l.texts.add(record)
	l.leaseIndex.add(l.hash(record[:key]), i)

	id := LeaseID(i)
	cust := l.customers.get(int(le.Customer))
	h := l.hosts.get(int(le.Host))
	le.balance, le.hold = cust.account(le.PayIn), cust.hold(le.PayIn)
	le.supplier = l.suppliers.get(int(h.supplier)).joule
	sums := l.jobs.edit(int(le.Job))
	sums.charged += le.Charged
	sums.held += le.HeldNUSD
	if le.Reason == CloseNone {
		l.hosts.edit(int(le.Host)).openLeases++
		value, _ := hourly(le.Resources, &le.Prices)
		l.suppliers.edit(int(h.supplier)).exposure += value
	}
	if le.Unconverted > 0 || le.Deferred {
		l.pending.add(uint64(id))
	}
	if le.Deferred {
		l.deferred++
	}
	return id
}

func (l *Ledger) granted(id LeaseID, hold int64) Result {
	return Result{ID: uint64(id), Lease: &LeaseGrant{Lease: id, Prices: l.leases.get(int(id)).Prices, Epoch: leaseEpoch, Hold: hold}}
}

// lease finds a lease of a command, to be changed by it.
func (l *Ledger) lease(id LeaseID) (*LeaseRow, bool) {
	if id == 0 || id > LeaseID(l.leases.len()) {
		return nil, false
	}
	return l.leases.edit(int(id)), true
}

// topUpLease raises the hold to cover Slices slices beyond what is already
// used, all of it or nothing.
func (l *Ledger) topUpLease(c *TopUpLease) Result {
	if c.Slices == 0 {
		return refuse(CodeInvalid, "slices must be above 0, got 0")
	}
	le, ok := l.lease(c.Lease)
	if !ok {
		return refuse(CodeNotFound, "lease %d not found", c.Lease)
	}
	if le.Reason != CloseNone {
		return refuse(CodeClosed, "lease %d has ended", c.Lease)
	}
	want, _, ok := u128{lo: uint64(le.owed())}.addMul(uint64(le.Slice), uint64(c.Slices)).div(1)
	if !ok {
		return refuse(CodeOverflow, "%d slices of lease %d cost more than %s", c.Slices, c.Lease, money(math.MaxInt64, USD))
	}
	target := NUSD(want)
	if more := target - le.HeldNUSD; more > 0 {
		if room := l.jobs.get(int(le.Job)).room(le.Budget); room < more {
			return refuse(CodeInsufficient, "job %q has %s left of its budget of %s, %d slices of lease %d need %s more",
				l.jobName(le.Job), money(int64(room), USD), money(int64(le.Budget), USD),
				c.Slices, c.Lease, money(int64(more), USD))
		}
	}
	have, need := l.balance(le.balance), l.inPayIn(le, target)-le.Hold
	if have < need {
		return refuse(CodeInsufficient, "customer %q has %s, %d slices of lease %d need %s more",
			l.customerName(le.Customer), money(have, le.PayIn), c.Slices, c.Lease, money(need, le.PayIn))
	}
	l.raise(c.Lease, le, target)
	l.charge(c.Lease, le)
	return l.granted(c.Lease, le.Hold)
}

// closeLease charges what the known usage still owes, as far as there are
// funds, and releases the rest. Closing a closed lease again for the same
// reason changes nothing.
func (l *Ledger) closeLease(c *CloseLease) Result {
	if c.Reason < CloseFinished || c.Reason > CloseHostLost {
		return refuse(CodeInvalid, "reason must be %d to %d, got %d", CloseFinished, CloseHostLost, c.Reason)
	}
	le, ok := l.lease(c.Lease)
	if !ok {
		return refuse(CodeNotFound, "lease %d not found", c.Lease)
	}
	if c.Host != 0 && c.Host != le.Host {
		return refuse(CodeForbidden, "lease %d is not of host %d", c.Lease, c.Host)
	}
	switch le.Reason {
	case CloseNone:
	case c.Reason:
		return Result{}
	default:
		return refuse(CodeClosed, "lease %d has ended", c.Lease)
	}
	l.raise(c.Lease, le, le.owed())
	l.charge(c.Lease, le)
	l.end(c.Lease, le, c.Reason)
	return Result{}
}

// end closes the lease, and releases the rest of the hold unless a charge
// waits for a rate.
func (l *Ledger) end(id LeaseID, le *LeaseRow, reason CloseReason) {
	if !le.Deferred {
		l.release(id, le)
	}
	le.Reason = reason
	l.leaseTerms.edit(int(id)).closed = l.now
	h := l.hosts.edit(int(le.Host))
	h.openLeases--
	value, _ := hourly(le.Resources, &le.Prices)
	l.suppliers.edit(int(h.supplier)).exposure -= value
	if h.retired {
		l.releaseHost(h)
	}
	l.emit(EntryLeaseClosed).Fact = &LeaseClosed{ID: id, Reason: reason}
	if reason == CloseHostLost {
		l.offend(id, FineHostLost, Hash{})
	}
}

// release gives the rest of the hold back.
func (l *Ledger) release(id LeaseID, le *LeaseRow) {
	if le.Hold > 0 {
		l.transfer(&Transfer{Debit: le.hold, Credit: le.balance, Amount: le.Hold, Reason: ReasonRelease, Lease: id})
		le.Hold = 0
	}
	l.jobs.edit(int(le.Job)).held -= le.HeldNUSD
	le.HeldNUSD = 0
}

// room is what the job may still set aside. Without a budget the bound is
// int64 itself, so that no sum of a job's charges can overflow (rule M1).
func (j *job) room(budget NUSD) NUSD {
	if budget == 0 {
		budget = math.MaxInt64
	}
	return max(0, budget-j.charged-j.held)
}

// owed is the cost that has not been charged yet.
func (le *LeaseRow) owed() NUSD { return cost(&le.Billed, &le.Prices) - le.Charged }

// inPayIn is what covers a charge of an amount of USD in the customer's
// currency, at the rate in force.
func (l *Ledger) inPayIn(le *LeaseRow, amount NUSD) int64 {
	if le.PayIn == JOULE {
		return jouleFor(amount, le.Carry, l.rate().NUSDPerJoule)
	}
	return int64(amount)
}

// rate is the rate in force; a lease is only opened when there is one.
func (l *Ledger) rate() *Rate { return &l.rates[l.inForce-1] }

// raise sets money aside for the lease until its hold covers want, or as much
// of it as the budget and the balance allow.
func (l *Ledger) raise(id LeaseID, le *LeaseRow, want NUSD) {
	sums := l.jobs.edit(int(le.Job))
	if want > le.HeldNUSD {
		want = le.HeldNUSD + min(want-le.HeldNUSD, sums.room(le.Budget))
	} else if le.PayIn == USD {
		return
	}
	before := le.HeldNUSD
	if add := min(l.inPayIn(le, want)-le.Hold, l.balance(le.balance)); add > 0 {
		l.transfer(&Transfer{Debit: le.balance, Credit: le.hold, Amount: add, Reason: ReasonHold, Lease: id})
		le.Hold += add
	}
	if le.PayIn == USD {
		le.HeldNUSD = NUSD(le.Hold)
	} else {
		// A hold in JOULE counts for the USD that it is worth now, but never
		// for more than the budget let it be set aside for.
		le.HeldNUSD = min(max(want, le.HeldNUSD), worth(le.Hold, l.rate().NUSDPerJoule))
	}
	sums.held += le.HeldNUSD - before
}
