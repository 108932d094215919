// Package proc reads what the kernel says that threads and processes used.
// A machine that others share makes elapsed time a poor measure; processor
// time is the better one.
package proc

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ThreadCPU is the processor time of the calling thread; the caller has locked
// its goroutine to it.
func ThreadCPU() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// OwnCPU is the processor time of this process so far.
func OwnCPU() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// tick is the unit of /proc/*/stat on every Linux that Go runs on.
const tick = time.Second / 100

// stat is a line of /proc/PID/stat.
type stat struct {
	pid, parent int
	own, reaped time.Duration // processor time of it, and of its children that ended
}

func read(path string) (stat, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return stat{}, err
	}
	// The second field is a name in parentheses, which may hold anything.
	end := bytes.LastIndexByte(b, ')')
	pid, _, _ := strings.Cut(string(b), " ")
	f := strings.Fields(string(b[end+1:]))
	if end < 0 || len(f) < 15 {
		return stat{}, fmt.Errorf("read %s: unknown form %q", path, b)
	}
	var n [6]int64
	for i, text := range []string{pid, f[1], f[11], f[12], f[13], f[14]} {
		if n[i], err = strconv.ParseInt(text, 10, 64); err != nil {
			return stat{}, fmt.Errorf("read %s: %w", path, err)
		}
	}
	return stat{pid: int(n[0]), parent: int(n[1]), own: time.Duration(n[2]+n[3]) * tick, reaped: time.Duration(n[4]+n[5]) * tick}, nil
}

// TreeCPU is the processor time used so far by the processes and all below
// them, also those that ended and were waited for.
func TreeCPU(pids ...int) (time.Duration, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	children := map[int][]stat{}
	byPID := map[int]stat{}
	for _, p := range paths {
		s, err := read(p)
		if os.IsNotExist(err) || err != nil && strings.Contains(err.Error(), "no such process") {
			continue // it ended meanwhile
		}
		if err != nil {
			return 0, err
		}
		children[s.parent] = append(children[s.parent], s)
		byPID[s.pid] = s
	}
	var sum time.Duration
	queue := slices.Clone(pids)
	for len(queue) > 0 {
		pid := queue[0]
		queue = queue[1:]
		s, ok := byPID[pid]
		if !ok {
			return 0, fmt.Errorf("process %d is gone", pid)
		}
		sum += s.own + s.reaped
		for _, c := range children[pid] {
			queue = append(queue, c.pid)
		}
	}
	return sum, nil
}

// Resident is a process's resident memory in bytes.
func Resident(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0, fmt.Errorf("read statm of %d: unknown form %q", pid, b)
	}
	pages, err := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}
