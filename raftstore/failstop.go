package raftstore

import (
	"fmt"
	"sync"

	"github.com/hashicorp/raft"
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
// goroutine of the library may still read while the store closes.
type failStop struct {
	store LogStore
	f     *failure
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

func (s *failStop) FirstIndex() (uint64, error)            { return s.store.FirstIndex() }
func (s *failStop) LastIndex() (uint64, error)             { return s.store.LastIndex() }
func (s *failStop) GetLog(index uint64, l *raft.Log) error { return s.store.GetLog(index, l) }
func (s *failStop) Get(key []byte) ([]byte, error)         { return s.store.Get(key) }
func (s *failStop) GetUint64(key []byte) (uint64, error)   { return s.store.GetUint64(key) }

func (s *failStop) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

func (s *failStop) StoreLogs(logs []*raft.Log) error {
	return s.write("write log", func() error { return s.store.StoreLogs(logs) })
}

func (s *failStop) DeleteRange(min, max uint64) error {
	return s.write(fmt.Sprintf("delete log entries %d to %d", min, max), func() error { return s.store.DeleteRange(min, max) })
}

func (s *failStop) Set(key, val []byte) error {
	return s.write(fmt.Sprintf("write stable key %q", key), func() error { return s.store.Set(key, val) })
}

func (s *failStop) SetUint64(key []byte, val uint64) error {
	return s.write(fmt.Sprintf("write stable key %q", key), func() error { return s.store.SetUint64(key, val) })
}
