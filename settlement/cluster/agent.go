package cluster

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/joulecloud/joule/raftstore"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/node"
)

// Config holds an agent's values.
type Config struct {
	ID      string // of this server, never changed
	Name    string // for people
	API     string // URL at which clients reach this server
	Version string

	// BootstrapExpect is how many servers begin a new cluster; 0: this one
	// joins a cluster that is there.
	BootstrapExpect int
	RetryJoin       []string // addresses (host:port) of servers, this one's own allowed

	// RemoveDeadAfter is after which silence the leader takes a server out of
	// the cluster, provided that BootstrapExpect healthy voters are left; 0:
	// never.
	RemoveDeadAfter time.Duration

	TempDir string // for a backup that is restored; "": the system's

	// MembersFile remembers the others' addresses over restarts.
	MembersFile string

	Interval     time.Duration // between two rounds of questions to the others
	StuckAfter   time.Duration // a leader that applies nothing for so long stops
	PromoteAfter time.Duration // for which a server without a vote must have kept up

	// Fatal is told why this server must stop. Diverged: its history or its
	// state is not the others'.
	Fatal    func(error)
	Diverged func(error)
}

// Default returns the values that rarely change.
func Default() Config {
	return Config{Interval: time.Second, PromoteAfter: 2 * time.Second, StuckAfter: stuckAfter}
}

// Agent is this server among the others. It is safe for concurrent use.
type Agent struct {
	cfg    Config
	mux    *raftstore.Mux
	log    *slog.Logger
	http   *http.Server
	client *http.Client
	served chan struct{}

	mu       sync.Mutex
	node     *node.Node             // nil: not open yet
	view     []*joulev1.ServerEntry // before there is a node: whom it would begin with
	peers    map[string]*peer       // by id: the others
	written  string                 // what MembersFile holds
	diverged bool
	watch    watchdog
	heard    func(host uint32) time.Duration // nil: not known yet
	outsider int                             // rounds in which the leader did not know this server
}

// Start serves PeerService on mux, which it does not close.
func Start(cfg Config, mux *raftstore.Mux, log *slog.Logger) *Agent {
	a := &Agent{cfg: cfg, mux: mux, log: log, peers: map[string]*peer{}, served: make(chan struct{})}
	a.client = newHTTPClient(mux)
	a.http = &http.Server{
		Handler:           a.handler(),
		Protocols:         new(http.Protocols),
		ReadHeaderTimeout: 10 * time.Second,
		HTTP2:             &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	a.http.Protocols.SetUnencryptedHTTP2(true) // TLS, where there is any, is under the mux
	go func() {
		defer close(a.served)
		if err := a.http.Serve(mux.Peer()); !errors.Is(err, http.ErrServerClosed) {
			a.log.LogAttrs(context.Background(), slog.LevelError, "the other servers are served no more", slog.Any("error", err))
		}
	}()
	return a
}

// Close stops serving the others.
func (a *Agent) Close() error {
	err := a.http.Close()
	<-a.served
	a.client.CloseIdleConnections()
	return err
}

// Attach tells the agent that the node is open.
func (a *Agent) Attach(n *node.Node) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.node = n
}

func (a *Agent) attached() *node.Node {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.node
}

// describe is this server's description of itself.
func (a *Agent) describe() *joulev1.DescribeResponse {
	a.mu.Lock()
	n, view := a.node, a.view
	a.mu.Unlock()
	d := &joulev1.DescribeResponse{
		Id: a.cfg.ID, Name: a.cfg.Name, Address: a.mux.Addr(), Api: a.cfg.API, Version: a.cfg.Version,
		BootstrapExpect: uint32(a.cfg.BootstrapExpect), Servers: view, State: stateStarting, LastContactMs: -1,
	}
	if n == nil {
		return d
	}
	st := n.Store().Stats()
	d.Servers = entries(n.Store().Peers())
	d.Member = len(d.Servers) > 0
	d.State = states[st.State]
	d.LeaderId, d.LeaderAddress = st.LeaderID, st.LeaderAddr
	d.Term, d.LastIndex, d.CommitIndex = st.Term, st.LastIndex, st.CommitIndex
	d.AppliedIndex, d.SnapshotIndex = st.AppliedIndex, st.SnapshotIndex
	if st.LastContact >= 0 {
		d.LastContactMs = st.LastContact.Milliseconds()
	}
	block, digest := n.Position()
	d.Block, d.Digest = block, digest[:]
	for _, h := range n.StateHashes() {
		d.Hashes = append(d.Hashes, &joulev1.StateHash{Block: h.Block, Hash: h.Hash[:]})
	}
	return d
}

// The states of a server, as they are told.
const (
	stateStarting    = "starting"
	stateUnreachable = "unreachable"
	stateLeader      = "leader"
)

var states = map[string]string{
	"Follower": "follower", "Candidate": "candidate", "Leader": stateLeader, "Shutdown": "stopped",
}

func entries(peers []raftstore.Peer) []*joulev1.ServerEntry {
	var out []*joulev1.ServerEntry
	for _, p := range peers {
		out = append(out, &joulev1.ServerEntry{Id: p.ID, Address: p.Addr, Voter: !p.Nonvoter})
	}
	return out
}
