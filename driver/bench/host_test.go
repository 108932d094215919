package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/nomad/helper/uuid"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"golang.org/x/sys/unix"

	"github.com/joulecloud/joule/driver/cgroup"
	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/hostd"
	"github.com/joulecloud/joule/driver/plugin"
	"github.com/joulecloud/joule/driver/session/sessiontest"
)

const taskName = "work"

// host is a supplier's host as Nomad's client has it.
type host struct {
	t       *testing.T
	dir     string // short: a socket goes below it
	runtime string
	client  *goplugin.Client
	driver  drivers.DriverPlugin
	hostd   *exec.Cmd
	n       atomic.Int64

	mu    sync.Mutex
	tasks map[string]*drivers.TaskConfig
}

// program finds what make build made.
func program(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(filepath.Join("..", "..", path))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(abs); err != nil {
		t.Skipf("needs %s (make build tools)", path)
	}
	return abs
}

func newHost(t *testing.T) *host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	// A container that the runtime is called for from here is ours to wait for, as
	// a task's is its shim's.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, tasks: map[string]*drivers.TaskConfig{}}
	var err error
	if h.runtime, err = exec.LookPath("runc"); err != nil {
		h.runtime = program(t, "build/bin/runc")
	}
	if h.dir, err = os.MkdirTemp("", "jb"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(h.dir) })
	if err := os.Chmod(h.dir, 0o755); err != nil { // tasks run as nobody
		t.Fatal(err)
	}
	groups, err := cgroup.Detect(cgroup.DefaultRoot)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(groups.Tidy)

	srv := sessiontest.New(t)
	srv.Set(func(hooks *sessiontest.Hooks) { hooks.HeartbeatMs, hooks.CheckpointMs = 1000, 2000 })
	data := filepath.Join(h.dir, "data")
	key, err := hostd.PublicKey(data)
	if err != nil {
		t.Fatal(err)
	}
	srv.Enroll("bench", key)
	config := filepath.Join(h.dir, "hostd.hcl")
	text := fmt.Sprintf("data_dir = %q\nhost = \"bench\"\nservers = [%q]\nruntimes = [%q]\nshim = %q\nallow_host_root = true\n",
		data, srv.URL(), h.runtime, program(t, "bin/joule-shim"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(h.dir, "hostd.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	h.hostd = exec.Command(program(t, "bin/joule"), "hostd", "-config", config)
	h.hostd.Stderr = log
	if err := h.hostd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			t.Logf("hostd's log:\n%s", b)
		}
		api := hostapi.NewClient(filepath.Join(data, "hostd.sock"))
		h.mu.Lock()
		defer h.mu.Unlock()
		for id := range h.tasks {
			_ = api.Destroy(t.Context(), id, true)
		}
		_ = h.hostd.Process.Kill()
		_ = h.hostd.Wait()
	})

	quiet := hclog.NewNullLogger()
	h.client = goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig: base.Handshake,
		Plugins: map[string]goplugin.Plugin{
			base.PluginTypeBase:   &base.PluginBase{},
			base.PluginTypeDriver: drivers.NewDriverPlugin(nil, quiet),
		},
		Cmd:              exec.Command(program(t, "bin/plugins/nomad-driver-joule")),
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		Logger:           quiet,
	})
	t.Cleanup(h.client.Kill)
	conn, err := h.client.Client()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := conn.Dispense(base.PluginTypeDriver)
	if err != nil {
		t.Fatal(err)
	}
	h.driver = raw.(drivers.DriverPlugin)
	var b []byte
	if err := base.MsgPackEncode(&b, &plugin.Config{HostdConfig: config}); err != nil {
		t.Fatal(err)
	}
	if err := h.driver.SetConfig(&base.Config{PluginConfig: b, ApiVersion: drivers.ApiVersion010, AgentConfig: &base.AgentConfig{Driver: &base.ClientDriverConfig{}}}); err != nil {
		t.Fatal(err)
	}
	h.await("hostd's socket", func() bool { _, err := os.Stat(filepath.Join(data, "hostd.sock")); return err == nil })
	prints, err := h.driver.Fingerprint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for fp := range prints {
		if fp.Health == drivers.HealthStateHealthy {
			break
		}
		t.Logf("driver: %s", fp.HealthDescription)
	}
	go func() {
		for range prints { // as Nomad does, for as long as the test runs
		}
	}()
	return h
}

func (h *host) hostdPid() int  { return h.hostd.Process.Pid }
func (h *host) pluginPid() int { return h.client.ReattachConfig().Pid }

// allocDir makes what Nomad makes for an allocation.
func (h *host) allocDir(alloc string) string {
	h.t.Helper()
	dir := filepath.Join(h.dir, "allocs", alloc)
	for _, d := range []string{"alloc", taskName + "/local", taskName + "/secrets"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o777); err != nil {
			h.t.Fatal(err)
		}
	}
	return dir
}

func (h *host) allocOf(id string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.tasks[id].AllocDir
}

// task prepares a task and returns its id.
func (h *host) task(command string, args ...string) string {
	h.t.Helper()
	alloc := uuid.Generate()
	cfg := &drivers.TaskConfig{
		ID: alloc + "/" + taskName + "/" + uuid.Short(), AllocID: alloc, Name: taskName, AllocDir: h.allocDir(alloc),
		Resources: &drivers.Resources{NomadResources: &structs.AllocatedTaskResources{
			Cpu:    structs.AllocatedCpuResources{CpuShares: 100},
			Memory: structs.AllocatedMemoryResources{MemoryMB: 64},
		}},
	}
	if err := cfg.EncodeConcreteDriverConfig(&plugin.TaskConfig{Command: command, Args: args}); err != nil {
		h.t.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tasks[cfg.ID] = cfg
	return cfg.ID
}

// start starts a task and waits for its end in the background, as Nomad does.
func (h *host) start(id string) {
	h.mu.Lock()
	cfg := h.tasks[id]
	h.mu.Unlock()
	if _, _, err := h.driver.StartTask(cfg); err != nil {
		h.t.Errorf("start %s: %v", id, err)
		return
	}
	if _, err := h.driver.WaitTask(h.t.Context(), id); err != nil {
		h.t.Error(err)
	}
}

// stop kills a task, and forgets it. It returns how long the stop took, in ms.
func (h *host) stop(id string) float64 {
	begin := mono()
	if err := h.driver.StopTask(id, 0, "SIGKILL"); err != nil {
		h.t.Errorf("stop %s: %v", id, err)
	}
	took := float64(mono()-begin) / 1e6
	if err := h.driver.DestroyTask(id, false); err != nil {
		h.t.Errorf("destroy %s: %v", id, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.tasks, id)
	return took
}

// settle lets what the starts have left come to rest.
func (h *host) settle() { <-time.After(5 * time.Second) }

func (h *host) await(what string, ok func() bool) {
	h.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-time.After(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	h.t.Fatalf("%s: not within 30 s", what)
}
