package devcluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// killBelow ends every process that still has a file below dir open or dir on
// its command line. Only the cluster uses dir, so they are ours: the log
// collector of an agent that was killed, a shim whose hostd is gone.
func killBelow(dir string) error {
	var errs []error
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, proc := range procs {
		pid, err := strconv.Atoi(filepath.Base(proc))
		if err != nil || pid == os.Getpid() || !uses(proc, dir) {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("kill leftover process %d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}

// uses reports whether a process has to do with dir; one that ends meanwhile
// has not.
func uses(proc, dir string) bool {
	if b, err := os.ReadFile(filepath.Join(proc, "cmdline")); err == nil && strings.Contains(string(b), dir+"/") {
		return true
	}
	fds, _ := filepath.Glob(filepath.Join(proc, "fd", "*"))
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, dir+"/") {
			return true
		}
	}
	return false
}
