// Package hostapi is what hostd serves on its unix socket, to the Nomad plugin
// and to the CLI: plain HTTP with JSON bodies. It holds the shapes only; hostd
// serves them, hostapi.Client speaks them.
//
//	POST   /v1/tasks                 StartRequest → TaskStatus; idempotent by ID
//	GET    /v1/tasks                 → []TaskStatus
//	GET    /v1/tasks/{id}            → TaskStatus
//	GET    /v1/tasks/{id}/wait       → TaskStatus once State is "exited" (long poll)
//	POST   /v1/tasks/{id}/stop       StopRequest → TaskStatus (exited)
//	POST   /v1/tasks/{id}/signal     SignalRequest
//	POST   /v1/tasks/{id}/freeze     → TaskStatus; from there the task stands by; idempotent
//	POST   /v1/tasks/{id}/thaw       ThawRequest → TaskStatus; idempotent
//	GET    /v1/tasks/{id}/stats      → Stats
//	DELETE /v1/tasks/{id}?force=true → forget an exited task (force: kill first)
//	GET    /v1/host                  → HostInfo
//
// Task ids contain slashes; they are path-escaped. Errors are a JSON Error with
// a matching HTTP status.
package hostapi

import "time"

// Version is the version of this protocol; hostd answers it in HostInfo.
const Version = 1

// ErrorCode classifies a refusal.
type ErrorCode string

// The error codes.
const (
	ErrInvalid     ErrorCode = "invalid"     // 400: a field is wrong; Message names it and its value
	ErrNotFound    ErrorCode = "not_found"   // 404: no such task
	ErrRunning     ErrorCode = "running"     // 409: the task must have exited first
	ErrRefused     ErrorCode = "refused"     // 403: settlement refused the lease (funds, price, unknown allocation, ...)
	ErrUnavailable ErrorCode = "unavailable" // 503: no settlement server answered; try again
	ErrInternal    ErrorCode = "internal"    // 500
)

// Error is the body of every answer that is not 2xx.
type Error struct {
	Code    ErrorCode `json:"code"`
	Message string    `json:"message"`
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// StartRequest asks hostd to open a lease for a Nomad task and to run it.
type StartRequest struct {
	ID         string `json:"id"` // Nomad's TaskConfig.ID: alloc/task/invocation
	AllocID    string `json:"alloc_id"`
	Task       string `json:"task"`
	Invocation string `json:"invocation"`

	// What to run. Without an image, Command is a program of the host's own.
	// With one, Entrypoint (nil: the image's) comes before Command and Args, and
	// without any of them the image's own command after it.
	Image      string            `json:"image,omitempty"`
	Entrypoint []string          `json:"entrypoint,omitempty"`
	PullMs     int64             `json:"image_pull_timeout_ms,omitempty"` // 0: PullDefault
	Runtime    string            `json:"runtime,omitempty"`               // one of HostInfo.Runtimes; "": the supplier's first
	Command    string            `json:"command"`
	Args       []string          `json:"args,omitempty"`
	Env        map[string]string `json:"env,omitempty"`
	User       string            `json:"user,omitempty"`     // name or uid[:gid]; "" is the image's, or nobody
	WorkDir    string            `json:"work_dir,omitempty"` // in the container; "" is the image's, or /local

	AllocDir   string `json:"alloc_dir"`   // host paths, mounted at /alloc,
	LocalDir   string `json:"local_dir"`   // /local
	SecretsDir string `json:"secrets_dir"` // and /secrets
	StdoutPath string `json:"stdout_path"` // Nomad's log FIFOs
	StderrPath string `json:"stderr_path"`

	CPUShares   int64   `json:"cpu_shares"`
	MemoryMiB   int64   `json:"memory_mib"`     // hard limit unless MemoryMaxMiB is larger
	MemoryMax   int64   `json:"memory_max_mib"` // 0: MemoryMiB
	Mounts      []Mount `json:"mounts,omitempty"`
	NetworkPath string  `json:"network_path,omitempty"` // a network namespace to join; "": the host's
	NetworkNone bool    `json:"network_none,omitempty"` // a network namespace of its own, with a loopback only
	Hostname    string  `json:"hostname,omitempty"`

	CPUMilli     int64             `json:"cpu_milli,omitempty"`      // what was asked for, in 1/1000 core; 0: not known
	CPUHardLimit bool              `json:"cpu_hard_limit,omitempty"` // never more than CPUMilli
	CapAdd       []string          `json:"cap_add,omitempty"`
	CapDrop      []string          `json:"cap_drop,omitempty"`
	Ulimits      map[string]string `json:"ulimits,omitempty"`    // "nofile": "soft:hard"
	PidsLimit    int64             `json:"pids_limit,omitempty"` // 0: the host's
	ReadOnlyRoot bool              `json:"readonly_rootfs,omitempty"`

	// Devices are the UUIDs of the GPUs and MIG devices that the task is given.
	Devices []string `json:"devices,omitempty"`
	// DevicesNamed: the job named them itself, Nomad didn't hand them out.
	DevicesNamed bool `json:"devices_named,omitempty"`
}

// PullDefault is how long an image's pull may take that doesn't say.
const PullDefault = 5 * time.Minute

// Mount is a bind mount into the task.
type Mount struct {
	HostPath string `json:"host_path"`
	TaskPath string `json:"task_path"`
	ReadOnly bool   `json:"read_only"`
}

// TaskState is where a task is in its life.
type TaskState string

// The task states.
const (
	StateStarting TaskState = "starting"
	StateRunning  TaskState = "running"
	StateExited   TaskState = "exited"
)

// TaskStatus is what hostd knows of a task.
type TaskStatus struct {
	ID          string    `json:"id"`
	LeaseID     uint64    `json:"lease_id"`
	State       TaskState `json:"state"`
	Standby     bool      `json:"standby,omitempty"` // it is frozen, and billed so
	Pid         int       `json:"pid,omitempty"`     // of the container's first process, in the host's pid namespace
	StartedAt   time.Time `json:"started_at"`
	CompletedAt time.Time `json:"completed_at"`
	Exit        *Exit     `json:"exit,omitempty"`
	// Notes are what happened to the task before it ran, in order, in plain words:
	// "Pulling image …".
	Notes []string `json:"notes,omitempty"`
	// How to reach the container for exec: "<runtime> --root <root> exec <container>".
	Runtime     string `json:"runtime,omitempty"` // absolute path of the OCI runtime
	RuntimeRoot string `json:"runtime_root,omitempty"`
	ContainerID string `json:"container_id,omitempty"`

	GPU *GPUStatus `json:"gpu,omitempty"` // nil: the task has none
}

// GPUStatus is what is known of a task's GPUs.
type GPUStatus struct {
	Devices []string `json:"devices"`
	// AccountedMs is how long the driver's own accounts say that they were used,
	// known at the task's end. nil: they don't say.
	AccountedMs *uint64 `json:"accounted_ms,omitempty"`
}

// Exit is how a task ended.
type Exit struct {
	Code      int    `json:"code"`
	Signal    int    `json:"signal,omitempty"`
	OOMKilled bool   `json:"oom_killed,omitempty"`
	Error     string `json:"error,omitempty"`  // the task could not be run, or was lost: why
	Reason    string `json:"reason,omitempty"` // stopped by us, in plain words: "stopped: the customer's funds ran out"
}

// StopRequest asks for a signal, then for SIGKILL after the timeout.
type StopRequest struct {
	Signal    string `json:"signal"` // "SIGTERM", "TERM" or a number; "" is SIGTERM
	TimeoutMs int64  `json:"timeout_ms"`
}

// ThawRequest lets a task that stands by run.
type ThawRequest struct {
	Epoch uint32 `json:"epoch,omitempty"` // of its slot; 0: the one that it has
}

// SignalRequest sends a signal to the task's first process.
type SignalRequest struct {
	Signal string `json:"signal"`
}

// Stats is a reading of a task's meters for display. nil: could not be read.
type Stats struct {
	At            time.Time `json:"at"`
	CPUUsec       *uint64   `json:"cpu_usec"`
	UserUsec      *uint64   `json:"user_usec"`
	SystemUsec    *uint64   `json:"system_usec"`
	MemoryBytes   *uint64   `json:"memory_bytes"`
	MemoryRSS     *uint64   `json:"memory_rss_bytes"`
	MemoryMaxEver *uint64   `json:"memory_max_ever_bytes"`
	Pids          *uint64   `json:"pids"`
}

// HostInfo is what the plugin publishes in its fingerprint.
type HostInfo struct {
	ProtocolVersion int               `json:"protocol_version"`
	Version         string            `json:"version"`
	Host            string            `json:"host"`
	Class           string            `json:"class"`
	Cgroup          string            `json:"cgroup"`                   // "v2", "hybrid" or "v1"
	Runtimes        map[string]string `json:"runtimes"`                 // name → version, those that work
	RuntimeFaults   map[string]string `json:"runtime_faults,omitempty"` // name → why it doesn't work here
	HostRoot        bool              `json:"host_root"`                // tasks without an image are allowed
	Isolation       Isolation         `json:"isolation"`
	Problems        []string          `json:"problems"` // why tasks cannot run, in plain words; empty: healthy
	Servers         []ServerInfo      `json:"servers"`
	SpoolRecords    int               `json:"spool_records"` // not yet acknowledged
	Tasks           int               `json:"tasks"`
	Pid             int               `json:"pid"`
	Goroutines      int               `json:"goroutines"`
	GPU             *GPUInfo          `json:"gpu,omitempty"` // nil: the host has no GPU
}

// GPUInfo is what a host has of GPUs.
type GPUInfo struct {
	DriverVersion string `json:"driver_version,omitempty"`
	// Metering says what is known of their use beside the time held, which is
	// what is billed: "accounting", "sampled" or "none".
	Metering string      `json:"metering"`
	Devices  []GPUDevice `json:"devices"`
	Problems []string    `json:"problems,omitempty"` // in plain words
}

// GPUDevice is a GPU, or a MIG device. nil and "": it would not say.
type GPUDevice struct {
	UUID      string  `json:"uuid"`
	Model     string  `json:"model,omitempty"`
	MemoryMiB *uint64 `json:"memory_mib,omitempty"`
	MIG       *bool   `json:"mig,omitempty"`    // divided into MIG devices
	Parent    string  `json:"parent,omitempty"` // of a MIG device: its GPU
}

// Isolation is what keeps tasks with an image from the host, with the runtime
// that they get by default.
type Isolation struct {
	UserNamespace bool `json:"user_namespace"`
	Seccomp       bool `json:"seccomp"`
	OwnKernel     bool `json:"own_kernel"` // gVisor
}

// Tier names the isolation for people who choose hosts by it.
func (i Isolation) Tier() string {
	switch {
	case i.OwnKernel:
		return "sandboxed"
	case i.UserNamespace && i.Seccomp:
		return "shared-kernel"
	}
	return "weak"
}

// ServerInfo is the state of the session to one settlement server.
type ServerInfo struct {
	URL       string `json:"url"`
	Connected bool   `json:"connected"`
	Error     string `json:"error,omitempty"` // of the last attempt
}
