package audit

import (
	"math/big"

	"github.com/joulecloud/joule/settlement/ledger"
)

// rateBooks are the history of rates, and whether they may convert (rule M6).
type rateBooks struct {
	all      map[ledger.RateID]ledger.NUSD
	history  []rateRow // in the order of their ids
	guard    ledger.RateGuard
	override ledger.Time // until then the newest may convert whatever it is; 0: no override
	inForce  ledger.RateID
	said     ledger.PauseReason // by the journal's last word on it
}

type rateRow struct {
	nusd     ledger.NUSD
	set      ledger.Time
	proposed bool
	doubtful bool
}

// pause is why nothing converts at a time.
func (r *rateBooks) pause(now ledger.Time) ledger.PauseReason {
	if len(r.history) == 0 {
		return ledger.PauseNone
	}
	newest := &r.history[len(r.history)-1]
	switch {
	case !newest.proposed, r.override > now:
		return ledger.PauseNone
	case newest.doubtful:
		return ledger.PauseDoubtful
	case r.guard.MaxAgeMs > 0 && uint64(now-newest.set) > r.guard.MaxAgeMs:
		return ledger.PauseStale
	}
	return ledger.PauseNone
}

// goOn checks that the journal says at once when conversion pauses and when it
// goes on. e is the next entry.
func (b *books) goOn(e *ledger.Entry) {
	want := b.rates.pause(e.Time)
	change, ok := e.Fact.(*ledger.ConversionChanged)
	switch {
	case !ok && want != b.rates.said:
		b.find(CheckRates, e, "conversion has the state %d since the entry before, and nothing says so", want)
	case ok && (change.Paused != want || want == b.rates.said || int(change.Rate) != len(b.rates.history)):
		b.find(CheckRates, e, "the entry says that conversion has the state %d at rate %d; it had %d and has %d at rate %d",
			change.Paused, change.Rate, b.rates.said, want, len(b.rates.history))
	}
	if want != b.rates.said {
		b.rates.said = want
		if want == ledger.PauseNone {
			b.rates.inForce = ledger.RateID(len(b.rates.history))
		}
	}
}

// addRate takes a rate into the history.
func (b *books) addRate(e *ledger.Entry, id ledger.RateID, row rateRow) {
	b.r.checked(CheckRates)
	if int(id) != len(b.rates.history)+1 || row.nusd <= 0 {
		b.find(CheckRates, e, "rate %d of %d nUSD per JOULE follows rate %d", id, row.nusd, len(b.rates.history))
		return
	}
	row.set = e.Time
	b.rates.history = append(b.rates.history, row)
	b.rates.all[id] = row.nusd
	b.rates.override = 0
	if b.rates.pause(e.Time) == ledger.PauseNone {
		b.rates.inForce = id
	}
}

// proposed checks what the guard made of a proposed rate.
func (b *books) proposed(e *ledger.Entry, f *ledger.RateProposed) {
	average, doubtful := b.average(e.Time), false
	if b.rates.guard.DeviationPPM == 0 {
		average = 0
	} else if average > 0 {
		// |rate − average| × 10⁶ > average × ppm
		diff := new(big.Int).Sub(big.NewInt(int64(f.NUSDPerJoule)), big.NewInt(int64(average)))
		diff.Mul(diff.Abs(diff), million)
		most := new(big.Int).Mul(big.NewInt(int64(average)), big.NewInt(int64(b.rates.guard.DeviationPPM)))
		doubtful = diff.Cmp(most) > 0
	}
	if f.Average != average || f.Doubtful != doubtful {
		b.find(CheckRates, e, "rate %d of %d nUSD was compared with an average of %d and found doubtful %v; the average is %d, doubtful %v",
			f.ID, f.NUSDPerJoule, f.Average, f.Doubtful, average, doubtful)
	}
	b.addRate(e, f.ID, rateRow{nusd: f.NUSDPerJoule, proposed: true, doubtful: f.Doubtful})
}

// average is the time-weighted average of the rates over the guard's window
// before now, rounded down; 0 if no rate was the newest for any time in it. The
// ledger looks back over 4,096 rates at most.
func (b *books) average(now ledger.Time) ledger.NUSD {
	const ratesMax = 4096
	from := now - ledger.Time(b.rates.guard.WindowMs)
	sum, weights := new(big.Int), new(big.Int)
	h := b.rates.history
	for i := max(0, len(h)-ratesMax); i < len(h); i++ {
		end := now
		if i+1 < len(h) {
			end = h[i+1].set
		}
		if w := int64(end - max(h[i].set, from)); w > 0 {
			weight := big.NewInt(w)
			weights.Add(weights, weight)
			sum.Add(sum, weight.Mul(weight, big.NewInt(int64(h[i].nusd))))
		}
	}
	if weights.Sign() == 0 {
		return 0
	}
	return ledger.NUSD(sum.Quo(sum, weights).Int64())
}

// rateFact takes a fact about rates; false for another one.
func (b *books) rateFact(e *ledger.Entry) bool {
	switch f := e.Fact.(type) {
	case *ledger.RateSet:
		b.addRate(e, f.ID, rateRow{nusd: f.NUSDPerJoule})
	case *ledger.RateProposed:
		b.proposed(e, f)
	case *ledger.RateOverridden:
		b.r.checked(CheckRates)
		newest := len(b.rates.history)
		if int(f.Rate) != newest || newest == 0 || !b.rates.history[newest-1].proposed || f.Until <= e.Time || f.Operator == "" || f.Why == "" {
			b.find(CheckRates, e, "operator %q overrides rate %d of %d until %d: %q", f.Operator, f.Rate, newest, f.Until, f.Why)
			return true
		}
		b.rates.override = f.Until
		b.rates.inForce = f.Rate
	case *ledger.RateGuardSet:
		b.rates.guard = f.RateGuard
		if b.rates.pause(e.Time) == ledger.PauseNone {
			b.rates.inForce = ledger.RateID(len(b.rates.history))
		}
	case *ledger.ConversionChanged: // see goOn
	default:
		return false
	}
	return true
}
