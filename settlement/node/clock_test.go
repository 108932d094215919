package node

import (
	"testing"
	"time"

	"github.com/joulecloud/joule/settlement/ledger"
)

// A wall clock that is set back does not hold ledger time up. The test's times
// carry no monotonic reading, so a step back is played by the applied time of
// a leader whose clock was ahead.
func TestClockGoesOnFromTheLeaderBefore(t *testing.T) {
	var c clock
	t0 := time.UnixMilli(1_000_000)
	ahead := ledger.Time(4_600_000) // an hour ahead of our wall clock
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

func TestClockFollowsTheWallClockForward(t *testing.T) {
	var c clock
	t0 := time.UnixMilli(1_000_000)
	for _, passed := range []time.Duration{0, time.Second, time.Hour} {
		want := ledger.Time(t0.Add(passed).UnixMilli())
		if got := c.stamp(t0.Add(passed), 0); got != want {
			t.Errorf("after %s: got %d, want %d", passed, got, want)
		}
	}
}
