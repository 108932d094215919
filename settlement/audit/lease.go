package audit

import (
	"math/big"

	"github.com/joulecloud/joule/settlement/ledger"
)

// lease is a lease as its entries tell it.
type lease struct {
	ledger.LeaseOpened
	used    ledger.Usage // the last; zero before the first
	closed  bool
	touched bool
	// It ended with a charge in JOULE that waits for a rate.
	deferred bool

	cost     *big.Int // ⌊exact cost⌋ of the usage, nUSD
	held     int64    // in PayIn
	charged  int64    // USD payers: taken from the hold, nUSD
	accrued  int64    // of it, not converted yet
	gross    *big.Int // paid and fee, nJ
	fee      *big.Int
	worth    *big.Int    // Σ nJ × rate: what gross stands for, in nUSD×10⁻⁹
	rate     ledger.NUSD // in force when an entry last concerned the lease
	lastRate ledger.NUSD // bounds the remainder that the last conversion left
}

var (
	nano = big.NewInt(1_000_000_000)
	// Rule M3: prices are per hour, memory's per GiB where usage counts MiB.
	costDenominator = big.NewInt(3_600_000 * 1024)
	million         = big.NewInt(1_000_000)
)

// costOf is ⌊Σ milliseconds × price⌋ in nUSD.
func costOf(t *ledger.Totals, p *ledger.Prices) *big.Int {
	sum, term := new(big.Int), new(big.Int)
	for _, d := range []struct {
		ms    uint64
		price ledger.NUSD
		unit  int64 // of costDenominator
	}{
		{t.WallMs, p.Base, 1024}, {t.CPUMs, p.CPU, 1024}, {t.GPUMs, p.GPU, 1024}, {t.MemoryMiBMs, p.Memory, 1},
	} {
		term.SetUint64(d.ms)
		term.Mul(term, big.NewInt(int64(d.price)))
		sum.Add(sum, term.Mul(term, big.NewInt(d.unit)))
	}
	return sum.Quo(sum, costDenominator)
}

func (b *books) touch(l *lease) {
	l.rate = b.rates.all[b.rates.inForce]
	if !l.touched {
		l.touched = true
		b.touched = append(b.touched, l)
	}
}

func (b *books) opened(e *ledger.Entry, f *ledger.LeaseOpened) {
	b.r.checked(CheckCharges)
	if _, ok := b.leases[f.ID]; ok || f.ID == 0 {
		b.find(CheckCharges, e, "lease %d is opened twice", f.ID)
		return
	}
	if b.customers[f.Customer] == nil || b.hosts[f.Host] == nil {
		b.find(CheckCharges, e, "lease %d is opened for customer %d on host %d, which are not both known", f.ID, f.Customer, f.Host)
	}
	if c := b.customers[f.Customer]; c != nil && c.PayIn != f.PayIn {
		b.find(CheckCharges, e, "lease %d is paid in currency %d, its customer pays in %d", f.ID, f.PayIn, c.PayIn)
	}
	l := &lease{LeaseOpened: *f, cost: new(big.Int), gross: new(big.Int), fee: new(big.Int), worth: new(big.Int)}
	b.leases[f.ID] = l
	b.staked(e, f)
	b.touch(l)
}

func (b *books) usage(e *ledger.Entry) {
	u := &e.Usage
	l := b.leases[u.Lease]
	switch {
	case l == nil:
		b.find(CheckCharges, e, "usage of lease %d, which was never opened", u.Lease)
		return
	case l.closed:
		b.find(CheckCharges, e, "usage of lease %d after its end", u.Lease)
	case u.Seq <= l.used.Seq:
		b.find(CheckCharges, e, "usage of lease %d: record %d follows record %d", u.Lease, u.Seq, l.used.Seq)
	}
	for _, t := range []struct {
		name     string
		old, new uint64
	}{
		{"wall", l.used.Billed.WallMs, u.Billed.WallMs}, {"cpu", l.used.Billed.CPUMs, u.Billed.CPUMs},
		{"gpu", l.used.Billed.GPUMs, u.Billed.GPUMs}, {"memory", l.used.Billed.MemoryMiBMs, u.Billed.MemoryMiBMs},
	} {
		if t.new < t.old {
			b.find(CheckCharges, e, "usage of lease %d: billed %s goes back from %d to %d", u.Lease, t.name, t.old, t.new)
		}
	}
	l.used = *u
	l.cost = costOf(&u.Billed, &l.Prices)
	if l.PayIn == ledger.JOULE {
		// A charge below 1 nJ leaves no transfer, only a remainder.
		l.lastRate = max(l.lastRate, b.rates.all[b.rates.inForce])
	}
	b.touch(l)
}

func (b *books) closed(e *ledger.Entry, f *ledger.LeaseClosed) {
	l := b.leases[f.ID]
	if l == nil || l.closed {
		b.find(CheckCharges, e, "lease %d ends without being open", f.ID)
		return
	}
	l.closed = true
	if s := b.supplierOf(&l.LeaseOpened); s != nil {
		s.exposure.Sub(s.exposure, hourly(&l.LeaseOpened))
		b.stakes.open[l.Host]--
		b.releaseHost(b.hosts[l.Host])
	}
	// A charge in JOULE waits for a rate with its hold (rule M6).
	l.deferred = l.held > 0 && l.PayIn == ledger.JOULE && b.rates.said != ledger.PauseNone
	if l.held != 0 && !l.deferred {
		b.find(CheckCharges, e, "lease %d ends with %d still held", f.ID, l.held)
	}
	b.touch(l)
}

// book adds a lease's transfer to its sums.
func (b *books) book(e *ledger.Entry, l *lease) {
	t := &e.Transfer
	if l.closed && !l.deferred && t.Reason != ledger.ReasonConvert && t.Reason != ledger.ReasonPay && t.Reason != ledger.ReasonFee {
		b.find(CheckCharges, e, "a transfer for reason %d after the end of lease %d", t.Reason, l.ID)
	}
	switch t.Reason {
	case ledger.ReasonHold:
		l.held += t.Amount
	case ledger.ReasonRelease:
		// What is given back could have paid what is owed.
		b.underCharged(e, l, l.held)
		l.held -= t.Amount
		l.deferred = l.deferred && l.held > 0
	case ledger.ReasonAccrue:
		l.held -= t.Amount
		l.charged += t.Amount
		l.accrued += t.Amount
	case ledger.ReasonConvert:
		l.accrued -= t.Amount
		l.lastRate = b.rates.all[t.Rate]
	case ledger.ReasonCharge:
		l.held -= t.Amount
		if t.Currency == ledger.USD {
			l.charged += t.Amount
			l.lastRate = b.rates.all[t.Rate]
		} else {
			b.convert(t, l)
		}
	case ledger.ReasonPay:
		b.convert(t, l)
	case ledger.ReasonFee:
		if l.PayIn == ledger.JOULE {
			l.held -= t.Amount
		}
		l.fee.Add(l.fee, big.NewInt(t.Amount))
		b.convert(t, l)
	}
	if l.held < 0 {
		b.find(CheckCharges, e, "lease %d is charged %d more than was held for it", l.ID, -l.held)
	}
	if l.accrued < 0 {
		b.find(CheckConversions, e, "lease %d converts %d nUSD more than it accrued", l.ID, -l.accrued)
	}
}

// convert counts nJ that were paid for, net or fee, at the transfer's rate.
func (b *books) convert(t *ledger.Transfer, l *lease) {
	nj := big.NewInt(t.Amount)
	l.gross.Add(l.gross, nj)
	l.lastRate = b.rates.all[t.Rate]
	l.worth.Add(l.worth, nj.Mul(nj, big.NewInt(int64(l.lastRate))))
}

// endBlock checks the leases that the block touched: between blocks every
// command has run to its end.
func (b *books) endBlock() {
	if len(b.follow) > 0 || b.legs > 0 {
		b.find(CheckRoutes, &ledger.Entry{}, "the block ends, and %d transfers that it announces are not there", len(b.follow)+b.legs)
		b.follow, b.legs = nil, 0
	}
	for _, l := range b.touched {
		l.touched = false
		e := &ledger.Entry{}
		b.overCharged(e, l)
		b.underCharged(e, l, l.held)
		b.converted(e, l)
	}
	b.touched = b.touched[:0]
}

// converts brackets what a lease has converted, in nUSD, by what it paid: the
// remainder of a conversion is carried, is below the rate in units of
// nUSD×10⁻⁹, and so within 1 nJ.
func (l *lease) converts() (least, most *big.Int) {
	least = new(big.Int).Add(l.worth, nano)
	least.Sub(least, big.NewInt(1)).Quo(least, nano) // ⌈worth/10⁹⌉
	most = new(big.Int).Set(l.worth)
	if l.lastRate > 0 {
		most.Add(most, big.NewInt(int64(l.lastRate)-1))
	}
	return least, most.Quo(most, nano)
}

// overCharged checks rule M3: never more than the exact cost.
func (b *books) overCharged(e *ledger.Entry, l *lease) {
	charged := big.NewInt(l.charged)
	if l.PayIn == ledger.JOULE {
		charged, _ = l.converts()
	}
	if charged.Cmp(l.cost) > 0 {
		b.find(CheckCharges, e, "lease %d is charged %s nUSD, its usage costs %s", l.ID, charged, l.cost)
	}
}

// underCharged checks rule M5: less than the cost only as far as the hold is
// used up.
func (b *books) underCharged(e *ledger.Entry, l *lease, held int64) {
	if l.PayIn == ledger.USD {
		if held > 0 && big.NewInt(l.charged).Cmp(l.cost) < 0 {
			b.find(CheckCharges, e, "lease %d is charged %d nUSD of a cost of %s while %d are held for it", l.ID, l.charged, l.cost, held)
		}
		return
	}
	// A job's budget is in USD: it may bar a charge that the hold could pay. A
	// pause does too.
	if _, charged := l.converts(); l.Budget == 0 && b.rates.said == ledger.PauseNone && charged.Cmp(l.cost) < 0 {
		owed := new(big.Int).Sub(l.cost, charged)
		need := owed.Mul(owed, nano)
		// One nJ of remainder and one of rounding either way.
		have := new(big.Int).Mul(big.NewInt(max(held-2, 0)), big.NewInt(int64(l.rate)))
		if have.Cmp(need) > 0 {
			b.find(CheckCharges, e, "lease %d is charged %s nUSD of a cost of %s while %d nJ are held for it", l.ID, charged, l.cost, held)
		}
	}
}

// converted checks rule M4.
func (b *books) converted(e *ledger.Entry, l *lease) {
	b.r.checked(CheckConversions)
	fee := new(big.Int).Mul(l.gross, big.NewInt(int64(l.FeePPM)))
	if fee.Quo(fee, million); fee.Cmp(l.fee) != 0 {
		b.find(CheckConversions, e, "lease %d: the fee is %s nJ of a gross of %s, %d ppm are %s", l.ID, l.fee, l.gross, l.FeePPM, fee)
	}
	least, most := l.converts()
	if l.PayIn == ledger.JOULE {
		if least.Cmp(most) > 0 {
			b.find(CheckConversions, e, "lease %d: %s nJ at its rates stand for no whole amount of nUSD", l.ID, l.gross)
		}
		return
	}
	if c := big.NewInt(l.charged - l.accrued); c.Cmp(least) < 0 || c.Cmp(most) > 0 {
		b.find(CheckConversions, e, "lease %d converted %s nUSD, but the %s nJ that were paid stand for %s to %s at their rates", l.ID, c, l.gross, least, most)
	}
}
