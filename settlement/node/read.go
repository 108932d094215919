package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/joulecloud/joule/settlement/ledger"
)

// Consistency says how fresh a read must be.
type Consistency int

const (
	// Consistent: everything acknowledged anywhere before the call is seen. The
	// leader asks a majority whether it still leads.
	Consistent Consistency = iota
	// Leader: as Consistent, on the leader's own word. A leader that was paused
	// or cut off may not know yet that it is none any more.
	Leader
	// Stale: what this server has, now.
	Stale
)

// readTimeout bounds how long a read waits for a leader.
const readTimeout = 10 * time.Second

// readPause is how long a read waits before it asks again where nothing says
// that the leader changed.
const readPause = 100 * time.Millisecond

type consistencyKey struct{}

// WithConsistency returns a context whose reads are as fresh as c says. Without
// it they are Consistent.
func WithConsistency(ctx context.Context, c Consistency) context.Context {
	return context.WithValue(ctx, consistencyKey{}, c)
}

func consistencyOf(ctx context.Context) Consistency {
	c, _ := ctx.Value(consistencyKey{}).(Consistency)
	return c
}

// Read runs fn on the ledger at a point that is as fresh as the context's
// Consistency says: by default it includes everything acknowledged before the
// call. On a follower that costs a question to the leader. fn must not keep the
// ledger, and must be quick: commands wait for it.
func (n *Node) Read(ctx context.Context, fn func(*ledger.Ledger) error) error {
	return n.ReadDigest(ctx, func(l *ledger.Ledger, _ ledger.Digest) error { return fn(l) })
}

// ReadDigest is Read with the digest of that very state.
func (n *Node) ReadDigest(ctx context.Context, fn func(*ledger.Ledger, ledger.Digest) error) error {
	if c := consistencyOf(ctx); c != Stale {
		if err := n.readPoint(ctx, c == Consistent); err != nil {
			return err
		}
	}
	n.machine.mu.RLock()
	defer n.machine.mu.RUnlock()
	if n.machine.failed != nil {
		return fmt.Errorf("%w: %w", ErrFailed, n.machine.failed)
	}
	return fn(n.machine.ledger, n.machine.digest)
}

// readPoint returns nil at a moment at which this server has what the read
// must see.
func (n *Node) readPoint(ctx context.Context, verify bool) error {
	if n.peers == nil {
		return n.readHere(ctx, verify)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, readTimeout, errNoLeader)
	defer cancel()
	return n.retry(ctx, func() error {
		if n.store.IsLeader() {
			return n.readHere(ctx, verify)
		}
		rounds := &n.leaderReads
		if verify {
			rounds = &n.verifiedReads
		}
		index, err := rounds.wait(ctx, func() (uint64, error) { return n.askIndex(verify) })
		if err != nil {
			return err
		}
		return n.store.WaitApplied(ctx, index)
	}, func(err error) bool { return !errors.Is(err, ErrFailed) && !errors.Is(err, ErrShutdown) })
}

func (n *Node) readHere(ctx context.Context, verify bool) error {
	if verify {
		return n.store.VerifyRead(ctx)
	}
	return n.store.LeaderRead(ctx)
}

// ReadIndex makes a read point on this server, which must lead, and returns
// the index that has all a read from it must see.
func (n *Node) ReadIndex(ctx context.Context, verify bool) (uint64, error) {
	if err := n.readHere(ctx, verify); err != nil {
		return 0, err
	}
	return n.store.CommandIndex(), nil
}

func (n *Node) askIndex(verify bool) (uint64, error) {
	ctx, cancel := context.WithTimeout(n.closing, readTimeout)
	defer cancel()
	id, addr := n.store.Leader()
	if addr == "" {
		return 0, &NotLeaderError{}
	}
	if id == n.store.ID() { // since now
		return n.ReadIndex(ctx, verify)
	}
	return n.peers.ReadIndex(ctx, addr, verify)
}

// rounds lets many callers share one question to the leader. An answer serves
// those who came before it was asked for.
type rounds struct {
	mu      sync.Mutex
	running bool
	next    *round
}

type round struct {
	done  chan struct{}
	index uint64
	err   error
}

func (r *rounds) wait(ctx context.Context, ask func() (uint64, error)) (uint64, error) {
	r.mu.Lock()
	if r.next == nil {
		r.next = &round{done: make(chan struct{})}
	}
	mine := r.next
	if !r.running {
		r.running = true
		go r.run(ask)
	}
	r.mu.Unlock()
	select {
	case <-mine.done:
		return mine.index, mine.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

func (r *rounds) run(ask func() (uint64, error)) {
	for {
		r.mu.Lock()
		current := r.next
		r.next = nil
		if current == nil {
			r.running = false
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		current.index, current.err = ask()
		close(current.done)
	}
}
