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

	"github.com/joulecloud/joule/cli/devcluster"
)

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

func kill(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatalf("signal %d: %v", pid, err)
	}
}

func hostdPid(t *testing.T, h *devcluster.Host) int {
	t.Helper()
	info, err := h.Hostd().Host(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info.Pid
}

// pluginPid is the plugin process of the host's agent.
func pluginPid(t *testing.T, h *devcluster.Host) int {
	t.Helper()
	agent := h.Agent.Pid()
	for _, pid := range processes(t, "nomad-driver-joule") {
		if parent(pid) == agent {
			return pid
		}
	}
	t.Fatalf("no plugin process below agent %d", agent)
	return 0
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
