package plugin

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad/client/lib/cpustats"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/joulecloud/joule/driver/hostapi"
)

func TestUsage(t *testing.T) {
	t0 := time.Unix(1_800_000_000, 0)
	u := func(v uint64) *uint64 { return &v }
	compute := cpustats.Compute{TotalCompute: 8000, NumCores: 2}
	full := &hostapi.Stats{At: t0, CPUUsec: u(1_000_000), UserUsec: u(700_000), SystemUsec: u(300_000), MemoryBytes: u(10), MemoryRSS: u(8), MemoryMaxEver: u(12)}
	next := &hostapi.Stats{At: t0.Add(2 * time.Second), CPUUsec: u(2_000_000), UserUsec: u(1_600_000), SystemUsec: u(400_000), MemoryBytes: u(0)}
	for name, tt := range map[string]struct {
		last, now *hostapi.Stats
		compute   cpustats.Compute
		cpu       drivers.CpuStats
		mem       drivers.MemoryStats
	}{
		"the first has no percentage": {nil, full, compute, drivers.CpuStats{},
			drivers.MemoryStats{RSS: 8, Usage: 10, MaxUsage: 12, Measured: []string{"RSS", "Usage", "Max Usage"}}},
		"difference": {full, next, compute,
			drivers.CpuStats{SystemMode: 5, UserMode: 45, Percent: 50, TotalTicks: 2000, Measured: []string{"System Mode", "User Mode", "Percent", "Total Ticks"}},
			drivers.MemoryStats{Measured: []string{"Usage"}}}, // 0 that was measured is 0
		"unknown topology": {full, next, cpustats.Compute{},
			drivers.CpuStats{SystemMode: 5, UserMode: 45, Percent: 50, Measured: []string{"System Mode", "User Mode", "Percent"}},
			drivers.MemoryStats{Measured: []string{"Usage"}}},
		"nothing could be read": {full, &hostapi.Stats{At: t0.Add(time.Second)}, compute, drivers.CpuStats{}, drivers.MemoryStats{}},
		"only the total": {&hostapi.Stats{At: t0, CPUUsec: u(0)}, &hostapi.Stats{At: t0.Add(time.Second), CPUUsec: u(2_000_000)}, compute,
			drivers.CpuStats{Percent: 200, TotalTicks: 8000, Measured: []string{"Percent", "Total Ticks"}}, drivers.MemoryStats{}},
		"backwards": {next, full, compute, drivers.CpuStats{},
			drivers.MemoryStats{RSS: 8, Usage: 10, MaxUsage: 12, Measured: []string{"RSS", "Usage", "Max Usage"}}},
		"no time between": {full, full, compute, drivers.CpuStats{},
			drivers.MemoryStats{RSS: 8, Usage: 10, MaxUsage: 12, Measured: []string{"RSS", "Usage", "Max Usage"}}},
	} {
		t.Run(name, func(t *testing.T) {
			got := usage(tt.last, tt.now, tt.compute)
			want := &drivers.TaskResourceUsage{Timestamp: tt.now.At.UnixNano(), ResourceUsage: &drivers.ResourceUsage{CpuStats: &tt.cpu, MemoryStats: &tt.mem}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("usage (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTaskStatsOverTheWire(t *testing.T) {
	r := newRig(t)
	cfg, _ := r.start(t, "/bin/sleep", "60")
	began := time.Now()
	r.fake.set(func() {
		r.fake.stats = func(string) *hostapi.Stats {
			now := time.Now()
			used := uint64(now.Sub(began).Microseconds() / 4) // a quarter of a core
			return &hostapi.Stats{At: now, CPUUsec: &used}
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	ch, err := r.TaskStats(ctx, cfg.ID, 100*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	first := within(t, time.Second, ch, "first reading")
	if got := first.ResourceUsage.CpuStats.Measured; len(got) != 0 {
		t.Errorf("first: got %v measured, want nothing", got)
	}
	// hostd is away for a while: readings are missing, the stream is not.
	r.crash()
	time.Sleep(250 * time.Millisecond)
	r.revive(t)
	for range 3 {
		got := within(t, 5*time.Second, ch, "reading").ResourceUsage.CpuStats
		if !cmp.Equal(got.Measured, []string{"Percent"}) || got.Percent < 24.9 || got.Percent > 25.1 {
			t.Errorf("got %+v, want 25 percent", got)
		}
	}
	cancel()
	end := make(chan struct{})
	go func() {
		for range ch {
		}
		close(end)
	}()
	within(t, 5*time.Second, end, "end with the context")

	ch, err = r.d.TaskStats(t.Context(), cfg.ID, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.DestroyTask(cfg.ID, true); err != nil {
		t.Fatal(err)
	}
	end = make(chan struct{})
	go func() {
		for range ch {
		}
		close(end)
	}()
	within(t, 5*time.Second, end, "end with the task")
}
