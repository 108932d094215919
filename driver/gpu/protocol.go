package gpu

// Request is a question to the probe. Exactly one of its parts is set.
type Request struct {
	ID         uint64             `json:"id"`
	Inventory  bool               `json:"inventory,omitempty"`
	Read       []Query            `json:"read,omitempty"`
	Accounting *AccountingRequest `json:"accounting,omitempty"`
}

// Query asks for one device's counters.
type Query struct {
	UUID string `json:"uuid"`
	// SinceUs bounds the samples from below, exclusively: Unix time in µs.
	SinceUs uint64 `json:"since_us"`
}

// AccountingRequest asks what the driver's accounting says of the processes
// that used the device.
type AccountingRequest struct {
	UUID string `json:"uuid"`
	// SinceUs leaves out processes that began to use it before: Unix time in µs.
	SinceUs uint64 `json:"since_us"`
}

// Response is the answer to the request with the same id.
type Response struct {
	ID uint64 `json:"id"`
	// Error: the whole request failed, and why in plain words.
	Error      string      `json:"error,omitempty"`
	Inventory  *Inventory  `json:"inventory,omitempty"`
	Read       []Reading   `json:"read,omitempty"` // in the order of the queries
	Accounting *Accounting `json:"accounting,omitempty"`
}

// Inventory is every GPU and MIG device of the host.
type Inventory struct {
	DriverVersion string   `json:"driver_version,omitempty"`
	Devices       []Device `json:"devices"`
	// Problems are GPUs that could not be asked, in plain words.
	Problems []string `json:"problems,omitempty"`
}

// Device is a GPU, or a MIG device: a slice of one. nil and "": it would not say.
type Device struct {
	UUID      string  `json:"uuid"`
	Index     int     `json:"index"` // of the whole GPU
	Model     string  `json:"model,omitempty"`
	MemoryMiB *uint64 `json:"memory_mib,omitempty"`
	// MIG: the GPU is divided, and only its slices can be used.
	MIG    *bool      `json:"mig,omitempty"`
	Parent string     `json:"parent,omitempty"` // of a MIG device: its GPU's UUID
	Slices *MIGSlices `json:"slices,omitempty"` // of a MIG device
	// Accounting: the driver keeps accounts of the processes that use it.
	Accounting *bool `json:"accounting,omitempty"`
	Samples    bool  `json:"samples"` // utilisation samples can be read
	Energy     bool  `json:"energy"`  // the energy counter can be read
}

// MIGSlices is the size of a MIG device, in slices of its GPU.
type MIGSlices struct {
	GPU     uint32 `json:"gpu"`
	Compute uint32 `json:"compute"`
}

// Reading is one device's counters at a moment.
type Reading struct {
	UUID string `json:"uuid"`
	// Lost: the driver works and says that the device is gone.
	Lost bool `json:"lost,omitempty"`
	// Error: nothing of the device could be read, and why.
	Error    string  `json:"error,omitempty"`
	EnergyMJ *uint64 `json:"energy_mj,omitempty"` // since the driver was loaded
	// Samples are all that the driver still has since the query's SinceUs, in any
	// order; nil: they can't be read.
	Samples       []Sample  `json:"samples"`
	MemoryUsedMiB *uint64   `json:"memory_used_mib,omitempty"`
	Processes     []Process `json:"processes"` // nil: can't be read
}

// Sample says how busy a device was from the sample before to this one.
type Sample struct {
	AtUs    uint64 `json:"at_us"` // Unix time in µs
	Percent uint8  `json:"percent"`
}

// Process is one that has a compute context on a device.
type Process struct {
	Pid       uint32  `json:"pid"` // in the host's pid namespace
	MemoryMiB *uint64 `json:"memory_mib,omitempty"`
}

// Accounting is what the driver's accounting says of a device.
type Accounting struct {
	Enabled   *bool       `json:"enabled,omitempty"` // nil: it would not say
	Processes []Accounted `json:"processes"`         // nil: can't be read
}

// Accounted is one process's account.
type Accounted struct {
	Pid uint32 `json:"pid"`
	// TimeMs is how long it had a compute context; nil while it has, the driver
	// says so only after its end.
	TimeMs  *uint64 `json:"time_ms,omitempty"`
	StartUs uint64  `json:"start_us"` // Unix time in µs
}

// ProbeFD is the file on which the probe finds its socket.
const ProbeFD = 3
