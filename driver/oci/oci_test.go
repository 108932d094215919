package oci

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// fakeHost is a host's root with merged /usr.
func fakeHost(tb testing.TB) Host {
	tb.Helper()
	root := tb.TempDir()
	err := errors.Join(
		os.MkdirAll(filepath.Join(root, "usr/bin"), 0o755),
		os.MkdirAll(filepath.Join(root, "lib64"), 0o755),
		os.MkdirAll(filepath.Join(root, "run/systemd/resolve"), 0o755),
		os.MkdirAll(filepath.Join(root, "etc"), 0o755),
		os.Symlink("usr/bin", filepath.Join(root, "bin")),
		os.WriteFile(filepath.Join(root, "run/systemd/resolve/stub-resolv.conf"), []byte("nameserver 127.0.0.53\n"), 0o644),
		os.Symlink("../run/systemd/resolve/stub-resolv.conf", filepath.Join(root, "etc/resolv.conf")),
		os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0:r:/root:/bin/sh\nada:x:1001:1002::/home/ada:/bin/sh\nnobody:x:65534:65534:n:/:/x\nbad\n"), 0o644),
		os.WriteFile(filepath.Join(root, "etc/group"), []byte("ada:x:1002:\nvideo:x:44:ada,bob\naudio:x:29:bob\n"), 0o644),
	)
	if err != nil {
		tb.Fatal(err)
	}
	return Host{Root: root}
}

func readSpec(tb testing.TB, bundle string) *specs.Spec {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		tb.Fatal(err)
	}
	s := new(specs.Spec)
	if err := json.Unmarshal(b, s); err != nil {
		tb.Fatal(err)
	}
	return s
}

func TestBundle(t *testing.T) {
	h, bundle := fakeHost(t), filepath.Join(t.TempDir(), "bundle")
	local := t.TempDir()
	err := h.WriteBundle(bundle, &Task{
		Args: []string{"/bin/serve", "-v"}, Env: map[string]string{"B": "2", "A": "1"}, User: "ada",
		Mounts:     []Mount{{Source: local, Target: "/local"}, {Source: local, Target: "/data/", ReadOnly: true}},
		CgroupPath: "/joule/x", CPUShares: 500, MemoryBytes: 64 << 20, NetworkPath: "/run/netns/x",
	})
	if err != nil {
		t.Fatal(err)
	}
	s := readSpec(t, bundle)
	p := s.Process
	if !slices.Equal(p.Env, []string{"A=1", "B=2", "PATH=" + pathDefault}) || p.Cwd != "/local" || !p.NoNewPrivileges {
		t.Errorf("got process %+v", p)
	}
	if diff := cmp.Diff(specs.User{UID: 1001, GID: 1002, AdditionalGids: []uint32{44}}, p.User); diff != "" {
		t.Errorf("user (-want +got):\n%s", diff)
	}
	for name, set := range map[string][]string{
		"bounding": p.Capabilities.Bounding, "effective": p.Capabilities.Effective, "permitted": p.Capabilities.Permitted,
	} {
		if slices.Contains(set, "CAP_SYS_ADMIN") || slices.Contains(set, "CAP_NET_RAW") || len(set) != 13 {
			t.Errorf("%s capabilities: got %v", name, set)
		}
	}
	if !s.Root.Readonly || s.Linux.CgroupsPath != "/joule/x" || *s.Linux.Resources.Memory.Limit != 64<<20 || *s.Linux.Resources.CPU.Shares != 500 {
		t.Errorf("got root %+v and resources %+v", s.Root, s.Linux.Resources)
	}
	options := map[string][]string{}
	for _, m := range s.Mounts {
		options[m.Destination] = m.Options
	}
	for dest, want := range map[string]string{
		"/usr": "ro", "/etc": "ro", "/lib64": "ro", "/local": "rw", "/data": "ro", "/sys": "ro",
		"/run/systemd/resolve/stub-resolv.conf": "ro",
	} {
		if !slices.Contains(options[dest], want) {
			t.Errorf("mount %s: got options %v, want %s", dest, options[dest], want)
		}
	}
	for _, absent := range []string{"/bin", "/sbin", "/lib32", "/home", "/root", "/var"} {
		if _, ok := options[absent]; ok {
			t.Errorf("%s is mounted", absent)
		}
	}
	if to, err := os.Readlink(filepath.Join(bundle, "rootfs/bin")); err != nil || to != "usr/bin" {
		t.Errorf("got /bin → %q %v, want usr/bin", to, err)
	}
	want := []specs.LinuxNamespaceType{"pid", "mount", "ipc", "uts", "cgroup", "network"}
	var got []specs.LinuxNamespaceType
	for _, n := range s.Linux.Namespaces {
		got = append(got, n.Type)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got namespaces %v, want %v", got, want)
	}
	if fi, err := os.Stat(filepath.Join(bundle, "config.json")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("got config.json %v %v, want mode 0600", fi.Mode(), err)
	}
	for range 2 {
		if err := RemoveBundle(bundle); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(bundle); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the bundle is still there: %v", err)
	}
}

func TestValidateReportsEveryFault(t *testing.T) {
	err := (&Task{
		Args: []string{"", "a\x00"}, Env: map[string]string{"A=": "x"}, WorkDir: "rel", NetworkPath: "rel",
		Mounts: []Mount{
			{Source: "rel", Target: "data"}, {Source: "/nonexistent", Target: "/x"},
			{Source: "/tmp", Target: "/usr/"}, {Source: "/tmp", Target: "/proc/sys"},
		},
		CgroupPath: "rel", MemoryBytes: -1, PidsMax: -1,
	}).Validate()
	if err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{
		"command: must not be empty", `args[1]`, `env: not a variable (got "A=")`, `work_dir: must be absolute (got "rel")`,
		`mounts[0].task_path`, `mounts[0].host_path`, `mounts[1].host_path: stat /nonexistent`,
		`mounts[2].task_path: would cover`, `mounts[3].task_path: would cover`,
		`network_path`, `cgroup path`, `memory: must not be negative (got -1 bytes)`, `pids limit`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got no %q in:\n%v", want, err)
		}
	}
}

func TestUsers(t *testing.T) {
	h := fakeHost(t)
	for _, tt := range []struct {
		user string
		want specs.User
	}{
		{"", specs.User{UID: 65534, GID: 65534}},
		{"ada", specs.User{UID: 1001, GID: 1002, AdditionalGids: []uint32{44}}},
		{"1001", specs.User{UID: 1001, GID: 1002, AdditionalGids: []uint32{44}}},
		{"1001:7", specs.User{UID: 1001, GID: 7}},
		{"4242", specs.User{UID: 4242, GID: 4242}},
		{"0", specs.User{}},
	} {
		got, err := h.lookupUser(tt.user)
		if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
			t.Errorf("user %q: %v (-want +got):\n%s", tt.user, err, diff)
		}
	}
	for _, bad := range []string{"eve", "ada:7", "1001:x", "-1", "bad", "4294967296"} {
		if got, err := h.lookupUser(bad); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("user %q: got %+v %v, want an error that names it", bad, got, err)
		}
	}
	if _, err := (Host{Root: t.TempDir()}).lookupUser(""); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no /etc/passwd: got %v, want ErrNotExist", err)
	}
}

// A bundle with something in it that we did not put there is not removed.
func TestRemoveBundleSparesFiles(t *testing.T) {
	bundle := t.TempDir()
	precious := filepath.Join(bundle, "rootfs/usr/bin/precious")
	if err := errors.Join(os.MkdirAll(filepath.Dir(precious), 0o755), os.WriteFile(precious, []byte("x"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := RemoveBundle(bundle); err == nil {
		t.Error("got no error")
	}
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
}

func TestRemoveBundleUnmounts(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	bundle, host := filepath.Join(t.TempDir(), "bundle"), t.TempDir()
	precious := filepath.Join(host, "precious")
	mnt := filepath.Join(bundle, "rootfs/usr")
	if err := errors.Join(os.WriteFile(precious, nil, 0o644), os.MkdirAll(mnt, 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(host, mnt, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("needs mount: %v", err)
	}
	if err := RemoveBundle(bundle); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
}

func TestMountPoints(t *testing.T) {
	const info = `1 0 0:1 / /b ro - ext4 x rw
2 0 0:1 / /b/rootfs ro - ext4 x rw
3 0 0:1 / /b/rootfs/with\040space ro - ext4 x rw
4 0 0:1 / /bb ro - ext4 x rw
`
	if got, want := mountPoints(info, "/b"), []string{"/b", "/b/rootfs", "/b/rootfs/with space"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPlainErrors(t *testing.T) {
	for _, tt := range [][2]string{
		{`unable to start container process: error during container init: exec: "x": executable file not found in $PATH`, `exec: "x": executable file not found in $PATH`},
		{`runc create failed: unable to start container process: exec: "x": permission denied`, `exec: "x": permission denied`},
		{`something else`, `something else`},
	} {
		if got := plain(tt[0]); got != tt[1] {
			t.Errorf("got %q, want %q", got, tt[1])
		}
	}
}

func TestFindRuntime(t *testing.T) {
	dir := t.TempDir()
	script := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	runc := script("runc", "[ $1 = --version ] || exit 1; echo runc version 1.1.5+ds1\necho commit: x\necho spec: 1.0.2-dev\n")
	script("crun", "[ $1 = --version ] || exit 1; echo crun version 1.8.1; echo +SYSTEMD +SELINUX +SECCOMP\n")
	broken := script("broken", "exit 3\n")
	t.Setenv("PATH", dir+":/bin:/usr/bin")
	for _, tt := range []struct {
		name string
		want Found
		err  string
	}{
		{"runc", Found{Name: "runc", Path: runc, Version: "1.1.5+ds1"}, ""},
		{"crun", Found{Name: "crun", Path: filepath.Join(dir, "crun"), Version: "1.8.1", Seccomp: true}, ""},
		{"no-such-runtime", Found{Name: "no-such-runtime"}, "executable file not found"},
		{broken, Found{Name: "broken", Path: broken}, "exit status 3"},
	} {
		got := FindRuntime(t.Context(), tt.name, nil)
		if (got.Err == nil) != (tt.err == "") || got.Err != nil && !strings.Contains(got.Err.Error(), tt.err) {
			t.Errorf("%s: got %v, want %q", tt.name, got.Err, tt.err)
		}
		got.Err = nil
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestExecArgs(t *testing.T) {
	got := NewRunc("/usr/bin/runc", "/run/r").ExecArgs("c", ExecOptions{
		Args: []string{"/bin/sh", "-c", "x"}, TTY: true, Env: []string{"A=b"}, WorkDir: "/w", User: "1:2",
	})
	want := strings.Fields("/usr/bin/runc --root /run/r exec --tty --env A=b --cwd /w --user 1:2 c /bin/sh -c x")
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestReadPid(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	for content, want := range map[string]int{"42": 42, "42\n": 42, "": 0, "x": 0, "-1": 0, "1": 0} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadPid(path); got != want || (err == nil) != (want != 0) {
			t.Errorf("pid file %q: got %d %v, want %d", content, got, err, want)
		}
	}
}
