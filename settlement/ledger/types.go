package ledger

// Time is the ledger's clock: Unix milliseconds, stamped by the leader on each
// batch of commands and never running backwards (the ledger clamps it).
type Time int64

// NUSD is an amount of money in nano-dollars (10⁻⁹ USD).
type NUSD int64

// NJ is an amount of JOULE in nanojoules (10⁻⁹ JOULE).
type NJ int64

// JouleSupplyMax is the cap on minted JOULE (rule M1), in nJ.
const JouleSupplyMax NJ = 9_000_000_000 * 1_000_000_000

// Currency is one of the two currencies of the ledger. The numbers are
// replicated: append only, never reuse.
type Currency uint8

// The currencies.
const (
	USD   Currency = 1 // amounts in nUSD
	JOULE Currency = 2 // amounts in nJ
)

// Class is the kind of a supplier's host. Replicated numbers.
type Class uint8

// The host classes.
const (
	ClassCrowd      Class = 1
	ClassDatacenter Class = 2
)

// Dense identifiers, given out by the ledger from 1 upwards; 0 is "none".
type (
	AccountID  uint32
	CustomerID uint32
	SupplierID uint32
	HostID     uint32
	RateID     uint32
	LeaseID    uint64

	WithdrawalID uint32
	CorrectionID uint32
	UnbondingID  uint32
	FineID       uint32
)

// Limits on what a command may carry. An input beyond a limit is refused with
// CodeInvalid and a message that names the field, the value and the limit.
const (
	NameBytesMax       = 64  // names of customers, suppliers, hosts
	NomadNameBytesMax  = 256 // what Nomad names: namespaces, jobs, groups, tasks, allocations, invocations
	KeyBytesMax        = 64  // idempotency keys
	RefBytesMax        = 128 // outside references, destinations
	WhyBytesMax        = 256 // reasons that people give
	CorrectionLegsMax  = 4
	EvidenceMax        = 16               // pieces of evidence of one fine
	WindowMsMax        = 366 * 86_400_000 // of every window that policy sets
	BatchRecordsMax    = 4096
	PriceMax           = NUSD(1_000_000 * 1_000_000_000) // USD 1 M per hour of a dimension
	LeaseMemoryMiBMax  = 64 << 20                        // 64 TiB
	LeaseMilliCoresMax = 1_000_000
	LeaseGPUsMax       = 1024
	SliceMsMax         = 24 * 3600 * 1000
	FeePPMMax          = 500_000
)

// Prices are what a host asks (an offer) or a lease pays: nUSD per hour of
// each dimension (rule M3).
type Prices struct {
	Base   NUSD // per task
	CPU    NUSD // per core, as used
	GPU    NUSD // per device, as held
	Memory NUSD // per GiB, as reserved
}

// Resources are what Nomad granted the task; they bound what a lease may be
// charged for (rule U6) and size its hold (rule M5).
type Resources struct {
	MilliCores uint32 // the most CPU the task can use at once, in 1/1000 core
	MemoryMiB  uint32 // reserved
	GPUs       uint32 // devices held
}

// Totals are cumulative usage since the lease (or the epoch) began (rule U2).
type Totals struct {
	WallMs      uint64
	CPUMs       uint64
	GPUMs       uint64 // device milliseconds held
	MemoryMiBMs uint64
}

// Known says which of a record's totals could be read (rule U4: unknown is not
// zero). A total whose bit is clear must be 0 and is ignored.
type Known uint8

// The bits of Known.
const (
	KnownWall   Known = 1 << 0
	KnownCPU    Known = 1 << 1
	KnownGPU    Known = 1 << 2
	KnownMemory Known = 1 << 3
	KnownAll          = KnownWall | KnownCPU | KnownGPU | KnownMemory
)

// Quality says how a record's totals were obtained. Replicated bits: append
// only. None of them changes what is paid; they are shown beside it.
type Quality uint32

// The bits of Quality.
const (
	QualityStartUnstamped Quality = 1 << 0 // start: our own clock, not the kernel's exec stamp
	QualityExitUnstamped  Quality = 1 << 1 // exit: our own clock, not the kernel's exit stamp
	QualityExitEstimated  Quality = 1 << 2 // the shim died: totals up to the last checkpoint only
	QualityCPUUnread      Quality = 1 << 3
	QualityGPUUnread      Quality = 1 << 4 // GPU busy time: not known, or a lower bound
	QualityClockStepped   Quality = 1 << 5
	QualityRebooted       Quality = 1 << 6
	// GPU busy time is integrated from samples: an estimate.
	QualityGPUEstimated Quality = 1 << 7
	// A GPU was gone while the task held it; that time is not in the totals.
	QualityGPULost Quality = 1 << 8
	// The driver's own accounts say that a GPU was used for longer than it was held.
	QualityGPUAudit        Quality = 1 << 9
	QualityGPUEnergyUnread Quality = 1 << 10 // GPU energy: not known, or a lower bound
)

// Hash is a SHA-256 truncated to its first 16 bytes: identity of a record
// under one host key.
type Hash [16]byte

// Digest is the running SHA-256 over every applied block.
type Digest [32]byte

// Record is one usage record of a lease (rules U2, U3). Totals are cumulative,
// those of the active state counted since the epoch began.
type Record struct {
	Lease   LeaseID
	Seq     uint64 // from 1, per lease
	Epoch   uint32 // of the slot; 1 for a lease without a pool
	Prev    Hash   // of the record with Seq-1; zero for the first
	Hash    Hash   // of this record's own wire bytes, filled in by wire.Decode*, not carried
	Known   Known
	Final   bool // the task has ended: the lease closes with this record
	Active  Totals
	Standby Totals
	// Unbilled.
	GPUBusyMs   uint64 // estimate
	GPUEnergyMJ uint64
	Quality     Quality
}
