// Package commandtest has a settlement server for tests of the command line:
// the real API over a real connection, with a small made-up state behind it
// that answers the same every time.
package commandtest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
)

// The currencies.
const (
	usd   = joulev1.Currency_CURRENCY_USD
	joule = joulev1.Currency_CURRENCY_JOULE
)

// Call is one request that reached the server.
type Call struct {
	Method  string
	Request proto.Message
}

// Server is the fake. It is safe for concurrent use.
type Server struct {
	joulev1connect.UnimplementedSettlementServiceHandler

	mu       sync.Mutex
	calls    []Call
	faults   map[string]func(context.Context) error // by method
	done     map[string]proto.Message               // requests by key
	accounts []*joulev1.Account
	hosts    []*joulev1.Host
	leases   []*joulev1.Lease
	rate     int64 // nUSD per JOULE; 0: none
	rates    uint32
	fee      uint32
	slice    uint32
}

// New returns a server that knows customers acme and joulean, suppliers
// home-lab and west-dc, hosts crowd-1, dc-1 and bare-1, and leases 1 to 3.
func New() *Server {
	s := &Server{faults: map[string]func(context.Context) error{}, done: map[string]proto.Message{},
		rate: 50_000_000, rates: 1, fee: 20_000, slice: 60_000}
	s.accounts = []*joulev1.Account{
		{Name: "external", Currency: usd, Balance: -5_000_000_000},
		{Name: "issuance", Currency: joule, Balance: -1_000_000_000_000},
		{Name: "treasury", Currency: usd, Balance: 1_333_116},
		{Name: "treasury", Currency: joule, Balance: 999_973_337_681},
		{Name: "customer/acme", Currency: usd, Balance: 4_998_666_884},
		{Name: "hold/acme", Currency: usd, Balance: 0},
		{Name: "customer/joulean", Currency: joule, Balance: 0},
		{Name: "supplier/home-lab", Currency: joule, Balance: 4_547_846},
		{Name: "supplier/west-dc", Currency: joule, Balance: 22_114_473},
	}
	s.hosts = []*joulev1.Host{
		{Name: "crowd-1", Supplier: "home-lab", Class: "crowd", Connected: true, LastHeardMs: start + 9_000,
			Offer: &joulev1.Prices{BaseNusdPerHour: 360_000_000, CpuNusdPerHour: 40_000_000}},
		{Name: "dc-1", Supplier: "west-dc", Class: "datacenter", LastHeardMs: start, OpenLeases: 1,
			Offer: &joulev1.Prices{BaseNusdPerHour: 900_000_000, CpuNusdPerHour: 90_000_000, GpuNusdPerHour: 2_500_000_000, MemoryNusdPerHour: 10_000_000}},
		{Name: "bare-1", Supplier: "west-dc", Class: "datacenter"},
	}
	s.leases = cannedLeases()
	return s
}

// Serve starts the server on loopback and returns its URL. It stops with tb.
func (s *Server) Serve(tb testing.TB) string {
	tb.Helper()
	mux := http.NewServeMux()
	mux.Handle(joulev1connect.NewSettlementServiceHandler(s))
	mux.Handle(joulev1connect.NewOperatorServiceHandler(operator{s}))
	ts := httptest.NewUnstartedServer(mux)
	ts.Config.Protocols = new(http.Protocols)
	ts.Config.Protocols.SetHTTP1(true)
	ts.Config.Protocols.SetUnencryptedHTTP2(true)
	ts.Start()
	tb.Cleanup(ts.Close)
	return ts.URL
}

// Fail makes every later call of method end with a fault: an API reason in
// lower case without its prefix ("not_leader"), "internal" (an error without a
// reason), "slow" (no answer until the caller gives up), or "none".
func (s *Server) Fail(method, fault string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	reason := joulev1.ErrorReason(joulev1.ErrorReason_value["ERROR_REASON_"+strings.ToUpper(fault)])
	switch {
	case fault == "none":
		delete(s.faults, method)
	case fault == "internal":
		s.faults[method] = func(context.Context) error {
			return connect.NewError(connect.CodeInternal, errors.New("internal error"))
		}
	case fault == "slow":
		s.faults[method] = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	case reason != 0:
		s.faults[method] = func(context.Context) error { return refuse(reason, "refused for the test: "+fault) }
	default:
		return fmt.Errorf("unknown fault %q", fault)
	}
	return nil
}

// Calls returns the requests since the last time, and forgets them.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.calls
	s.calls = nil
	return calls
}

// enter records a request and says what must go wrong with it. The caller holds
// mu afterwards, in any case.
func (s *Server) enter(ctx context.Context, method string, req proto.Message) error {
	s.mu.Lock()
	s.calls = append(s.calls, Call{Method: method, Request: proto.Clone(req)})
	fault := s.faults[method]
	if fault != nil {
		s.mu.Unlock()
		err := fault(ctx)
		s.mu.Lock()
		return err
	}
	keyed, ok := req.(interface{ GetKey() string })
	if !ok {
		return nil
	}
	if keyed.GetKey() == "" {
		return refuse(joulev1.ErrorReason_ERROR_REASON_INVALID, `key: must have 1 to 64 bytes, got ""`)
	}
	if old := s.done[keyed.GetKey()]; old != nil && !proto.Equal(old, req) {
		return refuse(joulev1.ErrorReason_ERROR_REASON_CONFLICT,
			fmt.Sprintf("key %q was used with other values", keyed.GetKey()))
	}
	return nil
}

// again reports whether the request was done before, and remembers it.
func (s *Server) again(req interface {
	proto.Message
	GetKey() string
}) bool {
	_, found := s.done[req.GetKey()]
	s.done[req.GetKey()] = proto.Clone(req)
	return found
}

// refuse makes an error as the real server does.
func refuse(reason joulev1.ErrorReason, msg string) error {
	code := map[joulev1.ErrorReason]connect.Code{
		joulev1.ErrorReason_ERROR_REASON_INVALID:   connect.CodeInvalidArgument,
		joulev1.ErrorReason_ERROR_REASON_NOT_FOUND: connect.CodeNotFound,
		joulev1.ErrorReason_ERROR_REASON_EXISTS:    connect.CodeAlreadyExists,
		joulev1.ErrorReason_ERROR_REASON_CONFLICT:  connect.CodeAborted,
	}[reason]
	if code == 0 {
		code = connect.CodeFailedPrecondition
	}
	err := connect.NewError(code, errors.New(msg))
	if detail, derr := connect.NewErrorDetail(&joulev1.Error{Reason: reason, Message: msg}); derr == nil {
		err.AddDetail(detail)
	}
	return err
}

func notFound(kind, name string) error {
	return refuse(joulev1.ErrorReason_ERROR_REASON_NOT_FOUND, fmt.Sprintf("no %s %q", kind, name))
}

func (s *Server) account(name string, c joulev1.Currency) *joulev1.Account {
	at := slices.IndexFunc(s.accounts, func(a *joulev1.Account) bool { return a.Name == name && a.Currency == c })
	if at < 0 {
		return nil
	}
	return s.accounts[at]
}

func (s *Server) known(name string) bool {
	return slices.ContainsFunc(s.accounts, func(a *joulev1.Account) bool { return a.Name == name })
}
