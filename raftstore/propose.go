package raftstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Propose replicates data and returns what the local state machine's Apply
// returned for it, with the entry's index. The caller must never change data
// afterwards, even when ctx ends first. Concurrent proposals may be applied in
// any order; one that returned is applied before one that is made later.
//
// With *NotLeaderError, ErrBusy or ErrTooLarge the entry was not proposed. With ctx's
// error, ErrLeadershipLost, ErrShutdown, ErrFailed or any other, whether it is
// or will be applied is unknown: whoever proposes it again must make that
// harmless.
func (s *Store) Propose(ctx context.Context, data []byte) (result any, index uint64, err error) {
	if len(data) > EntryBytesMax {
		return nil, 0, fmt.Errorf("propose %d bytes (the limit is %d): %w", len(data), EntryBytesMax, ErrTooLarge)
	}
	var f raft.ApplyFuture
	err = s.await(ctx, func() error {
		timeout := s.cfg.EnqueueTimeout
		if d, ok := ctx.Deadline(); ok {
			timeout = max(min(timeout, time.Until(d)), time.Nanosecond)
		}
		f = s.raft.Apply(data, timeout)
		return f.Error()
	})
	if err != nil {
		return nil, 0, s.opError("propose", err)
	}
	// A quorum without this server may have let the entry through, but a
	// server with a failed disk acknowledges nothing.
	if s.failure.cause() != nil {
		return nil, 0, s.downErr()
	}
	return f.Response(), f.Index(), nil
}

// await runs op, which may block in the library, and returns early when ctx
// ends or the store stops. The library never answers some futures that were
// queued when it shut down, hence the goroutine, and hence Close's grace.
func (s *Store) await(ctx context.Context, op func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !s.inflight.add() {
		return s.downErr()
	}
	done := make(chan error, 1)
	go func() {
		defer s.inflight.remove()
		done <- op()
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-s.down:
		select {
		case err := <-done: // answered at the same moment
			return err
		default:
			return s.downErr()
		}
	}
}

// opError maps the library's errors to this package's.
func (s *Store) opError(op string, err error) error {
	switch {
	case s.failure.cause() != nil:
		return s.downErr()
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return s.notLeader()
	case errors.Is(err, raft.ErrLeadershipLost):
		return ErrLeadershipLost
	case errors.Is(err, raft.ErrRaftShutdown), errors.Is(err, ErrShutdown):
		return s.downErr()
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return ErrBusy
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return fmt.Errorf("%s: %w", op, err)
}

func (s *Store) notLeader() error {
	id, addr := s.Leader()
	if id == s.cfg.ID { // lost or won since the refusal
		id, addr = "", ""
	}
	return &NotLeaderError{LeaderID: id, LeaderAddr: addr}
}

// inflight counts the goroutines that wait for the library.
type inflight struct {
	mu     sync.Mutex
	n      int
	sealed bool
	idle   chan struct{} // closed when sealed and none is left
}

func (i *inflight) init() { i.idle = make(chan struct{}) }

func (i *inflight) add() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.sealed {
		return false
	}
	i.n++
	return true
}

func (i *inflight) remove() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.n--
	if i.sealed && i.n == 0 {
		close(i.idle)
	}
}

func (i *inflight) seal() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.sealed = true
	if i.n == 0 {
		close(i.idle)
	}
}
