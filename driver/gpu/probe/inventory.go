package probe

import (
	"fmt"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/joulecloud/joule/driver/gpu"
)

func (l *Library) inventory() (*gpu.Inventory, error) {
	inv := &gpu.Inventory{Devices: []gpu.Device{}}
	if l.can("nvmlSystemGetDriverVersion") {
		if v, ret := l.nvml.SystemGetDriverVersion(); ret == nvml.SUCCESS {
			inv.DriverVersion = v
		}
	}
	if !l.can("nvmlDeviceGetCount_v2", "nvmlDeviceGetCount") || !l.can("nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetHandleByIndex") ||
		!l.can("nvmlDeviceGetUUID") {
		return nil, fmt.Errorf("the installed NVIDIA library %s can't list GPUs: it is too old", l.path)
	}
	n, ret := l.nvml.DeviceGetCount()
	if ret != nvml.SUCCESS {
		l.shut()
		return nil, fmt.Errorf("count GPUs: %s", l.words(ret))
	}
	for i := range n {
		dev, ret := l.nvml.DeviceGetHandleByIndex(i)
		if ret != nvml.SUCCESS {
			inv.Problems = append(inv.Problems, fmt.Sprintf("GPU %d can't be asked: %s", i, l.words(ret)))
			continue
		}
		d, ret := l.describe(dev, i)
		if ret != nvml.SUCCESS {
			inv.Problems = append(inv.Problems, fmt.Sprintf("GPU %d can't be asked: %s", i, l.words(ret)))
			continue
		}
		inv.Devices = append(inv.Devices, d)
		if d.MIG != nil && *d.MIG {
			inv.Devices = append(inv.Devices, l.migDevices(dev, &d)...)
		}
	}
	return inv, nil
}

// describe says what a device is. Only a device without a UUID can't be told.
func (l *Library) describe(dev nvml.Device, index int) (gpu.Device, nvml.Return) {
	d := gpu.Device{Index: index}
	var ret nvml.Return
	if d.UUID, ret = dev.GetUUID(); ret != nvml.SUCCESS {
		return d, ret
	}
	if l.can("nvmlDeviceGetName") {
		if name, ret := dev.GetName(); ret == nvml.SUCCESS {
			d.Model = name
		}
	}
	if l.can("nvmlDeviceGetMemoryInfo") {
		if mem, ret := dev.GetMemoryInfo(); ret == nvml.SUCCESS {
			d.MemoryMiB = ptr(mem.Total >> 20)
		}
	}
	if l.can("nvmlDeviceGetMigMode") {
		if now, _, ret := dev.GetMigMode(); ret == nvml.SUCCESS {
			d.MIG = ptr(now == nvml.DEVICE_MIG_ENABLE)
		}
	}
	if l.can("nvmlDeviceGetAccountingMode") {
		if mode, ret := dev.GetAccountingMode(); ret == nvml.SUCCESS {
			d.Accounting = ptr(mode == nvml.FEATURE_ENABLED)
		}
	}
	_, d.Samples, _ = l.samples(dev, 0)
	energy, _ := l.energy(dev)
	d.Energy = energy != nil
	return d, nvml.SUCCESS
}

// migDevices are the slices of a divided GPU.
func (l *Library) migDevices(dev nvml.Device, whole *gpu.Device) []gpu.Device {
	if !l.can("nvmlDeviceGetMaxMigDeviceCount") || !l.can("nvmlDeviceGetMigDeviceHandleByIndex") {
		return nil
	}
	n, ret := dev.GetMaxMigDeviceCount()
	if ret != nvml.SUCCESS {
		return nil
	}
	var out []gpu.Device
	for i := range n {
		mig, ret := dev.GetMigDeviceHandleByIndex(i)
		if ret != nvml.SUCCESS {
			continue // that place is empty
		}
		d, ret := l.describe(mig, whole.Index)
		if ret != nvml.SUCCESS {
			continue
		}
		d.Parent, d.MIG = whole.UUID, nil
		if d.Model == "" {
			d.Model = whole.Model
		}
		if l.can("nvmlDeviceGetAttributes_v2", "nvmlDeviceGetAttributes") {
			if a, ret := mig.GetAttributes(); ret == nvml.SUCCESS {
				d.Slices = &gpu.MIGSlices{GPU: a.GpuInstanceSliceCount, Compute: a.ComputeInstanceSliceCount}
				if d.MemoryMiB == nil {
					d.MemoryMiB = ptr(a.MemorySizeMB)
				}
			}
		}
		out = append(out, d)
	}
	return out
}

func ptr[T any](v T) *T { return &v }
