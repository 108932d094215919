package hostd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/joulecloud/joule/driver/cgroup"
	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/image"
	"github.com/joulecloud/joule/driver/oci"
	"github.com/joulecloud/joule/driver/shim"
)

// A runner runs tasks in processes that outlive hostd.
type runner interface {
	// Open makes the runner ready, with the data directory locked.
	Open(log *slog.Logger) error
	// Sweep removes what is left of tasks that has doesn't know.
	Sweep(has func(containerID string) bool) error
	Close() error
	// Check reports every fault of the request, each with its field and value.
	Check(req *hostapi.StartRequest, containerID string) error
	// Launch gets the task's image, if it has one, and starts its shim in dir. It
	// returns before the task runs. note is told what a customer wants to know.
	Launch(ctx context.Context, dir, containerID string, req *hostapi.StartRequest, note func(string)) (proc, error)
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
	Faults   map[string]string // runtimes that don't work: name → why
	Problems []string          // why no task can run
	hostapi.Isolation
}

// A proc is a shim and the task it holds. See shim.Proc.
type proc interface {
	Started(ctx context.Context) (*shim.Started, error)
	Done() <-chan struct{}
	Exit() (*shim.Exit, error)
	Signal(sig unix.Signal) error
	Kill() error
	Sample() (shim.Sample, error)
	Freeze(ctx context.Context) (monoNs int64, err error)
	Thaw() (monoNs int64, err error)
	Frozen() (bool, error)
	FrozenFor() *time.Duration
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
	cfg       Config
	images    *image.Store // nil: imagesErr says why
	imagesErr error
	idsErr    error // why tasks can't have user namespaces

	mu    sync.Mutex
	info  runnerInfo
	tried map[string]trial // by the name in the configuration
	found []oci.Found      // those that work, the default one first
	shim  string
	at    time.Time
}

func newShimRunner(cfg Config) *shimRunner {
	return &shimRunner{cfg: cfg, tried: map[string]trial{}, imagesErr: errors.New("the image cache isn't open"), idsErr: errors.New("the image cache isn't open")}
}

// Open implements runner. Without an image cache, tasks without images run.
func (r *shimRunner) Open(log *slog.Logger) error {
	if err := image.MakeRunDir(r.cfg.runDir()); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	if r.images, r.imagesErr = image.Open(r.cfg.store(), log); r.imagesErr != nil {
		log.Error("image cache can't be opened: tasks with images are refused", "error", r.imagesErr)
		return nil
	}
	switch {
	case r.cfg.Isolation.UserNamespace == demandOff:
		r.idsErr = errors.New("isolation.user_namespace is \"off\"")
	default:
		// Layers are on a disk, Nomad's secrets on a tmpfs.
		r.idsErr = errors.Join(image.CanMapIDs(r.cfg.Images.CacheDir), image.CanMapIDs("/dev/shm"))
	}
	return nil
}

// Sweep implements runner.
func (r *shimRunner) Sweep(has func(string) bool) error {
	if r.images == nil {
		return nil
	}
	return r.images.Sweep(has)
}

// Close implements runner.
func (r *shimRunner) Close() error {
	if r.images == nil {
		return nil
	}
	// Removed where no task's root is in it.
	_ = os.Remove(filepath.Join(r.cfg.runDir(), "roots"))
	_ = os.Remove(r.cfg.runDir())
	return r.images.Close()
}

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
	info := runnerInfo{Runtimes: map[string]string{}, Faults: map[string]string{}}
	problem := func(err error) { info.Problems = append(info.Problems, err.Error()) }
	host, err := cgroup.Detect(cgroup.DefaultRoot)
	if err != nil {
		problem(err)
	} else {
		info.Cgroup = string(host.Mode)
	}
	if os.Geteuid() != 0 {
		problem(fmt.Errorf("hostd runs as uid %d: it needs root to run tasks", os.Geteuid()))
	}
	if r.shim, err = findShim(r.cfg.Shim); err != nil {
		problem(err)
	}
	r.found = nil
	var faults []error
	for _, name := range r.cfg.Runtimes {
		f := r.try(ctx, name, host)
		if f.Err != nil {
			info.Faults[f.Name] = f.Err.Error()
			faults = append(faults, fmt.Errorf("runtime %q: %w", name, f.Err))
			continue
		}
		if len(r.found) == 0 {
			info.Isolation = hostapi.Isolation{UserNamespace: r.mapsIDs(f), Seccomp: f.Seccomp && r.cfg.Isolation.Seccomp != demandOff, OwnKernel: f.OwnKernel}
		}
		r.found = append(r.found, f)
		info.Runtimes[f.Name] = f.Version
	}
	// One runtime that works is enough.
	if len(r.found) == 0 {
		problem(errors.Join(faults...))
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

// Launch implements runner.
func (r *shimRunner) Launch(ctx context.Context, dir, containerID string, req *hostapi.StartRequest, note func(string)) (proc, error) {
	runtime, err := r.choose(ctx, req.Runtime)
	if err != nil {
		return nil, err
	}
	t, group, err := r.ociTask(req, containerID)
	if err != nil {
		return nil, err
	}
	t.Seccomp = runtime.Seccomp && !runtime.OwnKernel && r.cfg.Isolation.Seccomp != demandOff
	if req.Image != "" {
		if err := r.prepare(ctx, dir, containerID, req, t, runtime, note); err != nil {
			return nil, err
		}
	}
	p, err := r.launch(ctx, dir, containerID, req, t, group, runtime)
	if err != nil && req.Image != "" {
		err = errors.Join(err, r.images.Unmount(containerID))
	}
	return p, err
}

func (r *shimRunner) launch(ctx context.Context, dir, containerID string, req *hostapi.StartRequest, t *oci.Task, group *cgroup.Group, runtime oci.Found) (proc, error) {
	r.mu.Lock()
	shimPath := r.shim
	r.mu.Unlock()
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
		r.at, r.found, r.tried = time.Time{}, nil, map[string]trial{}
		r.mu.Unlock()
		return nil, err
	}
	return shimProc{p, r.images, filepath.Base(dir)}, nil
}

// Attach implements runner.
func (r *shimRunner) Attach(dir string) (proc, error) {
	p, err := shim.Attach(dir)
	if err != nil {
		return nil, err
	}
	return shimProc{p, r.images, filepath.Base(dir)}, nil
}

// Discard implements runner.
func (r *shimRunner) Discard(dir string) error {
	err := oci.RemoveBundle(filepath.Join(dir, shim.BundleDir))
	if r.images != nil {
		err = errors.Join(err, r.images.Unmount(filepath.Base(dir)))
	}
	return err
}

// shimProc adds to a shim's process what is read past it, and its root.
type shimProc struct {
	*shim.Proc
	images *image.Store // may be nil
	id     string       // the container's
}

// Cleanup implements proc.
func (p shimProc) Cleanup(ctx context.Context) error {
	if err := p.Proc.Cleanup(ctx); err != nil || p.images == nil {
		return err
	}
	return p.images.Unmount(p.id)
}

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
