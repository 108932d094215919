package shim

// The files of a task's directory. Every file is written to a temporary name,
// fsynced and renamed, so that a reader sees a whole file or none.
const (
	SpecFile    = "spec.json"    // hostd → shim: what to run (Spec)
	ProcessFile = "process.json" // shim: its own pid and start time (Process)
	StartedFile = "started.json" // shim: the task runs (Started)
	ExitFile    = "exit.json"    // shim: the task has ended, or could not start (Exit)
	LogFile     = "shim.log"     // shim and runtime: plain text, for people
	BundleDir   = "bundle"       // the OCI bundle (config.json, rootfs/)
)

// Spec is everything a shim needs to run one task.
type Spec struct {
	ContainerID string `json:"container_id"`
	Runtime     string `json:"runtime"`      // absolute path of the OCI runtime
	RuntimeRoot string `json:"runtime_root"` // its --root
	Bundle      string `json:"bundle"`       // absolute path
	// CgroupCPU is the directory whose cpu.stat meters the task: the task's
	// own cgroup in the v2 (or unified) hierarchy. The shim makes it and puts
	// the container's first process there before the task's first instruction.
	CgroupCPU  string `json:"cgroup_cpu"`
	StdoutPath string `json:"stdout_path"`
	StderrPath string `json:"stderr_path"`
}

// Process identifies a shim: a pid alone may be another process's later.
type Process struct {
	Pid       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // clock ticks since boot, /proc/<pid>/stat field 22
	BootID    string `json:"boot_id"`
}

// Started says when the task's first instruction ran, and from where its CPU
// counts.
type Started struct {
	Pid         int    `json:"pid"` // the container's first process, host pid namespace
	StartTime   uint64 `json:"start_time"`
	BootID      string `json:"boot_id"`
	ExecMonoNs  int64  `json:"exec_mono_ns"`  // CLOCK_MONOTONIC
	ExecWallNs  int64  `json:"exec_wall_ns"`  // Unix, for people
	ExecStamped bool   `json:"exec_stamped"`  // by the kernel; false: our own clock
	CPUBaseUsec uint64 `json:"cpu_base_usec"` // cpu.stat usage_usec just before the exec: the runtime's own
}

// Exit says when and how the task ended.
type Exit struct {
	Error       string  `json:"error,omitempty"` // it could not be started: why; nothing else is set
	Code        int     `json:"code"`
	Signal      int     `json:"signal,omitempty"`
	OOMKilled   bool    `json:"oom_killed,omitempty"`
	ExitMonoNs  int64   `json:"exit_mono_ns"` // CLOCK_MONOTONIC
	ExitWallNs  int64   `json:"exit_wall_ns"`
	ExitStamped bool    `json:"exit_stamped"` // by the kernel; false: our own clock
	CPUUsec     *uint64 `json:"cpu_usec"`     // cpu.stat usage_usec after the wait, the base not subtracted; nil: could not be read
	MaxRSSKiB   int64   `json:"max_rss_kib"`
}
