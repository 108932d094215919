// Package cgroup makes, reads, freezes, kills and removes the cgroups of tasks
// on hosts of all three kinds: v2, hybrid (v1 controllers beside a v2 hierarchy
// without any) and v1.
//
// A task's cgroup is joule/<id> in every hierarchy. Where there is a v2
// hierarchy, its core files meter, freeze and kill, on a hybrid host too: they
// need no controller, and the v2 freezer thaws twenty times faster than v1's.
//
// A value that cannot be read is an error or nil, never 0.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// DefaultRoot is where a host mounts its cgroups.
const DefaultRoot = "/sys/fs/cgroup"

// Parent is the cgroup, in every hierarchy, below which tasks have theirs.
const Parent = "joule"

// Mode is a host's kind.
type Mode string

// The modes.
const (
	V2     Mode = "v2"
	Hybrid Mode = "hybrid"
	V1     Mode = "v1"
)

// ErrNoCgroups is returned when there is no cgroup hierarchy below a root.
var ErrNoCgroups = errors.New("no cgroup hierarchy is mounted there")

// Host knows where a host's hierarchies are. It is immutable.
type Host struct {
	Mode    Mode
	unified string            // the v2 hierarchy; "" on v1
	v1      map[string]string // controller → its hierarchy
	all     []string          // every hierarchy, without repeats
}

// Detect finds the hierarchies below root, DefaultRoot as a rule.
func Detect(root string) (*Host, error) {
	h := &Host{v1: map[string]string{}}
	if isFile(filepath.Join(root, "cgroup.controllers")) {
		h.Mode, h.unified, h.all = V2, root, []string{root}
		return h, nil
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	for _, e := range entries {
		// Symbolic links (cpu → cpu,cpuacct) repeat a hierarchy.
		dir := filepath.Join(root, e.Name())
		switch {
		case !e.IsDir():
		case e.Name() == "unified" && isFile(filepath.Join(dir, "cgroup.controllers")):
			h.unified = dir
			h.all = append(h.all, dir)
		case isFile(filepath.Join(dir, "cgroup.procs")):
			h.all = append(h.all, dir)
			for c := range strings.SplitSeq(e.Name(), ",") {
				h.v1[c] = dir
			}
		}
	}
	switch {
	case h.unified != "":
		h.Mode = Hybrid
	case h.v1["cpuacct"] != "":
		h.Mode = V1
	default:
		return nil, fmt.Errorf("detect cgroups below %q: %w", root, ErrNoCgroups)
	}
	return h, nil
}

// Controllers are those that the host offers, sorted.
func (h *Host) Controllers() []string {
	out := slices.Collect(maps.Keys(h.v1))
	out = slices.DeleteFunc(out, func(c string) bool { return c == "systemd" }) // a hierarchy without a controller
	if h.unified != "" {
		// Those that a v1 hierarchy has are not in it.
		if b, err := os.ReadFile(filepath.Join(h.unified, "cgroup.controllers")); err == nil {
			out = append(out, strings.Fields(string(b))...)
		}
	}
	slices.Sort(out)
	return out
}

func isFile(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular()
}

// Group returns the cgroups of the task id, which need not exist. The id is one
// path element.
func (h *Host) Group(id string) (*Group, error) {
	if id == "" || id == "." || id == ".." || strings.ContainsAny(id, "/\x00\n") {
		return nil, fmt.Errorf("name cgroup: id %q is not a file name", id)
	}
	return &Group{host: h, id: id}, nil
}

// Group is a task's cgroups in all hierarchies. It holds no file open and is
// safe for concurrent use.
type Group struct {
	host *Host
	id   string
}

// OCIPath is the group as an OCI spec's cgroupsPath.
func (g *Group) OCIPath() string { return "/" + Parent + "/" + g.id }

// CPUDir is the directory that meters the task's CPU: its cgroup in the v2
// hierarchy, on a v1 host that of cpuacct.
func (g *Group) CPUDir() string {
	if g.host.unified != "" {
		return g.in(g.host.unified)
	}
	return g.in(g.host.v1["cpuacct"])
}

func (g *Group) in(hierarchy string) string { return filepath.Join(hierarchy, Parent, g.id) }

// controller is the group's directory under a v1 controller; on v2, and for a
// controller that v1 doesn't have, the v2 one.
func (g *Group) controller(name string) string {
	if dir, ok := g.host.v1[name]; ok {
		return g.in(dir)
	}
	return g.in(g.host.unified)
}

// dirs are the group's directories that exist.
func (g *Group) dirs() []string {
	var out []string
	for _, h := range g.host.all {
		dir := g.in(h)
		if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
			out = append(out, dir)
		}
	}
	return out
}

// Exists reports whether the group exists in any hierarchy.
func (g *Group) Exists() bool { return len(g.dirs()) > 0 }

// Create makes the group where the CPU is metered; that it exists is no error.
// The OCI runtime makes the others.
func (g *Group) Create() error {
	if err := os.MkdirAll(g.CPUDir(), 0o755); err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	return nil
}

// CreateAll makes the group in every hierarchy; that it exists is no error.
func (g *Group) CreateAll() error {
	for _, h := range g.host.all {
		if err := os.MkdirAll(g.in(h), 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	return nil
}

// Add moves a process into the directory dir of a group, unless it is there.
func Add(dir string, pid int) error {
	pids, err := Pids(dir)
	if err != nil {
		return err
	}
	if slices.Contains(pids, pid) {
		return nil
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, pid), 0); err != nil {
		return fmt.Errorf("move process %d into cgroup: %w", pid, err)
	}
	return nil
}

// subtree lists dir and the cgroups below it, deepest first.
func subtree(dir string) ([]string, error) {
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.IsDir():
			out = append(out, path)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list cgroups: %w", err)
	}
	slices.Reverse(out)
	return out, nil
}

// Parents reports whether the parent of all tasks' cgroups is there, in any
// hierarchy.
func (h *Host) Parents() bool {
	return slices.ContainsFunc(h.all, func(dir string) bool {
		_, err := os.Stat(filepath.Join(dir, Parent))
		return err == nil
	})
}

// LimitsSwap says whether the kernel counts a cgroup's swap: where it doesn't,
// no limit can be set.
func (h *Host) LimitsSwap() bool {
	if dir, ok := h.v1["memory"]; ok {
		return isFile(filepath.Join(dir, "memory.memsw.limit_in_bytes"))
	}
	any, _ := filepath.Glob(filepath.Join(h.unified, "*", "memory.swap.max")) // the root has none
	return len(any) > 0
}

// Tidy removes the parent of all tasks' cgroups where it is empty.
func (h *Host) Tidy() {
	for _, dir := range h.all {
		_ = os.Remove(filepath.Join(dir, Parent)) // refused while there is a task
	}
}
