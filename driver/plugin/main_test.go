package plugin

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/nomad/helper/testlog"
	"github.com/hashicorp/nomad/helper/uuid"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	dtestutil "github.com/hashicorp/nomad/plugins/drivers/testutils"
)

// TestMain lets the test binary be hostd and the plugin, as the tests need them
// as processes of their own.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "hostd" {
		os.Exit(runFakeHostd(os.Args[2:]))
	}
	if os.Getenv("JOULE_TEST_PLUGIN") != "" {
		plugins.ServeCtx(func(ctx context.Context, log hclog.Logger) any { return New(ctx, log) })
		return
	}
	// Nomad's harness and go-plugin leave directories behind.
	tmp, err := os.MkdirTemp("", "jp")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Setenv("TMPDIR", tmp)
	code := m.Run()
	os.RemoveAll(tmp)
	os.Exit(code)
}

// host is a hostd.hcl in a directory of its own.
type host struct {
	dir, config, socket string
}

func newHost(t *testing.T) host {
	t.Helper()
	// Not t.TempDir: a socket's path must be short.
	dir, err := os.MkdirTemp("", "jp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := host{dir: dir, config: filepath.Join(dir, "hostd.hcl"), socket: filepath.Join(dir, "hostd.sock")}
	text := fmt.Sprintf("data_dir = %q\nservers = [\"http://127.0.0.1:1\"]\nclass = \"crowd\"\n", dir)
	if err := os.WriteFile(h.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return h
}

// starts returns the pids of the hostd processes that were ever started.
func (h host) starts(t *testing.T) []int {
	t.Helper()
	b, _ := os.ReadFile(filepath.Join(h.dir, "starts"))
	var pids []int
	for line := range strings.Lines(string(b)) {
		pid, err := strconv.Atoi(strings.Fields(line)[0])
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// killHostd ends every hostd that was started, at the test's end.
func (h host) killHostd(t *testing.T) {
	t.Cleanup(func() {
		for _, pid := range h.starts(t) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
}

func (h host) pluginConfig(t *testing.T, c Config, agent bool) *base.Config {
	t.Helper()
	var b []byte
	if err := base.MsgPackEncode(&b, &c); err != nil {
		t.Fatal(err)
	}
	out := &base.Config{PluginConfig: b, ApiVersion: drivers.ApiVersion010}
	if agent {
		out.AgentConfig = &base.AgentConfig{Driver: &base.ClientDriverConfig{}}
	}
	return out
}

func testDriver(t *testing.T) *Driver {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return New(ctx, testlog.HCLogger(t))
}

// rig is the driver as Nomad's client sees it, over gRPC, and a fake hostd.
type rig struct {
	drivers.DriverPlugin
	d     *Driver
	fake  *fakeHostd
	host  host
	crash func()
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{d: testDriver(t), fake: newFake(), host: newHost(t)}
	r.crash = r.fake.listen(t, r.host.socket)
	t.Cleanup(r.fake.killAll)
	// Not Nomad's DriverHarness: its Kill stops the server twice at once.
	client, _ := goplugin.TestPluginGRPCConn(t, true, map[string]goplugin.Plugin{
		base.PluginTypeDriver: drivers.NewDriverPlugin(r.d, testlog.HCLogger(t)),
		base.PluginTypeBase:   &base.PluginBase{Impl: r.d},
	})
	t.Cleanup(func() { client.Close() })
	raw, err := client.Dispense(base.PluginTypeDriver)
	if err != nil {
		t.Fatal(err)
	}
	r.DriverPlugin = raw.(drivers.DriverPlugin)
	if err := r.SetConfig(r.host.pluginConfig(t, Config{HostdConfig: r.host.config}, true)); err != nil {
		t.Fatal(err)
	}
	return r
}

// harness is Nomad's own test harness around the same driver, with real
// allocation directories (and logs) for cfg. Its cleanup is the only safe end.
func (r *rig) harness(t *testing.T, cfg *drivers.TaskConfig, logs bool) *dtestutil.DriverHarness {
	t.Helper()
	h := dtestutil.NewDriverHarness(t, r.d)
	t.Cleanup(h.MkAllocDir(cfg, logs))
	return h
}

// revive lets a crashed fake listen again.
func (r *rig) revive(t *testing.T) { r.crash = r.fake.listen(t, r.host.socket) }

// task is a Nomad task with this driver config.
func task(t *testing.T, tc TaskConfig) *drivers.TaskConfig {
	t.Helper()
	alloc := uuid.Generate()
	cfg := &drivers.TaskConfig{
		ID:      alloc + "/sleep/" + uuid.Short(),
		AllocID: alloc,
		Name:    "sleep",
		Resources: &drivers.Resources{NomadResources: &structs.AllocatedTaskResources{
			Cpu:    structs.AllocatedCpuResources{CpuShares: 100},
			Memory: structs.AllocatedMemoryResources{MemoryMB: 64},
		}},
	}
	if err := cfg.EncodeConcreteDriverConfig(&tc); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func (r *rig) start(t *testing.T, command string, args ...string) (*drivers.TaskConfig, *drivers.TaskHandle) {
	t.Helper()
	cfg := task(t, TaskConfig{Command: command, Args: args})
	h, _, err := r.StartTask(cfg)
	if err != nil {
		t.Fatalf("start task: %v", err)
	}
	return cfg, h
}

func within[T any](t *testing.T, d time.Duration, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(d):
		t.Fatalf("%s: nothing within %v", what, d)
		panic("unreachable")
	}
}

// eventually polls, for effects that have no event of their own.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("%s: not within 10s", what)
}
