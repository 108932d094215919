package torture

import (
	"fmt"
	"os"
	"syscall"
)

// smallDisk is a file system in memory that holds a server's data, and can be
// made so small that nothing more fits.
type smallDisk struct{ dir string }

const diskRoom = "1g"

func mountSmallDisk(dir string) (*smallDisk, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size="+diskRoom); err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	return &smallDisk{dir}, nil
}

func (d *smallDisk) unmount() { syscall.Unmount(d.dir, syscall.MNT_DETACH) }

// fill leaves no room.
func (d *smallDisk) fill() error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.dir, &st); err != nil {
		return err
	}
	return d.resize(fmt.Sprint((st.Blocks - st.Bfree) * uint64(st.Bsize)))
}

// free makes room again.
func (d *smallDisk) free() error { return d.resize(diskRoom) }

func (d *smallDisk) resize(size string) error {
	if err := syscall.Mount("", d.dir, "", syscall.MS_REMOUNT, "size="+size); err != nil {
		return fmt.Errorf("%s: size %s: %w", d.dir, size, err)
	}
	return nil
}
