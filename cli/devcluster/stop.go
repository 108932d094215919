package devcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/nomad/api"
)

// stopTimeout bounds the whole of Stop.
const stopTimeout = 40 * time.Second

// Stop ends everything that the cluster started: jobs, tasks, agents, hostd
// processes, then mounts and cgroups that Nomad leaves behind. It removes no
// files. It is safe to call on a cluster that started only in part.
func (c *Cluster) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	var errs []error
	if c.Nomad != nil {
		errs = append(errs, c.stopJobs(ctx))
	}
	for _, h := range c.Hosts {
		errs = append(errs, h.stop(ctx))
	}
	if c.Nomad != nil {
		errs = append(errs, c.Nomad.Stop(10*time.Second))
	}
	for _, s := range c.Servers {
		if s.Process != nil {
			errs = append(errs, s.Stop(10*time.Second))
		}
	}
	errs = append(errs, killBelow(c.cfg.Dir), unmountBelow(c.cfg.Dir), c.removeCgroups())
	return errors.Join(errs...)
}

// stopJobs deregisters every job and waits until no allocation runs, so that
// tasks end the way Nomad ends them.
func (c *Cluster) stopJobs(ctx context.Context) error {
	q := (&api.QueryOptions{Namespace: api.AllNamespacesNamespace}).WithContext(ctx)
	jobs, _, err := c.NomadAPI.Jobs().List(q)
	if err != nil {
		return nil // Nomad is not up: nothing runs through it
	}
	for _, j := range jobs {
		w := (&api.WriteOptions{Namespace: j.Namespace}).WithContext(ctx)
		if _, _, err := c.NomadAPI.Jobs().Deregister(j.ID, false, w); err != nil {
			return fmt.Errorf("stop job %s: %w", j.ID, err)
		}
	}
	return poll(ctx, "allocations to end", func() error {
		allocs, _, err := c.NomadAPI.Allocations().List(q)
		if err != nil {
			return err
		}
		for _, a := range allocs {
			if a.ClientStatus == api.AllocClientStatusRunning {
				return fmt.Errorf("allocation %s still runs", a.ID)
			}
		}
		return nil
	})
}

// stop ends the host's agent, then its hostd with the tasks that it still has.
func (h *Host) stop(ctx context.Context) error {
	var errs []error
	if h.Agent != nil {
		errs = append(errs, h.Agent.Stop(15*time.Second))
	}
	hostd := h.Hostd()
	info, err := hostd.Host(ctx)
	if err != nil {
		return errors.Join(errs...) // hostd is not running
	}
	tasks, err := hostd.Tasks(ctx)
	errs = append(errs, err)
	for _, t := range tasks {
		errs = append(errs, hostd.Destroy(ctx, t.ID, true))
	}
	if err := syscall.Kill(info.Pid, syscall.SIGTERM); err != nil {
		errs = append(errs, fmt.Errorf("stop hostd of %s: %w", h.Name, err))
	}
	errs = append(errs, poll(ctx, "hostd of "+h.Name+" to end", func() error {
		if syscall.Kill(info.Pid, 0) == nil {
			return fmt.Errorf("process %d is alive", info.Pid)
		}
		return nil
	}))
	return errors.Join(errs...)
}

func poll(ctx context.Context, what string, check func() error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, err)
		}
	}
}

// unmountBelow takes down the mounts that Nomad leaves in an allocation's
// directory (its secrets are a tmpfs) when its client ends before it collected
// them.
func unmountBelow(dir string) error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var points []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			points = append(points, f[4])
		}
	}
	// Inner mounts first.
	sort.Sort(sort.Reverse(sort.StringSlice(points)))
	var errs []error
	for _, p := range points {
		if err := syscall.Unmount(p, syscall.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

// cgroupParents are the directories in which Nomad and hostd keep theirs, in
// whatever hierarchies this machine has.
func cgroupParents() []string {
	var all []string
	for _, name := range []string{"nomad", "nomad.slice", "joule"} {
		for _, pattern := range []string{"/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name} {
			found, _ := filepath.Glob(pattern)
			all = append(all, found...)
		}
	}
	return all
}

func existingCgroups() []string { return cgroupParents() }

// removeCgroups removes the parents, as far as they are empty. Nomad's own that
// were there when we started stay while another agent runs on this machine: it
// keeps empty ones below that it needs.
func (c *Cluster) removeCgroups() error {
	before := map[string]bool{}
	if otherAgents() {
		for _, p := range c.cgroups {
			before[p] = filepath.Base(p) != "joule"
		}
	}
	for _, p := range cgroupParents() {
		if before[p] {
			continue
		}
		var dirs []string
		err := filepath.WalkDir(p, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for i := len(dirs) - 1; i >= 0; i-- {
			if filepath.Base(p) == "joule" && dirs[i] != p {
				continue // a task's: hostd removes it
			}
			if err := os.Remove(dirs[i]); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.EBUSY) {
				return err
			}
		}
	}
	return nil
}

// otherAgents reports whether a Nomad agent runs on this machine. Ours have
// ended.
func otherAgents() bool {
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		b, err := os.ReadFile(p)
		if err != nil {
			continue // it has ended meanwhile
		}
		args := strings.Split(string(b), "\x00")
		if len(args) > 1 && filepath.Base(args[0]) == "nomad" && args[1] == "agent" {
			return true
		}
	}
	return false
}
