package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

// An index file is made of pages that carry a checksum each, so that a lookup
// verifies just what it reads. A page is pageBody bytes and their CRC-32C,
// which covers the page's number too.
const (
	pageSize = 4096
	pageBody = pageSize - 4
)

func pageSum(number uint32, body []byte) uint32 {
	var n [4]byte
	binary.LittleEndian.PutUint32(n[:], number)
	return crc32.Update(crc32.Checksum(n[:], castagnoli), castagnoli, body)
}

// pageWriter cuts what is written to it into pages. Its first error stands, and
// finish returns it.
type pageWriter struct {
	w      io.Writer
	buf    []byte // whole pages and the one that grows
	start  int    // of the one that grows
	number uint32 // its
	err    error
}

// pagesPerWrite is how many pages go to the file at once.
const pagesPerWrite = 16

func newPageWriter(w io.Writer) *pageWriter {
	return &pageWriter{w: w, buf: make([]byte, 0, pagesPerWrite*pageSize)}
}

func (p *pageWriter) write(b []byte) {
	for len(b) > 0 {
		k := min(len(b), pageBody-(len(p.buf)-p.start))
		p.buf, b = append(p.buf, b[:k]...), b[k:]
		if len(p.buf)-p.start == pageBody {
			p.seal()
		}
	}
}

// seal ends a page.
func (p *pageWriter) seal() {
	p.buf = binary.LittleEndian.AppendUint32(p.buf, pageSum(p.number, p.buf[p.start:]))
	p.number++
	if p.start = len(p.buf); p.start == cap(p.buf) {
		p.flush()
	}
}

func (p *pageWriter) flush() {
	if p.err == nil {
		_, p.err = p.w.Write(p.buf)
	}
	p.buf, p.start = p.buf[:0], 0
}

// finish fills the last page up with zeros and writes it.
func (p *pageWriter) finish() error {
	if n := len(p.buf) - p.start; n > 0 {
		p.buf = append(p.buf, make([]byte, pageBody-n)...)
		p.seal()
	}
	if len(p.buf) > 0 {
		p.flush()
	}
	return p.err
}

// indexError says that an index file cannot be used as it is. The index is
// then made again from the segment.
type indexError struct {
	path   string
	reason string
}

func (e *indexError) Error() string {
	return fmt.Sprintf("journal index %q: %s", e.path, e.reason)
}

// pagedFile reads the content of a file of pages. It holds no descriptor: a
// journal may have thousands of them.
type pagedFile struct {
	fs   FS
	path string
}

// read returns n bytes of content from off on.
func (p *pagedFile) read(off int64, n int) ([]byte, error) {
	f, err := p.fs.Open(p.path)
	if err != nil {
		return nil, &indexError{p.path, err.Error()}
	}
	defer f.Close()
	out := make([]byte, 0, n)
	var page [pageSize]byte
	for len(out) < n {
		number, within := off/pageBody, int(off%pageBody)
		if _, err := f.ReadAt(page[:], number*pageSize); err != nil {
			return nil, &indexError{p.path, fmt.Sprintf("page %d: %v", number, err)}
		}
		if pageSum(uint32(number), page[:pageBody]) != binary.LittleEndian.Uint32(page[pageBody:]) {
			return nil, &indexError{p.path, fmt.Sprintf("page %d has a wrong checksum", number)}
		}
		k := min(n-len(out), pageBody-within)
		out = append(out, page[within:within+k]...)
		off += int64(k)
	}
	return out, nil
}
