package image

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The directories of a task's root: upper and work in the cache, the others in
// the run directory, where mounts are.
const (
	upperDir  = "upper"
	workDir   = "work"
	mergedDir = "root"  // the task's root file system
	bindsDir  = "binds" // what is mounted into it
	lowersDir = "lower" // layers seen through the user namespace, while the root is mounted
)

// rootRecord is a task's root's file: it says what the task uses, whoever asks.
type rootRecord struct {
	Version int      `json:"version"`
	ID      string   `json:"id"`
	Image   string   `json:"image"`
	Layers  []string `json:"layers"`
	IDs     IDs      `json:"ids"`
}

// RootOptions say how a root is made.
type RootOptions struct {
	// MapIDs gives the task a range of ids of its own.
	MapIDs bool
	Binds  []Bind
}

// Bind is a directory or file that the task will have mounted.
type Bind struct {
	Source string
	// Plain leaves the ids as they are on the host, as for /sys.
	Plain bool
	// ReadOnly makes the mount so.
	ReadOnly bool
}

// Root is a mounted root.
type Root struct {
	Dir   string   // where it is mounted
	IDs   IDs      // the zero value: the host's
	Binds []string // where each of the options' binds is mounted, its ids mapped
}

func (s *Store) rootDir(id string) string { return s.path(rootsDir, id) }
func (s *Store) runDir(id string) string  { return filepath.Join(s.cfg.RunDir, "roots", id) }
func (s *Store) idsDir() string           { return filepath.Join(filepath.Dir(s.cfg.RunDir), "ids") }

// Mount makes a task's root of an image: its layers read-only below, a new
// directory of the task's own above. The image can't be removed until Unmount.
// id is a file name; a root that is there under it must be unmounted first.
func (s *Store) Mount(im *Image, id string, opt RootOptions) (*Root, error) {
	if id == "" || id == "." || id == ".." || strings.ContainsAny(id, "/\x00\n") {
		return nil, fmt.Errorf("mount root: id %q is not a file name", id)
	}
	rec := &rootRecord{Version: cacheVersion, ID: id, Image: im.id}
	s.mu.Lock()
	if s.roots[id] != nil {
		s.mu.Unlock()
		return nil, fmt.Errorf("mount root of %q: %w", id, os.ErrExist)
	}
	rec.Layers = slices.Clone(s.images[im.id].rec.Layers)
	s.roots[id] = rec
	s.mu.Unlock()
	root, err := s.mount(rec, opt)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mount root of image %q: %w", im.Ref, err), s.Unmount(id))
	}
	return root, nil
}

func (s *Store) mount(rec *rootRecord, opt RootOptions) (*Root, error) {
	dir, run := s.rootDir(rec.ID), s.runDir(rec.ID)
	// Users other than the task's must not reach into its root, and the task's
	// own must: the way there is open to all, the last directory to it alone.
	if err := errors.Join(os.MkdirAll(dir, 0o700), passable(filepath.Dir(s.cfg.RunDir), s.cfg.RunDir, filepath.Dir(run)), os.Mkdir(run, 0o700)); err != nil {
		return nil, err
	}
	var ns *os.File
	if opt.MapIDs {
		var err error
		if rec.IDs, err = takeIDs(s.idsDir(), dir); err != nil {
			return nil, err
		}
		if ns, err = userNamespace(rec.IDs); err != nil {
			return nil, err
		}
		defer ns.Close()
	}
	// On disk before it is acted on: whoever finds a root knows what it uses.
	if err := s.writeJSON(filepath.Join(dir, rootFile), rec); err != nil {
		return nil, err
	}
	lowers, err := s.lowers(rec, run, ns)
	if err != nil {
		return nil, err
	}
	root := &Root{Dir: filepath.Join(run, mergedDir), IDs: rec.IDs}
	owner := int(rec.IDs.First)
	if err := s.makeUpper(rec, dir, lowers); err != nil {
		return nil, err
	}
	for _, d := range []string{run, root.Dir, filepath.Join(run, bindsDir)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
		if err := os.Chown(d, owner, owner); err != nil {
			return nil, err
		}
	}
	if err := mountOverlay(root.Dir, lowers, filepath.Join(dir, upperDir), filepath.Join(dir, workDir)); err != nil {
		return nil, err
	}
	// The overlay has its own copies of these mounts.
	if err := unmountBelow(filepath.Join(run, lowersDir)); err != nil {
		return nil, err
	}
	for i, b := range opt.Binds {
		to, err := s.bind(b, filepath.Join(run, bindsDir, strconv.Itoa(i)), ns)
		if err != nil {
			return nil, err
		}
		root.Binds = append(root.Binds, to)
	}
	return root, nil
}

// passable makes directories that every user may pass through, whatever our
// umask. Those that are there and let nobody through are opened.
func passable(dirs ...string) error {
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o711); err != nil {
			return err
		}
		info, err := os.Stat(d)
		if err == nil && info.Mode().Perm()&0o001 == 0 {
			err = os.Chmod(d, info.Mode().Perm()|0o111)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lowers are the directories of the layers, the uppermost first.
func (s *Store) lowers(rec *rootRecord, run string, ns *os.File) ([]string, error) {
	var out []string
	for i, l := range slices.Backward(rec.Layers) {
		fs := s.path(layersDir, l, fsDir)
		if ns != nil {
			at := filepath.Join(run, lowersDir, strconv.Itoa(i))
			if err := os.MkdirAll(at, 0o700); err != nil {
				return nil, err
			}
			if err := bindMapped(fs, at, ns, unix.MOUNT_ATTR_RDONLY); err != nil {
				return nil, err
			}
			fs = at
		}
		out = append(out, fs)
		s.mu.Lock()
		opaque := s.layers[l].rec.Opaque
		s.mu.Unlock()
		if opaque {
			break
		}
	}
	return out, nil
}

// makeUpper makes the task's own directory. What it has of a directory is what
// overlayfs shows of it, so it starts with the attributes that the image gives:
// those of the root, and of directories that a layer only implied.
func (s *Store) makeUpper(rec *rootRecord, dir string, lowers []string) error {
	upper := filepath.Join(dir, upperDir)
	for _, d := range []string{upper, filepath.Join(dir, workDir)} {
		if err := os.Mkdir(d, 0o700); err != nil { // copyAttributes sets the upper one's
			return err
		}
	}
	if err := copyAttributes(lowers[0], upper); err != nil {
		return err
	}
	s.mu.Lock()
	implied := map[string]bool{}
	for _, l := range rec.Layers {
		for _, d := range s.layers[l].rec.Implied {
			implied[d] = true
		}
	}
	s.mu.Unlock()
	return describeImplied(upper, lowers, implied, s.isImplied(rec, lowers))
}

// isImplied returns whether the layer at an index of lowers only implied a
// directory.
func (s *Store) isImplied(rec *rootRecord, lowers []string) func(i int, dir string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var by []map[string]bool
	for i := range lowers {
		m := map[string]bool{}
		for _, d := range s.layers[rec.Layers[len(rec.Layers)-1-i]].rec.Implied {
			m[d] = true
		}
		by = append(by, m)
	}
	return func(i int, dir string) bool { return by[i][dir] }
}

// describeImplied gives every directory whose uppermost layer only implied it
// the attributes of the layer that describes it.
func describeImplied(upper string, lowers []string, implied map[string]bool, only func(int, string) bool) error {
	var dirs []string
	for d := range implied {
		dirs = append(dirs, d)
	}
	slices.Sort(dirs) // parents first
	for _, d := range dirs {
		from := describedBy(lowers, d, only)
		if from == "" {
			continue
		}
		at := filepath.Join(upper, d)
		if err := mkdirLike(upper, lowers, path.Dir(d), only); err != nil {
			return err
		}
		if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := copyAttributes(from, at); err != nil {
			return err
		}
	}
	return nil
}

// mkdirLike makes a directory of the upper one, and its parents, as the layers
// have them.
func mkdirLike(upper string, lowers []string, dir string, only func(int, string) bool) error {
	if dir == "." {
		return nil
	}
	if err := mkdirLike(upper, lowers, path.Dir(dir), only); err != nil {
		return err
	}
	err := os.Mkdir(filepath.Join(upper, dir), 0o755)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, l := range lowers {
		if look(l, dir) == isDir {
			return copyAttributes(filepath.Join(l, dir), filepath.Join(upper, dir))
		}
	}
	return nil
}

// describedBy finds the layer below one that only implied dir that describes
// it: "" where none does, or where the uppermost layer itself does, or hides it.
func describedBy(lowers []string, dir string, only func(int, string) bool) string {
	skipped := false
	for i, l := range lowers {
		switch look(l, dir) {
		case isAbsent:
		case isHidden:
			return ""
		case isDir:
			if !only(i, dir) {
				if skipped {
					return filepath.Join(l, dir)
				}
				return ""
			}
			skipped = true
		}
	}
	return ""
}

// What a layer has at a path.
type presence int

const (
	isAbsent presence = iota
	isDir
	isHidden // something else, or nothing, and what is below isn't seen
)

// look says what a layer has at a path, as overlayfs sees it: no link is
// followed.
func look(layer, dir string) presence {
	at := layer
	for part := range strings.SplitSeq(dir, "/") {
		var mark [2]byte
		n, err := unix.Lgetxattr(at, "trusted.overlay.opaque", mark[:])
		opaque := err == nil && n == 1 && mark[0] == 'y'
		at = filepath.Join(at, part)
		info, err := os.Lstat(at)
		switch {
		case err != nil && opaque:
			return isHidden
		case err != nil:
			return isAbsent
		case !info.IsDir():
			return isHidden
		}
	}
	return isDir
}

// copyAttributes gives a directory another's owner and mode.
func copyAttributes(from, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return err
	}
	if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Chmod(to, st.Mode&0o7777)
}

// mountOverlay mounts at target. Nothing in it is a device, and setuid counts
// for nothing: the task may gain no privileges anyhow. volatile: what a task's
// root holds is of no use after a crash of the host.
func mountOverlay(target string, lowers []string, upper, work string) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open overlayfs: %w", err)
	}
	defer unix.Close(fs)
	for _, l := range lowers {
		if err := unix.FsconfigSetString(fs, "lowerdir+", l); err != nil {
			// Before Linux 6.5.
			return mountOverlayClassic(target, lowers, upper, work)
		}
	}
	for _, o := range [][2]string{{"upperdir", upper}, {"workdir", work}} {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return fmt.Errorf("mount overlayfs: %s %q: %w", o[0], o[1], err)
		}
	}
	if err := unix.FsconfigSetFlag(fs, "volatile"); err != nil {
		return fmt.Errorf("mount overlayfs: volatile: %w", err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("mount overlayfs: %w%s", err, said(fs))
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return fmt.Errorf("mount overlayfs: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount overlayfs at %q: %w", target, err)
	}
	return nil
}

// said is what the kernel has to say about a failed mount.
func said(fs int) string {
	buf := make([]byte, 1024)
	n, err := unix.Read(fs, buf)
	if err != nil || n <= 0 {
		return ""
	}
	return ": " + strings.TrimSpace(string(buf[:n]))
}

// mountOverlayClassic is for kernels that take all lower directories in one
// string.
func mountOverlayClassic(target string, lowers []string, upper, work string) error {
	data := "volatile,lowerdir=" + strings.Join(lowers, ":") + ",upperdir=" + upper + ",workdir=" + work
	if len(data) >= os.Getpagesize() {
		return fmt.Errorf("mount overlayfs: %d layers are too many for this kernel: it takes more from Linux 6.5 on", len(lowers))
	}
	if err := unix.Mount("overlay", target, "overlay", unix.MS_NOSUID|unix.MS_NODEV, data); err != nil {
		return fmt.Errorf("mount overlayfs at %q: %w", target, err)
	}
	return nil
}

// bind mounts what a task will see at another place, where the task's runtime
// can reach it.
func (s *Store) bind(b Bind, at string, ns *os.File) (string, error) {
	info, err := os.Stat(b.Source)
	if err != nil {
		return "", err
	}
	if info.IsDir() {
		err = os.Mkdir(at, 0o700)
	} else {
		err = os.WriteFile(at, nil, 0o600)
	}
	if err != nil {
		return "", err
	}
	if b.Plain {
		ns = nil
	}
	attrs := uint64(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV)
	if b.ReadOnly {
		attrs |= unix.MOUNT_ATTR_RDONLY
	}
	return at, bindMapped(b.Source, at, ns, attrs)
}
