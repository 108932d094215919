package ledger

import (
	"fmt"
	"math/bits"
)

// Verify checks every invariant from scratch: that balances sum to zero and
// none is below it that may not be, that holds and accruals are exactly what
// the leases have, that each lease is charged and converted as rules M3 and M4
// say, within its bounds, and that all indexes agree. It visits the whole
// state. An error means that the state is corrupt.
func (l *Ledger) Verify() error {
	if err := l.verifyAccounts(); err != nil {
		return err
	}
	held := make(map[AccountID]int64)
	sums := make([]job, l.jobs.len()+1)
	budgets := make([]NUSD, l.jobs.len()+1) // the largest of the job's; -1: a lease has none
	open := make([]uint32, l.hosts.len()+1)
	var accrued NUSD
	waiting, deferred := 0, 0
	for i, le := range l.leases.all() {
		id := LeaseID(i)
		if err := l.verifyLease(id, le); err != nil {
			return fmt.Errorf("verify lease %d: %w", id, err)
		}
		held[le.hold] += le.Hold
		sums[le.Job].charged += le.Charged
		sums[le.Job].held += le.HeldNUSD
		switch b := &budgets[le.Job]; {
		case le.Budget == 0:
			*b = -1
		case *b >= 0:
			*b = max(*b, le.Budget)
		}
		accrued += le.Unconverted
		if le.Unconverted > 0 || le.Deferred {
			waiting++
		}
		if le.Deferred {
			deferred++
		}
		if le.Reason == CloseNone {
			open[le.Host]++
		}
	}
	for _, c := range l.customers.all() {
		for _, id := range []AccountID{c.hold(USD), c.hold(JOULE)} {
			if got := l.balance(id); got != held[id] {
				return fmt.Errorf("verify account %q: balance %d, its leases hold %d", l.accountName(id), got, held[id])
			}
		}
	}
	if deferred != l.deferred {
		return fmt.Errorf("verify deferred charges: %d, its leases have %d", l.deferred, deferred)
	}
	if got := l.balance(accruedUSD); got != int64(accrued) || waiting != l.pending.n {
		return fmt.Errorf("verify accrued: balance %d of %d leases, want %d of %d", got, l.pending.n, accrued, waiting)
	}
	for i, j := range l.jobs.all() {
		if *j != sums[i] {
			return fmt.Errorf("verify job %d: %+v, its leases have %+v", i, *j, sums[i])
		}
		if b := budgets[i]; b > 0 && j.charged+j.held > b {
			return fmt.Errorf("verify job %d: charged %d and held %d exceed the budget %d", i, j.charged, j.held, b)
		}
	}
	if err := l.verifyTables(); err != nil {
		return err
	}
	exposure, hosts := make([]NUSD, l.suppliers.len()+1), make([]uint32, l.suppliers.len()+1)
	for _, h := range l.hosts.all() {
		if h.staked() {
			hosts[h.supplier]++
		}
	}
	for _, le := range l.leases.all() {
		if le.Reason == CloseNone {
			value, _ := hourly(le.Resources, &le.Prices)
			exposure[l.hosts.get(int(le.Host)).supplier] += value
		}
	}
	for i, s := range l.suppliers.all() {
		if s.hosts != hosts[i] || s.exposure != exposure[i] {
			return fmt.Errorf("verify supplier %q: %d hosts and an exposure of %d, want %d and %d", l.supplierName(SupplierID(i)), s.hosts, s.exposure, hosts[i], exposure[i])
		}
	}
	for i, h := range l.hosts.all() {
		if h.openLeases != open[i] {
			return fmt.Errorf("verify host %q: %d open leases, want %d", l.hostName(HostID(i)), h.openLeases, open[i])
		}
	}
	return l.verifyIndexes()
}

func (l *Ledger) verifyAccounts() error {
	var usd, joule [2]uint64 // two's complement in 128 bits
	for i, a := range l.accounts.all() {
		if a.balance < 0 && !mayOverdraw(AccountID(i)) {
			return fmt.Errorf("verify account %q: balance %d", l.accountName(AccountID(i)), a.balance)
		}
		sum := &usd
		if a.currency == JOULE {
			sum = &joule
		}
		var c uint64
		sum[0], c = bits.Add64(sum[0], uint64(a.balance), 0)
		sum[1], _ = bits.Add64(sum[1], uint64(a.balance>>63), c)
	}
	if usd != [2]uint64{} || joule != [2]uint64{} {
		return fmt.Errorf("verify sums: USD %x, JOULE %x, want 0", usd, joule)
	}
	if minted := -l.balance(issuance); minted < 0 || minted > int64(JouleSupplyMax) {
		return fmt.Errorf("verify issuance: %d nJ minted, cap %d", minted, JouleSupplyMax)
	}
	return nil
}

func (l *Ledger) verifyLease(id LeaseID, le *LeaseRow) error {
	full := cost(&le.Billed, &le.Prices)
	switch {
	case le.Charged > full:
		return fmt.Errorf("charged %d of a cost of %d", le.Charged, full)
	case le.Charged < full && le.PayIn == USD && le.Hold > 0:
		return fmt.Errorf("charged %d of a cost of %d with %d still held", le.Charged, full, le.Hold)
	case le.PayIn == USD && int64(le.HeldNUSD) != le.Hold:
		return fmt.Errorf("hold %d counts for %d", le.Hold, le.HeldNUSD)
	case min(le.Hold, int64(le.HeldNUSD), int64(le.Unconverted), int64(le.Paid), int64(le.Fee)) < 0:
		return fmt.Errorf("negative amount in %+v", *le)
	case le.Deferred && (le.PayIn != JOULE || le.Charged >= full):
		return fmt.Errorf("deferred in currency %d, charged %d of a cost of %d", le.PayIn, le.Charged, full)
	case le.Reason != CloseNone && !le.Deferred && (le.Hold != 0 || le.HeldNUSD != 0):
		return fmt.Errorf("closed with %d held", le.Hold)
	case le.PayIn == JOULE && le.Unconverted != 0 || le.Unconverted > le.Charged:
		return fmt.Errorf("%d of %d unconverted", le.Unconverted, le.Charged)
	case l.pending.has(uint64(id)) != (le.Unconverted > 0 || le.Deferred):
		return fmt.Errorf("waiting %v with %d unconverted", l.pending.has(uint64(id)), le.Unconverted)
	case le.Fee != feeOf(le.Paid+le.Fee, le.FeePPM):
		return fmt.Errorf("fee %d of a gross of %d at %d ppm", le.Fee, le.Paid+le.Fee, le.FeePPM)
	}
	if le.LastRate == 0 {
		if le.Paid+le.Fee != 0 || le.Charged != le.Unconverted {
			return fmt.Errorf("paid %d for %d without a rate", le.Paid+le.Fee, le.Charged-le.Unconverted)
		}
	} else if !le.ManyRates {
		nj, rem, ok := gross(le.Charged-le.Unconverted, 0, l.rates[le.LastRate-1].NUSDPerJoule)
		if !ok || nj != le.Paid+le.Fee || rem != le.Carry {
			return fmt.Errorf("converted %d to %d nJ and carry %d, want %d and %d",
				le.Charged-le.Unconverted, le.Paid+le.Fee, le.Carry, nj, rem)
		}
	}
	again := *le
	again.bound(l.now)
	for _, t := range []struct {
		name              string
		have, most, claim Totals
	}{{"billed", le.Billed, again.Billed, le.Claimed}, {"standby", le.Standby, again.Standby, le.ClaimedStandby}} {
		if t.most.below(&t.have, KnownAll) || t.claim.below(&t.have, KnownAll) {
			return fmt.Errorf("%s %+v beyond bounds %+v or claim %+v", t.name, t.have, t.most, t.claim)
		}
	}
	return nil
}

// verifyIndexes checks that every row is found by its key, and nothing else.
func (l *Ledger) verifyIndexes() error {
	for i, t := range l.leaseTerms.all() {
		text := func(n int) []byte { return l.texts.text(t.texts, n) }
		if got, _ := leaseKeyed(l, text(leaseAlloc), text(leaseTask), text(leaseInvocation)); got != LeaseID(i) {
			return fmt.Errorf("verify lease %d: its key finds %d", i, got)
		}
		if n := l.jobNames.get(int(l.leases.get(i).Job)); n.customer != l.leases.get(i).Customer {
			return fmt.Errorf("verify lease %d: of customer %d, its job of %d", i, l.leases.get(i).Customer, n.customer)
		}
		if k := l.keys.get(int(t.key)); !k.granted || k.id != uint64(i) {
			return fmt.Errorf("verify lease %d: its key was given %d", i, k.id)
		}
	}
	for i, n := range l.jobNames.all() {
		if got, _ := jobNamed(l, n.customer, l.texts.text(n.texts, 0)); got != i {
			return fmt.Errorf("verify job %d: its name finds %d", i, got)
		}
	}
	for i, k := range l.keys.all() {
		if got, _ := keyNamed(l, l.texts.text(k.texts, 0)); got != i {
			return fmt.Errorf("verify key %d: finds %d", i, got)
		}
	}
	for i, c := range l.customers.all() {
		byName, _ := customerNamed(l, l.texts.text(c.texts, 0))
		bySpace, _ := customerOf(l, l.texts.text(c.texts, 1))
		if id := CustomerID(i); byName != id || bySpace != id {
			return fmt.Errorf("verify customer %d: its name finds %d, its namespace %d", i, byName, bySpace)
		}
	}
	for i, s := range l.suppliers.all() {
		if got, _ := supplierNamed(l, l.texts.text(s.texts, 0)); got != SupplierID(i) {
			return fmt.Errorf("verify supplier %d: its name finds %d", i, got)
		}
	}
	for i, h := range l.hosts.all() {
		byName, _ := hostNamed(l, l.texts.text(h.texts, 0))
		byKey, _ := l.hostOf(&h.publicKey)
		if id := HostID(i); byName != id || byKey != id {
			return fmt.Errorf("verify host %d: its name finds %d, its key %d", i, byName, byKey)
		}
	}
	for i, x := range []struct {
		index *index
		rows  int
	}{{&l.customerNames, l.customers.len()}, {&l.namespaces, l.customers.len()}, {&l.supplierNames, l.suppliers.len()},
		{&l.hostNames, l.hosts.len()}, {&l.hostKeys, l.hosts.len()}, {&l.jobIndex, l.jobs.len()}, {&l.leaseIndex, l.leases.len()}, {&l.keyIndex, l.keys.len()}} {
		if x.index.n != x.rows {
			return fmt.Errorf("verify index %d: %d rows, want %d", i, x.index.n, x.rows)
		}
	}
	return l.verifyParties()
}

// verifyParties checks that every account is of the party that says so.
func (l *Ledger) verifyParties() error {
	claimed := 0
	for c := range l.claims() {
		claimed++
		if a := l.accounts.get(int(c.id)); a.kind != c.kind || a.party != c.party || a.currency != c.currency {
			return fmt.Errorf("verify account %d: %+v, want %+v", c.id, *a, c)
		}
	}
	if n := l.accounts.len(); claimed != n {
		return fmt.Errorf("verify accounts: %d are somebody's, there are %d", claimed, n)
	}
	return nil
}
