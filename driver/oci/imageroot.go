package oci

import "github.com/opencontainers/runtime-spec/specs-go"

// mounts are those of a task on an image's root, before its own.
func (r *Root) mounts() []specs.Mount {
	sys := specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}}
	if r.Sys != "" {
		// A sysfs belongs to the network namespace, which is not the task's own: in
		// a user namespace it can't be mounted, but bound.
		sys = specs.Mount{Destination: "/sys", Type: "bind", Source: r.Sys, Options: []string{"bind", "nosuid", "noexec", "nodev", "ro"}}
	}
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		sys,
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
	}
}

// apply makes the spec one of a task on this root.
func (r *Root) apply(s *specs.Spec) {
	s.Root = &specs.Root{Path: r.Dir, Readonly: r.ReadOnly}
	if r.FirstID == 0 {
		return
	}
	m := []specs.LinuxIDMapping{{ContainerID: 0, HostID: r.FirstID, Size: r.IDs}}
	s.Linux.UIDMappings, s.Linux.GIDMappings = m, m
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
}
