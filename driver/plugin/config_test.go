package plugin

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/plugins/base"
)

func TestConfigFaultsAreReportedTogether(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good.hcl", `data_dir = "/var/lib/joule"`)
	tests := []struct {
		name string
		cfg  Config
		want []string // each in the error; none: no error
	}{
		{"nothing set", Config{StartHostd: true, HostdBinary: "joule"}, []string{`hostd_config: required`, `hostd_binary: must be absolute (got "joule")`}},
		{"relative", Config{HostdConfig: "etc/hostd.hcl"}, []string{`hostd_config: must be absolute (got "etc/hostd.hcl")`}},
		{"missing file", Config{HostdConfig: "/nonexistent/hostd.hcl"}, []string{`hostd_config: open /nonexistent/hostd.hcl: no such file`}},
		{"not HCL", Config{HostdConfig: write("bad.hcl", `data_dir = [`)}, []string{`hostd_config: parse `, `bad.hcl`}},
		{"no data_dir", Config{HostdConfig: write("empty.hcl", `class = "crowd"`)}, []string{`data_dir in`, `must be absolute (got "")`}},
		{"wrong types inside", Config{HostdConfig: write("types.hcl", "data_dir = [1]\nsocket = {}\n")}, []string{`hostd_config: parse `, `types.hcl:1`, `types.hcl:2`}},
		{"socket too long", Config{HostdConfig: write("long.hcl", `data_dir = "/`+strings.Repeat("x", 100)+`"`)}, []string{`socket in`, `at most 107 bytes (got 112`}},
		{"a directory", Config{HostdConfig: dir}, []string{`hostd_config: read ` + dir + `: is a directory`}},
		{"relative binary that isn't needed", Config{HostdConfig: good, HostdBinary: "joule"}, []string{`hostd_binary: must be absolute (got "joule")`}},
		{"binary not executable", Config{HostdConfig: good, StartHostd: true, HostdBinary: good}, []string{`hostd_binary: not an executable file (got "` + good + `")`}},
		{"everything", Config{HostdConfig: write("all.hcl", "data_dir = \"d\"\nsocket = \"s\"\n"), StartHostd: true, HostdBinary: "/nonexistent/joule"}, []string{
			`data_dir in`, `socket in`, `hostd_binary: stat /nonexistent/joule`}},
		{"relative inside", Config{HostdConfig: write("rel.hcl", "data_dir = \"d\"\nsocket = \"s\"")}, []string{
			`data_dir in`, `must be absolute (got "d")`, `socket in`, `must be absolute (got "s")`}},
		{"missing binary", Config{HostdConfig: good, StartHostd: true, HostdBinary: "/nonexistent/joule"}, []string{`hostd_binary: stat /nonexistent/joule`}},
		{"binary is a directory", Config{HostdConfig: good, StartHostd: true, HostdBinary: dir}, []string{`hostd_binary: not an executable file (got "` + dir + `")`}},
		{"binary not needed", Config{HostdConfig: good, HostdBinary: "/nonexistent/joule"}, nil},
		{"good", Config{HostdConfig: good, StartHostd: true, HostdBinary: os.Args[0]}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tt.cfg.resolve()
			if (err == nil) != (len(tt.want) == 0) {
				t.Fatalf("got error %v, want %q", err, tt.want)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got error %q, want %q in it", err, want)
				}
			}
		})
	}
}

func TestHostdIsFoundOnPathOrAskedFor(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{HostdConfig: filepath.Join(dir, "hostd.hcl"), StartHostd: true}
	if err := os.WriteFile(cfg.HostdConfig, []byte(`data_dir = "/d"`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	if _, err := cfg.resolve(); err == nil || !strings.Contains(err.Error(), "set hostd_binary, or start_hostd = false") {
		t.Errorf("got error %v, want advice", err)
	}
	joule := filepath.Join(dir, "joule")
	if err := os.WriteFile(joule, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := cfg.resolve()
	if err != nil || s.hostdBinary != joule {
		t.Errorf("got %q, %v, want %q", s.hostdBinary, err, joule)
	}
}

func TestSocketComesFromHostdConfig(t *testing.T) {
	dir := t.TempDir()
	for name, tt := range map[string]struct{ file, text, want string }{
		"default":   {"a.hcl", `data_dir = "/var/lib/joule"`, "/var/lib/joule/hostd.sock"},
		"named":     {"b.hcl", "data_dir = \"/d\"\nsocket = \"/run/j.sock\"\nservers = [\"x\"]\nother { a = 1 }", "/run/j.sock"},
		"extension": {"d.conf", `data_dir = "/d"`, "/d/hostd.sock"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, tt.file)
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := Config{HostdConfig: path}.resolve()
			if err != nil || s.socket != tt.want {
				t.Errorf("got socket %q, %v, want %q", s.socket, err, tt.want)
			}
		})
	}
}

func TestPluginConfigDecodesFromHCL(t *testing.T) {
	parser := hclutils.NewConfigParser(configSpec())
	var got Config
	parser.ParseHCL(t, `config { hostd_config = "/etc/joule/hostd.hcl" }`, &got)
	if want := (Config{HostdConfig: "/etc/joule/hostd.hcl", StartHostd: true}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	got = Config{}
	parser.ParseHCL(t, `config {
		hostd_config = "/h.hcl"
		hostd_binary = "/usr/bin/joule"
		start_hostd  = false
	}`, &got)
	if want := (Config{HostdConfig: "/h.hcl", HostdBinary: "/usr/bin/joule"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestTaskConfigDecodesFromHCL(t *testing.T) {
	parser := hclutils.NewConfigParser(taskConfigSpec())
	var got TaskConfig
	parser.ParseHCL(t, `config {
		command  = "/bin/serve"
		args     = ["-p", "80"]
		work_dir = "/local/w"
		budget   = "25.00"
		max_price {
			gpu = "2.50"
			cpu = 0.04
		}
	}`, &got)
	want := TaskConfig{Command: "/bin/serve", Args: []string{"-p", "80"}, WorkDir: "/local/w", Budget: "25.00",
		MaxPrice: &MaxPrice{GPU: "2.50", CPU: "0.04"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("task config (-want +got):\n%s", diff)
	}
	got = TaskConfig{}
	parser.ParseHCL(t, `config {
		image              = "registry.example/app:1"
		image_pull_timeout = "10m"
		entrypoint         = ["/e"]
		args               = ["a"]
		runtime            = "runsc"
		readonly_rootfs    = true
		cap_add            = ["net_raw"]
		cap_drop           = ["all"]
		pids_limit         = 100
		cpu_hard_limit     = true
		ulimit {
			nofile = "1024:2048"
			core   = "0"
		}
	}`, &got)
	if diff := cmp.Diff(TaskConfig{Image: "registry.example/app:1", PullTimeout: "10m", Entrypoint: []string{"/e"}, Args: []string{"a"},
		Runtime: "runsc", ReadOnlyRoot: true, CapAdd: []string{"net_raw"}, CapDrop: []string{"all"}, PidsLimit: 100, CPUHardLimit: true,
		Ulimit: map[string]string{"nofile": "1024:2048", "core": "0"}}, got); diff != "" {
		t.Errorf("image task config (-want +got):\n%s", diff)
	}
	if err := got.Validate(); err != nil {
		t.Errorf("validate: %v", err)
	}
	got = TaskConfig{}
	parser.ParseHCL(t, `config { command = "true" }`, &got)
	if diff := cmp.Diff(TaskConfig{Command: "true"}, got); diff != "" {
		t.Errorf("task config (-want +got):\n%s", diff)
	}
	if err := got.Validate(); err != nil {
		t.Errorf("validate: %v", err)
	}
}

// Nomad calls SetConfig twice without an agent's configuration, and constructs
// the plugin three times, before it means it.
func TestNothingHappensBeforeAnAgentConfigures(t *testing.T) {
	h := newHost(t)
	h.killHostd(t)
	cfg := Config{HostdConfig: h.config, HostdBinary: os.Args[0], StartHostd: true}
	d := testDriver(t)
	for _, agent := range []*base.AgentConfig{nil, {}} {
		c := h.pluginConfig(t, cfg, false)
		c.AgentConfig = agent
		if err := d.SetConfig(c); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.InspectTask("a/b/c"); err == nil || err.Error() != errNotConfigured.Error() {
		t.Errorf("got %v, want %v", err, errNotConfigured)
	}
	entries, err := os.ReadDir(h.dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("got %v, %v in data_dir, want hostd.hcl only", entries, err)
	}
	// A fault is told even then: it stops the agent's start.
	if err := d.SetConfig(h.pluginConfig(t, Config{}, false)); err == nil || !strings.Contains(err.Error(), "hostd_config: required") {
		t.Errorf("got %v, want a fault of hostd_config", err)
	}
}
