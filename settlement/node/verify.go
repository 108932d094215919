package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/joulecloud/joule/settlement/journal"
)

const (
	// verifyAfter is how long a server is left in peace after its start.
	verifyAfter = time.Minute
	// verifyBytesPerS is how quickly the history is read: a few percent of a
	// core and of a disk.
	verifyBytesPerS = 8 << 20
)

// runVerify reads the whole history once, slowly: opening the journal reads its
// last file only. Damage stops this server as a history that differs does: what
// it would answer, and hand to others, can no longer be trusted.
func (n *Node) runVerify(ctx context.Context, after time.Duration) {
	if after < 0 {
		return
	}
	pause := time.NewTimer(cmp.Or(after, verifyAfter))
	defer pause.Stop()
	wait := func() error {
		select {
		case <-pause.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if wait() != nil {
		return
	}
	began, read := time.Now(), 0
	err := n.machine.journal.Verify(func(block uint64, bytes int) error {
		n.counters.verified.Store(block)
		if read += bytes; read < verifyBytesPerS/4 {
			return ctx.Err()
		}
		read = 0
		pause.Reset(time.Second / 4)
		return wait()
	})
	switch {
	case err == nil:
		n.log.LogAttrs(ctx, slog.LevelInfo, "the journal is as it was written",
			slog.Uint64("last_checked", n.counters.verified.Load()), slog.Duration("took", time.Since(began)))
	case ctx.Err() != nil, errors.Is(err, journal.ErrClosed):
	default:
		n.machine.stop(fmt.Errorf("the journal is no longer what was written: %w; remove this server from the cluster and add it anew with an empty directory", err))
	}
}
