package shim

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openFIFO opens one of Nomad's log FIFOs. What the task gets can be written
// only; what we keep has a reader's end too, so that opening waits for nobody
// and the task gets no SIGPIPE while Nomad's log reader restarts.
//
// The directory is writable by the task's allocation: a symbolic link put in
// the FIFO's place must not make root write elsewhere (CVE-2026-8052).
func openFIFO(path string) (task, keep *os.File, err error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open log fifo %q: %w", path, err)
	}
	keep = os.NewFile(uintptr(fd), path)
	defer func() {
		if err != nil {
			_ = keep.Close()
		}
	}()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, nil, fmt.Errorf("look at log fifo %q: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return nil, nil, fmt.Errorf("open log fifo %q: it is no fifo", path)
	}
	// By our descriptor: the same FIFO, whatever is at its path by now.
	w, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open log fifo %q for the task: %w", path, err)
	}
	return os.NewFile(uintptr(w), path), keep, nil
}
