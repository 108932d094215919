package hostd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/joulecloud/joule/driver/gpu"
	"github.com/joulecloud/joule/driver/gpu/nvmlstub"
	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/meter"
	"github.com/joulecloud/joule/driver/session/sessiontest"
	"github.com/joulecloud/joule/settlement/wire"
)

// gpuConfig is a host's GPU block: the test binary as the probe, a stub as
// NVIDIA's library, and CDI specs of the devices.
func gpuConfig(t *testing.T, stub *nvmlstub.Stub, devices ...string) GPUConfig {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cfg := GPUConfig{Set: true, Probe: filepath.Join(dir, "joule-gpu-probe"), Library: stub.Path, CDIDirs: []string{filepath.Join(dir, "cdi")}}
	if err := os.Symlink(self, cfg.Probe); err != nil {
		t.Fatal(err)
	}
	writeCDI(t, cfg.CDIDirs[0], stub, devices...)
	return cfg
}

// writeCDI describes devices as nvidia-ctk does: a variable, a device node (of
// /dev/null) and the library.
func writeCDI(t *testing.T, dir string, stub *nvmlstub.Stub, devices ...string) {
	t.Helper()
	var list []string
	for i, d := range devices {
		list = append(list, fmt.Sprintf(`{"name": %q, "containerEdits": {"env": ["GOT_%d=%s"], "deviceNodes": [{"path": "/dev/nvidia%d", "hostPath": "/dev/null"}]}}`, d, i, d, i))
	}
	text := fmt.Sprintf(`{"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "devices": [%s], "containerEdits": {
		"env": ["NVIDIA_VISIBLE_DEVICES=void"],
		"mounts": [{"hostPath": %q, "containerPath": "/opt/nvidia/libnvidia-ml.so.1", "options": ["ro", "nosuid", "nodev", "bind"]}]}}`,
		strings.Join(list, ", "), stub.Path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "nvidia.json"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// gpuRig is a hostd whose library says the lines.
func gpuRig(t *testing.T, lines ...string) (*rig, *nvmlstub.Stub) {
	t.Helper()
	stub := nvmlstub.Build(t, false)
	stub.Set(lines...)
	r := newRig(t)
	r.cfg.GPU = gpuConfig(t, stub)
	r.start()
	return r, stub
}

func (r *rig) gpuInfo() *hostapi.GPUInfo {
	r.t.Helper()
	info, err := r.client.Host(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return info.GPU
}

// listed waits until hostd knows its GPUs.
func (r *rig) listed() {
	r.t.Helper()
	r.await("the inventory", func() bool { return len(r.gpuInfo().Devices) > 0 })
}

func gpuRequest(n int, devices ...string) *hostapi.StartRequest {
	req := request(n)
	req.Devices = devices
	return req
}

func (r *rig) grant(gpus uint32) {
	r.srv.Set(func(h *sessiontest.Hooks) { h.GPUs = gpus })
}

// Devices × wall time is billed; busy time and energy are in the record beside it.
func TestGPUBill(t *testing.T) {
	r, stub := gpuRig(t, "gpu GPU-a X", "energy GPU-a 1000", "gpu GPU-b X", "energy GPU-b 500")
	r.listed()
	r.grant(2)
	now := func() uint64 { return uint64(time.Now().UnixMicro()) }
	all := []meter.Sample{{AtUs: now(), Percent: 90}}
	say := func(mj int) {
		lines := []string{"gpu GPU-a X", fmt.Sprintf("energy GPU-a %d", mj), "gpu GPU-b X", "energy GPU-b 500"}
		for _, s := range all {
			lines = append(lines, fmt.Sprintf("sample GPU-a %d %d", s.AtUs, s.Percent), fmt.Sprintf("sample GPU-b %d 0", s.AtUs))
		}
		stub.Set(lines...)
	}
	say(1000)
	req := gpuRequest(1, "GPU-a", "GPU-b")
	_, p := r.run(req)
	all = append(all, meter.Sample{AtUs: now(), Percent: 50})
	say(1300)
	r.await("a record with energy", func() bool { l, _ := r.srv.Lease(req.ID); return l.Last().GPUEnergyMJ == 300 })
	all = append(all, meter.Sample{AtUs: all[1].AtUs + 200_000, Percent: 100})
	say(1450)
	p.end(0, 0)
	got := r.bill(req).Last()
	wall := got.Active.WallMs
	if got.Active.GPUMs != 2*wall || wall == 0 {
		t.Errorf("held: got %d ms in %d ms of wall time, want two devices", got.Active.GPUMs, wall)
	}
	var busy meter.Busy
	busy.Add(all, uint64(p.started.ExecWallNs/1000), uint64(p.exit.ExitWallNs/1000))
	if got.GPUBusyMs != busy.Ms() || got.GPUEnergyMJ != 450 {
		t.Errorf("got %d ms busy, %d mJ, want %d and 450", got.GPUBusyMs, got.GPUEnergyMJ, busy.Ms())
	}
	if got.Quality&wire.QualityGPUEstimated == 0 || got.Quality&(wire.QualityGPULost|wire.QualityGPUAudit|wire.QualityGPUEnergyUnread) != 0 {
		t.Errorf("quality: got %b", got.Quality)
	}
}

// U6: a GPU has one task at a time, and so have a GPU and its MIG devices.
func TestU6OneTaskPerGPU(t *testing.T) {
	r, _ := gpuRig(t, "gpu GPU-a X", "gpu GPU-m X", "mig GPU-m 1", "slice GPU-m MIG-1 1 1", "slice GPU-m MIG-2 1 1")
	r.listed()
	r.grant(1)
	_, first := r.run(gpuRequest(1, "GPU-a"))
	refused := func(req *hostapi.StartRequest, words ...string) {
		t.Helper()
		_, err := r.client.Start(t.Context(), req)
		for _, w := range words {
			if !isCode(err, hostapi.ErrRefused) || !strings.Contains(err.Error(), w) {
				t.Errorf("got %v, want a refusal with %q", err, w)
			}
		}
		if _, ok := r.srv.Lease(req.ID); ok {
			t.Error("a lease was opened all the same")
		}
	}
	refused(gpuRequest(2, "GPU-a"), "GPU-a", "alloc1/web/inv1")
	refused(gpuRequest(3, "GPU-m"), "GPU-m", "divided")
	refused(gpuRequest(4, "GPU-z"), "no GPU GPU-z")
	r.run(gpuRequest(5, "MIG-1"))
	refused(gpuRequest(6, "MIG-1"), "MIG-1", "alloc5/web/inv1")
	r.run(gpuRequest(7, "MIG-2"))

	// The claims outlive hostd.
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.await("the tasks", func() bool { ts, err := r.client.Tasks(t.Context()); return err == nil && len(ts) == 3 })
	refused(gpuRequest(8, "GPU-a"), "GPU-a")

	// A newer invocation of the same task takes the place of the older one.
	again := gpuRequest(1, "GPU-a")
	again.ID, again.Invocation = "alloc1/web/inv2", "inv2"
	_, p := r.run(again)
	if !first.gone() {
		t.Error("the older invocation runs on")
	}
	p.end(0, 0)
	if _, err := r.client.Wait(t.Context(), again.ID); err != nil {
		t.Fatal(err)
	}
	r.run(gpuRequest(9, "GPU-a"))
}

func TestDevicesThatCannotBeGiven(t *testing.T) {
	r, _ := gpuRig(t, "gpu GPU-a X")
	r.listed()
	bad := gpuRequest(1, "0", "GPU-a", "GPU-a")
	_, err := r.client.Start(t.Context(), bad)
	for _, want := range []string{`devices[0]: `, `"0"`, `devices[2]: named twice`} {
		if !isCode(err, hostapi.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	named := gpuRequest(2, "GPU-a")
	named.DevicesNamed = true
	if _, err := r.client.Start(t.Context(), named); !isCode(err, hostapi.ErrRefused) || !strings.Contains(err.Error(), "gpu.allow_devices") {
		t.Errorf("named by the job: got %v", err)
	}
	// The lease is for none: it would be a GPU for nothing.
	st, err := r.client.Start(t.Context(), gpuRequest(3, "GPU-a"))
	if err != nil || st.State != hostapi.StateExited || !strings.Contains(st.Exit.Error, "the lease is for 0 GPUs") {
		t.Errorf("a lease without a GPU: got %+v, %v", st, err)
	}
	r.await("the lease's close", func() bool { return len(r.srv.Closed()) == 1 })
}

// A probe that dies, hangs or isn't there costs a flag, never a task, and the
// time held is billed all the same.
func TestProbeThatFails(t *testing.T) {
	for name, lines := range map[string][]string{
		"crash": {"gpu GPU-a X", "crash nvmlDeviceGetTotalEnergyConsumption"},
		"hang":  {"gpu GPU-a X", "hang nvmlDeviceGetTotalEnergyConsumption"},
		"error": {"fail nvmlInit_v2 9"},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := gpuRig(t, lines...)
			r.grant(1)
			req := gpuRequest(1, "GPU-a")
			_, p := r.run(req)
			p.end(0, 0)
			if _, err := r.client.Wait(t.Context(), req.ID); err != nil {
				t.Fatal(err)
			}
			got := r.bill(req).Last()
			const want = wire.QualityGPUUnread | wire.QualityGPUEnergyUnread
			if got.Active.GPUMs != got.Active.WallMs || got.Quality != want || got.GPUBusyMs != 0 || got.GPUEnergyMJ != 0 {
				t.Errorf("got %+v, want the time held and quality %b", got, want)
			}
		})
	}
}

func TestReadingsThatStopAreFlagged(t *testing.T) {
	g := &gpuTrack{gpus: newGPUs(GPUConfig{}, nil), devices: []string{"GPU-a"}, readAt: time.Now(), news: map[string]meter.DeviceReading{"GPU-a": {UUID: "GPU-a"}}}
	if got := g.take(); got.Unread || len(got.Devices) != 1 {
		t.Errorf("got %+v, want the news", got)
	}
	if got := g.take(); got.Unread || len(got.Devices) != 0 {
		t.Errorf("got %+v, want no news and no flag", got)
	}
	g.readAt = time.Now().Add(-gpuUnreadAfter - time.Second)
	g.poll(t.Context(), time.Second) // there is no probe
	if got := g.take(); !got.Unread {
		t.Errorf("got %+v, want it flagged", got)
	}
}

func TestLostGPUIsNotBilled(t *testing.T) {
	r, stub := gpuRig(t, "gpu GPU-a X")
	r.listed()
	r.grant(1)
	req := gpuRequest(1, "GPU-a")
	_, p := r.run(req)
	stub.Set("gpu GPU-a X", "lost GPU-a")
	var before wire.Record
	r.await("the flag", func() bool {
		l, _ := r.srv.Lease(req.ID)
		before = l.Last()
		return before.Quality&wire.QualityGPULost != 0
	})
	r.await("some time", func() bool { l, _ := r.srv.Lease(req.ID); return l.Last().Active.WallMs > before.Active.WallMs+50 })
	p.end(0, 0)
	got := r.bill(req).Last()
	if got.Active.GPUMs != before.Active.GPUMs || got.Active.GPUMs >= got.Active.WallMs {
		t.Errorf("held: got %d ms, want %d, and less than the wall's %d", got.Active.GPUMs, before.Active.GPUMs, got.Active.WallMs)
	}
}

// The driver's accounts are compared with the time held.
func TestGPUAudit(t *testing.T) {
	const host = 1 // a process that is no task's
	for _, tt := range []struct {
		name  string
		lines func(startUs int64) []string
		want  wire.Quality
		ms    *uint64
	}{
		{"they agree", func(us int64) []string {
			return []string{fmt.Sprintf("account GPU-a 41 1 %d 0", us), fmt.Sprintf("account GPU-a 42 0 %d 0", us), "account GPU-a 40 99999 5 0"}
		}, 0, ptr[uint64](1)},
		{"used for longer than held", func(us int64) []string { return []string{fmt.Sprintf("account GPU-a 41 3600000 %d 0", us)} },
			wire.QualityGPUAudit, ptr[uint64](3600000)},
		{"used by someone else", func(int64) []string { return []string{fmt.Sprintf("process GPU-a %d 5", host)} }, wire.QualityGPUAudit, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, stub := gpuRig(t, "gpu GPU-a X", "accounting GPU-a 1")
			r.listed()
			r.grant(1)
			req := gpuRequest(1, "GPU-a")
			_, p := r.run(req)
			stub.Set(append(tt.lines(time.Now().UnixMicro()), "gpu GPU-a X", "accounting GPU-a 1")...)
			p.end(0, 0)
			if got := r.bill(req).Last().Quality & wire.QualityGPUAudit; got != tt.want {
				t.Errorf("quality: got %b, want %b", got, tt.want)
			}
			st, err := r.client.Wait(t.Context(), req.ID)
			if err != nil {
				t.Fatal(err)
			}
			want := &hostapi.GPUStatus{Devices: []string{"GPU-a"}, AccountedMs: tt.ms}
			if diff := cmp.Diff(want, st.GPU); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
		})
	}
}

func ptr[T any](v T) *T { return &v }

func TestGPUInfo(t *testing.T) {
	stub := nvmlstub.Build(t, false)
	cfg := gpuConfig(t, stub, "GPU-a", "MIG-1")
	mib := ptr[uint64](80000)
	whole := gpu.Device{UUID: "GPU-a", Model: "H100", MemoryMiB: mib, Samples: true, Accounting: ptr(true)}
	divided := gpu.Device{UUID: "GPU-m", Model: "A100", MIG: ptr(true), Samples: true}
	slice := gpu.Device{UUID: "MIG-1", Model: "A100", Parent: "GPU-m"}
	noAccounts := whole
	noAccounts.Accounting = ptr(false)
	for _, tt := range []struct {
		name     string
		devices  []gpu.Device
		metering string
		problems []string
	}{
		{"accounts are kept", []gpu.Device{whole}, "accounting", nil},
		{"samples only", []gpu.Device{noAccounts}, "sampled", nil},
		{"MIG devices have neither", []gpu.Device{whole, divided, slice}, "none", nil},
		{"none", nil, "none", []string{"no GPU was found"}},
		{"one without a CDI spec", []gpu.Device{whole, {UUID: "GPU-b", Samples: true}}, "sampled",
			[]string{fmt.Sprintf("no CDI spec in [%q] describes nvidia.com/gpu=GPU-b: run nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml", cfg.CDIDirs[0])}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGPUs(cfg, nil)
			g.note(&gpu.Inventory{Devices: tt.devices}, nil)
			got := g.info()
			if got.Metering != tt.metering || len(got.Devices) != len(tt.devices) {
				t.Errorf("got %+v, want metering %q", got, tt.metering)
			}
			if diff := cmp.Diff(tt.problems, got.Problems); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
	if got := newGPUs(GPUConfig{}, nil).info(); got != nil {
		if _, err := os.Stat(nvidiaDriver); err != nil {
			t.Errorf("a host without GPUs: got %+v, want nothing", got)
		}
	}
}

// A GPU that is gone is said to be, and keeps a host from work that requires them.
func TestGPUsRequired(t *testing.T) {
	stub := nvmlstub.Build(t, false)
	stub.Set("driver 550.1", "gpu GPU-a H100", "mem GPU-a 80000 0")
	r := newRig(t)
	r.cfg.GPU = gpuConfig(t, stub, "GPU-a")
	r.cfg.GPU.Required = true
	r.start()
	r.listed()
	info, err := r.client.Host(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := &hostapi.GPUInfo{DriverVersion: "550.1", Metering: "sampled", Devices: []hostapi.GPUDevice{{UUID: "GPU-a", Model: "H100", MemoryMiB: ptr[uint64](80000)}}}
	if diff := cmp.Diff(want, info.GPU); diff != "" || len(info.Problems) != 0 {
		t.Errorf("problems %q, GPUs (-want +got):\n%s", info.Problems, diff)
	}
	stub.Set("driver 550.1", "gpu GPU-a H100", "lost GPU-a")
	r.await("the problem", func() bool {
		info, err := r.client.Host(t.Context())
		return err == nil && strings.Contains(strings.Join(info.Problems, "; "), "GPU GPU-a (H100) is gone")
	})
}
