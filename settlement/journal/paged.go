package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
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

// appendPages cuts content into pages; the last one is filled up with zeros.
func appendPages(dst, content []byte) []byte {
	for n := uint32(0); len(content) > 0; n++ {
		start := len(dst)
		k := min(len(content), pageBody)
		dst = append(dst, content[:k]...)
		dst = append(dst, make([]byte, pageBody-k)...)
		dst = binary.LittleEndian.AppendUint32(dst, pageSum(n, dst[start:]))
		content = content[k:]
	}
	return dst
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
