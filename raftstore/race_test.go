package raftstore

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// hashicorp/raft#695: a heartbeat of the next Raft term that takes the
// transport's fast path changes the term under a leader that waits in its
// select, and the next client entry is then written with that other leader's
// term. The same entry index and term may hold another entry on another
// server: replicas diverge.
//
// The trial: a real server wins an election against two scripted peers; one of
// them sends it a heartbeat of the next term; a client proposes. The library
// alone shows the fault in nearly every trial (12 of 12 with v1.8.0), with
// Open's transport it must never appear. When the logged count stays 0, the
// library was mended.
func TestHeartbeatTermRace(t *testing.T) {
	t.Parallel()
	const trials = 12
	unsafe := func(t Transport) Transport { return t }
	safe := func(t Transport) Transport { return safeTransport{t} }
	faults := 0
	for i := range trials {
		if termRaceTrial(t, unsafe) {
			faults++
		}
		if termRaceTrial(t, safe) {
			t.Fatalf("trial %d: a client entry was written with another leader's term in spite of the safe transport", i)
		}
	}
	t.Logf("faults in %d trials: %d with the library's transport, 0 with ours", trials, faults)
}

// termRaceTrial reports whether the server wrote a client entry with a Raft
// term in which it was not elected.
func termRaceTrial(t *testing.T, wrap func(Transport) Transport) bool {
	t.Helper()
	store := newMemStore()
	cfg := testConfig(t, "a", t.TempDir())
	cfg.LogStore = store
	// Long enough that nothing but the test wakes the leader's loop.
	cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaderLeaseTimeout = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
	b, c := newScriptedPeer(t, "b"), newScriptedPeer(t, "c")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listener = l
	cfg.Bootstrap = []Peer{{ID: "a", Addr: l.Addr().String()}, {ID: "b", Addr: b.addr()}, {ID: "c", Addr: c.addr()}}
	a, err := open(cfg, &list{}, testLog(t), wrap)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	ctx := testContext(t)
	for {
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
		_, _, err := a.Propose(ctx, []byte("in its own term"))
		if err == nil {
			break
		}
		// On a busy machine so short a lease may lapse at any time.
		var notLeader *NotLeaderError
		if !errors.Is(err, ErrLeadershipLost) && !errors.As(err, &notLeader) {
			t.Fatal(err)
		}
	}
	term := a.raft.CurrentTerm()

	// The fast path has changed the term when the heartbeat is answered, while
	// the leader's loop still waits for something to do: here it is.
	b.heartbeat(t, a.Addr(), term+1)
	for i := range 3 {
		a.Propose(ctx, fmt.Append(nil, "client ", i))
	}

	last, err := store.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= last; i++ {
		var e raft.Log
		if err := store.GetLog(i, &e); err != nil {
			t.Fatal(err)
		}
		if e.Type == raft.LogCommand && e.Term == term+1 {
			return true
		}
	}
	return false
}

// scriptedPeer votes for whoever asks and agrees to every append.
type scriptedPeer struct {
	id     string
	trans  *raft.NetworkTransport
	silent atomic.Bool // it answers nothing any more
}

func newScriptedPeer(t *testing.T, id string) *scriptedPeer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &scriptedPeer{id: id, trans: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: newStream(l, "", nil), MaxPool: 2, Timeout: 5 * time.Second, Logger: hclog.NewNullLogger(),
	})}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case rpc := <-p.trans.Consumer():
				p.answer(rpc)
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
		p.trans.CloseStreams()
		p.trans.Close()
	})
	return p
}

func (p *scriptedPeer) addr() string { return string(p.trans.LocalAddr()) }

func (p *scriptedPeer) header() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: 3, ID: []byte(p.id), Addr: []byte(p.addr())}
}

func (p *scriptedPeer) answer(rpc raft.RPC) {
	if p.silent.Load() {
		return
	}
	switch req := rpc.Command.(type) {
	case *raft.RequestPreVoteRequest:
		rpc.Respond(&raft.RequestPreVoteResponse{RPCHeader: p.header(), Term: req.Term, Granted: true}, nil)
	case *raft.RequestVoteRequest:
		rpc.Respond(&raft.RequestVoteResponse{RPCHeader: p.header(), Term: req.Term, Granted: true}, nil)
	case *raft.AppendEntriesRequest:
		last := req.PrevLogEntry
		if n := len(req.Entries); n > 0 {
			last = req.Entries[n-1].Index
		}
		rpc.Respond(&raft.AppendEntriesResponse{RPCHeader: p.header(), Term: req.Term, LastLog: last, Success: true}, nil)
	default:
		rpc.Respond(nil, fmt.Errorf("unexpected call %T", req))
	}
}

func (p *scriptedPeer) heartbeat(t *testing.T, target string, term uint64) {
	t.Helper()
	req := &raft.AppendEntriesRequest{RPCHeader: p.header(), Term: term, Leader: []byte(p.addr())}
	var resp raft.AppendEntriesResponse
	if err := p.trans.AppendEntries("a", raft.ServerAddress(target), req, &resp); err != nil {
		t.Errorf("heartbeat: %v", err)
	}
}
