// Package e2e runs whole clusters of real processes: Nomad agents, our plugin,
// hostd, shims, runc, a settlement server. It breaks them in every way that a
// supplier's machine can break and then compares the bill with what an outside
// observer saw.
package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/hashicorp/nomad/api"

	"github.com/joulecloud/joule/cli/devcluster"
	"github.com/joulecloud/joule/cli/outside"
	"github.com/joulecloud/joule/driver/hostapi"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

// keep leaves the state of a failed run behind, to be looked at.
var keep = flag.Bool("keep", false, "keep the cluster's state directory")

// fixture is the cluster that the tests of this package share, and the
// observer that watches it from outside.
type fixture struct {
	cluster  *devcluster.Cluster
	observer *outside.Observer
	dir      string
	programs devcluster.Programs
	registry *httptest.Server // the hosts get images from it
	network  *network         // of the first host, for groups' namespaces
	volume   string           // a host volume of the first host: "shelf"
	jobs     atomic.Int64
}

var shared struct {
	once sync.Once
	f    *fixture
	skip string
	err  error
}

func TestMain(m *testing.M) {
	serveDevicePlugin()
	flag.Parse()
	code := m.Run()
	if shared.f != nil {
		if err := shared.f.stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stop the cluster:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// cluster returns the shared cluster, starting it for the first test.
func cluster(t *testing.T) *fixture {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a whole cluster: not with -short")
	}
	shared.once.Do(func() { shared.f, shared.skip, shared.err = startFixture() })
	if shared.skip != "" {
		t.Skip(shared.skip)
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.f
}

// moduleRoot is where bin/ and build/ are.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "..", ".."), nil
}

// programs finds the binaries that make builds; missing says which is not
// there.
func programs() (p devcluster.Programs, missing string, err error) {
	if os.Geteuid() != 0 {
		return p, "needs root", nil
	}
	root, err := moduleRoot()
	if err != nil {
		return p, "", err
	}
	p = devcluster.Programs{Joule: filepath.Join(root, "bin", "joule"), Nomad: filepath.Join(root, "build", "bin", "nomad")}
	if _, err := exec.LookPath("runc"); err != nil {
		p.Runtime = filepath.Join(root, "build", "bin", "runc")
	}
	for _, f := range []string{p.Joule, p.Nomad, p.Runtime} {
		if _, err := os.Stat(f); f != "" && err != nil {
			return p, "needs " + f + " (make build tools)", nil
		}
	}
	return p, "", p.Resolve()
}

func startFixture() (f *fixture, skip string, err error) {
	p, missing, err := programs()
	if missing != "" || err != nil {
		return nil, missing, err
	}
	f = &fixture{}
	if f.dir, err = os.MkdirTemp("", "joule-e2e-"); err != nil {
		return nil, "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.stop())
		}
	}()
	if f.programs, err = install(p, filepath.Join(f.dir, "programs")); err != nil {
		return f, "", err
	}
	p = f.programs
	if f.observer, err = outside.Start(); err != nil {
		return f, "", err
	}
	f.registry = httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	if f.network, err = newNetwork(); err != nil {
		return f, "", err
	}
	f.volume = filepath.Join(f.dir, "volume")
	if err := os.Mkdir(f.volume, 0o777); err != nil {
		return f, "", err
	}
	hosts := devcluster.TwoHosts()
	hosts[0].ClientExtra = f.network.client() + fmt.Sprintf("  host_volume \"shelf\" {\n    path = %q\n  }\n", f.volume)
	// The second host's disk is one that tests can fill.
	disk := filepath.Join(f.dir, hosts[1].Name, "hostd")
	if err := os.MkdirAll(disk, 0o700); err != nil {
		return f, "", err
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("size=%d,mode=700", tmpfsBytes)); err != nil {
		return f, "", fmt.Errorf("mount tmpfs: %w", err)
	}
	for i := range hosts {
		hosts[i].Offer = &joulev1.Prices{BaseNusdPerHour: 360_000_000, CpuNusdPerHour: 40_000_000, MemoryNusdPerHour: 5_000_000}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	f.cluster, err = devcluster.Start(ctx, devcluster.Config{
		Dir: f.dir, LogDir: filepath.Join(f.dir, "logs"), Out: os.Stderr, Hosts: hosts,
		Programs: p, Registries: []string{f.registry.Listener.Addr().String()},
	})
	if err != nil {
		return f, "", err
	}
	return f, "", f.cluster.Seed(ctx)
}

// tmpfsBytes is the size of the second host's disk.
const tmpfsBytes = 1 << 30

// install copies the programs to a directory of the test's own, where it may
// replace them.
func install(p devcluster.Programs, dir string) (devcluster.Programs, error) {
	for _, f := range []*string{&p.Joule, &p.Shim, &p.Runtime} {
		to := filepath.Join(dir, filepath.Base(*f))
		if err := copyFile(*f, to); err != nil {
			return p, err
		}
		*f = to
	}
	const plugin = "nomad-driver-joule"
	err := copyFile(filepath.Join(p.PluginDir, plugin), filepath.Join(dir, "plugins", plugin))
	p.PluginDir = filepath.Join(dir, "plugins")
	return p, err
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, b, 0o755))
}

// customer makes a customer whose namespace has its name.
func (f *fixture) customer(ctx context.Context, name string, nusd int64) error {
	return f.cluster.CreateCustomer(ctx, name, nusd)
}

func (f *fixture) stop() error {
	var errs []error
	if f.cluster != nil {
		errs = append(errs, f.cluster.Stop())
	}
	if f.registry != nil {
		f.registry.Close()
	}
	if f.observer != nil {
		errs = append(errs, f.observer.Stop())
	}
	if f.network != nil {
		errs = append(errs, f.network.remove())
	}
	if *keep {
		fmt.Fprintln(os.Stderr, "state kept in", f.dir)
	} else {
		errs = append(errs, os.RemoveAll(f.dir))
	}
	return errors.Join(errs...)
}

// task describes a job of one task.
type task struct {
	namespace string // default acme
	host      string // default crowd-1
	command   string
	args      []string
	config    map[string]any
	kind      string // default batch
	mutate    func(*api.Job)
}

func sleepFor(d time.Duration) task {
	return task{command: "/bin/sleep", args: []string{fmt.Sprintf("%g", d.Seconds())}}
}

func pointer[T any](v T) *T { return &v }

// submit registers the job and returns its id once it has an allocation.
func (f *fixture) submit(t *testing.T, spec task) (job, alloc string) {
	t.Helper()
	if spec.namespace == "" {
		spec.namespace = "acme"
	}
	if spec.host == "" {
		spec.host = "crowd-1"
	}
	if spec.kind == "" {
		spec.kind = "batch"
	}
	job = fmt.Sprintf("%s-%d", strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name())), f.jobs.Add(1))
	config := map[string]any{"command": spec.command, "args": spec.args}
	for k, v := range spec.config {
		config[k] = v
	}
	j := api.NewBatchJob(job, job, "global", 50)
	j.Type = &spec.kind
	j.Namespace = &spec.namespace
	j.Datacenters = []string{"*"}
	j.Constraints = []*api.Constraint{api.NewConstraint("${attr.driver.joule.host}", "=", spec.host)}
	work := api.NewTask("main", "joule")
	work.Config = config
	work.Resources = &api.Resources{CPU: pointer(100), MemoryMB: pointer(64)}
	work.LogConfig = &api.LogConfig{MaxFiles: pointer(1), MaxFileSizeMB: pointer(1)}
	group := api.NewTaskGroup("main", 1).AddTask(work)
	group.EphemeralDisk = &api.EphemeralDisk{SizeMB: pointer(10)}
	group.RestartPolicy = &api.RestartPolicy{Attempts: pointer(0), Mode: pointer("fail")}
	group.ReschedulePolicy = &api.ReschedulePolicy{Attempts: pointer(0), Unlimited: pointer(false)}
	j.AddTaskGroup(group)
	if spec.mutate != nil {
		spec.mutate(j)
	}
	if _, _, err := f.cluster.NomadAPI.Jobs().Register(j, &api.WriteOptions{Namespace: spec.namespace}); err != nil {
		t.Fatalf("register job: %v", err)
	}
	t.Cleanup(func() {
		f.cluster.NomadAPI.Jobs().Deregister(job, true, &api.WriteOptions{Namespace: spec.namespace})
	})
	eventually(t, 20*time.Second, "an allocation", func() error {
		allocs, _, err := f.cluster.NomadAPI.Jobs().Allocations(job, false, &api.QueryOptions{Namespace: spec.namespace})
		if err != nil {
			return err
		}
		if len(allocs) == 0 {
			return errors.New("none yet")
		}
		alloc = allocs[0].ID
		return nil
	})
	return job, alloc
}

// eventually polls check until it returns nil.
func eventually(t *testing.T, limit time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %s after %s: %v", what, limit, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// leases returns the leases of an allocation.
func (f *fixture) leases(t *testing.T, alloc string) []*joulev1.Lease {
	t.Helper()
	r, err := f.cluster.API.ListLeases(t.Context(), &joulev1.ListLeasesRequest{PageSize: 10000})
	if err != nil {
		t.Logf("list leases: %v", err) // the server may be down on purpose
		return nil
	}
	var out []*joulev1.Lease
	for _, l := range r.Leases {
		if l.AllocId == alloc {
			out = append(out, l)
		}
	}
	return out
}

// running waits until the allocation's task runs.
func (f *fixture) running(t *testing.T, alloc string) *joulev1.Lease {
	t.Helper()
	var lease *joulev1.Lease
	eventually(t, 30*time.Second, "running task", func() error {
		a, _, err := f.cluster.NomadAPI.Allocations().Info(alloc, nil)
		if err != nil {
			return err
		}
		if s := a.TaskStates["main"]; s == nil || s.State != "running" {
			return fmt.Errorf("allocation is %s: %s", a.ClientStatus, taskEvents(a))
		}
		ls := f.leases(t, alloc)
		if len(ls) != 1 {
			return fmt.Errorf("%d leases", len(ls))
		}
		lease = ls[0]
		return nil
	})
	return lease
}

// closed waits until the allocation's one lease is closed and returns it.
func (f *fixture) closed(t *testing.T, alloc string, limit time.Duration) *joulev1.Lease {
	t.Helper()
	var lease *joulev1.Lease
	eventually(t, limit, "closed lease", func() error {
		ls := f.leases(t, alloc)
		if len(ls) != 1 {
			return fmt.Errorf("%d leases", len(ls))
		}
		if ls[0].State != "closed" {
			return fmt.Errorf("lease L%d is %s", ls[0].Id, ls[0].State)
		}
		lease = ls[0]
		return nil
	})
	return lease
}

// taskEvents is what `nomad alloc status` shows of a task.
func taskEvents(a *api.Allocation) string {
	var out []string
	for _, s := range a.TaskStates {
		for _, e := range s.Events {
			out = append(out, e.Type+": "+e.DisplayMessage)
		}
	}
	return strings.Join(out, "; ")
}

// exact compares a closed lease's bill with what the observer saw of the
// command's run, and the charge with the price.
func (f *fixture) exact(t *testing.T, l *joulev1.Lease, command string) {
	t.Helper()
	container := hostapi.ContainerID(l.AllocId + "/" + l.Task + "/" + l.Invocation)
	var run outside.Run
	eventually(t, 5*time.Second, "outside run time", func() error {
		runs, err := f.observer.Runs("joule", command)
		if err != nil {
			return err
		}
		for _, r := range runs {
			if r.Container == container && r.Exit != 0 {
				run = r
				return nil
			}
		}
		return fmt.Errorf("the observer saw no finished %s in container %s", command, container)
	})
	outsideMs := float64(run.Wall().Microseconds()) / 1000
	if d := float64(l.Billed.WallMs) - outsideMs; math.Abs(d) > 1 {
		t.Errorf("billed %d ms, outside %.3f ms: %+.3f ms apart, want at most 1", l.Billed.WallMs, outsideMs, d)
	} else {
		t.Logf("billed %d ms, outside %.3f ms: %+.3f ms apart", l.Billed.WallMs, outsideMs, d)
	}
	if len(l.Quality) > 0 {
		t.Errorf("got quality flags %v, want none", l.Quality)
	}
	f.provenCharge(t, l)
}

// provenCharge checks that the charge equals the cost recomputed apart from
// the ledger, and that the books balance.
func (f *fixture) provenCharge(t *testing.T, l *joulev1.Lease) {
	t.Helper()
	e, err := f.cluster.API.ExplainLease(t.Context(), &joulev1.ExplainLeaseRequest{LeaseId: l.Id})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(e.Lease.ChargedNusd); got != e.RecomputedNusd {
		t.Errorf("charged %s nUSD, recomputed %s", got, e.RecomputedNusd)
	}
	st, err := f.cluster.API.GetStatus(t.Context(), &joulev1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if st.UsdSum != 0 || st.JouleSum != 0 {
		t.Errorf("the books do not balance: %d nUSD, %d nJ", st.UsdSum, st.JouleSum)
	}
}

// spoolEmpty waits until the host keeps no unacknowledged record.
func (f *fixture) spoolEmpty(t *testing.T, h *devcluster.Host) {
	t.Helper()
	eventually(t, 15*time.Second, "empty spool on "+h.Name, func() error {
		info, err := h.Hostd().Host(t.Context())
		if err != nil {
			return err
		}
		if info.SpoolRecords != 0 {
			return fmt.Errorf("%d records", info.SpoolRecords)
		}
		return nil
	})
}

// nomad runs the nomad CLI as a person would.
func (f *fixture) nomad(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), f.programs.Nomad, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "NOMAD_ADDR=" + f.cluster.NomadURL(), "NOMAD_NAMESPACE=acme"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("nomad %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
