package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// Found is a runtime that the supplier named, and what became of it here.
type Found struct {
	Name, Path, Version string
	Err                 error // why it can't be used; nil: it can
	// What it can do for isolation.
	Seccomp       bool
	UserNamespace bool
	IDsErr        error // why it has no user namespace
	// OwnKernel: tasks don't see the host's kernel (gVisor).
	OwnKernel bool
}

// Probe says how runtimes are tried: a container is made of Program, and removed
// again before it starts. So a runtime that refuses this host is found out
// before a task needs it.
type Probe struct {
	Dir        string // made and removed; every user may pass through its parents
	Program    string // any program; it isn't run
	CgroupPath string // of a cgroup that the prober removes
	FirstID    uint32 // see Root
	IDs        uint32
	// BindSys mounts what tasks in user namespaces get as /sys.
	BindSys func(at string) error
}

// The times that a runtime gets for an answer.
const (
	versionTimeout = 10 * time.Second
	probeTimeout   = 20 * time.Second
)

// FindRuntime looks for a runtime by name, on PATH, or by absolute path, asks
// what it is, and tries it. probe nil: it isn't tried.
func FindRuntime(ctx context.Context, name string, probe *Probe) Found {
	f := Found{Name: filepath.Base(name)}
	f.Err = f.look(ctx, name, probe)
	return f
}

func (f *Found) look(ctx context.Context, name string, probe *Probe) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return errors.Unwrap(err)
	}
	if f.Path, err = filepath.Abs(path); err != nil {
		return err
	}
	vctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	out, err := exec.CommandContext(vctx, f.Path, "--version").Output()
	if err != nil {
		return fmt.Errorf("ask %s for its version: %w", f.Path, err)
	}
	if f.Version = parseVersion(out); f.Version == "" {
		return fmt.Errorf("ask %s for its version: got %q", f.Path, strings.TrimSpace(string(out)))
	}
	f.OwnKernel = f.Name == "runsc"
	f.Seccomp = f.OwnKernel || strings.Contains(string(out), "+SECCOMP")
	// crun says it in its version, runc has a command for it.
	if out, err := exec.CommandContext(vctx, f.Path, "features").Output(); err == nil {
		var feat features.Features
		if json.Unmarshal(out, &feat) == nil && feat.Linux != nil && feat.Linux.Seccomp != nil && feat.Linux.Seccomp.Enabled != nil {
			f.Seccomp = *feat.Linux.Seccomp.Enabled
		}
	}
	if probe == nil {
		return nil
	}
	if probe.FirstID > 0 && !f.OwnKernel {
		if f.IDsErr = f.try(ctx, *probe); f.IDsErr == nil {
			f.UserNamespace = true
			return nil
		}
	}
	plain := *probe
	plain.FirstID = 0
	return f.try(ctx, plain)
}

// try makes a container and removes it.
func (f *Found) try(ctx context.Context, p Probe) (err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	defer func() {
		if uerr := unmountBelow(p.Dir); uerr != nil {
			err = errors.Join(err, uerr) // nothing is removed that may be the host's
			return
		}
		err = errors.Join(err, os.RemoveAll(p.Dir))
	}()
	root, state := filepath.Join(p.Dir, "root"), filepath.Join(p.Dir, "state")
	if err := errors.Join(os.MkdirAll(p.Dir, 0o711), os.Chmod(p.Dir, 0o711), os.Mkdir(root, 0o755), os.Chmod(root, 0o755), os.Chown(root, int(p.FirstID), int(p.FirstID)),
		os.WriteFile(filepath.Join(root, "probe"), nil, 0o755)); err != nil {
		return fmt.Errorf("prepare a container to try %s with: %w", f.Name, err)
	}
	task := &Task{
		Args: []string{"/probe"}, CgroupPath: p.CgroupPath, WorkDir: "/", MemoryBytes: 64 << 20, PidsMax: 16,
		Root:   &Root{Dir: root, FirstID: p.FirstID, IDs: p.IDs},
		Mounts: []Mount{{Source: p.Program, Target: "/probe", ReadOnly: true}},
	}
	if f.OwnKernel { // which has threads and memory of its own
		task.MemoryBytes, task.PidsMax = 512<<20, 512
	}
	if p.FirstID > 0 {
		task.Root.Sys = filepath.Join(p.Dir, "sys")
		if err := errors.Join(os.Mkdir(task.Root.Sys, 0o755), p.BindSys(task.Root.Sys)); err != nil {
			return fmt.Errorf("prepare a container to try %s with: %w", f.Name, err)
		}
	}
	bundle := filepath.Join(p.Dir, "bundle")
	if err := (Host{Root: "/"}).WriteBundle(bundle, task); err != nil {
		return fmt.Errorf("prepare a container to try %s with: %w", f.Name, err)
	}
	id := filepath.Base(p.CgroupPath)
	r := NewRunc(f.Path, state)
	err = r.Create(ctx, CreateOptions{ID: id, Bundle: bundle, PidFile: filepath.Join(p.Dir, "pid"), LogFile: filepath.Join(p.Dir, "log")})
	if err != nil {
		err = fmt.Errorf("it refuses this host: %w", err)
	}
	dctx, cancelDelete := context.WithTimeout(context.WithoutCancel(ctx), probeTimeout)
	defer cancelDelete()
	if derr := r.Delete(dctx, id, true); err == nil && derr != nil {
		err = derr
	}
	return err
}
