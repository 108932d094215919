// Package sim runs whole settlement clusters in the virtual time of a
// testing/synctest bubble: the real hashicorp/raft under the real raftstore,
// the real raft-wal, journal, ledger and node, on a network that drops, delays,
// repeats and cuts one way, and on disks that lose what was not synced, fail
// and fill up; servers' clocks are set forward and back. Clients retry under
// the same key; hosts send signed usage.
//
// After a run everything is healed and the history is checked: every
// acknowledged command is in every server's journal with the result that was
// acknowledged, in an order that real time allows; every server has the same
// blocks; every read saw everything acknowledged before it; the audit of the
// journal finds nothing; every lease is charged exactly for what its host's
// accepted records claimed, and no honest usage is refused in a run whose clocks
// are left alone.
//
// A run is set up by its seed, but goroutines are scheduled as the machine
// likes: the same seed gives the same faults and commands, not always the same
// interleaving. SIM_SEED and SIM_TIME choose what `make sim` runs.
package sim
