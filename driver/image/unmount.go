package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Unmount removes a task's root and all that the task wrote in it. That there is
// none is no error.
func (s *Store) Unmount(id string) error {
	s.mu.Lock()
	rec := s.roots[id]
	s.mu.Unlock()
	if rec == nil {
		return nil
	}
	dir, run := s.rootDir(id), s.runDir(id)
	if err := unmountBelow(run); err != nil {
		return fmt.Errorf("unmount root %q: %w", id, err)
	}
	if err := removeUnmounted(run); err != nil {
		return fmt.Errorf("remove root %q: %w", id, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove root %q: %w", id, err)
	}
	freeIDs(s.idsDir(), dir, rec.IDs)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.roots, id)
	if im := s.images[rec.Image]; im != nil {
		s.touch(im)
	}
	return nil
}

// removeUnmounted removes directories and empty files only: should something
// still be mounted there, nothing in it is lost.
func removeUnmounted(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.IsDir():
			dirs = append(dirs, path)
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() || info.Size() != 0 {
			return fmt.Errorf("%q is not a mount point", path)
		}
		return os.Remove(path)
	})
	if err != nil {
		return err
	}
	for _, d := range slices.Backward(dirs) {
		if err := unix.Rmdir(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("rmdir %q: %w", d, err)
		}
	}
	return nil
}

// loadRoots takes in the roots that an earlier process made.
func (s *Store) loadRoots() error {
	entries, err := os.ReadDir(s.path(rootsDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		rec := &rootRecord{}
		if err := readJSON(s.path(rootsDir, e.Name(), rootFile), rec); err != nil || rec.ID != e.Name() {
			// Its making was cut off before anything was mounted.
			rec = &rootRecord{Version: cacheVersion, ID: e.Name()}
		}
		s.roots[e.Name()] = rec
	}
	return nil
}

// Sweep unmounts and removes every root that no task has any more.
func (s *Store) Sweep(has func(id string) bool) error {
	s.mu.Lock()
	var ids []string
	for id := range s.roots {
		ids = append(ids, id)
	}
	s.mu.Unlock()
	var errs []error
	for _, id := range ids {
		if !has(id) {
			s.log.Warn("root of a task that is no more is removed", "id", id)
			errs = append(errs, s.Unmount(id))
		}
	}
	return errors.Join(errs...)
}

// RootBytes is what a task has written to its root, as far as it can be
// counted. It walks all of it.
func (s *Store) RootBytes(id string) (int64, error) {
	var n int64
	err := filepath.WalkDir(filepath.Join(s.rootDir(id), upperDir), func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // removed meanwhile
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			n += st.Blocks * 512
		} else {
			n += info.Size()
		}
		return nil
	})
	return n, err
}

// unmountBelow unmounts what is mounted at or below dir.
func unmountBelow(dir string) error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var points []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 5 {
			if p := unescape.Replace(f[4]); p == dir || strings.HasPrefix(p, dir+"/") {
				points = append(points, p)
			}
		}
	}
	var errs []error
	for _, p := range slices.Backward(points) {
		if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %q: %w", p, err))
		}
	}
	return errors.Join(errs...)
}
