package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// failure is the first error that stops the store, kept for good.
type failure struct {
	once  sync.Once
	err   error
	done  chan struct{}
	fatal func(error)
}

func newFailure(fatal func(error)) *failure {
	return &failure{done: make(chan struct{}), fatal: fatal}
}

// fail records the first error and tells fatal; later ones are dropped.
func (f *failure) fail(err error) {
	f.once.Do(func() {
		f.err = err
		close(f.done)
		f.fatal(err)
	})
}

// cause is nil as long as nothing failed.
func (f *failure) cause() error {
	select {
	case <-f.done:
		return f.err
	default:
		return nil
	}
}

// failStop passes writes on until the first one that fails, and refuses all
// others from then on. Reads always pass: they can't lose anything, and one
// goroutine of the library may still read while the store closes. But a read
// that finds damage stops the store like a failed write (see seal.go).
type failStop struct {
	store   LogStore
	mark    mark // without a file: none
	covered covered
	f       *failure
}

var (
	_ LogStore               = (*failStop)(nil)
	_ raft.MonotonicLogStore = (*failStop)(nil)
)

func (s *failStop) write(what string, write func() error) error {
	if err := s.f.cause(); err != nil {
		return fmt.Errorf("%w: %w", ErrFailed, err)
	}
	if err := write(); err != nil {
		err = fmt.Errorf("%s: %w", what, err)
		s.f.fail(err)
		return err
	}
	return nil
}

// IsMonotonic implements raft.MonotonicLogStore. The library then drops the
// whole log when a snapshot is installed, which also keeps a follower from
// looping over a conflicting suffix (hashicorp/raft#697).
func (s *failStop) IsMonotonic() bool { return true }

func (s *failStop) FirstIndex() (uint64, error) { return s.store.FirstIndex() }
func (s *failStop) LastIndex() (uint64, error)  { return s.store.LastIndex() }

func (s *failStop) GetLog(index uint64, l *raft.Log) error {
	err := s.store.GetLog(index, l)
	switch {
	case err == nil:
		err = unsealEntry(index, l)
	case errors.Is(err, raft.ErrLogNotFound):
		if last, lerr := s.store.LastIndex(); lerr == nil && s.covered.find(index, last, l) {
			return nil
		}
	case !errors.Is(err, raft.ErrLogNotFound) && !errors.Is(err, wal.ErrClosed):
		err = fmt.Errorf("log entry %d: %w: %w", index, ErrDamaged, err)
	}
	return s.damage(err)
}

// Get passes on the store's own word for a key that it doesn't have.
func (s *failStop) Get(key []byte) ([]byte, error) {
	val, err := s.store.Get(key)
	if err != nil || len(val) == 0 {
		return val, err
	}
	val, err = unsealValue(key, val)
	return val, s.damage(err)
}

func (s *failStop) GetUint64(key []byte) (uint64, error) {
	val, err := s.Get(key)
	if err != nil || len(val) == 0 {
		return 0, err
	}
	if len(val) != 8 {
		return 0, s.damage(fmt.Errorf("stable key %q has %d bytes, want 8: %w", key, len(val), ErrDamaged))
	}
	return binary.LittleEndian.Uint64(val), nil
}

// damage stops the store for what the disk has changed.
func (s *failStop) damage(err error) error {
	if errors.Is(err, ErrDamaged) {
		s.f.fail(err)
	}
	return err
}

func (s *failStop) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

func (s *failStop) StoreLogs(logs []*raft.Log) error {
	sealed := make([]*raft.Log, len(logs))
	for i, l := range logs {
		sealed[i] = sealEntry(l)
	}
	return s.write("write log", func() error {
		if err := s.store.StoreLogs(sealed); err != nil || len(logs) == 0 {
			return err
		}
		s.covered.stored()
		if s.mark.f == nil {
			return nil
		}
		return s.mark.set(logs[len(logs)-1].Index)
	})
}

func (s *failStop) DeleteRange(min, max uint64) error {
	return s.write(fmt.Sprintf("delete log entries %d to %d", min, max), func() error {
		if keep, err := s.covered.keeps(s.store, min, max); err != nil || keep {
			return err
		}
		if s.mark.f != nil {
			if err := s.mark.lower(s.store, min, max); err != nil {
				return err
			}
		}
		return s.store.DeleteRange(min, max)
	})
}

func (s *failStop) Set(key, val []byte) error {
	return s.write(fmt.Sprintf("write stable key %q", key), func() error { return s.store.Set(key, sealValue(key, val)) })
}

func (s *failStop) SetUint64(key []byte, val uint64) error {
	return s.Set(key, binary.LittleEndian.AppendUint64(nil, val))
}
