package node

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/joulecloud/joule/settlement/ledger"
)

// tickInterval is how often a server looks whether anything fell due.
const tickInterval = time.Second

// ticksMax is how many Ticks may follow one another at once, so that they leave
// room for other commands.
const ticksMax = 64

// runTicks proposes a Tick whenever this server leads and the ledger has
// something that is due by the time it would be stamped (rule F5): the ledger
// does nothing by the mere passing of time. Two leaders that both propose one
// do no harm: the second finds nothing to do.
func (n *Node) runTicks(ctx context.Context) {
	ticker := time.NewTicker(tickInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		// A Tick does a bounded part of what is due, so that another may follow
		// at once.
		for left := ticksMax; left > 0 && n.tickDue(); left-- {
			if err := n.tick(ctx); err != nil {
				if !errors.Is(err, ErrShutdown) && !errors.Is(err, context.Canceled) {
					n.log.LogAttrs(ctx, slog.LevelWarn, "what is due waits", slog.Any("error", err))
				}
				break
			}
		}
	}
}

// tickDue says whether a Tick has something to do.
func (n *Node) tickDue() bool {
	if !n.store.IsLeader() {
		return false
	}
	n.machine.mu.RLock()
	at, ok := n.machine.ledger.NextDue()
	failed := n.machine.failed != nil
	n.machine.mu.RUnlock()
	return ok && !failed && at <= n.stamp()
}

func (n *Node) tick(ctx context.Context) error {
	res, err := n.Submit(ctx, ledger.Envelope{Command: &ledger.Tick{}})
	if err != nil {
		return err
	}
	return res.Err()
}
