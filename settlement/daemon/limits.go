package daemon

import (
	"errors"
	"fmt"

	"github.com/joulecloud/joule/settlement/server"
)

// LimitsConfig is the limits block of server.hcl: what clients together, and
// each of them, may ask of this server at once. What is left out keeps its
// default.
type LimitsConfig struct {
	Requests       *int `hcl:"requests,optional"`        // calls that run at once: the queue in front of the log is no longer
	ClientRequests *int `hcl:"client_requests,optional"` // of one client (a token, or an address without one)
	Reads          *int `hcl:"reads,optional"`           // of those, calls that read much
	ClientReads    *int `hcl:"client_reads,optional"`
	ClientRate     *int `hcl:"client_rate,optional"`  // calls a second of one client
	ClientBurst    *int `hcl:"client_burst,optional"` // and at once after a pause
	Sessions       *int `hcl:"sessions,optional"`     // of hosts
	ClientSessions *int `hcl:"client_sessions,optional"`
	BatchBytes     *int `hcl:"batch_bytes,optional"`     // of usage batches that wait to be settled: the queue of usage is no longer
	HeartbeatRate  *int `hcl:"heartbeat_rate,optional"`  // heartbeats a second of one host; faster ones wait
	MessageBytes   *int `hcl:"message_bytes,optional"`   // of one message of a call
	SessionMessage *int `hcl:"session_message,optional"` // bytes of one message of a host's session
}

// limits returns the server's limits, or every fault of the block, each with
// its field and value. A nil block has every default.
func (c *LimitsConfig) limits() (server.Limits, error) {
	l := server.Default().Limits
	if c == nil {
		return l, nil
	}
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	batch := int(l.BatchBytes)
	for _, f := range []struct {
		name     string
		given    *int
		into     *int
		min, max int
	}{
		{"requests", c.Requests, &l.Requests, 1, 1 << 20},
		{"client_requests", c.ClientRequests, &l.ClientRequests, 1, 1 << 20},
		{"reads", c.Reads, &l.Reads, 1, 1 << 20},
		{"client_reads", c.ClientReads, &l.ClientReads, 1, 1 << 20},
		{"client_rate", c.ClientRate, &l.ClientRate, 1, 1_000_000},
		{"client_burst", c.ClientBurst, &l.ClientBurst, 1, 1_000_000},
		{"sessions", c.Sessions, &l.Sessions, 1, 1 << 20},
		{"client_sessions", c.ClientSessions, &l.ClientSessions, 1, 1 << 20},
		{"batch_bytes", c.BatchBytes, &batch, 1 << 20, 64 << 30},
		{"heartbeat_rate", c.HeartbeatRate, &l.BeatsPerSecond, 11, 10_000}, // hosts with pools beat ten times a second
		{"message_bytes", c.MessageBytes, &l.CallBytes, 32 << 10, 4 << 20}, // a backup's chunk, a case with all its evidence
		{"session_message", c.SessionMessage, &l.SessionBytes, 512 << 10, 16 << 20},
	} {
		if f.given == nil {
			continue
		}
		if *f.given < f.min || *f.given > f.max {
			fault("%s: want %d to %d, got %d", f.name, f.min, f.max, *f.given)
		}
		*f.into = *f.given
	}
	l.BatchBytes = int64(batch)
	for _, f := range []struct {
		part, whole string
		a, b        int
	}{
		{"client_requests", "requests", l.ClientRequests, l.Requests}, {"reads", "requests", l.Reads, l.Requests},
		{"client_reads", "reads", l.ClientReads, l.Reads}, {"client_sessions", "sessions", l.ClientSessions, l.Sessions},
	} {
		if f.a > f.b {
			fault("%s: want at most %s, which is %d, got %d", f.part, f.whole, f.b, f.a)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return l, fmt.Errorf("limits: %w", err)
	}
	return l, nil
}
