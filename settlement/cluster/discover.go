package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/joulecloud/joule/raftstore"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/node"
)

// Discover finds out how a server without state begins. It returns the servers
// of a new cluster once all of them agree on the list, the same on each, or
// none when there is a cluster to join. It waits for as long as ctx lasts.
//
// A server agrees when it sees exactly BootstrapExpect servers without state,
// expects as many as they do, and each of them sees the same ones.
func (a *Agent) Discover(ctx context.Context) ([]raftstore.Peer, error) {
	tick := time.NewTicker(a.cfg.Interval)
	defer tick.Stop()
	said := ""
	for {
		peers, why := a.discover(ctx)
		if why == "" {
			return peers, nil
		}
		if ctx.Err() != nil && said != "" {
			why = said // the round was cut short
		}
		if why != said {
			a.log.LogAttrs(ctx, slog.LevelInfo, "waiting for the other servers", slog.String("why", why))
			said = why
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the other servers: %s: %w", why, context.Cause(ctx))
		}
	}
}

// discover makes one round; why is why it is not decided yet.
func (a *Agent) discover(ctx context.Context) (peers []raftstore.Peer, why string) {
	found := a.askAll(ctx, a.addresses())
	others := map[string]*joulev1.DescribeResponse{} // by id
	for _, d := range found {
		if d.Id != a.cfg.ID {
			others[d.Id] = d
		}
	}
	for _, d := range others {
		if d.Member {
			a.log.LogAttrs(ctx, slog.LevelInfo, "found a cluster to join", slog.String("through", d.Name))
			return nil, ""
		}
	}
	view := []*joulev1.ServerEntry{{Id: a.cfg.ID, Address: a.mux.Addr(), Voter: true}}
	for _, d := range others {
		view = append(view, &joulev1.ServerEntry{Id: d.Id, Address: d.Address, Voter: true})
	}
	slices.SortFunc(view, func(x, y *joulev1.ServerEntry) int { return cmp.Compare(x.Id, y.Id) })
	a.mu.Lock()
	a.view = view
	a.mu.Unlock()

	expect := a.cfg.BootstrapExpect
	switch {
	case expect == 0:
		return nil, fmt.Sprintf("no server of a cluster answers at any of %s", strings.Join(a.cfg.RetryJoin, ", "))
	case len(view) < expect:
		return nil, fmt.Sprintf("%d of %d servers found", len(view), expect)
	case len(view) > expect:
		return nil, fmt.Sprintf("%d servers found, but bootstrap_expect is %d: raise it on all of them, or start the others later", len(view), expect)
	}
	for _, d := range others {
		if d.BootstrapExpect != uint32(expect) {
			return nil, fmt.Sprintf("bootstrap_expect is %d here and %d on %s: it must be the same", expect, d.BootstrapExpect, d.Name)
		}
		if !sameServers(d.Servers, view) {
			return nil, fmt.Sprintf("%s does not see all %d servers yet", d.Name, expect)
		}
	}
	for _, e := range view {
		peers = append(peers, raftstore.Peer{ID: e.Id, Addr: e.Address})
	}
	return peers, ""
}

func sameServers(a, b []*joulev1.ServerEntry) bool {
	return slices.EqualFunc(a, b, func(x, y *joulev1.ServerEntry) bool { return x.Id == y.Id && x.Address == y.Address })
}

// askAll describes the servers at the addresses; those that don't answer are
// left out.
func (a *Agent) askAll(ctx context.Context, addrs []string) map[string]*joulev1.DescribeResponse {
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := map[string]*joulev1.DescribeResponse{}
	for _, addr := range addrs {
		wg.Go(func() {
			d, err := a.ask(ctx, addr)
			if err != nil {
				a.log.LogAttrs(ctx, slog.LevelDebug, "another server does not answer", slog.String("address", addr), slog.Any("error", err))
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out[addr] = d
		})
	}
	wg.Wait()
	return out
}

// addresses are all at which other servers are, or were.
func (a *Agent) addresses() []string {
	addrs := slices.Clone(a.cfg.RetryJoin)
	if n := a.attached(); n != nil {
		for _, p := range n.Store().Peers() {
			addrs = append(addrs, p.Addr)
		}
	}
	addrs = append(addrs, readMembers(a.cfg.MembersFile)...)
	slices.Sort(addrs)
	addrs = slices.Compact(addrs)
	return slices.DeleteFunc(addrs, func(s string) bool { return s == a.mux.Addr() })
}

// Join asks the others to add this server until it is in the cluster.
func (a *Agent) Join(ctx context.Context, n *node.Node) error {
	said := ""
	tick := time.NewTicker(a.cfg.Interval)
	defer tick.Stop()
	for {
		err := a.join(ctx, n)
		if err == nil {
			return nil
		}
		if err.Error() != said {
			a.log.LogAttrs(ctx, slog.LevelWarn, "could not join the cluster yet", slog.Any("error", err))
			said = err.Error()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (a *Agent) join(ctx context.Context, n *node.Node) error {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	var errs []error
	for _, addr := range a.addresses() {
		r, err := a.at(addr).Join(ctx, &joulev1.JoinRequest{Id: a.cfg.ID, Name: a.cfg.Name, Address: a.mux.Addr()})
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", addr, err))
			continue
		}
		for _, e := range r.Servers {
			if e.Id == a.cfg.ID && e.Address == a.mux.Addr() {
				return n.WaitLeader(ctx)
			}
		}
		errs = append(errs, fmt.Errorf("%s: its list of servers is without this one", addr))
	}
	if len(errs) == 0 {
		return errors.New("no address of another server is known: set retry_join")
	}
	return errors.Join(errs...)
}

// nameBytesMax bounds what a server says of itself.
const nameBytesMax = 256

// checkJoin checks a request's fields: what it says goes into every server's
// configuration.
func checkJoin(r *joulev1.JoinRequest) error {
	for _, f := range []struct {
		name, value string
		empty       bool
	}{{"id", r.Id, false}, {"name", r.Name, true}, {"address", r.Address, false}} {
		if f.value == "" && !f.empty || len(f.value) > nameBytesMax || strings.ContainsFunc(f.value, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
			return invalid("%s: want a word of at most %d bytes, got %.64q", f.name, nameBytesMax, f.value)
		}
	}
	if host, port, err := net.SplitHostPort(r.Address); err != nil || host == "" || port == "" {
		return invalid("address: want host:port, got %q", r.Address)
	}
	return nil
}

// admit adds a server to the cluster, without a vote at first; this server must
// lead. One that is in already may have moved.
func (a *Agent) admit(ctx context.Context, n *node.Node, r *joulev1.JoinRequest) error {
	if err := checkJoin(r); err != nil {
		return err
	}
	store := n.Store()
	if err := store.VerifyRead(ctx); err != nil {
		return err
	}
	var stale *raftstore.Peer
	for _, p := range store.Peers() {
		switch {
		case p.ID == r.Id && p.Addr == r.Address:
			return nil
		case p.ID == r.Id:
			a.log.LogAttrs(ctx, slog.LevelInfo, "a server has a new address", slog.String("peer", r.Name), slog.String("address", r.Address))
			if p.Nonvoter {
				return store.AddNonvoter(ctx, r.Id, r.Address)
			}
			return store.AddVoter(ctx, r.Id, r.Address)
		case p.Addr == r.Address:
			stale = &p
		}
	}
	// Whoever answers at the address is the server there.
	d, err := a.ask(ctx, r.Address)
	if err != nil {
		return fmt.Errorf("join of %s: it can't be reached at %s, the address that it gives: %w", r.Name, r.Address, err)
	}
	if d.Id != r.Id {
		return fmt.Errorf("join of %s: at %s is server %s, not %s", r.Name, r.Address, d.Id, r.Id)
	}
	if stale != nil {
		a.log.LogAttrs(ctx, slog.LevelWarn, "a new server is where another one was: the old one is removed",
			slog.String("old", stale.ID), slog.String("new", r.Id), slog.String("address", r.Address))
		if err := store.RemoveServer(ctx, stale.ID); err != nil {
			return err
		}
	}
	a.log.LogAttrs(ctx, slog.LevelInfo, "adding a server without a vote", slog.String("peer", r.Name), slog.String("address", r.Address))
	return store.AddNonvoter(ctx, r.Id, r.Address)
}

// MustJoin reports whether the others have to be asked to add this server: it
// is new, or has another address than before. One that was removed must not
// come back by itself.
func (a *Agent) MustJoin(hadState bool) bool {
	store := a.attached().Store()
	if !hadState {
		return true
	}
	return !store.Listed() && slices.ContainsFunc(store.Peers(), func(p raftstore.Peer) bool { return p.ID == a.cfg.ID })
}
