package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// The names in a bundle.
const (
	configFile = "config.json"
	rootfsDir  = "rootfs"
)

// WriteBundle makes the bundle directory dir for a task.
func (h Host) WriteBundle(dir string, t *Task) error {
	spec, links, err := h.spec(t)
	if err != nil {
		return err
	}
	if t.Edit != nil {
		if err := t.Edit(spec); err != nil {
			return err
		}
	}
	root := filepath.Join(dir, rootfsDir)                                                // nothing is in it where the task has an image
	if err := errors.Join(os.MkdirAll(root, 0o755), os.Chmod(root, 0o755)); err != nil { // past the umask: it is the task's /
		return fmt.Errorf("make bundle: %w", err)
	}
	for name, to := range links {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make bundle: %w", err)
		}
	}
	b, err := json.MarshalIndent(spec, "", "\t")
	if err != nil {
		return fmt.Errorf("encode bundle: %w", err)
	}
	// The environment may hold secrets.
	if err := os.WriteFile(filepath.Join(dir, configFile), b, 0o600); err != nil {
		return fmt.Errorf("make bundle: %w", err)
	}
	return nil
}

// RemoveBundle removes a bundle. It removes empty directories, links and empty
// files only: should a bind mount of the host's own directories still be there,
// nothing in it is lost. That there is no bundle is no error.
func RemoveBundle(dir string) error {
	if err := unmountBelow(dir); err != nil {
		return err
	}
	var dirs []string
	err := filepath.WalkDir(filepath.Join(dir, rootfsDir), func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.IsDir():
			dirs = append(dirs, path)
			return nil
		case d.Type()&fs.ModeSymlink != 0:
			return os.Remove(path)
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if !fi.Mode().IsRegular() || fi.Size() != 0 {
			return fmt.Errorf("%q is not a mount point that a bundle has", path)
		}
		return os.Remove(path)
	})
	if err != nil {
		return fmt.Errorf("remove bundle: %w", err)
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		if err := unix.Rmdir(dirs[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove bundle: rmdir %q: %w", dirs[i], err)
		}
	}
	if err := os.Remove(filepath.Join(dir, configFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove bundle: %w", err)
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove bundle: rmdir %q: %w", dir, err)
	}
	return nil
}

// unmountBelow unmounts what is mounted at or below dir in our mount namespace.
// There is something only after a crash at the wrong moment.
func unmountBelow(dir string) error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	var errs []error
	points := mountPoints(string(b), dir)
	for i := len(points) - 1; i >= 0; i-- {
		if err := unix.Unmount(points[i], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			errs = append(errs, fmt.Errorf("unmount %q: %w", points[i], err))
		}
	}
	return errors.Join(errs...)
}

// mountPoints finds the mount points at or below dir, in the order of mounting.
func mountPoints(mountinfo, dir string) []string {
	var out []string
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(mountinfo) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		if p := unescape.Replace(f[4]); p == dir || strings.HasPrefix(p, dir+"/") {
			out = append(out, p)
		}
	}
	return out
}
