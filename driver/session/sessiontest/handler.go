package sessiontest

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/wire"
)

// Refuse is the error that a settlement server answers with.
func Refuse(code connect.Code, reason joulev1.ErrorReason, message string) error {
	e := connect.NewError(code, errors.New(message))
	if d, err := connect.NewErrorDetail(&joulev1.Error{Reason: reason, Message: message}); err == nil {
		e.AddDetail(d)
	}
	return e
}

func unauthenticated(message string) error {
	return Refuse(connect.CodeUnauthenticated, joulev1.ErrorReason_ERROR_REASON_UNAUTHENTICATED, message)
}

func (s *Server) checkAuth(a *joulev1.HostAuth, method, body string) error {
	key, ok := s.keys[a.GetHost()]
	if !ok {
		return unauthenticated(fmt.Sprintf("unknown host %q", a.GetHost()))
	}
	if age := time.Since(time.UnixMilli(a.GetUnixMs())).Abs(); age > 5*time.Minute {
		return unauthenticated("stale request")
	}
	if !ed25519.Verify(key, wire.HostRequestSigningBytes(method, a.GetHost(), a.GetUnixMs(), body), a.GetSignature()) {
		return unauthenticated("bad signature")
	}
	return nil
}

// OpenLease implements joulev1connect.HostServiceHandler.
func (s *Server) OpenLease(_ context.Context, req *joulev1.OpenLeaseRequest) (*joulev1.OpenLeaseResponse, error) {
	s.mu.Lock()
	hook := s.hooks.Open
	s.mu.Unlock()
	if hook != nil {
		if err := hook(req); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.note()
	body := wire.OpenLeaseBody(req.GetAllocId(), req.GetTask(), req.GetInvocation())
	if err := s.checkAuth(req.GetAuth(), "OpenLease", body); err != nil {
		return nil, err
	}
	key := req.GetAllocId() + "/" + req.GetTask() + "/" + req.GetInvocation()
	id := s.byKey[key]
	if id == 0 {
		for id = 1; s.leases[id] != nil; id++ {
		}
		s.byKey[key] = id
		s.leases[id] = &Lease{ID: id, Host: req.GetAuth().GetHost(), Key: key, Statuses: map[joulev1.RecordStatus]int{}}
	}
	return &joulev1.OpenLeaseResponse{
		LeaseId: uint64(id), Epoch: 1, HostId: 1, Hold: 1_000_000,
		Prices:    &joulev1.Prices{BaseNusdPerHour: 36_000_000},
		Resources: &joulev1.Resources{MilliCores: 2000, MemoryMib: 64, Gpus: s.hooks.GPUs},
	}, nil
}

// CloseLease implements joulev1connect.HostServiceHandler.
func (s *Server) CloseLease(_ context.Context, req *joulev1.HostCloseLeaseRequest) (*joulev1.HostCloseLeaseResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.note()
	if err := s.checkAuth(req.GetAuth(), "CloseLease", wire.CloseLeaseBody(req.GetLeaseId())); err != nil {
		return nil, err
	}
	if s.hooks.Close != nil {
		if err := s.hooks.Close(wire.LeaseID(req.GetLeaseId())); err != nil {
			return nil, err
		}
	}
	s.closed = append(s.closed, wire.LeaseID(req.GetLeaseId()))
	return &joulev1.HostCloseLeaseResponse{}, nil
}

// Session implements joulev1connect.HostServiceHandler.
func (s *Server) Session(ctx context.Context, bidi *connect.BidiStream[joulev1.SessionUp, joulev1.SessionDown]) error {
	ctx, cut := context.WithCancel(ctx)
	defer cut()
	st := &stream{bidi: bidi, cut: cut}
	defer func() {
		st.mu.Lock()
		defer st.mu.Unlock()
		st.over = true
	}()
	host, err := s.greet(st)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.streams[st] = true
	s.sessions++
	s.note()
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.streams, st)
		s.note()
		s.mu.Unlock()
	}()
	ended := make(chan error, 1)
	go func() {
		for {
			m, err := bidi.Receive()
			if err == nil {
				err = s.take(ctx, st, host, m)
			}
			if err != nil {
				ended <- err
				return
			}
		}
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return connect.NewError(connect.CodeUnavailable, errors.New("cut by the test"))
	}
}

func (s *Server) greet(st *stream) (host string, err error) {
	m, err := st.bidi.Receive()
	if err != nil {
		return "", err
	}
	hello := m.GetHello()
	s.mu.Lock()
	key, known := s.keys[hello.GetHost()]
	hook := s.hooks.Hello
	welcome := &joulev1.Welcome{Server: "test", HostId: 1, HeartbeatMs: s.hooks.HeartbeatMs, CheckpointMs: s.hooks.CheckpointMs}
	s.mu.Unlock()
	if hook != nil {
		if err := hook(hello); err != nil {
			return "", err
		}
	}
	if !known {
		return "", unauthenticated(fmt.Sprintf("unknown host %q", hello.GetHost()))
	}
	nonce := make([]byte, 32)
	rand.Read(nonce)
	if err := st.send(&joulev1.SessionDown{Message: &joulev1.SessionDown_Challenge{Challenge: &joulev1.Challenge{Nonce: nonce}}}); err != nil {
		return "", err
	}
	if m, err = st.bidi.Receive(); err != nil {
		return "", err
	}
	signed := wire.SessionSigningBytes(nonce, hello.GetHost(), hello.GetIncarnation())
	if !ed25519.Verify(key, signed, m.GetProof().GetSignature()) || len(hello.GetIncarnation()) != 16 || len(hello.GetBootId()) != 16 {
		return "", unauthenticated("bad proof")
	}
	return hello.GetHost(), st.send(&joulev1.SessionDown{Message: &joulev1.SessionDown_Welcome{Welcome: welcome}})
}

func (s *Server) take(ctx context.Context, st *stream, host string, m *joulev1.SessionUp) error {
	switch m := m.GetMessage().(type) {
	case *joulev1.SessionUp_Heartbeat:
		s.mu.Lock()
		for _, t := range m.Heartbeat.GetLeases() {
			l := s.leases[wire.LeaseID(t.GetLeaseId())]
			if l == nil {
				s.violation("heartbeat for unknown lease %d", t.GetLeaseId())
				continue
			}
			if l.Beat != nil && (t.GetWallMs() < l.Beat.GetWallMs() || t.GetCpuMs() < l.Beat.GetCpuMs()) {
				s.violation("lease %d: heartbeat totals went back from %v to %v", l.ID, l.Beat, t)
			}
			l.Beat = t
		}
		ack := s.hooks.Beat == nil || s.hooks.Beat(m.Heartbeat)
		s.note()
		s.mu.Unlock()
		if !ack {
			return nil
		}
		return st.send(&joulev1.SessionDown{Message: &joulev1.SessionDown_HeartbeatAck{
			HeartbeatAck: &joulev1.HeartbeatAck{Number: m.Heartbeat.GetNumber()},
		}})
	case *joulev1.SessionUp_UsageBatch:
		return s.takeBatch(ctx, st, host, m.UsageBatch)
	}
	return fmt.Errorf("unexpected %T", m.GetMessage())
}

func (s *Server) takeBatch(ctx context.Context, st *stream, host string, ub *joulev1.UsageBatch) error {
	var b wire.UsageBatch
	if err := wire.DecodeBatch(ub.GetBatch(), &b); err != nil {
		s.mu.Lock()
		s.violation("batch doesn't decode: %v", err)
		s.mu.Unlock()
		return err
	}
	s.mu.Lock()
	if !wire.VerifyBatch(s.keys[host], ub.GetBatch(), ub.GetSignature()) {
		s.violation("bad batch signature")
	}
	if len(b.Records) == 0 || len(b.Records) > 1024 || len(ub.GetBatch()) > 128<<10 {
		s.violation("batch of %d records, %d bytes", len(b.Records), len(ub.GetBatch()))
	}
	s.batches++
	action := Normal
	if s.hooks.Batch != nil {
		action = s.hooks.Batch(s.batches, &b)
	}
	s.mu.Unlock()
	if action.Before > 0 {
		select {
		case <-time.After(action.Before):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	ack := &joulev1.BatchAck{Number: ub.GetNumber(), Error: action.Error}
	if action.Apply {
		s.mu.Lock()
		for i := range b.Records {
			ack.Statuses = append(ack.Statuses, s.judge(host, &b.Records[i]))
		}
		s.note()
		s.mu.Unlock()
	}
	for range action.Acks {
		if err := st.send(&joulev1.SessionDown{Message: &joulev1.SessionDown_BatchAck{BatchAck: ack}}); err != nil {
			return err
		}
	}
	if action.Cut {
		st.cut()
	}
	return nil
}

// judge applies a record as the ledger does. The caller holds mu.
func (s *Server) judge(host string, r *wire.Record) joulev1.RecordStatus {
	l := s.leases[r.Lease]
	if l == nil {
		return joulev1.RecordStatus_RECORD_STATUS_UNKNOWN_LEASE
	}
	status := l.judge(host, r)
	l.Statuses[status]++
	switch status {
	case joulev1.RecordStatus_RECORD_STATUS_ACCEPTED:
		l.Accepted = append(l.Accepted, *r)
	case joulev1.RecordStatus_RECORD_STATUS_EQUIVOCATION, joulev1.RecordStatus_RECORD_STATUS_DECREASING:
		s.violation("lease %d: %v: %+v after %+v", r.Lease, status, *r, l.Last())
	}
	return status
}

func (l *Lease) judge(host string, r *wire.Record) joulev1.RecordStatus {
	last := l.Last()
	i, seen := slices.BinarySearchFunc(l.Accepted, r.Seq, func(a wire.Record, seq uint64) int { return cmp.Compare(a.Seq, seq) })
	if seen {
		if l.Accepted[i].Hash != r.Hash {
			return joulev1.RecordStatus_RECORD_STATUS_EQUIVOCATION
		}
		return joulev1.RecordStatus_RECORD_STATUS_REPEAT
	}
	switch {
	case l.Host != host:
		return joulev1.RecordStatus_RECORD_STATUS_WRONG_HOST
	case last.Final:
		return joulev1.RecordStatus_RECORD_STATUS_LEASE_CLOSED
	case r.Seq < last.Seq:
		return joulev1.RecordStatus_RECORD_STATUS_OLD
	case r.Seq == last.Seq+1 && r.Prev != last.Hash:
		return joulev1.RecordStatus_RECORD_STATUS_EQUIVOCATION
	case r.Active.WallMs < last.Active.WallMs, r.Known&wire.KnownCPU != 0 && r.Active.CPUMs < last.Active.CPUMs,
		r.Active.MemoryMiBMs < last.Active.MemoryMiBMs:
		return joulev1.RecordStatus_RECORD_STATUS_DECREASING
	}
	return joulev1.RecordStatus_RECORD_STATUS_ACCEPTED
}
