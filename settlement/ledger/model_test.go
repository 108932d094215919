package ledger_test

import (
	"fmt"
	"math/big"
	"slices"

	"github.com/joulecloud/joule/settlement/ledger"
)

// model is the ledger's money written again as plainly as possible: balances
// by name, exact fractions for costs and conversions, no bounds on numbers, no
// speed. It decides what a command should have done; it makes no entries.
type model struct {
	now       int64
	bal       map[string]*big.Int // "customer/acme 1": name and currency
	fee       int64
	slice     int64
	rates     []modelRate
	inForce   int   // index of a rate
	override  int64 // until then the newest rate is taken as it is
	guard     ledger.RateGuard
	stake     ledger.StakePolicy
	schedule  ledger.FineSchedule
	customers map[string]ledger.Currency // by name, which is its namespace too
	hosts     map[string]*modelHost
	leases    []*modelLease

	withdrawals []*modelWithdrawal
	unbondings  []*modelUnbonding
	fines       []*modelFine
	offences    map[modelOffence]bool
	entries     []int64         // the times of all entries
	minutes     map[int64]int64 // the first command's time, by minute
}

type modelHost struct {
	id       ledger.HostID
	supplier string
	offer    *ledger.Prices
	retired  bool
}

type modelLease struct {
	customer, job    string
	payIn            ledger.Currency
	host             *modelHost
	prices           ledger.Prices
	res              ledger.Resources
	fee, slice       int64
	budget           *big.Int // nil: none
	opened           int64
	claimed, sby     [4]*big.Int
	billed, standby  [4]*big.Int
	seq              uint64
	hash             ledger.Hash
	hold, held       *big.Int // in payIn; in USD
	charged, waiting *big.Int
	carry            *big.Rat // USD not yet worth a whole nJ
	paid, fees       *big.Int
	stop, deferred   bool
	refunded, clawed *big.Int // by corrections, net
	reason           ledger.CloseReason
}

func newModel() *model {
	policy := ledger.New().Policy()
	return &model{bal: make(map[string]*big.Int), slice: 60_000, guard: policy.Guard, stake: policy.Stake, schedule: policy.Fines,
		customers: make(map[string]ledger.Currency), hosts: make(map[string]*modelHost),
		offences: make(map[modelOffence]bool), minutes: make(map[int64]int64)}
}

func bi(v int64) *big.Int                 { return big.NewInt(v) }
func add(a, b *big.Int) *big.Int          { return new(big.Int).Add(a, b) }
func sub(a, b *big.Int) *big.Int          { return new(big.Int).Sub(a, b) }
func least(a, b *big.Int) *big.Int        { return pick(a.Cmp(b) <= 0, a, b) }
func most(a, b *big.Int) *big.Int         { return pick(a.Cmp(b) >= 0, a, b) }
func frac(a, b *big.Int) *big.Rat         { return new(big.Rat).SetFrac(a, b) }
func mulRat(a *big.Rat, v int64) *big.Rat { return new(big.Rat).Mul(a, frac(bi(v), bi(1))) }

func pick(first bool, a, b *big.Int) *big.Int {
	if first {
		return a
	}
	return b
}

func floor(r *big.Rat) *big.Int { return new(big.Int).Div(r.Num(), r.Denom()) } // Euclidean: floor for a positive divisor

func ceil(r *big.Rat) *big.Int { return new(big.Int).Neg(floor(new(big.Rat).Neg(r))) }

func name(account string, cur ledger.Currency) string { return fmt.Sprintf("%s %d", account, cur) }

func (m *model) get(account string, cur ledger.Currency) *big.Int {
	if v, ok := m.bal[name(account, cur)]; ok {
		return v
	}
	return bi(0)
}

func (m *model) move(from, to string, cur ledger.Currency, v *big.Int) {
	m.bal[name(from, cur)] = sub(m.get(from, cur), v)
	m.bal[name(to, cur)] = add(m.get(to, cur), v)
}

func (m *model) rate() int64 { return m.rates[m.inForce].v }

// perHour is Σ quantity × price over the four dimensions for cores in cpu
// milliseconds, memory in MiB milliseconds, as nUSD.
func perHour(q [4]*big.Int, p ledger.Prices) *big.Rat {
	sum := new(big.Rat)
	for i, price := range []ledger.NUSD{p.Base, p.CPU, p.GPU, p.Memory} {
		unit := bi(3_600_000)
		if i == 3 {
			unit = bi(3_600_000 * 1024)
		}
		sum.Add(sum, frac(new(big.Int).Mul(q[i], bi(int64(price))), unit))
	}
	return sum
}

func (le *modelLease) cost() *big.Int { return floor(perHour(le.billed, le.prices)) }

func (le *modelLease) owed() *big.Int { return sub(le.cost(), le.charged) }

func sliceOf(ms int64, r ledger.Resources, p ledger.Prices) *big.Int {
	// In thousandths, because of milli-cores.
	q := [4]*big.Int{bi(ms * 1000), bi(ms * int64(r.MilliCores)), bi(ms * 1000 * int64(r.GPUs)), bi(ms * 1000 * int64(r.MemoryMiB))}
	return ceil(new(big.Rat).Quo(perHour(q, p), frac(bi(1000), bi(1))))
}

// need is what covers v nUSD in the currency of the lease.
func (m *model) need(le *modelLease, v *big.Int) *big.Int {
	if le.payIn == ledger.USD {
		return v
	}
	total := new(big.Rat).Add(frac(v, bi(1)), le.carry)
	return ceil(mulRat(total, 1_000_000_000).Quo(mulRat(total, 1_000_000_000), frac(bi(m.rate()), bi(1))))
}

func (m *model) room(le *modelLease) *big.Int {
	if le.budget == nil {
		return new(big.Int).Lsh(bi(1), 200)
	}
	left := le.budget
	for _, o := range m.leases {
		if o.customer == le.customer && o.job == le.job {
			left = sub(sub(left, o.charged), o.held)
		}
	}
	return most(left, bi(0))
}

func (m *model) raise(le *modelLease, want *big.Int) {
	want = least(want, add(le.held, m.room(le)))
	if le.payIn == ledger.USD && want.Cmp(le.held) <= 0 {
		return
	}
	extra := least(sub(m.need(le, want), le.hold), m.get("customer/"+le.customer, le.payIn))
	if extra.Sign() > 0 {
		m.move("customer/"+le.customer, "hold/"+le.customer, le.payIn, extra)
		le.hold = add(le.hold, extra)
	}
	if le.payIn == ledger.USD {
		le.held = le.hold
	} else {
		le.held = least(most(want, le.held), floor(frac(new(big.Int).Mul(le.hold, bi(m.rate())), bi(1_000_000_000))))
	}
}

// convert turns v nUSD into nJ and pays it out of from; false if from has too
// little.
func (m *model) convert(le *modelLease, from string, have, v *big.Int) bool {
	total := new(big.Rat).Add(frac(v, bi(1)), le.carry)
	nj := floor(new(big.Rat).Quo(mulRat(total, 1_000_000_000), frac(bi(m.rate()), bi(1))))
	if nj.Cmp(have) > 0 {
		return false
	}
	le.carry = new(big.Rat).Sub(total, frac(new(big.Int).Mul(nj, bi(m.rate())), bi(1_000_000_000)))
	gross := add(add(le.paid, le.fees), nj)
	fee := sub(floor(frac(new(big.Int).Mul(gross, bi(le.fee)), bi(1_000_000))), le.fees)
	net := sub(nj, fee)
	m.move(from, "supplier/"+le.host.supplier, ledger.JOULE, net)
	m.move(from, "fees", ledger.JOULE, fee)
	le.paid, le.fees = add(le.paid, net), add(le.fees, fee)
	return true
}

// part is the largest v up to limit that converts to at most have nJ, found by
// bisection; negative if not even nothing does.
func (m *model) part(le *modelLease, have, limit *big.Int) *big.Int {
	fits := func(v *big.Int) bool {
		total := new(big.Rat).Add(frac(v, bi(1)), le.carry)
		return floor(new(big.Rat).Quo(mulRat(total, 1_000_000_000), frac(bi(m.rate()), bi(1)))).Cmp(have) <= 0
	}
	if !fits(bi(0)) {
		return bi(-1)
	}
	low, high := bi(0), add(limit, bi(1)) // low fits, high is beyond
	for sub(high, low).Cmp(bi(1)) > 0 {
		mid := new(big.Int).Rsh(add(low, high), 1)
		if fits(mid) {
			low = mid
		} else {
			high = mid
		}
	}
	return low
}

func (m *model) charge(le *modelLease) *big.Int {
	v := least(le.owed(), le.held)
	if le.payIn == ledger.JOULE {
		if m.pause() != ledger.PauseNone {
			le.deferred = le.deferred || v.Sign() > 0
			return bi(0)
		}
		le.deferred = false
		if v = m.part(le, le.hold, v); v.Sign() <= 0 {
			return bi(0)
		}
		before := add(le.paid, le.fees)
		m.convert(le, "hold/"+le.customer, le.hold, v)
		le.hold = sub(le.hold, sub(add(le.paid, le.fees), before))
		le.held, le.charged = sub(le.held, v), add(le.charged, v)
		return v
	}
	if v.Sign() == 0 && le.waiting.Sign() == 0 {
		return v
	}
	if m.pause() == ledger.PauseNone && m.convert(le, "treasury", m.get("treasury", ledger.JOULE), add(v, le.waiting)) {
		m.move("hold/"+le.customer, "treasury", ledger.USD, v)
		m.move("accrued", "treasury", ledger.USD, le.waiting)
		le.waiting = bi(0)
	} else {
		m.move("hold/"+le.customer, "accrued", ledger.USD, v)
		le.waiting = add(le.waiting, v)
	}
	le.hold, le.held, le.charged = sub(le.hold, v), sub(le.held, v), add(le.charged, v)
	return v
}

func (m *model) convertWaiting() {
	if len(m.rates) == 0 || m.pause() != ledger.PauseNone {
		return
	}
	for _, le := range m.leases {
		if le.deferred {
			m.raise(le, le.owed())
			m.charge(le)
			if le.reason != 0 {
				m.release(le)
			}
			continue
		}
		have := m.get("treasury", ledger.JOULE)
		if le.waiting.Sign() == 0 || have.Sign() == 0 {
			continue
		}
		if v := m.part(le, have, le.waiting); v.Sign() > 0 {
			m.convert(le, "treasury", have, v)
			m.move("accrued", "treasury", ledger.USD, v)
			le.waiting = sub(le.waiting, v)
		}
	}
}

func (m *model) end(le *modelLease, reason ledger.CloseReason) {
	if le.reason = reason; !le.deferred {
		m.release(le)
	}
}

func (m *model) release(le *modelLease) {
	m.move("hold/"+le.customer, "customer/"+le.customer, le.payIn, le.hold)
	le.hold, le.held = bi(0), bi(0)
}

func (m *model) open(c *ledger.OpenLease) ledger.Code {
	h := m.hosts[c.Host]
	if h.retired {
		return ledger.CodeClosed
	}
	if h.offer == nil {
		return ledger.CodeNoOffer
	}
	if len(m.rates) == 0 {
		return ledger.CodeNoRate
	}
	if c.MaxPrices.Base != 0 && h.offer.Base > c.MaxPrices.Base {
		return ledger.CodeTooDear
	}
	le := &modelLease{customer: c.Namespace, job: c.Job, payIn: m.customers[c.Namespace], host: h, prices: *h.offer, res: c.Resources,
		fee: m.fee, slice: m.slice, opened: m.now, hold: bi(0), held: bi(0), charged: bi(0), waiting: bi(0),
		carry: new(big.Rat), paid: bi(0), fees: bi(0), refunded: bi(0), clawed: bi(0)}
	if c.Budget != 0 {
		le.budget = bi(int64(c.Budget))
	}
	for i := range 4 {
		le.claimed[i], le.sby[i], le.billed[i], le.standby[i] = bi(0), bi(0), bi(0), bi(0)
	}
	slice := sliceOf(le.slice, le.res, le.prices)
	if need := m.required(h.supplier, add(m.exposure(h.supplier), le.hourly())); m.get("stake/"+h.supplier, ledger.JOULE).Cmp(need) < 0 {
		return ledger.CodeStake
	}
	if m.room(le).Cmp(slice) < 0 || m.get("customer/"+le.customer, le.payIn).Cmp(m.need(le, slice)) < 0 {
		return ledger.CodeInsufficient
	}
	m.leases = append(m.leases, le)
	m.raise(le, slice)
	return ledger.CodeOK
}

func fields(t ledger.Totals) [4]*big.Int {
	var out [4]*big.Int
	for i, v := range []uint64{t.WallMs, t.CPUMs, t.GPUMs, t.MemoryMiBMs} {
		out[i] = new(big.Int).SetUint64(v)
	}
	return out
}

var knownBits = []ledger.Known{ledger.KnownWall, ledger.KnownCPU, ledger.KnownGPU, ledger.KnownMemory}

// usage says what becomes of a well-formed record.
func (m *model) usage(host ledger.HostID, r *ledger.Record) (ledger.RecordStatus, *big.Int, bool) {
	if r.Lease == 0 || int(r.Lease) > len(m.leases) {
		return ledger.RecordUnknownLease, bi(0), false
	}
	le := m.leases[r.Lease-1]
	switch {
	case le.host.id != host:
		return ledger.RecordWrongHost, bi(0), false
	case r.Seq < le.seq:
		return ledger.RecordOld, bi(0), le.stop && le.reason == 0
	case r.Seq == le.seq && r.Hash == le.hash:
		return ledger.RecordRepeat, bi(0), le.stop && le.reason == 0
	case r.Seq == le.seq || r.Seq == le.seq+1 && r.Prev != le.hash:
		m.offences[modelOffence{r.Lease, ledger.FineEquivocation}] = true
		return ledger.RecordEquivocation, bi(0), le.stop && le.reason == 0
	}
	claimed, sby := le.claimed, le.sby
	for i, known := range knownBits {
		if r.Known&known != 0 {
			claimed[i], sby[i] = fields(r.Active)[i], fields(r.Standby)[i]
		}
		if claimed[i].Cmp(le.claimed[i]) < 0 || sby[i].Cmp(le.sby[i]) < 0 {
			return ledger.RecordDecreasing, bi(0), le.stop && le.reason == 0
		}
	}
	if le.reason != 0 {
		return ledger.RecordLeaseClosed, bi(0), !r.Final
	}
	le.claimed, le.sby, le.seq, le.hash = claimed, sby, r.Seq, r.Hash
	elapsed := bi(m.now - le.opened)
	time := add(add(elapsed, bi(1000)), new(big.Int).Div(elapsed, bi(2000)))
	le.billed = m.bounded(le, claimed, sub(time, le.standby[0]))
	le.standby = m.bounded(le, sby, sub(time, le.billed[0]))

	owed, slice := le.owed(), sliceOf(le.slice, le.res, le.prices)
	covers := func(v *big.Int) bool { return le.held.Cmp(v) >= 0 && le.hold.Cmp(m.need(le, v)) >= 0 }
	if r.Final || le.stop {
		m.raise(le, owed)
	} else if !covers(add(owed, slice)) {
		m.raise(le, add(owed, add(slice, slice)))
	}
	charged := m.charge(le)
	if r.Final {
		reason := ledger.CloseFinished
		if le.stop {
			reason = ledger.CloseFunds
		}
		m.end(le, reason)
		return ledger.RecordAccepted, charged, false
	}
	le.stop = le.stop || le.owed().Sign() > 0 && !le.deferred || !covers(add(le.owed(), slice))
	return ledger.RecordAccepted, charged, le.stop
}

func (m *model) bounded(le *modelLease, claim [4]*big.Int, time *big.Int) (out [4]*big.Int) {
	wall := least(claim[0], time)
	times := func(v uint32) *big.Int { return new(big.Int).Mul(wall, bi(int64(v))) }
	limits := [4]*big.Int{wall, add(new(big.Int).Div(times(le.res.MilliCores), bi(1000)), bi(20)), times(le.res.GPUs), times(le.res.MemoryMiB)}
	for i := range out {
		out[i] = least(claim[i], limits[i])
	}
	return out
}

// differences says where the ledger and the model disagree.
func (m *model) differences(l *ledger.Ledger) []string {
	var out []string
	diff := func(what string, got int64, want *big.Int) {
		if bi(got).Cmp(want) != 0 {
			out = append(out, fmt.Sprintf("%s: got %d, want %d", what, got, want))
		}
	}
	seen := make([]string, 0, len(m.bal))
	for id := ledger.AccountID(1); id <= l.AccountCount(); id++ {
		a, _ := l.Account(id)
		diff(name(a.Name, a.Currency), a.Balance, m.get(a.Name, a.Currency))
		seen = append(seen, name(a.Name, a.Currency))
	}
	for n, v := range m.bal {
		if v.Sign() != 0 && !slices.Contains(seen, n) {
			out = append(out, "no account "+n)
		}
	}
	if got := int(l.LeaseCount()); got != len(m.leases) {
		out = append(out, fmt.Sprintf("%d leases, want %d", got, len(m.leases)))
	}
	for i, le := range m.leases {
		got, _ := l.Lease(ledger.LeaseID(i + 1))
		what := fmt.Sprintf("lease %d ", i+1)
		diff(what+"hold", got.Hold, le.hold)
		diff(what+"cost", int64(got.CostNUSD), le.cost())
		diff(what+"charged", int64(got.ChargedNUSD), le.charged)
		diff(what+"unconverted", int64(got.UnconvertedNUSD), le.waiting)
		diff(what+"paid", int64(got.PaidNJ), le.paid)
		diff(what+"fee", int64(got.FeeNJ), le.fees)
		if carry := mulRat(le.carry, 1_000_000_000); !carry.IsInt() || carry.Num().Cmp(new(big.Int).SetUint64(got.Carry)) != 0 {
			out = append(out, fmt.Sprintf("%scarry: got %d, want %v", what, got.Carry, carry))
		}
		if got.Reason != le.reason || (got.StopAsked != 0) != le.stop {
			out = append(out, fmt.Sprintf("%sreason %d, stop %d, want %d, %v", what, got.Reason, got.StopAsked, le.reason, le.stop))
		}
	}
	return append(out, m.laterDifferences(l)...)
}
