package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/joulecloud/joule/settlement/node"
)

// stuckAfter, Config.StuckAfter's default, is for how long a leader may fail to apply anything. An interrupted
// leadership transfer leaves one that refuses every proposal until it is
// restarted (hashicorp/raft#696); whatever else may hold one up, such as a disk
// that never answers, is cured the same way: another server is elected.
const stuckAfter = time.Minute

// watchdog follows a leader's progress.
type watchdog struct {
	term    uint64 // Raft's, of the leadership that is watched; 0: none
	applied uint64
	moved   time.Time // when something was applied last
	probing bool
	told    bool // Fatal was
}

// guard runs the watchdog until ctx ends.
func (a *Agent) guard(ctx context.Context, n *node.Node) {
	tick := time.NewTicker(a.cfg.Interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			a.checkProgress(ctx, n)
		case <-ctx.Done():
			return
		}
	}
}

// checkProgress stops a leader that applies nothing. An idle one is made to
// apply an empty entry from time to time.
func (a *Agent) checkProgress(ctx context.Context, n *node.Node) {
	st := n.Store().Stats()
	now := time.Now()
	a.mu.Lock()
	w := &a.watch
	switch {
	case st.State != "Leader":
		*w = watchdog{probing: w.probing, told: w.told}
	case w.term != st.Term || w.applied != st.AppliedIndex:
		w.term, w.applied, w.moved = st.Term, st.AppliedIndex, now
	}
	idle := time.Duration(0)
	if w.term != 0 {
		idle = now.Sub(w.moved)
	}
	probe := idle > a.cfg.StuckAfter/3 && !w.probing
	w.probing = w.probing || probe
	stuck := idle > a.cfg.StuckAfter && !w.told
	w.told = w.told || stuck
	a.mu.Unlock()
	if stuck {
		a.log.LogAttrs(ctx, slog.LevelError, "this server leads but applies nothing", slog.Duration("for", idle), slog.Uint64("term", st.Term),
			slog.Uint64("last_index", st.LastIndex), slog.Uint64("commit_index", st.CommitIndex), slog.Uint64("applied_index", st.AppliedIndex))
		a.cfg.Fatal(fmt.Errorf("this server leads but has applied nothing for %s: %w", idle.Round(time.Millisecond), errStuck))
		return
	}
	if probe {
		go func() {
			ctx, cancel := context.WithTimeout(ctx, a.cfg.StuckAfter)
			defer cancel()
			if err := n.Store().Barrier(ctx); err != nil {
				a.log.LogAttrs(ctx, slog.LevelWarn, "an empty entry was not committed", slog.Any("error", err))
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			a.watch.probing = false
		}()
	}
}

var errStuck = errors.New("it is stuck; a restart lets another server lead")
