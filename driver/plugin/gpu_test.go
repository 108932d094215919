package plugin

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/joulecloud/joule/driver/hostapi"
)

// grantGPUs makes Nomad and its device plugin hand out GPUs.
func grantGPUs(cfg *drivers.TaskConfig, uuids ...string) {
	cfg.Resources.NomadResources.Devices = []*structs.AllocatedDeviceResource{{Vendor: "nvidia", Type: "gpu", Name: "H100", DeviceIDs: uuids}}
	cfg.DeviceEnv = map[string]string{"NVIDIA_VISIBLE_DEVICES": strings.Join(uuids, ",")}
}

func TestDevicesOfTheRequest(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*drivers.TaskConfig)
		config TaskConfig
		want   []string
		named  bool
		err    []string
	}{
		{name: "none", change: func(*drivers.TaskConfig) {}},
		{name: "two of Nomad's", change: func(c *drivers.TaskConfig) { grantGPUs(c, "GPU-b", "MIG-a") }, want: []string{"GPU-b", "MIG-a"}},
		{name: "a job that asks for all by a variable gets none",
			change: func(c *drivers.TaskConfig) { c.Env = map[string]string{"NVIDIA_VISIBLE_DEVICES": "all"} }},
		{name: "a job can't put others in the place of Nomad's", change: func(c *drivers.TaskConfig) {
			grantGPUs(c, "GPU-a")
			c.Env = map[string]string{"NVIDIA_VISIBLE_DEVICES": "GPU-b"}
		}, want: []string{"GPU-a"}},
		{name: "named by the job", change: func(*drivers.TaskConfig) {}, config: TaskConfig{Devices: []string{"GPU-a"}}, want: []string{"GPU-a"}, named: true},
		{name: "two of Nomad's, as they come over the wire", change: func(c *drivers.TaskConfig) {
			grantGPUs(c, "GPU-b", "MIG-a")
			c.Resources.NomadResources.Devices = nil
		}, want: []string{"GPU-b", "MIG-a"}},
		{name: "both, as they come over the wire", change: func(c *drivers.TaskConfig) {
			grantGPUs(c, "GPU-a")
			c.Resources.NomadResources.Devices = nil
		}, config: TaskConfig{Devices: []string{"GPU-b"}}, err: []string{"devices: ", "device block"}},
		{name: "another plugin's device", change: func(c *drivers.TaskConfig) { c.DeviceEnv = map[string]string{"FPGA": "1"} },
			err: []string{"passes only NVIDIA GPUs on", "FPGA"}},
		{name: "another plugin's device node", change: func(c *drivers.TaskConfig) { c.Devices = []*drivers.DeviceConfig{{TaskPath: "/dev/x"}} },
			err: []string{"passes only NVIDIA GPUs on"}},
		{name: "both", change: func(c *drivers.TaskConfig) { grantGPUs(c, "GPU-a") }, config: TaskConfig{Devices: []string{"GPU-b"}},
			err: []string{"devices: ", `"GPU-b"`, "device block"}},
		{name: "no UUIDs", change: func(*drivers.TaskConfig) {}, config: TaskConfig{Devices: []string{"0", "all", "GPU-a", "GPU-a", "GPU-../x"}},
			err: []string{`devices[0]: `, `"0"`, `devices[1]: `, `devices[3]: named twice`, `devices[4]: `}},
		{name: "granted, but not handed out", change: func(c *drivers.TaskConfig) { grantGPUs(c, "GPU-a"); c.DeviceEnv = nil },
			err: []string{`Nomad granted ["GPU-a"]`, "handed out []"}},
		{name: "all of them handed out", change: func(c *drivers.TaskConfig) {
			grantGPUs(c, "GPU-a")
			c.DeviceEnv["NVIDIA_VISIBLE_DEVICES"] = "all"
		}, err: []string{`NVIDIA_VISIBLE_DEVICES[0]: `, `"all"`}},
		{name: "another device", change: func(c *drivers.TaskConfig) {
			c.Resources.NomadResources.Devices = []*structs.AllocatedDeviceResource{{Vendor: "amd", Type: "gpu", Name: "MI300X", DeviceIDs: []string{"x"}}}
		}, err: []string{"passes only NVIDIA GPUs on", "amd/gpu/MI300X"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.config.Command = "true"
			cfg := task(t, tt.config)
			tt.change(cfg)
			req, err := startRequest(cfg)
			if tt.err != nil {
				for _, want := range tt.err {
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("got %v, want %q", err, want)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, req.Devices); diff != "" || req.DevicesNamed != tt.named {
				t.Errorf("named %v, devices (-want +got):\n%s", req.DevicesNamed, diff)
			}
			for k := range req.Env {
				if strings.HasPrefix(k, "NVIDIA_") {
					t.Errorf("%s is passed on", k)
				}
			}
		})
	}
}

func TestDroppedVariablesAreNamed(t *testing.T) {
	cfg := task(t, TaskConfig{Command: "true"})
	grantGPUs(cfg, "GPU-a")
	cfg.Env = map[string]string{"NVIDIA_VISIBLE_DEVICES": "GPU-a", "NVIDIA_REQUIRE_CUDA": "x", "NVIDIA_API_KEY": "y", "CUDA_X": "z"}
	env, dropped := withoutNVIDIA(cfg)
	if diff := cmp.Diff([]string{"NVIDIA_API_KEY", "NVIDIA_REQUIRE_CUDA"}, dropped); diff != "" {
		t.Errorf("dropped (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"CUDA_X": "z"}, env); diff != "" || len(cfg.Env) != 4 {
		t.Errorf("environment of %v (-want +got):\n%s", cfg.Env, diff)
	}
}

func TestGPUAttributes(t *testing.T) {
	mib := func(v uint64) *uint64 { return &v }
	yes := true
	for name, tt := range map[string]struct {
		info *hostapi.GPUInfo
		want map[string]string
	}{
		"no GPU": {nil, map[string]string{}},
		"two of a kind": {&hostapi.GPUInfo{DriverVersion: "550.1", Metering: "accounting", Devices: []hostapi.GPUDevice{
			{UUID: "GPU-a", Model: "NVIDIA H100", MemoryMiB: mib(81559)}, {UUID: "GPU-b", Model: "NVIDIA H100", MemoryMiB: mib(81559)}}},
			map[string]string{".gpu.metering": "accounting", ".gpu.driver_version": "550.1", ".gpu.model": "NVIDIA H100", ".gpu.count": "2",
				".gpu.memory_mib": "81559", ".gpu.mig": "false"}},
		"two kinds, one divided": {&hostapi.GPUInfo{Metering: "none", Devices: []hostapi.GPUDevice{
			{UUID: "GPU-a", Model: "T4", MemoryMiB: mib(15360)}, {UUID: "GPU-b", Model: "A100", MemoryMiB: mib(40960), MIG: &yes},
			{UUID: "MIG-1", Model: "A100", Parent: "GPU-b", MemoryMiB: mib(9984)}, {UUID: "MIG-2", Model: "A100", Parent: "GPU-b"}}},
			map[string]string{".gpu.metering": "none", ".gpu.model": "A100, T4", ".gpu.count": "2", ".gpu.memory_mib": "15360",
				".gpu.mig": "true", ".gpu.mig.count": "2"}},
		"expected and not there": {&hostapi.GPUInfo{Metering: "none", Problems: []string{"no GPU was found", "x"}},
			map[string]string{".gpu.metering": "none", ".gpu.problem": "no GPU was found; x"}},
	} {
		t.Run(name, func(t *testing.T) {
			fp := describe(&hostapi.HostInfo{ProtocolVersion: hostapi.Version, GPU: tt.info}, nil, nil)
			got := map[string]string{}
			for k, v := range attrs(fp) {
				if name := strings.TrimPrefix(k, attrPrefix); strings.HasPrefix(name, ".gpu") {
					got[name] = v
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("attributes (-want +got):\n%s", diff)
			}
			if fp.Health != drivers.HealthStateHealthy {
				t.Errorf("got %v, want healthy: tasks without a GPU can run", fp.Health)
			}
		})
	}
}
