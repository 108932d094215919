package image

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// IDs is the range of the host's user and group ids that a task's ids 0 to
// IDsPerTask-1 are mapped to. The zero value maps nothing: ids are the host's.
type IDs struct {
	First uint32 `json:"first"`
}

// IDsPerTask is how many ids a task has.
const IDsPerTask = 1 << 16

// The ids that tasks get lie in the range that systemd leaves to containers.
const (
	idsFirst  = 1 << 20
	idsRanges = 4096
)

// ProbeIDs is the first id of a range that no task gets.
const ProbeIDs = idsFirst + idsRanges*IDsPerTask

// takeIDs takes a range that no task on this machine has, whichever cache its
// root is of: dir is shared by all. It is freed by freeIDs.
func takeIDs(dir, owner string) (IDs, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return IDs{}, fmt.Errorf("take ids: %w", err)
	}
	lock, err := os.Open(dir)
	if err != nil {
		return IDs{}, fmt.Errorf("take ids: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return IDs{}, fmt.Errorf("take ids: %w", err)
	}
	for i := range idsRanges {
		path := filepath.Join(dir, strconv.Itoa(i))
		if to, err := os.Readlink(path); err == nil {
			if _, err := os.Lstat(to); !errors.Is(err, os.ErrNotExist) {
				continue
			}
			// Its owner is gone without having freed it.
			if err := os.Remove(path); err != nil {
				return IDs{}, fmt.Errorf("take ids: %w", err)
			}
		}
		if err := os.Symlink(owner, path); err != nil {
			return IDs{}, fmt.Errorf("take ids: %w", err)
		}
		return IDs{First: idsFirst + uint32(i)*IDsPerTask}, nil
	}
	return IDs{}, fmt.Errorf("take ids: all %d ranges are in use", idsRanges)
}

func freeIDs(dir, owner string, ids IDs) {
	if ids.First < idsFirst {
		return
	}
	path := filepath.Join(dir, strconv.Itoa(int(ids.First-idsFirst)/IDsPerTask))
	if to, err := os.Readlink(path); err == nil && to == owner {
		_ = os.Remove(path) // taken for stale where it stays
	}
}

// userNamespace returns a descriptor of a user namespace with the mapping. It
// has no process in it.
func userNamespace(ids IDs) (*os.File, error) {
	m := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(ids.First), Size: IDsPerTask}}
	// A process that is traced stops before its first instruction: it is only
	// there for its namespace.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: m, GidMappings: m, Ptrace: true, Pdeathsig: syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("make user namespace: %w", err)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // killed, as it should be
	if err != nil {
		return nil, fmt.Errorf("make user namespace: %w", err)
	}
	return f, nil
}

// bindMapped mounts a copy of the directory or file source at target, whose ids
// are seen through the user namespace. ns nil: as they are. attrs are further
// MOUNT_ATTR_ flags.
func bindMapped(source, target string, ns *os.File, attrs uint64) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("clone mount of %q: %w", source, err)
	}
	defer unix.Close(fd)
	attr := &unix.MountAttr{Attr_set: attrs, Propagation: unix.MS_PRIVATE}
	if ns != nil {
		attr.Attr_set |= unix.MOUNT_ATTR_IDMAP
		attr.Userns_fd = uint64(ns.Fd())
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, attr); err != nil {
		return fmt.Errorf("map the ids of %q: %w", source, err)
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %q at %q: %w", source, target, err)
	}
	return nil
}

// MakeRunDir makes the directory for roots, and its parent, so that every user
// may pass through them.
func MakeRunDir(dir string) error { return passable(filepath.Dir(dir), dir) }

// BindSys mounts the host's sysfs, alone and read-only, at a directory.
func BindSys(at string) error {
	return bindMapped("/sys", at, nil, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC|unix.MOUNT_ATTR_RDONLY)
}

// CanMapIDs says whether the file system of a directory can be seen through a
// user namespace on this kernel: nil, or why not.
func CanMapIDs(dir string) error {
	ns, err := userNamespace(IDs{First: idsFirst})
	if err != nil {
		return err
	}
	defer ns.Close()
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("clone mount of %q: %w", dir, err)
	}
	defer unix.Close(fd)
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{
		Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}); err != nil {
		return fmt.Errorf("map the ids of %q: %w", dir, err)
	}
	return nil
}
