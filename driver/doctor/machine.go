package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/joulecloud/joule/driver/procevent"
)

func release() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

func adjtimex() (Clock, error) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return Clock{}, fmt.Errorf("adjtimex: %w", err)
	}
	return Clock{
		Synced:   state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0,
		MaxError: time.Duration(t.Maxerror) * time.Microsecond,
	}, nil
}

func statfs(path string) (Space, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return Space{}, fmt.Errorf("statfs %q: %w", path, err)
	}
	return Space{
		Free: s.Bavail * uint64(s.Bsize), Total: s.Blocks * uint64(s.Bsize),
		FreeFiles: s.Ffree, Files: s.Files,
		InMemory: s.Type == unix.TMPFS_MAGIC || s.Type == unix.RAMFS_MAGIC,
		ReadOnly: s.Flags&unix.ST_RDONLY != 0,
	}, nil
}

// syncFile measures how long a record's worth takes to get to the disk.
func syncFile(dir string) (took time.Duration, err error) {
	f, err := os.CreateTemp(dir, ".joule-doctor-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	if _, err := f.Write(make([]byte, 4096)); err != nil {
		return 0, err
	}
	start := time.Now()
	if err := f.Sync(); err != nil {
		return 0, err
	}
	return time.Since(start), nil
}

// userNamespace runs a program in a user namespace of its own.
func userNamespace(ctx context.Context) error {
	path, err := exec.LookPath("true")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	return cmd.Run()
}

// stamps asks for the sources of stamps as a shim does.
func stamps() error {
	w, err := procevent.Watch(os.Getpid(), procevent.Options{})
	if err != nil {
		return err
	}
	defer w.Close()
	return w.Missing()
}
