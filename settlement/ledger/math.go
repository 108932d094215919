package ledger

import (
	"math"
	"math/bits"
)

// nano is the number of nJ in a JOULE and of nUSD in a dollar.
const nano = 1_000_000_000

// u128 is an unsigned 128-bit intermediate: products of two amounts fit, and
// so do the sums made here (each says why).
type u128 struct{ hi, lo uint64 }

// addMul returns x + a×b.
func (x u128) addMul(a, b uint64) u128 {
	hi, lo := bits.Mul64(a, b)
	var c uint64
	x.lo, c = bits.Add64(x.lo, lo, 0)
	x.hi, _ = bits.Add64(x.hi, hi, c)
	return x
}

// add returns x + a.
func (x u128) add(a uint64) u128 {
	var c uint64
	x.lo, c = bits.Add64(x.lo, a, 0)
	x.hi += c
	return x
}

// sub returns x − a; ok is false if that is below zero.
func (x u128) sub(a uint64) (_ u128, ok bool) {
	var b uint64
	x.lo, b = bits.Sub64(x.lo, a, 0)
	x.hi, b = bits.Sub64(x.hi, 0, b)
	return x, b == 0
}

// shl returns x × 2ⁿ for n below 64.
func (x u128) shl(n uint) u128 {
	return u128{hi: x.hi<<n | x.lo>>(64-n), lo: x.lo << n}
}

// div returns ⌊x/d⌋ and the remainder; ok is false if the quotient leaves
// int64.
func (x u128) div(d uint64) (q int64, rem uint64, ok bool) {
	if d == 0 || x.hi >= d {
		return 0, 0, false
	}
	uq, rem := bits.Div64(x.hi, x.lo, d)
	if uq > math.MaxInt64 {
		return 0, 0, false
	}
	return int64(uq), rem, true
}

// divSat is ⌊x/d⌋, or MaxInt64 where that is less.
func (x u128) divSat(d uint64) int64 {
	q, _, ok := x.div(d)
	if !ok {
		return math.MaxInt64
	}
	return q
}

// mulSat is a×b, or MaxUint64 where that is less.
func mulSat(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	if hi != 0 {
		return math.MaxUint64
	}
	return lo
}

// addSat is a+b for a, b ≥ 0, or MaxInt64 where that is less.
func addSat(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// costDenominator is D of rule M3's rational: ms per hour × MiB per GiB.
const costDenominator = 3_600_000 * 1024

// satSum is a+b, or MaxUint64 where that is less.
func satSum(a, b uint64) uint64 {
	if sum, carry := bits.Add64(a, b, 0); carry == 0 {
		return sum
	}
	return math.MaxUint64
}

// cost is the exact cost of the totals at the prices, rounded down to nUSD; at
// most MaxInt64, which no hold can ever cover, so that nothing is lost by it.
//
// No intermediate overflows: totals are below 2⁶⁴ and prices below 2⁵⁰
// (PriceMax), so three products are below 2¹¹⁶, times 1,024 below 2¹²⁶.
func cost(t *Totals, p *Prices) NUSD {
	n := u128{}.addMul(t.WallMs, uint64(p.Base)).addMul(t.CPUMs, uint64(p.CPU)).addMul(t.GPUMs, uint64(p.GPU))
	return NUSD(n.shl(10).addMul(t.MemoryMiBMs, uint64(p.Memory)).divSat(costDenominator))
}

// sliceCost is what ms of the resources can cost at most, rounded up; ok is
// false if that leaves int64.
//
// No intermediate overflows: ms ≤ SliceMsMax < 2²⁷, times the largest resource
// times its factor < 2⁶³, times a price < 2⁵⁰: four such products < 2¹¹⁵.
func sliceCost(ms uint32, r Resources, p *Prices) (_ NUSD, ok bool) {
	const perHour = costDenominator * 1000 // MilliCores brings the 1,000
	t := uint64(ms)
	n := u128{}.
		addMul(t*1024*1000, uint64(p.Base)).
		addMul(t*1024*uint64(r.MilliCores), uint64(p.CPU)).
		addMul(t*1024*1000*uint64(r.GPUs), uint64(p.GPU)).
		addMul(t*1000*uint64(r.MemoryMiB), uint64(p.Memory))
	q, _, ok := n.add(perHour - 1).div(perHour)
	return NUSD(q), ok
}

// gross converts USD to JOULE at a rate: ⌊(amount×10⁹ + carry)/rate⌋ nJ and
// the remainder in units of the numerator, nUSD×10⁻⁹ (rule M4). ok is false if
// the result leaves int64.
func gross(amount NUSD, carry uint64, rate NUSD) (_ NJ, rem uint64, ok bool) {
	q, rem, ok := u128{lo: carry}.addMul(uint64(amount), nano).div(uint64(rate))
	return NJ(q), rem, ok
}

// affordable is the largest amount whose gross is at most nj; negative if the
// carry alone exceeds it.
func affordable(nj NJ, carry uint64, rate NUSD) NUSD {
	// gross(a) ≤ nj  ⇔  a×10⁹ + carry < (nj+1)×rate
	n, ok := u128{}.addMul(uint64(nj)+1, uint64(rate)).sub(1)
	if n, ok = n.sub(carry); !ok {
		return -1
	}
	return NUSD(n.divSat(nano))
}

// jouleFor is the nJ that cover the gross of amount, rounded up; MaxInt64 if
// that is less.
func jouleFor(amount NUSD, carry uint64, rate NUSD) int64 {
	return u128{lo: carry}.addMul(uint64(amount), nano).add(uint64(rate) - 1).divSat(uint64(rate))
}

// worth is the nUSD that nj is worth at rate, rounded down.
func worth(nj int64, rate NUSD) NUSD {
	return NUSD(u128{}.addMul(uint64(nj), uint64(rate)).divSat(nano))
}

// feeOf is the fee on gross nJ.
func feeOf(total NJ, ppm uint32) NJ {
	return NJ(u128{}.addMul(uint64(total), uint64(ppm)).divSat(1_000_000))
}
