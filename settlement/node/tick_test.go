package node

import (
	"context"
	"testing"
	"time"

	"github.com/joulecloud/joule/settlement/ledger"
)

// The leader alone makes happen what falls due by the mere passing of time: a
// rate goes stale, and the journal says so, without any other command.
func TestTheLeaderTicksWhenSomethingIsDue(t *testing.T) {
	n, fatal := open(t, t.TempDir())
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	for i, cmd := range []ledger.Command{
		&ledger.SetRateGuard{RateGuard: ledger.RateGuard{MaxAgeMs: 20, DeviationPPM: 15_000, WindowMs: 1000}},
		&ledger.ProposeRate{NUSDPerJoule: 50_000_000},
	} {
		if res, err := n.Submit(t.Context(), ledger.Envelope{Key: string(rune('a' + i)), Command: cmd}); err != nil || res.Code != ledger.CodeOK {
			t.Fatalf("%T: got %+v, %v", cmd, res, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		var st ledger.RateState
		var due bool
		if err := n.Read(ctx, func(l *ledger.Ledger) error {
			st, _ = l.RateState()
			_, due = l.NextDue()
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if st.Paused == ledger.PauseStale {
			if due {
				t.Error("something is due still")
			}
			if st.Since <= st.Newest.Set+20 {
				t.Errorf("stale at %d, the rate was set at %d", st.Since, st.Newest.Set)
			}
			return
		}
		select {
		case <-look.C:
		case err := <-fatal:
			t.Fatal(err)
		case <-ctx.Done():
			t.Fatalf("nothing happened: %+v", st)
		}
	}
}
