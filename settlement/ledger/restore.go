package ledger

import (
	"fmt"
	"math"
)

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
	if err := l.restoreParties(st); err != nil {
		return nil, err
	}
	if err := restoreTable("job", &st.Jobs, l.restoreJob); err != nil {
		return nil, err
	}
	jobs := uint32(0) // that a lease was seen of
	if err := restoreTable("lease", &st.Leases, func(id int, le *LeaseState) error {
		if le.Row.Job == jobs+1 {
			jobs++
		}
		if le.Row.Job == 0 || le.Row.Job > jobs || uint64(le.Key) > st.Keys.Count {
			return fmt.Errorf("job %d after %d, key %d of %d", le.Row.Job, jobs, le.Key, st.Keys.Count)
		}
		return l.restoreLease(le)
	}); err != nil {
		return nil, err
	}
	for _, h := range l.hosts.all() {
		l.releaseHost(h)
	}
	if int(jobs) != l.jobs.len() {
		return nil, fmt.Errorf("restore jobs: %d of %d have leases", jobs, l.jobs.len())
	}
	if err := l.restoreTables(st); err != nil {
		return nil, err
	}
	if err := restoreTable("key", &st.Keys, l.restoreKey); err != nil {
		return nil, err
	}
	for id, t := range l.leaseTerms.all() {
		if t.key == 0 || l.keys.get(int(t.key)).id != uint64(id) || !l.keys.get(int(t.key)).granted {
			return nil, fmt.Errorf("restore lease %d: it was not opened under key %d", id, t.key)
		}
	}
	return l, nil
}

// restoreTable restores the rows of a table, of which there must be as many as
// it says.
func restoreTable[T any](what string, t *Table[T], restore func(id int, row *T) error) error {
	n := 0
	for row := range t.Rows {
		n++
		if err := restore(n, row); err != nil {
			return fmt.Errorf("restore %s %d: %w", what, n, err)
		}
	}
	if uint64(n) != t.Count {
		return fmt.Errorf("restore %ss: got %d, want %d", what, n, t.Count)
	}
	return nil
}

// restoreParties restores accounts and whose they are.
func (l *Ledger) restoreParties(st *State) error {
	if err := restoreTable("account", &st.Balances, func(id int, balance *int64) error {
		if *balance < 0 && !mayOverdraw(AccountID(id)) || *balance == math.MinInt64 {
			return fmt.Errorf("balance %d", *balance)
		}
		l.accounts.edit(int(l.addAccount(accountNone, 0, 0))).balance = *balance
		return nil
	}); err != nil {
		return err
	}
	l.withdrawing, l.escrow = st.Withdrawing, st.Escrow
	if err := restoreTable("customer", &st.Customers, l.restoreCustomer); err != nil {
		return err
	}
	if err := restoreTable("supplier", &st.Suppliers, l.restoreSupplier); err != nil {
		return err
	}
	claimed := 0
	for c := range l.claims() {
		if c.id == 0 || int(c.id) > l.accounts.len() || l.accounts.get(int(c.id)).kind != accountNone {
			return fmt.Errorf("restore account %d: not there, or two are said to have it", c.id)
		}
		a := l.accounts.edit(int(c.id))
		a.kind, a.party, a.currency = c.kind, c.party, c.currency
		claimed++
	}
	if n := l.accounts.len(); claimed != n {
		return fmt.Errorf("restore accounts: %d of %d are nobody's", n-claimed, n)
	}
	return restoreTable("host", &st.Hosts, l.restoreHost)
}

func within(b []byte, most int) bool { return len(b) > 0 && len(b) <= most }

func (l *Ledger) restoreCustomer(_ int, c *CustomerState) error {
	_, dup := customerNamed(l, c.Name)
	_, other := customerOf(l, c.Namespace)
	if dup || other || !within(c.Name, NameBytesMax) || !within(c.Namespace, NomadNameBytesMax) || c.PayIn != USD && c.PayIn != JOULE {
		return fmt.Errorf("name %.99q, namespace %.300q, pays in %d: out of range or there twice", c.Name, c.Namespace, c.PayIn)
	}
	addCustomer(l, customer{payIn: c.PayIn, first: c.First}, c.Name, c.Namespace)
	return nil
}

func (l *Ledger) restoreSupplier(_ int, s *SupplierState) error {
	if _, dup := supplierNamed(l, s.Name); dup || !within(s.Name, NameBytesMax) {
		return fmt.Errorf("name %.99q: out of range or there twice", s.Name)
	}
	addSupplier(l, supplier{joule: s.Joule, stake: s.Stake, unbonding: s.Unbonding}, s.Name)
	return nil
}

func (l *Ledger) restoreHost(_ int, h *HostState) error {
	_, dup := hostNamed(l, h.Name)
	_, known := l.hostOf(&h.PublicKey)
	if dup || known || !within(h.Name, NameBytesMax) || h.Supplier == 0 || h.Supplier > l.SupplierCount() || !h.Offer.valid() {
		return fmt.Errorf("name %.99q of supplier %d with offer %+v: out of range or there twice", h.Name, h.Supplier, h.Offer)
	}
	addHost(l, host{supplier: h.Supplier, class: h.Class, publicKey: h.PublicKey, offer: h.Offer, hasOffer: h.HasOffer, retired: h.Retired}, h.Name)
	return nil
}

func (l *Ledger) restoreJob(_ int, j *JobState) error {
	if _, dup := jobNamed(l, j.Customer, j.Name); dup || !within(j.Name, NomadNameBytesMax) || j.Customer == 0 || j.Customer > l.CustomerCount() {
		return fmt.Errorf("name %.300q of customer %d: out of range or there twice", j.Name, j.Customer)
	}
	addJob(l, j.Customer, j.Name)
	return nil
}

func (l *Ledger) restoreLease(s *LeaseState) error {
	le := s.Row
	_, dup := leaseKeyed(l, s.Alloc, s.Task, s.Invocation)
	switch {
	case dup:
		return fmt.Errorf("alloc %q, task %q, invocation %q: there twice", s.Alloc, s.Task, s.Invocation)
	case !within(s.Alloc, NomadNameBytesMax), !within(s.Task, NomadNameBytesMax), !within(s.Invocation, NomadNameBytesMax), !within(s.Group, NomadNameBytesMax):
		return fmt.Errorf("alloc %.300q, task %.300q, invocation %.300q, group %.300q: out of range", s.Alloc, s.Task, s.Invocation, s.Group)
	case le.Customer == 0 || le.Customer > l.CustomerCount():
		return fmt.Errorf("customer %d: not there", le.Customer)
	case le.Host == 0 || le.Host > l.HostCount():
		return fmt.Errorf("host %d: not there", le.Host)
	case int(le.Job) > l.jobs.len() || l.jobNames.get(int(le.Job)).customer != le.Customer:
		return fmt.Errorf("job %d: not one of customer %d", le.Job, le.Customer)
	case len(l.rates) == 0 || le.LastRate > RateID(len(l.rates)):
		return fmt.Errorf("rate %d: not there", le.LastRate)
	case le.PayIn != USD && le.PayIn != JOULE, le.Deferred && le.PayIn != JOULE:
		return fmt.Errorf("currency %d", le.PayIn)
	case !le.Prices.valid() || le.Resources.MilliCores > LeaseMilliCoresMax || le.Resources.MemoryMiB > LeaseMemoryMiBMax ||
		le.Resources.GPUs > LeaseGPUsMax || s.SliceMs == 0 || s.SliceMs > SliceMsMax || le.FeePPM > FeePPMMax || le.Budget < 0:
		return fmt.Errorf("terms %+v out of range", *le)
	case le.Opened < 0 || le.Opened > l.now || s.Closed < 0 || s.Closed > l.now:
		return fmt.Errorf("opened %d, closed %d: after %d", le.Opened, s.Closed, l.now)
	case min(s.FirstHold, le.Hold, int64(le.HeldNUSD), int64(le.Charged), int64(le.Unconverted), int64(le.Paid), int64(le.Fee)) < 0:
		return fmt.Errorf("negative amount in %+v", *le)
	}
	slice, ok := sliceCost(s.SliceMs, le.Resources, &le.Prices)
	if !ok {
		return fmt.Errorf("slice of %+v leaves int64", *le)
	}
	value, ok := hourly(le.Resources, &le.Prices)
	if sup := l.hosts.get(int(le.Host)).supplier; !ok || le.Reason == CloseNone && value > math.MaxInt64-l.suppliers.get(int(sup)).exposure {
		return fmt.Errorf("an hour of %+v leaves int64", *le)
	}
	// The sums over a job's leases are within int64 in every true state; a
	// forged one must not wrap them.
	if sums := l.jobs.get(int(le.Job)); le.Charged > math.MaxInt64-sums.charged || le.HeldNUSD > math.MaxInt64-sums.held {
		return fmt.Errorf("sums of job %d leave int64", le.Job)
	}
	le.Slice = slice
	addLease(l, le, &leaseTerms{closed: s.Closed, firstHold: s.FirstHold, sliceMs: s.SliceMs, key: s.Key}, s.Alloc, s.Task, s.Invocation, s.Group)
	return nil
}

func (p *Prices) valid() bool {
	return min(p.Base, p.CPU, p.GPU, p.Memory) >= 0 && max(p.Base, p.CPU, p.GPU, p.Memory) <= PriceMax
}

func (l *Ledger) restoreKey(_ int, k *KeyState) error {
	if _, dup := keyNamed(l, k.Key); dup || !within(k.Key, KeyBytesMax) {
		return fmt.Errorf("%.99q is out of range or there twice", k.Key)
	}
	if len(k.Msg) > textMax || k.Granted && (k.Code != CodeOK || len(k.Msg) > 0 || k.ID == 0 || k.ID > uint64(l.LeaseCount())) || !k.Granted && k.Hold != 0 {
		return fmt.Errorf("%.99q: result %d of %d bytes, a grant of lease %d: %v", k.Key, k.Code, len(k.Msg), k.ID, k.Granted)
	}
	addKey(l, &keyRow{input: k.Input, id: k.ID, hold: k.Hold, code: k.Code, granted: k.Granted}, k.Key, k.Msg)
	return nil
}
