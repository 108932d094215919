package hostd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/joulecloud/joule/driver/cgroup"
	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/image"
	"github.com/joulecloud/joule/driver/oci"
)

// trial is what became of a runtime when it was tried.
type trial struct {
	binary string // which file it was
	at     time.Time
	found  oci.Found
}

// faultMaxAge is how long a runtime that failed isn't tried again: what it
// refuses about this host may have changed.
const faultMaxAge = time.Minute

// try finds out whether a runtime works here. One that does isn't tried again
// before its binary is another. The caller holds mu.
func (r *shimRunner) try(ctx context.Context, name string, host *cgroup.Host) oci.Found {
	binary := "absent"
	if path, err := exec.LookPath(name); err == nil {
		if info, err := os.Stat(path); err == nil {
			binary = fmt.Sprint(path, info.ModTime().UnixNano(), info.Size())
		}
	}
	t, ok := r.tried[name]
	if !ok || t.binary != binary || t.found.Err != nil && time.Since(t.at) > faultMaxAge {
		t = trial{binary, time.Now(), r.probe(ctx, name, host)}
		if ctx.Err() == nil {
			r.tried[name] = t
		}
	}
	f := t.found
	if f.Err == nil {
		f.Err = r.demands(f)
	}
	return f
}

// demands compares a runtime that works with what the supplier requires.
func (r *shimRunner) demands(f oci.Found) error {
	var errs []error
	if r.cfg.Isolation.Seccomp == demandRequired && !f.Seccomp {
		errs = append(errs, errors.New("it is built without seccomp, and isolation.seccomp is \"required\""))
	}
	if r.cfg.Isolation.UserNamespace == demandRequired && !r.mapsIDs(f) && !f.OwnKernel {
		why := r.idsErr
		if why == nil {
			why = f.IDsErr
		}
		errs = append(errs, fmt.Errorf("tasks can't have user namespaces, and isolation.user_namespace is \"required\": %w", why))
	}
	return errors.Join(errs...)
}

// mapsIDs says whether tasks with an image get a user namespace.
func (r *shimRunner) mapsIDs(f oci.Found) bool { return f.UserNamespace && r.idsErr == nil }

// probe tries a runtime with a container that never starts.
func (r *shimRunner) probe(ctx context.Context, name string, host *cgroup.Host) oci.Found {
	if host == nil || r.shim == "" || os.Geteuid() != 0 {
		return oci.FindRuntime(ctx, name, nil) // nothing runs here anyhow
	}
	group, err := host.Group("probe-" + hostapi.ContainerID(r.cfg.DataDir + name)[:12])
	if err != nil {
		return oci.Found{Name: filepath.Base(name), Err: err}
	}
	p := &oci.Probe{Dir: filepath.Join(r.cfg.runDir(), "probe"), Program: r.shim, CgroupPath: group.OCIPath(), BindSys: image.BindSys}
	if r.idsErr == nil {
		p.FirstID, p.IDs = image.ProbeIDs, image.IDsPerTask
	}
	f := oci.FindRuntime(ctx, name, p)
	removeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupWait)
	defer cancel()
	if err := errors.Join(group.Kill(), group.WaitEmpty(removeCtx), group.Remove(removeCtx)); err != nil && f.Err == nil {
		f.Err = fmt.Errorf("what is left of trying it can't be removed: %w", err)
	}
	return f
}

// choose returns the runtime that a task asks for; "" is the supplier's first.
func (r *shimRunner) choose(ctx context.Context, name string) (oci.Found, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.found) == 0 || r.shim == "" {
		r.look(ctx)
	}
	if len(r.found) == 0 || r.shim == "" {
		return oci.Found{}, fmt.Errorf("this host can't run tasks: %v", r.info.Problems)
	}
	if name == "" {
		return r.found[0], nil
	}
	var names []string
	for _, f := range r.found {
		if f.Name == name {
			return f, nil
		}
		names = append(names, f.Name)
	}
	if why := r.info.Faults[name]; why != "" {
		return oci.Found{}, fmt.Errorf("runtime: %q doesn't work on this host: %s", name, why)
	}
	return oci.Found{}, fmt.Errorf("runtime: this host has %s (got %q)", strings.Join(names, ", "), name)
}
