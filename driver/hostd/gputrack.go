package hostd

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/joulecloud/joule/driver/gpu"
	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/meter"
	"github.com/joulecloud/joule/driver/shim"
	"github.com/joulecloud/joule/settlement/wire"
)

const (
	// gpuPollEvery is well below the time for which the driver keeps samples.
	gpuPollEvery = time.Second
	// gpuUnreadAfter is how long readings may be missing before it is flagged.
	gpuUnreadAfter = 5 * time.Second
	gpuPollWait    = 4 * time.Second
	// gpuFirstWait bounds what a task's start waits for the probe, beyond the time
	// that it takes anyway.
	gpuFirstWait = 250 * time.Millisecond
	// gpuFinalWait bounds what a task's end waits for the probe.
	gpuFinalWait = 500 * time.Millisecond
	// sampleLookback is asked for beyond a task's start: a sample says something
	// only with the one before it.
	sampleLookback = 3 * time.Second
	// auditSlackMs is how much longer than held the driver's accounts may say
	// that a GPU was used: its clock is not ours.
	auditSlackMs = 250
)

// gpuTrack reads the devices of one task while it runs. What it has read waits
// for the next boundary of the meter.
type gpuTrack struct {
	gpus      *gpus
	devices   []string
	container string
	log       *slog.Logger
	warned    atomic.Bool   // of a process that isn't the task's
	first     chan struct{} // closed after the first poll

	mu      sync.Mutex
	since   map[string]uint64 // newest sample that was read
	news    map[string]meter.DeviceReading
	readAt  time.Time // when all devices were read
	foreign bool      // someone else has used a device
}

// track returns a track that begins now. since is the newest sample that the
// meter has counted, by device.
func (t *task) track(since func(uuid string) uint64) *gpuTrack {
	g := &gpuTrack{
		gpus: t.d.gpus, devices: t.devices, container: t.record().ContainerID, log: t.log,
		since: map[string]uint64{}, news: map[string]meter.DeviceReading{}, readAt: time.Now(),
		first: make(chan struct{}),
	}
	floor := uint64(time.Now().Add(-sampleLookback).UnixMicro())
	for _, uuid := range t.devices {
		if g.since[uuid] = since(uuid); g.since[uuid] == 0 {
			g.since[uuid] = floor
		}
	}
	return g
}

// run polls until ctx ends.
func (g *gpuTrack) run(ctx context.Context) {
	g.poll(ctx, gpuPollWait)
	close(g.first)
	for sleep(ctx, gpuPollEvery) {
		g.poll(ctx, gpuPollWait)
	}
}

// awaitFirst waits for the first poll, but not for long: what the counters say
// before the task's start is where they count from.
func (g *gpuTrack) awaitFirst(ctx context.Context) {
	timer := time.NewTimer(gpuFirstWait)
	defer timer.Stop()
	select {
	case <-g.first:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// poll reads all devices once, if there is a probe to ask.
func (g *gpuTrack) poll(ctx context.Context, wait time.Duration) {
	probe := g.gpus.client()
	if probe == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	g.mu.Lock()
	queries := make([]gpu.Query, 0, len(g.devices))
	for _, uuid := range g.devices {
		queries = append(queries, gpu.Query{UUID: uuid, SinceUs: g.since[uuid]})
	}
	g.mu.Unlock()
	readings, err := probe.Read(ctx, queries)
	if err != nil {
		return // a flag comes of it, in time
	}
	foreign := g.foreigner(readings)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.foreign = g.foreign || foreign
	all := true
	for _, r := range readings {
		if r.Error != "" {
			all = false
			continue
		}
		n := g.news[r.UUID]
		n.UUID, n.Lost = r.UUID, r.Lost
		if r.EnergyMJ != nil {
			n.EnergyMJ = r.EnergyMJ
		}
		if r.Samples != nil && n.Samples == nil {
			n.Samples = []meter.Sample{}
		}
		for _, s := range r.Samples {
			n.Samples = append(n.Samples, meter.Sample{AtUs: s.AtUs, Percent: s.Percent})
			g.since[r.UUID] = max(g.since[r.UUID], s.AtUs)
		}
		g.news[r.UUID] = n
	}
	if all {
		g.readAt = time.Now()
	}
}

// foreigner says whether a process that isn't the task's uses its devices.
func (g *gpuTrack) foreigner(readings []gpu.Reading) bool {
	found := false
	for _, r := range readings {
		for _, p := range r.Processes {
			b, err := os.ReadFile(filepath.Join("/proc", strconv.FormatUint(uint64(p.Pid), 10), "cgroup"))
			if err != nil || strings.Contains(string(b), g.container) {
				continue // gone meanwhile, or the task's own
			}
			found = true
			if g.warned.Swap(true) {
				continue
			}
			g.log.Warn("GPU of a task is used by a process that is not the task's", "gpu", r.UUID, "pid", p.Pid)
		}
	}
	return found
}

// take hands over what was read since the last call.
func (g *gpuTrack) take() *meter.GPUReading {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := &meter.GPUReading{Unread: time.Since(g.readAt) > gpuUnreadAfter}
	for _, uuid := range g.devices {
		if n, ok := g.news[uuid]; ok {
			r.Devices = append(r.Devices, n)
		}
	}
	clear(g.news)
	return r
}

// gpuReading is what was read of the task's GPUs since the last boundary; nil:
// it has none.
func (t *task) gpuReading() *meter.GPUReading {
	if g := t.gpu.Load(); g != nil {
		return g.take()
	}
	return nil
}

// gpuEnd is the last reading of an ended task's GPUs and what the driver's
// accounts say of it. It waits for neither for long. The caller holds meterMu.
func (t *task) gpuEnd(exit *shim.Exit) *meter.GPUReading {
	g := t.gpu.Load()
	if g == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(t.d.ctx, gpuFinalWait)
	defer cancel()
	g.poll(ctx, gpuFinalWait)
	t.mu.Lock()
	began := t.started.ExecMonoNs // a meter that runs was started
	t.mu.Unlock()
	if g.audit(ctx, t, uint64(max(exit.ExitMonoNs-began, 0))/1_000_000) {
		t.meter.Quality |= wire.QualityGPUAudit
	}
	r := g.take()
	r.UntilUs = uint64(exit.ExitWallNs / 1000)
	return r
}

// audit compares what the driver's accounts say with the time held. true: they
// contradict it.
func (g *gpuTrack) audit(ctx context.Context, t *task, heldMs uint64) bool {
	g.mu.Lock()
	odd := g.foreign
	g.mu.Unlock()
	probe := g.gpus.client()
	if probe == nil {
		return odd
	}
	var sum *uint64
	for _, uuid := range g.devices {
		a, err := probe.Accounting(ctx, gpu.AccountingRequest{UUID: uuid, SinceUs: t.meter.GPUFromUs})
		if err != nil || a.Processes == nil {
			continue
		}
		for _, p := range a.Processes {
			if p.TimeMs == nil {
				continue
			}
			if sum == nil {
				sum = new(uint64)
			}
			*sum += *p.TimeMs
			if *p.TimeMs > heldMs+auditSlackMs {
				odd = true
				t.log.Warn("the driver's accounts say that a GPU was used for longer than it was held",
					"lease", t.lease(), "gpu", uuid, "pid", p.Pid, "used_ms", *p.TimeMs, "held_ms", heldMs)
			}
		}
	}
	if sum != nil {
		t.log.Info("the driver's accounts of the task's GPUs", "lease", t.lease(), "used_ms", *sum, "held_ms", heldMs)
	}
	t.mu.Lock()
	t.accounted = sum
	t.mu.Unlock()
	return odd
}

// gpuStatus is what is known of the task's GPUs; nil: it has none. The caller
// holds t.mu.
func (t *task) gpuStatus() *hostapi.GPUStatus {
	if len(t.devices) == 0 {
		return nil
	}
	return &hostapi.GPUStatus{Devices: t.devices, AccountedMs: t.accounted}
}
