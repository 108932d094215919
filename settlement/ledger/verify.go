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
	open := make([]uint32, len(l.hosts)+1)
	var accrued NUSD
	waiting, deferred := 0, 0
	for i, le := range l.leases.all() {
		id := LeaseID(i)
		if err := l.verifyLease(id, le); err != nil {
			return fmt.Errorf("verify lease %d: %w", id, err)
		}
		held[le.hold] += le.Hold
		sums[le.job].charged += le.Charged
		sums[le.job].held += le.HeldNUSD
		switch b := &budgets[le.job]; {
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
	for _, c := range l.customers {
		for _, id := range []AccountID{c.holdUSD, c.holdJoule} {
			if got := l.balance(id); got != held[id] {
				return fmt.Errorf("verify account %q: balance %d, its leases hold %d", l.accountNames[id-1], got, held[id])
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
	exposure, hosts := make([]NUSD, len(l.suppliers)+1), make([]uint32, len(l.suppliers)+1)
	for i := range l.hosts {
		hosts[l.hosts[i].supplier]++
	}
	for _, le := range l.leases.all() {
		if le.Reason == CloseNone {
			value, _ := hourly(le.Resources, &le.Prices)
			exposure[l.hosts[le.Host-1].supplier] += value
		}
	}
	for i := range l.suppliers {
		if s := &l.suppliers[i]; s.hosts != hosts[i+1] || s.exposure != exposure[i+1] {
			return fmt.Errorf("verify supplier %q: %d hosts and an exposure of %d, want %d and %d", s.name, s.hosts, s.exposure, hosts[i+1], exposure[i+1])
		}
	}
	for i := range l.hosts {
		if got, want := l.hosts[i].openLeases, open[i+1]; got != want {
			return fmt.Errorf("verify host %q: %d open leases, want %d", l.hosts[i].name, got, want)
		}
	}
	return l.verifyIndexes()
}

func (l *Ledger) verifyAccounts() error {
	var usd, joule [2]uint64 // two's complement in 128 bits
	for i, a := range l.accounts.all() {
		if a.balance < 0 && !mayOverdraw(AccountID(i)) {
			return fmt.Errorf("verify account %q: balance %d", l.accountNames[i-1], a.balance)
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

func (l *Ledger) verifyIndexes() error {
	for i, n := range l.leaseNames.all() {
		if got := l.leaseIndex[leaseKey{n.Alloc, n.Task, n.Invocation}]; got != LeaseID(i) {
			return fmt.Errorf("verify lease %d: its key finds %d", i, got)
		}
		le := l.leases.get(i)
		if got := l.jobIndex[jobKey{le.Customer, n.Job}]; got != int(le.job) {
			return fmt.Errorf("verify lease %d: job %q finds %d, want %d", i, n.Job, got, le.job)
		}
	}
	for i, k := range l.keys.all() {
		if got := l.keyIndex[k.key]; got != i {
			return fmt.Errorf("verify key %q: finds %d, want %d", k.key, got, i)
		}
	}
	for id := AccountID(1); id <= l.AccountCount(); id++ {
		a, _ := l.Account(id)
		if got := l.accountIndex[accountKey{a.Name, a.Currency}]; got != id {
			return fmt.Errorf("verify account %q: finds %d, want %d", a.Name, got, id)
		}
	}
	for i, want := range []int{len(l.customers), len(l.customers), len(l.suppliers), len(l.hosts), len(l.hosts), l.leases.len(), l.keys.len()} {
		if got := []int{len(l.customerNames), len(l.namespaces), len(l.supplierNames), len(l.hostNames), len(l.hostKeys),
			len(l.leaseIndex), len(l.keyIndex)}[i]; got != want {
			return fmt.Errorf("verify index %d: %d rows, want %d", i, got, want)
		}
	}
	return nil
}
