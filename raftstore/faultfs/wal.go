package faultfs

import (
	"path/filepath"
	"slices"
	"sync"

	"github.com/hashicorp/raft-wal/types"
)

// VFS is the disk as raft-wal sees it, with the habits of raft-wal's own: a
// new file has its whole size at once, and its first sync syncs its directory.
func (d *Disk) VFS() types.VFS { return vfs{d} }

type vfs struct{ d *Disk }

func (v vfs) ListDir(dir string) ([]string, error) { return v.d.List(dir) }

func (v vfs) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := v.d.Create(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	v.d.mu.Lock()
	defer v.d.mu.Unlock()
	if room := v.d.Capacity - v.d.used; v.d.Capacity > 0 && int64(size) > room {
		return nil, ErrFull
	}
	v.d.used += int64(size)
	f.n.data = make([]byte, size)
	f.n.pending = append(f.n.pending, write{size: int64(size)})
	return &walFile{File: f, fresh: true}, nil
}

func (v vfs) Delete(dir, name string) error {
	if err := v.d.Remove(filepath.Join(dir, name)); err != nil {
		return err
	}
	return v.d.SyncDir(dir)
}

func (v vfs) OpenReader(dir, name string) (types.ReadableFile, error) {
	return v.d.Open(filepath.Join(dir, name))
}

func (v vfs) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := v.d.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	return &walFile{File: f}, nil
}

type walFile struct {
	*File
	fresh bool
}

func (f *walFile) Sync() error {
	if err := f.File.Sync(); err != nil {
		return err
	}
	if !f.fresh {
		return nil
	}
	f.fresh = false
	return f.d.SyncDir(filepath.Dir(f.path))
}

// Meta is raft-wal's small store of segments, Raft term and vote. Each change
// is whole and on the disk when it returns, or fails and never was: the
// promise of the database that it stands for.
type Meta struct {
	d *Disk

	mu     sync.Mutex
	state  types.PersistentState
	stable map[string][]byte
}

// NewMeta returns an empty store whose operations fail as d's do.
func NewMeta(d *Disk) *Meta { return &Meta{d: d, stable: map[string][]byte{}} }

// On returns the store as it is, on the disk after a restart.
func (m *Meta) On(d *Disk) *Meta {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := NewMeta(d)
	next.state = clonePersistent(m.state)
	for k, v := range m.stable {
		next.stable[k] = slices.Clone(v)
	}
	return next
}

func clonePersistent(s types.PersistentState) types.PersistentState {
	s.Segments = slices.Clone(s.Segments)
	return s
}

// Load implements types.MetaStore.
func (m *Meta) Load(string) (types.PersistentState, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return clonePersistent(m.state), nil
}

func (m *Meta) change(what string, change func()) error {
	m.d.mu.Lock()
	err := m.d.begin("sync", "meta/"+what)
	m.d.mu.Unlock()
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
	return nil
}

// CommitState implements types.MetaStore.
func (m *Meta) CommitState(s types.PersistentState) error {
	return m.change("segments", func() { m.state = clonePersistent(s) })
}

// GetStable implements types.MetaStore.
func (m *Meta) GetStable(key []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.stable[string(key)]), nil
}

// SetStable implements types.MetaStore.
func (m *Meta) SetStable(key, value []byte) error {
	return m.change(string(key), func() { m.stable[string(key)] = slices.Clone(value) })
}

// FlipStable flips a bit of a stored value.
func (m *Meta) FlipStable(key string, bit int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stable[key][bit/8] ^= 1 << (bit % 8)
}

// Close implements io.Closer.
func (m *Meta) Close() error { return nil }
