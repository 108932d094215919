package cdi

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

const spec = `{
  "cdiVersion": "0.6.0", "kind": "nvidia.com/gpu",
  "containerEdits": {"env": ["NVIDIA_VISIBLE_DEVICES=void"], "mounts": [{"hostPath": "/etc/hostname", "containerPath": "/opt/lib/libcuda.so.1", "options": ["ro", "bind"]}]},
  "devices": [
    {"name": "GPU-a", "containerEdits": {"env": ["GOT_A=1"], "deviceNodes": [{"path": "/dev/nvidia0", "hostPath": "/dev/null"}]}},
    {"name": "GPU-b", "containerEdits": {"env": ["GOT_B=1"], "deviceNodes": [{"path": "/dev/nvidia1", "hostPath": "/dev/zero"}]}}
  ]
}`

func dirs(t *testing.T, files map[string]string) Dirs {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Dirs{filepath.Join(dir, "not there"), dir}
}

func TestEdit(t *testing.T) {
	d := dirs(t, map[string]string{"nvidia.json": spec})
	customer := []string{"PATH=/bin", "NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=all"}
	for _, tt := range []struct {
		name    string
		env     []string
		devices []string
		want    []string
		nodes   []string
		mounts  int
	}{
		{"a device and nothing of another", customer, []string{"nvidia.com/gpu=GPU-a"},
			[]string{"PATH=/bin", "NVIDIA_VISIBLE_DEVICES=void", "GOT_A=1"}, []string{"/dev/nvidia0"}, 1},
		{"two", nil, []string{"nvidia.com/gpu=GPU-b", "nvidia.com/gpu=GPU-a"},
			[]string{"NVIDIA_VISIBLE_DEVICES=void", "GOT_B=1", "GOT_A=1"}, []string{"/dev/nvidia1", "/dev/nvidia0"}, 1},
		{"none, asked for all the same", customer, nil, []string{"PATH=/bin", "NVIDIA_VISIBLE_DEVICES=void"}, nil, 0},
		{"none, in an image that gets all by default", []string{"CUDA_VERSION=12"}, nil, []string{"CUDA_VERSION=12", "NVIDIA_VISIBLE_DEVICES=void"}, nil, 0},
		{"none, and nobody asked", []string{"PATH=/bin"}, nil, []string{"PATH=/bin"}, nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &specs.Spec{Process: &specs.Process{Env: append([]string(nil), tt.env...)}, Linux: &specs.Linux{}}
			if err := d.Edit(tt.devices)(s); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, s.Process.Env); diff != "" {
				t.Errorf("env (-want +got):\n%s", diff)
			}
			var nodes []string
			for _, n := range s.Linux.Devices {
				nodes = append(nodes, n.Path)
			}
			if diff := cmp.Diff(tt.nodes, nodes); diff != "" {
				t.Errorf("devices (-want +got):\n%s", diff)
			}
			if len(s.Mounts) != tt.mounts {
				t.Errorf("mounts: got %+v, want %d", s.Mounts, tt.mounts)
			}
			if len(nodes) > 0 && (s.Linux.Resources == nil || len(s.Linux.Resources.Devices) != len(nodes)) {
				t.Errorf("device cgroup: got %+v, want a rule for each of %q", s.Linux.Resources, nodes)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	d := dirs(t, map[string]string{"nvidia.json": spec, "broken.json": `{"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "devices": []}`})
	if err := d.Check([]string{"nvidia.com/gpu=GPU-a", "nvidia.com/gpu=GPU-b"}); err != nil {
		t.Errorf("both are there: got %v", err)
	}
	if err := d.Check(nil); err != nil {
		t.Errorf("no device: got %v", err)
	}
	err := d.Check([]string{"nvidia.com/gpu=GPU-a", "nvidia.com/gpu=GPU-x"})
	for _, want := range []string{"nvidia.com/gpu=GPU-x", d[1], "broken.json"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q named", err, want)
		}
	}
	if strings.Contains(err.Error(), "GPU-a") {
		t.Errorf("got %v, want only what lacks", err)
	}
	s := &specs.Spec{Process: &specs.Process{}}
	if err := d.Edit([]string{"nvidia.com/gpu=GPU-x"})(s); err == nil || s.Linux != nil {
		t.Errorf("Edit: got %v, spec %+v, want an error and no change", err, s)
	}
}
