package doctor

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// kernelVersion is a kernel's release as far as it is compared.
type kernelVersion struct{ major, minor int }

func (v kernelVersion) atLeast(major, minor int) bool {
	return v.major > major || v.major == major && v.minor >= minor
}

// parseRelease reads the first two numbers of a kernel's release, such as
// "6.1.0-18-amd64".
func parseRelease(s string) (kernelVersion, error) {
	major, rest, _ := strings.Cut(s, ".")
	minor := rest
	if i := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		minor = rest[:i]
	}
	a, err1 := strconv.Atoi(major)
	b, err2 := strconv.Atoi(minor)
	if err1 != nil || err2 != nil {
		return kernelVersion{}, fmt.Errorf("not a kernel's release: %q", s)
	}
	return kernelVersion{a, b}, nil
}

func checkKernel(ctx context.Context, e *examination) {
	if e.sys.UID != 0 {
		e.fail("user", "run joule doctor, hostd and the Nomad client as root", "this runs as uid %d", e.sys.UID)
	}
	switch e.sys.Arch {
	case "amd64", "arm64":
	default:
		e.fail("architecture", "use a host with amd64 or arm64", "%s", e.sys.Arch)
	}
	release, err := e.sys.Release()
	v, parseErr := parseRelease(release)
	switch {
	case err != nil:
		e.fail("release", "", "%v", err)
	case parseErr != nil:
		e.warn("release", "use Linux 5.14 or newer", "%v", parseErr)
	case !v.atLeast(5, 4):
		e.fail("release", "use Linux 5.14 or newer: processes can't be held by pidfd before 5.4", "Linux %s", release)
	case !v.atLeast(5, 14):
		e.warn("release", "use Linux 5.14 or newer: without cgroup.kill a task that forks fast is killed one process at a time", "Linux %s", release)
	default:
		e.ok("release", "Linux %s", release)
	}
	checkOverlay(e, release)
	if actions, err := e.sys.read("/proc/sys/kernel/seccomp/actions_avail"); err != nil || !strings.Contains(actions, "errno") {
		e.fail("seccomp", "use a kernel with CONFIG_SECCOMP_FILTER", "no seccomp filters")
	} else {
		e.ok("seccomp", "filters work")
	}
	checkUserNamespaces(ctx, e)
}

// checkOverlay looks for overlayfs, on which tasks with images have their root.
func checkOverlay(e *examination, release string) {
	systems, err := e.sys.read("/proc/filesystems")
	if err != nil {
		e.fail("overlayfs", "mount /proc", "%v", err)
		return
	}
	for line := range strings.Lines(systems) {
		if f := strings.Fields(line); len(f) > 0 && f[len(f)-1] == "overlay" {
			e.ok("overlayfs", "there")
			return
		}
	}
	if e.sys.exists("/lib/modules/" + release + "/kernel/fs/overlayfs") {
		e.ok("overlayfs", "a module that loads when it is needed")
		return
	}
	e.fail("overlayfs", "modprobe overlay, or use a kernel with CONFIG_OVERLAY_FS", "none: tasks with images can't run")
}

func checkUserNamespaces(ctx context.Context, e *examination) {
	const file = "/proc/sys/user/max_user_namespaces"
	text, err := e.sys.read(file)
	n, parseErr := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	switch {
	case err != nil:
		e.fail("user namespaces", "use a kernel with CONFIG_USER_NS", "none: %v", err)
		return
	case parseErr != nil:
		e.fail("user namespaces", "", "%s holds %q", file, text)
		return
	case n == 0:
		e.fail("user namespaces", "sysctl -w user.max_user_namespaces=15000, and the same in /etc/sysctl.d", "switched off: user.max_user_namespaces = 0")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, e.opt.Timeout)
	defer cancel()
	if err := e.sys.UserNamespace(ctx); err != nil {
		e.fail("user namespaces", "see kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns and the container that this may run in",
			"the kernel refuses one: %v", err)
		return
	}
	e.ok("user namespaces", "work, at most %d", n)
}

// checkMetering looks at the sources of the stamps that bills are made from.
func checkMetering(_ context.Context, e *examination) {
	if err := e.sys.Stamps(); err != nil {
		e.warn("stamps", "run hostd with CAP_NET_ADMIN, CAP_BPF and CAP_PERFMON in the machine's first namespaces, on a kernel with CONFIG_PROC_EVENTS and CONFIG_BPF_SYSCALL; else bills carry a flag and may be late by milliseconds",
			"%s", oneLine(err))
	} else {
		e.ok("stamps", "the kernel stamps exec and exit")
	}
	for _, dir := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
		if e.sys.exists(dir + "/events/sched/sched_process_exit") {
			e.ok("tracefs", "%s is readable: `joule demo` can measure from outside", dir)
			return
		}
	}
	e.none("tracefs", "not mounted, or not readable: only `joule demo` and tests use it")
}

// oneLine joins the lines of an error.
func oneLine(err error) string { return strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ") }
