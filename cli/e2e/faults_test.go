package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Each fault hits a task in the middle; afterwards the bill is exact to the
// millisecond, nothing is charged twice and no record waits on the host.
func TestBillIsExactThrough(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault func(t *testing.T, f *fixture)
	}{
		{"nothing", func(*testing.T, *fixture) {}},
		{"kill -9 of the plugin", func(t *testing.T, f *fixture) {
			kill(t, pluginPid(t, f), syscall.SIGKILL)
		}},
		{"kill -9 of hostd", func(t *testing.T, f *fixture) {
			kill(t, hostdPid(t, f), syscall.SIGKILL)
		}},
		{"SIGTERM of hostd", func(t *testing.T, f *fixture) {
			kill(t, hostdPid(t, f), syscall.SIGTERM)
		}},
		{"kill -9 of plugin and hostd", func(t *testing.T, f *fixture) {
			kill(t, pluginPid(t, f), syscall.SIGKILL)
			kill(t, hostdPid(t, f), syscall.SIGKILL)
		}},
		{"kill -9 of the Nomad client and its restart", func(t *testing.T, f *fixture) {
			agent := f.cluster.Hosts[0].Agent
			if err := agent.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := agent.Start(); err != nil {
				t.Fatal(err)
			}
		}},
		{"SIGTERM of the Nomad client and its restart", func(t *testing.T, f *fixture) {
			agent := f.cluster.Hosts[0].Agent
			if err := agent.Stop(20 * time.Second); err != nil {
				t.Fatal(err)
			}
			if err := agent.Start(); err != nil {
				t.Fatal(err)
			}
		}},
		{"kill -9 of the settlement server and its restart", func(t *testing.T, f *fixture) {
			if err := f.cluster.Server.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := f.cluster.RestartServer(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
		{"the task ends while the settlement server is down", func(t *testing.T, f *fixture) {
			if err := f.cluster.Server.Stop(10 * time.Second); err != nil {
				t.Fatal(err)
			}
			time.Sleep(4 * time.Second)
			if err := f.cluster.RestartServer(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := cluster(t)
			_, alloc := f.submit(t, sleepFor(3500*time.Millisecond))
			before := f.running(t, alloc)
			time.Sleep(500 * time.Millisecond) // into the middle
			tc.fault(t, f)
			lease := f.closed(t, alloc, 60*time.Second)
			if lease.Id != before.Id {
				t.Errorf("got lease L%d, the task began under L%d", lease.Id, before.Id)
			}
			f.exact(t, lease, "sleep")
			f.spoolsEmpty(t)
			if err := f.cluster.WaitHost(t.Context(), f.cluster.Hosts[0]); err != nil {
				t.Error(err)
			}
		})
	}
}

// The CPU of a task that burns is billed, and no more than there was wall time.
func TestCPUIsBilled(t *testing.T) {
	f := cluster(t)
	_, alloc := f.submit(t, task{command: "/bin/bash", args: []string{"-c", "end=$((SECONDS+2)); while ((SECONDS < end)); do :; done"}})
	lease := f.closed(t, alloc, 30*time.Second)
	f.exact(t, lease, "bash")
	if lease.Billed.CpuMs == 0 || lease.Billed.CpuMs > lease.Billed.WallMs+20 {
		t.Errorf("got %d ms of CPU in %d ms of wall time of one busy loop", lease.Billed.CpuMs, lease.Billed.WallMs)
	}
	if want := lease.Billed.WallMs * 64; lease.Billed.MemoryMibMs != want {
		t.Errorf("got %d MiB·ms, want %d", lease.Billed.MemoryMibMs, want)
	}
}

// A shim that is killed costs the supplier what came after the last
// checkpoint, is flagged, and leaves no process behind.
func TestShimKilledIsNeverOverpaid(t *testing.T) {
	f := cluster(t)
	job, alloc := f.submit(t, sleepFor(20*time.Second))
	f.running(t, alloc)
	time.Sleep(500 * time.Millisecond)
	start := time.Now()
	kill(t, findProcess(t, "joule-shim", f.dir), syscall.SIGKILL)
	lease := f.closed(t, alloc, 30*time.Second)
	if lease.Billed.WallMs > uint64(time.Since(start).Milliseconds()+5000) {
		t.Errorf("billed %d ms", lease.Billed.WallMs)
	}
	if !strings.Contains(strings.Join(lease.Quality, " "), "exit_estimated") {
		t.Errorf("got quality %v, want exit_estimated", lease.Quality)
	}
	f.provenCharge(t, lease)
	eventually(t, 10*time.Second, "end of "+job, func() error {
		if pids := processes(t, "sleep", "20"); len(pids) > 0 {
			return fmt.Errorf("processes %v still run", pids)
		}
		return nil
	})
}

func kill(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatalf("signal %d: %v", pid, err)
	}
}

func hostdPid(t *testing.T, f *fixture) int {
	t.Helper()
	info, err := f.cluster.Hosts[0].Hostd().Host(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info.Pid
}

// pluginPid is the plugin process of the first host's agent.
func pluginPid(t *testing.T, f *fixture) int {
	t.Helper()
	agent := f.cluster.Hosts[0].Agent.Pid()
	for _, pid := range processes(t, "nomad-driver-joule") {
		if parent(pid) == agent {
			return pid
		}
	}
	t.Fatalf("no plugin process below agent %d", agent)
	return 0
}

// findProcess is the one process with both words in its command line.
func findProcess(t *testing.T, words ...string) int {
	t.Helper()
	pids := processes(t, words...)
	if len(pids) != 1 {
		t.Fatalf("got processes %v with %q, want one", pids, words)
	}
	return pids[0]
}

func processes(t *testing.T, words ...string) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
next:
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended meanwhile
		}
		line := string(bytes.ReplaceAll(b, []byte{0}, []byte(" ")))
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

func parent(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(after)
	if len(f) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(f[1])
	return ppid
}
