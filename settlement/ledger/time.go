package ledger

import "math"

const timeMax = Time(math.MaxInt64)

// later is t plus ms, or the end of time where that is less.
func later(t Time, ms uint64) Time {
	if ms > uint64(timeMax-t) {
		return timeMax
	}
	return t + Time(ms)
}
