package hostd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/joulecloud/joule/driver/cdi"
	"github.com/joulecloud/joule/driver/gpu"
	"github.com/joulecloud/joule/driver/hostapi"
)

const (
	inventoryEvery = 5 * time.Second
	inventoryRetry = 100 * time.Millisecond // the first pause after a failure
	// inventoryMaxAge is how long an inventory is believed while the probe is
	// away: a probe that is started again is no news.
	inventoryMaxAge = time.Minute
	// nvidiaDriver is there where NVIDIA's driver is loaded.
	nvidiaDriver = "/proc/driver/nvidia"
)

// gpuProbe is what hostd asks of a gpu.Client.
type gpuProbe interface {
	Err() error
	Inventory(ctx context.Context) (*gpu.Inventory, error)
	Read(ctx context.Context, queries []gpu.Query) ([]gpu.Reading, error)
	Accounting(ctx context.Context, req gpu.AccountingRequest) (*gpu.Accounting, error)
}

// gpus are the host's GPUs, as far as the probe knows them. A host without a
// GPU has no probe.
type gpus struct {
	cfg GPUConfig
	log *slog.Logger

	mu        sync.Mutex
	probe     gpuProbe // nil: not wanted, or not found
	err       error    // why the devices aren't known
	inv       *gpu.Inventory
	at        time.Time             // of inv
	seen      map[string]gpu.Device // every device that was ever there
	uncovered error                 // devices that no CDI spec describes
}

func newGPUs(cfg GPUConfig, log *slog.Logger) *gpus {
	return &gpus{cfg: cfg, log: log, seen: map[string]gpu.Device{}}
}

// wanted says whether there is anything to ask a probe about.
func (g *gpus) wanted() bool {
	if g.cfg.Set {
		return true
	}
	_, err := os.Stat(nvidiaDriver)
	return err == nil
}

// run keeps the probe and the inventory until ctx ends.
func (g *gpus) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	pause := inventoryRetry
	for {
		ok := g.look(ctx, func(c *gpu.Client) { wg.Go(func() { c.Run(ctx) }) })
		if ok {
			pause = inventoryEvery
		} else {
			pause = min(2*pause, inventoryEvery)
		}
		if !sleep(ctx, pause) {
			return
		}
		if ok {
			pause = inventoryRetry
		}
	}
}

// look takes the inventory. false: it is worth asking again soon.
func (g *gpus) look(ctx context.Context, start func(*gpu.Client)) bool {
	if !g.wanted() {
		return true
	}
	probe := g.client()
	if probe == nil {
		path, err := gpu.FindProbe(g.cfg.Probe)
		if err != nil {
			g.note(nil, err)
			return true
		}
		cfg := gpu.Default()
		cfg.Probe, cfg.Library = path, g.cfg.Library
		c := gpu.NewClient(cfg, g.log)
		start(c)
		g.mu.Lock()
		g.probe, probe = c, c
		g.mu.Unlock()
	}
	inv, err := probe.Inventory(ctx)
	if ctx.Err() != nil {
		return true
	}
	g.note(inv, err)
	return err == nil
}

// client is the probe's; nil: there is none.
func (g *gpus) client() gpuProbe {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.probe
}

// note keeps what look has found.
func (g *gpus) note(inv *gpu.Inventory, err error) {
	var uncovered error
	if inv != nil {
		var names []string
		for _, d := range inv.Devices {
			if usable(&d) {
				names = append(names, gpu.CDIName(d.UUID))
			}
		}
		uncovered = cdi.Dirs(g.cfg.CDIDirs).Check(names)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil && (g.err == nil || g.err.Error() != err.Error()) {
		g.log.Warn("GPUs can't be listed", "error", err)
	}
	g.err = err
	if inv == nil {
		return
	}
	g.inv, g.at, g.uncovered = inv, time.Now(), uncovered
	for _, d := range inv.Devices {
		g.seen[d.UUID] = d
	}
}

// usable says whether tasks can be given the device: a divided GPU they can't.
func usable(d *gpu.Device) bool { return d.MIG == nil || !*d.MIG }

// devices is the inventory; nil: unknown.
func (g *gpus) devices() []gpu.Device {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inv == nil || time.Since(g.at) > inventoryMaxAge {
		return nil
	}
	return g.inv.Devices
}

// refuse says why a task can't be given a device; nil: nothing speaks against it.
func (g *gpus) refuse(uuid string) error {
	devices := g.devices()
	if devices == nil {
		return nil // nothing is known; the CDI specs have the word
	}
	i := slices.IndexFunc(devices, func(d gpu.Device) bool { return d.UUID == uuid })
	switch {
	case i < 0:
		return fmt.Errorf("this host has no GPU %s", uuid)
	case !usable(&devices[i]):
		return fmt.Errorf("GPU %s is divided into MIG devices: a task can only be given one of those", uuid)
	}
	return nil
}

// overlap says whether two devices are the same piece of hardware, as a GPU and
// its MIG devices are.
func (g *gpus) overlap(a, b string) bool {
	if a == b {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.seen[a].Parent == b || g.seen[b].Parent == a
}

// Ways of metering what a GPU did, best first.
const (
	meteringAccounting = "accounting" // utilisation samples, and the driver's accounts at the end
	meteringSampled    = "sampled"    // utilisation samples
	meteringNone       = "none"       // only the time held, which is what is billed
)

// info is what hostd says of its GPUs; nil: it has none and should have none.
func (g *gpus) info() *hostapi.GPUInfo {
	if !g.wanted() {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	info := &hostapi.GPUInfo{Metering: meteringNone}
	known := g.inv != nil && time.Since(g.at) <= inventoryMaxAge
	if !known {
		why := g.err
		if why == nil {
			why = errors.New("not listed yet")
		}
		info.Problems = append(info.Problems, fmt.Sprintf("the GPUs are not known: %v", why))
		return info
	}
	info.DriverVersion = g.inv.DriverVersion
	info.Problems = append(info.Problems, g.inv.Problems...)
	accounting, sampled, n := true, true, 0
	for _, d := range g.inv.Devices {
		info.Devices = append(info.Devices, hostapi.GPUDevice{UUID: d.UUID, Model: d.Model, MemoryMiB: d.MemoryMiB, MIG: d.MIG, Parent: d.Parent})
		if !usable(&d) {
			continue
		}
		n++
		sampled = sampled && d.Samples
		accounting = accounting && d.Samples && d.Accounting != nil && *d.Accounting
	}
	switch {
	case n == 0:
		info.Problems = append(info.Problems, "no GPU was found")
	case accounting:
		info.Metering = meteringAccounting
	case sampled:
		info.Metering = meteringSampled
	}
	for uuid, d := range g.seen {
		gone := !slices.ContainsFunc(g.inv.Devices, func(d gpu.Device) bool { return d.UUID == uuid })
		// MIG devices come and go as the supplier divides a GPU.
		if gone && d.Parent == "" {
			info.Problems = append(info.Problems, fmt.Sprintf("GPU %s (%s) is gone", uuid, d.Model))
		}
	}
	if g.uncovered != nil {
		info.Problems = append(info.Problems, fmt.Sprintf("%s: run nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
			strings.ReplaceAll(g.uncovered.Error(), "\n", "; ")))
	}
	slices.Sort(info.Problems)
	return info
}
