package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/joulecloud/joule/raftstore"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/node"
)

// lagMax is how many entries a healthy server may be behind.
const lagMax = 1024

// heardMax is for how long a healthy server may be silent, in rounds.
const heardMax = 5

// outsiderRounds is after how many rounds a server that the leader does not
// know stops.
const outsiderRounds = 10

// peer is what is known of another server.
type peer struct {
	d      *joulev1.DescribeResponse // its last word; nil: never
	at     time.Time                 // of it
	since  time.Time                 // this server began to listen
	err    error                     // of the last question
	kept   time.Time                 // since when it has kept up; zero: it hasn't
	proven uint64                    // the last block at which its history was compared and the same
	apart  string                    // how its history or state differs; empty: it doesn't
}

// silence is for how long the server has not been heard.
func (p *peer) silence(now time.Time) time.Duration {
	if p.d == nil {
		return now.Sub(p.since)
	}
	return now.Sub(p.at)
}

// Run watches the others until ctx ends. The node must be attached.
func (a *Agent) Run(ctx context.Context) {
	n := a.attached()
	// The watchdog is apart from the rounds: what holds up the ledger holds them
	// up as well.
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { a.guard(ctx, n) })
	tick := time.NewTicker(a.cfg.Interval)
	defer tick.Stop()
	for {
		a.round(ctx, n)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// round asks every other server once and acts on what is known then.
func (a *Agent) round(ctx context.Context, n *node.Node) {
	members := n.Store().Peers()
	a.remember(ctx, members)
	a.poll(ctx, members)
	if ctx.Err() != nil {
		return
	}
	a.compare(ctx, n)
	a.checkMembership(ctx, n)
	if n.Store().IsLeader() {
		a.lead(ctx, n, members)
	}
}

// poll asks the members how they are.
func (a *Agent) poll(ctx context.Context, members []raftstore.Peer) {
	var wg sync.WaitGroup
	for _, m := range members {
		if m.ID == a.cfg.ID {
			continue
		}
		wg.Go(func() {
			d, err := a.ask(ctx, m.Addr)
			if err == nil && d.Id != m.ID {
				err = fmt.Errorf("at %s is another server, %s (%s)", m.Addr, d.Name, d.Id)
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			p := a.peers[m.ID]
			if p == nil {
				p = &peer{since: time.Now()}
				a.peers[m.ID] = p
			}
			if p.err = err; err == nil {
				p.d, p.at = d, time.Now()
			}
		})
	}
	wg.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	for id := range a.peers {
		if !slices.ContainsFunc(members, func(m raftstore.Peer) bool { return m.ID == id }) {
			delete(a.peers, id)
		}
	}
}

// checkMembership stops a server that was taken out of the cluster: nobody
// tells it, and it would answer stale reads for ever.
func (a *Agent) checkMembership(ctx context.Context, n *node.Node) {
	if len(n.Store().Peers()) == 0 {
		return // it has not been in yet
	}
	_, leaderAddr := n.Store().Leader()
	out := false
	a.mu.Lock()
	for _, p := range a.peers {
		if p.err == nil && p.d != nil && p.d.State == stateLeader && p.d.Term >= n.Store().Stats().Term &&
			!slices.ContainsFunc(p.d.Servers, func(e *joulev1.ServerEntry) bool { return e.Id == a.cfg.ID }) {
			out = true
		}
	}
	if out {
		a.outsider++
	} else {
		a.outsider = 0
	}
	rounds := a.outsider
	a.mu.Unlock()
	if rounds == outsiderRounds {
		a.log.LogAttrs(ctx, slog.LevelError, "this server is no member of the cluster any more", slog.String("leader", leaderAddr))
		a.cfg.Fatal(errors.New("this server was removed from the cluster; to add it anew, move its data_dir away and start it with an empty one"))
	}
}

// Peer is a server as this one sees it.
type Peer struct {
	ID, Name, Address, API, Version, State string
	Voter, Healthy                         bool
	Commit, Applied, Lag                   uint64
	LastContact                            time.Duration // since it was heard; 0: this server itself; < 0: never
	Block                                  uint64
	Digest                                 []byte
	Problem                                string // in words; empty: none
}

// Peers returns every server of the cluster, this one included, in the order of
// their names.
func (a *Agent) Peers() []Peer {
	n := a.attached()
	if n == nil {
		return nil
	}
	members := n.Store().Peers()
	self := a.describe()
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	newest := a.newest(self.CommitIndex)
	var out []Peer
	for _, m := range members {
		p := &peer{since: now}
		if m.ID == a.cfg.ID {
			p.d, p.at = self, now
		} else if known := a.peers[m.ID]; known != nil {
			p = known
		}
		out = append(out, a.show(m, p, now, newest))
	}
	slices.SortFunc(out, func(x, y Peer) int { return strings.Compare(x.Name+x.ID, y.Name+y.ID) })
	return out
}

// newest is the most advanced commit index known; a.mu is held.
func (a *Agent) newest(own uint64) uint64 {
	for _, p := range a.peers {
		if p.d != nil {
			own = max(own, p.d.CommitIndex)
		}
	}
	return own
}

func (a *Agent) show(m raftstore.Peer, p *peer, now time.Time, newest uint64) Peer {
	out := Peer{ID: m.ID, Address: m.Addr, Voter: !m.Nonvoter, State: stateUnreachable, LastContact: -1, Problem: p.apart}
	if p.d != nil {
		d := p.d
		out.Name, out.API, out.Version = d.Name, d.Api, d.Version
		out.Commit, out.Applied, out.Block, out.Digest = d.CommitIndex, d.AppliedIndex, d.Block, d.Digest
		out.Lag = newest - min(newest, d.AppliedIndex)
		out.LastContact = now.Sub(p.at)
		if p.err == nil {
			out.State = d.State
		}
	}
	if p.err != nil && out.Problem == "" {
		out.Problem = p.err.Error()
	}
	out.Healthy = a.healthy(p, now, newest)
	if !out.Healthy && out.Problem == "" {
		switch {
		case p.d == nil:
			out.Problem = "not heard yet"
		case out.Lag > lagMax:
			out.Problem = fmt.Sprintf("%d entries behind", out.Lag)
		default:
			out.Problem = "it has no leader"
		}
	}
	return out
}

// healthy reports whether a server is heard, knows a leader, keeps up and has
// the same history; a.mu is held.
func (a *Agent) healthy(p *peer, now time.Time, newest uint64) bool {
	return p.d != nil && p.silence(now) <= heardMax*a.cfg.Interval+describeTimeout && p.apart == "" &&
		p.d.LeaderId != "" && newest-min(newest, p.d.AppliedIndex) <= lagMax
}

// LeaderAPI is the URL at which clients reach the leader; "" if it is not
// known.
func (a *Agent) LeaderAPI() string {
	n := a.attached()
	if n == nil {
		return ""
	}
	id, _ := n.Store().Leader()
	if id == a.cfg.ID {
		return a.cfg.API
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.peers[id]; p != nil && p.d != nil {
		return p.d.Api
	}
	return ""
}

// remember writes the others' addresses down where they have changed.
func (a *Agent) remember(ctx context.Context, members []raftstore.Peer) {
	var addrs []string
	for _, m := range members {
		if m.ID != a.cfg.ID {
			addrs = append(addrs, m.Addr)
		}
	}
	slices.Sort(addrs)
	text, err := json.Marshal(addrs)
	if err != nil || a.cfg.MembersFile == "" || string(text) == a.written {
		return
	}
	if err = WriteFile(a.cfg.MembersFile, text); err != nil {
		a.log.LogAttrs(ctx, slog.LevelWarn, "the other servers' addresses can't be kept", slog.Any("error", err))
		return
	}
	a.written = string(text)
}

func readMembers(path string) []string {
	var addrs []string
	if text, err := os.ReadFile(path); err == nil {
		_ = json.Unmarshal(text, &addrs) // no more than a hint
	}
	return addrs
}

// WriteFile writes a small file whole or not at all, and makes it durable.
func WriteFile(path string, content []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, path)
}
