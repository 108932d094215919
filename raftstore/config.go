package raftstore

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/types"
)

// EntryBytesMax is the most that one entry may carry. The log store's own
// limit is 64 MiB; entries are meant to stay below 256 KiB.
const EntryBytesMax = 16 << 20

// Timeouts that Open chooses where Config leaves them zero. Heartbeats wait
// behind a follower's fsync (see the package comment), hence seconds in a
// cluster. A lone server waits for nobody, so it may elect itself at once.
const (
	ClusterHeartbeatTimeout = 2 * time.Second
	ClusterElectionTimeout  = 2 * time.Second
	ClusterLeaderLease      = time.Second
	AloneTimeout            = 100 * time.Millisecond
)

// Peer is one server of the cluster.
type Peer struct {
	ID       string
	Addr     string // host:port of its Raft transport
	Nonvoter bool   // receives entries but has no vote
}

// Transport is what the store needs of an injected transport. Both
// raft.NetworkTransport and raft.InmemTransport have it. The store closes it.
type Transport interface {
	raft.Transport
	raft.WithPreVote
	raft.WithClose
}

// LogStore keeps the log and the Raft term and vote. It must be monotonic in
// raft's sense. The store doesn't close it.
type LogStore interface {
	raft.LogStore
	raft.StableStore
}

// LogDisk is where the log's files are. A test gives one that breaks.
type LogDisk struct {
	VFS          types.VFS       // segments
	Meta         types.MetaStore // list of segments, Raft term and vote; the store closes it
	Mark         MarkFile        // the store closes it
	SegmentBytes int
}

// Config says how a store is opened.
type Config struct {
	ID            string // of this server, never changed; required
	Dir           string // log, snapshots, lock file; created if absent; required
	BindAddr      string // host:port to listen on; port 0 picks one
	AdvertiseAddr string // host:port that the others dial; "": its Bootstrap address, else the bound one

	// Bootstrap is the first configuration, used only where Dir holds no state.
	// It may be the same on every server of a new cluster. This server must be
	// in it, with Addr "" for "as advertised". Empty: wait to be added.
	Bootstrap []Peer

	// Zero: AloneTimeout when Bootstrap names this server alone, otherwise the
	// Cluster constants. All three are given or none.
	HeartbeatTimeout   time.Duration
	ElectionTimeout    time.Duration
	LeaderLeaseTimeout time.Duration

	CommitTimeout    time.Duration
	EnqueueTimeout   time.Duration // how long Propose waits for room in the queue
	RPCTimeout       time.Duration // of one call to a peer; snapshots get it once per 256 KiB
	CloseGrace       time.Duration // how long Close waits for proposals in flight
	MaxAppendEntries int           // entries in one write, call and apply batch; at most 1024
	LogCacheEntries  int           // recent entries kept in memory

	SnapshotInterval  time.Duration
	SnapshotThreshold uint64 // entries since the last snapshot
	SnapshotsRetained int
	// TrailingLogs are the entries kept behind a snapshot. A follower that lags
	// by more needs a whole snapshot, and while that is sent and restored the
	// log moves on; so at least 4 × (seconds to send and restore) × entries/s,
	// or snapshots follow each other without end.
	TrailingLogs uint64

	// TLS, if set, is used for both directions and must ask for and verify the
	// other side's certificate.
	TLS *tls.Config

	// Fatal is called once, with the first write error or a failed restore, on
	// the goroutine that met it, and is expected to end the process. If it
	// returns, every later call fails with ErrFailed (after a failed write of
	// the Raft term, the library panics). Required.
	Fatal func(error)

	Mux       *Mux               // instead of BindAddr, AdvertiseAddr and TLS; the store doesn't close it
	Listener  net.Listener       // instead of BindAddr; the store closes it
	Transport Transport          // instead of a network one
	LogStore  LogStore           // instead of a raft-wal in Dir
	LogDisk   *LogDisk           // where its own raft-wal is, instead of Dir
	Snapshots raft.SnapshotStore // instead of files in Dir

	segmentBytes int // of raft-wal, in this package's tests; 0: its default
}

// Default returns a Config to which ID, Dir, Fatal and Bootstrap are to be
// added. The trailing log covers 17 s of sending and restoring at 300 entries
// a second.
func Default() Config {
	return Config{
		BindAddr:          "127.0.0.1:0",
		CommitTimeout:     50 * time.Millisecond,
		EnqueueTimeout:    10 * time.Second,
		RPCTimeout:        10 * time.Second,
		CloseGrace:        2 * time.Second,
		MaxAppendEntries:  512,
		LogCacheEntries:   512,
		SnapshotInterval:  2 * time.Minute,
		SnapshotThreshold: 8192,
		SnapshotsRetained: 2,
		TrailingLogs:      20480,
	}
}

// alone reports whether Bootstrap names this server and no other.
func (c *Config) alone() bool { return len(c.Bootstrap) == 1 && c.Bootstrap[0].ID == c.ID }

// withTimeouts fills in the timeouts that were left to the server count, and
// reports whether they are those of a lone server.
func (c Config) withTimeouts() (Config, bool) {
	if c.HeartbeatTimeout != 0 || c.ElectionTimeout != 0 || c.LeaderLeaseTimeout != 0 {
		return c, false
	}
	if c.alone() {
		c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = AloneTimeout, AloneTimeout, AloneTimeout
		return c, true
	}
	c.HeartbeatTimeout, c.ElectionTimeout = ClusterHeartbeatTimeout, ClusterElectionTimeout
	c.LeaderLeaseTimeout = ClusterLeaderLease
	return c, false
}

// Validate reports every fault at once, each naming the field and the value.
func (c *Config) Validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("raft."+field+": "+format, args...))
	}
	if c.ID == "" {
		bad("id", "must be set")
	}
	if c.Dir == "" {
		bad("dir", "must be set")
	}
	if c.Fatal == nil {
		bad("fatal", "must be set")
	}
	if c.Listener == nil && c.Transport == nil && c.Mux == nil {
		if _, _, err := net.SplitHostPort(c.BindAddr); err != nil {
			bad("bind_addr", "must be host:port (got %q)", c.BindAddr)
		}
	}
	if c.AdvertiseAddr != "" {
		if host, port, err := net.SplitHostPort(c.AdvertiseAddr); err != nil || host == "" || port == "" || port == "0" {
			bad("advertise_addr", "must be host:port with a host and a port (got %q)", c.AdvertiseAddr)
		}
	}
	c.validateBootstrap(bad)
	c.validateTimeouts(bad)
	for _, d := range []struct {
		field string
		value time.Duration
	}{
		{"commit_timeout", c.CommitTimeout}, {"enqueue_timeout", c.EnqueueTimeout}, {"rpc_timeout", c.RPCTimeout},
		{"close_grace", c.CloseGrace}, {"snapshot_interval", c.SnapshotInterval},
	} {
		if d.value < time.Millisecond {
			bad(d.field, "must be at least 1ms (got %s)", d.value)
		}
	}
	if c.MaxAppendEntries < 1 || c.MaxAppendEntries > 1024 {
		bad("max_append_entries", "must be 1 to 1024 (got %d)", c.MaxAppendEntries)
	}
	if c.LogCacheEntries < 1 {
		bad("log_cache_entries", "must be at least 1 (got %d)", c.LogCacheEntries)
	}
	if c.SnapshotThreshold < 1 {
		bad("snapshot_threshold", "must be at least 1 (got %d)", c.SnapshotThreshold)
	}
	if c.SnapshotsRetained < 1 {
		bad("snapshots_retained", "must be at least 1 (got %d)", c.SnapshotsRetained)
	}
	if c.TLS != nil {
		validateTLS(c.TLS, bad)
	}
	return errors.Join(errs...)
}

// validateTLS refuses what would let a stranger speak Raft.
func validateTLS(t *tls.Config, bad func(field, format string, args ...any)) {
	if t.ClientAuth != tls.RequireAndVerifyClientCert || t.ClientCAs == nil || t.RootCAs == nil {
		bad("tls", "must require and verify client certificates and have client and root certificate pools")
	}
	if t.InsecureSkipVerify {
		bad("tls", "must verify the server's certificate")
	}
	if len(t.Certificates) == 0 && (t.GetCertificate == nil || t.GetClientCertificate == nil) {
		bad("tls", "must have a certificate for both directions")
	}
}

func (c *Config) validateBootstrap(bad func(field, format string, args ...any)) {
	ids, addrs, self := map[string]bool{}, map[string]bool{}, len(c.Bootstrap) == 0
	for i, p := range c.Bootstrap {
		field := fmt.Sprintf("bootstrap[%d]", i)
		switch {
		case p.ID == "":
			bad(field+".id", "must be set")
		case ids[p.ID]:
			bad(field+".id", "is given twice (got %q)", p.ID)
		}
		ids[p.ID] = true
		if p.ID == c.ID {
			self = true
			if p.Nonvoter {
				bad(field+".nonvoter", "must be false for this server, or it can't bootstrap (got true)")
			}
			if p.Addr == "" {
				continue
			}
		}
		if host, port, err := net.SplitHostPort(p.Addr); c.Transport == nil && (err != nil || host == "" || port == "" || port == "0") {
			bad(field+".addr", "must be host:port with a host and a port (got %q)", p.Addr)
		} else if addrs[p.Addr] {
			bad(field+".addr", "is given twice (got %q)", p.Addr)
		}
		addrs[p.Addr] = true
	}
	if !self {
		bad("bootstrap", "must name this server (id %q)", c.ID)
	}
}

func (c *Config) validateTimeouts(bad func(field, format string, args ...any)) {
	h, e, l := c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout
	if h == 0 && e == 0 && l == 0 {
		return
	}
	if h <= 0 || e <= 0 || l <= 0 {
		bad("heartbeat_timeout, election_timeout, leader_lease_timeout", "must be all given or all left out (got %s, %s, %s)", h, e, l)
		return
	}
	if l < 5*time.Millisecond {
		bad("leader_lease_timeout", "must be at least 5ms (got %s)", l)
	}
	if l > h {
		bad("leader_lease_timeout", "must not exceed heartbeat_timeout %s (got %s)", h, l)
	}
	if e < h {
		bad("election_timeout", "must be at least heartbeat_timeout %s (got %s)", h, e)
	}
}

// raftConfig translates to the library's own.
func (c *Config) raftConfig() *raft.Config {
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(c.ID)
	rc.HeartbeatTimeout = c.HeartbeatTimeout
	rc.ElectionTimeout = c.ElectionTimeout
	rc.LeaderLeaseTimeout = c.LeaderLeaseTimeout
	rc.CommitTimeout = c.CommitTimeout
	rc.MaxAppendEntries = c.MaxAppendEntries
	rc.BatchApplyCh = true
	rc.SnapshotInterval = c.SnapshotInterval
	rc.SnapshotThreshold = c.SnapshotThreshold
	rc.TrailingLogs = c.TrailingLogs
	rc.NoLegacyTelemetry = true
	rc.ShutdownOnRemove = false // Close alone shuts down, and waits
	return rc
}
