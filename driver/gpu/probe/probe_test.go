package probe_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/joulecloud/joule/driver/gpu"
	"github.com/joulecloud/joule/driver/gpu/nvmlstub"
	"github.com/joulecloud/joule/driver/gpu/probe"
)

// The test binary is also the probe.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "joule-gpu-probe" {
		os.Exit(probe.Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// client runs a probe on the library until the test ends.
func client(t *testing.T, library string, change ...func(*gpu.Config)) *gpu.Client {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg := gpu.Default()
	cfg.Probe, cfg.Library = filepath.Join(t.TempDir(), "joule-gpu-probe"), library
	cfg.BackoffMin, cfg.BackoffMax = time.Millisecond, 20*time.Millisecond
	if err := os.Symlink(self, cfg.Probe); err != nil {
		t.Fatal(err)
	}
	for _, fn := range change {
		fn(&cfg)
	}
	c := gpu.NewClient(cfg, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		if err := c.Err(); !errors.Is(err, gpu.ErrDown) {
			t.Errorf("once ended: got %v, want %v", err, gpu.ErrDown)
		}
	})
	await(t, "the probe's start", func() bool { return c.Err() == nil || cfg.Probe == "/nope" })
	return c
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func readOne(t *testing.T, c *gpu.Client, uuid string, since uint64) gpu.Reading {
	t.Helper()
	rs, err := c.Read(t.Context(), []gpu.Query{{UUID: uuid, SinceUs: since}})
	if err != nil {
		t.Fatal(err)
	}
	return rs[0]
}

func ptr[T any](v T) *T { return &v }

func TestInventory(t *testing.T) {
	stub := nvmlstub.Build(t, false)
	stub.Set("driver 550.54.15",
		"gpu GPU-a NVIDIA H100 80GB HBM3", "mem GPU-a 81559 0", "mig GPU-a 0", "energy GPU-a 7", "accounting GPU-a 1",
		"gpu GPU-b NVIDIA A100-SXM4-40GB", "mem GPU-b 40960 0", "mig GPU-b 1", "accounting GPU-b 0", "energy GPU-b 1",
		"slice GPU-b MIG-b1 3 2", "mem MIG-b1 20096 0",
		"slice GPU-b MIG-b2 1 1",
		"gpu GPU-c Tesla M60", "lost GPU-c",
		"gpu GPU-d Tesla M60", "nosamples GPU-d")
	c := client(t, stub.Path)
	got, err := c.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := &gpu.Inventory{
		DriverVersion: "550.54.15",
		Devices: []gpu.Device{
			{UUID: "GPU-a", Model: "NVIDIA H100 80GB HBM3", MemoryMiB: ptr[uint64](81559), MIG: ptr(false), Accounting: ptr(true), Samples: true, Energy: true},
			{UUID: "GPU-b", Index: 1, Model: "NVIDIA A100-SXM4-40GB", MemoryMiB: ptr[uint64](40960), MIG: ptr(true), Accounting: ptr(false), Samples: true, Energy: true},
			{UUID: "MIG-b1", Index: 1, Model: "NVIDIA A100-SXM4-40GB", MemoryMiB: ptr[uint64](20096), Parent: "GPU-b", Slices: &gpu.MIGSlices{GPU: 3, Compute: 2}},
			{UUID: "MIG-b2", Index: 1, Model: "NVIDIA A100-SXM4-40GB", MemoryMiB: ptr[uint64](0), Parent: "GPU-b", Slices: &gpu.MIGSlices{GPU: 1, Compute: 1}},
			{UUID: "GPU-d", Index: 3, Model: "Tesla M60", Samples: false},
		},
		Problems: []string{"GPU 2 can't be asked: GPU is lost"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("inventory (-want +got):\n%s", diff)
	}
}

// U4: unknown is not zero.
func TestReading(t *testing.T) {
	stub := nvmlstub.Build(t, false)
	stub.Set("gpu GPU-a X", "mem GPU-a 1000 250", "energy GPU-a 123456789012",
		"sample GPU-a 3000 30", "sample GPU-a 1000 10", "sample GPU-a 2000 20", "sample GPU-a 2000 20",
		"process GPU-a 41 100", "process GPU-a 42 50", "process GPU-a 43 1",
		"gpu GPU-b Y", "nosamples GPU-b", "gpu GPU-c Z", "mig GPU-c 1", "slice GPU-c MIG-c 1 1", "process MIG-c 7 3")
	c := client(t, stub.Path)
	got, err := c.Read(t.Context(), []gpu.Query{{UUID: "GPU-a", SinceUs: 1000}, {UUID: "GPU-b"}, {UUID: "MIG-c"}, {UUID: "GPU-c"}, {UUID: "GPU-none"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []gpu.Reading{
		{UUID: "GPU-a", EnergyMJ: ptr[uint64](123456789012), Samples: []gpu.Sample{{AtUs: 3000, Percent: 30}, {AtUs: 2000, Percent: 20}, {AtUs: 2000, Percent: 20}},
			MemoryUsedMiB: ptr[uint64](250), Processes: []gpu.Process{proc(41, 100), proc(42, 50), proc(43, 1)}},
		{UUID: "GPU-b", Processes: []gpu.Process{}},
		{UUID: "MIG-c", Processes: []gpu.Process{proc(7, 3)}},
		{UUID: "GPU-c", Samples: []gpu.Sample{}, Processes: []gpu.Process{}},
		{UUID: "GPU-none", Lost: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("readings (-want +got):\n%s", diff)
	}
	stub.Set("fail nvmlDeviceGetComputeRunningProcesses_v3 999", "gpu GPU-a X", "energy GPU-a 0")
	if got := readOne(t, c, "GPU-a", 0); got.EnergyMJ == nil || *got.EnergyMJ != 0 || got.Processes != nil || got.MemoryUsedMiB != nil {
		t.Errorf("got %+v, want energy known to be 0, processes and memory unknown", got)
	}
}

func TestAccounting(t *testing.T) {
	stub := nvmlstub.Build(t, false)
	stub.Set("gpu GPU-a X", "accounting GPU-a 1", "account GPU-a 40 999 99 0", "account GPU-a 41 137 5000 0", "account GPU-a 42 0 6000 1",
		"gpu GPU-b X", "accounting GPU-b 0", "gpu GPU-c X")
	c := client(t, stub.Path)
	for uuid, want := range map[string]*gpu.Accounting{
		"GPU-a": {Enabled: ptr(true), Processes: []gpu.Accounted{{Pid: 41, TimeMs: ptr[uint64](137), StartUs: 5000}, {Pid: 42, StartUs: 6000}}},
		"GPU-b": {Enabled: ptr(false)},
		"GPU-c": {},
	} {
		got, err := c.Accounting(t.Context(), gpu.AccountingRequest{UUID: uuid, SinceUs: 100})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", uuid, diff)
		}
	}
	if _, err := c.Accounting(t.Context(), gpu.AccountingRequest{UUID: "GPU-none"}); err == nil || !strings.Contains(err.Error(), "GPU-none: Not Found") {
		t.Errorf("of an unknown device: got %v", err)
	}
}

// A library without the newer functions is asked for what it has.
func TestOldLibrary(t *testing.T) {
	stub := nvmlstub.Build(t, true)
	stub.Set("driver 340.108", "gpu GPU-a Tesla K80", "mem GPU-a 11441 10", "energy GPU-a 5", "sample GPU-a 10 50", "accounting GPU-a 1", "mig GPU-a 1",
		"process GPU-a 41 100", "process GPU-a 42 50")
	c := client(t, stub.Path)
	got, err := c.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := &gpu.Inventory{DriverVersion: "340.108", Devices: []gpu.Device{{UUID: "GPU-a", Model: "Tesla K80", MemoryMiB: ptr[uint64](11441)}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("inventory (-want +got):\n%s", diff)
	}
	reading := gpu.Reading{UUID: "GPU-a", MemoryUsedMiB: ptr[uint64](10), Processes: []gpu.Process{proc(41, 100), proc(42, 50)}}
	if diff := cmp.Diff(reading, readOne(t, c, "GPU-a", 0)); diff != "" {
		t.Errorf("reading (-want +got):\n%s", diff)
	}
	if a, err := c.Accounting(t.Context(), gpu.AccountingRequest{UUID: "GPU-a"}); err != nil || a.Enabled != nil || a.Processes != nil {
		t.Errorf("accounting: got %+v, %v, want it unknown", a, err)
	}
}

func TestLibraryThatComesLater(t *testing.T) {
	stub := nvmlstub.Build(t, false)
	later := filepath.Join(t.TempDir(), "libnvidia-ml.so.1")
	c := client(t, later)
	if _, err := c.Inventory(t.Context()); err == nil || !strings.Contains(err.Error(), "can't be loaded") || !strings.Contains(err.Error(), later) {
		t.Errorf("without a library: got %v, want the loader's words", err)
	}
	stub.Set("fail nvmlInit_v2 9")
	if err := os.Symlink(stub.Path, later); err != nil {
		t.Fatal(err)
	}
	// The stub looks for its file beside the name that it is loaded by.
	if err := os.Symlink(filepath.Join(filepath.Dir(stub.Path), "stub.txt"), filepath.Join(filepath.Dir(later), "stub.txt")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Inventory(t.Context()); err == nil || !strings.Contains(err.Error(), "Driver Not Loaded") {
		t.Errorf("without a driver: got %v, want the library's words", err)
	}
	stub.Set("driver 1.2", "gpu GPU-a X")
	if got, err := c.Inventory(t.Context()); err != nil || len(got.Devices) != 1 {
		t.Errorf("with a driver: got %+v, %v", got, err)
	}
	if c.Err() != nil {
		t.Errorf("the probe is down: %v", c.Err())
	}
}

func TestNotALibrary(t *testing.T) {
	stub := nvmlstub.Build(t, false) // for its skip
	_ = stub
	c := client(t, "libm.so.6")
	if _, err := c.Inventory(t.Context()); err == nil || !strings.Contains(err.Error(), "no nvmlInit") {
		t.Errorf("got %v", err)
	}
}

func TestVanishingGPU(t *testing.T) {
	stub := nvmlstub.Build(t, false)
	stub.Set("gpu GPU-a X", "energy GPU-a 5")
	c := client(t, stub.Path)
	if got := readOne(t, c, "GPU-a", 0); got.Lost || got.EnergyMJ == nil {
		t.Errorf("before: got %+v", got)
	}
	for _, lines := range [][]string{{"gpu GPU-a X", "lost GPU-a"}, {"gpu GPU-b X"}, {"gpu GPU-a X", "energy GPU-a 5", "fail nvmlDeviceGetMemoryInfo 15"}} {
		stub.Set(lines...)
		if diff := cmp.Diff(gpu.Reading{UUID: "GPU-a", Lost: true}, readOne(t, c, "GPU-a", 0)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", lines, diff)
		}
	}
	stub.Set("gpu GPU-a X", "energy GPU-a 6")
	if got := readOne(t, c, "GPU-a", 0); got.Lost || got.EnergyMJ == nil {
		t.Errorf("back again: got %+v", got)
	}
}

// A call that hangs costs the probe its life, and no more.
func TestHang(t *testing.T) {
	stub := nvmlstub.Build(t, false)
	stub.Set("gpu GPU-a X", "hang nvmlDeviceGetTotalEnergyConsumption")
	c := client(t, stub.Path, func(cfg *gpu.Config) { cfg.Hang = 150 * time.Millisecond })
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := c.Read(ctx, []gpu.Query{{UUID: "GPU-a"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a caller that gives up: got %v, want its own deadline", err)
	}
	// Nobody waits for it any more; it is noticed all the same.
	_, err := c.Read(t.Context(), []gpu.Query{{UUID: "GPU-a"}})
	if !errors.Is(err, gpu.ErrDown) || !strings.Contains(err.Error(), "did not answer within 150ms") {
		t.Errorf("a hang: got %v", err)
	}
	stub.Set("gpu GPU-a X", "energy GPU-a 5")
	await(t, "another probe", func() bool {
		rs, err := c.Read(t.Context(), []gpu.Query{{UUID: "GPU-a"}})
		return err == nil && rs[0].EnergyMJ != nil
	})
}

func TestCrash(t *testing.T) {
	stub := nvmlstub.Build(t, false)
	stub.Set("gpu GPU-a X", "crash nvmlDeviceGetUUID")
	c := client(t, stub.Path)
	if _, err := c.Inventory(t.Context()); !errors.Is(err, gpu.ErrDown) {
		t.Errorf("a crash: got %v, want %v", err, gpu.ErrDown)
	}
	await(t, "the reason", func() bool {
		err := c.Err()
		if err == nil { // it is up again
			_, err = c.Inventory(t.Context())
		}
		return err != nil && strings.Contains(err.Error(), "SIGSEGV")
	})
	stub.Set("gpu GPU-a X")
	await(t, "another probe", func() bool {
		inv, err := c.Inventory(t.Context())
		return err == nil && len(inv.Devices) == 1
	})
}

// A probe that is killed is started again, many times over, and one at a time.
func TestKilledProbe(t *testing.T) {
	stub := nvmlstub.Build(t, false)
	stub.Set("gpu GPU-a X")
	c := client(t, stub.Path)
	for range 5 {
		var pids []int
		await(t, "a probe", func() bool { pids = children(t); return len(pids) > 0 })
		if len(pids) != 1 {
			t.Fatalf("got %d probes at once", len(pids))
		}
		if err := unix.Kill(pids[0], unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		await(t, "another one", func() bool {
			now := children(t)
			return len(now) == 1 && now[0] != pids[0]
		})
		await(t, "its answer", func() bool { _, err := c.Inventory(t.Context()); return err == nil })
	}
}

// The probe ends with the process that it serves, even while a call hangs.
func TestProbeEndsWithItsClient(t *testing.T) {
	stub := nvmlstub.Build(t, false)
	stub.Set("hang nvmlDeviceGetCount_v2")
	t.Run("client", func(t *testing.T) {
		c := client(t, stub.Path)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		_, _ = c.Inventory(ctx)
	})
	if pids := children(t); len(pids) != 0 {
		t.Errorf("left running: %v", pids)
	}
}

// children are our probes.
func children(t *testing.T) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // the thread is gone
		}
		for s := range strings.FieldsSeq(string(b)) {
			var pid int
			if _, err := fmt.Sscan(s, &pid); err == nil && !zombie(pid) {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(b), ") Z ")
}

func TestProbeThatIsNotThere(t *testing.T) {
	c := client(t, "", func(cfg *gpu.Config) { cfg.Probe = "/nope" })
	await(t, "the reason", func() bool { return strings.Contains(c.Err().Error(), "/nope") })
	if _, err := c.Inventory(t.Context()); !errors.Is(err, gpu.ErrDown) {
		t.Errorf("got %v, want %v", err, gpu.ErrDown)
	}
}

type hanging struct{ called chan struct{} }

func (h hanging) Answer(gpu.Request) gpu.Response {
	close(h.called)
	select {}
}

func TestServeEndsWhileAnAnswerHangs(t *testing.T) {
	ours, theirs := io.Pipe()
	h := hanging{make(chan struct{})}
	ended := make(chan error, 1)
	go func() {
		ended <- probe.Serve(struct {
			io.Reader
			io.Writer
		}{ours, io.Discard}, h)
	}()
	fmt.Fprintln(theirs, `{"id":1,"inventory":true}`)
	<-h.called
	theirs.Close()
	if err := <-ended; err != nil {
		t.Errorf("got %v", err)
	}
}

func TestBadRequestEndsTheProbe(t *testing.T) {
	err := probe.Serve(struct {
		io.Reader
		io.Writer
	}{strings.NewReader("{}}\n"), io.Discard}, hanging{make(chan struct{})})
	if err == nil || !strings.Contains(err.Error(), "request") {
		t.Errorf("got %v", err)
	}
}

func proc(pid uint32, mib uint64) gpu.Process { return gpu.Process{Pid: pid, MemoryMiB: &mib} }
