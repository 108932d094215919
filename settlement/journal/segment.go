package journal

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/joulecloud/joule/settlement/ledger"
)

const (
	magic       = "joule journal 1\n"
	digestSize  = len(ledger.Digest{})
	headerSize  = len(magic) + 8 + digestSize + 4
	frameHeader = 8
	syncedName  = "synced"
	syncedSize  = 12
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func segmentName(first uint64) string { return fmt.Sprintf("journal-%020d.jl", first) }

// segment is one file of the journal.
type segment struct {
	path   string
	first  uint64 // sequence of its first block
	before uint64 // entries of the segments before it
	part   part   // its index; only an open journal has it
}

// segments lists dir's files by first sequence. Files with other names are not
// the journal's.
func segments(fs FS, dir string) ([]segment, error) {
	names, err := fs.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list journal: %w", err)
	}
	var out []segment
	for _, name := range names {
		digits, ok := strings.CutPrefix(name, "journal-")
		digits, ok2 := strings.CutSuffix(digits, ".jl")
		first, err := strconv.ParseUint(digits, 10, 64)
		if !ok || !ok2 || err != nil || name != segmentName(first) {
			continue
		}
		out = append(out, segment{path: filepath.Join(dir, name), first: first})
	}
	slices.SortFunc(out, func(a, b segment) int {
		if a.first < b.first {
			return -1
		}
		return 1
	})
	return out, nil
}

func appendHeader(dst []byte, first uint64, prev ledger.Digest) []byte {
	start := len(dst)
	dst = append(dst, magic...)
	dst = binary.LittleEndian.AppendUint64(dst, first)
	dst = append(dst, prev[:]...)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

func appendFrame(dst, payload []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(payload)))
	crc := crc32.Update(crc32.Checksum(dst[len(dst)-4:], castagnoli), castagnoli, payload)
	dst = binary.LittleEndian.AppendUint32(dst, crc)
	return append(dst, payload...)
}

// checkFrame compares the frame header's checksum with the payload's.
func checkFrame(header [frameHeader]byte, payload []byte) bool {
	crc := crc32.Update(crc32.Checksum(header[:4], castagnoli), castagnoli, payload)
	return crc == binary.LittleEndian.Uint32(header[4:])
}

// segmentReader reads a segment's frames from the front, up to the size that
// the file had when it was opened.
type segmentReader struct {
	segment
	prev ledger.Digest // of the block before its first
	f    Reader
	r    *bufio.Reader
	off  int64 // of the next frame
	size int64
	buf  []byte
}

// badBytes says that what stands at an offset is no valid header or frame; it
// may be a torn tail or damage.
type badBytes struct {
	off    int64
	reason string
}

func (e *badBytes) Error() string { return e.reason }

// openSegment reads the header. For a bad header it returns the reader, to be
// closed, with a *badBytes.
func openSegment(fs FS, s segment) (*segmentReader, error) {
	f, err := fs.Open(s.path)
	if err != nil {
		return nil, fmt.Errorf("open journal segment: %w", err)
	}
	size, err := f.Size()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("read journal segment: %w", err)
	}
	r := &segmentReader{segment: s, f: f, size: size,
		r: bufio.NewReaderSize(io.NewSectionReader(f, 0, size), int(min(size, 1<<18)))}
	header := make([]byte, headerSize)
	if _, err := io.ReadFull(r.r, header); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return r, &badBytes{0, "the file's header is incomplete"}
		}
		f.Close()
		return nil, fmt.Errorf("read %q: %w", s.path, err)
	}
	body := header[:headerSize-4]
	switch {
	case string(header[:len(magic)]) != magic:
		return r, &badBytes{0, fmt.Sprintf("the file's header begins with %q, want %q", header[:len(magic)], magic)}
	case crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(header[headerSize-4:]):
		return r, &badBytes{0, "the file's header has a wrong checksum"}
	case binary.LittleEndian.Uint64(header[len(magic):]) != s.first:
		return r, &badBytes{0, fmt.Sprintf("the file's header names first block %d, its name %d",
			binary.LittleEndian.Uint64(header[len(magic):]), s.first)}
	}
	r.prev = ledger.Digest(body[len(magic)+8:])
	r.off = int64(headerSize)
	return r, nil
}

func (r *segmentReader) close() { r.f.Close() }

// next returns the next frame's payload, valid until the next call, and its
// offset; io.EOF behind the last, a *badBytes for anything that is no frame.
func (r *segmentReader) next() (payload []byte, off int64, err error) {
	off = r.off
	left := r.size - off
	if left == 0 {
		return nil, off, io.EOF
	}
	var header [frameHeader]byte
	if left < frameHeader {
		return nil, off, &badBytes{off, fmt.Sprintf("a frame's header needs %d bytes, %d are left", frameHeader, left)}
	}
	if _, err := io.ReadFull(r.r, header[:]); err != nil {
		return nil, off, fmt.Errorf("read %q: %w", r.path, err)
	}
	n := int64(binary.LittleEndian.Uint32(header[:]))
	if n > left-frameHeader {
		return nil, off, &badBytes{off, fmt.Sprintf("a frame of %d bytes, %d are left", n, left-frameHeader)}
	}
	if int64(cap(r.buf)) < n {
		r.buf = make([]byte, n)
	}
	r.buf = r.buf[:n]
	if _, err := io.ReadFull(r.r, r.buf); err != nil {
		return nil, off, fmt.Errorf("read %q: %w", r.path, err)
	}
	if !checkFrame(header, r.buf) {
		return nil, off, &badBytes{off, "a frame has a wrong checksum"}
	}
	r.off += frameHeader + n
	return r.buf, off, nil
}

// readSynced returns the last block that is known to be on disk; 0 if that is
// not known.
func readSynced(fs FS, dir string) (uint64, error) {
	b, err := fs.ReadFile(filepath.Join(dir, syncedName))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read journal's sync mark: %w", err)
	}
	if len(b) != syncedSize || crc32.Checksum(b[:8], castagnoli) != binary.LittleEndian.Uint32(b[8:]) {
		return 0, nil // torn: it is no more than a mark
	}
	return binary.LittleEndian.Uint64(b), nil
}

// writeSynced returns when the mark is on disk: with an older one, damage to a
// synced block would pass for a torn tail.
func writeSynced(f File, seq uint64) error {
	b := binary.LittleEndian.AppendUint64(nil, seq)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}
	return f.Sync()
}
