package doctor

import (
	"context"
	"fmt"
	"path/filepath"
	"time"
)

// Clock is what the kernel says of its clock's discipline.
type Clock struct {
	Synced   bool
	MaxError time.Duration
}

// Space is what a file system says of itself.
type Space struct {
	Free, Total      uint64 // bytes; Free for others than root
	FreeFiles, Files uint64 // Files 0: it doesn't count them
	InMemory         bool
	ReadOnly         bool
}

// Bounds of what is good.
const (
	clockErrorMax = time.Second
	freeLeast     = 256 << 20 // bytes, for records
	freeGood      = 10 << 30  // bytes, for images
	freeFilesMin  = 10_000
	syncGood      = 50 * time.Millisecond
)

func checkClock(_ context.Context, e *examination) {
	const advice = "apt-get install chrony (or timedatectl set-ntp true): a clock that is minutes off is refused by the servers"
	c, err := e.sys.Clock()
	switch {
	case err != nil:
		e.warn("synchronised", advice, "can't be asked: %v", err)
	case !c.Synced:
		e.warn("synchronised", advice, "no: nothing keeps the clock right")
	case c.MaxError > clockErrorMax:
		e.warn("synchronised", advice, "it may be off by %v", c.MaxError.Round(time.Millisecond))
	default:
		e.ok("synchronised", "yes, within %v", c.MaxError.Round(time.Millisecond))
	}
}

func checkDisk(_ context.Context, e *examination) {
	if e.needsConfig("data_dir") {
		return
	}
	checkDataDir(e, "data_dir", e.cfg.DataDir)
}

// checkDataDir looks at a directory in which hostd keeps what must survive.
func checkDataDir(e *examination, check, dir string) {
	at := dir
	for !e.sys.exists(at) && at != filepath.Dir(at) {
		at = filepath.Dir(at) // where it will be made
	}
	info, err := e.sys.stat(at)
	switch {
	case err != nil:
		e.fail(check, "make it: mkdir -p -m 0700 "+dir, "%v", err)
		return
	case !info.IsDir():
		e.fail(check, "move it away, or set "+check, "%s is no directory", at)
		return
	case at == dir && info.Mode().Perm()&0o022 != 0:
		e.fail(check, "chmod 0700 "+dir, "%s: others may write it (mode %04o)", dir, info.Mode().Perm())
		return
	}
	s, err := e.sys.Space(e.sys.path(at))
	if err != nil {
		e.fail(check, "", "%v", err)
		return
	}
	free := fmt.Sprintf("%s of %s free", bytes(s.Free), bytes(s.Total))
	switch {
	case s.ReadOnly:
		e.fail(check, "mount it read-write", "%s is on a read-only file system", at)
		return
	case s.Free < freeLeast:
		e.fail(check, "make room: usage that can't be recorded isn't paid", "%s: %s", dir, free)
	case s.Files > 0 && s.FreeFiles < freeFilesMin:
		e.fail(check, "make room: the file system has no more inodes", "%s: %d of %d files free", dir, s.FreeFiles, s.Files)
	case s.InMemory:
		e.warn(check, "set data_dir to a disk: the host key and unsent usage records are lost with the power", "%s is in memory, %s", dir, free)
	case s.Free < freeGood:
		e.warn(check, "make room: images need some", "%s: %s", dir, free)
	default:
		e.ok(check, "%s: %s", dir, free)
	}
	took, err := e.sys.SyncFile(e.sys.path(at))
	switch {
	case err != nil:
		e.fail(check+" fsync", "hostd must be able to write and fsync there", "%v", err)
	case took > syncGood:
		e.warn(check+" fsync", "use a faster disk, or one with a write cache that survives a power cut", "%v for 4 KiB", took.Round(time.Millisecond))
	default:
		e.ok(check+" fsync", "works, %.1f ms for 4 KiB", float64(took.Microseconds())/1000)
	}
}

// bytes is an amount of bytes as people read it.
func bytes(n uint64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d bytes", n)
}
