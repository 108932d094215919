package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/hashicorp/raft"
)

// The library has a checksum over a snapshot's content, but none over its
// description, meta.json: with one bit flipped there it restores to another
// index, or has no configuration and never leads. So a snapshot gets a file
// meta.sum beside that, a CRC-32C of meta.json. One without it, as an older
// version of this package or a crash leaves, is taken as it is.
const (
	metaFile = "meta.json"
	sumFile  = "meta.sum"
)

// summedSnapshots are the library's snapshots on disk, without those whose
// description is damaged.
type summedSnapshots struct {
	raft.SnapshotStore
	dir    string
	log    *slog.Logger
	damage error // that List has met; nil: none
}

func (s *Store) openSnapshotDir() (*summedSnapshots, error) {
	snaps, err := raft.NewFileSnapshotStoreWithLogger(s.cfg.Dir, s.cfg.SnapshotsRetained, newHCLogger(s.log, "raft.snapshot"))
	if err != nil {
		return nil, fmt.Errorf("open snapshots in %q: %w", s.cfg.Dir, err)
	}
	return &summedSnapshots{SnapshotStore: snaps, dir: filepath.Join(s.cfg.Dir, "snapshots"), log: s.log}, nil
}

// List implements raft.SnapshotStore.
func (s *summedSnapshots) List() ([]*raft.SnapshotMeta, error) {
	metas, err := s.SnapshotStore.List()
	if err != nil {
		return nil, err
	}
	// The library leaves out what it can't make sense of, without a word.
	dirs, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	for _, d := range dirs {
		if filepath.Ext(d.Name()) == ".tmp" { // being written, or left half written
			continue
		}
		err := s.check(d.Name())
		if err == nil {
			continue
		}
		if !errors.Is(err, ErrDamaged) {
			return nil, err
		}
		if s.damage == nil {
			s.log.Error("a snapshot is left out", "error", err)
			s.damage = err
		}
		metas = slices.DeleteFunc(metas, func(m *raft.SnapshotMeta) bool { return m.ID == d.Name() })
	}
	return metas, nil
}

// check compares a snapshot's description with its checksum.
func (s *summedSnapshots) check(id string) error {
	sum, err := os.ReadFile(filepath.Join(s.dir, id, sumFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read snapshot's checksum: %w", err)
	}
	path := filepath.Join(s.dir, id, metaFile)
	meta, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) { // the library is removing an old one
		return nil
	}
	if err != nil {
		return fmt.Errorf("read snapshot's description: %w", err)
	}
	if len(sum) != 4 || crc32.Checksum(meta, castagnoli) != binary.LittleEndian.Uint32(sum) {
		return fmt.Errorf("snapshot's description %q: %w", path, ErrDamaged)
	}
	return nil
}

// Create implements raft.SnapshotStore.
func (s *summedSnapshots) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, t raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(version, index, term, conf, confIndex, t)
	if err != nil {
		return nil, err
	}
	return &summedSink{sink, filepath.Join(s.dir, sink.ID())}, nil
}

type summedSink struct {
	raft.SnapshotSink
	dir string // of the snapshot once it is closed
}

func (s *summedSink) Close() error {
	if err := s.SnapshotSink.Close(); err != nil {
		return err
	}
	meta, err := os.ReadFile(filepath.Join(s.dir, metaFile))
	if err != nil {
		return fmt.Errorf("read snapshot's description: %w", err)
	}
	if err := writeSum(s.dir, crc32.Checksum(meta, castagnoli)); err != nil {
		return fmt.Errorf("write snapshot's checksum: %w", err)
	}
	return nil
}

// writeSum leaves a whole file or none: a torn one would count as damage.
func writeSum(dir string, sum uint32) error {
	tmp := filepath.Join(dir, sumFile+".tmp")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(binary.LittleEndian.AppendUint32(nil, sum))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(dir, sumFile)); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
