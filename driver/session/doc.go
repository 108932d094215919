// Package session keeps one session to each settlement server: it proves the
// host's identity, sends heartbeats and signed batches of usage records,
// hands acknowledgements and commands to its Host, and opens and closes leases.
//
// A broken session is made again after a jittered, growing pause. A batch that
// was not acknowledged when its session broke is sent again as part of the
// next one; records are cumulative, so a repeat changes nothing (rule U3). At
// any moment at most one batch is under way over all sessions, so that several
// servers don't each get every record.
//
// The package stores nothing: what must survive a crash is its Host's.
package session
