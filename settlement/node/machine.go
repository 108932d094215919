package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/joulecloud/joule/raftstore"
	"github.com/joulecloud/joule/settlement/journal"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// machine is the replicated state machine: the ledger, the digest over every
// applied block, and the journal that the blocks are written to.
type machine struct {
	journal *journal.Journal
	fatal   func(error) // told once why this server must stop
	log     *slog.Logger
	closing context.Context // ends when the node closes
	peers   Peers           // nil: a journal that ends too early can't be completed
	clock   *clock          // learns the ledger's time

	mu     sync.RWMutex // Apply and Restore write, reads read
	ledger *ledger.Ledger
	block  uint64 // sequence of the last applied block
	digest ledger.Digest
	failed error // set once: nothing is applied or answered any more
	hashes hashes

	// Reused by Apply.
	batch   wire.CommandBatch
	encoded []byte
}

var _ raftstore.StateMachine = (*machine)(nil)

// Apply implements raftstore.StateMachine; its result is []ledger.Result, one
// per command, or an error once this server must stop: what it cannot apply or
// write down is never acknowledged, and the log brings it back at the next
// start. A panic here is a broken invariant of the ledger.
func (m *machine) Apply(index uint64, data []byte) any {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failed != nil {
		return m.failed
	}
	if err := wire.DecodeCommandBatch(data, &m.batch); err != nil {
		if errors.Is(err, wire.ErrUnknownVersion) {
			err = fmt.Errorf("%w: upgrade this node", err)
		}
		return m.fail(fmt.Errorf("log entry %d: %w", index, err))
	}
	results := make([]ledger.Result, 0, len(m.batch.Envelopes))
	for i := range m.batch.Envelopes {
		res := m.ledger.Apply(m.batch.Time, &m.batch.Envelopes[i])
		res.Records = slices.Clone(res.Records) // the ledger reuses them
		results = append(results, res)
	}
	b := wire.Block{
		Seq: m.block + 1, Index: index, Time: m.ledger.Now(),
		Envelopes: m.batch.Envelopes, Results: results, Entries: m.ledger.TakeEntries(),
	}
	m.encoded = wire.AppendAppliedBlock(m.encoded[:0], m.digest, &b, data)
	if err := m.journal.Append(m.encoded, &b); err != nil {
		return m.fail(fmt.Errorf("log entry %d: %w", index, err))
	}
	m.block, m.digest = b.Seq, b.Digest
	m.clock.learn(time.Now(), b.Time)
	if m.hashes.due(m.block, b.Time) {
		m.hashes.start(m)
	}
	return results
}

// fail ends the machine's work; mu is held.
func (m *machine) fail(err error) error {
	m.failed = err
	m.fatal(err)
	return err
}

// stop is fail for a reason that lies outside of Apply.
func (m *machine) stop(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failed == nil {
		m.fail(err)
	}
}

// Snapshot implements raftstore.StateMachine. It captures the state; Persist
// encodes it while commands go on.
func (m *machine) Snapshot() (raftstore.Snapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failed != nil {
		return nil, m.failed
	}
	return &snapshot{machine: m, ledger: m.ledger, capture: m.ledger.Capture(), extra: snapshotExtra(m.block, m.digest)}, nil
}

// Restore implements raftstore.StateMachine.
func (m *machine) Restore(r io.Reader) error {
	l, extra, err := wire.ReadSnapshot(r)
	if errors.Is(err, wire.ErrUnknownVersion) {
		err = fmt.Errorf("%w: upgrade this node", err)
	}
	if err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	if len(extra) != 8+len(ledger.Digest{}) {
		return fmt.Errorf("read snapshot: its last part has %d bytes, want %d", len(extra), 8+len(ledger.Digest{}))
	}
	block, digest := binary.LittleEndian.Uint64(extra), ledger.Digest(extra[8:])
	// The snapshot stands for blocks that will never be applied here again, so
	// the journal must have them.
	if err := m.complete(block, digest); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ledger, m.block, m.digest = l, block, digest
	return nil
}

// snapshot is a captured state.
type snapshot struct {
	machine *machine
	ledger  *ledger.Ledger // that was captured; a Restore may have replaced the machine's
	capture *ledger.Capture
	extra   []byte
}

// Persist implements raftstore.Snapshot. The log may forget what the snapshot
// covers, so the journal is made durable first.
func (s *snapshot) Persist(w io.Writer) error {
	if err := s.machine.journal.Sync(); err != nil {
		return fmt.Errorf("sync the journal: %w", err)
	}
	return wire.WriteState(w, s.capture.State(), s.extra)
}

// Release implements raftstore.Snapshot.
func (s *snapshot) Release() {
	s.machine.mu.Lock()
	defer s.machine.mu.Unlock()
	if s.capture != nil {
		s.ledger.Release(s.capture)
		s.capture = nil
	}
}
