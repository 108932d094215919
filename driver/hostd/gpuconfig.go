package hostd

import (
	"path/filepath"

	"github.com/joulecloud/joule/driver/cdi"
)

// GPUConfig is the block about the host's GPUs. A host without one looks for
// GPUs where NVIDIA's driver is loaded.
type GPUConfig struct {
	Set          bool     // the block is there: GPUs are expected
	Probe        string   // path of joule-gpu-probe; "": beside our executable, then on PATH
	Library      string   // NVIDIA's management library; "": the system's
	CDIDirs      []string // of the CDI spec files; absolute
	Required     bool     // the host takes no task at all while its GPUs have a problem
	AllowDevices bool     // jobs may name GPUs themselves, past Nomad's device plugin
}

// gpuFile is its HCL form.
type gpuFile struct {
	Probe        string   `hcl:"probe,optional"`
	Library      string   `hcl:"library,optional"`
	CDIDirs      []string `hcl:"cdi_dirs,optional"`
	Required     bool     `hcl:"required,optional"`
	AllowDevices bool     `hcl:"allow_devices,optional"`
}

func defaultGPU() GPUConfig { return GPUConfig{CDIDirs: cdi.DefaultDirs()} }

func (c *GPUConfig) read(f *gpuFile) {
	if f == nil {
		return
	}
	c.Set, c.Probe, c.Library, c.Required, c.AllowDevices = true, f.Probe, f.Library, f.Required, f.AllowDevices
	if f.CDIDirs != nil {
		c.CDIDirs = f.CDIDirs
	}
}

func (c *GPUConfig) validate(bad func(string, ...any)) {
	if c.Probe != "" && !filepath.IsAbs(c.Probe) {
		bad("gpu.probe: must be an absolute path (got %q)", c.Probe)
	}
	if len(c.CDIDirs) == 0 {
		bad("gpu.cdi_dirs: must name at least one directory")
	}
	for i, dir := range c.CDIDirs {
		if !filepath.IsAbs(dir) {
			bad("gpu.cdi_dirs[%d]: must be an absolute path (got %q)", i, dir)
		}
	}
}
