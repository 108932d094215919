// Package node runs the ledger on a replicated log: it batches commands into
// log entries, stamps time on the leader, applies committed entries to the
// ledger and to the journal, and answers reads.
//
// It knows neither HTTP nor Nomad.
package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/joulecloud/joule/raftstore"
	"github.com/joulecloud/joule/settlement/journal"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// NotLeaderError says that another server leads; its Raft address is in it.
type NotLeaderError = raftstore.NotLeaderError

// ErrShutdown is returned when the node is closing.
var ErrShutdown = raftstore.ErrShutdown

// ErrFailed is returned when this server must stop: its disk failed, or the log
// holds what it does not understand.
var ErrFailed = raftstore.ErrFailed

// ErrBusy is returned for commands that found the queue in front of the log
// full: nothing has happened.
var ErrBusy = raftstore.ErrBusy

// Limits of one log entry.
const (
	batchBytesMax    = 256 << 10
	batchCommandsMax = 1024
	// proposalsMax is how many log entries may be on their way at once. While
	// all of them are, commands gather into the next one: load makes batches
	// larger, and a lone command waits for nobody.
	proposalsMax = 16
)

// Config holds a node's values.
type Config struct {
	Raft      raftstore.Config // its Dir is set by Open
	DataDir   string           // raft/ and journal/ go below it
	JournalFS journal.FS       // that has journal/; nil: the machine's
	Peers     Peers            // nil: commands and reads are refused where this server does not lead
	// StateHashEvery is after how many blocks a hash over the whole ledger is
	// made, for comparison between servers, where it must be the same; 0: 16384.
	// One is also made when so much ledger time has passed, the same everywhere,
	// and of an idle ledger when so much time has; 0: 2 minutes.
	StateHashEvery    uint64
	StateHashInterval time.Duration
	// WallClock is what time the machine has it; nil: time.Now.
	WallClock func() time.Time
	// VerifyAfter is how long after the start the history is read and checked; 0:
	// a minute, < 0: never.
	VerifyAfter time.Duration
}

// Status is a server's state at one instant.
type Status struct {
	Leader       bool
	LeaderAddr   string
	AppliedIndex uint64
	LastContact  time.Duration // since the leader was heard; 0 on the leader itself, < 0: never
	Block        uint64        // of the journal, last applied
	Entries      uint64        // journal entries so far
	Digest       ledger.Digest
	LedgerTime   ledger.Time
	Rate         ledger.Rate
	Policy       ledger.Policy
}

// Node is one settlement server's replica. It is safe for concurrent use.
type Node struct {
	store   *raftstore.Store
	machine *machine
	log     *slog.Logger
	submits chan *submission
	slots   chan struct{}
	clock   clock
	peers   Peers // nil: none

	restoring atomic.Bool // no command is proposed
	counters  counters
	sums      sums

	leaderReads   rounds
	verifiedReads rounds

	closing context.Context // ends when Close begins
	stop    context.CancelFunc
	done    sync.WaitGroup
}

// Open opens the data directory, recovers the ledger and joins the cluster.
func Open(cfg Config, log *slog.Logger) (*Node, error) {
	fs := cfg.JournalFS
	if fs == nil {
		fs = journal.OS
	}
	jrn, err := journal.OpenIn(fs, filepath.Join(cfg.DataDir, "journal"))
	if err != nil {
		return nil, err
	}
	if torn := jrn.Dropped(); torn != nil {
		log.LogAttrs(context.Background(), slog.LevelWarn, "the journal's torn tail was cut; the replicated log brings it back",
			slog.Any("error", torn))
	}
	n := &Node{
		log:     log,
		submits: make(chan *submission),
		slots:   make(chan struct{}, proposalsMax),
		peers:   cfg.Peers,
	}
	if n.clock.wall = cfg.WallClock; n.clock.wall == nil {
		n.clock.wall = time.Now
	}
	n.closing, n.stop = context.WithCancel(context.Background())
	n.machine = &machine{ledger: ledger.New(), journal: jrn, fatal: cfg.Raft.Fatal, log: log, closing: n.closing, peers: cfg.Peers, clock: &n.clock}
	n.machine.hashes.every = cmp.Or(cfg.StateHashEvery, stateHashEvery)
	n.machine.hashes.interval = cmp.Or(cfg.StateHashInterval, stateHashInterval)
	cfg.Raft.Dir = filepath.Join(cfg.DataDir, "raft")
	if n.store, err = raftstore.Open(cfg.Raft, n.machine, log); err != nil {
		n.stop()
		return nil, errors.Join(err, jrn.Close())
	}
	n.done.Go(func() { n.gather(n.closing) })
	n.done.Go(func() { n.runTicks(n.closing) })
	n.done.Go(func() { n.runVerify(n.closing, cfg.VerifyAfter) })
	n.done.Go(func() { n.hashIdle(n.closing) })
	return n, nil
}

// Close stops the node and waits until it has.
func (n *Node) Close() error {
	n.stop()
	n.done.Wait()
	err := n.store.Close()
	n.machine.hashes.done.Wait()
	return errors.Join(err, n.machine.journal.Close())
}

// Journal is the node's history.
func (n *Node) Journal() *journal.Journal { return n.machine.journal }

// Store is the replicated log under the node, for operators' commands.
func (n *Node) Store() *raftstore.Store { return n.store }

// submission is one command on its way into the log.
type submission struct {
	ctx    context.Context
	env    ledger.Envelope
	bytes  int
	result chan outcome // buffered: the proposer never waits for a caller that left
}

type outcome struct {
	result ledger.Result
	err    error
}

// Submit runs one command and returns its result once the entry that carries
// it is committed and applied here. A command that the ledger refuses is a
// Result, not an error. When ctx ends first, the outcome is unknown: the same
// command with the same key may be submitted again.
func (n *Node) Submit(ctx context.Context, env ledger.Envelope) (ledger.Result, error) {
	s := &submission{ctx: ctx, env: env, bytes: size(&env), result: make(chan outcome, 1)}
	if s.bytes > batchBytesMax {
		return ledger.Result{Code: ledger.CodeInvalid,
			Msg: fmt.Sprintf("command: %d bytes, at most %d", s.bytes, batchBytesMax)}, nil
	}
	select {
	case n.submits <- s:
	case <-ctx.Done():
		return ledger.Result{}, ctx.Err()
	case <-n.closing.Done():
		return ledger.Result{}, ErrShutdown
	}
	select {
	case o := <-s.result:
		return o.result, o.err
	case <-ctx.Done():
		return ledger.Result{}, ctx.Err()
	}
}

// size is an upper estimate of a command's bytes in the log.
func size(env *ledger.Envelope) int {
	const fixed = 2 << 10 // every field of every other command, at its limit
	switch b := env.Command.(type) {
	case *ledger.UsageBatch:
		return fixed + len(b.Records)*wire.RecordSize
	case *wire.SignedBatch:
		return fixed + len(b.Batch)
	}
	return fixed
}

// gather turns submissions into log entries.
func (n *Node) gather(ctx context.Context) {
	var next *submission // read, but too large for the batch before
	for {
		if next == nil {
			select {
			case next = <-n.submits:
			case <-ctx.Done():
				return
			}
		}
		select {
		case n.slots <- struct{}{}:
		case <-ctx.Done():
			next.result <- outcome{err: ErrShutdown}
			return
		}
		batch, bytes := []*submission{next}, next.bytes
		next = nil
	more:
		for len(batch) < batchCommandsMax {
			select {
			case s := <-n.submits:
				if bytes+s.bytes > batchBytesMax {
					next = s
					break more
				}
				batch, bytes = append(batch, s), bytes+s.bytes
			default:
				break more
			}
		}
		n.done.Go(func() {
			defer func() { <-n.slots }()
			n.propose(ctx, batch)
		})
	}
}

// propose brings one batch to the log and hands out its results.
func (n *Node) propose(ctx context.Context, batch []*submission) {
	envs := make([]ledger.Envelope, len(batch))
	for i, s := range batch {
		envs[i] = s.env
	}
	began := time.Now()
	results, err := n.carry(ctx, envs)
	n.counters.count(len(batch), results, err, time.Since(began))
	if errors.Is(err, context.Canceled) {
		err = ErrShutdown
	}
	for i, s := range batch {
		if err != nil {
			s.result <- outcome{err: err}
			continue
		}
		s.result <- outcome{result: results[i]}
	}
}

// stamp is the time of the next log entry.
func (n *Node) stamp() ledger.Time {
	n.machine.mu.RLock()
	applied := n.machine.ledger.Now()
	n.machine.mu.RUnlock()
	return n.clock.stamp(time.Now(), applied)
}

// Status answers from this server alone, leader or not.
func (n *Node) Status() Status {
	_, addr := n.store.Leader()
	contact := n.store.LastContact()
	m := n.machine
	m.mu.RLock()
	defer m.mu.RUnlock()
	st := Status{
		Leader: n.store.IsLeader(), LeaderAddr: addr, AppliedIndex: n.store.AppliedIndex(), LastContact: contact,
		Block: m.block, Entries: m.ledger.EntryCount(), Digest: m.digest, LedgerTime: m.ledger.Now(), Policy: m.ledger.Policy(),
	}
	st.Rate, _ = m.ledger.Rate()
	return st
}

// WaitLeader blocks until some server leads.
func (n *Node) WaitLeader(ctx context.Context) error { return n.store.WaitLeader(ctx) }
