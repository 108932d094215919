package raftstore

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
)

// openOffline opens what a store keeps in cfg.Dir without starting it. release
// lets it go again.
func openOffline(cfg Config, log *slog.Logger) (s *Store, logs *failStop, snaps raft.SnapshotStore, err error) {
	s = &Store{cfg: cfg, log: log, failure: newFailure(cfg.Fatal)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.release())
		}
	}()
	if s.lock, err = lockDir(cfg.Dir); err != nil {
		return s, nil, nil, err
	}
	if logs, err = s.openLog(); err != nil {
		return s, nil, nil, err
	}
	snaps, err = s.openSnapshots()
	return s, logs, snaps, err
}

// HasState reports whether dir holds a log or a snapshot, that is whether a
// server was a member of a cluster there. It must not be open.
func HasState(dir string, log *slog.Logger) (_ bool, err error) {
	if _, err := os.Stat(filepath.Join(dir, "log")); errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	cfg := Default()
	cfg.Dir, cfg.Fatal = dir, func(error) {}
	s, logs, snaps, err := openOffline(cfg, log)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, s.release()) }()
	has, err := raft.HasExistingState(logs, logs, snaps)
	if err != nil {
		return false, fmt.Errorf("look for raft state in %q: %w", dir, err)
	}
	return has, nil
}

// Recover rewrites the configuration of a server that is not running, for a
// cluster whose majority is lost for good: peers are all its servers from now
// on. Every entry in the log is applied to sm, also those of which it is not
// known whether a majority had them, and a snapshot is taken of the result. It
// is to be done on each of the peers with the same list.
func Recover(cfg Config, sm StateMachine, peers []Peer, log *slog.Logger) (err error) {
	cfg.Bootstrap = peers
	if err := cfg.Validate(); err != nil {
		return err
	}
	s, logs, snaps, err := openOffline(cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.release()) }()
	has, err := raft.HasExistingState(logs, logs, snaps)
	if err != nil {
		return fmt.Errorf("look for raft state in %q: %w", cfg.Dir, err)
	}
	if !has {
		return fmt.Errorf("%q holds no raft state: there is nothing to recover", cfg.Dir)
	}
	var servers []raft.Server
	for _, p := range peers {
		srv := raft.Server{ID: raft.ServerID(p.ID), Address: raft.ServerAddress(p.Addr)}
		if p.Nonvoter {
			srv.Suffrage = raft.Nonvoter
		}
		servers = append(servers, srv)
	}
	s.cfg, _ = cfg.withTimeouts()
	rc := s.cfg.raftConfig()
	rc.Logger = newHCLogger(log, "raft")
	_, trans := raft.NewInmemTransport("")
	defer trans.Close()
	err = raft.RecoverCluster(rc, newFSM(sm, cfg.Fatal), logs, logs, snaps, trans, raft.Configuration{Servers: servers})
	if err != nil {
		return fmt.Errorf("recover raft: %w", err)
	}
	return nil
}
