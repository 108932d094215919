// Package server serves the settlement API (Connect: gRPC, gRPC-Web and JSON
// on one port) over a node. It holds no rules: it turns requests into commands,
// checks who asks, and turns results and journal entries into answers.
package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
	"github.com/joulecloud/joule/settlement/journal"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/node"
	"github.com/joulecloud/joule/settlement/nomad"
	"github.com/joulecloud/joule/settlement/refusal"
)

// Node is the replicated ledger behind the server.
type Node interface {
	// Submit runs one command and returns its result once it is committed.
	Submit(ctx context.Context, env ledger.Envelope) (ledger.Result, error)
	// Read runs fn on the ledger, which holds still meanwhile. fn must not
	// keep the ledger.
	Read(ctx context.Context, fn func(*ledger.Ledger) error) error
	// ReadDigest is Read with the digest of that very state.
	ReadDigest(ctx context.Context, fn func(*ledger.Ledger, ledger.Digest) error) error
	Status() node.Status
	// Sums adds up all balances of each currency, off the ledger's lock.
	Sums() (usd, joule int64)
}

// History is the journal as the server reads it.
type History interface {
	EntriesOfLease(lease ledger.LeaseID, r journal.Range) ([]ledger.Entry, error)
	EntriesOfAccounts(accounts []ledger.AccountID, r journal.Range) ([]ledger.Entry, error)
	BalanceAt(account ledger.AccountID, at ledger.Time) (int64, error)
	BalanceAfter(account ledger.AccountID, entry uint64) (int64, error)
	LeasesOfCustomer(customer ledger.CustomerID, after ledger.LeaseID, limit int) ([]ledger.LeaseID, error)
	LeasesOfHost(host ledger.HostID, after ledger.LeaseID, limit int) ([]ledger.LeaseID, error)
	Condense(leases []ledger.LeaseID) (*journal.Condensed, error)
}

// Allocations says what Nomad knows of a task.
type Allocations interface {
	Task(ctx context.Context, allocID, task string) (*nomad.Task, error)
}

// Config holds the server's values.
type Config struct {
	Name       string // of this server, shown in Welcome and status
	Version    string
	Heartbeat  time.Duration // what hosts are asked to keep
	Checkpoint time.Duration
	Limits     Limits
	Tokens     Tokens // nil: there are none, and loopback alone is answered

	// Metrics makes what is served at /metrics; nil: nothing. It is for
	// operators, or where MetricsPublic is set for everybody.
	Metrics       func(*Server) http.Handler
	MetricsPublic bool

	Cluster Cluster // nil: this server is alone and has nothing to say of others
	TempDir string  // for a backup that is restored; "": the system's
}

// Default returns the values that the design names.
func Default() Config {
	return Config{Heartbeat: time.Second, Checkpoint: 2 * time.Second, Limits: defaultLimits()}
}

// Server serves the services for people, hosts and operators. It is safe for concurrent use.
type Server struct {
	cfg      Config
	node     Node
	history  History
	allocs   Allocations
	tokens   Tokens
	limiter  *limiter
	sessions *sessions
	now      func() time.Time
	log      *slog.Logger
}

// New returns a server; Handler gives what to serve.
func New(cfg Config, n Node, h History, a Allocations, log *slog.Logger) *Server {
	return &Server{cfg: cfg, node: n, history: h, allocs: a, tokens: cfg.Tokens,
		limiter: newLimiter(cfg.Limits, time.Now), sessions: newSessions(), now: time.Now, log: log}
}

// Handler returns the HTTP handler of the API. Serve it with HTTP/2 enabled
// (h2c or TLS): sessions need it. What servers say to each other is not here:
// see package cluster.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	opts := []connect.HandlerOption{
		connect.WithConditionalHandlerOptions(func(spec connect.Spec) []connect.HandlerOption {
			if spec.Procedure == joulev1connect.HostServiceSessionProcedure {
				// Acknowledgements are numbers that hardly compress, and come often.
				return []connect.HandlerOption{connect.WithReadMaxBytes(s.cfg.Limits.SessionBytes), connect.WithCompressMinBytes(1 << 20)}
			}
			return []connect.HandlerOption{connect.WithReadMaxBytes(s.cfg.Limits.CallBytes)}
		}),
		connect.WithInterceptors(refusal.Seen(), consistencyInterceptor{s}, errorInterceptor{s.log}, accessInterceptor{s}),
		connect.WithRecover(func(ctx context.Context, spec connect.Spec, _ http.Header, p any) error {
			s.log.LogAttrs(ctx, slog.LevelError, "panic in handler",
				slog.String("procedure", spec.Procedure), slog.Any("panic", p))
			return connect.NewError(connect.CodeInternal, fmt.Errorf("internal error"))
		}),
	}
	mux.Handle(joulev1connect.NewSettlementServiceHandler(s, opts...))
	mux.Handle(joulev1connect.NewHostServiceHandler(hostService{s}, opts...))
	mux.Handle(joulev1connect.NewOperatorServiceHandler(operatorService{s}, opts...))
	outer := http.NewServeMux()
	// Whoever restarts or replaces servers has no token.
	outer.Handle("GET /healthz", probe(s.health))
	outer.Handle("GET /readyz", probe(s.health))
	outer.Handle("GET /livez", probe(s.live))
	if s.cfg.Metrics != nil {
		outer.Handle("GET /metrics", probe(s.forMetrics(s.cfg.Metrics(s))))
	}
	outer.Handle("/", s.limited(refusal.Handler(mux)))
	return outer
}

// Close ends every session; their hosts connect again elsewhere.
func (s *Server) Close() { s.sessions.close() }

// errorInterceptor turns the errors of unary handlers into their form outside,
// in one place.
type errorInterceptor struct{ log *slog.Logger }

func (i errorInterceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		resp, err := next(ctx, req)
		if err != nil {
			return nil, connectError(ctx, i.log, err)
		}
		return resp, nil
	}
}

func (i errorInterceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (i errorInterceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		if err := next(ctx, conn); err != nil {
			return connectError(ctx, i.log, err)
		}
		return nil
	}
}
