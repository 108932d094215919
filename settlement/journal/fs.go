package journal

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// FS is the file system under a journal: the machine's, or in tests one that
// forgets, fails and damages. Its errors are those of package os where the
// journal tells them apart (os.ErrNotExist).
type FS interface {
	MkdirAll(dir string) error
	// ReadDir lists the names in dir.
	ReadDir(dir string) ([]string, error)
	// ReadFile reads a small file.
	ReadFile(path string) ([]byte, error)
	// Create makes a file that must not exist, for writing.
	Create(path string) (File, error)
	// Append opens a file for writing at its end.
	Append(path string) (File, error)
	// Update opens a file for WriteAt, and creates it if needed.
	Update(path string) (File, error)
	Open(path string) (Reader, error)
	// Truncate cuts a file, and returns when that is on disk.
	Truncate(path string, size int64) error
	Remove(path string) error
	// SyncDir returns when the names in dir are on disk.
	SyncDir(dir string) error
	// Lock takes a lock file for this process, or fails with ErrLocked.
	Lock(path string) (io.Closer, error)
}

// File is what the journal needs of a file that it writes.
type File interface {
	io.Writer
	io.WriterAt
	Size() (int64, error)
	// Sync returns when everything written is on disk.
	Sync() error
	Close() error
}

// Reader is what the journal needs of a file that it reads.
type Reader interface {
	io.ReaderAt
	Size() (int64, error)
	Close() error
}

// OS is the machine's file system.
var OS FS = osFS{}

type osFS struct{}

func (osFS) MkdirAll(dir string) error { return os.MkdirAll(dir, 0o700) }

func (osFS) ReadDir(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

func (osFS) ReadFile(path string) ([]byte, error) { return os.ReadFile(path) }

func (osFS) Create(path string) (File, error) {
	return openOS(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
}

func (osFS) Append(path string) (File, error) { return openOS(path, os.O_WRONLY|os.O_APPEND) }

func (osFS) Update(path string) (File, error) { return openOS(path, os.O_WRONLY|os.O_CREATE) }

func (osFS) Open(path string) (Reader, error) { return openOS(path, os.O_RDONLY) }

func openOS(path string, flag int) (*osFile, error) {
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return &osFile{f}, nil
}

func (osFS) Truncate(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if err = f.Truncate(size); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (osFS) Remove(path string) error { return os.Remove(path) }

func (osFS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (osFS) Lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, fmt.Errorf("lock %q: %w", path, err)
	}
	return f, nil
}

type osFile struct{ *os.File }

func (f *osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
