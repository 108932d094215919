package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/hashicorp/raft"
)

// The log store checks its checksums only when it recovers its newest segment,
// so a bit that flips later, or in an older one, would be served as it is. So
// every entry and every stable value carries a checksum of its own, over its
// place too: an index that points to another entry is damage as well.

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const sealSize = 4

// ErrDamaged is returned for a log entry or a stable value that is not what
// was written.
var ErrDamaged = errors.New("the disk returned something else than what was written")

// sealEntry returns the entry with its checksum behind its extensions. The
// entry given is not changed: the library may be using it.
func sealEntry(l *raft.Log) *raft.Log {
	c := *l
	c.Extensions = make([]byte, 0, len(l.Extensions)+sealSize)
	c.Extensions = append(c.Extensions, l.Extensions...)
	c.Extensions = binary.LittleEndian.AppendUint32(c.Extensions, entryChecksum(l, l.Extensions))
	return &c
}

func unsealEntry(index uint64, l *raft.Log) error {
	n := len(l.Extensions) - sealSize
	if l.Index != index || n < 0 || entryChecksum(l, l.Extensions[:n]) != binary.LittleEndian.Uint32(l.Extensions[n:]) {
		return fmt.Errorf("log entry %d: %w", index, ErrDamaged)
	}
	if l.Extensions = l.Extensions[:n]; n == 0 {
		l.Extensions = nil
	}
	return nil
}

func entryChecksum(l *raft.Log, extensions []byte) uint32 {
	var head [25]byte
	binary.LittleEndian.PutUint64(head[0:], l.Index)
	binary.LittleEndian.PutUint64(head[8:], l.Term)
	binary.LittleEndian.PutUint64(head[16:], uint64(len(l.Data)))
	head[24] = byte(l.Type)
	crc := crc32.Checksum(head[:], castagnoli)
	crc = crc32.Update(crc, castagnoli, l.Data)
	return crc32.Update(crc, castagnoli, extensions)
}

func sealValue(key, val []byte) []byte {
	out := append(make([]byte, 0, len(val)+sealSize), val...)
	return binary.LittleEndian.AppendUint32(out, valueChecksum(key, val))
}

func unsealValue(key, val []byte) ([]byte, error) {
	n := len(val) - sealSize
	if n < 0 || valueChecksum(key, val[:n]) != binary.LittleEndian.Uint32(val[n:]) {
		return nil, fmt.Errorf("stable key %q: %w", key, ErrDamaged)
	}
	return val[:n:n], nil
}

func valueChecksum(key, val []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, val)
}

// MarkFile is what the log's mark is kept in.
type MarkFile interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Close() error
}

const markSize = 12

// mark remembers how far the log had got on the disk. The log store takes
// whatever it can't read at the log's end for a write that a crash tore and
// forgets it; where that was an entry that had been acknowledged, the cluster
// could elect a leader without it. The mark is written behind every write but
// not synced, which costs next to nothing: it may lag after a loss of power,
// and is exact after everything else.
type mark struct{ f MarkFile }

func openMark(path string) (mark, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return mark{}, fmt.Errorf("open the log's mark: %w", err)
	}
	return mark{f}, nil
}

// check compares the log with the mark.
func (m mark) check(s LogStore) error {
	last, err := s.LastIndex()
	if err != nil {
		return fmt.Errorf("read the log's last index: %w", err)
	}
	var b [markSize]byte
	if n, err := m.f.ReadAt(b[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the log's mark: %w", err)
	} else if n < markSize || crc32.Checksum(b[:8], castagnoli) != binary.LittleEndian.Uint32(b[8:]) {
		return nil // never written, or torn: it is no more than a mark
	}
	if had := binary.LittleEndian.Uint64(b[:]); last < had {
		return fmt.Errorf("the log ends at entry %d, but had entry %d on disk: %w; remove this server from the cluster and add it anew with an empty directory",
			last, had, ErrDamaged)
	}
	return nil
}

func (m mark) set(index uint64) error {
	b := binary.LittleEndian.AppendUint64(nil, index)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if _, err := m.f.WriteAt(b, 0); err != nil {
		return fmt.Errorf("write the log's mark: %w", err)
	}
	return nil
}

// lower sets the mark before entries min to max are deleted from s.
func (m mark) lower(s LogStore, min, max uint64) error {
	first, err := s.FirstIndex()
	if err != nil {
		return err
	}
	last, err := s.LastIndex()
	if err != nil {
		return err
	}
	switch {
	case max < last:
		return nil // the oldest go
	case min <= first:
		min = 1 // all go
	}
	if err := m.set(min - 1); err != nil {
		return err
	}
	return m.f.Sync()
}
