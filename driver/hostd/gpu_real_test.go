package hostd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/joulecloud/joule/driver/gpu/nvmlstub"
	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/meter"
	"github.com/joulecloud/joule/driver/session/sessiontest"
	"github.com/joulecloud/joule/driver/shim"
	"github.com/joulecloud/joule/settlement/wire"
)

// withGPUs gives the child a GPU block and starts it anew.
func (r *realRig) withGPUs(cfg GPUConfig) {
	r.t.Helper()
	f, err := os.OpenFile(r.config, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	fmt.Fprintf(f, "gpu {\n probe = %q\n library = %q\n cdi_dirs = [%q]\n}\n", cfg.Probe, cfg.Library, cfg.CDIDirs[0])
	if err := f.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.kill()
	r.launch()
	r.listed()
}

// A task under runc gets its GPU by CDI and no other, and is billed for it
// exactly, whatever happens to hostd and its probe meanwhile.
func TestRealGPUTask(t *testing.T) {
	r := newRealRig(t)
	stub := nvmlstub.Build(t, false)
	var all []meter.Sample
	mj := 5000
	say := func(more ...string) {
		lines := append([]string{"driver 550.54.15", "gpu GPU-a NVIDIA H100", "accounting GPU-a 1", fmt.Sprintf("energy GPU-a %d", mj), "gpu GPU-b NVIDIA H100"}, more...)
		for _, s := range all {
			lines = append(lines, fmt.Sprintf("sample GPU-a %d %d", s.AtUs, s.Percent))
		}
		stub.Set(lines...)
	}
	sample := func(percent uint8) {
		all = append(all, meter.Sample{AtUs: uint64(time.Now().UnixMicro()), Percent: percent})
	}
	sample(80)
	say()
	r.withGPUs(gpuConfig(t, stub, "GPU-a", "GPU-b"))
	r.srv.Set(func(h *sessiontest.Hooks) { h.GPUs = 1 })

	req := r.task(1, `set -e
		test "$GOT_0" = GPU-a; test -z "$GOT_1"
		test "$NVIDIA_VISIBLE_DEVICES" = void; test -z "$NVIDIA_DRIVER_CAPABILITIES"
		test -c /dev/nvidia0; echo x > /dev/nvidia0; test ! -e /dev/nvidia1
		test -s /opt/nvidia/libnvidia-ml.so.1
		touch /local/ready
		until test -e /local/go; do sleep 0.02; done
		exit 7`)
	req.Devices = []string{"GPU-a"}
	req.Env = map[string]string{"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "all", "GOT_1": ""}
	st, err := r.client.Start(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	r.await("the task", func() bool { _, err := os.Stat(filepath.Join(req.LocalDir, "ready")); return err == nil })
	mj = 5600
	say(fmt.Sprintf("process GPU-a %d 300", st.Pid))
	r.await("its energy", func() bool { l, _ := r.srv.Lease(req.ID); return l.Last().GPUEnergyMJ == 600 })

	r.kill() // -9; its probe ends with it
	mj = 6000
	sample(100)
	say()
	r.launch()
	r.await("the energy of the time without hostd", func() bool { l, _ := r.srv.Lease(req.ID); return l.Last().GPUEnergyMJ == 1000 })
	say("crash nvmlDeviceGetTotalEnergyConsumption")
	if err := os.WriteFile(filepath.Join(req.LocalDir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	st, err = r.client.Wait(t.Context(), req.ID)
	if err != nil || st.Exit.Code != 7 {
		out, _ := os.ReadFile(filepath.Join(r.cfg.DataDir, tasksDir, hostapi.ContainerID(req.ID), shim.LogFile))
		t.Fatalf("Wait: got %+v, %v\n%s", st.Exit, err, out)
	}
	got := r.bill(req).Last()
	s, e := taskFileOf[shim.Started](r, req, shim.StartedFile), taskFileOf[shim.Exit](r, req, shim.ExitFile)
	wall := uint64(e.ExitMonoNs-s.ExecMonoNs+500_000) / 1_000_000
	if got.Active.WallMs != wall || got.Active.GPUMs != wall {
		t.Errorf("billed: got %+v, want %d ms of each", got.Active, wall)
	}
	var busy meter.Busy
	busy.Add(all, uint64(s.ExecWallNs/1000), uint64(e.ExitWallNs/1000))
	if got.GPUBusyMs != busy.Ms() || got.GPUBusyMs == 0 || got.GPUEnergyMJ != 1000 {
		t.Errorf("got %d ms busy and %d mJ, want %d and 1000", got.GPUBusyMs, got.GPUEnergyMJ, busy.Ms())
	}
	if bad := got.Quality & (wire.QualityGPULost | wire.QualityGPUAudit | wire.QualityGPUEnergyUnread); bad != 0 || got.Quality&wire.QualityGPUEstimated == 0 {
		t.Errorf("quality: got %b", got.Quality)
	}
	r.emptySpool()
}

// What no CDI spec describes can't be given, and is said before a lease is asked for.
func TestRealGPUWithoutCDI(t *testing.T) {
	r := newRealRig(t)
	stub := nvmlstub.Build(t, false)
	stub.Set("gpu GPU-a X")
	r.withGPUs(gpuConfig(t, stub, "GPU-b"))
	req := r.task(1, "exit 0")
	req.Devices = []string{"GPU-a"}
	_, err := r.client.Start(t.Context(), req)
	if !isCode(err, hostapi.ErrInvalid) || !strings.Contains(err.Error(), "describes nvidia.com/gpu=GPU-a") {
		t.Errorf("got %v", err)
	}
	if _, ok := r.srv.Lease(req.ID); ok {
		t.Error("a lease was opened all the same")
	}
}
