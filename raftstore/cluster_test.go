package raftstore

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestThreeServers(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	first := c.leader()
	var index uint64
	for i := range 20 {
		index = c.propose(fmt.Sprint("before ", i))
	}
	c.converge(index)

	// A follower takes nothing and names the leader.
	follower := (first + 1) % 3
	var notLeader *NotLeaderError
	if _, _, err := c.nodes[follower].Propose(t.Context(), []byte("x")); !errors.As(err, &notLeader) {
		t.Errorf("propose to a follower: got %v, want a NotLeaderError", err)
	} else if notLeader.LeaderID != c.peers[first].ID || notLeader.LeaderAddr != c.peers[first].Addr {
		t.Errorf("leader hint: got %q at %q, want %v", notLeader.LeaderID, notLeader.LeaderAddr, c.peers[first])
	}
	if err := c.nodes[follower].VerifyRead(t.Context()); !errors.As(err, &notLeader) {
		t.Errorf("verify read on a follower: got %v, want a NotLeaderError", err)
	}
	if st := c.nodes[follower].Stats(); st.State != "Follower" || st.LastContact < 0 {
		t.Errorf("stats of a follower: got %+v", st)
	}

	// The leader goes; the others elect one and lose nothing.
	changed := c.nodes[follower].LeadershipChanged()
	c.stop(first)
	second := c.leader()
	if second == first {
		t.Fatal("the stopped server leads")
	}
	select {
	case <-changed:
	default:
		t.Error("LeadershipChanged did not close at a change of leader")
	}
	if got := c.sms[second].strings(); len(got) < 20 || got[19] != "before 19" {
		t.Errorf("the new leader's entries at its read point: got %q", got)
	}
	for i := range 20 {
		index = c.propose(fmt.Sprint("between ", i))
	}
	c.converge(index)

	// It comes back from its disk and catches up.
	c.start(first, nil)
	index = c.propose("after")
	c.converge(index)

	// All stop and come back.
	for i := range c.nodes {
		c.stop(i)
	}
	for i := range c.nodes {
		c.start(i, nil)
	}
	c.converge(c.propose("last"))
	if got := c.sms[0].strings(); !slices.Contains(got, "after") {
		t.Errorf("entries after a full restart: got %q, without %q", got, "after")
	}
}

func TestSnapshotIsInstalledOnALaggard(t *testing.T) {
	t.Parallel()
	c := newCluster(t, func(cfg *Config) {
		cfg.TrailingLogs = 1
		cfg.segmentBytes = 4096 // small, since raft-wal still reads deleted entries from its last segment
	})
	laggard := (c.leader() + 1) % 3
	c.converge(c.propose("start"))
	c.stop(laggard)
	for i := range 50 {
		c.propose(fmt.Sprint("missed ", i, strings.Repeat(".", 1000)))
	}
	c.converge(c.propose("missed last"))
	for _, n := range c.nodes { // whoever will lead
		if n == nil {
			continue
		}
		if err := n.TakeSnapshot(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	index := c.propose("behind the snapshot")
	c.start(laggard, nil)
	c.converge(index)
	c.sms[laggard].mu.Lock()
	applied, all := len(c.sms[laggard].indexes), len(c.sms[laggard].entries)
	c.sms[laggard].mu.Unlock()
	if applied >= 50 || all < 51 {
		t.Errorf("laggard applied %d of %d entries one by one: it got no snapshot", applied, all)
	}
	// What it was given survives a restart, and new entries follow.
	c.stop(laggard)
	c.start(laggard, nil)
	c.converge(c.propose("after"))
}

func TestNoQuorum(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	leader := c.leader()
	s := c.nodes[leader]
	for i := range c.nodes {
		if i != leader {
			c.stop(i)
		}
	}
	_, _, err := s.Propose(testContext(t), []byte("x"))
	var notLeader *NotLeaderError
	if !errors.Is(err, ErrLeadershipLost) && !errors.As(err, &notLeader) {
		t.Errorf("propose without a quorum: got %v, want %v or a NotLeaderError", err, ErrLeadershipLost)
	}
	if err := s.VerifyRead(testContext(t)); !errors.Is(err, ErrLeadershipLost) && !errors.As(err, &notLeader) {
		t.Errorf("verify read without a quorum: got %v, want a NotLeaderError", err)
	}
	start := time.Now()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("close without a quorum took %s", d)
	}
}

func TestServersAreAddedAndRemoved(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	leader := c.nodes[c.leader()]
	cfg := testConfig(t, "s4", t.TempDir())
	cfg.Bootstrap = nil
	cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaderLeaseTimeout = 300*time.Millisecond, 300*time.Millisecond, 200*time.Millisecond
	sm := &list{}
	s4 := mustOpen(t, cfg, sm)
	ctx := testContext(t)
	if err := leader.AddNonvoter(ctx, "s4", s4.Addr()); err != nil {
		t.Fatal(err)
	}
	index := mustPropose(t, leader, "x")
	if err := s4.WaitApplied(ctx, index); err != nil {
		t.Fatal(err)
	}
	if err := leader.AddVoter(ctx, "s4", s4.Addr()); err != nil {
		t.Fatal(err)
	}
	if got, want := leader.Peers()[3], (Peer{ID: "s4", Addr: s4.Addr()}); got != want {
		t.Errorf("fourth peer: got %v, want %v", got, want)
	}
	if err := leader.RemoveServer(ctx, "s4"); err != nil {
		t.Fatal(err)
	}
	if got := len(leader.Peers()); got != 3 {
		t.Errorf("peers: got %d, want 3", got)
	}
	mustPropose(t, leader, "y")
	if err := s4.Close(); err != nil {
		t.Error(err)
	}
	if err := leader.AddVoter(ctx, "", ""); err == nil {
		t.Error("add a voter without a name: got no error")
	}
}

// A member of a cluster can't be opened with a lone server's timeouts.
func TestMemberOpenedAlone(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	c.converge(c.propose("x"))
	c.stop(0)
	cfg := testConfig(t, "s1", filepath.Join(c.dir, "s1"))
	s, err := Open(cfg, &list{}, testLog(t))
	if err == nil {
		s.Close()
		t.Fatal("got no error")
	}
	if !strings.Contains(err.Error(), "has 3 servers") {
		t.Errorf("got %v", err)
	}
	c.start(0, nil)
	c.converge(c.propose("y"))
}
