package backup

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// Limits on what a file may claim.
const (
	smallBytesMax = 64 << 20 // of meta.json and SHA256SUMS
	blockBytesMax = 1 << 30
)

// ErrDamaged is returned for a file that is not what was written.
var ErrDamaged = errors.New("the backup is damaged")

// Handler takes what is in a backup, in this order; nil functions take nothing.
type Handler struct {
	Meta  func(*Meta) error
	State func(io.Reader) error // the reader ends with the state
	Block func(encoded []byte) error
}

// Inspect reads what a backup says of itself and checks nothing else.
func Inspect(r io.Reader) (*Meta, error) {
	gz, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("read backup: %w", err)
	}
	t := tar.NewReader(gz)
	h, err := t.Next()
	if err != nil {
		return nil, fmt.Errorf("read backup: %w", err)
	}
	return readMeta(h, t)
}

func readMeta(h *tar.Header, r io.Reader) (*Meta, error) {
	if h.Name != metaName || h.Size > smallBytesMax {
		return nil, fmt.Errorf("read backup: it begins with %q, want %q: %w", h.Name, metaName, ErrDamaged)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read backup: %w", err)
	}
	m := new(Meta)
	if err := json.Unmarshal(text, m); err != nil {
		return nil, fmt.Errorf("read backup: %s: %w", metaName, err)
	}
	if m.Format != formatVersion {
		return nil, fmt.Errorf("read backup: its format is %d, this program knows %d: upgrade it", m.Format, formatVersion)
	}
	return m, nil
}

// Verify reads a whole backup and checks all that can be: see the package
// comment.
func Verify(r io.Reader) (*Meta, error) {
	var meta *Meta
	var state ledger.Digest
	var last ledger.Digest
	var block uint64
	got, err := Read(r, Handler{
		Meta: func(m *Meta) error { meta = m; return nil },
		State: func(r io.Reader) error {
			l, extra, err := wire.ReadSnapshot(r)
			if err != nil {
				return err
			}
			if len(extra) != 8+len(state) {
				return fmt.Errorf("the state's last part has %d bytes, want %d: %w", len(extra), 8+len(state), ErrDamaged)
			}
			if b := binary.LittleEndian.Uint64(extra); b != meta.Block {
				return fmt.Errorf("the state is of block %d, the backup of %d: %w", b, meta.Block, ErrDamaged)
			}
			copy(state[:], extra[8:])
			if err := l.Verify(); err != nil {
				return fmt.Errorf("the state's money does not add up: %w", err)
			}
			return nil
		},
		Block: func(encoded []byte) error {
			b, err := wire.DecodeBlock(encoded)
			if err != nil {
				return fmt.Errorf("block %d: %w", block+1, err)
			}
			want, err := wire.BlockDigest(last, encoded)
			if err != nil {
				return fmt.Errorf("block %d: %w", block+1, err)
			}
			if b.Seq != block+1 || b.Digest != want {
				return fmt.Errorf("block %d does not follow from block %d: %w", b.Seq, block, ErrDamaged)
			}
			block, last = b.Seq, b.Digest
			return nil
		},
	})
	switch {
	case err != nil:
		return nil, err
	case block != got.Block:
		return nil, fmt.Errorf("the backup's journal ends at block %d, it should at %d: %w", block, got.Block, ErrDamaged)
	case last != state || fmt.Sprintf("%x", last) != got.Digest:
		return nil, fmt.Errorf("the backup's journal ends with digest %x, its state with %x, and it names %s: %w", last, state, got.Digest, ErrDamaged)
	}
	return got, nil
}

// Read reads a whole backup and checks the sums, at its end: only then is what
// the handler got to be trusted.
func Read(r io.Reader, h Handler) (*Meta, error) {
	gz, err := gzip.NewReader(bufio.NewReaderSize(r, 1<<16))
	if err != nil {
		return nil, fmt.Errorf("read backup: %w", err)
	}
	x := &reader{tar: tar.NewReader(gz), h: h}
	for !x.done {
		if err := x.next(); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("read backup: %w", err)
		}
	}
	if _, err := x.tar.Next(); !errors.Is(err, io.EOF) {
		return nil, errors.Join(fmt.Errorf("read backup: something follows %s: %w", sumsName, ErrDamaged), err)
	}
	if _, err := io.Copy(io.Discard, gz); err != nil { // to gzip's own checksum
		return nil, fmt.Errorf("read backup: %w", err)
	}
	return x.meta, nil
}

type reader struct {
	tar   *tar.Reader
	h     Handler
	meta  *Meta
	state bool
	sums  bytes.Buffer
	done  bool
}

// next reads one file of the archive.
func (x *reader) next() error {
	head, err := x.tar.Next()
	if err != nil {
		return err
	}
	if head.Name == sumsName {
		return x.check(head)
	}
	sum := sha256.New()
	body := io.TeeReader(x.tar, sum)
	switch {
	case x.meta == nil:
		if x.meta, err = readMeta(head, body); err == nil && x.h.Meta != nil {
			err = x.h.Meta(x.meta)
		}
	case head.Name == stateName && !x.state:
		x.state = true
		if x.h.State != nil {
			err = x.h.State(body)
		}
	case x.state && strings.HasPrefix(head.Name, partPrefix):
		err = x.blocks(body)
	default:
		err = fmt.Errorf("unexpected %q: %w", head.Name, ErrDamaged)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", head.Name, err)
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return fmt.Errorf("%s: %w", head.Name, err)
	}
	fmt.Fprintf(&x.sums, "%x  %s\n", sum.Sum(nil), head.Name)
	return nil
}

func (x *reader) blocks(r io.Reader) error {
	br := bufio.NewReaderSize(r, 1<<16)
	var buf []byte
	for {
		var size [4]byte
		if _, err := io.ReadFull(br, size[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		n := binary.LittleEndian.Uint32(size[:])
		if n > blockBytesMax {
			return fmt.Errorf("a block of %d bytes: %w", n, ErrDamaged)
		}
		// The claim is not trusted with an allocation before the bytes arrive.
		var b bytes.Buffer
		if cap(buf) >= int(n) {
			buf = buf[:n]
			if _, err := io.ReadFull(br, buf); err != nil {
				return err
			}
		} else {
			if _, err := io.CopyN(&b, br, int64(n)); err != nil {
				return err
			}
			buf = b.Bytes()
		}
		if x.h.Block != nil {
			if err := x.h.Block(buf); err != nil {
				return err
			}
		}
	}
}

func (x *reader) check(head *tar.Header) error {
	if x.meta == nil || !x.state || head.Size > smallBytesMax {
		return fmt.Errorf("%s comes too early or is too large: %w", sumsName, ErrDamaged)
	}
	text, err := io.ReadAll(x.tar)
	if err != nil {
		return err
	}
	if !bytes.Equal(text, x.sums.Bytes()) {
		return fmt.Errorf("the sums in %s are not those of the files: %w", sumsName, ErrDamaged)
	}
	x.done = true
	return nil
}
