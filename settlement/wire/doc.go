// Package wire is the versioned binary form of everything that is signed,
// replicated, hashed or kept: usage records and batches, command batches,
// journal blocks, snapshots.
//
// The form is canonical (one value has exactly one encoding), little-endian and
// of fixed-width integers; a string is its length in bytes (uint32) and its
// bytes. Every outer form begins with its version. Decoders never panic, never
// allocate from an unchecked length, and take trailing bytes for an error; they
// check the form only, the ledger judges the values. A *DecodeError names the
// field and the offset.
//
// Numbers and layouts are append-only: a released version is read for ever. A
// version or a command kind that this build does not know is
// ErrUnknownVersion, on which a server halts with "upgrade this node".
//
// The package does no I/O but on the reader or writer of a snapshot, uses no
// reflection, and its functions are safe for concurrent use.
package wire
