// Package rate decides from what several sources say which price of a JOULE to
// propose to the ledger: the weighted median of those that are fresh and agree,
// when it has moved or when the price in force is getting old.
//
// It is pure: package feed asks the sources and tells the time. It converts
// nothing; the ledger does that, and has its own guard against a rate that is
// stale or doubtful (rule M6).
package rate

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"
)

// Error is a value that can't be used.
type Error struct {
	Field string
	Value string // "" where only the field's place is at fault
	Rule  string
}

// valueBytesMax bounds how much of a bad value an error repeats.
const valueBytesMax = 60

// Error implements error.
func (e *Error) Error() string {
	v := e.Value
	if v == "" {
		return e.Field + " " + e.Rule
	}
	if len(v) > valueBytesMax {
		v = v[:valueBytesMax] + "…"
	}
	return fmt.Sprintf("%s %s, got %q", e.Field, e.Rule, v)
}

// WeightMax bounds a source's weight, so that no sum of them can overflow.
const WeightMax = 1_000_000

// SourcesMax bounds how many sources there may be.
const SourcesMax = 64

const ppmWhole = 1_000_000

// Quote is the last price that a source gave. Times are Unix milliseconds.
type Quote struct {
	Source string
	Weight uint32
	NUSD   int64 // per JOULE
	At     int64 // when the price was made, as far as the source says, else when it was received
}

// Rate is the price in force.
type Rate struct {
	NUSD int64
	Set  int64
}

// Rules say when a rate is proposed. Times are milliseconds.
type Rules struct {
	MinSources   int    // so many must be fresh and agree
	MaxAgeMs     int64  // an older quote does not count
	MaxAheadMs   int64  // nor one that claims to be from further in the future
	DeviationPPM uint32 // a quote further than this from the median does not count
	MovePPM      uint32 // propose when the median is at least this far from the rate in force
	RefreshMs    int64  // propose the same again when the rate in force is this old
}

// Rejection is a quote that did not count, and why.
type Rejection struct {
	Source string
	Why    string
}

// Decision is what came of a round.
type Decision struct {
	Propose  bool
	NUSD     int64  // the median; 0 if there is none to be trusted
	Why      string // in words, whether Propose or not
	Counted  int    // sources that were fresh and agreed
	Rejected []Rejection
}

// Median is the weighted median of prices: the one at which half of the weight
// is reached, or the mean of two, rounded down, where exactly half lies on
// either side. quotes is not empty and its weights are above 0.
func Median(quotes []Quote) int64 {
	sorted := slices.Clone(quotes)
	slices.SortFunc(sorted, func(a, b Quote) int { return cmp.Compare(a.NUSD, b.NUSD) })
	all := weight(sorted)
	var sum uint64
	for i := range sorted {
		sum += uint64(sorted[i].Weight)
		switch {
		case 2*sum > all || i == len(sorted)-1:
			return sorted[i].NUSD
		case 2*sum == all:
			low, high := sorted[i].NUSD, sorted[i+1].NUSD
			return low + (high-low)/2
		}
	}
	return 0
}

func weight(quotes []Quote) (sum uint64) {
	for i := range quotes {
		sum += uint64(quotes[i].Weight)
	}
	return sum
}

// Decide says what to do with the last quotes of all sources at the time now.
// inForce is nil where no rate was ever set.
func Decide(rules *Rules, quotes []Quote, inForce *Rate, now int64) Decision {
	var d Decision
	fresh := make([]Quote, 0, len(quotes))
	for _, q := range quotes {
		if why := stale(rules, &q, now); why != "" {
			d.Rejected = append(d.Rejected, Rejection{q.Source, why})
			continue
		}
		fresh = append(fresh, q)
	}
	if len(fresh) < rules.MinSources || len(fresh) == 0 {
		d.Counted = len(fresh)
		d.Why = fmt.Sprintf("%d of %d sources are fresh, at least %d are wanted", len(fresh), len(quotes), max(rules.MinSources, 1))
		return d
	}
	median := Median(fresh)
	agreed := make([]Quote, 0, len(fresh))
	for _, q := range fresh {
		if Apart(q.NUSD, median, rules.DeviationPPM) {
			d.Rejected = append(d.Rejected, Rejection{q.Source,
				fmt.Sprintf("%d nUSD is more than %d ppm from the median %d", q.NUSD, rules.DeviationPPM, median)})
			continue
		}
		agreed = append(agreed, q)
	}
	d.Counted = len(agreed)
	switch {
	case len(agreed) < rules.MinSources || len(agreed) == 0:
		d.Why = fmt.Sprintf("%d of %d sources agree, at least %d are wanted", len(agreed), len(fresh), max(rules.MinSources, 1))
		return d
	case 2*weight(agreed) <= weight(fresh):
		// Two camps of equal weight: which of them lies can't be known.
		d.Why = "the sources that agree have no more than half of the weight"
		return d
	}
	d.NUSD = Median(agreed)
	switch {
	case inForce == nil:
		d.Propose, d.Why = true, "no rate was ever set"
	case inForce.NUSD != d.NUSD && !within(d.NUSD, inForce.NUSD, rules.MovePPM):
		d.Propose, d.Why = true, fmt.Sprintf("moved from %d nUSD", inForce.NUSD)
	case now-inForce.Set >= rules.RefreshMs:
		d.Propose, d.Why = true, fmt.Sprintf("the rate in force is %d ms old", now-inForce.Set)
	default:
		d.Why = "has not moved"
	}
	return d
}

// stale says why a quote does not count by its age; "" if it does.
func stale(rules *Rules, q *Quote, now int64) string {
	switch {
	case q.NUSD <= 0 || q.Weight == 0:
		return "gave no price yet"
	case q.At > now && q.At-now > rules.MaxAheadMs:
		return fmt.Sprintf("is %d ms ahead of this server's clock", q.At-now)
	case q.At < now && now-q.At > rules.MaxAgeMs:
		return fmt.Sprintf("is %d ms old, at most %d count", now-q.At, rules.MaxAgeMs)
	}
	return ""
}

// Apart says whether a is further than ppm millionths of b from b. Both are
// above 0.
func Apart(a, b int64, ppm uint32) bool { return compare(a, b, ppm) > 0 }

// within says whether a is nearer to b than ppm millionths of b.
func within(a, b int64, ppm uint32) bool { return compare(a, b, ppm) < 0 }

// compare compares |a−b| with b × ppm ÷ 1,000,000, exactly.
func compare(a, b int64, ppm uint32) int {
	diff := uint64(a - b)
	if a < b {
		diff = uint64(b - a)
	}
	hi1, lo1 := bits.Mul64(diff, ppmWhole)
	hi2, lo2 := bits.Mul64(uint64(b), uint64(ppm))
	if c := cmp.Compare(hi1, hi2); c != 0 {
		return c
	}
	return cmp.Compare(lo1, lo2)
}

// Validate reports a rule out of its range.
func (r *Rules) Validate() error {
	switch {
	case r.MinSources < 1 || r.MinSources > SourcesMax:
		return &Error{"min_sources", fmt.Sprint(r.MinSources), fmt.Sprintf("must be 1 to %d", SourcesMax)}
	case r.MaxAgeMs <= 0 || r.MaxAgeMs > math.MaxInt32:
		return &Error{"max_age", fmt.Sprintf("%d ms", r.MaxAgeMs), "must be above 0 and at most 24 days"}
	case r.DeviationPPM < 1 || r.DeviationPPM > ppmWhole:
		return &Error{"deviation", fmt.Sprintf("%d ppm", r.DeviationPPM), "must be above 0% and at most 100%"}
	case r.MovePPM > ppmWhole:
		return &Error{"move", fmt.Sprintf("%d ppm", r.MovePPM), "must be at most 100%"}
	case r.RefreshMs <= 0:
		return &Error{"refresh", fmt.Sprintf("%d ms", r.RefreshMs), "must be above 0"}
	}
	return nil
}
