package shim

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// dirWatch tells when a file has appeared in a directory.
type dirWatch struct {
	f       *os.File
	changed chan struct{}
	ended   chan struct{}
}

func watchDir(dir string) (*dirWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch %q: %w", dir, err)
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_TO); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("watch %q: %w", dir, err)
	}
	w := &dirWatch{f: os.NewFile(uintptr(fd), "inotify"), changed: make(chan struct{}, 1), ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		var buf [4096]byte
		for {
			if _, err := w.f.Read(buf[:]); err != nil {
				return
			}
			select {
			case w.changed <- struct{}{}:
			default:
			}
		}
	}()
	return w, nil
}

// close ends the watch and its goroutine.
func (w *dirWatch) close() {
	_ = w.f.Close()
	<-w.ended
}
