package ledger

import "math"

// Rate is the price of one JOULE.
type Rate struct {
	ID           RateID
	NUSDPerJoule NUSD
	Set          Time
	Proposed     bool // by a feed, so that the guard judges it (rule M6); else set by hand
	Doubtful     bool
	Average      NUSD // that a proposed rate was compared with; 0: there was none
}

// Policy are the operator's parameters (see SetPolicy, SetRateGuard,
// SetStakePolicy, SetFineSchedule).
type Policy struct {
	FeePPM, SliceMs uint32
	Guard           RateGuard
	Stake           StakePolicy
	Fines           FineSchedule
}

// Account is one balance.
type Account struct {
	ID       AccountID
	Name     string
	Currency Currency
	Balance  int64
}

// Customer is a customer.
type Customer struct {
	ID              CustomerID
	Name, Namespace string
	PayIn           Currency
}

// Supplier is a supplier.
type Supplier struct {
	ID   SupplierID
	Name string
}

// Host is a supplier's machine.
type Host struct {
	ID         HostID
	Name       string
	Supplier   SupplierID
	Class      Class
	PublicKey  [32]byte
	Offer      Prices
	HasOffer   bool
	OpenLeases uint32
	Retired    bool
}

// Lease is a lease with its terms and running values. Totals are cumulative.
type Lease struct {
	ID       LeaseID
	Customer CustomerID
	Supplier SupplierID
	Host     HostID
	Class    Class

	Job, Group, Task, Alloc, Invocation string

	Prices    Prices
	Resources Resources
	FeePPM    uint32
	SliceMs   uint32
	SliceNUSD NUSD // what one slice can cost (rule M5)
	PayIn     Currency
	Budget    NUSD // of the job; 0: none
	Epoch     uint32

	Opened    Time
	Closed    Time        // 0 while open
	Reason    CloseReason // CloseNone while open
	StopAsked CloseReason // the stop that the host was asked for

	LastSeq  uint64
	LastHash Hash
	Billed   Totals // active time within bounds: what is charged
	Standby  Totals // standby time within bounds: not charged
	Refused  Totals // claimed and cut by a bound
	Bounds   Bound
	Known    Known // of the last record
	Quality  Quality

	Hold            int64  // in PayIn
	CostNUSD        NUSD   // ⌊exact cost⌋ of Billed; above ChargedNUSD where funds lacked
	ChargedNUSD     NUSD   // so far
	UnconvertedNUSD NUSD   // part of ChargedNUSD that waits for JOULE (rule M6)
	Carry           uint64 // remainder of the last conversion, in nUSD×10⁻⁹ (rule M4)
	PaidNJ, FeeNJ   NJ
	LastRate        RateID // of the last conversion; 0: none yet
}

// Now returns the time of the last command.
func (l *Ledger) Now() Time { return l.now }

// Rate returns the rate in force, which conversion may pause at (see
// RateState); false if none was ever set.
func (l *Ledger) Rate() (Rate, bool) { return l.RateByID(l.inForce) }

// RateByID returns a rate.
func (l *Ledger) RateByID(id RateID) (Rate, bool) { return row(l.rates, id) }

// Policy returns the parameters in force. Its rules may not be changed.
func (l *Ledger) Policy() Policy { return l.policy }

// AccountCount returns how many accounts there are; ids run from 1 to it.
func (l *Ledger) AccountCount() AccountID { return AccountID(l.accounts.len()) }

// Account returns an account.
func (l *Ledger) Account(id AccountID) (Account, bool) {
	if id == 0 || id > l.AccountCount() {
		return Account{}, false
	}
	a := l.accounts.get(int(id))
	return Account{ID: id, Name: l.accountName(id), Currency: a.currency, Balance: a.balance}, true
}

// CustomerCount returns how many customers there are; ids run from 1 to it.
func (l *Ledger) CustomerCount() CustomerID { return CustomerID(l.customers.len()) }

// Customer returns a customer by name.
func (l *Ledger) Customer(name string) (Customer, bool) {
	id, _ := customerNamed(l, name)
	return l.CustomerByID(id)
}

// CustomerByNamespace returns the customer to whom a Nomad namespace belongs.
func (l *Ledger) CustomerByNamespace(ns string) (Customer, bool) {
	id, _ := customerOf(l, ns)
	return l.CustomerByID(id)
}

// CustomerByID returns a customer.
func (l *Ledger) CustomerByID(id CustomerID) (Customer, bool) {
	c, ok := rowOf(&l.customers, id)
	if !ok {
		return Customer{}, false
	}
	return Customer{ID: id, Name: l.customerName(id), Namespace: string(l.texts.text(c.texts, 1)), PayIn: c.payIn}, true
}

// SupplierCount returns how many suppliers there are; ids run from 1 to it.
func (l *Ledger) SupplierCount() SupplierID { return SupplierID(l.suppliers.len()) }

// Supplier returns a supplier by name.
func (l *Ledger) Supplier(name string) (Supplier, bool) {
	id, _ := supplierNamed(l, name)
	return l.SupplierByID(id)
}

// SupplierByID returns a supplier.
func (l *Ledger) SupplierByID(id SupplierID) (Supplier, bool) {
	if id == 0 || id > l.SupplierCount() {
		return Supplier{}, false
	}
	return Supplier{ID: id, Name: l.supplierName(id)}, true
}

// HostCount returns how many hosts there are; ids run from 1 to it.
func (l *Ledger) HostCount() HostID { return HostID(l.hosts.len()) }

// Host returns a host by name.
func (l *Ledger) Host(name string) (Host, bool) {
	id, _ := hostNamed(l, name)
	return l.HostByID(id)
}

// HostByID returns a host.
func (l *Ledger) HostByID(id HostID) (Host, bool) {
	h, ok := rowOf(&l.hosts, id)
	if !ok {
		return Host{}, false
	}
	return Host{ID: id, Name: l.hostName(id), Supplier: h.supplier, Class: h.class, PublicKey: h.publicKey,
		Offer: h.offer, HasOffer: h.hasOffer, OpenLeases: h.openLeases, Retired: h.retired}, true
}

// row returns the row of a dense id from 1.
func row[ID ~uint32, T any](rows []T, id ID) (T, bool) {
	if id == 0 || uint64(id) > uint64(len(rows)) {
		var zero T
		return zero, false
	}
	return rows[id-1], true
}

// LeaseCount returns how many leases were ever opened; ids run from 1 to it.
func (l *Ledger) LeaseCount() LeaseID { return LeaseID(l.leases.len()) }

// LeaseByKey returns the lease of an invocation of a Nomad task.
func (l *Ledger) LeaseByKey(alloc, task, invocation string) (Lease, bool) {
	id, _ := leaseKeyed(l, alloc, task, invocation)
	return l.Lease(id)
}

// Lease returns a lease.
func (l *Ledger) Lease(id LeaseID) (Lease, bool) {
	if id == 0 || id > l.LeaseCount() {
		return Lease{}, false
	}
	le := l.leases.get(int(id))
	terms, h := l.leaseTerms.get(int(id)), l.hosts.get(int(le.Host))
	text := func(i int) string { return string(l.texts.text(terms.texts, i)) }
	return Lease{
		ID: id, Customer: le.Customer, Supplier: h.supplier, Host: le.Host, Class: h.class,
		Job: l.jobName(le.Job), Group: text(leaseGroup), Task: text(leaseTask), Alloc: text(leaseAlloc), Invocation: text(leaseInvocation),
		Prices: le.Prices, Resources: le.Resources, FeePPM: le.FeePPM, SliceMs: terms.sliceMs, SliceNUSD: le.Slice,
		PayIn: le.PayIn, Budget: le.Budget, Epoch: leaseEpoch,
		Opened: le.Opened, Closed: terms.closed, Reason: le.Reason, StopAsked: le.Stop,
		LastSeq: le.LastSeq, LastHash: le.LastHash, Billed: le.Billed, Standby: le.Standby, Refused: le.refused(),
		Bounds: le.Bounds, Known: le.Known, Quality: le.Quality,
		Hold: le.Hold, CostNUSD: cost(&le.Billed, &le.Prices), ChargedNUSD: le.Charged, UnconvertedNUSD: le.Unconverted,
		Carry: le.Carry, PaidNJ: le.Paid, FeeNJ: le.Fee, LastRate: le.LastRate,
	}, true
}

// Sums adds up all balances of each currency: always 0 (rule M2). It visits
// every account.
func (l *Ledger) Sums() (usd, joule int64) {
	for _, a := range l.accounts.all() {
		if a.currency == USD {
			usd += a.balance
		} else {
			joule += a.balance
		}
	}
	return usd, joule
}

// EntryCount returns how many entries were ever made: the last one's Seq.
func (l *Ledger) EntryCount() uint64 { return l.entryCount }

// CostNUSD is what totals cost at prices, rounded down (rule M3); MaxInt64 if
// that is less.
func CostNUSD(t Totals, p Prices) NUSD {
	if min(p.Base, p.CPU, p.GPU, p.Memory) < 0 || max(p.Base, p.CPU, p.GPU, p.Memory) > PriceMax {
		return math.MaxInt64
	}
	return cost(&t, &p)
}
