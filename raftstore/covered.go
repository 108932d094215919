package raftstore

import (
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"
)

// The library (v1.8.0) looks for the entry before those that a leader sends in
// the log alone, though a snapshot may end with it, and when a snapshot is
// installed over a monotonic log store it drops the whole log, also what lies
// behind the snapshot. So a follower that got a snapshot and the first entries
// behind it, and whose answer was lost, refuses them when they come again, gets
// the snapshot again and drops entries that it had acknowledged, on and on
// until the leader has a newer snapshot. Should the leader end meanwhile, what
// it had committed with that follower is gone. And one whose log was dropped
// remembers how long it was, and refuses what it doesn't find there
// (hashicorp/raft#697).
//
// covered is what failStop does about it: it answers for the entry that the
// newest snapshot ends with, keeps what follows on it, and answers for entries
// that were dropped with one that gives way to the leader's. TestCovered* shows
// each.
type covered struct {
	mu          sync.Mutex
	index, term uint64 // of the newest snapshot's last entry; 0: none
	installed   bool   // a snapshot was restored and its log not yet dropped
	dropped     uint64 // the last entry that the library believes to be there; 0: nothing was dropped
}

// standIn is no type of the library's: whoever applies such an entry panics.
const standIn = raft.LogType(200)

// find answers for an entry that the log does not have.
func (c *covered) find(index, last uint64, l *raft.Log) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case index == c.index && index > 1: // the first is never looked up as a predecessor
		*l = raft.Log{Index: index, Term: c.term, Type: standIn}
	case last == 0 && index > c.index && index <= c.dropped:
		*l = raft.Log{Index: index, Type: standIn} // of no Raft term: it conflicts
	default:
		return false
	}
	return true
}

// restored is told that the library restored its newest snapshot while running;
// what it deletes next, if anything, is the log.
func (c *covered) restored() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.installed = true
}

// stored is told that entries were written.
func (c *covered) stored() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.installed, c.dropped = false, 0
}

// keeps reports whether a deletion of the whole log is to be left undone,
// because the log goes on behind the snapshot that was installed.
func (c *covered) keeps(s LogStore, min, max uint64) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.installed {
		return false, nil
	}
	c.installed = false
	first, err := s.FirstIndex()
	if err != nil {
		return false, err
	}
	last, err := s.LastIndex()
	if err != nil {
		return false, err
	}
	if min > first || max < last || last <= c.index {
		return false, nil
	}
	if first == c.index+1 {
		return true, nil
	}
	var l raft.Log
	if first <= c.index {
		if err := s.GetLog(c.index, &l); err != nil {
			return false, fmt.Errorf("read log entry %d: %w", c.index, err)
		}
		if l.Term == c.term {
			return true, nil
		}
	}
	c.dropped = last
	return false, nil
}

func (c *covered) newest(index, term uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if index >= c.index {
		c.index, c.term = index, term
	}
}

// coveringSnapshots tells covered of every snapshot.
type coveringSnapshots struct {
	raft.SnapshotStore
	c *covered
}

func newCoveringSnapshots(s raft.SnapshotStore, c *covered) (raft.SnapshotStore, error) {
	metas, err := s.List()
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	if len(metas) > 0 {
		c.newest(metas[0].Index, metas[0].Term)
	}
	return coveringSnapshots{s, c}, nil
}

// Create implements raft.SnapshotStore.
func (s coveringSnapshots) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, t raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(version, index, term, conf, confIndex, t)
	if err != nil {
		return nil, err
	}
	return &coveringSink{SnapshotSink: sink, c: s.c, index: index, term: term}, nil
}

type coveringSink struct {
	raft.SnapshotSink
	c           *covered
	index, term uint64
}

var _ io.WriteCloser = (*coveringSink)(nil)

func (s *coveringSink) Close() error {
	if err := s.SnapshotSink.Close(); err != nil {
		return err
	}
	s.c.newest(s.index, s.term)
	return nil
}
