// Package tracetest is an observer from outside for tests: the kernel's
// tracepoints sched_process_exec and sched_process_exit, read from tracefs. It
// shares no code with what it checks.
package tracetest

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Event is a tracepoint hit.
type Event struct {
	MonoNs    int64
	Exec      bool // else an exit
	Pid       int  // the thread's
	GroupDead bool // an exit: of the process's last thread
}

// Observer records the execs and exits of the whole host.
type Observer struct {
	dir string
}

// New starts an observer in a tracefs instance of its own, which is removed when
// the test ends. It skips the test where there is no tracefs.
func New(tb testing.TB) *Observer {
	tb.Helper()
	root := "/sys/kernel/tracing"
	if _, err := os.Stat(filepath.Join(root, "instances")); err != nil {
		root = tb.TempDir()
		if err := unix.Mount("tracefs", root, "tracefs", 0, ""); err != nil {
			tb.Skipf("needs tracefs: %v", err)
		}
		tb.Cleanup(func() {
			if err := unix.Unmount(root, 0); err != nil {
				tb.Errorf("unmount tracefs: %v", err)
			}
		})
	}
	dir := filepath.Join(root, "instances", fmt.Sprintf("joule-test-%d-%d", os.Getpid(), time.Now().UnixNano()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		tb.Skipf("needs a tracefs instance: %v", err)
	}
	tb.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			tb.Errorf("remove tracefs instance: %v", err)
		}
	})
	o := &Observer{dir: dir}
	for _, w := range [][2]string{
		{"trace_clock", "mono"},
		{"buffer_size_kb", "1024"},
		{"events/sched/sched_process_exec/enable", "1"},
		{"events/sched/sched_process_exit/enable", "1"},
	} {
		if err := os.WriteFile(filepath.Join(dir, w[0]), []byte(w[1]), 0o644); err != nil {
			tb.Fatalf("set up tracefs: %v", err)
		}
	}
	return o
}

var (
	line  = regexp.MustCompile(`\s(\d+)\.(\d{6}): (sched_process_exec|sched_process_exit): (.*)$`)
	pidIn = regexp.MustCompile(`\bpid=(\d+)`)
)

// Events returns what was recorded so far of the thread pid, in order.
func (o *Observer) Events(tb testing.TB, pid int) []Event {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join(o.dir, "trace"))
	if err != nil {
		tb.Fatalf("read trace: %v", err)
	}
	var out []Event
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		m := line.FindStringSubmatch(sc.Text())
		if m == nil {
			continue
		}
		p := pidIn.FindStringSubmatch(m[4])
		if p == nil || p[1] != strconv.Itoa(pid) {
			continue
		}
		sec, _ := strconv.ParseInt(m[1], 10, 64)
		usec, _ := strconv.ParseInt(m[2], 10, 64)
		out = append(out, Event{
			MonoNs: sec*1e9 + usec*1e3, Exec: m[3] == "sched_process_exec", Pid: pid,
			GroupDead: strings.Contains(m[4], "group_dead=true") || !strings.Contains(m[4], "group_dead="),
		})
	}
	return out
}

// Run returns the first exec and the last exit recorded of the process pid.
func (o *Observer) Run(tb testing.TB, pid int) (execNs, exitNs int64) {
	tb.Helper()
	for _, e := range o.Events(tb, pid) {
		switch {
		case e.Exec && execNs == 0:
			execNs = e.MonoNs
		case !e.Exec:
			exitNs = e.MonoNs
		}
	}
	return execNs, exitNs
}
