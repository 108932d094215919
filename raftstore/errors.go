package raftstore

import (
	"errors"
	"fmt"
)

var (
	// ErrShutdown is returned once the store is closed. From Propose it leaves
	// the outcome of an entry in flight unknown.
	ErrShutdown = errors.New("the raft store is closed")

	// ErrFailed is returned by every call after the store stopped itself, by a
	// write error or a failed restore; it wraps the cause. From Propose it
	// leaves the outcome of an entry in flight unknown.
	ErrFailed = errors.New("the raft store has failed")

	// ErrLeadershipLost is returned by Propose when this server stopped being
	// the leader while the entry was in flight: it may or may not be applied.
	ErrLeadershipLost = errors.New("leadership was lost while the entry was in flight")

	// ErrBusy is returned by Propose when the queue had no room within
	// Config.EnqueueTimeout; the entry was not proposed.
	ErrBusy = errors.New("the proposal queue is full")

	// ErrTooLarge is returned by Propose for an entry beyond EntryBytesMax.
	ErrTooLarge = errors.New("the entry is too large")

	// ErrLocked is returned by Open when another process has the directory.
	ErrLocked = errors.New("another process has the directory open")

	// ErrNotAlone is returned by Open when Config.Bootstrap names this server
	// alone and its directory is that of a member of a larger cluster.
	ErrNotAlone = errors.New("this server is a member of a larger cluster")

	// ErrAlone is returned by AddVoter and AddNonvoter on a server that was
	// opened with the short timeouts of a lone server.
	ErrAlone = errors.New("this server runs with the timeouts of a lone server; set the timeouts and restart it before servers are added")
)

// NotLeaderError says that this server is not the leader and who is, as far as
// it knows. What was asked has not happened.
type NotLeaderError struct {
	LeaderID   string // "": not known
	LeaderAddr string // "": not known
}

// Error implements error.
func (e *NotLeaderError) Error() string {
	if e.LeaderID == "" && e.LeaderAddr == "" {
		return "not the leader; no leader is known"
	}
	return fmt.Sprintf("not the leader; the leader is %q at %s", e.LeaderID, e.LeaderAddr)
}
