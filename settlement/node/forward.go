package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/joulecloud/joule/raftstore"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// Peers are the other servers as a node needs them. Errors of a leader that is
// none are *NotLeaderError.
type Peers interface {
	// Propose hands an encoded command batch to the leader at addr and returns
	// the encoded results once it is committed.
	Propose(ctx context.Context, addr string, batch []byte) ([]byte, error)
	// ReadIndex asks the leader at addr for an index that has everything
	// acknowledged before the call; with verify it asks a majority.
	ReadIndex(ctx context.Context, addr string, verify bool) (uint64, error)
	// Blocks hands the blocks from to to (0: the last there is), as some other
	// server's journal has them, to take, in order.
	Blocks(ctx context.Context, from, to uint64, take func(encoded []byte) error) error
}

// carryTimeout bounds how long commands are carried after a leader: an
// election takes a few seconds.
const carryTimeout = 15 * time.Second

// errNoLeader is why a wait for a leader ended.
var errNoLeader = &NotLeaderError{}

// carry brings commands to the leader, this server or another, and returns
// their results. Where no leader is known, or its answer was lost, it goes on
// trying as long as that is harmless: a command with a key, and a usage batch,
// happens once however often it is proposed (rules M7 and U3).
func (n *Node) carry(ctx context.Context, envs []ledger.Envelope) ([]ledger.Result, error) {
	if n.peers == nil {
		return n.proposeHere(ctx, encodeBatch(envs), len(envs))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, carryTimeout, errNoLeader)
	defer cancel()
	var results []ledger.Result
	err := n.retry(ctx, func() (err error) {
		results, err = n.carryOnce(ctx, envs)
		return err
	}, func(err error) bool {
		var notLeader *NotLeaderError
		switch {
		case errors.As(err, &notLeader):
			return true // it was not proposed
		case errors.Is(err, ErrFailed), errors.Is(err, ErrShutdown), errors.Is(err, ErrRestoring), errors.Is(err, wire.ErrUnknownVersion),
			errors.Is(err, ErrNotUnderstood):
			return false
		}
		return repeatable(envs)
	})
	return results, unknownOutcome(err)
}

// ErrUnknownOutcome is returned by Submit when the commands may or may not have
// happened, or will. They may be submitted again with the same keys.
var ErrUnknownOutcome = errors.New("no server has confirmed it: it may have happened or not")

// ErrNotUnderstood is returned where the leader does not know what it is to do,
// as one of an older version than this server. Nothing has happened.
var ErrNotUnderstood = errors.New("the leader does not understand what this server proposes: upgrade it")

// unknownOutcome tells the errors after which nothing has happened from those
// after which nothing is known.
func unknownOutcome(err error) error {
	var notLeader *NotLeaderError
	switch {
	case err == nil, errors.As(err, &notLeader), errors.Is(err, ErrFailed), errors.Is(err, ErrShutdown), errors.Is(err, ErrRestoring),
		errors.Is(err, context.Canceled), errors.Is(err, wire.ErrUnknownVersion), errors.Is(err, raftstore.ErrBusy),
		errors.Is(err, ErrNotUnderstood):
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
}

func (n *Node) carryOnce(ctx context.Context, envs []ledger.Envelope) ([]ledger.Result, error) {
	id, addr := n.store.Leader()
	if n.store.IsLeader() || id == n.store.ID() {
		return n.proposeHere(ctx, encodeBatch(envs), len(envs))
	}
	if addr == "" {
		return nil, &NotLeaderError{}
	}
	n.counters.forwarded.Add(1)
	b, err := n.peers.Propose(ctx, addr, encodeBatch(envs))
	if err != nil {
		return nil, err
	}
	results, err := wire.DecodeResults(b)
	if err == nil && len(results) != len(envs) {
		err = fmt.Errorf("the leader at %s gave %d results for %d commands", addr, len(results), len(envs))
	}
	return results, err
}

// retry calls try until it succeeds, its error is not to be retried, or ctx
// ends; then the last error stands.
func (n *Node) retry(ctx context.Context, try func() error, again func(error) bool) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		changed := n.store.LeadershipChanged()
		err := try()
		if err == nil || ctx.Err() != nil || !again(err) {
			if err != nil && errors.Is(err, context.DeadlineExceeded) && context.Cause(ctx) == errNoLeader {
				return errNoLeader
			}
			return err
		}
		pause.Reset(readPause)
		select {
		case <-changed:
		case <-pause.C:
		case <-ctx.Done():
			return err
		}
	}
}

// repeatable reports whether every command may be proposed twice.
func repeatable(envs []ledger.Envelope) bool {
	for i := range envs {
		if envs[i].Key == "" && envs[i].Command.Kind() != ledger.KindUsageBatch {
			return false
		}
	}
	return true
}

func encodeBatch(envs []ledger.Envelope) []byte {
	return wire.AppendCommandBatch(nil, &wire.CommandBatch{Envelopes: envs})
}

// ProposeBatch proposes an encoded command batch of another server, whose
// time does not count, and returns the encoded results. This server must lead:
// it is never passed on again.
func (n *Node) ProposeBatch(ctx context.Context, encoded []byte) ([]byte, error) {
	var b wire.CommandBatch
	if len(encoded) > forwardBytesMax {
		return nil, fmt.Errorf("%w: a batch of %d bytes, at most %d", ErrNotUnderstood, len(encoded), forwardBytesMax)
	}
	// What this server can't apply must not get into its log.
	if err := wire.DecodeCommandBatch(encoded, &b); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotUnderstood, err)
	}
	select {
	case n.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-n.closing.Done():
		return nil, ErrShutdown
	}
	defer func() { <-n.slots }()
	results, err := n.proposeHere(ctx, encoded, len(b.Envelopes))
	if err != nil {
		return nil, err
	}
	return wire.AppendResults(nil, results), nil
}

// forwardBytesMax is the most that a batch of another server may have: a full
// one and room for one more command.
const forwardBytesMax = 4 * batchBytesMax

// proposeHere stamps and proposes an encoded batch of n commands on this
// server. It keeps encoded.
func (n *Node) proposeHere(ctx context.Context, encoded []byte, commands int) ([]ledger.Result, error) {
	if n.restoring.Load() {
		return nil, ErrRestoring
	}
	if err := wire.StampCommandBatch(encoded, n.stamp()); err != nil {
		return nil, err
	}
	applied, _, err := n.store.Propose(ctx, encoded)
	if err != nil {
		return nil, err
	}
	switch applied := applied.(type) {
	case []ledger.Result:
		if len(applied) != commands {
			return nil, fmt.Errorf("%w: %d results for %d commands", ErrFailed, len(applied), commands)
		}
		return applied, nil
	case error:
		return nil, fmt.Errorf("%w: %w", ErrFailed, applied)
	}
	return nil, fmt.Errorf("%w: the state machine answered %T", ErrFailed, applied)
}
