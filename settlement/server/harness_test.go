package server_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/joulecloud/joule/raftstore"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
	"github.com/joulecloud/joule/settlement/client"
	"github.com/joulecloud/joule/settlement/cluster"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/node"
	"github.com/joulecloud/joule/settlement/nomad"
	"github.com/joulecloud/joule/settlement/server"
	"github.com/joulecloud/joule/settlement/wire"
)

// allocations is what Nomad would answer, by allocation id.
type allocations struct {
	mu    sync.Mutex
	tasks map[string]*nomad.Task
	err   error
}

func (a *allocations) Task(_ context.Context, alloc, task string) (*nomad.Task, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return nil, a.err
	}
	if t := a.tasks[alloc]; t != nil && t.Name == task {
		return t, nil
	}
	return nil, fmt.Errorf("%w: allocation %q", nomad.ErrNoAllocation, alloc)
}

// fixture is a real server on a real node, with a Nomad that answers from a
// table.
type fixture struct {
	t      *testing.T
	dir    string
	tmp    string // for backups that are restored
	url    string
	node   *node.Node
	mux    *raftstore.Mux
	agent  *cluster.Agent
	srv    *server.Server
	http   *http.Server
	api    joulev1connect.SettlementServiceClient
	allocs *allocations
	key    ed25519.PrivateKey // of host h1
	other  ed25519.PrivateKey // of host h2

	offence     *joulev1.Evidence // see evidenced
	chargeEntry uint64

	configure func(*server.Config) // before the server is made; nil: nothing
}

func start(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: t.TempDir(), allocs: &allocations{tasks: map[string]*nomad.Task{}}}
	f.open()
	t.Cleanup(f.close)
	return f
}

func (f *fixture) open() {
	f.t.Helper()
	rc := raftstore.Default()
	rc.ID = "s1"
	rc.Bootstrap = []raftstore.Peer{{ID: "s1"}}
	rc.Fatal = func(err error) { f.t.Errorf("log store failed: %v", err) }
	log := slog.New(slog.DiscardHandler)
	var err error
	if f.mux, err = raftstore.ListenMux("127.0.0.1:0", "", nil); err != nil {
		f.t.Fatal(err)
	}
	rc.Mux = f.mux
	cc := cluster.Default()
	cc.ID, cc.Name, cc.Fatal, cc.Diverged = rc.ID, "s1", rc.Fatal, rc.Fatal
	f.agent = cluster.Start(cc, f.mux, log)
	if f.node, err = node.Open(node.Config{Raft: rc, DataDir: filepath.Join(f.dir, "data")}, log); err != nil {
		f.t.Fatal(err)
	}
	if err := f.node.WaitLeader(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	f.agent.Attach(f.node)
	f.tmp = f.t.TempDir()
	cfg := server.Default()
	cfg.Name, cfg.Cluster, cfg.TempDir = "s1", f.agent, f.tmp
	if f.configure != nil {
		f.configure(&cfg)
	}
	f.srv = server.New(cfg, f.node, f.node.Journal(), f.allocs, log)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	f.http = &http.Server{Handler: f.srv.Handler(), Protocols: new(http.Protocols)}
	f.http.Protocols.SetHTTP1(true)
	f.http.Protocols.SetUnencryptedHTTP2(true)
	go f.http.Serve(ln)
	f.url = "http://" + ln.Addr().String()
	if f.api, err = client.Dial(f.url, ""); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) close() {
	if f.node == nil {
		return
	}
	f.srv.Close()
	f.http.Close()
	for _, err := range []error{f.node.Close(), f.agent.Close(), f.mux.Close()} {
		if err != nil {
			f.t.Error(err)
		}
	}
	f.node = nil
}

// world fills the ledger: customer acme with 5 USD, hosts h1 and h2 with
// offers, a rate, a treasury, and allocation a1 of task main on h1.
func (f *fixture) world() {
	f.t.Helper()
	ctx := f.t.Context()
	_, err := f.api.CreateCustomer(ctx, &joulev1.CreateCustomerRequest{Key: "1", Name: "acme", Namespace: "acme"})
	f.ok(err)
	_, err = f.api.Deposit(ctx, &joulev1.DepositRequest{Key: "2", Customer: "acme", Currency: joulev1.Currency_CURRENCY_USD, Amount: 5_000_000_000, Ref: "p1"})
	f.ok(err)
	_, err = f.api.Mint(ctx, &joulev1.MintRequest{Key: "3", AmountNj: 1_000_000_000_000, Ref: "genesis"})
	f.ok(err)
	_, err = f.api.SetRate(ctx, &joulev1.SetRateRequest{Key: "4", NusdPerJoule: 50_000_000})
	f.ok(err)
	_, err = f.api.CreateSupplier(ctx, &joulev1.CreateSupplierRequest{Key: "5", Name: "lab"})
	f.ok(err)
	for _, h := range []struct {
		name string
		key  *ed25519.PrivateKey
	}{{"h1", &f.key}, {"h2", &f.other}} {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		f.ok(err)
		*h.key = private
		_, err = f.api.EnrollHost(ctx, &joulev1.EnrollHostRequest{Key: "e" + h.name, Name: h.name, Supplier: "lab", Class: "crowd", PublicKey: public})
		f.ok(err)
		_, err = f.api.SetOffer(ctx, &joulev1.SetOfferRequest{Key: "o" + h.name, Host: h.name, Prices: &joulev1.Prices{BaseNusdPerHour: 360_000_000}})
		f.ok(err)
	}
	f.allocs.tasks["a1"] = &nomad.Task{Namespace: "acme", Job: "job", Group: "group", Name: "main", Host: "h1", MilliCores: 2000, MemoryMiB: 64}
}

func (f *fixture) ok(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) hosts() joulev1connect.HostServiceClient {
	f.t.Helper()
	hc, err := client.HTTPClient(f.url, "")
	f.ok(err)
	f.t.Cleanup(hc.CloseIdleConnections)
	return joulev1connect.NewHostServiceClient(hc, f.url, connect.WithInterceptors(client.Errors(f.url)))
}

func signed(key ed25519.PrivateKey, host, method, body string, at time.Time) *joulev1.HostAuth {
	ms := at.UnixMilli()
	return &joulev1.HostAuth{Host: host, UnixMs: ms, Signature: ed25519.Sign(key, wire.HostRequestSigningBytes(method, host, ms, body))}
}

// openLease opens a lease for allocation a1 as host h1.
func (f *fixture) openLease() *joulev1.OpenLeaseResponse {
	f.t.Helper()
	r, err := f.hosts().OpenLease(f.t.Context(), &joulev1.OpenLeaseRequest{
		Auth:    signed(f.key, "h1", "OpenLease", wire.OpenLeaseBody("a1", "main", "i1"), time.Now()),
		AllocId: "a1", Task: "main", Invocation: "i1"})
	f.ok(err)
	return r
}

// session is a host's session as a test drives it.
type session struct {
	f      *fixture
	stream *connect.BidiStreamForClientSimple[joulev1.SessionUp, joulev1.SessionDown]
	hostID uint32
	number uint64
}

// connect opens a session with the given key; Welcome has come when it
// returns without an error.
func (f *fixture) connect(host, class string, key ed25519.PrivateKey) (*session, error) {
	f.t.Helper()
	s := &session{f: f}
	var err error
	if s.stream, err = f.hosts().Session(f.t.Context()); err != nil {
		return nil, err
	}
	f.t.Cleanup(func() { s.stream.CloseRequest(); s.stream.CloseResponse() })
	incarnation := make([]byte, 16)
	rand.Read(incarnation)
	if err := s.stream.Send(&joulev1.SessionUp{Message: &joulev1.SessionUp_Hello{Hello: &joulev1.Hello{
		Host: host, Class: class, Version: "test", Incarnation: incarnation, BootId: make([]byte, 16)}}}); err != nil {
		return nil, err
	}
	m, err := s.stream.Receive()
	if err != nil {
		return nil, client.Rebuild(f.url, err)
	}
	proof := ed25519.Sign(key, wire.SessionSigningBytes(m.GetChallenge().GetNonce(), host, incarnation))
	if err := s.stream.Send(&joulev1.SessionUp{Message: &joulev1.SessionUp_Proof{Proof: &joulev1.Proof{Signature: proof}}}); err != nil {
		return nil, err
	}
	if m, err = s.stream.Receive(); err != nil {
		return nil, client.Rebuild(f.url, err)
	}
	s.hostID = m.GetWelcome().GetHostId()
	return s, nil
}

// send sends a batch's bytes with a signature and returns its acknowledgement.
func (s *session) send(batch, signature []byte) *joulev1.BatchAck {
	s.f.t.Helper()
	s.number++
	s.f.ok(s.stream.Send(&joulev1.SessionUp{Message: &joulev1.SessionUp_UsageBatch{UsageBatch: &joulev1.UsageBatch{
		Number: s.number, Batch: batch, Signature: signature}}}))
	for {
		m, err := s.stream.Receive()
		s.f.ok(err)
		if ack := m.GetBatchAck(); ack != nil {
			if ack.Number != s.number {
				s.f.t.Fatalf("got an acknowledgement of batch %d, want %d", ack.Number, s.number)
			}
			return ack
		}
	}
}

func (s *session) batch(records ...ledger.Record) []byte {
	return wire.AppendBatch(nil, ledger.HostID(s.hostID), [16]byte{}, records)
}

func (f *fixture) signBy(batch []byte) []byte {
	return ed25519.Sign(f.other, wire.BatchSigningBytes(batch))
}

func (s *session) sign(batch []byte) []byte {
	return ed25519.Sign(s.f.key, wire.BatchSigningBytes(batch))
}

// charged is what lease id has been charged.
func (f *fixture) charged(id uint64) int64 {
	f.t.Helper()
	r, err := f.api.ExplainLease(f.t.Context(), &joulev1.ExplainLeaseRequest{LeaseId: id})
	f.ok(err)
	return r.Lease.ChargedNusd
}

func reason(err error) joulev1.ErrorReason {
	if e, ok := err.(*client.Error); ok {
		return e.Reason
	}
	return joulev1.ErrorReason_ERROR_REASON_UNSPECIFIED
}
