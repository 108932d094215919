package image

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// A tree is a directory that entries of a layer are made in. Paths are resolved
// by the kernel inside of it, as if it were the root: neither "..", nor a
// symbolic link that an earlier entry made, leads out.
type tree struct {
	fd int

	// The last parent directory, since entries come sorted by directory.
	parent   string
	parentFD int
	// implied are directories that no entry made: an entry below them did.
	implied map[string]bool
}

func openTree(dir string) (*tree, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", dir, err)
	}
	return &tree{fd: fd, parentFD: -1, implied: map[string]bool{".": true}}, nil
}

func (t *tree) close() {
	t.forgetParent()
	_ = unix.Close(t.fd)
}

func (t *tree) forgetParent() {
	if t.parentFD >= 0 {
		_ = unix.Close(t.parentFD)
	}
	t.parent, t.parentFD = "", -1
}

// cleanName is an entry's path relative to the tree, "." for the tree itself. A
// name with ".." in it is refused: no honest builder writes one.
func cleanName(name string) (string, error) {
	if strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("entry %q: the name holds a NUL byte", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("entry %q: leads out of the image", name)
		}
	}
	clean := path.Clean("/" + name)[1:]
	if clean == "" {
		return ".", nil
	}
	return clean, nil
}

// resolve opens a path in the tree. Symbolic links are followed inside it.
func (t *tree) resolve(name string, flags uint64) (int, error) {
	return unix.Openat2(t.fd, name, &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
}

// in returns the open parent directory of an entry and its base name. Parents
// that are missing are made. The descriptor is the tree's.
func (t *tree) in(name string) (fd int, base string, err error) {
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	if dir == "" {
		return t.fd, base, nil
	}
	if t.parentFD >= 0 && t.parent == dir {
		return t.parentFD, base, nil
	}
	fd, err = t.resolve(dir, unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) {
		if err = t.imply(dir); err == nil {
			fd, err = t.resolve(dir, unix.O_PATH|unix.O_DIRECTORY)
		}
	}
	if err != nil {
		return -1, "", fmt.Errorf("entry %q: parent directory: %w", name, err)
	}
	t.forgetParent()
	t.parent, t.parentFD = dir, fd
	return fd, base, nil
}

// imply makes a missing directory and its missing parents.
func (t *tree) imply(dir string) error {
	parent, base := path.Split(dir)
	parent = strings.TrimSuffix(parent, "/")
	if parent == "" {
		parent = "."
	}
	fd, err := t.resolve(parent, unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) && parent != "." {
		if err = t.imply(parent); err != nil {
			return err
		}
		fd, err = t.resolve(parent, unix.O_PATH|unix.O_DIRECTORY)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Mkdirat(fd, base, 0o755); err != nil {
		return err
	}
	if err := unix.Fchmodat(fd, base, 0o755, 0); err != nil { // past the umask
		return err
	}
	t.implied[dir] = true
	return nil
}

// statAt looks at what lies at an entry's place: nil where there is nothing.
func statAt(fd int, base string) (*unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &st, nil
}

// clear removes what lies at an entry's place, unless it is a directory that
// the entry is, too.
func (t *tree) clear(fd int, base string, isDir bool) (kept bool, err error) {
	st, err := statAt(fd, base)
	if err != nil || st == nil {
		return false, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return false, unix.Unlinkat(fd, base, 0)
	}
	if isDir {
		return true, nil
	}
	// The kept parent, should it lie below, is looked up again next time.
	t.parent = "\x00"
	return false, removeAt(fd, base)
}

// removeAt removes a directory with all that is in it, following no link.
func removeAt(dirFD int, base string) error {
	err := unix.Unlinkat(dirFD, base, unix.AT_REMOVEDIR)
	if err == nil || !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return err
	}
	fd, err := unix.Openat(dirFD, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	names, err := readNames(fd)
	if err == nil {
		for _, n := range names {
			err = unix.Unlinkat(fd, n, 0)
			if errors.Is(err, unix.EISDIR) {
				err = removeAt(fd, n)
			}
			if err != nil {
				break
			}
		}
	}
	_ = unix.Close(fd)
	if err != nil {
		return err
	}
	return unix.Unlinkat(dirFD, base, unix.AT_REMOVEDIR)
}

func readNames(fd int) ([]string, error) {
	var out []string
	buf := make([]byte, 16<<10)
	for {
		n, err := unix.Getdents(fd, buf)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return out, nil
		}
		_, _, out = unix.ParseDirent(buf[:n], -1, out)
	}
}
