package raftstore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// StateMachine is what the entries are applied to. Apply, Snapshot, Restore
// and BatchDone are never called at the same time.
type StateMachine interface {
	// Apply applies one entry and returns what Propose hands to its caller. It
	// must do the same on every server and can't fail: a broken invariant
	// panics, which ends the process. It must not change data nor keep it.
	Apply(index uint64, data []byte) any
	// Snapshot captures the state after the last applied entry. Entries wait
	// meanwhile, so it must be quick; the writing happens in the Snapshot.
	Snapshot() (Snapshot, error)
	// Restore replaces the whole state, whatever it was before, a half-finished
	// Restore included.
	Restore(r io.Reader) error
}

// BatchDone may be implemented by a StateMachine that wants to act once per
// batch: it is called after the last Apply of each, with that entry's index.
type BatchDone interface{ BatchDone(index uint64) }

// Snapshot is a captured state. Persist is called at most once, while entries
// go on being applied; Release always.
type Snapshot interface {
	Persist(w io.Writer) error
	Release()
}

// A stored snapshot begins with this and the index of the last command in it,
// little-endian: Raft keeps that index beside the snapshot but does not tell
// it to the state machine.
var snapshotMagic = []byte("joule raft snapshot v1\n")

// SnapshotHeaderSize is how many bytes stand before the state machine's own in
// a stored snapshot.
const SnapshotHeaderSize = 23 + 8

// fsm is the library's view of a StateMachine. It follows the applied index,
// since the library's own counts what is queued for applying.
type fsm struct {
	sm       StateMachine
	done     BatchDone // nil: not wanted
	applied  progress
	command  atomic.Uint64 // index of the last entry that the state machine was shown
	running  atomic.Bool   // set when the library begins to run
	fatal    func(error)
	restored func() // told of each restore while the store runs
	refused  error  // by the first Restore while Open runs that failed
}

var _ raft.BatchingFSM = (*fsm)(nil)

func newFSM(sm StateMachine, fatal func(error)) *fsm {
	f := &fsm{sm: sm, fatal: fatal}
	f.done, _ = sm.(BatchDone)
	return f
}

// Apply implements raft.FSM.
func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	out := make([]any, len(logs))
	var last uint64
	for i, l := range logs {
		if l.Type == raft.LogCommand {
			out[i] = f.sm.Apply(l.Index, l.Data)
			last = l.Index
		}
	}
	if last > 0 {
		if f.done != nil {
			f.done.BatchDone(last)
		}
		f.command.Store(last)
	}
	f.applied.advance(logs[len(logs)-1].Index)
	return out
}

// Snapshot implements raft.FSM.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	s, err := f.sm.Snapshot()
	if err != nil {
		return nil, err
	}
	return &fsmSnapshot{s: s, index: f.command.Load()}, nil
}

// Restore implements raft.FSM. At start an error makes the library try an
// older snapshot. Later the state is lost and the server must stop.
func (f *fsm) Restore(rc io.ReadCloser) error {
	err := f.restore(rc)
	if !f.running.Load() {
		if f.refused == nil {
			f.refused = err
		}
	} else if err != nil {
		f.fatal(fmt.Errorf("restore snapshot: %w", err))
	} else {
		f.restored()
	}
	return err
}

func (f *fsm) restore(r io.Reader) error {
	header := make([]byte, SnapshotHeaderSize)
	if _, err := io.ReadFull(r, header); err != nil {
		return fmt.Errorf("read snapshot header: %w", err)
	}
	if !bytes.HasPrefix(header, snapshotMagic) {
		return fmt.Errorf("read snapshot header: unknown format %q", header[:len(snapshotMagic)])
	}
	if err := f.sm.Restore(r); err != nil {
		return err
	}
	index := binary.LittleEndian.Uint64(header[len(snapshotMagic):])
	f.command.Store(index)
	f.applied.set(index)
	return nil
}

type fsmSnapshot struct {
	s     Snapshot
	index uint64
}

// Persist implements raft.FSMSnapshot. The library closes or cancels the sink.
func (s *fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	header := binary.LittleEndian.AppendUint64(bytes.Clone(snapshotMagic), s.index)
	if _, err := sink.Write(header); err != nil {
		return err
	}
	return s.s.Persist(sink)
}

// Release implements raft.FSMSnapshot.
func (s *fsmSnapshot) Release() { s.s.Release() }
