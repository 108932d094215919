package oci

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// DefaultCapabilities are those that Nomad grants a task by default.
var DefaultCapabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// knownCapabilities are the kernel's.
var knownCapabilities = append([]string{
	"CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_BLOCK_SUSPEND", "CAP_BPF", "CAP_CHECKPOINT_RESTORE", "CAP_DAC_READ_SEARCH",
	"CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_LEASE", "CAP_LINUX_IMMUTABLE", "CAP_MAC_ADMIN", "CAP_MAC_OVERRIDE", "CAP_NET_ADMIN",
	"CAP_NET_BROADCAST", "CAP_NET_RAW", "CAP_PERFMON", "CAP_SYSLOG", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_MODULE",
	"CAP_SYS_NICE", "CAP_SYS_PACCT", "CAP_SYS_PTRACE", "CAP_SYS_RAWIO", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
	"CAP_SYS_TTY_CONFIG", "CAP_WAKE_ALARM",
}, DefaultCapabilities...)

// Capability is the kernel's name of a capability, however it was written:
// "net_raw", "CAP_NET_RAW".
func Capability(name string) (string, error) {
	c := strings.ToUpper(name)
	if !strings.HasPrefix(c, "CAP_") {
		c = "CAP_" + c
	}
	if !slices.Contains(knownCapabilities, c) {
		return "", fmt.Errorf("not a capability (got %q)", name)
	}
	return c, nil
}

// Capabilities are those of a task: the default ones that the host allows, and
// those added, less those dropped. "all" adds all that the host allows, or drops
// all before anything is added. What the host doesn't allow is refused.
func Capabilities(add, drop, allowed []string) ([]string, error) {
	var errs []error
	set := map[string]bool{}
	for _, c := range DefaultCapabilities {
		if slices.Contains(allowed, c) {
			set[c] = true
		}
	}
	named := func(field string, names []string, do func(i int, c string), all func()) {
		for i, n := range names {
			if strings.EqualFold(n, "all") {
				all()
				continue
			}
			c, err := Capability(n)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s[%d]: %w", field, i, err))
				continue
			}
			do(i, c)
		}
	}
	dropped := map[string]bool{}
	named("cap_drop", drop, func(_ int, c string) { dropped[c] = true }, func() { clear(set) })
	named("cap_add", add, func(i int, c string) {
		if !slices.Contains(allowed, c) {
			errs = append(errs, fmt.Errorf("cap_add[%d]: this host's supplier doesn't allow it (got %q, isolation.cap_allow is %q)", i, add[i], allowed))
		}
		set[c] = true
	}, func() {
		for _, c := range allowed {
			set[c] = true
		}
	})
	maps.DeleteFunc(set, func(c string, _ bool) bool { return dropped[c] })
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return append([]string{}, slices.Sorted(maps.Keys(set))...), nil
}

// Ulimit is a limit of a task's processes.
type Ulimit struct {
	Name       string // "nofile"
	Soft, Hard uint64 // Unlimited: none
}

// Unlimited is a limit that is none.
const Unlimited = ^uint64(0)

// ulimits are the kernel's, by name.
var ulimits = map[string]int{
	"core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA, "fsize": unix.RLIMIT_FSIZE,
	"locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK, "msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE,
	"nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO,
	"rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// ParseUlimit reads "soft", "soft:hard", each a number or "unlimited".
func ParseUlimit(name, text string) (Ulimit, error) {
	soft, hard, two := strings.Cut(text, ":")
	if !two {
		hard = soft
	}
	u := Ulimit{Name: name}
	for _, v := range []struct {
		text string
		to   *uint64
	}{{soft, &u.Soft}, {hard, &u.Hard}} {
		if v.text == "unlimited" || v.text == "-1" {
			*v.to = Unlimited
			continue
		}
		n, err := strconv.ParseUint(v.text, 10, 63)
		if err != nil {
			return Ulimit{}, fmt.Errorf("ulimit.%s: must be \"soft\" or \"soft:hard\" (got %q)", name, text)
		}
		*v.to = n
	}
	return u, u.check()
}

// check compares the limit with the host's own, which it can't exceed.
func (u Ulimit) check() error {
	r, ok := ulimits[u.Name]
	if !ok {
		return fmt.Errorf("ulimit.%s: no such limit, there are %s", u.Name, strings.Join(slices.Sorted(maps.Keys(ulimits)), ", "))
	}
	if u.Soft > u.Hard {
		return fmt.Errorf("ulimit.%s: the soft limit must not exceed the hard one (got %d:%d)", u.Name, u.Soft, u.Hard)
	}
	var own unix.Rlimit
	if err := unix.Getrlimit(r, &own); err != nil {
		return fmt.Errorf("ulimit.%s: read the host's: %w", u.Name, err)
	}
	if u.Hard > own.Max {
		return fmt.Errorf("ulimit.%s: must be at most the host's own %d (got %d)", u.Name, own.Max, u.Hard)
	}
	return nil
}

// rlimits gives a task as many files as the host's limit allows us, and no core
// dumps unless it asks. Nothing is raised: that takes CAP_SYS_RESOURCE.
func rlimits(asked []Ulimit) []specs.POSIXRlimit {
	set := map[string]specs.POSIXRlimit{}
	put := func(name string, soft, hard uint64) {
		t := "RLIMIT_" + strings.ToUpper(name)
		set[t] = specs.POSIXRlimit{Type: t, Soft: soft, Hard: hard}
	}
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &l); err == nil {
		put("core", 0, l.Max)
	}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err == nil {
		put("nofile", l.Max, l.Max)
	}
	for _, u := range asked {
		put(u.Name, u.Soft, u.Hard)
	}
	var out []specs.POSIXRlimit
	for _, k := range slices.Sorted(maps.Keys(set)) {
		out = append(out, set[k])
	}
	return out
}

// cpuPeriod is what a hard CPU limit is counted over, in µs: the kernel's own.
const cpuPeriod = 100_000

// resources are the task's limits.
func (t *Task) resources() *specs.LinuxResources {
	pidsMax := t.PidsMax
	if pidsMax == 0 {
		pidsMax = PidsMaxDefault
	}
	r := &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
		Pids:    &specs.LinuxPids{Limit: &pidsMax},
	}
	if t.CPUShares > 0 || t.CPUMilli > 0 {
		r.CPU = &specs.LinuxCPU{}
	}
	if t.CPUShares > 0 {
		r.CPU.Shares = &t.CPUShares
	}
	if t.CPUMilli > 0 {
		period := uint64(cpuPeriod)
		quota := max(t.CPUMilli*cpuPeriod/1000, 1000) // the kernel's least
		r.CPU.Period, r.CPU.Quota = &period, &quota
	}
	if t.MemoryBytes > 0 {
		r.Memory = &specs.LinuxMemory{Limit: &t.MemoryBytes}
		if t.MemorySoft > 0 && t.MemorySoft < t.MemoryBytes {
			r.Memory.Reservation = &t.MemorySoft
		}
		if t.NoSwap {
			r.Memory.Swap = &t.MemoryBytes
		}
		if t.OOMGroup {
			r.Unified = map[string]string{"memory.oom.group": "1"}
		}
	}
	return r
}

// seccompProfile is Docker's default one, for the task's capabilities.
func seccompProfile(s *specs.Spec) (*specs.LinuxSeccomp, error) {
	p, err := seccomp.GetDefaultProfile(s)
	if err != nil {
		return nil, fmt.Errorf("make seccomp profile: %w", err)
	}
	return p, nil
}
