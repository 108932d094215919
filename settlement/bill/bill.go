// Package bill reads a lease's journal entries as a bill: what it was charged
// and paid, at which rates, and what its usage costs by an arithmetic of its
// own (math/big, no shared code with the ledger). It is pure.
package bill

import (
	"fmt"
	"math/big"

	"github.com/joulecloud/joule/settlement/ledger"
)

// Lease is the sum of a lease's journal entries.
type Lease struct {
	Opened      *ledger.LeaseOpened // nil: the entries hold no opening
	OpenedAt    ledger.Time
	Usage       ledger.Usage        // the last one; zero when none was accepted
	Closed      *ledger.LeaseClosed // nil: still open
	ClosedAt    ledger.Time
	Held        int64       // set aside and not yet charged or released, in the payer's currency
	Charged     int64       // taken from the hold for usage, in the payer's currency
	Accrued     ledger.NUSD // charged and not yet converted
	PaidNJ      ledger.NJ   // to the supplier
	FeeNJ       ledger.NJ
	Conversions []Conversion // by rate, in the order of their first use

	// What came after the charges, and is in none of the sums above.
	Corrections []*ledger.CorrectionMade
	Refunded    int64     // by corrections to the customer less what they took from it, in the payer's currency
	TakenBackNJ ledger.NJ // by corrections from the supplier less what they gave it
	FinedNJ     ledger.NJ // of the supplier for this lease, less what was given back
	RemedyNJ    ledger.NJ // to the customer, out of fines

	customer, supplier ledger.AccountID // as the transfers show them; 0: not yet
}

// Conversion is what a lease converted at one rate.
type Conversion struct {
	Rate   ledger.RateID
	USD    ledger.NUSD // charged at it; 0 for customers who pay in JOULE
	PaidNJ ledger.NJ
	FeeNJ  ledger.NJ
}

// Fold sums the entries of one lease, in journal order.
func Fold(entries []ledger.Entry) (*Lease, error) {
	l := &Lease{}
	for i := range entries {
		e := &entries[i]
		switch e.Kind {
		case ledger.EntryLeaseOpened:
			l.Opened, l.OpenedAt = e.Fact.(*ledger.LeaseOpened), e.Time
		case ledger.EntryLeaseClosed:
			l.Closed, l.ClosedAt = e.Fact.(*ledger.LeaseClosed), e.Time
		case ledger.EntryUsage:
			l.Usage = e.Usage
		case ledger.EntryCorrection:
			l.Corrections = append(l.Corrections, e.Fact.(*ledger.CorrectionMade))
		case ledger.EntryTransfer:
			if err := l.add(&e.Transfer); err != nil {
				return nil, fmt.Errorf("journal entry %d: %w", e.Seq, err)
			}
		}
	}
	return l, nil
}

func (l *Lease) add(t *ledger.Transfer) error {
	switch t.Reason {
	case ledger.ReasonHold:
		l.customer = t.Debit
		l.Held += t.Amount
	case ledger.ReasonRelease:
		l.Held -= t.Amount
	case ledger.ReasonAccrue:
		l.Held -= t.Amount
		l.Charged += t.Amount
		l.Accrued += ledger.NUSD(t.Amount)
	case ledger.ReasonConvert:
		l.Accrued -= ledger.NUSD(t.Amount)
		l.at(t.Rate).USD += ledger.NUSD(t.Amount)
	case ledger.ReasonCharge:
		l.Held -= t.Amount
		l.Charged += t.Amount
		if t.Currency == ledger.USD {
			l.at(t.Rate).USD += ledger.NUSD(t.Amount)
		} else {
			l.supplier = t.Credit
			l.at(t.Rate).PaidNJ += ledger.NJ(t.Amount)
			l.PaidNJ += ledger.NJ(t.Amount)
		}
	case ledger.ReasonPay:
		l.supplier = t.Credit
		l.at(t.Rate).PaidNJ += ledger.NJ(t.Amount)
		l.PaidNJ += ledger.NJ(t.Amount)
	case ledger.ReasonFee:
		if l.Opened != nil && l.Opened.PayIn == ledger.JOULE {
			l.Held -= t.Amount
			l.Charged += t.Amount
		}
		l.at(t.Rate).FeeNJ += ledger.NJ(t.Amount)
		l.FeeNJ += ledger.NJ(t.Amount)
	case ledger.ReasonCorrect:
		l.correct(t)
	case ledger.ReasonFine:
		l.FinedNJ += ledger.NJ(t.Amount)
	case ledger.ReasonFineReturn:
		l.FinedNJ -= ledger.NJ(t.Amount)
	case ledger.ReasonRemedy:
		l.RemedyNJ += ledger.NJ(t.Amount)
	case ledger.ReasonForfeit: // between escrow and treasury
	default:
		return fmt.Errorf("transfer reason %d does not belong to a lease", t.Reason)
	}
	return nil
}

func (l *Lease) correct(t *ledger.Transfer) {
	switch l.customer {
	case t.Credit:
		l.Refunded += t.Amount
	case t.Debit:
		l.Refunded -= t.Amount
	}
	switch l.supplier {
	case t.Debit:
		l.TakenBackNJ += ledger.NJ(t.Amount)
	case t.Credit:
		l.TakenBackNJ -= ledger.NJ(t.Amount)
	}
}

func (l *Lease) at(rate ledger.RateID) *Conversion {
	for i := range l.Conversions {
		if l.Conversions[i].Rate == rate {
			return &l.Conversions[i]
		}
	}
	l.Conversions = append(l.Conversions, Conversion{Rate: rate})
	return &l.Conversions[len(l.Conversions)-1]
}

// Line is one dimension of a lease's cost (rule M3).
type Line struct {
	Dimension  string // "base", "cpu", "gpu", "memory"
	Quantity   uint64
	Unit       string // of Quantity: "ms" or "MiB·ms"
	Price      ledger.NUSD
	NUSD       *big.Rat // exact
	Arithmetic string   // the line spelled out
}

// msPerHour turns milliseconds × price per hour into money.
const msPerHour = 3_600_000

// Lines spells the cost of the totals at the prices out, one line a dimension.
func Lines(p ledger.Prices, t ledger.Totals) []Line {
	const mibPerGiB = 1024
	return []Line{
		line("base", t.WallMs, "ms", p.Base, msPerHour, "3600000 ms/h"),
		line("cpu", t.CPUMs, "ms", p.CPU, msPerHour, "3600000 ms/h"),
		line("gpu", t.GPUMs, "ms", p.GPU, msPerHour, "3600000 ms/h"),
		line("memory", t.MemoryMiBMs, "MiB·ms", p.Memory, msPerHour*mibPerGiB, "3600000 ms/h ÷ 1024 MiB/GiB"),
	}
}

func line(dimension string, quantity uint64, unit string, price ledger.NUSD, per int64, divisor string) Line {
	n := new(big.Int).Mul(new(big.Int).SetUint64(quantity), big.NewInt(int64(price)))
	cost := new(big.Rat).SetFrac(n, big.NewInt(per))
	return Line{
		Dimension: dimension, Quantity: quantity, Unit: unit, Price: price, NUSD: cost,
		Arithmetic: fmt.Sprintf("%d %s × %d nUSD/h ÷ %s = %s nUSD", quantity, unit, price, divisor, Decimal(cost)),
	}
}

// Cost sums the lines: the exact cost in nUSD.
func Cost(lines []Line) *big.Rat {
	sum := new(big.Rat)
	for i := range lines {
		sum.Add(sum, lines[i].NUSD)
	}
	return sum
}

// Floor is the largest integer not above a cost that is not negative.
func Floor(r *big.Rat) *big.Int { return new(big.Int).Quo(r.Num(), r.Denom()) }

// Decimal writes r exactly: as a decimal where that ends within 12 places, as
// numerator/denominator where it does not.
func Decimal(r *big.Rat) string {
	if r.IsInt() {
		return r.Num().String()
	}
	if n, exact := r.FloatPrec(); exact && n <= 12 {
		return r.FloatString(n)
	}
	return r.RatString()
}

// JouleArithmetic spells a conversion out: what the USD buys at the rate.
func JouleArithmetic(c Conversion, rate ledger.NUSD) string {
	if c.USD == 0 {
		return fmt.Sprintf("%d nJ paid directly in JOULE, valued at %d nUSD per JOULE", c.PaidNJ+c.FeeNJ, rate)
	}
	gross := new(big.Rat).SetFrac(
		new(big.Int).Mul(big.NewInt(int64(c.USD)), big.NewInt(1_000_000_000)), big.NewInt(int64(rate)))
	return fmt.Sprintf("%d nUSD × 10⁹ ÷ %d nUSD per JOULE = %s nJ; converted %d nJ = %d to the supplier + %d fee",
		c.USD, rate, Decimal(gross), c.PaidNJ+c.FeeNJ, c.PaidNJ, c.FeeNJ)
}
