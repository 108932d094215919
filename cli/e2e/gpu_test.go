package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/plugins"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/device"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"

	"github.com/joulecloud/joule/cli/devcluster"
	"github.com/joulecloud/joule/driver/gpu/nvmlstub"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

// gpuDevicePlugin is the name under which the test binary is a device plugin of
// Nomad's. NVIDIA's own is not to be had here; this one does the same as far as
// a task driver sees it: it lists UUIDs, and says in a variable which of them a
// task was given.
const gpuDevicePlugin = "nomad-device-stand-in"

var gpuUUIDs = []string{"GPU-e2e-a", "GPU-e2e-b"}

// serveDevicePlugin serves the stand-in where the test binary was started as it.
func serveDevicePlugin() {
	if filepath.Base(os.Args[0]) == gpuDevicePlugin {
		plugins.Serve(func(hclog.Logger) any { return standIn{} })
		os.Exit(0)
	}
}

type standIn struct{}

func (standIn) PluginInfo() (*base.PluginInfoResponse, error) {
	return &base.PluginInfoResponse{Type: base.PluginTypeDevice, PluginApiVersions: []string{device.ApiVersion010},
		PluginVersion: "0.1.0", Name: "stand-in"}, nil
}

func (standIn) ConfigSchema() (*hclspec.Spec, error) {
	return hclspec.NewObject(map[string]*hclspec.Spec{}), nil
}

func (standIn) SetConfig(*base.Config) error { return nil }

func (standIn) Fingerprint(ctx context.Context) (<-chan *device.FingerprintResponse, error) {
	group := &device.DeviceGroup{Vendor: "nvidia", Type: device.DeviceTypeGPU, Name: "NVIDIA H100"}
	for _, u := range gpuUUIDs {
		group.Devices = append(group.Devices, &device.Device{ID: u, Healthy: true})
	}
	ch := make(chan *device.FingerprintResponse, 1)
	ch <- device.NewFingerprint(group)
	go func() { <-ctx.Done(); close(ch) }()
	return ch, nil
}

func (standIn) Reserve(ids []string) (*device.ContainerReservation, error) {
	return &device.ContainerReservation{Envs: map[string]string{"NVIDIA_VISIBLE_DEVICES": strings.Join(ids, ",")}}, nil
}

func (standIn) Stats(ctx context.Context, _ time.Duration) (<-chan *device.StatsResponse, error) {
	ch := make(chan *device.StatsResponse)
	go func() { <-ctx.Done(); close(ch) }()
	return ch, nil
}

// A real agent hands a GPU out, the task gets it and no other, and its customer
// pays for the milliseconds that it was held.
func TestGPUOnARealAgent(t *testing.T) {
	if os.Getenv("JOULE_TEST_GPU_AGENT") == "" {
		t.Skip("needs JOULE_TEST_GPU_AGENT=1: it starts a cluster of its own")
	}
	p, missing, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	if missing != "" {
		t.Skip(missing)
	}
	probe := filepath.Join(filepath.Dir(p.Joule), "joule-gpu-probe")
	if _, err := os.Stat(probe); err != nil {
		t.Skipf("needs %s (make build)", probe)
	}
	stub := nvmlstub.Build(t, false)
	stub.Set("driver 550.54.15", "gpu GPU-e2e-a NVIDIA H100", "mem GPU-e2e-a 81559 0", "accounting GPU-e2e-a 1", "energy GPU-e2e-a 100",
		"gpu GPU-e2e-b NVIDIA H100", "mem GPU-e2e-b 81559 0", "accounting GPU-e2e-b 1", "energy GPU-e2e-b 100")
	f := &fixture{programs: p}
	if f.dir, err = os.MkdirTemp("", "joule-gpu-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.stop(); err != nil {
			t.Error(err)
		}
	})
	cdi := filepath.Join(f.dir, "cdi")
	p.PluginDir = gpuPluginDir(t, f.dir, p.PluginDir)
	writeGPUSpecs(t, cdi, stub.Path)
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	f.cluster, err = devcluster.Start(ctx, devcluster.Config{
		Dir: f.dir, LogDir: filepath.Join(f.dir, "logs"), Out: os.Stderr, Programs: p,
		Hosts: []devcluster.HostSpec{{Name: "crowd-1", Supplier: "home-lab", Class: "crowd", Offer: &joulev1.Prices{GpuNusdPerHour: 3_600_000_000},
			AgentExtra: fmt.Sprintf("plugin %q {\n  config {}\n}\n", gpuDevicePlugin),
			HostdExtra: fmt.Sprintf("gpu {\n  probe = %q\n  library = %q\n  cdi_dirs = [%q]\n  required = true\n}\n", probe, stub.Path, cdi)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.cluster.Seed(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "GPU attributes", func() error {
		nodes, _, err := f.cluster.NomadAPI.Nodes().List(nil)
		if err != nil || len(nodes) == 0 {
			return fmt.Errorf("%d nodes, %w", len(nodes), err)
		}
		node, _, err := f.cluster.NomadAPI.Nodes().Info(nodes[0].ID, nil)
		if err != nil {
			return err
		}
		for name, want := range map[string]string{"model": "NVIDIA H100", "count": "2", "memory_mib": "81559", "metering": "accounting", "problem": ""} {
			if got := node.Attributes["driver.joule.gpu."+name]; got != want {
				return fmt.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		return nil
	})

	gpus := func(n uint64) func(*api.Job) {
		return func(j *api.Job) {
			work := j.TaskGroups[0].Tasks[0]
			work.Resources.Devices = []*api.RequestedDevice{{Name: "nvidia/gpu", Count: &n}}
			work.Env = map[string]string{"NVIDIA_VISIBLE_DEVICES": "all"}
		}
	}
	_, alloc := f.submit(t, task{command: "/bin/sh", args: []string{"-c",
		`set -e; test "$NVIDIA_VISIBLE_DEVICES" = void; test -n "$GOT"; ls /dev/nvidia?; test -s /opt/nvidia/libnvidia-ml.so.1; sleep 1.2`}, mutate: gpus(1)})
	defer func() {
		if a, _, err := f.cluster.NomadAPI.Allocations().Info(alloc, nil); t.Failed() && err == nil {
			t.Logf("its events: %s", taskEvents(a))
		}
	}()
	lease := f.closed(t, alloc, 20*time.Second)
	a, _, err := f.cluster.NomadAPI.Allocations().Info(alloc, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s := a.TaskStates["main"]; s == nil || s.Failed {
		t.Errorf("task failed: %s", taskEvents(a))
	}
	b := lease.GetBilled()
	if lease.GetResources().GetGpus() != 1 || b.GetGpuMs() != b.GetWallMs() || b.GetGpuMs() < 1200 {
		t.Errorf("billed: got %v for %v, want one GPU for the whole time", b, lease.GetResources())
	}
	// 3.60 USD per hour are 1000 nUSD per ms.
	if got, want := lease.GetChargedNusd(), int64(b.GetGpuMs())*1000; got != want {
		t.Errorf("charged: got %d nUSD, want %d", got, want)
	}

	// Both at once, and then a third finds none.
	_, both := f.submit(t, task{command: "/bin/sleep", args: []string{"3"}, mutate: gpus(2)})
	held := f.running(t, both)
	_, third := f.submitUnplaced(t, gpus(1))
	if third != "" {
		t.Errorf("a third GPU was handed out to allocation %s", third)
	}
	closed := f.closed(t, both, 60*time.Second)
	if b := closed.GetBilled(); closed.GetId() != held.GetId() || b.GetGpuMs() != 2*b.GetWallMs() {
		t.Errorf("billed: got %v, want two GPUs for the whole time", b)
	}
}

// submitUnplaced registers a job that finds no room and returns its allocation,
// which there should not be.
func (f *fixture) submitUnplaced(t *testing.T, mutate func(*api.Job)) (job, alloc string) {
	t.Helper()
	job = "unplaced"
	j := api.NewBatchJob(job, job, "global", 50)
	namespace := "acme"
	j.Namespace, j.Datacenters = &namespace, []string{"*"}
	work := api.NewTask("main", "joule")
	work.Config = map[string]any{"command": "/bin/true"}
	work.Resources = &api.Resources{CPU: pointer(100), MemoryMB: pointer(64)}
	j.AddTaskGroup(api.NewTaskGroup("main", 1).AddTask(work))
	mutate(j)
	if _, _, err := f.cluster.NomadAPI.Jobs().Register(j, &api.WriteOptions{Namespace: namespace}); err != nil {
		t.Fatalf("register job: %v", err)
	}
	defer f.cluster.NomadAPI.Jobs().Deregister(job, true, &api.WriteOptions{Namespace: namespace})
	eventually(t, 20*time.Second, "an evaluation", func() error {
		evals, _, err := f.cluster.NomadAPI.Jobs().Evaluations(job, &api.QueryOptions{Namespace: namespace})
		if err != nil {
			return err
		}
		for _, e := range evals {
			if e.Status == "blocked" || e.Status == "complete" {
				return nil
			}
		}
		return errors.New("none is complete")
	})
	allocs, _, err := f.cluster.NomadAPI.Jobs().Allocations(job, true, &api.QueryOptions{Namespace: namespace})
	if err != nil {
		t.Fatal(err)
	}
	if len(allocs) > 0 {
		return job, allocs[0].ID
	}
	return job, ""
}

// gpuPluginDir is a plugin_dir with our driver and the device plugin.
func gpuPluginDir(t *testing.T, dir, drivers string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "plugins")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"nomad-driver-joule": filepath.Join(drivers, "nomad-driver-joule"), gpuDevicePlugin: self} {
		if err := os.Symlink(to, filepath.Join(out, name)); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// writeGPUSpecs describes the devices as nvidia-ctk does.
func writeGPUSpecs(t *testing.T, dir, library string) {
	t.Helper()
	var list []string
	for i, u := range gpuUUIDs {
		list = append(list, fmt.Sprintf(`{"name": %q, "containerEdits": {"env": ["GOT=%s"], "deviceNodes": [{"path": "/dev/nvidia%d", "hostPath": "/dev/null"}]}}`, u, u, i))
	}
	text := fmt.Sprintf(`{"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "devices": [%s], "containerEdits": {
		"env": ["NVIDIA_VISIBLE_DEVICES=void"],
		"mounts": [{"hostPath": %q, "containerPath": "/opt/nvidia/libnvidia-ml.so.1", "options": ["ro", "nosuid", "nodev", "bind"]}]}}`,
		strings.Join(list, ", "), library)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "nvidia.json"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
