package node

import (
	"sync"
	"time"

	"github.com/joulecloud/joule/settlement/ledger"
)

// clock makes the leader's time stamps. Usage is paid only as far as ledger
// time has passed (rule U6), so ledger time must not stand still when the
// machine's clock is set back, here or on the leader before: a stamp is the
// wall clock, or where that lags, the highest stamp known so far plus the
// monotonic time since.
type clock struct {
	mu     sync.Mutex
	stamp0 ledger.Time // the highest stamp known
	at     time.Time   // when it was, with its monotonic reading
}

// stamp returns the time stamp of the moment now, given the ledger's own time.
func (c *clock) stamp(now time.Time, applied ledger.Time) ledger.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall := ledger.Time(now.UnixMilli())
	next := wall
	if !c.at.IsZero() {
		next = max(next, c.stamp0+ledger.Time(now.Sub(c.at).Milliseconds()))
	}
	if next = max(next, applied); next == wall || applied > c.stamp0 || c.at.IsZero() {
		// Anchored anew only here: adding up whole milliseconds would lose
		// their fractions.
		c.stamp0, c.at = next, now
	}
	return next
}
