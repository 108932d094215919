package node

import (
	"testing"
	"time"

	"github.com/joulecloud/joule/settlement/ledger"
)

var t0 = time.UnixMilli(1_000_000)

// setWall sets the wall clock.
func (c *clock) setWall(ms int64) { c.wall = func() time.Time { return time.UnixMilli(ms) } }

// A wall clock that lags behind what the ledger has does not hold its time up.
func TestClockGoesOnFromTheLeaderBefore(t *testing.T) {
	var c clock
	c.setWall(1_000_000)
	const ahead = ledger.Time(4_600_000) // an hour ahead of our wall clock
	if got := c.stamp(t0, ahead); got != ahead {
		t.Fatalf("got %d, want %d", got, ahead)
	}
	for _, passed := range []time.Duration{300 * time.Microsecond, time.Second, time.Second + 700*time.Microsecond, 10 * time.Second} {
		want := ahead + ledger.Time(passed.Milliseconds())
		if got := c.stamp(t0.Add(passed), ahead); got != want {
			t.Errorf("after %s: got %d, want %d", passed, got, want)
		}
	}
}

// The time in which nobody led counts: it began when the last stamp was applied.
func TestClockCountsTheTimeWithoutALeader(t *testing.T) {
	var c clock
	c.setWall(1_000_000)
	c.learn(t0, 4_600_000)
	if got, want := c.stamp(t0.Add(8*time.Second), 4_600_000), ledger.Time(4_608_000); got != want {
		t.Errorf("got %d, want %d", got, want)
	}
}

// A clock that is set back while its server leads changes nothing.
func TestClockSetBackWhileLeading(t *testing.T) {
	var c clock
	c.setWall(10_000_000)
	c.stamp(t0, 0)
	c.setWall(10_000_000 - 3_600_000)
	if got, want := c.stamp(t0.Add(time.Second), 10_000_000), ledger.Time(10_001_000); got != want {
		t.Errorf("got %d, want %d", got, want)
	}
}

func TestClockFollowsTheWallClockForward(t *testing.T) {
	var c clock
	for _, ms := range []int64{1_000_000, 1_001_000, 4_600_000} {
		c.setWall(ms)
		if got := c.stamp(t0, 0); got != ledger.Time(ms) {
			t.Errorf("got %d, want %d", got, ms)
		}
	}
}
