package plugin

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/nomad/client/lib/cpustats"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/joulecloud/joule/driver/hostapi"
)

const defaultStatsInterval = time.Second

// TaskStats sends a reading at once and then every interval, until ctx ends, the
// task exits or hostd no longer knows it. A reading that hostd could not make is
// left out, and so is the CPU percentage of the first one: it takes two.
func (d *Driver) TaskStats(ctx context.Context, id string, interval time.Duration) (<-chan *drivers.TaskResourceUsage, error) {
	l, err := d.hostd()
	if err != nil {
		return nil, err
	}
	if _, err := d.status(id); err != nil {
		return nil, err
	}
	if interval <= 0 {
		interval = defaultStatsInterval
	}
	d.mu.RLock()
	compute := d.compute
	d.mu.RUnlock()
	ch := make(chan *drivers.TaskResourceUsage)
	go func() {
		defer close(ch)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		var last *hostapi.Stats
		for {
			st, err := l.stats(ctx, id, interval)
			switch {
			case answered(err) && !isCode(err, hostapi.ErrUnavailable) && !isCode(err, hostapi.ErrInternal):
				return // gone, or has exited: Nomad asks anew if it still wants to know
			case err != nil:
				// No reading this time. Whoever waits for the task sees to hostd.
			default:
				select {
				case ch <- usage(last, st, compute):
					last = st
				case <-ctx.Done():
					return
				}
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			case <-d.ctx.Done():
				return
			}
		}
	}()
	return ch, nil
}

func (l *link) stats(ctx context.Context, id string, interval time.Duration) (*hostapi.Stats, error) {
	ctx, cancel := context.WithTimeout(ctx, max(interval, pingTimeout))
	defer cancel()
	st, err := l.client.Stats(ctx, id)
	if err != nil && !answered(err) && ctx.Err() == nil {
		return nil, errors.Join(err, l.ensure(ctx))
	}
	return st, err
}

// usage is a reading as Nomad shows it. Percentages are of one core, from the
// difference to the reading before.
func usage(last, now *hostapi.Stats, compute cpustats.Compute) *drivers.TaskResourceUsage {
	cpu, mem := &drivers.CpuStats{}, &drivers.MemoryStats{}
	if last != nil {
		elapsed := now.At.Sub(last.At)
		percent := func(name string, into *float64, before, after *uint64) bool {
			if before == nil || after == nil || *after < *before || elapsed <= 0 {
				return false
			}
			*into = float64(*after-*before) * 100 / float64(elapsed.Microseconds())
			cpu.Measured = append(cpu.Measured, name)
			return true
		}
		percent("System Mode", &cpu.SystemMode, last.SystemUsec, now.SystemUsec)
		percent("User Mode", &cpu.UserMode, last.UserUsec, now.UserUsec)
		if percent("Percent", &cpu.Percent, last.CPUUsec, now.CPUUsec) && compute.NumCores > 0 {
			cpu.TotalTicks = cpu.Percent / 100 * float64(compute.TotalCompute) / float64(compute.NumCores)
			cpu.Measured = append(cpu.Measured, "Total Ticks")
		}
	}
	bytes := func(name string, into *uint64, v *uint64) {
		if v != nil {
			*into = *v
			mem.Measured = append(mem.Measured, name)
		}
	}
	bytes("RSS", &mem.RSS, now.MemoryRSS)
	bytes("Usage", &mem.Usage, now.MemoryBytes)
	bytes("Max Usage", &mem.MaxUsage, now.MemoryMaxEver)
	return &drivers.TaskResourceUsage{
		ResourceUsage: &drivers.ResourceUsage{CpuStats: cpu, MemoryStats: mem},
		Timestamp:     now.At.UnixNano(),
	}
}
