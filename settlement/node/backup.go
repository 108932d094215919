package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/joulecloud/joule/settlement/backup"
)

// ErrHistory is returned for a restore into a cluster that has a history.
var ErrHistory = errors.New("this cluster has a history already: a backup goes into a new one")

// ErrRestoring is returned for commands while a backup is being restored.
var ErrRestoring = errors.New("a backup is being restored")

// Backup writes the state with everything acknowledged before the call, and the
// journal that led to it. Commands go on meanwhile.
func (n *Node) Backup(ctx context.Context, w io.Writer, m backup.Meta) error {
	if err := n.readPoint(ctx, true); err != nil {
		return err
	}
	mc := n.machine
	mc.mu.Lock()
	if mc.failed != nil {
		mc.mu.Unlock()
		return fmt.Errorf("%w: %w", ErrFailed, mc.failed)
	}
	l, block, digest := mc.ledger, mc.block, mc.digest
	capture := l.Capture()
	mc.mu.Unlock()
	defer func() {
		mc.mu.Lock()
		l.Release(capture)
		mc.mu.Unlock()
	}()
	return backup.Write(&contextWriter{ctx, w}, m, backup.Source{
		State: capture.State(), Extra: snapshotExtra(block, digest), Block: block, Digest: digest,
		Blocks: mc.journal.Encoded(1),
	})
}

// contextWriter fails when its context ends.
type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (c *contextWriter) Write(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.w.Write(p)
}

// RestoreBackup brings a backup, which was verified, into a cluster that has no
// history yet. This server must lead. The others get the state from it as they
// would any snapshot. A failure half-way leaves this server with a history that
// the cluster does not have: it stops then, and its data must be moved away.
func (n *Node) RestoreBackup(ctx context.Context, path string) (index uint64, err error) {
	if !n.restoring.CompareAndSwap(false, true) {
		return 0, ErrRestoring
	}
	defer n.restoring.Store(false)
	// What is under way is applied after this.
	if err := n.store.Barrier(ctx); err != nil {
		return 0, err
	}
	block, _ := n.Position()
	if last, _ := n.machine.journal.Last(); block > 0 || last > 0 {
		return 0, fmt.Errorf("its last block is %d: %w", max(block, last), ErrHistory)
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	state, err := os.CreateTemp(filepath.Dir(path), "state-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, state.Close(), os.Remove(state.Name())) }()
	meta, err := backup.Read(f, backup.Handler{
		State: func(r io.Reader) error { _, err := io.Copy(state, r); return err },
		Block: n.machine.journal.AppendCopy,
	})
	if err == nil {
		err = n.machine.journal.Sync()
	}
	if err == nil {
		_, err = state.Seek(0, io.SeekStart)
	}
	if err == nil {
		index, err = n.store.Restore(ctx, state, meta.StateBytes)
	}
	if err != nil {
		err = fmt.Errorf("restore backup: %w", err)
		if last, _ := n.machine.journal.Last(); last > 0 {
			n.machine.fatal(fmt.Errorf("%w; move this server's data_dir away before it starts again", err))
		}
		return 0, err
	}
	return index, nil
}

// snapshotExtra is what the machine's snapshots carry beside the ledger.
func snapshotExtra(block uint64, digest [32]byte) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, block), digest[:]...)
}
