// Package raftstore is hashicorp/raft as a service: it replicates opaque
// entries to a StateMachine on every server and knows nothing of what they
// mean.
//
// What it adds to the library:
//
//   - Heartbeats go through Raft's main loop. In raft v1.8.0 and before, the
//     transport's heartbeat fast path can raise the Raft term under a leader
//     that is waiting in its select; the next client entry is then written with
//     the other leader's term, and two servers can commit different entries at
//     one index (hashicorp/raft#695). TestHeartbeatTermRace shows the fault and
//     that it is gone.
//   - The log and the stable store stop for good at their first write error.
//     What a failed fsync left on the disk is unknown, so no later write may be
//     acknowledged. Config.Fatal is told, and is expected to end the process.
//   - Every log entry and stable value carries a checksum that each read checks,
//     and a mark beside the log tells entries that were lost from a write that
//     was torn (seal.go): the log store finds neither by itself. A snapshot's
//     description has a checksum too (snapsum.go).
//   - A log whose newest segment was being filled when the process died can be
//     written again (wal.go).
//   - A snapshot that is installed takes nothing along that was acknowledged, and
//     leaves no follower behind that refuses everything (covered.go).
//   - A restore that fails on a running server stops it as well, since its
//     state is then neither the old nor the new one.
//   - A read point (VerifyRead) that also holds right after an election: the
//     library's VerifyLeader alone does not wait for the entries of earlier
//     Raft terms.
//   - One process per directory, by a lock file.
//
// Leadership transfer is not offered: an interrupted one leaves a leader that
// refuses every proposal (hashicorp/raft#696).
package raftstore
