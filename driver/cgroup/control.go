package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// pollEvery is how often v1 is asked what it has no event for.
const pollEvery = 5 * time.Millisecond

// Freeze stops the task's processes where they are and returns once the kernel
// says that all of them are stopped. When ctx ends first the group is thawed
// again.
func (g *Group) Freeze(ctx context.Context) error {
	if g.host.unified == "" {
		return g.freezeV1(ctx)
	}
	dir := g.in(g.host.unified)
	if err := write(dir, "cgroup.freeze", "1"); err != nil {
		return fmt.Errorf("freeze %q: %w", g.id, err)
	}
	if err := waitEvent(ctx, dir, "frozen", 1); err != nil {
		return errors.Join(fmt.Errorf("freeze %q: %w", g.id, err), g.Thaw())
	}
	return nil
}

// Thaw lets the task's processes run. It does not wait: they run within 0.1 ms.
func (g *Group) Thaw() error {
	var err error
	if g.host.unified != "" {
		err = write(g.in(g.host.unified), "cgroup.freeze", "0")
	} else {
		err = write(g.controller("freezer"), "freezer.state", "THAWED")
	}
	if err != nil {
		return fmt.Errorf("thaw %q: %w", g.id, err)
	}
	return nil
}

// freezeV1 writes again until it holds: processes that fork meanwhile can leave
// a v1 freezer halfway.
func (g *Group) freezeV1(ctx context.Context) error {
	dir := g.controller("freezer")
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if err := write(dir, "freezer.state", "FROZEN"); err != nil {
			return fmt.Errorf("freeze %q: %w", g.id, err)
		}
		b, err := os.ReadFile(filepath.Join(dir, "freezer.state"))
		if err != nil {
			return fmt.Errorf("freeze %q: %w", g.id, err)
		}
		if string(b) == "FROZEN\n" {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("freeze %q: %w", g.id, ctx.Err()), g.Thaw())
		case <-tick.C:
		}
	}
}

// Kill sends SIGKILL to every process of the group, those that fork meanwhile
// too. A group that does not exist has nothing to kill. It does not wait for
// their end: WaitEmpty does.
func (g *Group) Kill() error {
	if g.host.unified != "" {
		err := write(g.in(g.host.unified), "cgroup.kill", "1")
		if err == nil || gone(err) {
			// On a hybrid host a runtime may have left processes in a v1 cgroup
			// only; the loop below finds them.
			if g.host.Mode == V2 {
				return nil
			}
		}
	}
	var errs []error
	for _, dir := range g.dirs() {
		errs = append(errs, killEach(dir))
	}
	if g.host.unified == "" {
		// A frozen v1 cgroup's processes die only once they are thawed.
		if err := g.Thaw(); err != nil && !gone(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// killRounds bounds the race with processes that fork faster than they are
// killed, where there is no cgroup.kill.
const killRounds = 20

func killEach(dir string) error {
	for range killRounds {
		dirs, err := subtree(dir)
		if err != nil {
			return err
		}
		n := 0
		for _, d := range dirs {
			pids, err := Pids(d)
			if err != nil && !gone(err) {
				return err
			}
			for _, pid := range pids {
				if err := unix.Kill(pid, unix.SIGKILL); err == nil && !dying(pid) {
					n++
				}
			}
		}
		if n == 0 {
			return nil
		}
	}
	return nil
}

// dying reports whether a process is a zombie, or gone.
func dying(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	for i := len(b) - 1; i > 0; i-- { // the name in parentheses may hold anything
		if b[i] == ')' {
			return i+2 < len(b) && (b[i+2] == 'Z' || b[i+2] == 'X')
		}
	}
	return false
}

// WaitEmpty returns once no process of the group is alive.
func (g *Group) WaitEmpty(ctx context.Context) error {
	if g.host.unified != "" {
		err := waitEvent(ctx, g.in(g.host.unified), "populated", 0)
		if err != nil && !gone(err) {
			return fmt.Errorf("wait until %q is empty: %w", g.id, err)
		}
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		n := 0
		for _, top := range g.dirs() {
			dirs, err := subtree(top)
			if err != nil {
				return err
			}
			for _, d := range dirs {
				pids, err := Pids(d)
				if err != nil && !gone(err) {
					return err
				}
				n += len(pids)
			}
		}
		if n == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %q is empty (%d processes): %w", g.id, n, ctx.Err())
		case <-tick.C:
		}
	}
}

// Remove removes the group's cgroups, and those below them, in every hierarchy.
// They must be empty; the kernel may take a moment to see that, for which it
// waits. That there is none is no error.
func (g *Group) Remove(ctx context.Context) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := g.removeOnce()
		if err == nil || !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-tick.C:
		}
	}
}

func (g *Group) removeOnce() error {
	var errs []error
	for _, top := range g.dirs() {
		dirs, err := subtree(top)
		if err != nil {
			return err
		}
		for _, d := range dirs {
			if err := unix.Rmdir(d); err != nil && !gone(err) {
				errs = append(errs, fmt.Errorf("remove cgroup %q: %w", d, err))
			}
		}
	}
	return errors.Join(errs...)
}

func write(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// waitEvent waits until a key of the v2 cgroup's cgroup.events has a value. The
// kernel wakes the wait.
func waitEvent(ctx context.Context, dir, key string, want uint64) error {
	f, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		return err
	}
	defer f.Close()
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("make eventfd: %w", err)
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_, _ = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // a full counter wakes as well
	})
	defer func() {
		if !stop() {
			<-woken
		}
		_ = unix.Close(wake)
	}()
	fds := []unix.PollFd{
		{Fd: int32(f.Fd()), Events: unix.POLLPRI},
		{Fd: int32(wake), Events: unix.POLLIN},
	}
	var buf [256]byte
	for {
		n, err := unix.Pread(int(f.Fd()), buf[:], 0)
		if err != nil {
			return err
		}
		if v, ok := keyed(buf[:n], key); !ok {
			return fmt.Errorf("parse cgroup.events: no %s", key)
		} else if v == want {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll cgroup.events: %w", err)
		}
	}
}
