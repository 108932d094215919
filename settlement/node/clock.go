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
// monotonic time since it became known. It is safe for concurrent use.
type clock struct {
	wall func() time.Time

	mu     sync.Mutex
	known  ledger.Time // the highest stamp known
	at     time.Time   // when it became known, with its monotonic reading
	synced bool        // known and at are set
}

// learn takes note of ledger time as it was just applied, here or on another
// leader: whoever leads next goes on from there.
func (c *clock) learn(now time.Time, applied ledger.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.synced || applied > c.known {
		c.known, c.at, c.synced = applied, now, true
	}
}

// stamp returns the time stamp of the moment now, given the ledger's own time.
func (c *clock) stamp(now time.Time, applied ledger.Time) ledger.Time {
	c.learn(now, applied)
	c.mu.Lock()
	defer c.mu.Unlock()
	wall := ledger.Time(c.wall().UnixMilli())
	// Anchored anew only where the wall clock is ahead: adding up whole
	// milliseconds would lose their fractions.
	if next := c.known + ledger.Time(now.Sub(c.at).Milliseconds()); next >= wall {
		return next
	}
	c.known, c.at = wall, now
	return wall
}
