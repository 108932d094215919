package plugin

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/joulecloud/joule/driver/hostapi"
)

func TestCheckUSD(t *testing.T) {
	for _, good := range []string{"", "0", "0.00", "2.50", "25", "0.000000001", "9223372036.854775807", "007", "1_000.25", "0.000_001"} {
		if err := checkUSD(good); err != nil {
			t.Errorf("checkUSD(%q): got %v, want none", good, err)
		}
	}
	for bad, want := range map[string]string{
		"-1":                     "must not be negative",
		"-0":                     "must not be negative",
		"1,5":                    "must be an amount",
		"1e3":                    "must be an amount",
		"$1":                     "must be an amount",
		".5":                     "must be an amount",
		"1.":                     "must be an amount",
		" 1":                     "must be an amount",
		"1.2.3":                  "must be an amount",
		"_1":                     "must be an amount",
		"1__0":                   "must be an amount",
		"1._5":                   "must be an amount",
		"NaN":                    "must be an amount",
		"+1":                     "must be an amount",
		"١":                      "must be an amount",
		"0.0000000001":           "must have at most 9 decimals",
		"9223372036.854775808":   "must be at most",
		"99999999999999999999":   "must be at most",
		strings.Repeat("9", 200): "must be at most",
	} {
		if err := checkUSD(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("checkUSD(%q): got %v, want %q", bad, err, want)
		}
	}
}

func TestTaskConfigFaultsAreReportedTogether(t *testing.T) {
	tc := TaskConfig{
		Command: " ", Args: []string{"ok", "a\x00b"}, WorkDir: "here", Budget: "-5",
		MaxPrice: &MaxPrice{Base: "x", CPU: "0.04", GPU: "1e9", Memory: "1.0000000001"},
	}
	got := tc.Validate().Error()
	want := `command: must not be empty (got " ")
args[1]: must not hold a NUL byte (got "a\x00b")
work_dir: must be absolute (got "here")
budget: must not be negative (got "-5")
max_price.base: must be an amount in USD such as 2.50 (got "x")
max_price.gpu: must be an amount in USD such as 2.50 (got "1e9")
max_price.memory: must have at most 9 decimals (got "1.0000000001")`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
}

func TestImageFaultsAreReportedTogether(t *testing.T) {
	tc := TaskConfig{PullTimeout: "soon", Entrypoint: []string{"a\x00"}, ReadOnlyRoot: true, PidsLimit: -1}
	got := tc.Validate().Error()
	want := `entrypoint: needs an image
image_pull_timeout: needs an image
readonly_rootfs: needs an image
image_pull_timeout: must be a duration up to 2h0m0s such as "5m" (got "soon")
pids_limit: must not be negative (got -1)
entrypoint[0]: must not hold a NUL byte (got "a\x00")
command: must not be empty (got "")`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
}

func TestStartRequest(t *testing.T) {
	cfg := task(t, TaskConfig{Command: "/bin/serve", Args: []string{"-v"}, WorkDir: "/local"})
	cfg.ID, cfg.AllocID, cfg.Name = "alloc-1/web/proxy/inv-1", "alloc-1", "web/proxy"
	cfg.AllocDir, cfg.User = "/n/alloc-1", "1000:1000"
	cfg.StdoutPath, cfg.StderrPath = "/n/o", "/n/e"
	cfg.Env = map[string]string{"A": "b"}
	cfg.Resources.NomadResources.Memory.MemoryMaxMB = 128
	cfg.Mounts = []*drivers.MountConfig{{TaskPath: "/data", HostPath: "/srv/data", Readonly: true, PropagationMode: "private"}}
	cfg.NetworkIsolation = &drivers.NetworkIsolationSpec{Mode: drivers.NetIsolationModeGroup, Path: "/run/netns/x",
		HostsConfig: &drivers.HostsConfig{Hostname: "web", Address: "10.1.2.3"}}
	got, err := startRequest(cfg)
	if err != nil {
		t.Fatal(err)
	}
	want := &hostapi.StartRequest{
		ID: "alloc-1/web/proxy/inv-1", AllocID: "alloc-1", Task: "web/proxy", Invocation: "inv-1",
		Command: "/bin/serve", Args: []string{"-v"}, Env: map[string]string{"A": "b"}, User: "1000:1000", WorkDir: "/local",
		AllocDir: "/n/alloc-1/alloc", LocalDir: "/n/alloc-1/web/proxy/local", SecretsDir: "/n/alloc-1/web/proxy/secrets",
		StdoutPath: "/n/o", StderrPath: "/n/e", CPUShares: 100, MemoryMiB: 64, MemoryMax: 128,
		NetworkPath: "/run/netns/x", Hostname: "web",
		Mounts: []hostapi.Mount{{HostPath: "/srv/data", TaskPath: "/data", ReadOnly: true}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

func TestStartRequestRefusesWhatItCannotDo(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*drivers.TaskConfig)
		want   string
	}{
		"volume that mounts on the host": {func(c *drivers.TaskConfig) {
			c.Mounts = []*drivers.MountConfig{{TaskPath: "/data", HostPath: "/srv", PropagationMode: "bidirectional"}}
		}, `propagation_mode must be "private" or "host-to-task" (got "bidirectional" for destination "/data")`},
		"id":        {func(c *drivers.TaskConfig) { c.ID = "x" }, `task id: want alloc/task/invocation (got "x")`},
		"resources": {func(c *drivers.TaskConfig) { c.Resources = nil }, "resources: missing"},
		"two networks": {func(c *drivers.TaskConfig) {
			c.NetworkIsolation = &drivers.NetworkIsolationSpec{Mode: drivers.NetIsolationModeGroup, Path: "/run/netns/x"}
			if err := c.EncodeConcreteDriverConfig(&TaskConfig{Command: "true", NetworkMode: "none"}); err != nil {
				t.Fatal(err)
			}
		}, "network_mode: must be left out in a group"},
		"network": {func(c *drivers.TaskConfig) {
			c.NetworkIsolation = &drivers.NetworkIsolationSpec{Mode: drivers.NetIsolationModeGroup}
		}, "network: Nomad made no namespace"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := task(t, TaskConfig{Command: "true"})
			tt.change(cfg)
			if _, err := startRequest(cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestResolvConf(t *testing.T) {
	const host = "# comment\nnameserver 10.0.0.1\nnameserver 10.0.0.2\nsearch a b\noptions ndots:2\noptions rotate\nbroken\n"
	for name, tt := range map[string]struct {
		dns  drivers.DNSConfig
		want string
	}{
		"host's": {drivers.DNSConfig{}, "search a b\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:2 rotate\n"},
		"job's servers": {drivers.DNSConfig{Servers: []string{"1.1.1.1"}},
			"search a b\nnameserver 1.1.1.1\noptions ndots:2 rotate\n"},
		"all the job's": {drivers.DNSConfig{Servers: []string{"1.1.1.1"}, Searches: []string{"x"}, Options: []string{"edns0"}},
			"search x\nnameserver 1.1.1.1\noptions edns0\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := resolvConf(host, &tt.dns); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestTaskNameFromID(t *testing.T) {
	for id, want := range map[string]string{"a/b/c": "b", "a/b/d/c": "b/d", "a": "", "a/b": "b"} {
		if got := taskName(id); got != want {
			t.Errorf("taskName(%q): got %q, want %q", id, got, want)
		}
	}
}
