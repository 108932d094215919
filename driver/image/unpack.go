package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// Bounds of a layer.
const (
	layerEntriesMax = 2_000_000
	blockBytes      = 4096    // what a file's end, a directory and a link are taken to cost
	chargeBytes     = 4 << 20 // the cache is asked for room in such steps
	tailBytesMax    = 64 << 20
)

// unpacked is what came of a layer.
type unpacked struct {
	diffID  string   // hex
	bytes   int64    // what it takes on the disk
	entries int      //
	implied []string // directories that no entry of it described
	opaque  bool     // nothing of the layers below is seen
	devices int      // device nodes that were left out
}

// unpack reads a layer, compressed or not, and makes it in the empty directory
// dir in the form that overlayfs takes for a layer. room is asked before the
// disk is used. The caller compares the digest and throws dir away on an error.
func unpack(ctx context.Context, dir string, r io.Reader, room func(int64) error) (*unpacked, error) {
	t, err := openTree(dir)
	if err != nil {
		return nil, err
	}
	defer t.close()
	plain, done, err := decompress(bufio.NewReaderSize(r, 256<<10))
	if err != nil {
		return nil, err
	}
	defer done()
	ahead := readAhead(ctx, plain)
	defer ahead.close()
	sum := sha256.New()
	hashed := io.TeeReader(ahead, sum)
	u := &unpacker{t: t, room: room, buf: make([]byte, 256<<10)}
	if err := u.entries(tar.NewReader(hashed)); err != nil {
		return nil, err
	}
	// What follows the archive's end is part of the digest.
	n, err := io.CopyBuffer(io.Discard, io.LimitReader(hashed, tailBytesMax+1), u.buf)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read layer: %w", err)
	case n > tailBytesMax:
		return nil, fmt.Errorf("layer has more than %d bytes behind its end", tailBytesMax)
	}
	if err := u.finish(); err != nil {
		return nil, err
	}
	u.out.diffID = hex.EncodeToString(sum.Sum(nil))
	return &u.out, nil
}

// decompress tells the compression by its first bytes.
func decompress(r *bufio.Reader) (io.Reader, func(), error) {
	head, err := r.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, fmt.Errorf("read layer: %w", err)
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, fmt.Errorf("read gzipped layer: %w", err)
		}
		return z, func() { _ = z.Close() }, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, nil, fmt.Errorf("read zstd layer: %w", err)
		}
		return z, z.Close, nil
	}
	return r, func() {}, nil
}

type unpacker struct {
	t       *tree
	room    func(int64) error
	owed    int64 // bytes not yet asked for
	buf     []byte
	dirs    []dirTime
	out     unpacked
	current string
}

// dirTime is a directory's time, set last: making its entries changes it.
type dirTime struct {
	name string
	at   time.Time
}

// charge accounts for n bytes of disk.
func (u *unpacker) charge(n int64) error {
	u.out.bytes += n
	if u.owed += n; u.owed < chargeBytes {
		return nil
	}
	n, u.owed = u.owed, 0
	return u.room(n)
}

func (u *unpacker) entries(tr *tar.Reader) error {
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read layer: %w", err)
		}
		if u.out.entries++; u.out.entries > layerEntriesMax {
			return fmt.Errorf("layer has more than %d entries", layerEntriesMax)
		}
		if err := u.entry(h, tr); err != nil {
			return fmt.Errorf("unpack layer: %w", err)
		}
	}
}

func (u *unpacker) entry(h *tar.Header, body io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > idMax || int64(h.Gid) > idMax {
		return fmt.Errorf("entry %q: owner must be from 0 to %d (got %d:%d)", h.Name, int64(idMax), h.Uid, h.Gid)
	}
	if err := u.charge(blockBytes); err != nil {
		return err
	}
	if name == "." {
		if h.Typeflag != tar.TypeDir {
			return fmt.Errorf("entry %q: the root must be a directory", h.Name)
		}
		delete(u.t.implied, name)
		u.dirs = append(u.dirs, dirTime{name, h.ModTime})
		return u.attributes(u.t.fd, h)
	}
	fd, base, err := u.t.in(name)
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		err = u.whiteout(fd, name, base)
	} else {
		err = u.node(fd, name, base, h, body)
	}
	if err != nil {
		return fmt.Errorf("entry %q: %w", h.Name, err)
	}
	return nil
}

// idMax is the largest id that a file can have: the last is "none".
const idMax = 1<<32 - 2

// node makes an entry.
func (u *unpacker) node(fd int, name, base string, h *tar.Header, body io.Reader) error {
	kept, err := u.t.clear(fd, base, h.Typeflag == tar.TypeDir)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if !kept {
			if err := unix.Mkdirat(fd, base, 0o700); err != nil {
				return err
			}
		}
		delete(u.t.implied, name)
		u.dirs = append(u.dirs, dirTime{name, h.ModTime})
		return u.openAttributes(fd, base, h, unix.O_DIRECTORY)
	case tar.TypeReg, tar.TypeGNUSparse:
		return u.file(fd, base, h, body)
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, fd, base); err != nil {
			return err
		}
		if err := unix.Fchownat(fd, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		return setTimes(fd, base, h.ModTime)
	case tar.TypeLink:
		return u.link(fd, base, h)
	case tar.TypeFifo:
		if err := unix.Mknodat(fd, base, unix.S_IFIFO|0o600, 0); err != nil {
			return err
		}
		return u.openAttributes(fd, base, h, unix.O_NONBLOCK)
	case tar.TypeChar, tar.TypeBlock:
		// A task's devices are those that its runtime makes; and a node with the
		// number 0:0 would hide what lies below.
		u.out.devices++
		return nil
	}
	return fmt.Errorf("of unknown type %q", h.Typeflag)
}

func (u *unpacker) file(fd int, base string, h *tar.Header, body io.Reader) error {
	f, err := unix.Openat(fd, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	left := h.Size
	for left > 0 && err == nil {
		b := u.buf[:min(int64(len(u.buf)), left)]
		if _, err = io.ReadFull(body, b); err != nil {
			err = fmt.Errorf("read: %w", err)
			break
		}
		if err = u.charge(int64(len(b))); err == nil {
			err = writeAll(f, b)
		}
		left -= int64(len(b))
	}
	if err == nil {
		err = u.attributes(f, h)
	}
	if err == nil {
		err = setTimes(fd, base, h.ModTime)
	}
	return errors.Join(err, unix.Close(f))
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		b = b[n:]
	}
	return nil
}

// link makes a hard link to an earlier entry of the same layer.
func (u *unpacker) link(fd int, base string, h *tar.Header) error {
	to, err := cleanName(h.Linkname)
	if err != nil {
		return fmt.Errorf("link: %w", err)
	}
	dir, file := path.Split(to)
	from, err := u.t.resolve(path.Clean("./"+dir), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("link to %q: %w", h.Linkname, err)
	}
	defer unix.Close(from)
	if err := unix.Linkat(from, file, fd, base, 0); err != nil {
		return fmt.Errorf("link to %q: %w", h.Linkname, err)
	}
	return nil
}

// openAttributes sets the attributes of what was just made, by a descriptor.
func (u *unpacker) openAttributes(fd int, base string, h *tar.Header, flags int) error {
	f, err := unix.Openat(fd, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return err
	}
	err = u.attributes(f, h)
	if err == nil && h.Typeflag != tar.TypeDir {
		err = setTimes(fd, base, h.ModTime)
	}
	return errors.Join(err, unix.Close(f))
}

// attributes sets owner, mode and extended attributes. The owner comes first: a
// change of owner takes the setuid bit and capabilities away.
func (u *unpacker) attributes(fd int, h *tar.Header) error {
	if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
		return fmt.Errorf("set owner: %w", err)
	}
	if err := unix.Fchmod(fd, uint32(h.Mode&0o7777)); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	for k, v := range h.PAXRecords {
		attr, ok := strings.CutPrefix(k, "SCHILY.xattr.")
		if !ok || !keptXattr(attr) {
			continue
		}
		err := unix.Fsetxattr(fd, attr, []byte(v), 0)
		if errors.Is(err, unix.ENOTSUP) && strings.HasPrefix(attr, "user.") {
			continue // a file system without them, as Docker's stores have it
		}
		if err != nil {
			return fmt.Errorf("set attribute %q: %w", attr, err)
		}
	}
	return nil
}

// keptXattr says which extended attributes a layer may bring. The others belong
// to the host: overlayfs's own marks above all, and security labels.
func keptXattr(attr string) bool {
	return attr == "security.capability" ||
		strings.HasPrefix(attr, "user.") && !strings.HasPrefix(attr, "user.overlay.")
}

func setTimes(fd int, base string, at time.Time) error {
	ts := unix.Timespec{Sec: at.Unix(), Nsec: int64(at.Nanosecond())}
	if err := unix.UtimesNanoAt(fd, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

// The names by which a layer says what of the layers below is gone.
const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
	metaPrefix     = ".wh..wh."
)

// whiteout makes overlayfs's mark of a whiteout entry.
func (u *unpacker) whiteout(fd int, name, base string) error {
	if base == opaqueName {
		dir := path.Dir(name)
		if dir == "." {
			u.out.opaque = true
			return nil
		}
		// The descriptor is an O_PATH one, which has no attributes of its own.
		return unix.Setxattr("/proc/self/fd/"+strconv.Itoa(fd), "trusted.overlay.opaque", []byte("y"), 0)
	}
	if strings.HasPrefix(base, metaPrefix) {
		return nil // another store's own bookkeeping
	}
	hidden := strings.TrimPrefix(base, whiteoutPrefix)
	if hidden == "" || hidden == "." || hidden == ".." {
		return errors.New("a whiteout of nothing")
	}
	// It hides what is below the layer, never what the layer itself has.
	st, err := statAt(fd, hidden)
	if err != nil || st != nil {
		return err
	}
	return unix.Mknodat(fd, hidden, unix.S_IFCHR, 0)
}

// finish sets the directories' times and asks for the rest of the room.
func (u *unpacker) finish() error {
	for _, d := range slices.Backward(u.dirs) {
		if err := u.setDirTime(d); err != nil {
			return fmt.Errorf("entry %q: %w", d.name, err)
		}
	}
	for dir := range u.t.implied {
		u.out.implied = append(u.out.implied, dir)
	}
	slices.Sort(u.out.implied)
	if u.owed > 0 {
		return u.room(u.owed)
	}
	return nil
}

// setDirTime sets a directory's time. It may have been replaced since.
func (u *unpacker) setDirTime(d dirTime) error {
	dir, base := path.Split(d.name)
	if dir == "" {
		return setTimes(u.t.fd, base, d.at)
	}
	fd, err := u.t.resolve(path.Clean(dir), unix.O_PATH|unix.O_DIRECTORY)
	if err == nil {
		err = setTimes(fd, base, d.at)
		_ = unix.Close(fd)
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return err
}
