package hostd

import (
	"crypto/ed25519"
	"os"
	"path/filepath"
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
`)
	if err != nil {
		t.Fatal(err)
	}
	want = Config{
		DataDir: "/d", Host: "dc-1", Servers: []string{"http://127.0.0.1:7433"}, CAFile: "/etc/joule/ca.pem", Class: "datacenter",
		Runtimes: []string{"runsc", "/opt/runc"}, AllowHostRoot: true, Socket: "/run/joule.sock", Shim: "/opt/joule-shim",
		Checkpoint: 500 * time.Millisecond,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("full configuration (-want +got):\n%s", diff)
	}
}

func TestLoadFaults(t *testing.T) {
	const least = "data_dir = \"/d\"\nservers = [\"http://s\"]\n"
	long := strings.Repeat("x", 110)
	for _, tc := range []struct {
		name, text string
		want       []string
	}{
		{"every fault at once", `
data_dir   = "var/lib"
host       = ""
servers    = ["ftp://s1", "http://a", "http://a"]
ca_file    = "ca.pem"
class      = "cloud"
runtimes   = ["./runc", ""]
socket     = "s.sock"
shim       = "shim"
checkpoint = "often"
`, []string{
			`data_dir: must be an absolute path (got "var/lib")`, `host: must not be empty`, `servers[0]: `, `"ftp://s1"`,
			`servers[2]: named twice (got "http://a")`, `ca_file: must be an absolute path (got "ca.pem")`, `class: `, `"cloud"`,
			`runtimes[0]: `, `"./runc"`, `runtimes[1]: `, `socket: `, `"s.sock"`, `shim: `, `checkpoint: `, `"often"`,
		}},
		{"no servers", "data_dir = \"/d\"\nservers = []\n", []string{"servers: must name at least one"}},
		{"data_dir missing", `servers = ["http://s"]`, []string{"data_dir"}},
		{"unknown attribute", least + "colour = \"red\"\n", []string{"colour"}},
		{"wrong type", least + "allow_host_root = \"perhaps\"\n", []string{"hostd.hcl:3"}},
		{"not HCL", "data_dir = = 3", []string{"hostd.hcl:1"}},
		{"no runtimes", least + "runtimes = []\n", []string{"runtimes: must name at least one"}},
		{"absurd checkpoints", least + "checkpoint = \"-3s\"\n", []string{"checkpoint: must be from", "-3s"}},
		{"host with blanks", least + "host = \"a b\"\n", []string{`host: `, `"a b"`}},
		{"host too long", least + "host = \"" + long + "\"\n", []string{"host: must have at most 64 bytes"}},
		{"socket too long", "data_dir = \"/" + long + "\"\nservers = [\"http://s\"]\n", []string{"socket: must have at most 103 bytes"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := load(t, tc.text)
			if err == nil {
				t.Fatal("got no error")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error lacks %q:\n%v", want, err)
				}
			}
		})
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none.hcl")); err == nil {
		t.Error("missing file: got no error")
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
	path := filepath.Join(dir, keyFile)
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
