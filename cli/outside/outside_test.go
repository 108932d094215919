package outside

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// A process that a shell moves into a cgroup named joule/<id> is found, with a
// run time that agrees with its own sleep.
func TestObserverSeesARun(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	root := "/sys/fs/cgroup/unified"
	if _, err := os.Stat(root); err != nil {
		root = "/sys/fs/cgroup"
	}
	if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
		t.Skip("needs a cgroup v2 hierarchy")
	}
	parent := filepath.Join(root, "outside-test")
	group := filepath.Join(parent, "c1")
	if err := os.MkdirAll(group, 0o755); err != nil {
		t.Skipf("needs a writable cgroup hierarchy: %v", err)
	}
	t.Cleanup(func() { os.Remove(group); os.Remove(parent) })

	o, err := Start()
	if err != nil {
		t.Skipf("needs tracefs: %v", err)
	}
	cmd := exec.Command("/bin/sh", "-c", `echo $$ > "$0/cgroup.procs" && exec sleep 0.05`, group)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := o.Stop(); err != nil {
		t.Fatal(err)
	}
	runs, err := o.Runs("outside-test", "sleep")
	if err != nil {
		t.Fatal(err)
	}
	if len(runs) != 1 || runs[0].Container != "c1" {
		t.Fatalf("got runs %+v, want one in container c1", runs)
	}
	if w := runs[0].Wall(); w < 50*time.Millisecond || w > 5*time.Second {
		t.Errorf("got wall %s, want 50 ms or a little more", w)
	}
}

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name, line string
		want       event
		ok, fails  bool
	}{
		{name: "an exec", ok: true,
			line: "           sleep-4711    [001] d..2.  1234.567890: sched_process_exec: filename=/bin/sleep pid=4711 old_pid=4711",
			want: event{at: 1234567890 * time.Microsecond, name: "sched_process_exec", pid: 4711, text: "/bin/sleep"}},
		{name: "an exit of the last thread", ok: true,
			line: " my prog-x-4711    [001] .....  5.000001: sched_process_exit: comm=my prog-x pid=4711 prio=120 group_dead=true",
			want: event{at: 5000001 * time.Microsecond, name: "sched_process_exit", pid: 4711, dead: true}},
		{name: "an exit of another thread", ok: true,
			line: " a-12    [000] .....  5.000001: sched_process_exit: comm=a pid=12 prio=120 group_dead=false",
			want: event{at: 5000001 * time.Microsecond, name: "sched_process_exit", pid: 12}},
		{name: "an exit as older kernels write it", ok: true,
			line: " a-12    [000] .....  5.000001: sched_process_exit: comm=a pid=12 prio=120",
			want: event{at: 5000001 * time.Microsecond, name: "sched_process_exit", pid: 12, dead: true}},
		{name: "a fork", ok: true,
			line: " a-12    [000] .....  5.000001: sched_process_fork: comm=a pid=12 child_comm=a child_pid=13",
			want: event{at: 5000001 * time.Microsecond, name: "sched_process_fork", pid: 12, child: 13}},
		{name: "an attach", ok: true,
			line: " a-12    [000] .....  5.000001: cgroup_attach_task: dst_root=0 dst_id=99 dst_level=2 dst_path=/joule/abc pid=12 comm=runc:[2:INIT]",
			want: event{at: 5000001 * time.Microsecond, name: "cgroup_attach_task", pid: 12, text: "/joule/abc"}},
		{name: "a loss is an error", line: "CPU:1 [LOST 12 EVENTS]", fails: true},
		{name: "another event is skipped", line: " a-12    [000] .....  5.000001: sched_switch: x"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, ok, err := parse(tc.line)
			if (err != nil) != tc.fails || ok != tc.ok || got != tc.want {
				t.Errorf("got %+v, %v, %v, want %+v, %v", got, ok, err, tc.want, tc.ok)
			}
		})
	}
}

func TestResolveFollowsForksAndIgnoresReusedPids(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	got := resolve([]event{
		{at: ms(1), name: "cgroup_attach_task", pid: 10, text: "/joule/one"},
		{at: ms(2), name: "sched_process_fork", pid: 10, child: 11},
		{at: ms(3), name: "sched_process_exec", pid: 11, text: "/usr/bin/sleep"},
		{at: ms(9), name: "sched_process_exit", pid: 11, dead: true},
		{at: ms(10), name: "sched_process_fork", pid: 99, child: 11},
		{at: ms(11), name: "sched_process_exec", pid: 11, text: "/usr/bin/sleep"},
	}, "joule", "sleep")
	if len(got) != 1 || got[0].Container != "one" || got[0].Wall() != ms(6) {
		t.Errorf("got %+v, want one run of 6 ms in container one", got)
	}
}

// A process with threads ends with the last of them, whichever that is and in
// whichever order the cores tell of it.
func TestResolveThreads(t *testing.T) {
	at := func(us int) time.Duration { return time.Duration(us) * time.Microsecond }
	begin := []event{
		{at: at(1), name: "cgroup_attach_task", pid: 10, text: "/joule/c"},
		{at: at(2), name: "sched_process_exec", pid: 10, text: "/bin/app"},
		{at: at(3), name: "sched_process_fork", pid: 10, child: 11},
		{at: at(4), name: "sched_process_fork", pid: 11, child: 12},
	}
	for name, ends := range map[string][]event{
		"first thread last": {{at: at(5), name: "sched_process_exit", pid: 11}, {at: at(9), name: "sched_process_exit", pid: 10, dead: true}},
		"another last":      {{at: at(5), name: "sched_process_exit", pid: 10}, {at: at(9), name: "sched_process_exit", pid: 12, dead: true}},
		"told too late":     {{at: at(9), name: "sched_process_exit", pid: 12, dead: true}, {at: at(10), name: "sched_process_exit", pid: 10}},
	} {
		runs := resolve(append(slices.Clone(begin), ends...), "joule", "app")
		if len(runs) != 1 || runs[0].Exec != at(2) || runs[0].Exit != at(9) || runs[0].Container != "c" {
			t.Errorf("%s: got %+v, want one run from 2 to 9 µs", name, runs)
		}
	}
}
