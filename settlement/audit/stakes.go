package audit

import (
	"fmt"
	"math/big"
	"slices"

	"github.com/joulecloud/joule/settlement/ledger"
)

// stakeBooks are what suppliers have at stake, and how they were fined.
type stakeBooks struct {
	policy     ledger.StakePolicy
	schedule   ledger.FineSchedule
	suppliers  map[ledger.SupplierID]*staker
	unbondings []unbonding // by id, from 1
	fines      []fine      // by id, from 1
	evidence   map[uint64]ledger.FineID
	retired    map[ledger.HostID]bool
	open       map[ledger.HostID]int // leases
}

type staker struct {
	name     string
	hosts    int64
	exposure *big.Int // an hour's value of its open leases, nUSD
	open     []ledger.UnbondingID
	fines    []ledger.FineID
}

type unbonding struct {
	ledger.UnbondingStarted
	left  int64
	ended bool
}

func newStakeBooks() stakeBooks {
	p := ledger.New().Policy() // of before any was set
	return stakeBooks{policy: p.Stake, schedule: p.Fines, suppliers: map[ledger.SupplierID]*staker{}, evidence: map[uint64]ledger.FineID{},
		retired: map[ledger.HostID]bool{}, open: map[ledger.HostID]int{}}
}

func (b *books) supplierOf(l *ledger.LeaseOpened) *staker {
	if h := b.hosts[l.Host]; h != nil {
		return b.stakes.suppliers[h.Supplier]
	}
	return nil
}

// hourly is what a lease can cost in an hour, rounded up.
func hourly(l *ledger.LeaseOpened) *big.Int {
	r, p := &l.Resources, &l.Prices
	sum := new(big.Int)
	for _, d := range []struct {
		quantity uint32
		price    ledger.NUSD
		per      int64 // of the quantity, 1,024,000 to a unit
	}{{1, p.Base, 1_024_000}, {r.MilliCores, p.CPU, 1024}, {r.GPUs, p.GPU, 1_024_000}, {r.MemoryMiB, p.Memory, 1000}} {
		term := new(big.Int).Mul(big.NewInt(int64(d.quantity)), big.NewInt(int64(d.price)))
		sum.Add(sum, term.Mul(term, big.NewInt(d.per)))
	}
	return ceilDiv(sum, big.NewInt(1_024_000))
}

func ceilDiv(n, d *big.Int) *big.Int {
	n = new(big.Int).Add(n, d)
	return n.Sub(n, big.NewInt(1)).Quo(n, d)
}

// required is the stake that is asked of hosts and an exposure (rule F1).
func (b *books) required(hosts int64, exposure *big.Int) *big.Int {
	p := &b.stakes.policy
	need := new(big.Int).Mul(big.NewInt(int64(p.BasePerHost)), big.NewInt(hosts))
	if p.FactorPPM == 0 || exposure.Sign() == 0 {
		return need
	}
	value := new(big.Int).Mul(exposure, big.NewInt(int64(p.FactorPPM)))
	value = ceilDiv(value, million)
	return need.Add(need, ceilDiv(value.Mul(value, nano), big.NewInt(int64(b.rates.all[b.rates.inForce]))))
}

// balanceOf is the balance of an account by its name; 0 if there is none.
func (b *books) balanceOf(name string) int64 {
	if a := b.named[accountName{name, ledger.JOULE}]; a != nil {
		return a.balance
	}
	return 0
}

// staked checks the stake when a lease opens (rule F1), and counts it.
func (b *books) staked(e *ledger.Entry, l *ledger.LeaseOpened) {
	s := b.supplierOf(l)
	if s == nil {
		return
	}
	b.r.checked(CheckStakes)
	if b.stakes.retired[l.Host] {
		b.find(CheckStakes, e, "lease %d opens on host %d, which is retired", l.ID, l.Host)
	}
	b.stakes.open[l.Host]++
	s.exposure.Add(s.exposure, hourly(l))
	need, have := b.required(s.hosts, s.exposure), b.balanceOf("stake/"+s.name)
	if big.NewInt(have).Cmp(need) < 0 {
		b.find(CheckStakes, e, "lease %d opens with %d nJ at stake of supplier %q, %s are asked", l.ID, have, s.name, need)
	}
}

// stakeFact takes a fact of stakes; false for another one.
func (b *books) stakeFact(e *ledger.Entry) bool {
	switch f := e.Fact.(type) {
	case *ledger.StakePolicySet:
		b.stakes.policy = f.StakePolicy
	case *ledger.StakeBought:
		b.stakeBought(e, f)
	case *ledger.HostRetired:
		b.r.checked(CheckStakes)
		h := b.hosts[f.ID]
		if h == nil || b.stakes.retired[f.ID] {
			b.find(CheckStakes, e, "host %d is retired, which is not there or was before", f.ID)
			return true
		}
		b.stakes.retired[f.ID] = true
		b.releaseHost(h)
	case *ledger.UnbondingStarted:
		b.r.checked(CheckStakes)
		s := b.stakes.suppliers[f.Supplier]
		want := later(e.Time, b.stakes.policy.UnbondMs)
		if int(f.ID) != len(b.stakes.unbondings)+1 || s == nil || f.Amount <= 0 || f.Matures != want {
			b.find(CheckStakes, e, "unbonding %+v follows unbonding %d; it matures at %d", *f, len(b.stakes.unbondings), want)
			return true
		}
		b.stakes.unbondings = append(b.stakes.unbondings, unbonding{UnbondingStarted: *f, left: int64(f.Amount)})
		s.open = append(s.open, f.ID)
		b.expect(expected{reason: ledger.ReasonUnbond, from: "stake/" + s.name, to: "unbonding/" + s.name, currency: ledger.JOULE,
			amount: int64(f.Amount), ref: fmt.Sprintf("unbonding/%d", f.ID)})
	case *ledger.UnbondingEnded:
		b.r.checked(CheckStakes)
		if f.ID == 0 || int(f.ID) > len(b.stakes.unbondings) {
			b.find(CheckStakes, e, "unbonding %d ends, which never began", f.ID)
			return true
		}
		u := &b.stakes.unbondings[f.ID-1]
		s := b.stakes.suppliers[u.Supplier]
		if u.ended || e.Time < u.Matures || int64(f.Amount) != u.left {
			b.find(CheckStakes, e, "unbonding %d ends with %d nJ at %d; it has %d, matures at %d, ended before: %v", f.ID, f.Amount, e.Time, u.left, u.Matures, u.ended)
		}
		u.ended = true
		s.open = slices.DeleteFunc(s.open, func(id ledger.UnbondingID) bool { return id == f.ID })
		if f.Amount > 0 {
			b.expect(expected{reason: ledger.ReasonUnbonded, from: "unbonding/" + s.name, to: "supplier/" + s.name, currency: ledger.JOULE,
				amount: int64(f.Amount), ref: fmt.Sprintf("unbonding/%d", f.ID)})
		}
	default:
		return b.fineFact(e)
	}
	return true
}

// releaseHost lets go of the stake of a retired host whose leases have ended.
func (b *books) releaseHost(h *ledger.HostEnrolled) {
	if s := b.stakes.suppliers[h.Supplier]; s != nil && b.released(h.ID) {
		s.hosts--
	}
}

func (b *books) released(h ledger.HostID) bool { return b.stakes.retired[h] && b.stakes.open[h] == 0 }

// stakeBought checks a purchase of stake: the floor of what was paid, at a rate
// that may convert.
func (b *books) stakeBought(e *ledger.Entry, f *ledger.StakeBought) {
	b.r.checked(CheckStakes)
	s, rate := b.stakes.suppliers[f.Supplier], b.rates.all[f.Rate]
	if s == nil || f.Paid <= 0 || rate <= 0 || f.Rate != b.rates.inForce || b.rates.said != ledger.PauseNone {
		b.find(CheckStakes, e, "stake is bought: %+v, while rate %d is in force, paused for reason %d", *f, b.rates.inForce, b.rates.said)
		return
	}
	want := new(big.Int).Mul(big.NewInt(int64(f.Paid)), nano)
	if want.Quo(want, big.NewInt(int64(rate))); want.Cmp(big.NewInt(int64(f.Amount))) != 0 || f.Amount <= 0 {
		b.find(CheckStakes, e, "stake of %d nJ is bought for %d nUSD, which buy %s", f.Amount, f.Paid, want)
	}
	b.expect(expected{reason: ledger.ReasonBuyStake, from: "external", to: "treasury", currency: ledger.USD, amount: int64(f.Paid), rate: f.Rate, anyRef: true})
	b.expect(expected{reason: ledger.ReasonBuyStake, from: "treasury", to: "stake/" + s.name, currency: ledger.JOULE, amount: int64(f.Amount), rate: f.Rate, anyRef: true})
}

// later is t plus ms, or the end of time where that is less.
func later(t ledger.Time, ms uint64) ledger.Time {
	const end = ledger.Time(1<<63 - 1)
	if ms > uint64(end-t) {
		return end
	}
	return t + ledger.Time(ms)
}
