package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/joulecloud/joule/settlement/journal"
	"github.com/joulecloud/joule/settlement/ledger"
)

// complete brings the journal to a snapshot's block: what is missing comes from
// another server, each block checked against the one before it, and the last
// against the snapshot.
func (m *machine) complete(block uint64, digest ledger.Digest) error {
	if last, _ := m.journal.Last(); last < block {
		// A snapshot is written once the journal has its blocks on disk.
		if cut := m.journal.Dropped(); cut != nil {
			m.log.LogAttrs(m.closing, slog.LevelError, "the journal is damaged: what was cut off its end had been on disk",
				slog.String("file", cut.File), slog.Int64("offset", cut.Offset), slog.Int64("bytes", cut.Bytes), slog.Uint64("snapshot_block", block))
			if m.peers == nil {
				return fmt.Errorf("the journal is damaged: %q ends at block %d with %d bytes at offset %d that are no block, but the snapshot says that block %d was on disk: copy the journal directory from another server",
					cut.File, last, cut.Bytes, cut.Offset, block)
			}
		}
		if m.peers == nil {
			return fmt.Errorf("the journal ends at block %d, the snapshot at %d: copy the journal directory from another server", last, block)
		}
		if err := fetch(m.closing, m.journal, block, m.peers, m.log); err != nil {
			return err
		}
	}
	have, ok, err := m.journal.DigestOf(block)
	if err != nil {
		return err
	}
	if !ok {
		last, _ := m.journal.Last()
		return fmt.Errorf("the journal ends at block %d, the snapshot at %d", last, block)
	}
	if have != digest {
		return fmt.Errorf("the snapshot's last block: %w", &journal.MismatchError{Seq: block, Have: have, Got: digest})
	}
	return nil
}

// fetchLogged is how many blocks pass between two lines of progress.
const fetchLogged = 100_000

// fetch appends the blocks behind the journal's last one up to block to (0: the
// last that the other server has) and makes them durable.
func fetch(ctx context.Context, jrn *journal.Journal, to uint64, peers Peers, log *slog.Logger) error {
	last, _ := jrn.Last()
	log.LogAttrs(ctx, slog.LevelInfo, "fetching the journal from another server",
		slog.Uint64("from", last+1), slog.Uint64("to", to))
	first := last
	err := peers.Blocks(ctx, last+1, to, func(encoded []byte) error {
		if err := jrn.AppendCopy(encoded); err != nil {
			return err
		}
		if last++; (last-first)%fetchLogged == 0 {
			log.LogAttrs(ctx, slog.LevelInfo, "fetching the journal", slog.Uint64("block", last), slog.Uint64("to", to))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("fetch the journal behind block %d from another server: %w", last, err)
	}
	if last < to {
		return fmt.Errorf("fetch the journal: the other server's ends at block %d, block %d is needed", last, to)
	}
	if err := jrn.Sync(); err != nil {
		return err
	}
	log.LogAttrs(ctx, slog.LevelInfo, "fetched the journal", slog.Uint64("blocks", last-first), slog.Uint64("last", last))
	return nil
}

// FetchJournal brings the journal below dataDir to the end of another server's,
// before a node is opened there. A new server does it before it joins, so that
// installing a snapshot later finds little to fetch.
func FetchJournal(ctx context.Context, dataDir string, peers Peers, log *slog.Logger) error {
	jrn, err := journal.Open(filepath.Join(dataDir, "journal"))
	if err != nil {
		return err
	}
	return errors.Join(fetch(ctx, jrn, 0, peers, log), jrn.Close())
}

// DigestAt returns the digest of an earlier block as this server has applied
// it; false if it has not got so far.
func (n *Node) DigestAt(block uint64) (ledger.Digest, bool, error) {
	if last, digest := n.Position(); block == last {
		return digest, true, nil
	} else if block > last {
		return ledger.Digest{}, false, nil
	}
	return n.machine.journal.DigestOf(block)
}
