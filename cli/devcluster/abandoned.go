package devcluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// ownerFile says in a cluster's directory which process it is of. A pid alone
// may be another process's later.
const ownerFile = "owner"

// claim writes down that the cluster in dir is ours.
func claim(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	began, err := startTime(os.Getpid())
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, ownerFile), fmt.Appendf(nil, "%d %s %s\n", os.Getpid(), began, bootID()), 0o600)
}

// endAbandoned ends what is left of clusters whose own process was killed: their
// agents, tasks, mounts and files. They are beside dir, in directories of ours
// that say whose they were.
func endAbandoned(dir string) error {
	owners, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "joule-*", ownerFile))
	if err != nil {
		return err
	}
	var errs []error
	for _, o := range owners {
		old := filepath.Dir(o)
		if old == dir || !abandoned(o) {
			continue
		}
		// Shims and tasks hold the task's log files open; their cgroups are named
		// as their directories are.
		err := killBelow(old)
		tasks, _ := filepath.Glob(filepath.Join(old, "*", "hostd", "tasks", "*"))
		for _, t := range tasks {
			groups, _ := filepath.Glob("/sys/fs/cgroup/*/joule/" + filepath.Base(t))
			more, _ := filepath.Glob("/sys/fs/cgroup/joule/" + filepath.Base(t))
			for _, g := range append(groups, more...) {
				if b, err := os.ReadFile(filepath.Join(g, "cgroup.procs")); err == nil {
					for pid := range strings.FieldsSeq(string(b)) {
						if n, err := strconv.Atoi(pid); err == nil && n > 0 {
							_ = syscall.Kill(n, syscall.SIGKILL) // it may have ended
						}
					}
				}
				_ = os.Remove(g) // refused until its last process is gone
			}
		}
		if err = errors.Join(err, unmountBelow(old)); err == nil {
			err = os.RemoveAll(old)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// abandoned says whether the process that an owner file names is no more. A file
// that isn't ours, or can't be understood, says nothing.
func abandoned(owner string) bool {
	info, err := os.Lstat(owner)
	if err != nil || !info.Mode().IsRegular() || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) {
		return false
	}
	b, err := os.ReadFile(owner)
	f := strings.Fields(string(b))
	if err != nil || len(f) != 3 {
		return false
	}
	pid, err := strconv.Atoi(f[0])
	if err != nil {
		return false
	}
	began, err := startTime(pid)
	return err != nil || began != f[1] || bootID() != f[2]
}

// startTime is when a process began, in clock ticks since boot.
func startTime(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 20 || f[0][0] == 'Z' {
		return "", fmt.Errorf("process %d has ended", pid)
	}
	return string(f[19]), nil
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}
