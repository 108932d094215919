package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/joulecloud/joule/cli/devcluster"
	"github.com/joulecloud/joule/cli/outside"
	"github.com/joulecloud/joule/driver/cgroup"
	"github.com/joulecloud/joule/driver/hostapi"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

// member is one of the tasks that a fault hits.
type member struct {
	name      string
	alloc     string
	lease     *joulev1.Lease
	container string
}

// members are a short task, which may end during the fault, a long one and one
// that is frozen while it happens.
func (f *fixture) members(t *testing.T, h *devcluster.Host) []*member {
	t.Helper()
	var all []*member
	for _, m := range []struct {
		name string
		runs time.Duration
	}{{"short", 1500 * time.Millisecond}, {"long", 6 * time.Second}, {"frozen", 3 * time.Second}} {
		spec := sleepFor(m.runs)
		spec.host = h.Name
		_, alloc := f.submit(t, spec)
		all = append(all, &member{name: m.name, alloc: alloc})
	}
	for _, m := range all {
		m.lease = f.begun(t, m.alloc)
		m.container = hostapi.ContainerID(m.alloc + "/main/" + m.lease.Invocation)
	}
	return all
}

// begun waits for the allocation's lease and for its task's first instruction.
// The task may be over by then.
func (f *fixture) begun(t *testing.T, alloc string) *joulev1.Lease {
	t.Helper()
	var lease *joulev1.Lease
	eventually(t, 30*time.Second, "lease", func() error {
		ls := f.leases(t, alloc)
		if len(ls) != 1 {
			return fmt.Errorf("%d leases", len(ls))
		}
		lease = ls[0]
		_, err := f.seen(hostapi.ContainerID(alloc+"/main/"+lease.Invocation), "sleep")
		return err
	})
	return lease
}

// seen is what the observer saw of the command in a container.
func (f *fixture) seen(container, command string) (outside.Run, error) {
	runs, err := f.observer.Runs("joule", command)
	if err != nil {
		return outside.Run{}, err
	}
	for _, r := range runs {
		if r.Container == container {
			return r, nil
		}
	}
	return outside.Run{}, fmt.Errorf("the observer saw no %s in container %s", command, container)
}

// freezer is the file that freezes the task, "" where it has no cgroup.
func (m *member) freezer() string {
	for _, root := range []string{cgroup.DefaultRoot + "/unified", cgroup.DefaultRoot} {
		if p := filepath.Join(root, cgroup.Parent, m.container, "cgroup.freeze"); exists(p) {
			return p
		}
	}
	return ""
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// freeze stops the task where it is, or lets it go on.
func (m *member) freeze(t *testing.T, on string) {
	t.Helper()
	if p := m.freezer(); p != "" {
		if err := os.WriteFile(p, []byte(on), 0); err != nil && !errors.Is(err, syscall.ENODEV) && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	}
}

// A fault hits a host, or the whole cluster, in the middle of its tasks.
type fault struct {
	name string
	host int           // whose; see TestCrashMatrix
	gap  time.Duration // the bill may have a flagged gap of that length; 0: it must be exact
	hit  func(t *testing.T, f *fixture, h *devcluster.Host, tasks []*member)
}

const (
	// checkpointGap is how much of a task's last moments nobody may know of: two
	// seconds of hostd's, and what a busy machine adds.
	checkpointGap = 2500 * time.Millisecond
	fullFor       = 3 * time.Second
)

func faults() []fault {
	return []fault{
		{"nothing", 0, 0, func(*testing.T, *fixture, *devcluster.Host, []*member) {}},
		{"kill -9 of the plugin", 0, 0, func(t *testing.T, f *fixture, h *devcluster.Host, _ []*member) {
			kill(t, pluginPid(t, h), syscall.SIGKILL)
		}},
		{"kill -9 of hostd", 0, 0, func(t *testing.T, f *fixture, h *devcluster.Host, _ []*member) {
			kill(t, hostdPid(t, h), syscall.SIGKILL)
		}},
		{"SIGTERM of hostd", 1, 0, func(t *testing.T, f *fixture, h *devcluster.Host, _ []*member) {
			kill(t, hostdPid(t, h), syscall.SIGTERM)
		}},
		{"kill -9 of plugin and hostd", 1, 0, func(t *testing.T, f *fixture, h *devcluster.Host, _ []*member) {
			kill(t, pluginPid(t, h), syscall.SIGKILL)
			kill(t, hostdPid(t, h), syscall.SIGKILL)
		}},
		{"hostd stopped for three seconds", 0, 0, func(t *testing.T, f *fixture, h *devcluster.Host, _ []*member) {
			pid := hostdPid(t, h)
			kill(t, pid, syscall.SIGSTOP)
			time.Sleep(3 * time.Second)
			kill(t, pid, syscall.SIGCONT)
		}},
		{"kill -9 of the Nomad client and its restart", 1, 0, func(t *testing.T, f *fixture, h *devcluster.Host, _ []*member) {
			if err := errors.Join(h.Agent.Kill(), h.Agent.Start()); err != nil {
				t.Fatal(err)
			}
		}},
		{"SIGTERM of the Nomad client and its restart", 0, 0, func(t *testing.T, f *fixture, h *devcluster.Host, _ []*member) {
			if err := errors.Join(h.Agent.Stop(20*time.Second), h.Agent.Start()); err != nil {
				t.Fatal(err)
			}
		}},
		{"kill -9 of the shims", 1, checkpointGap, func(t *testing.T, f *fixture, h *devcluster.Host, _ []*member) {
			for _, pid := range shims(t, h) {
				kill(t, pid, syscall.SIGKILL)
			}
		}},
		{"the runtime replaced by a newer one", 0, 0, func(t *testing.T, f *fixture, h *devcluster.Host, _ []*member) {
			newRuntime(t, f.programs.Runtime)
		}},
		{"plugin and hostd upgraded in place", 1, 0, func(t *testing.T, f *fixture, h *devcluster.Host, _ []*member) {
			upgrade(t, f, h)
		}},
		{"the spool torn", 0, 0, func(t *testing.T, f *fixture, h *devcluster.Host, _ []*member) {
			pid := hostdPid(t, h)
			kill(t, pid, syscall.SIGSTOP) // the plugin starts another as soon as this one is dead
			tear(t, filepath.Join(h.DataDir(), "spool.db"))
			kill(t, pid, syscall.SIGKILL)
		}},
		{"the disk full", 1, checkpointGap + fullFor, func(t *testing.T, f *fixture, h *devcluster.Host, _ []*member) {
			full(t, h.DataDir(), fullFor)
		}},
		{"the host restarted", 1, checkpointGap, func(t *testing.T, f *fixture, h *devcluster.Host, tasks []*member) {
			time.Sleep(checkpointGap) // until something is recorded of every task
			reboot(t, h, tasks)
		}},
		{"kill -9 of the settlement server and its restart", 2, 0, func(t *testing.T, f *fixture, _ *devcluster.Host, _ []*member) {
			if err := f.cluster.Server.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := f.cluster.RestartServer(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
		{"settlement unreachable for long", 2, 0, func(t *testing.T, f *fixture, _ *devcluster.Host, _ []*member) {
			if err := f.cluster.Server.Stop(10 * time.Second); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second) // longer than every wait of a session
			if err := f.cluster.RestartServer(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
	}
}

// Each fault hits a short, a long and a frozen task in the middle. Afterwards
// each bill is exact to the millisecond, or has a gap that is flagged, and is
// never more than what was used; Nomad knows how each task ended; and nothing of
// them is left on the host. Faults of the two hosts run side by side; those of
// settlement hit both.
func TestCrashMatrix(t *testing.T) {
	f := cluster(t)
	t.Run("hosts", func(t *testing.T) {
		for i, h := range f.cluster.Hosts {
			t.Run(h.Name, func(t *testing.T) {
				t.Parallel()
				for _, fault := range faults() {
					if fault.host == i {
						t.Run(fault.name, func(t *testing.T) { f.crash(t, h, fault) })
					}
				}
			})
		}
	})
	for _, fault := range faults() {
		if fault.host == len(f.cluster.Hosts) {
			t.Run(fault.name, func(t *testing.T) { f.crash(t, f.cluster.Hosts[0], fault) })
		}
	}
}

func (f *fixture) crash(t *testing.T, h *devcluster.Host, fault fault) {
	tasks := f.members(t, h)
	frozen := tasks[len(tasks)-1]
	frozen.freeze(t, "1")
	fault.hit(t, f, h, tasks)
	frozen.freeze(t, "0")
	for _, m := range tasks {
		lease := f.closed(t, m.alloc, 60*time.Second)
		if lease.Id != m.lease.Id {
			t.Errorf("%s: got lease L%d, the task began under L%d", m.name, lease.Id, m.lease.Id)
		}
		ended := f.judge(t, m, lease, fault.gap)
		f.knows(t, m, ended)
	}
	f.spoolEmpty(t, h)
	if err := f.cluster.WaitHost(t.Context(), h); err != nil {
		t.Error(err)
	}
	for _, m := range tasks {
		f.nothingLeft(t, m)
	}
}

// judge compares a bill with what the observer saw. It returns the status that
// Nomad must have.
func (f *fixture) judge(t *testing.T, m *member, lease *joulev1.Lease, gap time.Duration) (status string) {
	t.Helper()
	var run outside.Run
	eventually(t, 5*time.Second, "end of "+m.name, func() (err error) {
		if run, err = f.seen(m.container, "sleep"); err == nil && run.Exit == 0 {
			err = errors.New("it still runs")
		}
		return err
	})
	outsideMs := float64(run.Wall().Microseconds()) / 1000
	apart := float64(lease.Billed.WallMs) - outsideMs
	t.Logf("%s: billed %d ms, outside %.3f ms: %+.3f ms apart, quality %v", m.name, lease.Billed.WallMs, outsideMs, apart, lease.Quality)
	switch {
	case apart > 1:
		t.Errorf("%s: overpaid by %.3f ms", m.name, apart)
	case len(lease.Quality) == 0 && apart < -1:
		t.Errorf("%s: %.3f ms are missing, and no flag says so", m.name, -apart)
	case len(lease.Quality) > 0 && gap == 0:
		t.Errorf("%s: got quality flags %v, want none", m.name, lease.Quality)
	case -apart > float64(gap.Milliseconds()+1):
		t.Errorf("%s: %.3f ms are missing, want at most %v", m.name, -apart, gap)
	}
	f.provenCharge(t, lease)
	if slices.Contains(lease.Quality, "exit_estimated") {
		return api.AllocClientStatusFailed
	}
	return api.AllocClientStatusComplete
}

// knows waits until Nomad has the task's end as it was.
func (f *fixture) knows(t *testing.T, m *member, status string) {
	t.Helper()
	eventually(t, 30*time.Second, "status "+status+" of "+m.name, func() error {
		a, _, err := f.cluster.NomadAPI.Allocations().Info(m.alloc, nil)
		if err != nil {
			return err
		}
		if a.ClientStatus != status {
			return fmt.Errorf("allocation is %s: %s", a.ClientStatus, taskEvents(a))
		}
		return nil
	})
}

// nothingLeft waits until no process, cgroup or mount of the task is left.
func (f *fixture) nothingLeft(t *testing.T, m *member) {
	t.Helper()
	eventually(t, 20*time.Second, "clean host after "+m.name, func() error {
		var left []string
		for _, pattern := range []string{cgroup.DefaultRoot + "/joule/", cgroup.DefaultRoot + "/*/joule/"} {
			found, err := filepath.Glob(pattern + m.container)
			if err != nil {
				return err
			}
			left = append(left, found...)
		}
		for _, pid := range processes(t, m.container) {
			left = append(left, fmt.Sprintf("process %d", pid))
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(mounts)) {
			if strings.Contains(line, m.container) {
				left = append(left, line)
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("left: %q", left)
		}
		return nil
	})
}

// shims are the host's.
func shims(t *testing.T, h *devcluster.Host) []int {
	t.Helper()
	return processes(t, "joule-shim", h.DataDir())
}

// replaceFile puts another file with the content in the place of path, as a
// package manager does.
func replaceFile(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path+".new", content, 0o755), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

// newRuntime replaces the OCI runtime by one that calls itself newer.
func newRuntime(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	old := path + ".old"
	if err := os.WriteFile(old, b, 0o755); err != nil {
		t.Fatal(err)
	}
	replaceFile(t, path, fmt.Appendf(nil, "#!/bin/sh\n[ \"$1\" != --version ] || { echo runc version 9.9.9; exit; }\nexec %s \"$@\"\n", old))
	t.Cleanup(func() { replaceFile(t, path, b) })
}

// upgrade replaces every program of the host while they run, and has plugin and
// hostd start anew from what was installed.
func upgrade(t *testing.T, f *fixture, h *devcluster.Host) {
	t.Helper()
	for _, path := range []string{f.programs.Joule, f.programs.Shim, filepath.Join(f.programs.PluginDir, "nomad-driver-joule")} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		replaceFile(t, path, b)
	}
	kill(t, pluginPid(t, h), syscall.SIGKILL)
	kill(t, hostdPid(t, h), syscall.SIGTERM)
	eventually(t, 30*time.Second, "hostd of the new version", func() error {
		info, err := h.Hostd().Host(t.Context())
		if err != nil {
			return err
		}
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", info.Pid))
		if err == nil && exe != f.programs.Joule {
			err = fmt.Errorf("it runs %s", exe)
		}
		return err
	})
}

// tear makes a database of which the middle is lost.
func tear(t *testing.T, path string) {
	t.Helper()
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	info, err := w.Stat()
	if err != nil {
		t.Fatal(err)
	}
	junk := make([]byte, info.Size())
	for i := range junk {
		junk[i] = 0xa5
	}
	if _, err := w.WriteAt(junk, 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Truncate(info.Size()/2), w.Close()); err != nil {
		t.Fatal(err)
	}
}

// full leaves the host's file system, a tmpfs, no more room for a while.
func full(t *testing.T, dir string, wait time.Duration) {
	t.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		t.Fatal(err)
	}
	used := (s.Blocks - s.Bfree) * uint64(s.Bsize)
	size := func(n uint64) {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, fmt.Sprintf("size=%d", n)); err != nil {
			t.Fatal(err)
		}
	}
	size(max(used, uint64(s.Bsize)))
	if err := os.WriteFile(filepath.Join(dir, "probe"), make([]byte, 1<<16), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the disk isn't full: a write gives %v", err)
	}
	_ = os.Remove(filepath.Join(dir, "probe"))
	time.Sleep(wait)
	size(tmpfsBytes)
}

// reboot ends every process of the host at once and makes what is on disk
// another boot's.
func reboot(t *testing.T, h *devcluster.Host, tasks []*member) {
	t.Helper()
	agent, plugin, hostd := h.Agent.Pid(), pluginPid(t, h), hostdPid(t, h)
	children := processes(t)
	children = slices.DeleteFunc(children, func(pid int) bool { return parent(pid) != agent })
	if err := h.Agent.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range append(append(children, plugin, hostd), shims(t, h)...) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
	}
	for _, m := range tasks {
		if p := m.freezer(); p != "" {
			if err := os.WriteFile(filepath.Join(filepath.Dir(p), "cgroup.kill"), []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
	}
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	now := strings.TrimSpace(string(b))
	changed := 0
	for _, m := range tasks {
		files, err := filepath.Glob(filepath.Join(h.DataDir(), "tasks", m.container, "*.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if text := strings.ReplaceAll(string(b), now, "00000000-1111-2222-3333-444444444444"); text != string(b) {
				changed++
				replaceFile(t, file, []byte(text))
			}
		}
	}
	if changed == 0 {
		t.Error("no task has the boot id on its disk")
	}
	if err := h.Agent.Start(); err != nil {
		t.Fatal(err)
	}
}
