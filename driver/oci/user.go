package oci

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// userDefault is who a task runs as that names nobody else.
const userDefault = "nobody"

// lookupUser finds a user by name or uid[:gid] in the host's /etc/passwd, which
// is the task's too.
func (h Host) lookupUser(name string) (specs.User, error) {
	if name == "" {
		name = userDefault
	}
	u, group, hasGroup := strings.Cut(name, ":")
	uid, err := strconv.ParseUint(u, 10, 32)
	numeric := err == nil
	if hasGroup && !numeric {
		return specs.User{}, fmt.Errorf("user: must be a name or uid[:gid] (got %q)", name)
	}
	entry, err := h.passwd(u, numeric)
	switch {
	case err == nil:
	case numeric && errors.Is(err, errNoUser):
		entry = passwdEntry{uid: uint32(uid), gid: uint32(uid)}
	default:
		return specs.User{}, fmt.Errorf("user: look up %q: %w", name, err)
	}
	if !hasGroup {
		return specs.User{UID: entry.uid, GID: entry.gid, AdditionalGids: h.groups(entry.name, entry.gid)}, nil
	}
	gid, err := strconv.ParseUint(group, 10, 32)
	if err != nil {
		return specs.User{}, fmt.Errorf("user: must be a name or uid[:gid] (got %q)", name)
	}
	return specs.User{UID: entry.uid, GID: uint32(gid)}, nil
}

type passwdEntry struct {
	name     string
	uid, gid uint32
}

var errNoUser = errors.New("no such user in /etc/passwd")

// passwd finds a user by name, or by uid where numeric is set.
func (h Host) passwd(key string, numeric bool) (passwdEntry, error) {
	var found *passwdEntry
	err := h.scan("passwd", func(f []string) bool {
		if len(f) < 4 || (f[0] != key && !numeric) || (numeric && f[2] != key) {
			return true
		}
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 == nil && err2 == nil {
			found = &passwdEntry{f[0], uint32(uid), uint32(gid)}
		}
		return found == nil
	})
	if err != nil {
		return passwdEntry{}, err
	}
	if found == nil {
		return passwdEntry{}, errNoUser
	}
	return *found, nil
}

// groups are the groups that name the user, besides its own.
func (h Host) groups(user string, own uint32) []uint32 {
	var out []uint32
	if user == "" {
		return nil
	}
	_ = h.scan("group", func(f []string) bool { // no file: no further groups
		if len(f) >= 4 && slices.Contains(strings.Split(f[3], ","), user) {
			if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil && uint32(gid) != own {
				out = append(out, uint32(gid))
			}
		}
		return true
	})
	return out
}

// scan calls fn with the fields of each line of a file in /etc until it returns
// false.
func (h Host) scan(file string, fn func([]string) bool) error {
	f, err := openIn(h.Root, "etc/"+file)
	if err != nil {
		return err
	}
	defer f.Close()
	sc := bufio.NewScanner(io.LimitReader(f, userFileBytesMax))
	for sc.Scan() {
		if !fn(strings.Split(sc.Text(), ":")) {
			return nil
		}
	}
	return sc.Err()
}

// userFileBytesMax bounds what is read of a file of users.
const userFileBytesMax = 4 << 20

// openIn opens a file in a root whose maker isn't trusted: no link in it leads
// out, and nothing else than a regular file is opened.
func openIn(root, name string) (*os.File, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(dir)
	path := filepath.Join(root, name)
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%q is not a regular file", path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// lookupImageUser finds "user[:group]", each a name or an id, in the files of an
// image's root; "" is root. An id needs no entry there.
func lookupImageUser(root, text string) (specs.User, error) {
	h := Host{Root: root}
	if text == "" {
		text = "0"
	}
	name, group, hasGroup := strings.Cut(text, ":")
	uid, err := strconv.ParseUint(name, 10, 32)
	numeric := err == nil
	entry, err := h.passwd(name, numeric)
	switch {
	case err == nil:
	case numeric:
		// Without an entry, and without a file: root's group, as Docker has it.
		entry = passwdEntry{uid: uint32(uid)}
	case errors.Is(err, errNoUser), errors.Is(err, os.ErrNotExist):
		return specs.User{}, fmt.Errorf("user: the image has no user %q in its /etc/passwd", name)
	default:
		return specs.User{}, fmt.Errorf("user: look up %q in the image: %w", name, err)
	}
	u := specs.User{UID: entry.uid, GID: entry.gid}
	if !hasGroup {
		u.AdditionalGids = h.groups(entry.name, entry.gid)
		return u, nil
	}
	if gid, err := strconv.ParseUint(group, 10, 32); err == nil {
		u.GID = uint32(gid)
		return u, nil
	}
	found := false
	err = h.scan("group", func(f []string) bool {
		if len(f) < 3 || f[0] != group {
			return true
		}
		gid, err := strconv.ParseUint(f[2], 10, 32)
		u.GID, found = uint32(gid), err == nil
		return !found
	})
	if !found {
		return specs.User{}, errors.Join(fmt.Errorf("user: the image has no group %q in its /etc/group", group), err)
	}
	return u, nil
}
