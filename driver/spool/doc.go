// Package spool keeps usage records on a host's disk until the settlement
// cluster has acknowledged them (rule U7), together with what continues each
// lease's chain of records after a crash: its last sequence, its last hash and
// the caller's own state (hostd's meter).
//
// What it guarantees:
//
//   - Put returns once the records are durable. Sequence, previous hash, record
//     and state of a lease are written in one bbolt transaction, so that they
//     agree after a kill -9 or a power failure at any moment.
//   - A failed Put, a full disk for one, changes nothing: what was there stays
//     and the sequence isn't used up.
//   - A damaged file is never dropped silently: it is renamed, every record that
//     can still be proved whole is carried over, and the error log names the
//     file and the count.
//
// What it doesn't: it doesn't sign, send or judge records, and it doesn't limit
// its own growth while no server can be reached.
package spool
