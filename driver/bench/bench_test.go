// Package bench measures the driver as Nomad uses it: plugin, hostd, shims and
// runtime are real processes, the plugin is spoken to over go-plugin. Only the
// settlement server is the tests' own, in the process that measures.
package bench

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/joulecloud/joule/driver/cgroup"
	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/oci"
	"github.com/joulecloud/joule/driver/procevent"
	"github.com/joulecloud/joule/driver/shim"
)

var (
	out    = flag.String("out", "", "measure, and write the figures to this `FILE`")
	starts = flag.Int("starts", 40, "how many starts and stops to measure")
	freeze = flag.Int("freezes", 200, "how many times to freeze and thaw")
	many   = flag.Int("tasks", 200, "how many tasks to keep running")
	size   = flag.Int64("image-mib", 500, "how large an image to pull")
	window = flag.Duration("window", 20*time.Second, "how long to watch them")
)

// TestMain lets a copy of the test binary be the task that tells the time.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == tickerName {
		ticker(os.Args[1])
	}
	os.Exit(m.Run())
}

const tickerName = "ticker"

// ticker writes the time into a shared word for as long as it runs.
func ticker(path string) {
	word, err := sharedWord(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for {
		word.Store(mono())
	}
}

func sharedWord(path string) (*atomic.Int64, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := unix.Mmap(int(f.Fd()), 0, 8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return (*atomic.Int64)(unsafe.Pointer(&b[0])), nil
}

func mono() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// TestMeasure writes build/bench-driver.json; see PERFORMANCE.md. It is run by
// make bench-driver.
func TestMeasure(t *testing.T) {
	if *out == "" {
		t.Skip("measures only with -out FILE (make bench-driver)")
	}
	h := newHost(t)
	figures := map[string]float64{}
	note := func(name string, v float64) {
		figures[name] = math.Round(v*1000) / 1000
		t.Logf("%-28s %10.3f", name, v)
	}

	pulled, skopeo := pull(t, *size)
	note("pull_s", pulled)
	if skopeo > 0 {
		note("pull_skopeo_s", skopeo)
		note("pull_ratio", pulled/skopeo)
	}

	var alone, ours, stops []float64
	for range *starts {
		alone = append(alone, h.runtimeAlone())
		id := h.task("/bin/sleep", "1000")
		begin := mono()
		h.start(id)
		ours = append(ours, float64(h.started(id).ExecMonoNs-begin)/1e6)
		stops = append(stops, h.stop(id))
	}
	note("start_runtime_ms_p50", quantile(alone, 0.5))
	note("start_runtime_ms_p99", quantile(alone, 0.99))
	note("start_ms_p50", quantile(ours, 0.5))
	note("start_ms_p99", quantile(ours, 0.99))
	note("start_added_ms_p50", quantile(ours, 0.5)-quantile(alone, 0.5))
	note("start_added_ms_p99", quantile(ours, 0.99)-quantile(alone, 0.99))
	note("stop_ms_p50", quantile(stops, 0.5))
	note("stop_ms_p99", quantile(stops, 0.99))

	freezes, thaws := h.freezeAndThaw(*freeze)
	note("freeze_us_p50", quantile(freezes, 0.5))
	note("freeze_us_p99", quantile(freezes, 0.99))
	note("thaw_us_p50", quantile(thaws, 0.5))
	note("thaw_us_p99", quantile(thaws, 0.99))

	ids := make([]string, *many)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	begin := time.Now()
	for i := range ids {
		ids[i] = h.task("/bin/sleep", "1000")
		wg.Go(func() {
			slots <- struct{}{}
			h.start(ids[i])
			<-slots
		})
	}
	wg.Wait()
	note("start_200_tasks_s", time.Since(begin).Seconds())
	h.settle()
	hostd, plugin := h.hostdPid(), h.pluginPid()
	cpu := func() float64 { return cpuSeconds(t, hostd) + cpuSeconds(t, plugin) }
	hostdBefore, pluginBefore, from := cpuSeconds(t, hostd), cpuSeconds(t, plugin), time.Now()
	before := cpu()
	<-time.After(*window)
	took := time.Since(from).Seconds()
	note("core_share_200_tasks", 100*(cpu()-before)/took) // per cent of a core
	note("core_share_hostd", 100*(cpuSeconds(t, hostd)-hostdBefore)/took)
	note("core_share_plugin", 100*(cpuSeconds(t, plugin)-pluginBefore)/took)
	note("rss_mib_200_tasks", rss(t, hostd)+rss(t, plugin))
	note("rss_mib_hostd", rss(t, hostd))
	note("rss_mib_plugin", rss(t, plugin))
	var own, all []float64
	for _, id := range ids {
		pid := h.shimPid(id)
		own, all = append(own, private(t, pid)), append(all, rss(t, pid))
	}
	note("shim_rss_mib", quantile(own, 0.5))
	note("shim_rss_with_shared_mib", quantile(all, 0.5))
	for _, id := range ids {
		wg.Go(func() {
			slots <- struct{}{}
			h.stop(id)
			<-slots
		})
	}
	wg.Wait()

	b, err := json.MarshalIndent(figures, "", "  ")
	if err == nil {
		err = os.WriteFile(*out, append(b, '\n'), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func quantile(v []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[min(int(q*float64(len(s))), len(s)-1)]
}

// runtimeAlone is how long the runtime takes by itself, in ms: from its call to
// the exec of a command in the same kind of container.
func (h *host) runtimeAlone() float64 {
	h.t.Helper()
	ctx := context.Background()
	id := fmt.Sprintf("bench-alone-%d-%d", os.Getpid(), h.n.Add(1))
	dir := filepath.Join(h.dir, id)
	groups, err := cgroup.Detect(cgroup.DefaultRoot)
	if err != nil {
		h.t.Fatal(err)
	}
	group, err := groups.Group(id)
	if err != nil {
		h.t.Fatal(err)
	}
	bundle := filepath.Join(dir, "bundle")
	alloc := h.allocDir(id)
	task := &oci.Task{Args: []string{"/bin/sleep", "1000"}, CgroupPath: group.OCIPath(), CPUShares: 100, MemoryBytes: 64 << 20, Mounts: []oci.Mount{
		{Source: filepath.Join(alloc, "alloc"), Target: "/alloc"}, {Source: filepath.Join(alloc, taskName, "local"), Target: "/local"},
		{Source: filepath.Join(alloc, taskName, "secrets"), Target: "/secrets"}}}
	if err := (oci.Host{Root: "/"}).WriteBundle(bundle, task); err != nil {
		h.t.Fatal(err)
	}
	r := oci.NewRunc(h.runtime, filepath.Join(h.dir, "alone"))
	pidFile := filepath.Join(dir, "pid")
	begin := mono()
	if err := r.Create(ctx, oci.CreateOptions{ID: id, Bundle: bundle, PidFile: pidFile}); err != nil {
		h.t.Fatal(err)
	}
	pid, err := oci.ReadPid(pidFile)
	if err != nil {
		h.t.Fatal(err)
	}
	w, err := procevent.Watch(pid, procevent.Options{})
	if err != nil {
		h.t.Fatal(err)
	}
	defer w.Close()
	if err := r.Start(ctx, id); err != nil {
		h.t.Fatal(err)
	}
	stamp, err := w.Exec(10 * time.Second)
	if err != nil {
		h.t.Fatal(err)
	}
	var status unix.WaitStatus
	killed := group.Kill()
	_, waited := unix.Wait4(pid, &status, 0, nil) // it came to us: see newHost
	if err := errors.Join(killed, waited, r.Delete(ctx, id, true), group.Remove(ctx), oci.RemoveBundle(bundle)); err != nil {
		h.t.Fatal(err)
	}
	return float64(stamp.MonoNs-begin) / 1e6
}

// freezeAndThaw measures, in µs, how long it takes until a task stands still,
// and from the thaw to its first instruction.
func (h *host) freezeAndThaw(n int) (freezes, thaws []float64) {
	h.t.Helper()
	id := h.task("/alloc/"+tickerName, "/alloc/time")
	shared := filepath.Join(h.allocOf(id), "alloc")
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		h.t.Fatal(err)
	}
	file := filepath.Join(shared, "time")
	err = errors.Join(os.WriteFile(filepath.Join(shared, tickerName), self, 0o755), os.WriteFile(file, make([]byte, 8), 0o666), os.Chmod(file, 0o666))
	if err != nil {
		h.t.Fatal(err)
	}
	word, err := sharedWord(file)
	if err != nil {
		h.t.Fatal(err)
	}
	h.start(id)
	h.await("the first tick", func() bool { return word.Load() != 0 })
	groups, err := cgroup.Detect(cgroup.DefaultRoot)
	if err != nil {
		h.t.Fatal(err)
	}
	group, err := groups.Group(hostapi.ContainerID(id))
	if err != nil {
		h.t.Fatal(err)
	}
	for range n {
		begin := mono()
		if err := group.Freeze(h.t.Context()); err != nil {
			h.t.Fatal(err)
		}
		freezes = append(freezes, float64(mono()-begin)/1e3)
		stands := word.Load()
		<-time.After(2 * time.Millisecond)
		if word.Load() != stands {
			h.t.Fatal("a frozen task goes on")
		}
		begin = mono()
		if err := group.Thaw(); err != nil {
			h.t.Fatal(err)
		}
		// What it stores first may be a time that it took before it was frozen.
		first := stands
		for deadline := begin + int64(10*time.Second); first <= begin; {
			if mono() > deadline {
				h.t.Fatal("a thawed task stands still")
			}
			first = word.Load()
		}
		thaws = append(thaws, float64(first-begin)/1e3)
	}
	h.stop(id)
	return freezes, thaws
}

// cpuSeconds is what all threads of a process have used, by the scheduler.
func cpuSeconds(t *testing.T, pid int) float64 {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("process %d: got %d threads, %v", pid, len(files), err)
	}
	sum := 0.0
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		ns, err := strconv.ParseFloat(strings.Fields(string(b))[0], 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += ns / 1e9
	}
	return sum
}

// field sums lines of a file of /proc in kB, as MiB.
func field(t *testing.T, path string, names ...string) float64 {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 1 && slices.Contains(names, strings.TrimSuffix(f[0], ":")) {
			kb, err := strconv.ParseFloat(f[1], 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += kb / 1024
		}
	}
	return sum
}

func rss(t *testing.T, pid int) float64 {
	return field(t, fmt.Sprintf("/proc/%d/status", pid), "VmRSS")
}

// private is what would be free if only this process ended.
func private(t *testing.T, pid int) float64 {
	return field(t, fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Private_Clean", "Private_Dirty")
}

// shimPid is the process that holds the task.
func (h *host) shimPid(id string) int { return taskFile[shim.Process](h, id, shim.ProcessFile).Pid }

func (h *host) started(id string) shim.Started {
	return taskFile[shim.Started](h, id, shim.StartedFile)
}

func taskFile[T any](h *host, id, name string) T {
	h.t.Helper()
	var v T
	b, err := os.ReadFile(filepath.Join(h.dir, "data", "tasks", hostapi.ContainerID(id), name))
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return v
}
