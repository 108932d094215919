package plugin

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/nomad/helper/testlog"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
)

// process is the plugin as Nomad has it: a process of its own, over go-plugin.
type process struct {
	client *goplugin.Client
	drivers.DriverPlugin
}

func spawn(t *testing.T) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "JOULE_TEST_PLUGIN=1")
	log := testlog.HCLogger(t)
	c := goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig: base.Handshake,
		Plugins: map[string]goplugin.Plugin{
			base.PluginTypeBase:   &base.PluginBase{},
			base.PluginTypeDriver: drivers.NewDriverPlugin(nil, log),
		},
		Cmd:              cmd,
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		Logger:           log,
	})
	t.Cleanup(c.Kill)
	conn, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := conn.Dispense(base.PluginTypeDriver)
	if err != nil {
		t.Fatal(err)
	}
	return &process{c, raw.(drivers.DriverPlugin)}
}

// What a Nomad agent does with the binary when it starts, and what happens to
// it later: killed with SIGKILL, and gone together with the agent.
func TestPluginProcessLife(t *testing.T) {
	h := newHost(t)
	h.killHostd(t)
	cfg := Config{HostdConfig: h.config, HostdBinary: os.Args[0], StartHostd: true}
	untouched := func(when string) {
		t.Helper()
		if entries, err := os.ReadDir(h.dir); err != nil || len(entries) != 1 {
			t.Fatalf("%s: got %v, %v in data_dir, want hostd.hcl only", when, entries, err)
		}
	}

	// First: its schemas.
	p := spawn(t)
	if info, err := p.PluginInfo(); err != nil || info.Name != Name || info.PluginVersion != Version {
		t.Fatalf("got %+v, %v", info, err)
	}
	if _, err := p.ConfigSchema(); err != nil {
		t.Fatal(err)
	}
	p.client.Kill()
	untouched("schemas")

	// Second: whether its configuration is good, without an agent's.
	p = spawn(t)
	if err := p.SetConfig(h.pluginConfig(t, cfg, false)); err != nil {
		t.Fatal(err)
	}
	bad := h.pluginConfig(t, Config{HostdConfig: "x", StartHostd: true, HostdBinary: "y"}, false)
	if err := p.SetConfig(bad); err == nil || !strings.Contains(err.Error(), "hostd_config: must be absolute") || !strings.Contains(err.Error(), "hostd_binary: must be absolute") {
		t.Errorf("got %v, want both faults", err)
	}
	p.client.Kill()
	untouched("validation")

	// Third: in earnest.
	p = spawn(t)
	if err := p.SetConfig(h.pluginConfig(t, cfg, true)); err != nil {
		t.Fatal(err)
	}
	untouched("configuration")
	fingerprints, err := p.Fingerprint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if fp := within(t, fingerprintWait+time.Second, fingerprints, "fingerprint"); fp.Health != drivers.HealthStateHealthy {
		t.Fatalf("got %+v, want healthy", fp)
	}
	tc := task(t, TaskConfig{Command: "virtual", Args: []string{"1500ms", "6"}})
	handle, _, err := p.StartTask(tc)
	if err != nil {
		t.Fatal(err)
	}
	wait, err := p.WaitTask(t.Context(), tc.ID)
	if err != nil {
		t.Fatal(err)
	}

	// kill -9 of the plugin: Nomad starts another and recovers.
	pid := p.client.ReattachConfig().Pid
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if x := within(t, 10*time.Second, wait, "end of the wait"); x.Err == nil {
		t.Errorf("got %+v, want an error: the plugin is gone, the task is not", x)
	}
	p.client.Kill()
	p = spawn(t)
	if err := p.SetConfig(h.pluginConfig(t, cfg, true)); err != nil {
		t.Fatal(err)
	}
	if err := p.RecoverTask(handle); err != nil {
		t.Fatalf("recover: %v", err)
	}

	// The agent ends and ends the plugin (SIGTERM of the agent): hostd stays.
	p.client.Kill()
	if got := h.starts(t); len(got) != 1 || syscall.Kill(got[0], 0) != nil {
		t.Errorf("got hostd started as %v, want one that is alive", got)
	}
	p = spawn(t)
	if err := p.SetConfig(h.pluginConfig(t, cfg, true)); err != nil {
		t.Fatal(err)
	}
	if err := p.RecoverTask(handle); err != nil {
		t.Fatalf("recover: %v", err)
	}
	if wait, err = p.WaitTask(t.Context(), tc.ID); err != nil {
		t.Fatal(err)
	}
	if x := within(t, 10*time.Second, wait, "exit"); x.ExitCode != 6 || x.Err != nil {
		t.Errorf("got %+v, want exit code 6", x)
	}
	if err := p.DestroyTask(tc.ID, false); err != nil {
		t.Errorf("destroy: %v", err)
	}
	if got := h.starts(t); len(got) != 1 {
		t.Errorf("got hostd started %d times, want once", len(got))
	}
}
