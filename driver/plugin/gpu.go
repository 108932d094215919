package plugin

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/plugins/drivers"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"

	"github.com/joulecloud/joule/driver/gpu"
	"github.com/joulecloud/joule/driver/hostapi"
)

// taskDevices are the UUIDs of the GPUs that the task is given: those that
// Nomad's NVIDIA device plugin has handed out, or those that the job names
// itself. The device plugin only says which they are; giving them is up to us.
// Nomad 1.11 doesn't carry a task's granted devices over the wire to a driver:
// then the device plugin's variable is all there is, and hostd compares it with
// what the lease is for.
func taskDevices(cfg *drivers.TaskConfig, named []string) (uuids []string, err error) {
	var faults []error
	var granted []string
	for _, d := range cfg.Resources.NomadResources.Devices {
		if d.Type != "gpu" || d.Vendor != "nvidia" {
			// A task without the device it pays for would be worse than none.
			faults = append(faults, fmt.Errorf("resources.device: driver %q passes only NVIDIA GPUs on (got %q)", Name, d.ID()))
			continue
		}
		granted = append(granted, d.DeviceIDs...)
	}
	visible, err := gpu.ParseVisible(cfg.DeviceEnv[gpu.VisibleEnv])
	faults = append(faults, err, gpu.CheckUUIDs("devices", named))
	if _, ours := cfg.DeviceEnv[gpu.VisibleEnv]; len(cfg.Devices) > 0 || !ours && len(cfg.DeviceEnv) > 0 {
		faults = append(faults, fmt.Errorf("resources.device: driver %q passes only NVIDIA GPUs on (got what another device plugin hands out: %q)",
			Name, slices.Sorted(maps.Keys(cfg.DeviceEnv))))
	}
	same := slices.Equal(slices.Sorted(slices.Values(granted)), slices.Sorted(slices.Values(visible)))
	switch {
	case len(granted)+len(visible) > 0 && len(named) > 0:
		faults = append(faults, fmt.Errorf("devices: the task's resources have a device block already: use one of the two (got %q)", named))
	case err == nil && len(granted) > 0 && !same:
		faults = append(faults, fmt.Errorf("resources.device: Nomad granted %q, but its device plugin handed out %q (in %s)", granted, visible, gpu.VisibleEnv))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	if len(named) > 0 {
		return named, nil
	}
	return visible, nil
}

// withoutNVIDIA is the environment without the variables that steer NVIDIA's
// container tools, and the names of those that the job had set.
func withoutNVIDIA(cfg *drivers.TaskConfig) (env map[string]string, dropped []string) {
	env = maps.Clone(cfg.Env)
	for _, k := range slices.Sorted(maps.Keys(env)) {
		if !strings.HasPrefix(k, gpu.EnvPrefix) {
			continue
		}
		delete(env, k)
		if _, ours := cfg.DeviceEnv[k]; !ours {
			dropped = append(dropped, k)
		}
	}
	return env, dropped
}

// gpuAttributes are the host's GPUs as a job can ask for them. Only what hardly
// ever changes is there: each change is a write to Nomad's Raft.
func gpuAttributes(info *hostapi.GPUInfo, set func(name string, a *pstructs.Attribute)) {
	if info == nil {
		return
	}
	text := func(name, v string) {
		if v != "" {
			set(name, pstructs.NewStringAttribute(v))
		}
	}
	text(".gpu.metering", info.Metering)
	text(".gpu.driver_version", info.DriverVersion)
	text(".gpu.problem", strings.Join(info.Problems, "; "))
	var models []string
	var least *uint64 // memory
	whole, parts, mig := 0, 0, false
	for _, d := range info.Devices {
		if d.Parent != "" {
			parts++
			continue
		}
		whole++
		mig = mig || d.MIG != nil && *d.MIG
		models = append(models, d.Model)
		if d.MemoryMiB != nil && (least == nil || *d.MemoryMiB < *least) {
			least = d.MemoryMiB
		}
	}
	if whole == 0 {
		return
	}
	slices.Sort(models)
	text(".gpu.model", strings.Join(slices.Compact(models), ", "))
	set(".gpu.count", pstructs.NewIntAttribute(int64(whole), ""))
	set(".gpu.mig", pstructs.NewBoolAttribute(mig))
	if mig {
		set(".gpu.mig.count", pstructs.NewIntAttribute(int64(parts), ""))
	}
	if least != nil {
		set(".gpu.memory_mib", pstructs.NewIntAttribute(int64(*least), ""))
	}
}
