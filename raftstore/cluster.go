package raftstore

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// leadership is a level that can be watched: a channel closes at each change.
type leadership struct {
	mu      sync.Mutex
	changed chan struct{}
}

// watch subscribes to the library. The observer's filter is called on the
// library's own goroutine for every observation, so no change is dropped as
// may happen with its channels.
func (l *leadership) watch(r *raft.Raft) {
	r.RegisterObserver(raft.NewObserver(nil, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState:
			l.notify()
		}
		return false
	}))
}

func (l *leadership) notify() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

func (l *leadership) next() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.changed
}

// LeadershipChanged returns a channel that closes at the next change of
// IsLeader or Leader. To follow them without missing one: take the channel,
// then read, then wait.
func (s *Store) LeadershipChanged() <-chan struct{} { return s.leadership.next() }

// LeaderCh delivers the newest of "became the leader" (true) and "stopped
// being it" (false) to one reader; a value that was not read is replaced by
// the next.
func (s *Store) LeaderCh() <-chan bool { return s.raft.LeaderCh() }

// IsLeader reports whether this server takes itself for the leader. It may
// have been superseded: see VerifyRead.
func (s *Store) IsLeader() bool { return s.raft.State() == raft.Leader }

// Leader returns the leader as far as this server knows; "" twice if it knows
// none.
func (s *Store) Leader() (id, addr string) {
	a, i := s.raft.LeaderWithID()
	return string(i), string(a)
}

// WaitLeader returns once this server knows a leader, itself or another.
func (s *Store) WaitLeader(ctx context.Context) error {
	for {
		changed := s.leadership.next()
		if id, _ := s.Leader(); id != "" {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for a leader: %w", ctx.Err())
		case <-s.down:
			return s.downErr()
		}
	}
}

// ID is this server's own.
func (s *Store) ID() string { return s.cfg.ID }

// Addr is the address at which this server's Raft transport is reached.
func (s *Store) Addr() string { return s.addr }

// Peers returns the servers of the newest configuration, this one included, in
// the configuration's order.
func (s *Store) Peers() []Peer {
	var peers []Peer
	for _, srv := range s.raft.GetConfiguration().Configuration().Servers {
		p := Peer{ID: string(srv.ID), Addr: string(srv.Address), Nonvoter: srv.Suffrage != raft.Voter}
		if p.ID == s.cfg.ID { // its port may have changed since it was written
			p.Addr = s.addr
		}
		peers = append(peers, p)
	}
	return peers
}

// AddVoter adds a server with a vote, or gives one to a non-voter. It returns
// when that is committed. Only the leader can; errors as Propose, and ErrAlone.
func (s *Store) AddVoter(ctx context.Context, id, addr string) error {
	return s.addServer(ctx, "add voter", id, addr, s.raft.AddVoter)
}

// AddNonvoter adds a server that receives the entries but has no vote: a new
// one should catch up as such first. Errors as AddVoter.
func (s *Store) AddNonvoter(ctx context.Context, id, addr string) error {
	return s.addServer(ctx, "add nonvoter", id, addr, s.raft.AddNonvoter)
}

func (s *Store) addServer(ctx context.Context, what, id, addr string,
	add func(raft.ServerID, raft.ServerAddress, uint64, time.Duration) raft.IndexFuture) error {
	what = fmt.Sprintf("%s %q", what, id)
	if id == "" || addr == "" {
		return fmt.Errorf("%s: must have an id and an address (got %q at %q)", what, id, addr)
	}
	if s.alone {
		return fmt.Errorf("%s: %w", what, ErrAlone)
	}
	err := s.await(ctx, func() error {
		return add(raft.ServerID(id), raft.ServerAddress(addr), 0, s.cfg.EnqueueTimeout).Error()
	})
	if err != nil {
		return s.opError(what, err)
	}
	return nil
}

// RemoveServer takes a server out of the cluster and returns when that is
// committed. The removed one goes on as a follower without a vote until it is
// closed. Only the leader can; errors as Propose.
func (s *Store) RemoveServer(ctx context.Context, id string) error {
	err := s.await(ctx, func() error {
		return s.raft.RemoveServer(raft.ServerID(id), 0, s.cfg.EnqueueTimeout).Error()
	})
	if err != nil {
		return s.opError(fmt.Sprintf("remove server %q", id), err)
	}
	return nil
}

// Stats is a reading of the store's counters.
type Stats struct {
	State         string // Follower, Candidate, Leader or Shutdown
	Term          uint64 // Raft term
	LastIndex     uint64 // newest entry in the log or snapshot
	CommitIndex   uint64
	AppliedIndex  uint64
	SnapshotIndex uint64        // newest entry in the newest snapshot; 0: none
	FSMPending    int           // batches queued for applying
	LastContact   time.Duration // since the leader was heard; 0 on the leader itself, < 0: never heard
	LeaderID      string
	LeaderAddr    string
}

// Stats returns the counters, each read by itself.
func (s *Store) Stats() Stats {
	st := Stats{
		State:        s.raft.State().String(),
		Term:         s.raft.CurrentTerm(),
		LastIndex:    s.raft.LastIndex(),
		CommitIndex:  s.raft.CommitIndex(),
		AppliedIndex: s.AppliedIndex(),
	}
	st.LeaderID, st.LeaderAddr = s.Leader()
	m := s.raft.Stats()
	fmt.Sscan(m["last_snapshot_index"], &st.SnapshotIndex)
	fmt.Sscan(m["fsm_pending"], &st.FSMPending)
	st.LastContact = s.LastContact()
	return st
}

// LastContact is the time since this server heard the leader: 0 on the leader
// itself, < 0 if it never has.
func (s *Store) LastContact() time.Duration {
	if s.IsLeader() {
		return 0
	}
	last := s.raft.LastContact()
	if last.IsZero() {
		return -1
	}
	return time.Since(last)
}

// Listed reports whether the newest configuration has this server under the
// address at which it is reached now.
func (s *Store) Listed() bool {
	for _, srv := range s.raft.GetConfiguration().Configuration().Servers {
		if string(srv.ID) == s.cfg.ID {
			return string(srv.Address) == s.addr
		}
	}
	return false
}
