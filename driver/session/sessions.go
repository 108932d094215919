package session

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
	"github.com/joulecloud/joule/settlement/wire"
)

// Host is what the sessions speak for. Its methods are called from several
// goroutines and must return quickly.
type Host interface {
	// Totals is what each running lease has used so far.
	Totals() []Totals
	// Pending returns up to limit records not acknowledged, each lease's in
	// order.
	Pending(limit int) ([]wire.Record, error)
	// Settled takes final outcomes: those records need not be kept.
	Settled([]Outcome) error
	// Stop is the settlement cluster's command to stop a lease's task.
	Stop(wire.LeaseID, joulev1.StopReason)
	// CheckpointEvery is a server's wish of how often the meters are read.
	CheckpointEvery(time.Duration)
}

// Totals is what a lease has used so far, for a heartbeat.
type Totals struct {
	Lease  wire.LeaseID
	WallMs uint64
	CPUMs  uint64
}

// Outcome is what became of one record. It is final.
type Outcome struct {
	Lease  wire.LeaseID
	Seq    uint64
	Status joulev1.RecordStatus
}

// Status is the state of the session to one server.
type Status struct {
	URL       string
	Connected bool
	Err       error // of the last attempt; nil while connected
}

// Grant is a lease as the settlement cluster opened it.
type Grant struct {
	Lease     wire.LeaseID   `json:"lease"`
	Epoch     uint32         `json:"epoch"`
	HostID    wire.HostID    `json:"host_id"`
	Prices    wire.Prices    `json:"prices"`
	Hold      int64          `json:"hold"` // nUSD, or nJ for customers who pay in JOULE
	Resources wire.Resources `json:"resources"`
}

// Sessions are a host's sessions to all its servers. All methods are safe for
// concurrent use.
type Sessions struct {
	cfg       Config
	host      Host
	log       *slog.Logger
	transport *http.Transport
	servers   []*server

	// sending is held by the one session that has a batch under way.
	sending chan struct{}
}

type server struct {
	url    string
	client joulev1connect.HostServiceClient
	wake   chan struct{}

	mu     sync.Mutex
	status Status
}

// New returns the sessions of cfg, none of which is open before Run.
func New(cfg Config, host Host, log *slog.Logger) (*Sessions, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	transport, err := newTransport(cfg.CAFile)
	if err != nil {
		return nil, err
	}
	s := &Sessions{cfg: cfg, host: host, log: log, transport: transport, sending: make(chan struct{}, 1)}
	client := &http.Client{Transport: transport}
	for _, u := range cfg.Servers {
		u = strings.TrimRight(u, "/")
		s.servers = append(s.servers, &server{
			url:    u,
			client: joulev1connect.NewHostServiceClient(client, u),
			wake:   make(chan struct{}, 1),
			status: Status{URL: u, Err: errors.New("not tried yet")},
		})
	}
	return s, nil
}

// Run keeps the sessions until ctx ends. It returns when all of them are
// closed.
func (s *Sessions) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, srv := range s.servers {
		wg.Go(func() { s.keep(ctx, srv) })
	}
	wg.Wait()
	s.transport.CloseIdleConnections()
}

// Wake says that there are new records to send. It doesn't block.
func (s *Sessions) Wake() {
	for _, srv := range s.servers {
		select {
		case srv.wake <- struct{}{}:
		default:
		}
	}
}

// Status returns the state of each session, in the order of the
// configuration.
func (s *Sessions) Status() []Status {
	out := make([]Status, len(s.servers))
	for i, srv := range s.servers {
		srv.mu.Lock()
		out[i] = srv.status
		srv.mu.Unlock()
	}
	return out
}

// keep makes one session after the other until ctx ends.
func (s *Sessions) keep(ctx context.Context, srv *server) {
	log := s.log.With("server", srv.url)
	pause := s.cfg.BackoffMin
	said := ""
	for ctx.Err() == nil {
		worked, err := s.session(ctx, srv, func() {
			log.Info("session open")
			said = ""
		})
		if ctx.Err() != nil {
			break
		}
		srv.set(false, err)
		if worked {
			pause = s.cfg.BackoffMin
		}
		// Say each failure once, not at every try.
		if err.Error() != said {
			log.Warn("session lost or not made, will try again", "error", err)
			said = err.Error()
		}
		if !wait(ctx, jitter(pause)) {
			break
		}
		pause = min(2*pause, s.cfg.BackoffMax)
	}
	srv.set(false, errors.New("closed"))
}

func (srv *server) set(connected bool, err error) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.status = Status{URL: srv.url, Connected: connected, Err: err}
}

func (srv *server) connected() bool {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	return srv.status.Connected
}

// jitter returns a random time from half of d to d, so that hosts which lost
// the same server don't come back in step.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

// wait waits for d; false if ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// auth signs a unary request.
func (s *Sessions) auth(method, body string) *joulev1.HostAuth {
	ms := s.cfg.Now().UnixMilli()
	return &joulev1.HostAuth{
		Host:      s.cfg.Host,
		UnixMs:    ms,
		Signature: ed25519.Sign(s.cfg.Key, wire.HostRequestSigningBytes(method, s.cfg.Host, ms, body)),
	}
}

// OpenLease opens a lease for one invocation of a Nomad task, trying each
// server until one answers or ctx ends. The error is a *RefusedError or an
// *UnavailableError. It is idempotent.
func (s *Sessions) OpenLease(ctx context.Context, allocID, task, invocation string) (*Grant, error) {
	var grant *Grant
	err := s.each(ctx, func(ctx context.Context, srv *server) error {
		resp, err := srv.client.OpenLease(ctx, &joulev1.OpenLeaseRequest{
			Auth:       s.auth("OpenLease", wire.OpenLeaseBody(allocID, task, invocation)),
			AllocId:    allocID,
			Task:       task,
			Invocation: invocation,
		})
		if err != nil {
			return classify(srv.url, err)
		}
		if resp.GetLeaseId() == 0 {
			return &attemptError{srv.url, true, errors.New("answered with a lease that has no id")}
		}
		p, r := resp.GetPrices(), resp.GetResources()
		grant = &Grant{
			Lease:  wire.LeaseID(resp.GetLeaseId()),
			Epoch:  resp.GetEpoch(),
			HostID: wire.HostID(resp.GetHostId()),
			Hold:   resp.GetHold(),
			Resources: wire.Resources{
				MilliCores: r.GetMilliCores(), MemoryMiB: r.GetMemoryMib(), GPUs: r.GetGpus(),
			},
		}
		setPrices(&grant.Prices, p)
		return nil
	})
	return grant, err
}

func setPrices(dst *wire.Prices, p *joulev1.Prices) {
	price(&dst.Base, p.GetBaseNusdPerHour())
	price(&dst.CPU, p.GetCpuNusdPerHour())
	price(&dst.GPU, p.GetGpuNusdPerHour())
	price(&dst.Memory, p.GetMemoryNusdPerHour())
}

// price converts to the ledger's amount, whose type the driver can't name.
func price[T ~int64](dst *T, v int64) { *dst = T(v) }

// CloseLease ends a lease whose task never ran. Errors as those of OpenLease.
// It is idempotent.
func (s *Sessions) CloseLease(ctx context.Context, lease wire.LeaseID) error {
	return s.each(ctx, func(ctx context.Context, srv *server) error {
		_, err := srv.client.CloseLease(ctx, &joulev1.HostCloseLeaseRequest{
			Auth:    s.auth("CloseLease", wire.CloseLeaseBody(uint64(lease))),
			LeaseId: uint64(lease),
		})
		if err != nil {
			return classify(srv.url, err)
		}
		return nil
	})
}

// each calls one server after the other, those with a session first, round
// after round, until one answers or refuses or ctx ends.
func (s *Sessions) each(ctx context.Context, call func(context.Context, *server) error) error {
	last := make(map[string]error, len(s.servers))
	maybeDone := false
	pause := s.cfg.BackoffMin
	for {
		for _, wantConnected := range []bool{true, false} {
			for _, srv := range s.servers {
				if srv.connected() != wantConnected || ctx.Err() != nil {
					continue
				}
				err := s.attempt(ctx, srv, call)
				var attempt *attemptError
				if !errors.As(err, &attempt) {
					return err
				}
				maybeDone = maybeDone || attempt.maybeDone
				last[srv.url] = err
			}
		}
		if !wait(ctx, jitter(pause)) {
			break
		}
		pause = min(2*pause, s.cfg.BackoffMax)
	}
	var errs []string
	for _, srv := range s.servers {
		if err := last[srv.url]; err != nil {
			errs = append(errs, err.Error())
		}
	}
	if len(errs) == 0 {
		errs = append(errs, context.Cause(ctx).Error())
	}
	return &UnavailableError{MaybeDone: maybeDone, Err: errors.New(strings.Join(errs, "; "))}
}

func (s *Sessions) attempt(ctx context.Context, srv *server, call func(context.Context, *server) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.Attempt, fmt.Errorf("no answer within %v", s.cfg.Attempt))
	defer cancel()
	return call(ctx, srv)
}
