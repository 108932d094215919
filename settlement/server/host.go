package server

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// authSkewMax is how far a host's clock may be from the server's in a signed
// unary request.
const authSkewMax = 5 * time.Minute

func unauthenticated(format string, args ...any) error {
	return refuse(joulev1.ErrorReason_ERROR_REASON_UNAUTHENTICATED, format, args...)
}

// host looks an enrolled host up.
func (s *Server) host(ctx context.Context, name string) (ledger.Host, error) {
	var host ledger.Host
	err := s.node.Read(ctx, func(l *ledger.Ledger) error {
		h, ok := l.Host(name)
		if !ok {
			return unauthenticated("host %q is not enrolled", name)
		}
		host = h
		return nil
	})
	return host, err
}

// authenticate checks a signed unary request of a host.
func (s *Server) authenticate(ctx context.Context, method string, auth *joulev1.HostAuth, body string) (ledger.Host, error) {
	if auth == nil {
		return ledger.Host{}, unauthenticated("auth: required")
	}
	host, err := s.host(ctx, auth.Host)
	if err != nil {
		return host, err
	}
	skew := s.now().Sub(time.UnixMilli(auth.UnixMs)).Abs()
	if skew > authSkewMax {
		return host, unauthenticated("auth.unix_ms: %d is %s from this server's clock, at most %s: check the host's clock",
			auth.UnixMs, skew.Round(time.Second), authSkewMax)
	}
	signed := wire.HostRequestSigningBytes(method, auth.Host, auth.UnixMs, body)
	if !ed25519.Verify(host.PublicKey[:], signed, auth.Signature) {
		return host, unauthenticated("auth.signature: not made by the key of host %q", auth.Host)
	}
	return host, nil
}

// OpenLease implements HostServiceHandler.
func (s *Server) OpenLease(ctx context.Context, r *joulev1.OpenLeaseRequest) (*joulev1.OpenLeaseResponse, error) {
	host, err := s.authenticate(ctx, "OpenLease", r.Auth, wire.OpenLeaseBody(r.AllocId, r.Task, r.Invocation))
	if err != nil {
		return nil, err
	}
	task, err := s.allocs.Task(ctx, r.AllocId, r.Task)
	if err != nil {
		return nil, err
	}
	if task.Host != host.Name {
		return nil, refuse(joulev1.ErrorReason_ERROR_REASON_WRONG_NODE,
			"allocation %s is placed on host %q, not on %q", r.AllocId, task.Host, host.Name)
	}
	cmd := &ledger.OpenLease{
		Host: host.Name, Namespace: task.Namespace, Job: task.Job, Group: task.Group, Task: task.Name,
		Alloc: r.AllocId, Invocation: r.Invocation,
		Resources: ledger.Resources{MilliCores: task.MilliCores, MemoryMiB: task.MemoryMiB, GPUs: task.GPUs},
		MaxPrices: ledger.Prices{Base: ledger.NUSD(task.MaxBase), CPU: ledger.NUSD(task.MaxCPU),
			GPU: ledger.NUSD(task.MaxGPU), Memory: ledger.NUSD(task.MaxMemory)},
		Budget: ledger.NUSD(task.BudgetNUSD),
	}
	// The lease's natural key (allocation, task, invocation) makes a repeat
	// harmless. A key derived from it would keep a refusal, such as a lack of
	// funds, for ever.
	res, err := s.submit(ctx, rand.Text(), cmd)
	if err != nil {
		return nil, err
	}
	return &joulev1.OpenLeaseResponse{
		LeaseId: uint64(res.Lease.Lease), Epoch: res.Lease.Epoch, HostId: uint32(host.ID),
		Prices: apiPrices(res.Lease.Prices), Hold: res.Lease.Hold, Resources: apiResources(cmd.Resources),
	}, nil
}

// CloseLease implements HostServiceHandler, for a lease whose task never ran.
// (It is the host's CloseLease: SettlementService has one of its own.)
func (h hostService) CloseLease(ctx context.Context, r *joulev1.HostCloseLeaseRequest) (*joulev1.HostCloseLeaseResponse, error) {
	host, err := h.authenticate(ctx, "CloseLease", r.Auth, wire.CloseLeaseBody(r.LeaseId))
	if err != nil {
		return nil, err
	}
	_, err = h.submit(ctx, derivedKey("close", host.Name, fmt.Sprint(r.LeaseId)),
		&ledger.CloseLease{Lease: ledger.LeaseID(r.LeaseId), Reason: ledger.CloseNotRun, Host: host.ID})
	if err != nil {
		return nil, err
	}
	return &joulev1.HostCloseLeaseResponse{}, nil
}

// hostService gives HostService's CloseLease a receiver apart from
// SettlementService's.
type hostService struct{ *Server }

// derivedKey is the idempotency key of a command whose identity is in its
// fields: 64 hex digits over them.
func derivedKey(fields ...string) string {
	h := sha256.New()
	for _, f := range fields {
		fmt.Fprintf(h, "%d:%s,", len(f), f)
	}
	return hex.EncodeToString(h.Sum(nil))
}
