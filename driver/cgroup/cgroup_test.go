package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func ptr(v uint64) *uint64 { return &v }

// tree makes files below a temporary root.
func tree(tb testing.TB, files map[string]string) string {
	tb.Helper()
	root := tb.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	return root
}

func TestDetect(t *testing.T) {
	for _, tt := range []struct {
		name      string
		files     map[string]string
		wantMode  Mode
		wantCPU   string
		wantStats Stats
	}{
		{
			"v2", map[string]string{
				"cgroup.controllers":            "cpu memory pids\n",
				"joule/t/memory.current":        "4096\n",
				"joule/t/memory.peak":           "8192\n",
				"joule/t/memory.stat":           "anon 1024\nfile 5\n",
				"joule/t/memory.events":         "low 0\noom 1\noom_kill 2\n",
				"joule/t/pids.current":          "3\n",
				"unified/cgroup.controllers.no": "",
			}, V2, "joule/t",
			Stats{MemoryBytes: ptr(4096), MemoryRSSBytes: ptr(1024), MemoryMaxBytes: ptr(8192), OOMKills: ptr(2), Pids: ptr(3)},
		},
		{
			"hybrid", map[string]string{
				"unified/cgroup.controllers":          "\n",
				"cpu,cpuacct/cgroup.procs":            "",
				"memory/cgroup.procs":                 "",
				"memory/joule/t/memory.oom_control":   "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
				"memory/joule/t/memory.stat":          "rss 1\ntotal_rss 77\n",
				"memory/joule/t/memory.limit.ignored": "",
			}, Hybrid, "unified/joule/t",
			Stats{MemoryRSSBytes: ptr(77), OOMKills: ptr(1)},
		},
		{
			"v1 with joined controllers", map[string]string{
				"cpu,cpuacct/cgroup.procs":  "",
				"pids/cgroup.procs":         "",
				"pids/joule/t/pids.current": "max\n",
			}, V1, "cpu,cpuacct/joule/t", Stats{},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := tree(t, tt.files)
			if tt.wantMode == V1 {
				if err := os.Symlink("cpu,cpuacct", filepath.Join(root, "cpuacct")); err != nil {
					t.Fatal(err)
				}
			}
			h, err := Detect(root)
			if err != nil {
				t.Fatal(err)
			}
			g, err := h.Group("t")
			if err != nil {
				t.Fatal(err)
			}
			if h.Mode != tt.wantMode || g.CPUDir() != filepath.Join(root, tt.wantCPU) {
				t.Errorf("got mode %s and CPU in %s, want %s and %s", h.Mode, g.CPUDir(), tt.wantMode, tt.wantCPU)
			}
			if diff := cmp.Diff(tt.wantStats, g.Stats()); diff != "" {
				t.Errorf("stats (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDetectNothing(t *testing.T) {
	if _, err := Detect(t.TempDir()); !errors.Is(err, ErrNoCgroups) {
		t.Errorf("got %v, want ErrNoCgroups", err)
	}
	if _, err := Detect("/nonexistent"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want ErrNotExist", err)
	}
}

func TestGroupNames(t *testing.T) {
	h, err := Detect(tree(t, map[string]string{"cgroup.controllers": ""}))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", ".", "..", "a/b", "../x", "a\nb"} {
		if _, err := h.Group(id); err == nil {
			t.Errorf("id %q: got no error", id)
		}
	}
	if g, err := h.Group("a-b"); err != nil || g.OCIPath() != "/joule/a-b" {
		t.Errorf("got %v %v, want /joule/a-b", g, err)
	}
}

func TestParseCPU(t *testing.T) {
	got, err := parseCPUStat([]byte("usage_usec 1500700\nuser_usec 1000000\nsystem_usec 500700\nnice_usec 0\n"))
	want := CPUStat{UsageUsec: 1500700, UserUsec: ptr(1000000), SystemUsec: ptr(500700)}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	got, err = parseCPUAcct([]byte("1500700999\n"))
	if diff := cmp.Diff(CPUStat{UsageUsec: 1500700}, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for _, bad := range []string{"", "user_usec 1\n", "usage_usec x\n", "usage_usec -1\n", "usage_usec 99999999999999999999\n"} {
		if s, err := parseCPUStat([]byte(bad)); err == nil {
			t.Errorf("cpu.stat %q: got %+v, want an error", bad, s)
		}
	}
	if s, err := parseCPUAcct(nil); err == nil {
		t.Errorf("empty cpuacct.usage: got %+v, want an error", s)
	}
	if _, err := OpenCPU(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no meter: got %v, want ErrNotExist", err)
	}
}

// hosts are this machine as it is, and as if it had v1 hierarchies only.
func hosts(tb testing.TB) []*Host {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Skip("needs root")
	}
	h, err := Detect(DefaultRoot)
	if err != nil {
		tb.Skipf("needs cgroups: %v", err)
	}
	tb.Cleanup(h.Tidy)
	out := []*Host{h}
	if h.Mode == Hybrid {
		v1 := &Host{Mode: V1, v1: h.v1}
		for _, d := range h.all {
			if d != h.unified {
				v1.all = append(v1.all, d)
			}
		}
		out = append(out, v1)
	}
	return out
}

func startIn(tb testing.TB, dirs []string, script string) *exec.Cmd {
	tb.Helper()
	cmd := exec.Command("/bin/sh", "-c", "read x; "+script)
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o755); err != nil {
			tb.Fatal(err)
		}
		for range 2 { // the second time it is there already
			if err := Add(d, cmd.Process.Pid); err != nil {
				tb.Fatal(err)
			}
		}
	}
	_, _ = fmt.Fprintln(in)
	return cmd
}

func TestLifeOfAGroup(t *testing.T) {
	for _, h := range hosts(t) {
		t.Run(string(h.Mode), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			g, err := h.Group(fmt.Sprintf("test-life-%d", os.Getpid()))
			if err != nil {
				t.Fatal(err)
			}
			if err := g.Create(); err != nil {
				t.Skipf("needs a writable cgroup hierarchy: %v", err)
			}
			t.Cleanup(func() {
				if err := errors.Join(g.Kill(), g.Remove(context.Background())); err != nil {
					t.Error(err)
				}
			})
			cpu, err := OpenCPU(g.CPUDir())
			if err != nil {
				t.Fatal(err)
			}
			defer cpu.Close()
			dirs := []string{g.CPUDir()}
			if h.Mode == V1 {
				dirs = append(dirs, g.controller("freezer"))
			}
			base := usage(t, cpu)
			cmd := startIn(t, dirs, "while :; do :; done & while :; do :; done")
			for usage(t, cpu) < base+20_000 {
				time.Sleep(time.Millisecond)
			}

			if err := g.Freeze(ctx); err != nil {
				t.Fatal(err)
			}
			frozen := usage(t, cpu)
			time.Sleep(20 * time.Millisecond)
			if got := usage(t, cpu); got != frozen {
				t.Errorf("a frozen group used %d µs", got-frozen)
			}
			if err := g.Thaw(); err != nil {
				t.Fatal(err)
			}
			for usage(t, cpu) < frozen+5_000 {
				time.Sleep(time.Millisecond)
			}

			busy, stop := context.WithTimeout(ctx, 10*time.Millisecond)
			defer stop()
			if err := g.WaitEmpty(busy); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("wait until a busy group is empty: got %v, want DeadlineExceeded", err)
			}
			if err := g.Freeze(ctx); err != nil { // frozen processes die, too
				t.Fatal(err)
			}
			if err := g.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if err := g.WaitEmpty(ctx); err != nil {
				t.Fatal(err)
			}
			if err := g.Remove(ctx); err != nil {
				t.Fatal(err)
			}
			if g.Exists() {
				t.Error("the group is still there")
			}
			if err := errors.Join(g.Kill(), g.WaitEmpty(ctx), g.Remove(ctx)); err != nil {
				t.Errorf("kill, wait and remove a group that is gone: %v", err)
			}
		})
	}
}

func usage(tb testing.TB, c *CPU) uint64 {
	tb.Helper()
	s, err := c.Read()
	if err != nil {
		tb.Fatal(err)
	}
	return s.UsageUsec
}

// What a group used is what rusage says of its only process.
func TestCPUIsRusage(t *testing.T) {
	for _, h := range hosts(t) {
		t.Run(string(h.Mode), func(t *testing.T) {
			g, err := h.Group(fmt.Sprintf("test-cpu-%d", os.Getpid()))
			if err != nil {
				t.Fatal(err)
			}
			if err := g.Create(); err != nil {
				t.Skipf("needs a writable cgroup hierarchy: %v", err)
			}
			t.Cleanup(func() { _ = g.Remove(context.Background()) })
			cpu, err := OpenCPU(g.CPUDir())
			if err != nil {
				t.Fatal(err)
			}
			defer cpu.Close()
			cmd := startIn(t, []string{g.CPUDir()}, "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")
			_ = cmd.Wait()
			rusage := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
			got := time.Duration(usage(t, cpu)) * time.Microsecond
			// rusage has the shell's start before it was moved there.
			if d := rusage - got; d < -time.Millisecond || d > 10*time.Millisecond {
				t.Errorf("got %v, want rusage's %v less the shell's start", got, rusage)
			}
		})
	}
}

func TestKillWithoutCgroupKill(t *testing.T) {
	h := hosts(t)[0]
	g, err := h.Group(fmt.Sprintf("test-kill-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Create(); err != nil {
		t.Skipf("needs a writable cgroup hierarchy: %v", err)
	}
	t.Cleanup(func() { _ = g.Remove(context.Background()) })
	below := filepath.Join(g.CPUDir(), "below")
	cmd := startIn(t, []string{below}, "for i in 1 2 3 4 5; do sleep 60 & done; wait")
	for pids, err := Pids(below); len(pids) < 6; pids, err = Pids(below) {
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	if err := killEach(g.CPUDir()); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := errors.Join(g.WaitEmpty(ctx), g.Remove(ctx)); err != nil {
		t.Fatal(err)
	}
}

func TestSubtreeIsDeepestFirst(t *testing.T) {
	root := tree(t, map[string]string{"a/b/f": "", "a/c/f": ""})
	got, err := subtree(root)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, []string{root + "/a/c", root + "/a/b", root + "/a", root}) {
		t.Errorf("got %q", got)
	}
}
