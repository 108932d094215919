package raftstore

import (
	"context"
	"net"
	"testing"
	"time"
)

// A leader that the others don't answer gives no read point, even while its
// lease lasts: it may have been paused for longer than it knows.
func TestReadAsksAMajority(t *testing.T) {
	t.Parallel()
	b, c := newScriptedPeer(t, "b"), newScriptedPeer(t, "c")
	cfg := testConfig(t, "a", t.TempDir())
	cfg.LogStore = newMemStore()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listener = l
	cfg.Bootstrap = []Peer{{ID: "a", Addr: l.Addr().String()}, {ID: "b", Addr: b.addr()}, {ID: "c", Addr: c.addr()}}
	// Long enough that a read falls within the lease.
	cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaderLeaseTimeout = time.Second, time.Second, time.Second
	a := mustOpen(t, cfg, &list{})
	ctx := testContext(t)
	for !a.IsLeader() {
		changed := a.LeadershipChanged()
		if a.IsLeader() {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatal("the server never won its election")
		}
	}
	if err := a.VerifyRead(ctx); err != nil {
		t.Fatal(err)
	}
	b.silent.Store(true)
	c.silent.Store(true)
	for range 3 { // answers to what was sent before may still come
		short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		err = a.VerifyRead(short)
		cancel()
	}
	if err == nil {
		t.Error("a leader that nobody answers gave a read point")
	}
}
