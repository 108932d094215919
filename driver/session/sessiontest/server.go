// Package sessiontest is a settlement server for the driver's tests: it speaks
// the real protocol over a real connection, checks every signature, judges
// records as the ledger does, and misbehaves when told to. It keeps no money.
package sessiontest

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
	"github.com/joulecloud/joule/settlement/wire"
)

// Action is what the server does with a batch.
type Action struct {
	Before time.Duration // wait before doing anything
	Error  *joulev1.Error
	Apply  bool // apply it
	Acks   int  // how often to acknowledge it
	Cut    bool // end the session after that
}

// Normal applies a batch and acknowledges it once.
var Normal = Action{Apply: true, Acks: 1}

// Server is the test server. Its hooks may be changed by Set.
type Server struct {
	addr string

	mu       sync.Mutex
	srv      *http.Server
	listener net.Listener
	hooks    Hooks
	keys     map[string]ed25519.PublicKey
	leases   map[wire.LeaseID]*Lease
	byKey    map[string]wire.LeaseID
	streams  map[*stream]bool
	closed   []wire.LeaseID
	batches  int
	sessions int
	problems []string
	changed  chan struct{} // closed and replaced at each change
}

// Hooks are how a test makes the server misbehave. A nil hook is good
// behaviour.
type Hooks struct {
	HeartbeatMs, CheckpointMs int64
	GPUs                      uint32 // granted to each lease

	Open  func(*joulev1.OpenLeaseRequest) error
	Close func(lease wire.LeaseID) error
	Hello func(*joulev1.Hello) error
	// Batch is called with the number of the batch since the server's start.
	Batch func(n int, b *wire.UsageBatch) Action
	Beat  func(*joulev1.Heartbeat) (ack bool)
}

// Lease is what the server knows of a lease.
type Lease struct {
	ID       wire.LeaseID
	Host     string
	Key      string        // alloc/task/invocation
	Accepted []wire.Record // in order
	Statuses map[joulev1.RecordStatus]int
	Beat     *joulev1.LeaseTotals // of the last heartbeat
}

// Last is the last accepted record; zero if there is none.
func (l Lease) Last() wire.Record {
	if len(l.Accepted) == 0 {
		return wire.Record{}
	}
	return l.Accepted[len(l.Accepted)-1]
}

type stream struct {
	mu   sync.Mutex // of sending
	over bool       // the handler has returned: nothing may be sent
	bidi *connect.BidiStream[joulev1.SessionUp, joulev1.SessionDown]
	cut  context.CancelFunc
}

func (st *stream) send(m *joulev1.SessionDown) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.over {
		return errors.New("the session is over")
	}
	return st.bidi.Send(m)
}

// New starts a server on a free port of the loopback interface. It ends with
// the test, which fails if the server met a protocol violation.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{
		keys:    map[string]ed25519.PublicKey{},
		leases:  map[wire.LeaseID]*Lease{},
		byKey:   map[string]wire.LeaseID{},
		streams: map[*stream]bool{},
		changed: make(chan struct{}),
		hooks:   Hooks{HeartbeatMs: 50},
	}
	s.addr = "127.0.0.1:0"
	s.Start(t)
	t.Cleanup(func() {
		s.Stop()
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, p := range s.problems {
			t.Errorf("settlement server: %s", p)
		}
	})
	return s
}

// Handler returns the server's HTTP handler.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(joulev1connect.NewHostServiceHandler(s))
	return mux
}

// Start listens again after Stop, on the same port.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	s.addr = l.Addr().String()
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{Handler: s.Handler(), Protocols: &protocols}
	s.mu.Lock()
	s.srv, s.listener = srv, l
	s.mu.Unlock()
	go srv.Serve(l)
}

// Stop cuts every connection and stops listening. What the server knows stays.
func (s *Server) Stop() {
	s.mu.Lock()
	srv, l := s.srv, s.listener
	s.mu.Unlock()
	srv.Close()
	l.Close() // the server may not have got as far as taking it
}

// URL is where the server listens.
func (s *Server) URL() string { return "http://" + s.addr }

// Enroll makes the host's key known.
func (s *Server) Enroll(host string, key ed25519.PublicKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[host] = key
}

// Set changes the hooks.
func (s *Server) Set(change func(*Hooks)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.hooks)
}

// Lease returns a copy of what is known of the lease opened under
// alloc/task/invocation.
func (s *Server) Lease(key string) (Lease, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.leases[s.byKey[key]]
	if l == nil {
		return Lease{}, false
	}
	c := *l
	c.Accepted, c.Statuses = slices.Clone(l.Accepted), maps.Clone(l.Statuses)
	return c, true
}

// AddLease makes a lease known without a request for it.
func (s *Server) AddLease(id wire.LeaseID, host, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leases[id] = &Lease{ID: id, Host: host, Key: key, Statuses: map[joulev1.RecordStatus]int{}}
	s.byKey[key] = id
}

// Closed lists the leases closed by request, in order.
func (s *Server) Closed() []wire.LeaseID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.closed)
}

// Sessions is the number of sessions welcomed so far.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions
}

// Command sends a command down every session.
func (s *Server) Command(lease wire.LeaseID, reason joulev1.StopReason) {
	for _, st := range s.open() {
		// A session that is ending will not deliver it; tests wait for the effect.
		_ = st.send(&joulev1.SessionDown{Message: &joulev1.SessionDown_LeaseCommand{
			LeaseCommand: &joulev1.LeaseCommand{LeaseId: uint64(lease), Stop: reason},
		}})
	}
}

// CutAll ends every session.
func (s *Server) CutAll() {
	for _, st := range s.open() {
		st.cut()
	}
}

func (s *Server) open() []*stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.streams))
}

// Await waits until ok, which is tried after each change. It fails the test
// after ten seconds.
func (s *Server) Await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	limit := time.After(10 * time.Second)
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-time.After(20 * time.Millisecond): // ok may look at other things than the server
		case <-limit:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// note wakes Await. The caller holds mu.
func (s *Server) note() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Server) violation(format string, args ...any) {
	s.problems = append(s.problems, fmt.Sprintf(format, args...))
}
