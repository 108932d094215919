package hostd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/joulecloud/joule/driver/cgroup"
	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/oci"
	"github.com/joulecloud/joule/driver/shim"
)

// A runner runs tasks in processes that outlive hostd.
type runner interface {
	// Check reports every fault of the request, each with its field and value.
	Check(req *hostapi.StartRequest, containerID string) error
	// Launch starts the task's shim in dir. It returns before the task runs.
	Launch(ctx context.Context, dir, containerID string, req *hostapi.StartRequest) (proc, error)
	// Attach finds the shim of dir again; shim.ErrNotLaunched if there was none.
	Attach(dir string) (proc, error)
	// Discard removes what a launch left that got no further than its bundle.
	Discard(dir string) error
	// Info says what works here and what doesn't.
	Info(ctx context.Context) runnerInfo
}

// runnerInfo is what a host can run tasks with.
type runnerInfo struct {
	Cgroup   string
	Runtimes map[string]string // name → version
	Problems []string          // why no task can run
}

// A proc is a shim and the task it holds. See shim.Proc.
type proc interface {
	Started(ctx context.Context) (*shim.Started, error)
	Done() <-chan struct{}
	Exit() (*shim.Exit, error)
	Signal(sig unix.Signal) error
	Kill() error
	Sample() (shim.Sample, error)
	Cleanup(ctx context.Context) error
	// Stats reads the meters for display.
	Stats() hostapi.Stats
	// Spec is what the shim was told.
	Spec() *shim.Spec
}

// infoMaxAge is how long what a host offers is believed unasked.
const infoMaxAge = 15 * time.Second

// shimRunner runs tasks with joule-shim and an OCI runtime.
type shimRunner struct {
	cfg Config

	mu    sync.Mutex
	info  runnerInfo
	first oci.Found // the runtime that new tasks get
	shim  string
	at    time.Time
}

func newShimRunner(cfg Config) *shimRunner { return &shimRunner{cfg: cfg} }

// Info implements runner.
func (r *shimRunner) Info(ctx context.Context) runnerInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.at) > infoMaxAge {
		r.look(ctx)
	}
	return r.info
}

// look finds out what works. The caller holds mu.
func (r *shimRunner) look(ctx context.Context) {
	info := runnerInfo{Runtimes: map[string]string{}}
	problem := func(err error) { info.Problems = append(info.Problems, err.Error()) }
	host, err := cgroup.Detect(cgroup.DefaultRoot)
	hybrid := false
	if err != nil {
		problem(err)
	} else {
		info.Cgroup = string(host.Mode)
		hybrid = host.Mode == cgroup.Hybrid
	}
	if os.Geteuid() != 0 {
		problem(fmt.Errorf("hostd runs as uid %d: it needs root to run tasks", os.Geteuid()))
	}
	found, err := oci.FindRuntimes(ctx, r.cfg.Runtimes, hybrid)
	r.first = oci.Found{}
	for i, f := range found {
		if i == 0 {
			r.first = f
		}
		info.Runtimes[f.Name] = f.Version
	}
	// One runtime that works is enough.
	if len(found) == 0 {
		problem(err)
	}
	if r.shim, err = findShim(r.cfg.Shim); err != nil {
		problem(err)
	}
	r.info = info
	if ctx.Err() == nil {
		r.at = time.Now()
	}
}

// findShim finds joule-shim: as configured, or beside our executable, or on
// PATH.
func findShim(configured string) (string, error) {
	const name = "joule-shim"
	if configured != "" {
		if _, err := exec.LookPath(configured); err != nil {
			return "", fmt.Errorf("shim %q: %w", configured, errors.Unwrap(err))
		}
		return configured, nil
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), name)
		if _, err := exec.LookPath(beside); err == nil {
			return beside, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is neither beside hostd's executable nor on PATH", name)
	}
	return filepath.Abs(path)
}

// Check implements runner.
func (r *shimRunner) Check(req *hostapi.StartRequest, containerID string) error {
	t, _, err := ociTask(req, containerID)
	if err != nil {
		return err
	}
	return t.Validate()
}

// ociTask is the request in the words of package oci.
func ociTask(req *hostapi.StartRequest, containerID string) (*oci.Task, *cgroup.Group, error) {
	host, err := cgroup.Detect(cgroup.DefaultRoot)
	if err != nil {
		return nil, nil, err
	}
	group, err := host.Group(containerID)
	if err != nil {
		return nil, nil, err
	}
	t := &oci.Task{
		Args:        append([]string{req.Command}, req.Args...),
		Env:         req.Env,
		User:        req.User,
		WorkDir:     req.WorkDir,
		Hostname:    req.Hostname,
		NetworkPath: req.NetworkPath,
		CgroupPath:  group.OCIPath(),
		CPUShares:   uint64(max(req.CPUShares, 0)),
		MemoryBytes: max(req.MemoryMiB, req.MemoryMax) << 20,
	}
	for _, m := range []oci.Mount{
		{Source: req.AllocDir, Target: "/alloc"},
		{Source: req.LocalDir, Target: "/local"},
		{Source: req.SecretsDir, Target: "/secrets"},
	} {
		if m.Source != "" {
			t.Mounts = append(t.Mounts, m)
		}
	}
	for _, m := range req.Mounts {
		t.Mounts = append(t.Mounts, oci.Mount{Source: m.HostPath, Target: m.TaskPath, ReadOnly: m.ReadOnly})
	}
	return t, group, nil
}

// Launch implements runner.
func (r *shimRunner) Launch(ctx context.Context, dir, containerID string, req *hostapi.StartRequest) (proc, error) {
	r.mu.Lock()
	if r.first.Path == "" || r.shim == "" {
		r.look(ctx)
	}
	runtime, shimPath, problems := r.first, r.shim, r.info.Problems
	r.mu.Unlock()
	if runtime.Path == "" || shimPath == "" {
		return nil, fmt.Errorf("this host can't run tasks: %v", problems)
	}
	t, group, err := ociTask(req, containerID)
	if err != nil {
		return nil, err
	}
	bundle := filepath.Join(dir, shim.BundleDir)
	if err := (oci.Host{Root: "/"}).WriteBundle(bundle, t); err != nil {
		return nil, err
	}
	p, err := shim.Launch(ctx, shimPath, dir, &shim.Spec{
		ContainerID: containerID,
		Runtime:     runtime.Path,
		RuntimeRoot: filepath.Join(r.cfg.DataDir, runtimeDir),
		Bundle:      bundle,
		CgroupCPU:   group.CPUDir(),
		StdoutPath:  req.StdoutPath,
		StderrPath:  req.StderrPath,
	})
	if err != nil {
		// The next launch looks again: a binary may have been removed.
		r.mu.Lock()
		r.at, r.first, r.shim = time.Time{}, oci.Found{}, ""
		r.mu.Unlock()
		return nil, err
	}
	return shimProc{p}, nil
}

// Attach implements runner.
func (r *shimRunner) Attach(dir string) (proc, error) {
	p, err := shim.Attach(dir)
	if err != nil {
		return nil, err
	}
	return shimProc{p}, nil
}

// Discard implements runner.
func (r *shimRunner) Discard(dir string) error {
	return oci.RemoveBundle(filepath.Join(dir, shim.BundleDir))
}

// shimProc adds to a shim's process what is read past it.
type shimProc struct{ *shim.Proc }

// Stats implements proc.
func (p shimProc) Stats() hostapi.Stats {
	s := hostapi.Stats{At: time.Now()}
	if c, err := cgroup.OpenCPU(p.Group().CPUDir()); err == nil {
		if use, err := c.Read(); err == nil {
			s.CPUUsec, s.UserUsec, s.SystemUsec = &use.UsageUsec, use.UserUsec, use.SystemUsec
		}
		_ = c.Close() // only read
	}
	g := p.Group().Stats()
	s.MemoryBytes, s.MemoryRSS, s.MemoryMaxEver, s.Pids = g.MemoryBytes, g.MemoryRSSBytes, g.MemoryMaxBytes, g.Pids
	return s
}
