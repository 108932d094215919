package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Frozen says whether the group is, or is being, frozen.
func (g *Group) Frozen() (bool, error) {
	dir, file, on := g.in(g.host.unified), "cgroup.freeze", "1\n"
	if g.host.unified == "" {
		dir, file, on = g.controller("freezer"), "freezer.state", "FROZEN\n"
	}
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return false, fmt.Errorf("look whether %q is frozen: %w", g.id, err)
	}
	return string(b) == on || string(b) == "FREEZING\n", nil
}

// FrozenFor is how long the group has been frozen in all, by the kernel's own
// account (Linux 6.18). nil: it keeps none.
func (g *Group) FrozenFor() *time.Duration {
	if g.host.unified == "" {
		return nil
	}
	us := readKeyed(g.in(g.host.unified), "cgroup.stat.local", "frozen_usec")
	if us == nil {
		return nil
	}
	d := time.Duration(*us) * time.Microsecond
	return &d
}
