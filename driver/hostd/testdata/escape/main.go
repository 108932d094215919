// Command escape is the program of the test images: it shows what a task sees,
// and tries what a hostile one would. What succeeds that shouldn't is printed as
// ESCAPED. It writes to /local/out.
package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

var out *os.File

func say(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }

func main() {
	var err error
	if out, err = os.OpenFile("/local/out", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	switch os.Args[1] {
	case "show":
		show(os.Args[2:])
	case "escape":
		escape(os.Args[2])
	case "forkbomb":
		forkBomb()
	case "sleep":
		time.Sleep(time.Hour)
	case "memorybomb":
		memoryBomb()
	case "burn":
		burn(os.Args[2])
	case "copy":
		b, err := os.ReadFile(os.Args[2])
		if err == nil {
			err = os.WriteFile(os.Args[3], b, 0o644)
		}
		say("copied %v", err)
	case "serve":
		serve(os.Args[2])
	case "until":
		for {
			if _, err := os.Stat(os.Args[2]); err == nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

func show(args []string) {
	say("args %s", strings.Join(args, " "))
	for _, kv := range os.Environ() {
		say("%s", kv)
	}
	cwd, _ := os.Getwd()
	say("cwd %s", cwd)
	groups, _ := os.Getgroups()
	var others []int
	for _, g := range groups {
		if g != os.Getgid() {
			others = append(others, g)
		}
	}
	say("uid %d %d groups %v", os.Getuid(), os.Getgid(), others)
	if b, err := os.ReadFile("/etc/mark"); err == nil {
		say("mark %s", b)
	}
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "NoNewPrivs:"); ok {
			say("no_new_privs %s", strings.TrimSpace(v))
		}
	}
	if os.WriteFile("/secrets/x", []byte("x"), 0o600) == nil {
		say("secrets writable")
	}
	if err := os.WriteFile("/x", nil, 0o600); err != nil && strings.Contains(err.Error(), "read-only") {
		say("root read-only")
	}
	if b, err := os.ReadFile("/proc/self/uid_map"); err == nil && len(strings.Fields(string(b))) == 3 && strings.Fields(string(b))[1] != "0" {
		say("mapped yes")
	}
}

// escape tries what must fail. hostPid is a process outside.
func escape(hostPid string) {
	try := func(name string, err error) {
		if err == nil {
			say("ESCAPED %s: nothing held it back", name)
		} else {
			say("held %s: %v", name, err)
		}
	}
	writeTo := func(path, text string) error {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteString(text)
		return err
	}
	for _, path := range []string{"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger",
		"/proc/sys/vm/drop_caches", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/power/state", "/sys/kernel/uevent_helper",
		"/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/devices/devices.allow"} {
		try("write "+path, writeTo(path, "1"))
	}
	for _, path := range []string{"/proc/kcore", "/proc/keys", "/sys/firmware/dmi"} {
		b, err := os.ReadFile(path)
		if err == nil && len(b) == 0 {
			err = fmt.Errorf("empty")
		}
		try("read "+path, err)
	}
	try("mount tmpfs", syscall.Mount("tmpfs", "/tmp", "tmpfs", 0, ""))
	try("mount proc", syscall.Mount("proc", "/tmp", "proc", 0, ""))
	try("remount / rw", syscall.Mount("", "/sys", "", syscall.MS_REMOUNT|syscall.MS_BIND, ""))
	try("umount /proc/sys", syscall.Unmount("/proc/sys", syscall.MNT_DETACH))
	try("mknod sda", syscall.Mknod("/tmp/sda", syscall.S_IFBLK|0o600, 8<<8))
	try("mknod vda", syscall.Mknod("/tmp/vda", syscall.S_IFBLK|0o600, 254<<8))
	try("mknod mem", openMade("/tmp/mem", 1<<8|1))
	for _, dev := range []string{"/dev/sda", "/dev/vda", "/dev/mem", "/dev/kmsg"} {
		_, err := os.OpenFile(dev, os.O_RDWR, 0)
		try("open "+dev, err)
	}
	pid, _ := strconv.Atoi(hostPid)
	try("ptrace the host", syscall.PtraceAttach(pid))
	try("signal the host", syscall.Kill(pid, 0))
	_, err := os.ReadFile("/proc/" + hostPid + "/environ")
	try("read the host's process", err)
	try("new user namespace", unshare(syscall.CLONE_NEWUSER))
	try("new mount namespace", unshare(syscall.CLONE_NEWNS))
	try("join the host's namespace", setns("/proc/1/ns/../../self/root/../ns/mnt"))
	try("chroot out", chrootOut())
	try("add key", addKey())
	try("keyring", joinKeyring())
	try("reboot", syscall.Reboot(0))
	try("set clock", syscall.Settimeofday(&syscall.Timeval{Sec: 1}))
	try("load module", raw(syscall.SYS_INIT_MODULE, 0, 0, 0))
	try("bpf", raw(321, 0, 0, 0))
	try("open by handle", raw(304, uintptr(^uint32(99)), 0, 0))
	try("raise limits", syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 1 << 40, Max: 1 << 40}))
	try("sethostname", syscall.Sethostname([]byte("x")))
	if os.Getuid() != 0 {
		cmd := exec.Command("/proc/self/exe", "show", "as")
		cmd.Env = []string{}
		err := fmt.Errorf("still uid %d", os.Getuid())
		if cmd.Run() == nil { // the program is setuid root in the image
			b, _ := os.ReadFile("/local/out")
			if strings.Contains(string(b), "args as") && strings.Contains(string(b), "\nuid 0 ") {
				err = nil
			}
		}
		try("setuid", err)
	}
	say("done")
}

func raw(trap, a, b, c uintptr) error {
	if _, _, e := syscall.RawSyscall(trap, a, b, c); e != 0 {
		return e
	}
	return nil
}

func unshare(flags int) error { return raw(syscall.SYS_UNSHARE, uintptr(flags), 0, 0) }

func openMade(path string, dev int) error {
	if err := syscall.Mknod(path, syscall.S_IFCHR|0o600, dev); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err == nil {
		_, err = f.Read(make([]byte, 1))
	}
	return err
}

func setns(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return raw(308, f.Fd(), 0, 0)
}

// chrootOut is the old way out of a chroot: it gets as far as the task's root.
func chrootOut() error {
	_ = os.Mkdir("/tmp/jail", 0o700)
	before, err := os.Stat("/")
	if err != nil {
		return err
	}
	if err := syscall.Chroot("/tmp/jail"); err != nil {
		return err
	}
	for range 100 {
		_ = syscall.Chdir("..")
	}
	if err := syscall.Chroot("."); err != nil {
		return err
	}
	after, err := os.Stat("/")
	if err != nil {
		return err
	}
	if os.SameFile(before, after) {
		return fmt.Errorf("ended in the task's own root")
	}
	return nil
}

func addKey() error {
	kind, desc, payload := []byte("user\x00"), []byte("joule\x00"), []byte("x")
	_, _, e := syscall.RawSyscall6(syscall.SYS_ADD_KEY, uintptr(unsafe.Pointer(&kind[0])), uintptr(unsafe.Pointer(&desc[0])),
		uintptr(unsafe.Pointer(&payload[0])), 1, ^uintptr(3), 0) // the user keyring
	if e != 0 {
		return e
	}
	return nil
}

func joinKeyring() error { return raw(syscall.SYS_KEYCTL, 1, 0, 0) }

func forkBomb() {
	for i := 0; ; i++ {
		cmd := exec.Command("/proc/self/exe", "sleep")
		if err := cmd.Start(); err != nil {
			if i < 50 {
				say("refused after less than 50")
			} else {
				say("refused after %d", i)
			}
			return
		}
		if i > 2000 {
			say("ESCAPED fork bomb: %d processes", i)
			return
		}
	}
}

func memoryBomb() {
	say("begin")
	var all [][]byte
	for {
		b := make([]byte, 1<<20)
		for i := range b {
			b[i] = 1
		}
		all = append(all, b)
		if len(all) > 4096 {
			say("ESCAPED memory bomb: %d MiB", len(all))
			return
		}
	}
}

// serve answers every connection with the task's name.
func serve(addr string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		say("%v", err)
		return
	}
	say("listening")
	for {
		c, err := l.Accept()
		if err != nil {
			say("%v", err)
			return
		}
		fmt.Fprintf(c, "hello from %s\n", os.Getenv("NOMAD_TASK_NAME"))
		c.Close()
	}
}

func burn(text string) {
	d, err := time.ParseDuration(text)
	if err != nil {
		say("%v", err)
		return
	}
	say("burning")
	for began := time.Now(); time.Since(began) < d; {
	}
}
