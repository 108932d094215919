package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// CPUStat is a reading of a CPU meter. The usage comes from scheduling events
// and is exact; user and system are its split by samples (nil: not offered).
type CPUStat struct {
	UsageUsec  uint64
	UserUsec   *uint64
	SystemUsec *uint64
}

// CPU is a CPU meter held open: a reading costs one system call. It stays
// readable, at its last value, until the cgroup is removed. Safe for concurrent
// use.
type CPU struct {
	f     *os.File
	parse func([]byte) (CPUStat, error)
}

// OpenCPU opens the CPU meter of the cgroup directory dir (see Group.CPUDir).
func OpenCPU(dir string) (*CPU, error) {
	for _, m := range []struct {
		file  string
		parse func([]byte) (CPUStat, error)
	}{
		{"cpuacct.usage", parseCPUAcct},
		{"cpu.stat", parseCPUStat},
	} {
		f, err := os.Open(filepath.Join(dir, m.file))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open CPU meter: %w", err)
		}
		return &CPU{f: f, parse: m.parse}, nil
	}
	return nil, fmt.Errorf("open CPU meter: no cpu.stat or cpuacct.usage in %q: %w", dir, os.ErrNotExist)
}

// Read reads the meter.
func (c *CPU) Read() (CPUStat, error) {
	var buf [1024]byte
	n, err := c.f.ReadAt(buf[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return CPUStat{}, fmt.Errorf("read CPU meter: %w", err)
	}
	return c.parse(buf[:n])
}

// Close closes the meter.
func (c *CPU) Close() error { return c.f.Close() }

// parseCPUStat parses v2's cpu.stat.
func parseCPUStat(b []byte) (CPUStat, error) {
	usage, ok := keyed(b, "usage_usec")
	if !ok {
		return CPUStat{}, errors.New("parse cpu.stat: no usage_usec")
	}
	s := CPUStat{UsageUsec: usage}
	if v, ok := keyed(b, "user_usec"); ok {
		s.UserUsec = &v
	}
	if v, ok := keyed(b, "system_usec"); ok {
		s.SystemUsec = &v
	}
	return s, nil
}

// parseCPUAcct parses v1's cpuacct.usage, which is in ns.
func parseCPUAcct(b []byte) (CPUStat, error) {
	ns, err := number(b)
	if err != nil {
		return CPUStat{}, fmt.Errorf("parse cpuacct.usage: %w", err)
	}
	return CPUStat{UsageUsec: ns / 1000}, nil
}

// keyed finds the value of a key in a file of "key value" lines.
func keyed(b []byte, key string) (uint64, bool) {
	for line := range bytes.Lines(b) {
		name, value, ok := bytes.Cut(line, []byte{' '})
		if ok && string(name) == key {
			v, err := number(value)
			return v, err == nil
		}
	}
	return 0, false
}

func number(b []byte) (uint64, error) {
	return strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 64)
}

// Stats is what a group says of memory and processes. nil: not readable here.
type Stats struct {
	MemoryBytes    *uint64
	MemoryRSSBytes *uint64 // anonymous memory
	MemoryMaxBytes *uint64 // the most there ever was
	OOMKills       *uint64 // processes killed for want of memory
	Pids           *uint64
}

// Stats reads what can be read.
func (g *Group) Stats() Stats {
	mem, pids := g.controller("memory"), g.controller("pids")
	if _, v1 := g.host.v1["memory"]; v1 {
		return Stats{
			MemoryBytes:    readNumber(mem, "memory.usage_in_bytes"),
			MemoryRSSBytes: readKeyed(mem, "memory.stat", "total_rss"),
			MemoryMaxBytes: readNumber(mem, "memory.max_usage_in_bytes"),
			OOMKills:       readKeyed(mem, "memory.oom_control", "oom_kill"),
			Pids:           readNumber(pids, "pids.current"),
		}
	}
	return Stats{
		MemoryBytes:    readNumber(mem, "memory.current"),
		MemoryRSSBytes: readKeyed(mem, "memory.stat", "anon"),
		MemoryMaxBytes: readNumber(mem, "memory.peak"),
		OOMKills:       readKeyed(mem, "memory.events", "oom_kill"),
		Pids:           readNumber(pids, "pids.current"),
	}
}

func readNumber(dir, file string) *uint64 {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return nil
	}
	v, err := number(b)
	if err != nil {
		return nil
	}
	return &v
}

func readKeyed(dir, file, key string) *uint64 {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return nil
	}
	if v, ok := keyed(b, key); ok {
		return &v
	}
	return nil
}

// Pids lists the processes in the cgroup directory dir, those below it not.
func Pids(dir string) ([]int, error) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil, fmt.Errorf("list cgroup's processes: %w", err)
	}
	var out []int
	for f := range bytes.FieldsSeq(b) {
		pid, err := strconv.Atoi(string(f))
		if err != nil {
			return nil, fmt.Errorf("parse cgroup.procs: %w", err)
		}
		if pid > 0 { // 0: in a pid namespace that is not ours
			out = append(out, pid)
		}
	}
	return out, nil
}

// gone reports an error that says that the cgroup is no more.
func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV)
}
