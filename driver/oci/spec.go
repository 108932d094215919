// Package oci builds the bundle of a task and drives the OCI runtime that runs
// it.
//
// Without an image a task sees the host's own programs and libraries, read-only,
// in an otherwise empty root of its own mount namespace. What it may write are
// Nomad's directories and two tmpfs.
package oci

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Task is what to run.
type Task struct {
	Args        []string          // command and arguments
	Env         map[string]string // PATH is added where it lacks
	User        string            // name or uid[:gid]; "": nobody
	WorkDir     string            // in the container; "": /local where it is mounted, else /
	Hostname    string            // "": the host's
	Mounts      []Mount
	NetworkPath string // a network namespace to join; "": the host's
	NetworkNone bool   // a network namespace of its own, with a loopback only
	CgroupPath  string // see cgroup.Group.OCIPath
	CPUShares   uint64 // 0: the default
	CPUMilli    int64  // hard limit in 1/1000 core; 0: none
	MemoryBytes int64  // hard limit; 0: none
	MemorySoft  int64  // what is left to the task when memory is short; 0: no promise
	NoSwap      bool   // the hard limit includes swap; only where the host's kernel counts it
	OOMGroup    bool   // want of memory kills all of the task; only on v2 hosts
	PidsMax     int64  // 0: PidsMaxDefault
	// Edit changes the finished spec, as for devices; nil: nothing.
	Edit func(*specs.Spec) error

	Root         *Root    // an image's root; nil: the host's own programs, read-only
	Capabilities []string // "CAP_…"; nil: DefaultCapabilities. See Capabilities
	Ulimits      []Ulimit // further ones, and others for those that every task has
	Seccomp      bool     // filter system calls; only where the runtime can
}

// Root is the root file system that was made of an image for one task.
type Root struct {
	Dir      string
	ReadOnly bool
	// FirstID is the host's id that is the task's 0, in a user namespace of
	// IDs ids; 0: no user namespace.
	FirstID, IDs uint32
	Sys          string // what is mounted as /sys, read-only; "": a sysfs of its own
}

// Mount is a bind mount into the task.
type Mount struct {
	Source   string // host path
	Target   string // path in the task
	ReadOnly bool
}

// PidsMaxDefault bounds the processes and threads of a task.
const PidsMaxDefault = 32768

const pathDefault = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// maskedPaths are runc's and Docker's.
var maskedPaths = []string{
	"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
	"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
	"/sys/devices/virtual/powercap", "/sys/firmware",
}

// hostSecrets are masked besides where a task sees the host's own /etc.
var hostSecrets = []string{
	"/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/sudoers", "/etc/sudoers.d",
	"/etc/ssh", "/etc/ssl/private", "/etc/joule", "/etc/nomad.d", "/etc/nomad", "/etc/consul.d", "/etc/vault.d",
}

var readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}

// hostDirs are the directories of the host's root that a task sees.
var hostDirs = []string{"/bin", "/etc", "/lib", "/lib32", "/lib64", "/sbin", "/usr"}

// reserved are the targets that mounts may not cover.
var reserved = []string{"/", "/dev", "/proc", "/sys"}

// hostReserved are those of a task on the host's own root.
var hostReserved = append([]string{"/run", "/tmp"}, hostDirs...)

// Host is what of the host a bundle depends on.
type Host struct {
	Root string // whose directories a task sees; "/" but in tests
}

// Validate reports every fault of the task, each with its field and value.
func (t *Task) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(t.Args) == 0 || t.Args[0] == "" {
		bad("command: must not be empty")
	}
	for i, a := range t.Args {
		if strings.ContainsRune(a, 0) {
			bad("args[%d]: holds a NUL byte (got %q)", i, a)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(t.Env)) {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.ContainsRune(t.Env[k], 0) {
			bad("env: not a variable (got %q)", k)
		}
	}
	if t.WorkDir != "" && !path.IsAbs(t.WorkDir) {
		bad("work_dir: must be absolute (got %q)", t.WorkDir)
	}
	for i, m := range t.Mounts {
		switch target := path.Clean(m.Target); {
		case !path.IsAbs(m.Target):
			bad("mounts[%d].task_path: must be absolute (got %q)", i, m.Target)
		case slices.Contains(reserved, target) || t.Root == nil && slices.Contains(hostReserved, target) || strings.HasPrefix(target, "/proc/") || strings.HasPrefix(target, "/sys/"):
			bad("mounts[%d].task_path: would cover the task's own %s (got %q)", i, target, m.Target)
		}
		if !filepath.IsAbs(m.Source) {
			bad("mounts[%d].host_path: must be absolute (got %q)", i, m.Source)
		} else if _, err := os.Stat(m.Source); err != nil {
			bad("mounts[%d].host_path: %w", i, err)
		}
	}
	if t.NetworkPath != "" && !filepath.IsAbs(t.NetworkPath) {
		bad("network_path: must be absolute (got %q)", t.NetworkPath)
	}
	if t.NetworkPath != "" && t.NetworkNone {
		bad("network_path: there is none to join without a network (got %q)", t.NetworkPath)
	}
	if !path.IsAbs(t.CgroupPath) {
		bad("cgroup path: must be absolute (got %q)", t.CgroupPath)
	}
	if t.MemoryBytes < 0 {
		bad("memory: must not be negative (got %d bytes)", t.MemoryBytes)
	}
	if t.PidsMax < 0 {
		bad("pids limit: must not be negative (got %d)", t.PidsMax)
	}
	if t.CPUMilli < 0 {
		bad("cpu limit: must not be negative (got %d)", t.CPUMilli)
	}
	for i, u := range t.Ulimits {
		if err := u.check(); err != nil {
			bad("ulimit[%d]: %w", i, err)
		}
	}
	return errors.Join(errs...)
}

// spec builds the OCI spec. The symbolic links of the host's root are in links,
// target by name: they are part of the root, not mounts.
func (h Host) spec(t *Task) (s *specs.Spec, links map[string]string, err error) {
	if err := t.Validate(); err != nil {
		return nil, nil, err
	}
	var user specs.User
	var mounts []specs.Mount
	if t.Root != nil {
		user, err = lookupImageUser(t.Root.Dir, t.User)
		mounts = t.Root.mounts()
	} else if user, err = h.lookupUser(t.User); err == nil {
		mounts, links, err = h.rootMounts()
	}
	if err != nil {
		return nil, nil, err
	}
	workDir := t.WorkDir
	if workDir == "" {
		workDir = "/"
	}
	for _, m := range t.Mounts {
		opts := []string{"rbind", "nosuid", "nodev", "rw"}
		if m.ReadOnly {
			opts[3] = "ro"
		}
		target := path.Clean(m.Target)
		mounts = append(mounts, specs.Mount{Destination: target, Type: "bind", Source: m.Source, Options: opts})
		if target == "/local" && t.WorkDir == "" && t.Root == nil {
			workDir = target
		}
	}

	env := maps.Clone(t.Env)
	if env == nil {
		env = map[string]string{}
	}
	if env["PATH"] == "" {
		env["PATH"] = pathDefault
	}
	pairs := make([]string, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		pairs = append(pairs, k+"="+env[k])
	}

	namespaces := []specs.LinuxNamespace{
		{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace},
		{Type: specs.UTSNamespace}, {Type: specs.CgroupNamespace},
	}
	if t.NetworkPath != "" || t.NetworkNone {
		namespaces = append(namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: t.NetworkPath})
	}
	caps := t.Capabilities
	if caps == nil {
		caps = DefaultCapabilities
	}
	oom := oomScoreAdj()
	s = &specs.Spec{
		Version:  "1.0.2",
		Hostname: t.Hostname,
		Root:     &specs.Root{Path: "rootfs", Readonly: true},
		Mounts:   mounts,
		Process: &specs.Process{
			User: user, Args: t.Args, Env: pairs, Cwd: workDir,
			Capabilities:    &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			Rlimits:         rlimits(t.Ulimits),
			NoNewPrivileges: true,
			OOMScoreAdj:     &oom,
		},
		Linux: &specs.Linux{
			CgroupsPath: t.CgroupPath, Namespaces: namespaces, Resources: t.resources(),
			MaskedPaths: maskedPaths, ReadonlyPaths: readonlyPaths, RootfsPropagation: "rslave",
		},
	}
	if t.Root != nil {
		t.Root.apply(s)
	} else {
		s.Linux.MaskedPaths = slices.Concat(maskedPaths, hostSecrets)
	}
	if t.Seccomp {
		if s.Linux.Seccomp, err = seccompProfile(s); err != nil {
			return nil, nil, err
		}
	}
	return s, links, nil
}

// rootMounts are the mounts that make a task's root of the host's.
func (h Host) rootMounts() (mounts []specs.Mount, links map[string]string, err error) {
	links = map[string]string{}
	for _, dir := range hostDirs {
		on := filepath.Join(h.Root, dir)
		fi, err := os.Lstat(on)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return nil, nil, fmt.Errorf("look at the host's %s: %w", dir, err)
		case fi.Mode()&os.ModeSymlink != 0:
			if links[dir], err = os.Readlink(on); err != nil {
				return nil, nil, fmt.Errorf("look at the host's %s: %w", dir, err)
			}
		case fi.IsDir():
			mounts = append(mounts, specs.Mount{
				Destination: dir, Type: "bind", Source: on, Options: []string{"rbind", "nosuid", "nodev", "ro"},
			})
		}
	}
	mounts = append(mounts,
		specs.Mount{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		specs.Mount{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		specs.Mount{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777"}},
		specs.Mount{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=755"}},
	)
	// Where /etc/resolv.conf leads out of /etc, as systemd-resolved has it, the
	// file must be where it leads.
	if to, err := filepath.EvalSymlinks(filepath.Join(h.Root, "/etc/resolv.conf")); err == nil {
		if rel, err := filepath.Rel(h.Root, to); err == nil && strings.HasPrefix(rel, "run/") {
			mounts = append(mounts, specs.Mount{
				Destination: "/" + rel, Type: "bind", Source: to, Options: []string{"bind", "nosuid", "nodev", "ro"},
			})
		}
	}
	return mounts, links, nil
}

// oomScoreAdj keeps a task from being spared because its shim is: 0, or what we
// have ourselves where that is more (lowering it takes CAP_SYS_RESOURCE).
func oomScoreAdj() int {
	b, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0
	}
	v, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return max(0, v)
}
