package raftstore

import (
	"context"

	"github.com/hashicorp/raft"
)

// VerifyRead returns nil at a moment at which this server is the leader and
// its state machine holds every entry that any server had acknowledged before
// the call: a linearizable read may be made from it then. It costs a round of
// heartbeats, and one log entry the first time in a Raft term, since a new
// leader does not know which entries of its predecessors are committed until
// one of its own is.
//
// The library counts a follower's next answer as its agreement, also one to a
// heartbeat that was sent before the call. Should such an answer arrive so late
// that a successor was elected in between (at least ElectionTimeout), the read
// may miss that successor's entries; Barrier has no such exception.
//
// Its errors are *NotLeaderError, ErrLeadershipLost, ErrShutdown, ErrFailed and
// ctx's.
func (s *Store) VerifyRead(ctx context.Context) error {
	return s.readError(s.verifyRead(ctx))
}

func (s *Store) verifyRead(ctx context.Context) error {
	if !s.IsLeader() {
		return s.notLeader()
	}
	term := s.raft.CurrentTerm()
	if s.readTerm.Load() != term {
		return s.firstRead(ctx)
	}
	commit := s.raft.CommitIndex()
	if err := s.await(ctx, func() error { return s.raft.VerifyLeader().Error() }); err != nil {
		return s.opError("verify leader", err)
	}
	if s.raft.CurrentTerm() != term {
		return s.notLeader()
	}
	return s.fsm.applied.wait(ctx, commit, s.down, s.downErr)
}

// firstRead makes the barrier of a new leader, once for all who ask meanwhile.
func (s *Store) firstRead(ctx context.Context) error {
	select {
	case s.readSlot <- struct{}{}:
		defer func() { <-s.readSlot }()
	case <-ctx.Done():
		return ctx.Err()
	case <-s.down:
		return s.downErr()
	}
	term := s.raft.CurrentTerm()
	if err := s.Barrier(ctx); err != nil {
		return err
	}
	// The term only grows: the same before and after, it was the barrier's.
	if s.raft.CurrentTerm() == term {
		s.readTerm.Store(term)
	}
	return nil
}

// Barrier appends an empty entry and waits until this server has applied it,
// and so everything before it. It is a read point like VerifyRead without that
// one's exception, at the price of a replicated write. Errors as VerifyRead.
func (s *Store) Barrier(ctx context.Context) error {
	err := s.await(ctx, func() error {
		f := s.raft.Barrier(s.cfg.EnqueueTimeout)
		if err := f.Error(); err != nil {
			return err
		}
		// The state machine is not shown barriers, so their index is counted here.
		if i, ok := f.(raft.IndexFuture); ok {
			s.fsm.applied.advance(i.Index())
		}
		return nil
	})
	if err != nil {
		return s.opError("make barrier", err)
	}
	return nil
}

// WaitApplied returns nil once this server has applied the entry with the
// index that Propose returned, here or on another server.
func (s *Store) WaitApplied(ctx context.Context, index uint64) error {
	return s.fsm.applied.wait(ctx, index, s.down, s.downErr)
}

// AppliedIndex is the index of the last entry that the state machine has
// applied or got by a snapshot.
func (s *Store) AppliedIndex() uint64 { return s.fsm.applied.load() }

// CommandIndex is the index of the last entry that the state machine was shown
// or got by a snapshot. Unlike AppliedIndex it counts nothing that only this
// server knows, so another server that waits for it gets there.
func (s *Store) CommandIndex() uint64 { return s.fsm.command.Load() }

// readError is a read's error, or what stopped the store: a server whose disk has
// failed steps down as well; which of the two was met first is chance, the
// failure is the reason.
func (s *Store) readError(err error) error {
	if err != nil {
		if stopped := s.stopped(); stopped != nil {
			return stopped
		}
	}
	return err
}

// stopped is nil while the store works.
func (s *Store) stopped() error {
	if s.failure.cause() != nil { // the shutdown may still be under way
		return s.downErr()
	}
	select {
	case <-s.down:
		return s.downErr()
	case <-s.closing:
		return s.downErr()
	default:
		return nil
	}
}

// LeaderRead is VerifyRead without asking the others: this server takes itself
// for the leader, and its state machine has every entry that was committed as
// far as it knows. A leader that was paused or cut off may have been superseded
// within its lease. Errors as VerifyRead.
func (s *Store) LeaderRead(ctx context.Context) error {
	return s.readError(s.leaderRead(ctx))
}

func (s *Store) leaderRead(ctx context.Context) error {
	if !s.IsLeader() {
		return s.notLeader()
	}
	term := s.raft.CurrentTerm()
	if s.readTerm.Load() != term {
		return s.firstRead(ctx)
	}
	commit := s.raft.CommitIndex()
	if !s.IsLeader() || s.raft.CurrentTerm() != term {
		return s.notLeader()
	}
	return s.fsm.applied.wait(ctx, commit, s.down, s.downErr)
}
