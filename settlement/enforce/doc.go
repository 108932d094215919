// Package enforce fines suppliers, on the leader, for what the settlement
// cluster can prove by itself (rules F3, T3, T4): an equivocation, which the
// ledger has as evidence already, and a host that is lost with leases open.
//
// A host counts as lost when a majority of the servers has not heard it for
// long, and Nomad has given up its node as well: two observers that fail apart
// from each other. Its leases are then closed for that reason, which makes the
// entry that is the evidence. Whatever may be the observers' own fault fines
// nobody: a leader that is young, a minority of witnesses, a Nomad that does not
// answer, many hosts silent at once.
//
// What the fine comes to, whom it goes to and how it is contested is the
// ledger's: see its FineSchedule.
package enforce
