// Package ledger is Joule's settlement state machine: accounts, customers,
// suppliers, hosts, offers, rates, leases, holds, charges, withdrawals,
// corrections, stakes and fines. One command in, one result and its journal
// entries out.
//
// The package is pure: the same state and the same command at the same time
// always give the same result, the same entries and the same state. It does no
// I/O, reads no clock, uses no goroutine and no float, and never ranges over a map.
// Nothing in it is random but the seed of its indexes, which decides nothing
// but where in memory a row's number stands. A Ledger is not safe for
// concurrent use; what only reads may run beside what only reads.
//
// Rules M1 to M8, U2 to U4, U6, S1 to S3, F1 to F5 and T4 of the design are
// implemented here and nowhere else; each has a test that names it. Leases have
// no pools yet: each is its own slot.
//
// # Rates
//
// A rate that a feed proposes is judged (rule M6): it is stale once it is older
// than the guard's age, and doubtful if it is too far from the time-weighted
// average of the rates before it. Either pauses conversion, of all leases, and
// nothing else: usage is charged on in USD to "accrued"; a customer who pays in
// JOULE is charged when there is a rate again, out of a hold that waits even
// beyond the lease's end, valued at the last rate in force. The journal says
// when a pause begins, when it ends and at which rate. A rate that an operator
// sets by hand is the operator's word: it stands until the next one, so a
// cluster without a feed needs nobody to set it again.
//
// # Stakes and fines
//
// Each supplier's stake is an account of its own, and so is what it is taking
// back. The policy of a new ledger asks for none. A fine for what the ledger has
// seen itself (equivocation, a lost host) is issued by one command that names
// just that evidence; any other is proposed by one operator and approved by
// another. Both come to what the replicated schedule says, which SimulateFine
// tells without acting, and wait in escrow for their window. The shares are of
// the stake required at that moment, the harmed lease included if it has ended.
// An appeal gives the operators a whole window from then on to void the fine.
//
// # Time
//
// Nothing happens by the passing of time alone. NextDue says when a Tick has
// something to do, and the leader proposes one; a command before it finds the
// window over all the same.
//
// Input never panics: it is answered by a Result with a Code. A panic means
// that an invariant is broken and the server must stop.
//
// # Memory
//
// Rows stand in pages (slab), texts in chunks (arena), and what finds them in
// hash tables that split part by part (index). All of these are free of
// pointers where there may be millions of rows, so the collector passes them
// by, and none is ever copied as a whole: no command waits for that, and a
// Capture takes lists of pages alone.
package ledger
