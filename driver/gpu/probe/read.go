package probe

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/joulecloud/joule/driver/gpu"
)

// handle finds a GPU or a MIG device.
func (l *Library) handle(uuid string) (nvml.Device, nvml.Return) {
	if !l.can("nvmlDeviceGetHandleByUUID") {
		return nil, nvml.ERROR_FUNCTION_NOT_FOUND
	}
	return l.nvml.DeviceGetHandleByUUID(uuid)
}

// lost says whether a result means that the device is gone.
func lost(ret nvml.Return) bool { return ret == nvml.ERROR_GPU_IS_LOST || ret == nvml.ERROR_NOT_FOUND }

// read reads what can be read of one device.
func (l *Library) read(q gpu.Query) gpu.Reading {
	r := gpu.Reading{UUID: q.UUID}
	dev, ret := l.handle(q.UUID)
	switch {
	case lost(ret):
		r.Lost = true
		return r
	case ret != nvml.SUCCESS:
		r.Error = fmt.Sprintf("find %s: %s", q.UUID, l.words(ret))
		return r
	}
	gone := func(ret nvml.Return) bool {
		if ret == nvml.ERROR_GPU_IS_LOST {
			r = gpu.Reading{UUID: q.UUID, Lost: true}
		}
		return r.Lost
	}
	if r.EnergyMJ, ret = l.energy(dev); gone(ret) {
		return r
	}
	if r.Samples, _, ret = l.samples(dev, q.SinceUs); gone(ret) {
		return r
	}
	if l.can("nvmlDeviceGetMemoryInfo") {
		mem, ret := dev.GetMemoryInfo()
		if gone(ret) {
			return r
		}
		if ret == nvml.SUCCESS {
			r.MemoryUsedMiB = ptr(mem.Used >> 20)
		}
	}
	r.Processes, ret = l.processes(dev)
	gone(ret)
	return r
}

func (l *Library) energy(dev nvml.Device) (*uint64, nvml.Return) {
	if !l.can("nvmlDeviceGetTotalEnergyConsumption") {
		return nil, nvml.ERROR_FUNCTION_NOT_FOUND
	}
	mj, ret := dev.GetTotalEnergyConsumption()
	if ret != nvml.SUCCESS {
		return nil, ret
	}
	return &mj, ret
}

// samples are the utilisation samples after a moment: nil and false where they
// can't be read, which is not the same as none.
func (l *Library) samples(dev nvml.Device, sinceUs uint64) ([]gpu.Sample, bool, nvml.Return) {
	if !l.can("nvmlDeviceGetSamples") {
		return nil, false, nvml.ERROR_FUNCTION_NOT_FOUND
	}
	kind, raw, ret := dev.GetSamples(nvml.GPU_UTILIZATION_SAMPLES, sinceUs)
	switch ret {
	case nvml.SUCCESS:
	case nvml.ERROR_NOT_FOUND, nvml.ERROR_NO_DATA:
		return []gpu.Sample{}, true, ret // none is new
	default:
		return nil, false, ret
	}
	out := make([]gpu.Sample, 0, len(raw))
	for _, s := range raw {
		// The library fills less than it announced where samples went meanwhile.
		if percent, ok := value(kind, s.SampleValue); ok && s.TimeStamp > sinceUs {
			out = append(out, gpu.Sample{AtUs: s.TimeStamp, Percent: percent})
		}
	}
	return out, true, ret
}

// value is a sample's percentage.
func value(kind nvml.ValueType, raw [8]byte) (percent uint8, ok bool) {
	bits := binary.NativeEndian.Uint64(raw[:])
	var v uint64
	switch kind {
	case nvml.VALUE_TYPE_UNSIGNED_INT:
		v = uint64(binary.NativeEndian.Uint32(raw[:]))
	case nvml.VALUE_TYPE_UNSIGNED_LONG, nvml.VALUE_TYPE_UNSIGNED_LONG_LONG:
		v = bits
	case nvml.VALUE_TYPE_DOUBLE:
		f := math.Float64frombits(bits)
		if !(f >= 0) { // NaN as well
			return 0, false
		}
		v = uint64(min(f, 100) + 0.5)
	default:
		return 0, false
	}
	return uint8(min(v, 100)), true
}

func (l *Library) processes(dev nvml.Device) ([]gpu.Process, nvml.Return) {
	if !l.can("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2", "nvmlDeviceGetComputeRunningProcesses") {
		return nil, nvml.ERROR_FUNCTION_NOT_FOUND
	}
	infos, ret := dev.GetComputeRunningProcesses()
	if ret != nvml.SUCCESS {
		return nil, ret
	}
	out := make([]gpu.Process, 0, len(infos))
	for _, p := range infos {
		pr := gpu.Process{Pid: p.Pid}
		if p.UsedGpuMemory != math.MaxUint64 { // NVML_VALUE_NOT_AVAILABLE
			pr.MemoryMiB = ptr(p.UsedGpuMemory >> 20)
		}
		out = append(out, pr)
	}
	return out, ret
}

// accounting is what the driver's accounting says of the processes that began
// to use the device after a moment.
func (l *Library) accounting(req *gpu.AccountingRequest) (*gpu.Accounting, error) {
	a := &gpu.Accounting{}
	dev, ret := l.handle(req.UUID)
	if ret != nvml.SUCCESS {
		return nil, fmt.Errorf("find %s: %s", req.UUID, l.words(ret))
	}
	if !l.can("nvmlDeviceGetAccountingMode") {
		return a, nil
	}
	mode, ret := dev.GetAccountingMode()
	if ret != nvml.SUCCESS {
		return a, nil
	}
	a.Enabled = ptr(mode == nvml.FEATURE_ENABLED)
	if !*a.Enabled || !l.can("nvmlDeviceGetAccountingPids") || !l.can("nvmlDeviceGetAccountingStats") {
		return a, nil
	}
	pids, ret := dev.GetAccountingPids()
	if ret != nvml.SUCCESS {
		return a, nil
	}
	a.Processes = []gpu.Accounted{}
	for _, pid := range pids {
		st, ret := dev.GetAccountingStats(uint32(pid))
		if ret != nvml.SUCCESS || st.StartTime < req.SinceUs {
			continue
		}
		p := gpu.Accounted{Pid: uint32(pid), StartUs: st.StartTime}
		if st.IsRunning == 0 {
			p.TimeMs = ptr(st.Time)
		}
		a.Processes = append(a.Processes, p)
	}
	return a, nil
}
