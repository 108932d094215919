package raftstore

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// openWAL opens the log in dir, which must exist.
func openWAL(dir string, segmentBytes int, log hclog.Logger) (*wal.WAL, error) {
	meta := &metadb.BoltMetaDB{}
	w, err := openWALIn(dir, segmentBytes, meta, fs.New(), log)
	if err != nil {
		return nil, errors.Join(err, meta.Close())
	}
	return w, nil
}

func openWALIn(dir string, segmentBytes int, meta types.MetaStore, vfs types.VFS, log hclog.Logger) (*wal.WAL, error) {
	filer := segment.NewFiler(dir, vfs)
	if err := renewSealedTail(dir, meta, filer, log); err != nil {
		return nil, asDamage(fmt.Errorf("mend the newest segment: %w", err))
	}
	w, err := wal.Open(dir, wal.WithLogger(log), wal.WithSegmentSize(segmentBytes), wal.WithMetaStore(meta), wal.WithSegmentFiler(filer))
	return w, asDamage(err)
}

func asDamage(err error) error {
	if errors.Is(err, wal.ErrCorrupt) {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}

// renewSealedTail mends what raft-wal v0.4.2 leaves behind when the process or
// the power goes between the write that fills a segment and the note that it is
// full, or in the middle of that write: after its recovery it takes the segment
// for full and refuses every append from then on ("segment is sealed"), at each
// start again. The segment's entries are written to a new one, which takes its
// place. TestSegmentFilledAtACrash shows whether the library still needs this.
func renewSealedTail(dir string, meta types.MetaStore, filer types.SegmentFiler, log hclog.Logger) error {
	state, err := meta.Load(dir)
	if err != nil {
		return err
	}
	n := len(state.Segments)
	if n == 0 || !state.Segments[n-1].SealTime.IsZero() {
		return nil
	}
	info := state.Segments[n-1]
	old, err := filer.RecoverTail(info)
	if errors.Is(err, os.ErrNotExist) {
		return nil // Open makes it
	}
	if err != nil {
		return err
	}
	defer old.Close()
	if sealed, _, err := old.Sealed(); err != nil || !sealed {
		return err
	}
	log.Warn("the newest segment was filled when this server stopped: it is written anew", "base", info.BaseIndex)

	var entries []types.LogEntry
	for i := info.MinIndex; i <= old.LastIndex(); i++ {
		buf, err := old.GetLog(i)
		if err != nil {
			return fmt.Errorf("read entry %d: %w", i, err)
		}
		entries = append(entries, types.LogEntry{Index: i, Data: append([]byte(nil), buf.Bs...)})
		if err := buf.Close(); err != nil {
			return err
		}
	}
	// The id is spent before there is a file with it: Open deletes the file if
	// this does not get further.
	info.ID, info.BaseIndex = state.NextSegmentID, info.MinIndex
	state.NextSegmentID++
	if err := meta.CommitState(state); err != nil {
		return err
	}
	fresh, err := filer.Create(info)
	if err != nil {
		return err
	}
	defer fresh.Close()
	if err := fresh.Append(entries); err != nil {
		return err
	}
	state.Segments[n-1] = info
	if sealed, indexStart, err := fresh.Sealed(); err != nil {
		return err
	} else if sealed {
		full, next := &state.Segments[n-1], info
		full.SealTime, full.MaxIndex, full.IndexStart = time.Now(), fresh.LastIndex(), indexStart
		next.ID, next.BaseIndex, next.MinIndex, next.CreateTime = state.NextSegmentID, full.MaxIndex+1, full.MaxIndex+1, full.SealTime
		state.NextSegmentID++
		state.Segments = append(state.Segments, next) // Open makes its file
	}
	return meta.CommitState(state)
}

// dropCoveredLog finishes what a stop in the middle of installing a snapshot
// left half done: the snapshot is on disk, the older log that it replaces still
// there. The library would go on behind the snapshot, which the log store
// refuses to append to the older log, at each start again. Only a snapshot that
// can be read replaces anything.
func dropCoveredLog(store *failStop, snaps raft.SnapshotStore) error {
	last, err := store.LastIndex()
	if err != nil {
		return fmt.Errorf("read the log's last index: %w", err)
	}
	metas, err := snaps.List()
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	if last == 0 || len(metas) == 0 || metas[0].Index <= last {
		return nil
	}
	_, r, err := snaps.Open(metas[0].ID) // which checks the whole of it
	if err != nil {
		return fmt.Errorf("the log ends at entry %d and the snapshot at %d behind it can't be read: %w", last, metas[0].Index, err)
	}
	if err := r.Close(); err != nil {
		return fmt.Errorf("close snapshot: %w", err)
	}
	first, err := store.FirstIndex()
	if err != nil {
		return fmt.Errorf("read the log's first index: %w", err)
	}
	return store.DeleteRange(first, last)
}

// reachingSnapshots leaves out older snapshots where the log does not reach
// back from the newest: when that one can't be restored the library takes an
// older one, and without the log between the two the server would go on from a
// state that lacks what it has acknowledged.
type reachingSnapshots struct {
	raft.SnapshotStore
	log *failStop
}

// List implements raft.SnapshotStore.
func (s reachingSnapshots) List() ([]*raft.SnapshotMeta, error) {
	metas, err := s.SnapshotStore.List()
	if err != nil || len(metas) < 2 {
		return metas, err
	}
	first, err := s.log.FirstIndex()
	if err != nil {
		return nil, err
	}
	last, err := s.log.LastIndex()
	if err != nil {
		return nil, err
	}
	n := 1
	for ; n < len(metas); n++ {
		if first == 0 || metas[n].Index+1 < first || last < metas[0].Index {
			break
		}
	}
	return metas[:n], nil
}
