// Package audit re-derives a journal from nothing: without a server, without
// Raft, without the network. It trusts none of the numbers that it finds:
//
//   - files: every frame's checksum, every segment's place
//   - chain: blocks and entries in sequence, time never backwards, every digest
//     recomputed
//   - replay: every command applied to a fresh ledger gives the same results and
//     the same entries
//   - balances: the transfers alone, added up here, give the replayed ledger's
//     balances, sum to zero per currency, and take no account below zero that
//     may not be (rule M2); the supply stays within its cap (rule M1)
//   - routes: each transfer goes between the accounts that its reason names, for
//     the right lease, at the rate in force (rules M4, M8)
//   - charges: each lease's cost computed from its terms and its usage with
//     math/big, apart from the ledger's arithmetic, is what it was charged, less
//     only where its hold was used up (rules M3, M5)
//   - conversions: what was paid and kept as fee is within 1 nJ of the exact
//     amount at the rates used (rule M4)
//   - signatures: each usage batch was signed by the key of its host
//
// An audit proves that a journal is right in itself. That it is the cluster's
// history is shown by its digest, which every server can be asked for.
package audit
