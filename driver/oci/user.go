package oci

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
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
	f, err := os.Open(filepath.Join(h.Root, "etc", file))
	if err != nil {
		return err
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if !fn(strings.Split(sc.Text(), ":")) {
			return nil
		}
	}
	return sc.Err()
}
