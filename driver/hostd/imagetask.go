package hostd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/joulecloud/joule/driver/cdi"
	"github.com/joulecloud/joule/driver/cgroup"
	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/image"
	"github.com/joulecloud/joule/driver/oci"
)

// Check implements runner.
func (r *shimRunner) Check(req *hostapi.StartRequest, containerID string) error {
	t, _, err := r.ociTask(req, containerID)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), openWait)
	defer cancel()
	_, err = r.choose(ctx, req.Runtime)
	errs := []error{err, r.cfg.GPU.checkDevices(req.Devices)}
	if req.Image != "" {
		errs = append(errs, r.checkImage(req))
		// What the image says is not known yet.
		t.Args = append([]string{"the image's"}, t.Args...)
		t.Root = &oci.Root{}
	}
	return errors.Join(append(errs, t.Validate())...)
}

func (r *shimRunner) checkImage(req *hostapi.StartRequest) error {
	if r.images == nil {
		return fmt.Errorf("image: this host can't run images now: %w", r.imagesErr)
	}
	ref, err := image.ParseRef(req.Image)
	if err != nil {
		return err
	}
	return r.images.Check(ref)
}

// ociTask is the request in the words of package oci. What an image decides is
// left to prepare.
func (r *shimRunner) ociTask(req *hostapi.StartRequest, containerID string) (*oci.Task, *cgroup.Group, error) {
	host, err := cgroup.Detect(cgroup.DefaultRoot)
	if err != nil {
		return nil, nil, err
	}
	group, err := host.Group(containerID)
	if err != nil {
		return nil, nil, err
	}
	iso := &r.cfg.Isolation
	t := &oci.Task{
		Env:         req.Env,
		User:        req.User,
		WorkDir:     req.WorkDir,
		Hostname:    req.Hostname,
		NetworkPath: req.NetworkPath,
		NetworkNone: req.NetworkNone,
		CgroupPath:  group.OCIPath(),
		CPUShares:   uint64(max(req.CPUShares, 0)),
		MemoryBytes: max(req.MemoryMiB, req.MemoryMax) << 20,
		NoSwap:      host.LimitsSwap(),
		OOMGroup:    host.Mode == cgroup.V2,
		PidsMax:     iso.PidsMax,
		Edit:        cdi.Dirs(r.cfg.GPU.CDIDirs).Edit(cdiNames(req.Devices)),
	}
	if req.MemoryMax > req.MemoryMiB {
		t.MemorySoft = req.MemoryMiB << 20
	}
	if req.Command != "" {
		t.Args = append([]string{req.Command}, req.Args...)
	} else {
		t.Args = req.Args
	}
	var errs []error
	if req.CPUHardLimit || iso.CPUHardLimit {
		if t.CPUMilli = req.CPUMilli; t.CPUMilli == 0 {
			errs = append(errs, errors.New("cpu_hard_limit: Nomad doesn't say how much CPU the task has"))
		}
	}
	if req.PidsLimit > iso.PidsMax {
		errs = append(errs, fmt.Errorf("pids_limit: must be at most this host's %d (got %d)", iso.PidsMax, req.PidsLimit))
	} else if req.PidsLimit > 0 {
		t.PidsMax = req.PidsLimit
	}
	t.Capabilities, err = oci.Capabilities(req.CapAdd, req.CapDrop, iso.CapAllow)
	errs = append(errs, err)
	for name, text := range req.Ulimits {
		u, err := oci.ParseUlimit(name, text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		t.Ulimits = append(t.Ulimits, u)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, nil, err
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

// noteEvery is how often a customer hears of a pull that takes long.
const noteEvery = 30 * time.Second

// prepare gets the image and makes the task's root of it.
func (r *shimRunner) prepare(ctx context.Context, dir, containerID string, req *hostapi.StartRequest, t *oci.Task, rt oci.Found, note func(string)) error {
	if r.images == nil {
		return r.checkImage(req)
	}
	im, err := r.pull(ctx, req, note)
	if err != nil {
		return err
	}
	defer r.images.Release(im)
	fromImage(t, req, &im.Config)
	if len(t.Args) == 0 {
		return fmt.Errorf("command: must not be empty: image %q has no command of its own", req.Image)
	}
	if err := writeImageFile(dir, imageFile{ID: im.ID, StopSignal: im.Config.StopSignal}); err != nil {
		return err
	}
	t.Mounts = append(t.Mounts, networkFiles(t)...)
	opt := image.RootOptions{MapIDs: r.mapsIDs(rt) && !rt.OwnKernel}
	if opt.MapIDs {
		for _, m := range t.Mounts {
			opt.Binds = append(opt.Binds, image.Bind{Source: m.Source, ReadOnly: m.ReadOnly})
		}
		opt.Binds = append(opt.Binds, image.Bind{Source: "/sys", Plain: true, ReadOnly: true})
	}
	root, err := r.images.Mount(im, containerID, opt)
	if err != nil {
		return err
	}
	t.Root = &oci.Root{Dir: root.Dir, ReadOnly: req.ReadOnlyRoot}
	if !opt.MapIDs {
		return nil
	}
	t.Root.FirstID, t.Root.IDs = root.IDs.First, image.IDsPerTask
	last := len(root.Binds) - 1
	for i, at := range root.Binds[:last] {
		t.Mounts[i].Source = at
	}
	t.Root.Sys = root.Binds[last]
	if t.NetworkPath != "" {
		// The namespace isn't the task's own, so no capability of its own counts
		// there; as Docker has it, every port is open to it.
		return openLowPorts(t.NetworkPath)
	}
	return nil
}

// pull gets the image within its time.
func (r *shimRunner) pull(ctx context.Context, req *hostapi.StartRequest, note func(string)) (*image.Image, error) {
	ref, err := image.ParseRef(req.Image)
	if err != nil {
		return nil, err
	}
	timeout := time.Duration(req.PullMs) * time.Millisecond
	if timeout == 0 {
		timeout = hostapi.PullDefault
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("it wasn't here after %v (image_pull_timeout)", timeout))
	defer cancel()
	began := time.Now()
	var said time.Time
	im, err := r.images.Pull(ctx, image.Request{Ref: ref, TaskDir: filepath.Dir(req.LocalDir), Progress: func(p image.Progress) {
		// Called by one goroutine at a time.
		if said.IsZero() {
			note(fmt.Sprintf("Pulling image %s: %d layers, %s", ref, p.Layers, mib(p.Bytes)))
			said = time.Now()
		} else if time.Since(said) > noteEvery {
			note(fmt.Sprintf("Pulling image %s: %d of %d layers, %s of %s", ref, p.LayersDone, p.Layers, mib(p.BytesDone), mib(p.Bytes)))
			said = time.Now()
		}
	}})
	switch {
	case err != nil:
		return nil, err
	case im.Stale != nil:
		note(fmt.Sprintf("Image %s is the one last pulled, %s: its registry can't be asked: %v", ref, im.ID, im.Stale))
	case im.Fetched.Layers > 0:
		note(fmt.Sprintf("Image %s pulled in %v: %s, %s", ref, time.Since(began).Round(time.Millisecond), mib(im.Fetched.Bytes), im.ID))
	default:
		note(fmt.Sprintf("Image %s was in the host's cache: %s", ref, im.ID))
	}
	return im, nil
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// fromImage fills in what the job leaves to the image.
func fromImage(t *oci.Task, req *hostapi.StartRequest, cfg *v1.Config) {
	entrypoint, command := cfg.Entrypoint, cfg.Cmd
	if req.Entrypoint != nil {
		entrypoint, command = req.Entrypoint, nil
	}
	if len(t.Args) > 0 {
		command = t.Args
	}
	t.Args = append(append([]string{}, entrypoint...), command...)
	env := map[string]string{}
	for _, kv := range cfg.Env {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	for k, v := range req.Env {
		env[k] = v
	}
	t.Env = env
	if t.User == "" {
		t.User = cfg.User
	}
	if t.WorkDir == "" {
		t.WorkDir = path.Join("/", cfg.WorkingDir)
	}
}

// networkFiles are the host's own, for a task that Nomad made none for.
func networkFiles(t *oci.Task) []oci.Mount {
	has := func(target string) bool {
		for _, m := range t.Mounts {
			if path.Clean(m.Target) == target {
				return true
			}
		}
		return false
	}
	var out []oci.Mount
	add := func(target string, sources ...string) {
		for _, s := range sources {
			if real, err := filepath.EvalSymlinks(s); err == nil && !has(target) {
				out = append(out, oci.Mount{Source: real, Target: target, ReadOnly: true})
				return
			}
		}
	}
	switch {
	case t.NetworkNone:
		return nil
	case t.NetworkPath == "":
		add("/etc/hosts", "/etc/hosts")
		add("/etc/resolv.conf", "/etc/resolv.conf")
		return out
	}
	// A resolver on the host's loopback isn't there in another namespace.
	if b, err := os.ReadFile("/etc/resolv.conf"); err == nil && onlyLoopback(string(b)) {
		add("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf", "/etc/resolv.conf")
		return out
	}
	add("/etc/resolv.conf", "/etc/resolv.conf")
	return out
}

func onlyLoopback(resolvConf string) bool {
	any := false
	for line := range strings.Lines(resolvConf) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			if ip := net.ParseIP(f[1]); ip == nil || !ip.IsLoopback() {
				return false
			}
			any = true
		}
	}
	return any
}

// openLowPorts lets every user of a network namespace listen on every port.
func openLowPorts(namespace string) error {
	const knob = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
	ns, err := os.Open(namespace)
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	defer ns.Close()
	done := make(chan error, 1)
	go func() {
		// The thread ends with the goroutine: it never goes back.
		runtime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("network: join %q: %w", namespace, err)
			return
		}
		done <- os.WriteFile(knob, []byte("0"), 0)
	}()
	return <-done
}

// imageFileName says in a task's directory what it was made of.
const imageFileName = "image.json"

type imageFile struct {
	ID         string `json:"id"`
	StopSignal string `json:"stop_signal,omitempty"`
}

func writeImageFile(dir string, f imageFile) error {
	b, err := json.Marshal(f)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, imageFileName), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", imageFileName, err)
	}
	return nil
}

// stopSignal is the image's own, for a stop that names none; "" where it has
// none that can be understood.
func stopSignal(dir string) string {
	var f imageFile
	b, err := os.ReadFile(filepath.Join(dir, imageFileName))
	if err != nil || json.Unmarshal(b, &f) != nil {
		return ""
	}
	if _, err := parseSignal(f.StopSignal); err != nil {
		return ""
	}
	return f.StopSignal
}
