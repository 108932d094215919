// Package outside measures how long tasks ran without asking Joule: it reads
// the kernel's own scheduler events from tracefs. It is the independent truth
// that the demo prints beside the bill and that the end-to-end tests compare
// with; it shares no code with the driver.
//
// A task's run time is from the kernel's exec of its command in a container's
// first process (sched_process_exec) to the exit of that process's last thread
// (sched_process_exit), on CLOCK_MONOTONIC. Which container a process belongs
// to comes from cgroup_attach_task and sched_process_fork.
package outside

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// events are the trace events that are read.
var events = []string{
	"sched/sched_process_fork", "sched/sched_process_exec", "sched/sched_process_exit", "cgroup/cgroup_attach_task",
}

// Run is one run of a command in a container.
type Run struct {
	Container string // the last component of its cgroup's path
	Pid       int
	Exec      time.Duration // on CLOCK_MONOTONIC
	Exit      time.Duration // 0: still running
}

// Wall is how long the command ran.
func (r Run) Wall() time.Duration { return r.Exit - r.Exec }

// Observer records scheduler events until it is stopped.
type Observer struct {
	mounted  string // where we mounted tracefs; "" if it was there
	instance string
	pipe     int
	done     chan struct{}

	mu     sync.Mutex
	events []event
	err    error
}

const endMark = "joule outside observer: end"

// Start begins to record. It needs root and a kernel with tracefs and the
// sched and cgroup trace events. Stop must be called.
func Start() (o *Observer, err error) {
	o = &Observer{pipe: -1, done: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, o.remove())
		}
	}()
	root, err := o.tracefs()
	if err != nil {
		return nil, err
	}
	o.instance, err = os.MkdirTemp(filepath.Join(root, "instances"), "joule-outside-")
	if err != nil {
		return nil, fmt.Errorf("make a trace instance: %w", err)
	}
	set := map[string]string{"trace_clock": "mono", "buffer_size_kb": "16384"}
	for _, name := range []string{"trace_clock", "buffer_size_kb"} {
		if err := o.write(name, set[name]); err != nil {
			return nil, err
		}
	}
	for _, e := range events {
		if err := o.write("events/"+e+"/enable", "1"); err != nil {
			return nil, err
		}
	}
	// Not through package os: its poller waits until the buffer is half full.
	o.pipe, err = unix.Open(filepath.Join(o.instance, "trace_pipe"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open trace_pipe: %w", err)
	}
	go o.read()
	return o, nil
}

// tracefs finds tracefs or mounts it.
func (o *Observer) tracefs() (string, error) {
	for _, root := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
		if _, err := os.Stat(filepath.Join(root, "instances")); err == nil {
			return root, nil
		}
	}
	dir, err := os.MkdirTemp("", "joule-tracefs-")
	if err != nil {
		return "", err
	}
	if err := unix.Mount("tracefs", dir, "tracefs", 0, ""); err != nil {
		return "", errors.Join(fmt.Errorf("mount tracefs: %w", err), os.Remove(dir))
	}
	o.mounted = dir
	return dir, nil
}

func (o *Observer) write(name, value string) error {
	if err := os.WriteFile(filepath.Join(o.instance, name), []byte(value), 0); err != nil {
		return fmt.Errorf("set %s: %w", name, err)
	}
	return nil
}

// read parses the pipe until the end mark or an error.
func (o *Observer) read() {
	defer close(o.done)
	buf := make([]byte, 256<<10)
	var rest []byte
	for {
		n, err := unix.Read(o.pipe, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			o.fail(fmt.Errorf("read trace_pipe: %w", err))
			return
		}
		rest = append(rest, buf[:n]...)
		for {
			line, after, whole := bytes.Cut(rest, []byte("\n"))
			if !whole {
				break
			}
			rest = after
			if bytes.Contains(line, []byte(endMark)) {
				return
			}
			o.add(string(line))
		}
		rest = bytes.Clone(rest) // lets go of the lines before it
	}
}

func (o *Observer) add(line string) {
	e, ok, err := parse(line)
	if err != nil {
		o.fail(err)
		return
	}
	if ok {
		o.mu.Lock()
		o.events = append(o.events, e)
		o.mu.Unlock()
	}
}

func (o *Observer) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err = errors.Join(o.err, err)
}

// Runs resolves what was recorded so far: every run of a program whose file
// name ends in command, in a container below a cgroup named parent, in the
// order of their start. Events of the last few milliseconds may still be on
// their way; after Stop nothing is.
func (o *Observer) Runs(parent, command string) ([]Run, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return resolve(o.events, parent, command), o.err
}

// Stop ends the recording, after everything recorded has been read, and
// removes the trace instance. An error says that events may be missing.
func (o *Observer) Stop() error {
	err := o.write("trace_marker", endMark+"\n")
	if err == nil {
		select {
		case <-o.done:
		case <-time.After(10 * time.Second):
			err = errors.New("trace_pipe did not end")
		}
	}
	return errors.Join(err, o.lost(), o.remove())
}

// lost reports events that the kernel dropped.
func (o *Observer) lost() error {
	stats, err := filepath.Glob(filepath.Join(o.instance, "per_cpu", "cpu*", "stats"))
	if err != nil {
		return err
	}
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			if (key == "overrun" || key == "dropped events") && value != "0" {
				return fmt.Errorf("the kernel dropped trace events: %s %s", key, value)
			}
		}
	}
	return nil
}

func (o *Observer) remove() error {
	var errs []error
	if o.instance != "" {
		for _, e := range events {
			_ = o.write("events/"+e+"/enable", "0") // the rmdir below fails if it matters
		}
	}
	if o.pipe >= 0 {
		errs = append(errs, unix.Close(o.pipe))
	}
	if o.instance != "" {
		errs = append(errs, unix.Rmdir(o.instance))
	}
	if o.mounted != "" {
		errs = append(errs, unix.Unmount(o.mounted, 0), os.Remove(o.mounted))
	}
	return errors.Join(errs...)
}

// Monotonic reads the clock of the stamps.
func Monotonic() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail for this clock
	return time.Duration(ts.Nano())
}

func atoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return -1
	}
	return n
}
