// Package ledger is Joule's settlement state machine: accounts, customers,
// suppliers, hosts, offers, rates, leases, holds and charges. One command in,
// one result and its journal entries out.
//
// The package is pure: the same state and the same command at the same time
// always give the same result, the same entries and the same state. It does no
// I/O, reads no clock, uses no randomness, no goroutine, no float, and never
// ranges over a map. A Ledger is not safe for concurrent use.
//
// Rules M1 to M8, U2 to U4, U6 and S1 to S3 of the design are implemented here
// and nowhere else; each has a test that names it. Of M6 it is the accrual and
// the later conversion; what makes a rate stale or doubtful is decided outside.
// Leases have no pools yet: each is its own slot.
//
// Input never panics: it is answered by a Result with a Code. A panic means
// that an invariant is broken and the server must stop.
package ledger
