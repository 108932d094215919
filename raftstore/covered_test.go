package raftstore

import (
	"bytes"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// follower is a real server that never elects itself, and a scripted leader.
type follower struct {
	t      *testing.T
	s      *Store
	sm     *list
	leader *scriptedPeer
	conf   raft.Configuration
}

func newFollower(t *testing.T) *follower {
	t.Helper()
	f := &follower{t: t, sm: &list{}, leader: newScriptedPeer(t, "b")}
	cfg := testConfig(t, "a", t.TempDir())
	cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaderLeaseTimeout = time.Hour, time.Hour, time.Hour
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listener = l
	cfg.Bootstrap = []Peer{{ID: "a", Addr: l.Addr().String()}, {ID: "b", Addr: f.leader.addr()}, {ID: "c", Addr: "127.0.0.1:1"}}
	f.s = mustOpen(t, cfg, f.sm)
	f.conf = f.s.raft.GetConfiguration().Configuration()
	return f
}

// append sends entries prev+1 to last, all of entryTerm, and reports whether
// they were taken.
func (f *follower) append(term, prev, prevTerm, last, entryTerm, commit uint64) bool {
	f.t.Helper()
	req := &raft.AppendEntriesRequest{RPCHeader: f.leader.header(), Term: term, Leader: []byte(f.leader.addr()),
		PrevLogEntry: prev, PrevLogTerm: prevTerm, LeaderCommitIndex: commit}
	for i := prev + 1; i <= last; i++ {
		req.Entries = append(req.Entries, &raft.Log{Index: i, Term: entryTerm, Type: raft.LogCommand, Data: fmt.Appendf(nil, "%d of %d", i, entryTerm)})
	}
	var resp raft.AppendEntriesResponse
	if err := f.leader.trans.AppendEntries("a", raft.ServerAddress(f.s.Addr()), req, &resp); err != nil {
		f.t.Fatalf("append: %v", err)
	}
	return resp.Success
}

// install sends a snapshot with one entry.
func (f *follower) install(term, index, snapTerm uint64) {
	f.t.Helper()
	var content bytes.Buffer
	sink := &bufferSink{&content}
	if err := (&fsmSnapshot{s: listSnapshot{[]byte("from the snapshot")}, index: index}).Persist(sink); err != nil {
		f.t.Fatal(err)
	}
	req := &raft.InstallSnapshotRequest{RPCHeader: f.leader.header(), SnapshotVersion: raft.SnapshotVersionMax, Term: term, Leader: []byte(f.leader.addr()),
		LastLogIndex: index, LastLogTerm: snapTerm, Configuration: raft.EncodeConfiguration(f.conf), ConfigurationIndex: 1, Size: int64(content.Len())}
	var resp raft.InstallSnapshotResponse
	if err := f.leader.trans.InstallSnapshot("a", raft.ServerAddress(f.s.Addr()), req, &resp, &content); err != nil || !resp.Success {
		f.t.Fatalf("install snapshot: success %t, %v", resp.Success, err)
	}
}

type bufferSink struct{ *bytes.Buffer }

func (*bufferSink) ID() string    { return "" }
func (*bufferSink) Cancel() error { return nil }
func (*bufferSink) Close() error  { return nil }

// holds checks which of the leader's entries the follower has on disk.
func (f *follower) holds(index, term uint64) {
	f.t.Helper()
	var l raft.Log
	if err := f.s.logs.GetLog(index, &l); err != nil || l.Term != term || l.Type != raft.LogCommand {
		f.t.Errorf("entry %d: got Raft term %d, type %d, %v, want term %d", index, l.Term, l.Type, err, term)
	}
}

// The answer to the first entries behind a snapshot is lost: they come again,
// and then the snapshot again. They stay, for they were acknowledged.
func TestCoveredEntriesBehindASnapshotStay(t *testing.T) {
	t.Parallel()
	f := newFollower(t)
	f.install(2, 55, 2)
	for range 2 {
		if !f.append(2, 55, 2, 57, 2, 55) {
			t.Fatal("entries behind the snapshot were refused")
		}
	}
	for range 2 {
		f.install(2, 55, 2)
		f.holds(56, 2)
		f.holds(57, 2)
	}
	if !f.append(2, 57, 2, 58, 2, 58) {
		t.Error("the next entry was refused")
	}
	// A snapshot of what the log has: what follows it stays as well.
	f.install(2, 57, 2)
	f.holds(58, 2)
	if !f.append(2, 58, 2, 60, 2, 60) {
		t.Error("the entries behind the second snapshot were refused")
	}
	ctx := testContext(t)
	if err := f.s.WaitApplied(ctx, 60); err != nil {
		t.Fatal(err)
	}
	// The snapshot at 57 was restored over 56 and 57 that were applied singly.
	if got := f.sm.strings(); len(got) < 3 || got[len(got)-1] != "60 of 2" {
		t.Errorf("entries: got %q", got)
	}
}

// hashicorp/raft#697: a snapshot replaces a log that went another way.
func TestCoveredConflictingLogGivesWay(t *testing.T) {
	t.Parallel()
	f := newFollower(t)
	if !f.append(2, 1, 1, 20, 2, 1) {
		t.Fatal("the first leader's entries were refused")
	}
	f.install(3, 8, 3)
	if !f.append(3, 8, 3, 10, 3, 8) {
		t.Fatal("the new leader's entries were refused")
	}
	f.holds(9, 3)
	if last, err := f.s.logs.LastIndex(); err != nil || last != 10 {
		t.Errorf("last entry: got %d, %v, want 10", last, err)
	}
	// A tail behind the snapshot that conflicts goes, though it begins the log.
	if !f.append(4, 8, 3, 9, 4, 9) {
		t.Fatal("a third leader's entry was refused")
	}
	f.holds(9, 4)
	if err := f.s.WaitApplied(testContext(t), 9); err != nil {
		t.Fatal(err)
	}
}

// probe is asked what it is to look at when the library sets its heartbeat
// handler.
type probe struct {
	Transport
	look func()
}

func (p probe) SetHeartbeatHandler(func(raft.RPC)) { p.look() }

// The library sets its heartbeat handler when it is through with the snapshot
// that it restores by itself and before anything can come from other servers:
// newRaft relies on that to tell the two kinds of Restore apart.
func TestRunsFromTheStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := testConfig(t, "s1", dir)
	s := mustOpen(t, cfg, &list{})
	mustLead(t, s)
	mustPropose(t, s, "entry")
	if err := s.TakeSnapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	sm := &list{}
	looked := false
	s, err := open(cfg, sm, testLog(t), func(tr Transport) Transport {
		return probe{tr, func() {
			looked = true
			if got := sm.strings(); len(got) != 1 {
				t.Errorf("the handler was set with %d entries restored, want 1", len(got))
			}
		}}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !looked || !s.fsm.running.Load() {
		t.Errorf("got a handler set: %v, running: %v, want both", looked, s.fsm.running.Load())
	}
}
