// Package journal keeps the history of the ledger on disk: every applied block
// in order, in segment files that only grow, with an index in memory by lease
// and by account.
//
// A segment journal-<first sequence>.jl begins with a header (magic, first
// sequence, digest of the block before, CRC-32C) and holds frames: length and
// CRC-32C, each uint32 little-endian, then the block's bytes as package wire
// writes them. The CRC covers the length too. The file "synced" names the last
// block that is known to be on the disk, and is itself on the disk before Sync
// returns.
//
// The Raft log is the durable copy of a block until a snapshot lets it go. So
// Append does not fsync, and Open drops whatever is damaged behind the last
// Sync (a crash leaves such tails): those blocks are applied and appended
// again. Damage before it is an error that names file and offset.
//
// The index of the last segment is in memory; that of a full one is in a file
// journal-<first block>.jx beside it, with a checksum on each page, so that
// memory doesn't grow with the history and a start reads one segment only. It
// is no more than a copy: a missing or damaged index is made again from its
// segment. It also has what each account's balance changed by, block by block,
// and the entries of leases condensed, so that balances at a time and bills are
// answered without reading the blocks.
//
// Nothing here is read by the state machine.
package journal
