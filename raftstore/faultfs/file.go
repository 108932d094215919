package faultfs

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// File is an open file. Its own offset is where Write appends.
type File struct {
	d      *Disk
	n      *inode
	path   string
	append bool
}

// Create makes a file that must not exist.
func (d *Disk) Create(path string) (*File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin("create", path); err != nil {
		return nil, err
	}
	if d.names[path] != nil {
		return nil, &os.PathError{Op: "create", Path: path, Err: os.ErrExist}
	}
	n := &inode{linked: 1}
	d.names[path] = n
	return &File{d: d, n: n, path: path}, nil
}

// Open opens a file that exists.
func (d *Disk) Open(path string) (*File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.find(path)
	if err != nil {
		return nil, err
	}
	return &File{d: d, n: n, path: path}, nil
}

// List lists the names in dir, sorted.
func (d *Disk) List(dir string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return nil, ErrPower
	}
	var out []string
	for path := range d.names {
		if filepath.Dir(path) == dir {
			out = append(out, filepath.Base(path))
		}
	}
	slices.Sort(out)
	return out, nil
}

// Remove takes a name away.
func (d *Disk) Remove(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.find(path)
	if err != nil {
		return err
	}
	if err := d.begin("remove", path); err != nil {
		return err
	}
	delete(d.names, path)
	n.linked--
	if n.linked == 0 {
		d.used -= int64(len(n.data))
	}
	return nil
}

// SyncDir makes the names in dir survive.
func (d *Disk) SyncDir(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin("syncdir", dir); err != nil {
		return err
	}
	d.syncNames(dir)
	return nil
}

func (d *Disk) syncNames(dir string) {
	for path := range d.disk {
		if filepath.Dir(path) == dir && d.names[path] == nil {
			delete(d.disk, path)
		}
	}
	for path, n := range d.names {
		if filepath.Dir(path) == dir {
			d.disk[path] = n
		}
	}
}

// Size is the file's length.
func (f *File) Size() (int64, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.off {
		return 0, ErrPower
	}
	return int64(len(f.n.data)), nil
}

// ReadAt implements io.ReaderAt.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.off {
		return 0, ErrPower
	}
	if off >= int64(len(f.n.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Write appends.
func (f *File) Write(p []byte) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return f.write(p, int64(len(f.n.data)))
}

// WriteAt implements io.WriterAt.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return f.write(p, off)
}

func (f *File) write(p []byte, off int64) (int, error) {
	if f.d.off {
		return 0, ErrPower
	}
	err := f.d.begin("write", f.path)
	if err != nil {
		p = p[:len(p)/2]
	}
	more := max(0, off+int64(len(p))-int64(len(f.n.data)))
	if room := f.d.Capacity - f.d.used; err == nil && f.d.Capacity > 0 && more > room {
		err, p = ErrFull, p[:max(0, int64(len(p))-(more-max(0, room)))]
		more = max(0, off+int64(len(p))-int64(len(f.n.data)))
	}
	if len(p) > 0 {
		f.d.used += more
		f.n.data = resize(f.n.data, max(int64(len(f.n.data)), off+int64(len(p))))
		copy(f.n.data[off:], p)
		f.n.pending = append(f.n.pending, write{off: off, b: slices.Clone(p), size: -1})
	}
	return len(p), err
}

// Truncate sets the file's length.
func (f *File) Truncate(size int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.begin("truncate", f.path); err != nil {
		return err
	}
	f.d.used += size - int64(len(f.n.data))
	f.n.data = resize(slices.Clone(f.n.data), size)
	f.n.pending = append(f.n.pending, write{size: size})
	return nil
}

// Sync makes the file's bytes survive. What a sync that fails was to write is
// lost though readers still see it, and the next sync does not know of it: that
// is what Linux does.
func (f *File) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.off {
		return ErrPower
	}
	if err := f.d.begin("sync", f.path); err != nil {
		if !f.d.off {
			f.n.pending = nil
		}
		return err
	}
	f.n.synced = f.n.apply(f.n.synced, always)
	f.n.pending = nil
	if !f.d.StrictNames && f.d.names[f.path] == f.n {
		f.d.disk[f.path] = f.n
	}
	return nil
}

// Close implements io.Closer. It syncs nothing.
func (f *File) Close() error { return nil }

// locks are the lock files in use, over all disks.
var locks struct {
	sync.Mutex
	held map[lockKey]bool
}

type lockKey struct {
	d    *Disk
	path string
}

// Lock takes a lock file; ok is false if it is taken.
func (d *Disk) Lock(path string) (_ io.Closer, ok bool) {
	locks.Lock()
	defer locks.Unlock()
	key := lockKey{d, path}
	if locks.held[key] {
		return nil, false
	}
	if locks.held == nil {
		locks.held = map[lockKey]bool{}
	}
	locks.held[key] = true
	return unlock(key), true
}

type unlock lockKey

func (u unlock) Close() error {
	locks.Lock()
	defer locks.Unlock()
	delete(locks.held, lockKey(u))
	return nil
}
