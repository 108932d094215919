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
//   - rates: what the guard made of each proposed rate, and that conversion
//     pauses and goes on when it must, and says so (rule M6)
//   - withdrawals: each is requested once and ends once; its money follows
//   - corrections: each names an entry of its lease, and gives back no more than
//     was paid
//   - stakes: no lease opens on too little stake; unbondings end in their time
//     with what fines left of them (rules F1, F2)
//   - fines: each comes to what the schedule of its day says, for evidence that
//     is there, not void, and used once, by two operators or by what the ledger
//     saw itself; its windows and its money keep rules F3 to F5
//   - signatures: each usage batch was signed by the key of its host
//
// An audit proves that a journal is right in itself. That it is the cluster's
// history is shown by its digest, which every server can be asked for.
package audit
