package journal

import (
	"errors"
	"fmt"

	"github.com/joulecloud/joule/settlement/ledger"
)

var (
	// ErrClosed is returned by every call after Close.
	ErrClosed = errors.New("the journal is closed")

	// errMissing is for a block that an index names and the journal hasn't.
	errMissing = errors.New("it is indexed but missing")

	// ErrLocked is returned by Open when another process has the directory.
	ErrLocked = errors.New("another process has the journal open")
)

// MismatchError says that a block is not the one that the journal has or
// expects at its sequence: this server's history and the replicated log have
// parted, and the server must stop.
type MismatchError struct {
	Seq  uint64
	Have ledger.Digest // the journal's, or the one that follows from its last block
	Got  ledger.Digest
}

// Error implements error.
func (e *MismatchError) Error() string {
	return fmt.Sprintf("block %d has digest %x, the journal has %x", e.Seq, e.Got, e.Have)
}

// CorruptError says where the journal's files are damaged or don't follow one
// another.
type CorruptError struct {
	File   string
	Offset int64
	Reason string
	Err    error // why the block can't be decoded; nil otherwise
}

// Error implements error.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("journal file %q at offset %d: %s", e.File, e.Offset, e.Reason)
}

// Unwrap makes errors.Is(err, wire.ErrUnknownVersion) work.
func (e *CorruptError) Unwrap() error { return e.Err }

// TornError says that the last file ends in bytes which are no whole block and
// were never synced, as after a crash or while a block is being written.
type TornError struct {
	File   string
	Offset int64
	Bytes  int64
}

// Error implements error.
func (e *TornError) Error() string {
	return fmt.Sprintf("journal file %q ends in an unfinished block: %d bytes at offset %d", e.File, e.Bytes, e.Offset)
}
