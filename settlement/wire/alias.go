package wire

import "github.com/joulecloud/joule/settlement/ledger"

// The ledger's types that a host shares with the settlement cluster, for the
// driver, which imports this package and not the ledger.
type (
	Record     = ledger.Record
	Totals     = ledger.Totals
	Known      = ledger.Known
	Quality    = ledger.Quality
	LeaseID    = ledger.LeaseID
	HostID     = ledger.HostID
	Hash       = ledger.Hash
	UsageBatch = ledger.UsageBatch
	Prices     = ledger.Prices
	Resources  = ledger.Resources
)

// The bits of Known.
const (
	KnownWall   = ledger.KnownWall
	KnownCPU    = ledger.KnownCPU
	KnownGPU    = ledger.KnownGPU
	KnownMemory = ledger.KnownMemory
	KnownAll    = ledger.KnownAll
)

// The bits of Quality.
const (
	QualityStartUnstamped = ledger.QualityStartUnstamped
	QualityExitUnstamped  = ledger.QualityExitUnstamped
	QualityExitEstimated  = ledger.QualityExitEstimated
	QualityCPUUnread      = ledger.QualityCPUUnread
	QualityGPUUnread      = ledger.QualityGPUUnread
	QualityClockStepped   = ledger.QualityClockStepped
	QualityRebooted       = ledger.QualityRebooted

	QualityGPUEstimated    = ledger.QualityGPUEstimated
	QualityGPULost         = ledger.QualityGPULost
	QualityGPUAudit        = ledger.QualityGPUAudit
	QualityGPUEnergyUnread = ledger.QualityGPUEnergyUnread
)

// BatchRecordsMax is how many records a batch may carry.
const BatchRecordsMax = ledger.BatchRecordsMax
