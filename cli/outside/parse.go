package outside

import (
	"cmp"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// event is one line of trace_pipe.
type event struct {
	at    time.Duration
	name  string
	pid   int    // the process or thread that the event is about
	child int    // fork
	text  string // exec: the file name; attach: the cgroup's path
	dead  bool   // exit: the last thread of its process, where the kernel says so
}

// "  sleep-4711    [001] d..2.  1234.567890: sched_process_exec: filename=/bin/sleep pid=4711 old_pid=4711"
var lineRE = regexp.MustCompile(`^.+-\d+\s+\[\d+\]\s+\S+\s+(\d+)\.(\d{6}): (\w+): (.*)$`)

var fieldREs = map[string]*regexp.Regexp{
	"sched_process_fork": regexp.MustCompile(`^comm=.* pid=(\d+) child_comm=.* child_pid=(\d+)$`),
	"sched_process_exec": regexp.MustCompile(`^filename=(.*) pid=(\d+) old_pid=\d+$`),
	"sched_process_exit": regexp.MustCompile(`^comm=.* pid=(\d+) prio=\d+(?: group_dead=(true|false))?$`),
	"cgroup_attach_task": regexp.MustCompile(`^dst_root=\d+ dst_id=\d+ dst_level=\d+ dst_path=(\S+) pid=(\d+) comm=.*$`),
}

// parse reads one line; ok is false for lines of other kinds.
func parse(line string) (e event, ok bool, err error) {
	m := lineRE.FindStringSubmatch(line)
	if m == nil {
		if strings.Contains(line, "LOST") {
			return e, false, fmt.Errorf("the kernel dropped trace events: %s", strings.TrimSpace(line))
		}
		return e, false, nil
	}
	re := fieldREs[m[3]]
	if re == nil {
		return e, false, nil
	}
	f := re.FindStringSubmatch(m[4])
	if f == nil {
		return e, false, fmt.Errorf("unknown form of trace event: %q", line)
	}
	sec, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		return e, false, fmt.Errorf("trace event %q: %w", line, err)
	}
	e = event{at: time.Duration(sec)*time.Second + time.Duration(atoi(m[2]))*time.Microsecond, name: m[3]}
	switch e.name {
	case "sched_process_fork":
		e.pid, e.child = atoi(f[1]), atoi(f[2])
	case "sched_process_exec":
		e.text, e.pid = f[1], atoi(f[2])
	case "sched_process_exit":
		e.pid, e.dead = atoi(f[1]), f[2] != "false"
	case "cgroup_attach_task":
		e.text, e.pid = f[1], atoi(f[2])
	}
	return e, true, nil
}

// resolve follows every process into its container and finds the runs.
func resolve(events []event, parent, command string) []Run {
	events = slices.Clone(events)
	slices.SortStableFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	var runs []Run
	container := map[int]string{} // by pid
	running := map[int]int{}      // pid → index in runs
	// A process ends with its last thread, which need not be the first one.
	thread := map[int]int{}         // of a running process → its pid
	gone := map[int]bool{}          // pid: the first thread has ended, others had not
	last := map[int]time.Duration{} // pid: when a last thread ended
	end := func(pid int, at time.Duration) {
		runs[running[pid]].Exit = at
		delete(running, pid)
		delete(gone, pid)
		delete(last, pid)
	}
	for _, e := range events {
		switch e.name {
		case "sched_process_fork":
			delete(container, e.child) // the number may have been another process's
			delete(thread, e.child)
			if _, ok := running[e.pid]; ok {
				thread[e.child] = e.pid
			} else if p, ok := thread[e.pid]; ok {
				thread[e.child] = p
			}
			if c, ok := container[e.pid]; ok {
				container[e.child] = c
			}
		case "cgroup_attach_task":
			if path.Base(path.Dir(e.text)) == parent {
				container[e.pid] = path.Base(e.text)
			}
		case "sched_process_exec":
			delete(thread, e.pid) // a process of its own
			c, ok := container[e.pid]
			if _, again := running[e.pid]; ok && !again && path.Base(e.text) == command {
				running[e.pid] = len(runs)
				runs = append(runs, Run{Container: c, Pid: e.pid, Exec: e.at})
			}
		case "sched_process_exit":
			p, isThread := thread[e.pid]
			_, isFirst := running[e.pid]
			switch {
			case isFirst && e.dead:
				end(e.pid, e.at)
			case isFirst && last[e.pid] > 0: // seen a moment too late, from another core
				end(e.pid, last[e.pid])
			case isFirst:
				gone[e.pid] = true
			case isThread && e.dead && gone[p]:
				end(p, e.at)
			case isThread && e.dead:
				last[p] = e.at
			}
		}
	}
	return runs
}
