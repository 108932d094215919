package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/joulecloud/joule/raftstore"
	"github.com/joulecloud/joule/settlement/node"
)

// changeTimeout bounds one change of the configuration.
const changeTimeout = 15 * time.Second

// lead is the leader's part of a round: a server without a vote that has kept
// up gets one, a server that is dead for long goes. One change at a time.
func (a *Agent) lead(ctx context.Context, n *node.Node, members []raftstore.Peer) {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	now := time.Now()
	var promote, remove *raftstore.Peer
	voters, healthy := 0, 0
	a.mu.Lock()
	newest := a.newest(n.Store().Stats().CommitIndex)
	for _, m := range members {
		p := a.peers[m.ID]
		switch {
		case m.ID == a.cfg.ID:
			voters, healthy = voters+1, healthy+1
			continue
		case p == nil:
			continue
		}
		ok := a.healthy(p, now, newest) && p.err == nil
		if !m.Nonvoter {
			voters++
			if ok {
				healthy++
			}
			if a.cfg.RemoveDeadAfter > 0 && p.silence(now) > a.cfg.RemoveDeadAfter {
				remove = &m
			}
			continue
		}
		switch {
		case !ok || p.proven == 0 && p.d.Block > 0:
			p.kept = time.Time{}
		case p.kept.IsZero():
			p.kept = now
		case now.Sub(p.kept) >= a.cfg.PromoteAfter:
			promote = &m
		}
		if a.cfg.RemoveDeadAfter > 0 && p.silence(now) > a.cfg.RemoveDeadAfter {
			remove = &m
		}
	}
	a.mu.Unlock()
	switch {
	case promote != nil:
		a.log.LogAttrs(ctx, slog.LevelInfo, "a server has caught up and gets a vote", slog.String("peer", promote.ID), slog.String("address", promote.Addr))
		if err := n.Store().AddVoter(ctx, promote.ID, promote.Addr); err != nil {
			a.log.LogAttrs(ctx, slog.LevelWarn, "it could not get its vote", slog.Any("error", err))
		}
	case remove != nil && (remove.Nonvoter || healthy >= max(a.cfg.BootstrapExpect, voters/2+1) && voters-1 >= a.cfg.BootstrapExpect):
		a.log.LogAttrs(ctx, slog.LevelWarn, "a dead server is removed", slog.String("peer", remove.ID), slog.String("address", remove.Addr),
			slog.Duration("silent", a.cfg.RemoveDeadAfter))
		if err := n.Store().RemoveServer(ctx, remove.ID); err != nil {
			a.log.LogAttrs(ctx, slog.LevelWarn, "it could not be removed", slog.Any("error", err))
		}
	}
}

// ErrNoSuchPeer is returned for a server that the cluster does not have.
var ErrNoSuchPeer = errors.New("no such server in the cluster")

// ErrQuorum is returned for a removal that would leave too few healthy voters.
var ErrQuorum = errors.New("the servers that are left could not commit any more")

// remove is Remove on this server, which must lead.
func (a *Agent) remove(ctx context.Context, n *node.Node, ref string, force bool) (Peer, int, error) {
	if err := n.Store().VerifyRead(ctx); err != nil {
		return Peer{}, 0, err
	}
	var found []Peer
	voters, healthy := 0, 0
	peers := a.Peers()
	for _, p := range peers {
		if p.ID == ref || p.Name == ref || p.Address == ref {
			found = append(found, p)
		}
	}
	switch {
	case len(found) == 0:
		return Peer{}, 0, fmt.Errorf("%q: %w", ref, ErrNoSuchPeer)
	case len(found) > 1:
		return Peer{}, 0, fmt.Errorf("%q names %d servers, take the id: %w", ref, len(found), ErrNoSuchPeer)
	}
	for _, p := range peers {
		if p.Voter && p.ID != found[0].ID {
			voters++
			if p.Healthy {
				healthy++
			}
		}
	}
	if !force && (voters == 0 || 2*healthy <= voters) {
		return Peer{}, 0, fmt.Errorf("remove %s: of the %d voters left %d are healthy: %w", ref, voters, healthy, ErrQuorum)
	}
	a.log.LogAttrs(ctx, slog.LevelWarn, "an operator removes a server", slog.String("peer", found[0].ID), slog.String("name", found[0].Name),
		slog.String("address", found[0].Address), slog.Bool("force", force))
	return found[0], voters, n.Store().RemoveServer(ctx, found[0].ID)
}
