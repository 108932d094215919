package hostd

import (
	"context"
	"fmt"
	"time"

	"github.com/joulecloud/joule/driver/cdi"
	"github.com/joulecloud/joule/driver/gpu"
	"github.com/joulecloud/joule/driver/hostapi"
)

// A GPU or MIG device is held by one task at a time (rule U6). Who holds it is
// nowhere stored: it is every task with the device in its request that has not
// ended, and those are on disk.

// admitDevices refuses devices that can't be given to the task now. The caller
// holds d.mu until the task is listed, so that no two get the same.
func (d *daemon) admitDevices(req *hostapi.StartRequest) error {
	if req.DevicesNamed && !d.cfg.GPU.AllowDevices {
		return apiError(hostapi.ErrRefused, "the supplier of host %q doesn't let jobs name GPUs themselves (gpu.allow_devices is false in its hostd configuration): ask Nomad for them, by a device block in the task's resources", d.cfg.Host)
	}
	for _, uuid := range req.Devices {
		if err := d.gpus.refuse(uuid); err != nil {
			return apiError(hostapi.ErrRefused, "%v", err)
		}
	}
	for _, t := range d.tasks {
		// An older invocation of the same task is killed before this one runs.
		if t.hasExited() || t.alloc == req.AllocID && t.name == req.Task {
			continue
		}
		if uuid := d.shared(t.devices, req.Devices); uuid != "" {
			return apiError(hostapi.ErrRefused, "GPU %s is held by task %q, which has not ended: a GPU is given to one task at a time", uuid, t.id)
		}
	}
	return nil
}

// shared is a device of want that overlaps one of held; "": there is none.
func (d *daemon) shared(held, want []string) string {
	for _, h := range held {
		for _, w := range want {
			if d.gpus.overlap(h, w) {
				return w
			}
		}
	}
	return ""
}

// waitForDevices waits until what is left of earlier tasks that held the task's
// devices is gone from the host.
func (t *task) waitForDevices(ctx context.Context) error {
	if len(t.devices) == 0 {
		return nil
	}
	timer := time.NewTimer(replaceWait)
	defer timer.Stop()
	for _, old := range t.d.list() {
		if old == t || t.d.shared(old.devices, t.devices) == "" {
			continue
		}
		select {
		case <-old.finished:
			continue
		default:
		}
		// A later one was admitted after us: it waits for us.
		if !old.hasExited() && (old.alloc != t.alloc || old.name != t.name) {
			continue
		}
		select {
		case <-old.finished:
		case <-timer.C:
			return fmt.Errorf("GPU %s is still held by what is left of task %q", t.d.shared(old.devices, t.devices), old.id)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// checkGrant makes sure that what the task is given is what it pays for.
func (t *task) checkGrant(granted uint32) error {
	if int(granted) != len(t.devices) {
		return fmt.Errorf("the lease is for %d GPUs, but the task was given %d (%q): it isn't run, since it would be billed wrong", granted, len(t.devices), t.devices)
	}
	return nil
}

// cdiNames are the devices' names in CDI specs.
func cdiNames(devices []string) []string {
	var names []string
	for _, uuid := range devices {
		names = append(names, gpu.CDIName(uuid))
	}
	return names
}

// checkDevices reports devices that can't be injected.
func (c *GPUConfig) checkDevices(devices []string) error {
	if err := cdi.Dirs(c.CDIDirs).Check(cdiNames(devices)); err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	return nil
}
