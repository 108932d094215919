package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/joulecloud/joule/raftstore"
	"github.com/joulecloud/joule/settlement/journal"
	"github.com/joulecloud/joule/settlement/ledger"
)

// Recovered says what a recovery found.
type Recovered struct {
	Block  uint64
	Digest ledger.Digest
}

// Recover rewrites the cluster's list of servers on one that is not running,
// for a cluster that has lost a majority for good: see raftstore.Recover. The
// ledger and the journal are brought to the end of this server's log.
func Recover(cfg Config, peers []raftstore.Peer, log *slog.Logger) (out Recovered, err error) {
	jrn, err := journal.Open(filepath.Join(cfg.DataDir, "journal"))
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, jrn.Close()) }()
	var failed error
	cfg.Raft.Dir = filepath.Join(cfg.DataDir, "raft")
	cfg.Raft.Fatal = func(err error) { failed = errors.Join(failed, err) }
	m := &machine{ledger: ledger.New(), journal: jrn, fatal: cfg.Raft.Fatal, log: log, closing: context.Background(), peers: cfg.Peers, clock: new(clock)}
	err = raftstore.Recover(cfg.Raft, m, peers, log)
	if failed != nil {
		return out, fmt.Errorf("the log can't be applied: %w", failed)
	}
	if err != nil {
		return out, err
	}
	return Recovered{m.block, m.digest}, nil
}
