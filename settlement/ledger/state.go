package ledger

import (
	"fmt"
	"iter"
	"math"
)

// State is everything that a Ledger knows, as a snapshot carries it, without
// what follows from the rest (indexes, sums). Its order is the order of ids, so
// equal ledgers have equal states.
//
// Leases and Keys are read once, in this order, after all else: a restore can
// stream them.
type State struct {
	Now        Time
	EntryCount uint64
	Policy     Policy
	Rates      []Rate
	Accounts   []Account
	Customers  []Customer
	Suppliers  []Supplier
	Hosts      []Host // without OpenLeases

	InForce       RateID
	Paused        PauseReason
	PausedSince   Time
	OverrideRate  RateID // 0: none
	OverrideUntil Time
	ConvertNext   LeaseID // where a Tick goes on converting; 0: nowhere
	Withdrawals   []Withdrawal
	Corrections   []Correction
	Unbondings    []Unbonding
	Fines         []Fine
	Offences      []Offence // without Fine
	Marks         []Mark

	LeaseCount uint64
	Leases     iter.Seq2[*LeaseRow, *LeaseNames]
	KeyCount   uint64
	Keys       iter.Seq[KeyState]
}

// KeyState is an idempotency key with what it was used for (rule M7).
type KeyState struct {
	Key    string
	Input  InputHash
	Result Result
}

// State returns the ledger's state. Leases and Keys read the ledger while they
// are iterated, so it may not change until then.
func (l *Ledger) State() *State {
	st := &State{
		Now: l.now, EntryCount: l.entryCount, Policy: l.policy, Rates: append([]Rate(nil), l.rates...),
		Accounts:   make([]Account, 0, l.AccountCount()),
		Customers:  make([]Customer, 0, l.CustomerCount()),
		LeaseCount: uint64(l.leases.len()), KeyCount: uint64(l.keys.len()),
	}
	for id := AccountID(1); id <= l.AccountCount(); id++ {
		a, _ := l.Account(id)
		st.Accounts = append(st.Accounts, a)
	}
	for id := CustomerID(1); id <= l.CustomerCount(); id++ {
		c, _ := l.CustomerByID(id)
		st.Customers = append(st.Customers, c)
	}
	for id := SupplierID(1); id <= l.SupplierCount(); id++ {
		s, _ := l.SupplierByID(id)
		st.Suppliers = append(st.Suppliers, s)
	}
	for id := HostID(1); id <= l.HostCount(); id++ {
		h, _ := l.HostByID(id)
		h.OpenLeases = 0
		st.Hosts = append(st.Hosts, h)
	}
	l.stateOfTables(st)
	st.Leases = func(yield func(*LeaseRow, *LeaseNames) bool) {
		for id, le := range l.leases.all() {
			if !yield(le, l.leaseNames.get(id)) {
				return
			}
		}
	}
	st.Keys = func(yield func(KeyState) bool) {
		for _, k := range l.keys.all() {
			if !yield(KeyState{Key: k.key, Input: k.input, Result: k.result.clone()}) {
				return
			}
		}
	}
	return st
}

// FromState rebuilds a ledger, and refuses a state that no ledger can have:
// what every later step relies on is checked here, the money by Verify.
func FromState(st *State) (*Ledger, error) {
	l := empty()
	l.now, l.entryCount, l.policy = st.Now, st.EntryCount, st.Policy
	if st.Now < 0 {
		return nil, fmt.Errorf("restore ledger: now is %d", st.Now)
	}
	if err := st.Policy.validate(); err != nil {
		return nil, fmt.Errorf("restore policy: %w", err)
	}
	if err := l.restoreRates(st); err != nil {
		return nil, err
	}
	if err := l.restoreAccounts(st.Accounts); err != nil {
		return nil, err
	}
	if err := l.restoreParties(st); err != nil {
		return nil, err
	}
	for le, names := range st.Leases {
		if err := l.restoreLease(le, names); err != nil {
			return nil, fmt.Errorf("restore lease %d: %w", l.leases.len()+1, err)
		}
	}
	if got := uint64(l.leases.len()); got != st.LeaseCount {
		return nil, fmt.Errorf("restore leases: got %d, want %d", got, st.LeaseCount)
	}
	if err := l.restoreTables(st); err != nil {
		return nil, err
	}
	for k := range st.Keys {
		if _, ok := l.keyIndex[k.Key]; ok || k.Key == "" || len(k.Key) > KeyBytesMax {
			return nil, fmt.Errorf("restore key %d: %s is malformed or there twice", l.keys.len()+1, quote(k.Key))
		}
		l.addKey(k.Key, k.Input, k.Result.clone())
	}
	if got := uint64(l.keys.len()); got != st.KeyCount {
		return nil, fmt.Errorf("restore keys: got %d, want %d", got, st.KeyCount)
	}
	return l, nil
}

func (l *Ledger) restoreAccounts(accounts []Account) error {
	for i, a := range accounts {
		_, dup := l.accountIndex[accountKey{a.Name, a.Currency}]
		switch id := AccountID(i + 1); {
		case a.ID != id, dup, a.Currency != USD && a.Currency != JOULE:
			return fmt.Errorf("restore account %d: %+v", id, a)
		case a.Balance < 0 && !mayOverdraw(id), a.Balance == math.MinInt64:
			return fmt.Errorf("restore account %d %q: balance %d", id, a.Name, a.Balance)
		case i < len(systemAccounts) && (a.Name != systemAccounts[i].Name || a.Currency != systemAccounts[i].Currency):
			return fmt.Errorf("restore account %d: %+v, want %+v", id, a, systemAccounts[i])
		}
		l.accounts.edit(int(l.addAccount(a.Name, a.Currency))).balance = a.Balance
	}
	if len(accounts) < len(systemAccounts) {
		return fmt.Errorf("restore accounts: got %d, want at least %d", len(accounts), len(systemAccounts))
	}
	return nil
}

func (l *Ledger) restoreParties(st *State) error {
	var missing error
	account := func(name string, cur Currency) AccountID {
		id, ok := l.accountIndex[accountKey{name, cur}]
		if !ok && missing == nil {
			missing = fmt.Errorf("restore account %q of currency %d: not there", name, cur)
		}
		return id
	}
	for i, c := range st.Customers {
		_, dup := l.customerNames[c.Name]
		if _, ok := l.namespaces[c.Namespace]; ok || dup || c.ID != CustomerID(i+1) || c.PayIn != USD && c.PayIn != JOULE {
			return fmt.Errorf("restore customer %d: %+v", i+1, c)
		}
		l.addCustomer(customer{name: c.Name, namespace: c.Namespace, payIn: c.PayIn,
			usd: account("customer/"+c.Name, USD), joule: account("customer/"+c.Name, JOULE),
			holdUSD: account("hold/"+c.Name, USD), holdJoule: account("hold/"+c.Name, JOULE)})
	}
	for i, s := range st.Suppliers {
		if _, dup := l.supplierNames[s.Name]; dup || s.ID != SupplierID(i+1) {
			return fmt.Errorf("restore supplier %d: %+v", i+1, s)
		}
		l.addSupplier(supplier{name: s.Name, joule: account("supplier/"+s.Name, JOULE),
			stake: l.accountIndex[accountKey{"stake/" + s.Name, JOULE}], unbonding: l.accountIndex[accountKey{"unbonding/" + s.Name, JOULE}]})
	}
	for i, h := range st.Hosts {
		_, dup := l.hostNames[h.Name]
		_, known := l.hostKeys[h.PublicKey]
		if _, ok := row(l.suppliers, h.Supplier); !ok || dup || known || h.ID != HostID(i+1) || !h.Offer.valid() {
			return fmt.Errorf("restore host %d: %+v", i+1, h)
		}
		l.addHost(host{name: h.Name, supplier: h.Supplier, class: h.Class, publicKey: h.PublicKey, offer: h.Offer, hasOffer: h.HasOffer})
	}
	return missing
}

func (l *Ledger) restoreLease(le *LeaseRow, names *LeaseNames) error {
	_, dup := l.leaseIndex[leaseKey{names.Alloc, names.Task, names.Invocation}]
	_, hasCustomer := row(l.customers, le.Customer)
	_, hasHost := row(l.hosts, le.Host)
	switch {
	case dup:
		return fmt.Errorf("alloc %q, task %q, invocation %q: there twice", names.Alloc, names.Task, names.Invocation)
	case !hasCustomer:
		return fmt.Errorf("customer %d: not there", le.Customer)
	case !hasHost:
		return fmt.Errorf("host %d: not there", le.Host)
	case len(l.rates) == 0 || le.LastRate > RateID(len(l.rates)):
		return fmt.Errorf("rate %d: not there", le.LastRate)
	case le.PayIn != USD && le.PayIn != JOULE, le.Deferred && le.PayIn != JOULE:
		return fmt.Errorf("currency %d", le.PayIn)
	case !le.Prices.valid() || le.Resources.MilliCores > LeaseMilliCoresMax || le.Resources.MemoryMiB > LeaseMemoryMiBMax ||
		le.Resources.GPUs > LeaseGPUsMax || le.SliceMs == 0 || le.SliceMs > SliceMsMax || le.FeePPM > FeePPMMax || le.Budget < 0:
		return fmt.Errorf("terms %+v out of range", *le)
	case le.Opened < 0 || le.Opened > l.now || le.Closed < 0 || le.Closed > l.now:
		return fmt.Errorf("opened %d, closed %d: after %d", le.Opened, le.Closed, l.now)
	case min(le.FirstHold, le.Hold, int64(le.HeldNUSD), int64(le.Charged), int64(le.Unconverted), int64(le.Paid), int64(le.Fee)) < 0:
		return fmt.Errorf("negative amount in %+v", *le)
	}
	slice, ok := sliceCost(le.SliceMs, le.Resources, &le.Prices)
	if !ok {
		return fmt.Errorf("slice of %+v leaves int64", *le)
	}
	value, ok := hourly(le.Resources, &le.Prices)
	if sup := l.hosts[le.Host-1].supplier; !ok || le.Reason == CloseNone && value > math.MaxInt64-l.suppliers[sup-1].exposure {
		return fmt.Errorf("an hour of %+v leaves int64", *le)
	}
	row := *le
	row.Slice = slice
	// The sums over a job's leases are within int64 in every true state; a
	// forged one must not wrap them.
	if i, ok := l.jobIndex[jobKey{row.Customer, names.Job}]; ok {
		if sums := l.jobs.get(i); row.Charged > math.MaxInt64-sums.charged || row.HeldNUSD > math.MaxInt64-sums.held {
			return fmt.Errorf("sums of job %q leave int64", names.Job)
		}
	}
	l.addLease(&row, names)
	return nil
}

func (p *Prices) valid() bool {
	return min(p.Base, p.CPU, p.GPU, p.Memory) >= 0 && max(p.Base, p.CPU, p.GPU, p.Memory) <= PriceMax
}
