package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/joulecloud/joule/raftstore"
	"github.com/joulecloud/joule/settlement/cluster"
	"github.com/joulecloud/joule/settlement/journal"
	"github.com/joulecloud/joule/settlement/node"
)

// startCluster opens this server's data and makes it part of its cluster, or
// lets it be alone. fail ends the server with a cause. stop ends and closes
// everything that it started; it waits.
func startCluster(ctx context.Context, cfg *Config, version string, log *slog.Logger, fail context.CancelCauseFunc) (
	_ *node.Node, _ *cluster.Agent, _ func() error, err error) {
	var closers []func() error
	stop := func() error {
		var errs []error
		for i := len(closers) - 1; i >= 0; i-- {
			errs = append(errs, closers[i]())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, stop())
		}
	}()

	dir, err := openDataDir(cfg.DataDir, cfg.Name, log)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, r := range dir.recoveries() {
		log.LogAttrs(ctx, slog.LevelWarn, "this cluster was recovered from the loss of a majority", slog.String("recovery", r))
	}
	diverged := func(why error) {
		log.LogAttrs(ctx, slog.LevelError, "THIS SERVER IS NOT THE SAME AS THE OTHERS AND STOPS", slog.Any("error", why))
		fail(errors.Join(fmt.Errorf("this server stops: %w", why), dir.markDiverged(why)))
	}
	// A disk that failed once is not trusted again: the server ends.
	fatal := func(why error) {
		if journal.IsMismatch(why) {
			diverged(why)
			return
		}
		fail(fmt.Errorf("this server stops: %w", why))
	}
	tlsConf, err := cfg.peerTLS()
	if err != nil {
		return nil, nil, nil, err
	}
	mux, err := raftstore.ListenMux(cfg.RaftAddr, cfg.RaftAdvertise, tlsConf)
	if err != nil {
		return nil, nil, nil, err
	}
	closers = append(closers, mux.Close)

	cc := cluster.Default()
	cc.ID, cc.Name, cc.API, cc.Version = dir.id, cfg.Name, cfg.apiURL(), version
	cc.BootstrapExpect, cc.RetryJoin = cfg.BootstrapExpect, cfg.RetryJoin
	cc.MembersFile, cc.TempDir = dir.file(membersFile), cfg.DataDir
	cc.Fatal, cc.Diverged = fatal, diverged
	if cfg.RemoveDeadAfter != "" {
		if cc.RemoveDeadAfter, err = time.ParseDuration(cfg.RemoveDeadAfter); err != nil {
			return nil, nil, nil, fmt.Errorf("remove_dead_after: %w", err)
		}
	}
	agent := cluster.Start(cc, mux, log)
	closers = append(closers, agent.Close)

	rc := raftstore.Default()
	rc.ID, rc.Mux, rc.Fatal = dir.id, mux, fatal
	if rc.Bootstrap, err = firstServers(ctx, cfg, dir, agent, log); err != nil {
		return nil, nil, nil, err
	}
	n, err := node.Open(node.Config{Raft: rc, DataDir: cfg.DataDir, Peers: agent}, log)
	if errors.Is(err, raftstore.ErrNotAlone) {
		err = fmt.Errorf("bootstrap_expect, retry_join: must be set, for this server is one of several: %w", err)
	}
	if journal.IsMismatch(err) {
		err = errors.Join(err, dir.markDiverged(err))
	}
	if err != nil {
		return nil, nil, nil, err
	}
	closers = append(closers, n.Close)
	agent.Attach(n)

	watchCtx, stopWatch := context.WithCancel(ctx)
	var watching sync.WaitGroup
	closers = append(closers, func() error { stopWatch(); watching.Wait(); return nil })
	watching.Go(func() { agent.Run(watchCtx) })
	if !cfg.alone() && len(rc.Bootstrap) == 0 && agent.MustJoin(dir.state) {
		watching.Go(func() {
			if err := agent.Join(watchCtx, n); err == nil {
				log.LogAttrs(watchCtx, slog.LevelInfo, "joined the cluster")
			}
		})
	}
	return n, agent, stop, nil
}

// firstServers are the servers that this one begins with: none where it goes on
// with what it has, or joins.
func firstServers(ctx context.Context, cfg *Config, dir *dataDir, agent *cluster.Agent, log *slog.Logger) ([]raftstore.Peer, error) {
	if dir.state && !cfg.alone() {
		return nil, nil
	}
	peers := []raftstore.Peer{{ID: dir.id}}
	if !cfg.alone() {
		var err error
		if peers, err = agent.Discover(ctx); err != nil {
			return nil, err
		}
		if len(peers) == 0 {
			err := node.FetchJournal(ctx, cfg.DataDir, agent, log)
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, err
		}
	}
	if has, err := dir.hasJournal(); err != nil {
		return nil, err
	} else if has && !dir.state {
		return nil, fmt.Errorf("data_dir: %s has a journal but no replicated log: a new cluster can't begin there; move it away", cfg.DataDir)
	}
	return peers, nil
}
