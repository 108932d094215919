package cluster_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/joulecloud/joule/settlement/cluster"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/node"
)

// A leader that applies nothing stops and says so, though it still has its
// followers: once it is gone another leads, and what waited for it happens. One
// that is merely idle goes on, as do followers.
func TestStuckLeaderStops(t *testing.T) {
	t.Parallel()
	b := newBoxes(t, 3, func(c *cluster.Config, _ *node.Config) { c.StuckAfter = 3 * time.Second })
	b.put(0, "a")
	stuck := b.leader()
	before := b.all[stuck].node.Store().AppliedIndex()
	b.eventually("an idle leader's probe", func() error {
		if b.all[stuck].node.Store().AppliedIndex() > before {
			return nil
		}
		return node.ErrBusy
	})
	b.quiet(-1)

	// A reader that never ends holds everything up, as a disk would that never
	// answers.
	release, held := make(chan struct{}), make(chan error, 1)
	releaseOnce := sync.OnceFunc(func() { close(release) })
	t.Cleanup(releaseOnce)
	go func() {
		held <- b.all[stuck].node.Read(node.WithConsistency(t.Context(), node.Stale), func(*ledger.Ledger) error { <-release; return nil })
	}()
	waits := make(chan error, 1)
	other := (stuck + 1) % 3
	go func() {
		for { // as a client does: the same key until the outcome is known
			res, err := b.all[other].node.Submit(t.Context(), ledger.Envelope{Key: "k", Command: &ledger.CreateSupplier{Name: "waits"}})
			if err == nil || t.Context().Err() != nil {
				if err == nil {
					err = res.Err()
				}
				waits <- err
				return
			}
		}
	}()
	if err := b.told(stuck); !strings.Contains(err.Error(), "leads but has applied nothing") || !strings.Contains(err.Error(), "a restart lets another server lead") {
		t.Errorf("got %v", err)
	}
	releaseOnce()
	if err := <-held; err != nil {
		t.Error(err)
	}
	b.close(stuck)
	if err := <-waits; err != nil {
		t.Errorf("what waited for it: %v", err)
	}
	b.mustHave(other, "waits")
	b.quiet(stuck)
}
