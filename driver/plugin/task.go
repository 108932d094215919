package plugin

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/joulecloud/joule/driver/hostapi"
)

// TaskConfig is the config block of a customer's task. MaxPrice and Budget are
// only checked here: settlement reads them from Nomad's own copy of the job, so
// that a host cannot change them.
type TaskConfig struct {
	// Without an image, Command is a program of the supplier's own root, where
	// that is allowed. With one, what is left out is the image's.
	Image        string            `codec:"image"`
	PullTimeout  string            `codec:"image_pull_timeout"` // "5m"
	Entrypoint   []string          `codec:"entrypoint"`         // nil: the image's
	Runtime      string            `codec:"runtime"`            // "": the supplier's first
	ReadOnlyRoot bool              `codec:"readonly_rootfs"`
	CapAdd       []string          `codec:"cap_add"`
	CapDrop      []string          `codec:"cap_drop"`
	Ulimit       map[string]string `codec:"ulimit"`       // "soft:hard"
	NetworkMode  string            `codec:"network_mode"` // "none"; "": the group's
	PidsLimit    int64             `codec:"pids_limit"`
	CPUHardLimit bool              `codec:"cpu_hard_limit"`

	Command  string    `codec:"command"`
	Args     []string  `codec:"args"`
	WorkDir  string    `codec:"work_dir"`
	Budget   string    `codec:"budget"` // USD for the whole job; "": no limit
	MaxPrice *MaxPrice `codec:"max_price"`
	Devices  []string  `codec:"devices"` // UUIDs of GPUs, where the supplier lets jobs name them
}

// MaxPrice is the dearest offer that a customer takes: USD per hour of each
// dimension; "": no limit there.
type MaxPrice struct {
	Base   string `codec:"base"`
	CPU    string `codec:"cpu"`
	GPU    string `codec:"gpu"`
	Memory string `codec:"memory"`
}

// Validate reports every fault at once, naming field and value.
func (c *TaskConfig) Validate() error {
	var faults []error
	if c.Image == "" {
		for _, f := range []struct {
			name string
			set  bool
		}{{"entrypoint", c.Entrypoint != nil}, {"image_pull_timeout", c.PullTimeout != ""}, {"readonly_rootfs", c.ReadOnlyRoot}} {
			if f.set {
				faults = append(faults, fmt.Errorf("%s: needs an image", f.name))
			}
		}
	}
	if _, err := c.pullTimeout(); err != nil {
		faults = append(faults, err)
	}
	if c.PidsLimit < 0 {
		faults = append(faults, fmt.Errorf("pids_limit: must not be negative (got %d)", c.PidsLimit))
	}
	for i, arg := range c.Entrypoint {
		if strings.ContainsRune(arg, 0) {
			faults = append(faults, fmt.Errorf("entrypoint[%d]: must not hold a NUL byte (got %q)", i, arg))
		}
	}
	if c.Image != "" && c.Command == "" {
		// The image's own command.
	} else if strings.TrimSpace(c.Command) == "" {
		faults = append(faults, fmt.Errorf("command: must not be empty (got %q)", c.Command))
	} else if strings.ContainsRune(c.Command, 0) {
		faults = append(faults, fmt.Errorf("command: must not hold a NUL byte (got %q)", c.Command))
	}
	for i, arg := range c.Args {
		if strings.ContainsRune(arg, 0) {
			faults = append(faults, fmt.Errorf("args[%d]: must not hold a NUL byte (got %q)", i, arg))
		}
	}
	if c.NetworkMode != "" && c.NetworkMode != "none" {
		faults = append(faults, fmt.Errorf("network_mode: must be \"none\" or left out, other networks are the group's (got %q)", c.NetworkMode))
	}
	if c.WorkDir != "" && !filepath.IsAbs(c.WorkDir) {
		faults = append(faults, fmt.Errorf("work_dir: must be absolute (got %q)", c.WorkDir))
	}
	amount := func(field, value string) {
		if err := checkUSD(value); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", field, err))
		}
	}
	amount("budget", c.Budget)
	if p := c.MaxPrice; p != nil {
		amount("max_price.base", p.Base)
		amount("max_price.cpu", p.CPU)
		amount("max_price.gpu", p.GPU)
		amount("max_price.memory", p.Memory)
	}
	return errors.Join(faults...)
}

// pullTimeoutMax bounds how long a lease is held for a task that isn't there yet.
const pullTimeoutMax = 2 * time.Hour

// pullTimeout is how long the image may take.
func (c *TaskConfig) pullTimeout() (time.Duration, error) {
	if c.PullTimeout == "" {
		return hostapi.PullDefault, nil
	}
	d, err := time.ParseDuration(c.PullTimeout)
	if err != nil || d <= 0 || d > pullTimeoutMax {
		return 0, fmt.Errorf("image_pull_timeout: must be a duration up to %v such as \"5m\" (got %q)", pullTimeoutMax, c.PullTimeout)
	}
	return d, nil
}

// checkUSD accepts "" and what settlement reads as an amount of USD that is not
// negative: a decimal with at most nine decimals, underscores between digits,
// within 63 bits of nano-dollars. Settlement has the last word; this is to tell
// the customer before a lease is asked for.
func checkUSD(s string) error {
	if s == "" {
		return nil
	}
	whole, frac, hasFrac := strings.Cut(s, ".")
	whole, wholeOK := digits(whole)
	frac, fracOK := digits(frac)
	switch {
	case strings.HasPrefix(s, "-"):
		return fmt.Errorf("must not be negative (got %q)", s)
	case !wholeOK || hasFrac && !fracOK:
		return fmt.Errorf("must be an amount in USD such as 2.50 (got %q)", s)
	case len(frac) > 9:
		return fmt.Errorf("must have at most 9 decimals (got %q)", s)
	}
	if _, err := strconv.ParseInt(whole+frac+strings.Repeat("0", 9-len(frac)), 10, 64); err != nil {
		return fmt.Errorf("must be at most 9223372036.854775807 USD (got %q)", s)
	}
	return nil
}

// digits removes underscores between digits; it is false for anything else than
// at least one digit.
func digits(s string) (string, bool) {
	if strings.HasPrefix(s, "_") || strings.HasSuffix(s, "_") || strings.Contains(s, "__") {
		return "", false
	}
	s = strings.ReplaceAll(s, "_", "")
	return s, s != "" && strings.Trim(s, "0123456789") == ""
}

// taskState is what a task's handle keeps, so that a later plugin can tell
// whether a task that hostd knows is the one that was started.
type taskState struct {
	TaskID      string
	Socket      string // hostd's, when the task was started
	LeaseID     uint64
	ContainerID string
}

// startRequest turns Nomad's task into hostd's. Its errors are faults of the
// job: trying again cannot help.
func startRequest(cfg *drivers.TaskConfig) (*hostapi.StartRequest, error) {
	var tc TaskConfig
	if err := cfg.DecodeDriverConfig(&tc); err != nil {
		return nil, fmt.Errorf("decode task config: %w", err)
	}
	faults := []error{tc.Validate()}
	var devices []string
	alloc, rest, ok1 := strings.Cut(cfg.ID, "/")
	slash := strings.LastIndexByte(rest, '/')
	if !ok1 || slash < 0 {
		return nil, fmt.Errorf("task id: want alloc/task/invocation (got %q)", cfg.ID)
	}
	mounts, err := volumeMounts(cfg.Mounts)
	faults = append(faults, err)
	if r := cfg.Resources; r == nil || r.NomadResources == nil {
		faults = append(faults, errors.New("resources: missing"))
	} else {
		devices, err = taskDevices(cfg, tc.Devices)
		faults = append(faults, err)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}

	dir := cfg.TaskDir()
	cpu, mem := cfg.Resources.NomadResources.Cpu, cfg.Resources.NomadResources.Memory
	env, _ := withoutNVIDIA(cfg)
	req := &hostapi.StartRequest{
		ID:         cfg.ID,
		AllocID:    alloc,
		Task:       rest[:slash],
		Invocation: rest[slash+1:],
		Command:    tc.Command,
		Args:       tc.Args,
		Env:        env,
		User:       cfg.User,
		WorkDir:    tc.WorkDir,
		AllocDir:   dir.SharedAllocDir,
		LocalDir:   dir.LocalDir,
		SecretsDir: dir.SecretsDir,
		StdoutPath: cfg.StdoutPath,
		StderrPath: cfg.StderrPath,
		CPUShares:  cpu.CpuShares,
		MemoryMiB:  mem.MemoryMB,
		MemoryMax:  max(mem.MemoryMaxMB, 0),
		Mounts:     mounts,

		Image:        tc.Image,
		Entrypoint:   tc.Entrypoint,
		Runtime:      tc.Runtime,
		CPUMilli:     cpuMilli(cfg.Resources.LinuxResources),
		CPUHardLimit: tc.CPUHardLimit,
		CapAdd:       tc.CapAdd,
		CapDrop:      tc.CapDrop,
		Ulimits:      tc.Ulimit,
		PidsLimit:    tc.PidsLimit,
		ReadOnlyRoot: tc.ReadOnlyRoot,

		Devices:      devices,
		DevicesNamed: len(tc.Devices) > 0,
	}
	if tc.Image != "" {
		d, err := tc.pullTimeout()
		if err != nil {
			return nil, err
		}
		req.PullMs = d.Milliseconds()
	}
	if req.NetworkNone = tc.NetworkMode == "none"; req.NetworkNone {
		req.Hostname = hostsConfig(cfg).Hostname
	}
	if inGroup(cfg) {
		switch {
		case req.NetworkNone:
			return nil, errors.New("network_mode: must be left out in a group with a network of its own (got \"none\")")
		case cfg.NetworkIsolation.Path == "":
			return nil, errors.New("network: Nomad made no namespace for the group")
		}
		req.NetworkPath = cfg.NetworkIsolation.Path
		req.Hostname = hostsConfig(cfg).Hostname
	}
	return req, nil
}

// volumeMounts are the volumes that Nomad mounts into the task: those that the
// supplier registered on the client, and CSI's.
func volumeMounts(volumes []*drivers.MountConfig) ([]hostapi.Mount, error) {
	var out []hostapi.Mount
	var faults []error
	for _, m := range volumes {
		// What a task mounts stays its own: no mount goes from it to the host.
		switch m.PropagationMode {
		case "", structs.VolumeMountPropagationPrivate, structs.VolumeMountPropagationHostToTask:
		default:
			faults = append(faults, fmt.Errorf("volume_mount: propagation_mode must be %q or %q (got %q for destination %q)",
				structs.VolumeMountPropagationPrivate, structs.VolumeMountPropagationHostToTask, m.PropagationMode, m.TaskPath))
			continue
		}
		out = append(out, hostapi.Mount{HostPath: m.HostPath, TaskPath: m.TaskPath, ReadOnly: m.Readonly})
	}
	return out, errors.Join(faults...)
}

// cpuMilli is the task's share of the node's CPU in 1/1000 core; 0: not known.
func cpuMilli(r *drivers.LinuxResources) int64 {
	if r == nil || r.PercentTicks <= 0 {
		return 0
	}
	return max(1, int64(r.PercentTicks*float64(runtime.NumCPU())*1000))
}
