// Package cdi gives devices to a task by the Container Device Interface: spec
// files in a few directories, as nvidia-ctk writes them, say what of the host a
// named device needs in a container.
package cdi

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/joulecloud/joule/driver/gpu"
)

// DefaultDirs are where spec files are by convention; a later directory wins.
func DefaultDirs() []string { return []string{"/etc/cdi", "/var/run/cdi"} }

// Dirs are the directories of a host. The files are read anew for each task.
type Dirs []string

func (d Dirs) open() (*cdi.Cache, error) {
	c, err := cdi.NewCache(cdi.WithSpecDirs(d...), cdi.WithAutoRefresh(false))
	if err != nil {
		return nil, fmt.Errorf("read CDI specs in %q: %w", []string(d), err)
	}
	return c, nil
}

// Check reports every name that no spec file describes, and what is wrong with
// the files then.
func (d Dirs) Check(names []string) error {
	if len(names) == 0 {
		return nil
	}
	c, err := d.open()
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range names {
		if c.GetDevice(n) == nil {
			errs = append(errs, fmt.Errorf("no CDI spec in %q describes %s", []string(d), n))
		}
	}
	if len(errs) > 0 {
		faulty := c.GetErrors()
		for _, file := range slices.Sorted(maps.Keys(faulty)) {
			errs = append(errs, fmt.Errorf("CDI spec %q: %w", file, errors.Join(faulty[file]...)))
		}
	}
	return errors.Join(errs...)
}

// cudaImageEnv marks images that NVIDIA's own runtime gives every GPU unasked.
const cudaImageEnv = "CUDA_VERSION="

// Edit returns the change of a task's spec that gives it the devices and no
// other: variables by which an image or a job asks NVIDIA's container tools for
// devices are dropped first.
func (d Dirs) Edit(names []string) func(*specs.Spec) error {
	return func(s *specs.Spec) error {
		dropped := false
		if s.Process != nil {
			s.Process.Env = slices.DeleteFunc(s.Process.Env, func(kv string) bool {
				steers := strings.HasPrefix(kv, gpu.EnvPrefix)
				dropped = dropped || steers || strings.HasPrefix(kv, cudaImageEnv)
				return steers
			})
		}
		if len(names) > 0 {
			if err := d.Check(names); err != nil {
				return err
			}
			c, err := d.open()
			if err != nil {
				return err
			}
			if _, err := c.InjectDevices(s, names...); err != nil {
				return fmt.Errorf("give the task its devices: %w", err)
			}
		}
		if s.Process == nil || len(names) == 0 && !dropped {
			return nil
		}
		// A runtime that looks at the variable itself must add nothing.
		const none = gpu.VisibleEnv + "="
		if !slices.ContainsFunc(s.Process.Env, func(kv string) bool { return strings.HasPrefix(kv, none) }) {
			s.Process.Env = append(s.Process.Env, none+"void")
		}
		return nil
	}
}
