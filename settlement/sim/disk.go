package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/types"

	"github.com/joulecloud/joule/raftstore"
	"github.com/joulecloud/joule/raftstore/faultfs"
	"github.com/joulecloud/joule/settlement/journal"
)

const (
	journalDir = "/journal"
	logDir     = "/log"
	snapDir    = "/snapshots"
	markPath   = "/mark"
)

// JournalFS returns a disk as the journal sees it; the journal is the only thing
// on it, whatever directory it is told.
func JournalFS(d *faultfs.Disk) journal.FS { return journalFS{d} }

// journalFS is a disk as the journal sees it. A server's directory has another
// name at each start, its files on the disk don't.
type journalFS struct{ d *faultfs.Disk }

func at(path string) string { return filepath.Join(journalDir, filepath.Base(path)) }

var _ journal.FS = journalFS{}

func (f journalFS) MkdirAll(string) error                    { return nil }
func (f journalFS) ReadDir(string) ([]string, error)         { return f.d.List(journalDir) }
func (f journalFS) Create(path string) (journal.File, error) { return f.d.Create(at(path)) }
func (f journalFS) Append(path string) (journal.File, error) { return f.d.Open(at(path)) }
func (f journalFS) Open(path string) (journal.Reader, error) { return f.d.Open(at(path)) }
func (f journalFS) Remove(path string) error                 { return f.d.Remove(at(path)) }
func (f journalFS) SyncDir(string) error                     { return f.d.SyncDir(journalDir) }

func (f journalFS) ReadFile(path string) ([]byte, error) {
	file, err := f.d.Open(at(path))
	if err != nil {
		return nil, err
	}
	size, err := file.Size()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(file, 0, size))
}

func (f journalFS) Update(path string) (journal.File, error) {
	if file, err := f.d.Open(at(path)); err == nil {
		return file, nil
	}
	return f.d.Create(at(path))
}

func (f journalFS) Truncate(path string, size int64) error {
	file, err := f.d.Open(at(path))
	if err != nil {
		return err
	}
	if err := file.Truncate(size); err != nil {
		return err
	}
	return file.Sync()
}

func (f journalFS) Lock(path string) (io.Closer, error) {
	l, ok := f.d.Lock(at(path))
	if !ok {
		return nil, journal.ErrLocked
	}
	return l, nil
}

// logVFS is a disk as raft-wal sees it.
type logVFS struct{ types.VFS }

func (v logVFS) ListDir(string) ([]string, error) { return v.VFS.ListDir(logDir) }
func (v logVFS) Create(_, name string, size uint64) (types.WritableFile, error) {
	return v.VFS.Create(logDir, name, size)
}
func (v logVFS) Delete(_, name string) error { return v.VFS.Delete(logDir, name) }
func (v logVFS) OpenReader(_, name string) (types.ReadableFile, error) {
	return v.VFS.OpenReader(logDir, name)
}
func (v logVFS) OpenWriter(_, name string) (types.WritableFile, error) {
	return v.VFS.OpenWriter(logDir, name)
}

func openMark(d *faultfs.Disk) (raftstore.MarkFile, error) {
	if f, err := d.Open(markPath); err == nil {
		return f, nil
	}
	return d.Create(markPath)
}

// snapshots keeps Raft snapshots on a disk: content first, then a file that
// names it with its checksum.
type snapshots struct{ d *faultfs.Disk }

type snapMeta struct {
	raft.SnapshotMeta
	CRC uint32
}

func (s snapshots) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	m := raft.SnapshotMeta{Version: version, Index: index, Term: term, Configuration: conf, ConfigurationIndex: confIndex}
	for n := 0; ; n++ {
		m.ID = fmt.Sprintf("%020d-%020d-%06d", term, index, n)
		f, err := s.d.Create(filepath.Join(snapDir, m.ID+".bin"))
		if err == nil {
			return &sink{s: s, f: f, meta: snapMeta{SnapshotMeta: m}}, nil
		}
		if s.d.Content(filepath.Join(snapDir, m.ID+".bin")) == nil {
			return nil, err
		}
	}
}

type sink struct {
	s    snapshots
	f    *faultfs.File
	meta snapMeta
	done bool
}

func (k *sink) ID() string { return k.meta.ID }

func (k *sink) Write(p []byte) (int, error) {
	n, err := k.f.Write(p)
	k.meta.Size += int64(n)
	k.meta.CRC = crc32.Update(k.meta.CRC, crc32.IEEETable, p[:n])
	return n, err
}

func (k *sink) Close() error {
	if k.done {
		return nil
	}
	k.done = true
	if err := k.f.Sync(); err != nil {
		return err
	}
	if err := k.s.d.SyncDir(snapDir); err != nil { // what is named is there
		return err
	}
	b, err := json.Marshal(k.meta)
	if err != nil {
		return err
	}
	f, err := k.s.d.Create(filepath.Join(snapDir, k.meta.ID+".meta"))
	if err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := k.s.d.SyncDir(snapDir); err != nil {
		return err
	}
	metas, err := k.s.List()
	if err != nil {
		return err
	}
	for _, old := range metas[min(2, len(metas)):] {
		if k.s.d.Remove(filepath.Join(snapDir, old.ID+".meta")) == nil && k.s.d.SyncDir(snapDir) == nil {
			k.s.d.Remove(filepath.Join(snapDir, old.ID+".bin"))
		}
	}
	return nil
}

func (k *sink) Cancel() error {
	k.done = true
	return k.s.d.Remove(filepath.Join(snapDir, k.meta.ID+".bin"))
}

func (s snapshots) List() ([]*raft.SnapshotMeta, error) {
	names, err := s.d.List(snapDir)
	if err != nil {
		return nil, err
	}
	var out []*raft.SnapshotMeta
	for _, name := range names {
		id, ok := strings.CutSuffix(name, ".meta")
		if !ok {
			continue
		}
		if m, err := s.meta(id); err == nil { // else the crash tore it
			out = append(out, &m.SnapshotMeta)
		}
	}
	slices.SortFunc(out, func(a, b *raft.SnapshotMeta) int { return strings.Compare(b.ID, a.ID) })
	return out, nil
}

func (s snapshots) meta(id string) (*snapMeta, error) {
	m := new(snapMeta)
	if err := json.Unmarshal(s.d.Content(filepath.Join(snapDir, id+".meta")), m); err != nil {
		return nil, err
	}
	return m, nil
}

func (s snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	m, err := s.meta(id)
	if err != nil {
		return nil, nil, err
	}
	b := s.d.Content(filepath.Join(snapDir, id+".bin"))
	if crc32.ChecksumIEEE(b) != m.CRC {
		return nil, nil, fmt.Errorf("snapshot %s: wrong checksum", id)
	}
	return &m.SnapshotMeta, io.NopCloser(bytes.NewReader(b)), nil
}
