package hostd

import (
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func load(t *testing.T, text string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hostd.hcl")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path)
}

func TestLoad(t *testing.T) {
	got, err := load(t, `
data_dir = "/var/lib/joule"
servers  = ["https://s1:7433", "https://s2:7433"]
`)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.DataDir, want.Socket = "/var/lib/joule", "/var/lib/joule/hostd.sock"
	want.Servers = []string{"https://s1:7433", "https://s2:7433"}
	want.Images.CacheDir = "/var/lib/joule/images"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("least configuration (-want +got):\n%s", diff)
	}

	got, err = load(t, `
data_dir        = "/d"
host            = "dc-1"
servers         = ["http://127.0.0.1:7433"]
ca_file         = "/etc/joule/ca.pem"
class           = "datacenter"
runtimes        = ["runsc", "/opt/runc"]
allow_host_root = true
socket          = "/run/joule.sock"
shim            = "/opt/joule-shim"
checkpoint      = "500ms"
images {
  cache_dir           = "/big/images"
  cache_limit         = "500MiB"
  auth_file           = "/etc/joule/registries.json"
  registries          = ["docker.io", "127.0.0.1:5000"]
  insecure_registries = ["127.0.0.1:5000"]
  local_dirs          = ["/srv/images"]
}
isolation {
  user_namespace = "required"
  seccomp        = "off"
  cap_allow      = ["chown", "CAP_NET_RAW"]
  pids_max       = 100
  cpu_hard_limit = true
}
gpu {
  probe         = "/opt/joule-gpu-probe"
  library       = "/opt/libnvidia-ml.so.1"
  cdi_dirs      = ["/opt/cdi"]
  required      = true
  allow_devices = true
}
`)
	if err != nil {
		t.Fatal(err)
	}
	want = Config{
		DataDir: "/d", Host: "dc-1", Servers: []string{"http://127.0.0.1:7433"}, CAFile: "/etc/joule/ca.pem", Class: "datacenter",
		Runtimes: []string{"runsc", "/opt/runc"}, AllowHostRoot: true, Socket: "/run/joule.sock", Shim: "/opt/joule-shim",
		Checkpoint: 500 * time.Millisecond,
		Images: Images{CacheDir: "/big/images", CacheLimit: 500 << 20, AuthFile: "/etc/joule/registries.json",
			Registries: []string{"docker.io", "127.0.0.1:5000"}, Insecure: []string{"127.0.0.1:5000"}, LocalDirs: []string{"/srv/images"}},
		Isolation: Isolation{UserNamespace: "required", Seccomp: "off", CapAllow: []string{"CAP_CHOWN", "CAP_NET_RAW"}, PidsMax: 100, CPUHardLimit: true},
		GPU: GPUConfig{Set: true, Probe: "/opt/joule-gpu-probe", Library: "/opt/libnvidia-ml.so.1", CDIDirs: []string{"/opt/cdi"},
			Required: true, AllowDevices: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("full configuration (-want +got):\n%s", diff)
	}
}

// Every field, with every kind of wrong value: the fault names the field and
// what was given.
func TestConfigFaults(t *testing.T) {
	long := strings.Repeat("x", 110)
	for _, tc := range []struct {
		line string // replaces the field's line of a valid file
		want []string
	}{
		{`data_dir = ""`, []string{`data_dir: must be an absolute path (got "")`}},
		{`data_dir = "var/lib"`, []string{`data_dir: must be an absolute path (got "var/lib")`}},
		{`data_dir = ["/a"]`, []string{`data_dir: hostd.hcl:`, `string`, `(got ["/a"])`}},
		{`data_dir = "/` + long + `"`, []string{`socket: must have at most 103 bytes`}},
		{`host = ""`, []string{`host: must not be empty`}},
		{`host = "a b"`, []string{`host: must not contain blanks or control characters (got "a b")`}},
		{`host = "` + long + `"`, []string{`host: must have at most 64 bytes`, long}},
		{`host = {}`, []string{`host: hostd.hcl:`, `(got {})`}},
		{`servers = []`, []string{`servers: must name at least one settlement server`}},
		{`servers = "https://s1"`, []string{`servers: hostd.hcl:`, `list of string required`, `(got "https://s1")`}},
		{`servers = ["ftp://s1", "http://a", "http://a"]`, []string{`servers[0]: must begin with http:// or https:// (got "ftp://s1")`, `servers[2]: named twice (got "http://a")`}},
		{`servers = ["https://"]`, []string{`servers[0]: must name a server (got "https://")`}},
		{`servers = ["https://s1:70000"]`, []string{`servers[0]: port must be from 1 to 65535 (got "https://s1:70000")`}},
		{`servers = ["https://s1/path"]`, []string{`servers[0]: must be no more than scheme, server and port (got "https://s1/path")`}},
		{`servers = ["https://me:secret@s1"]`, []string{`servers[0]: must be no more than scheme, server and port (got "https://me:xxxxx@s1")`}},
		{`ca_file = "ca.pem"`, []string{`ca_file: must be an absolute path (got "ca.pem")`}},
		{`ca_file = true`, nil}, // HCL makes a string of it: "true", which is no path
		{`class = "cloud"`, []string{`class: must be "crowd" or "datacenter" (got "cloud")`}},
		{`class = ""`, []string{`class: must be "crowd" or "datacenter" (got "")`}},
		{`runtimes = []`, []string{`runtimes: must name at least one`}},
		{`runtimes = ["./runc", ""]`, []string{`runtimes[0]: must be a name or an absolute path (got "./runc")`, `runtimes[1]: must be a name or an absolute path (got "")`}},
		{`allow_host_root = "perhaps"`, []string{`allow_host_root: hostd.hcl:`, `bool`, `(got "perhaps")`}},
		{`socket = "s.sock"`, []string{`socket: must be an absolute path (got "s.sock")`}},
		{`shim = "shim"`, []string{`shim: must be an absolute path (got "shim")`}},
		{`checkpoint = "often"`, []string{`checkpoint: must be a duration such as "2s" (got "often")`}},
		{`checkpoint = "-3s"`, []string{`checkpoint: must be from 10ms to 1m0s (got -3s)`}},
		{`checkpoint = "2m"`, []string{`checkpoint: must be from 10ms to 1m0s (got 2m0s)`}},
		{`colour = "red"`, []string{`colour: hostd.hcl:`, `not expected here`}},
		{"pool {\n}", []string{`pool: hostd.hcl:`, `not expected here`}},
		{"images {\n  cache_dir = \"images\"\n}", []string{`images.cache_dir: must be an absolute path (got "images")`}},
		{"images {\n  cache_limit = \"lots\"\n}", []string{`images.cache_limit: must be a size such as "20GiB" (got "lots")`}},
		{"images {\n  cache_limit = \"1MiB\"\n}", []string{`images.cache_limit: must be at least 64 MiB`}},
		{"images {\n  auth_file = \"auth\"\n}", []string{`images.auth_file: must be an absolute path (got "auth")`}},
		{"images {\n  registries = [\"https://x\"]\n  local_dirs = [\"here\"]\n}", []string{`images.registries[0]: `, `"https://x"`, `images.local_dirs[0]: `, `"here"`}},
		{"images {\n  colour = \"red\"\n}", []string{`hostd.hcl:`, `colour`}},
		{"isolation {\n  user_namespace = \"maybe\"\n  seccomp = \"yes\"\n}", []string{`isolation.user_namespace: `, `"maybe"`, `isolation.seccomp: `, `"yes"`}},
		{"isolation {\n  cap_allow = [\"fly\"]\n  pids_max = 0\n}", []string{`isolation.cap_allow[0]: not a capability (got "fly")`, `isolation.pids_max: must be from 1`}},
		{"gpu {\n probe = \"p\"\n cdi_dirs = [\"cdi\"]\n}", []string{`gpu.probe: must be an absolute path (got "p")`, `gpu.cdi_dirs[0]: must be an absolute path (got "cdi")`}},
		{"gpu {\n cdi_dirs = []\n}", []string{`gpu.cdi_dirs: must name at least one`}},
	} {
		t.Run(tc.line, func(t *testing.T) {
			valid := []string{`data_dir = "/d"`, `servers = ["https://s1:7433"]`}
			field, _, _ := strings.Cut(tc.line, " ")
			lines := []string{tc.line}
			for _, l := range valid {
				if !strings.HasPrefix(l, field+" ") {
					lines = append(lines, l)
				}
			}
			_, err := load(t, strings.Join(lines, "\n")+"\n")
			if err == nil {
				t.Fatal("got no error")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error lacks %q:\n%v", want, err)
				}
			}
			var faults Faults
			if !errors.As(err, &faults) || len(faults) > max(1, len(tc.want)) {
				t.Errorf("got %d faults, want one for each: %v", len(faults), err)
			}
		})
	}
}

// One run reports whatever is wrong, be it of the wrong type, unknown or out of
// bounds.
func TestConfigFaultsAreReportedTogether(t *testing.T) {
	_, err := load(t, `
host            = ""
servers         = ["ftp://s1"]
ca_file         = "ca.pem"
class           = "cloud"
runtimes        = [""]
allow_host_root = "perhaps"
socket          = "s.sock"
shim            = "shim"
checkpoint      = "often"
colour          = "red"
`)
	var faults Faults
	if !errors.As(err, &faults) {
		t.Fatalf("got %v, want Faults", err)
	}
	var fields []string
	for _, f := range faults {
		fields = append(fields, f.Field)
	}
	slices.Sort(fields)
	want := []string{"allow_host_root", "ca_file", "checkpoint", "class", "colour", "data_dir", "host", "runtimes[0]", "servers[0]", "shim", "socket"}
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Errorf("fields with faults (-want +got):\n%s\n%v", diff, err)
	}
}

func TestConfigThatIsNotHCL(t *testing.T) {
	if _, err := load(t, "data_dir = = 3"); err == nil || !strings.Contains(err.Error(), "hostd.hcl:1: ") {
		t.Errorf("got %v, want the place", err)
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none.hcl")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: got %v, want ErrNotExist", err)
	}
}

func TestCheckFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	good := Config{DataDir: filepath.Join(dir, "data"), Socket: filepath.Join(dir, "data", "hostd.sock")}
	if err := good.CheckFiles(); err != nil {
		t.Errorf("nothing is there yet: got %v, want none", err)
	}
	if _, err := os.Stat(good.DataDir); !errors.Is(err, os.ErrNotExist) {
		t.Error("the check made the data directory")
	}
	badKey := filepath.Join(dir, "other")
	if err := errors.Join(os.Mkdir(badKey, 0o700), os.WriteFile(filepath.Join(badKey, KeyFile), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		cfg  Config
		want string
	}{
		{Config{DataDir: file, Socket: filepath.Join(file, "s")}, "data_dir: is no directory (got "},
		{Config{DataDir: badKey, Socket: filepath.Join(badKey, "s")}, "must be a regular file that only its owner may read"},
		{Config{DataDir: dir, Socket: filepath.Join(dir, "s"), CAFile: filepath.Join(dir, "none.pem")}, "ca_file: open "},
		{Config{DataDir: dir, Socket: filepath.Join(dir, "s"), CAFile: file}, "ca_file: holds no PEM certificate (got "},
		{Config{DataDir: dir, Socket: filepath.Join(dir, "s"), Shim: file}, "shim: permission denied (got "},
		{Config{DataDir: dir, Socket: filepath.Join(dir, "none", "s")}, "socket: its directory: "},
		{Config{DataDir: dir, Socket: filepath.Join(file, "s")}, "socket: its directory is none (got "},
	} {
		if err := tc.cfg.CheckFiles(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("got %v, want %q in it", err, tc.want)
		}
	}
}

func TestHostKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	// Created by several at once, it is one key.
	keys := make([]ed25519.PublicKey, 8)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			key, err := PublicKey(dir)
			if err != nil {
				t.Errorf("PublicKey: %v", err)
			}
			keys[i] = key
		})
	}
	wg.Wait()
	for _, k := range keys {
		if !k.Equal(keys[0]) {
			t.Errorf("got two keys, %x and %x", k, keys[0])
		}
	}
	path := filepath.Join(dir, KeyFile)
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("mode: got %v, %v, want 0600", info.Mode(), err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left beside the key: %v", left)
	}
	for _, tc := range []struct {
		name  string
		spoil func() error
		want  string
	}{
		{"others may read it", func() error { return os.Chmod(path, 0o644) }, "0600"},
		{"not a key", func() error { return os.WriteFile(path, []byte("hello"), 0o600) }, "PEM"},
		{"a key of another kind", func() error {
			return os.WriteFile(path, []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), 0o600)
		}, path},
	} {
		if err := tc.spoil(); err != nil {
			t.Fatal(err)
		}
		if _, err := PublicKey(dir); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want an error with %q", tc.name, err, tc.want)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
