package server

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"connectrpc.com/connect"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// handshakeTimeout bounds the time from a session's first byte to its proof.
const handshakeTimeout = 10 * time.Second

type stream = connect.BidiStream[joulev1.SessionUp, joulev1.SessionDown]

// session is one authenticated host on this server.
type session struct {
	host   ledger.Host
	cancel context.CancelFunc
	pace   pace

	sendMu sync.Mutex // stream.Send is not safe for concurrent use
	stream *stream
	ended  bool // the handler has returned or is about to: Send would panic
}

// errSessionEnded is returned when the host's session is over.
var errSessionEnded = errors.New("session has ended")

func (s *session) send(m *joulev1.SessionDown) error {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	if s.ended {
		return errSessionEnded
	}
	return s.stream.Send(m)
}

// end makes every later send fail; it waits for one under way.
func (s *session) end() {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	s.ended = true
}

// sessions are the live ones by host, and when each host was last heard here.
type sessions struct {
	mu     sync.Mutex
	live   map[ledger.HostID]*session
	last   map[ledger.HostID]time.Time
	began  time.Time
	closed bool
}

func newSessions() *sessions {
	return &sessions{live: map[ledger.HostID]*session{}, last: map[ledger.HostID]time.Time{}, began: time.Now()}
}

// silent is for how long the host has not been heard here; where it has not
// been since this server began, that long: what happened before is not known.
func (ss *sessions) silent(host ledger.HostID) time.Duration {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if t, ok := ss.last[host]; ok {
		return time.Since(t)
	}
	return time.Since(ss.began)
}

// add makes s the host's session; an older one of the same host is cut, for
// the host has plainly moved on.
func (ss *sessions) add(s *session) bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.closed {
		return false
	}
	if old := ss.live[s.host.ID]; old != nil {
		old.cancel()
	}
	ss.live[s.host.ID] = s
	ss.last[s.host.ID] = time.Now()
	return true
}

func (ss *sessions) remove(s *session) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.live[s.host.ID] == s {
		delete(ss.live, s.host.ID)
	}
}

func (ss *sessions) beat(host ledger.HostID) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.last[host] = time.Now()
}

// heard says whether the host has a session here and when it last spoke, in
// Unix ms; 0: never.
func (ss *sessions) heard(host ledger.HostID) (connected bool, unixMs int64) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if t, ok := ss.last[host]; ok {
		unixMs = t.UnixMilli()
	}
	return ss.live[host] != nil, unixMs
}

func (ss *sessions) count() int {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return len(ss.live)
}

// command sends a command to the host if it has a session here. A lost command
// is repeated after the next heartbeat.
func (ss *sessions) command(host ledger.HostID, c *joulev1.LeaseCommand) {
	ss.mu.Lock()
	s := ss.live[host]
	ss.mu.Unlock()
	if s == nil {
		return
	}
	// A send to a host that does not read would block the caller. Its error is
	// no news: the command goes out again after the next heartbeat.
	go s.send(&joulev1.SessionDown{Message: &joulev1.SessionDown_LeaseCommand{LeaseCommand: c}})
}

func (ss *sessions) close() {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.closed = true
	for _, s := range ss.live {
		s.cancel()
	}
}

// Session implements HostServiceHandler.
func (s *Server) Session(ctx context.Context, st *stream) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	host, err := s.handshake(ctx, st)
	if err != nil {
		return err
	}
	sess := &session{host: host, cancel: cancel, stream: st, pace: pace{every: time.Second / time.Duration(s.cfg.Limits.BeatsPerSecond)}}
	defer sess.end()
	if !s.sessions.add(sess) {
		return refuse(joulev1.ErrorReason_ERROR_REASON_UNAVAILABLE, "server is shutting down")
	}
	defer s.sessions.remove(sess)
	err = sess.send(&joulev1.SessionDown{Message: &joulev1.SessionDown_Welcome{Welcome: &joulev1.Welcome{
		Server: s.cfg.Name, HostId: uint32(host.ID),
		HeartbeatMs: s.cfg.Heartbeat.Milliseconds(), CheckpointMs: s.cfg.Checkpoint.Milliseconds()}}})
	if err != nil {
		return err
	}
	s.log.LogAttrs(ctx, slog.LevelInfo, "host connected", slog.String("host", host.Name))
	err = s.serve(ctx, sess)
	s.log.LogAttrs(ctx, slog.LevelInfo, "host disconnected", slog.String("host", host.Name), slog.Any("cause", err))
	return err
}

// received is one message of the stream, or its end.
type received struct {
	m   *joulev1.SessionUp
	err error
}

// receive reads the stream in a goroutine of its own, so that the session can
// end by ctx as well: Receive itself cannot be interrupted.
func receive(ctx context.Context, st *stream) <-chan received {
	c := make(chan received)
	go func() {
		for {
			m, err := st.Receive()
			select {
			case c <- received{m, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return c
}

// handshake authenticates the host: it signs our nonce.
func (s *Server) handshake(ctx context.Context, st *stream) (ledger.Host, error) {
	var none ledger.Host
	// The handshake is strictly alternating, so reading in place is enough; a
	// peer that stalls is ended by the timer.
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	first, err := receiveOne(ctx, st)
	if err != nil {
		return none, err
	}
	hello := first.GetHello()
	if hello == nil {
		return none, invalid("session: want hello first")
	}
	host, err := s.host(ctx, hello.Host)
	if err != nil {
		return none, err
	}
	if got := hello.Class; got != className(host.Class) {
		return none, invalid("class: host %q is enrolled as %s, its configuration says %q", host.Name, className(host.Class), got)
	}
	if len(hello.Incarnation) != 16 || len(hello.BootId) != 16 {
		return none, invalid("hello: incarnation and boot_id want 16 bytes, got %d and %d", len(hello.Incarnation), len(hello.BootId))
	}
	nonce := make([]byte, 32)
	rand.Read(nonce)
	if err := st.Send(&joulev1.SessionDown{Message: &joulev1.SessionDown_Challenge{Challenge: &joulev1.Challenge{Nonce: nonce}}}); err != nil {
		return none, err
	}
	second, err := receiveOne(ctx, st)
	if err != nil {
		return none, err
	}
	proof := second.GetProof()
	if proof == nil {
		return none, invalid("session: want proof after challenge")
	}
	if !ed25519.Verify(host.PublicKey[:], wire.SessionSigningBytes(nonce, host.Name, hello.Incarnation), proof.Signature) {
		return none, unauthenticated("proof.signature: not made by the key of host %q", host.Name)
	}
	return host, nil
}

// receiveOne reads one message or gives up when ctx ends; the reading
// goroutine then ends with the stream, which its caller closes by returning.
func receiveOne(ctx context.Context, st *stream) (*joulev1.SessionUp, error) {
	c := make(chan received, 1)
	go func() {
		m, err := st.Receive()
		c <- received{m, err}
	}()
	select {
	case r := <-c:
		return r.m, r.err
	case <-ctx.Done():
		return nil, connect.NewError(connect.CodeDeadlineExceeded, errors.New("session: the handshake took too long"))
	}
}

// serve answers the host until either side ends the session.
func (s *Server) serve(ctx context.Context, sess *session) error {
	in := receive(ctx, sess.stream)
	for {
		select {
		case <-ctx.Done():
			return connect.NewError(connect.CodeUnavailable, errors.New("session ended by the server"))
		case r := <-in:
			if errors.Is(r.err, io.EOF) {
				return nil
			}
			if r.err != nil {
				return r.err
			}
			if err := s.handle(ctx, sess, r.m); err != nil {
				return err
			}
		}
	}
}

func (s *Server) handle(ctx context.Context, sess *session, m *joulev1.SessionUp) error {
	s.sessions.beat(sess.host.ID)
	switch m := m.Message.(type) {
	case *joulev1.SessionUp_Heartbeat:
		if err := sess.pace.wait(ctx, time.Now()); err != nil {
			return err
		}
		if err := s.stopEnded(ctx, sess, m.Heartbeat); err != nil {
			s.log.LogAttrs(ctx, slog.LevelWarn, "cannot check a host's leases",
				slog.String("host", sess.host.Name), slog.Any("error", err))
		}
		return sess.send(&joulev1.SessionDown{Message: &joulev1.SessionDown_HeartbeatAck{
			HeartbeatAck: &joulev1.HeartbeatAck{Number: m.Heartbeat.Number}}})
	case *joulev1.SessionUp_UsageBatch:
		return s.settle(ctx, sess, m.UsageBatch)
	}
	return invalid("session: unexpected message %T", m.Message)
}

// settle proposes a usage batch and acknowledges it once it is committed.
func (s *Server) settle(ctx context.Context, sess *session, b *joulev1.UsageBatch) error {
	ack := &joulev1.BatchAck{Number: b.Number}
	var results []ledger.RecordResult
	done, err := s.limiter.startBatch(len(b.Batch))
	if err == nil {
		results, err = s.apply(ctx, sess, b)
		done()
	}
	if err != nil {
		if ctx.Err() != nil {
			return err // the outcome is unknown: the host sends the batch again
		}
		ack.Error = apiError(err)
		s.log.LogAttrs(ctx, slog.LevelWarn, "usage batch refused",
			slog.String("host", sess.host.Name), slog.Any("error", err))
	}
	ack.Statuses = make([]joulev1.RecordStatus, len(results))
	for i := range results {
		ack.Statuses[i] = joulev1.RecordStatus(results[i].Status)
	}
	if err := sess.send(&joulev1.SessionDown{Message: &joulev1.SessionDown_BatchAck{BatchAck: ack}}); err != nil {
		return err
	}
	for i := range results {
		if results[i].Stop == ledger.CloseNone {
			continue
		}
		c := &joulev1.LeaseCommand{LeaseId: uint64(results[i].Lease), Stop: stopReason(results[i].Stop)}
		if err := sess.send(&joulev1.SessionDown{Message: &joulev1.SessionDown_LeaseCommand{LeaseCommand: c}}); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) apply(ctx context.Context, sess *session, b *joulev1.UsageBatch) ([]ledger.RecordResult, error) {
	cmd := &wire.SignedBatch{Batch: b.Batch}
	if !wire.VerifyBatch(sess.host.PublicKey[:], b.Batch, b.Signature) {
		return nil, refuse(joulev1.ErrorReason_ERROR_REASON_BAD_SIGNATURE,
			"usage batch %d: signature is not of host %q", b.Number, sess.host.Name)
	}
	host, _, err := wire.CheckBatch(b.Batch)
	if err != nil {
		return nil, refuse(joulev1.ErrorReason_ERROR_REASON_MALFORMED, "usage batch %d: %v", b.Number, err)
	}
	if host != sess.host.ID {
		return nil, refuse(joulev1.ErrorReason_ERROR_REASON_FORBIDDEN,
			"usage batch %d: host_id is %d, this session's is %d", b.Number, host, sess.host.ID)
	}
	copy(cmd.Signature[:], b.Signature)
	res, err := s.node.Submit(ctx, ledger.Envelope{Command: cmd})
	if err != nil {
		return nil, err
	}
	return res.Records, res.Err()
}

// stopEnded tells the host again to stop those of its leases that settlement
// has ended or wants stopped: the first command may have been lost.
func (s *Server) stopEnded(ctx context.Context, sess *session, beat *joulev1.Heartbeat) error {
	var stops []*joulev1.LeaseCommand
	err := s.node.Read(ctx, func(l *ledger.Ledger) error {
		for _, t := range beat.Leases {
			v, ok := l.Lease(ledger.LeaseID(t.LeaseId))
			switch {
			case !ok || v.Host != sess.host.ID:
				stops = append(stops, &joulev1.LeaseCommand{LeaseId: t.LeaseId, Stop: joulev1.StopReason_STOP_REASON_UNKNOWN_LEASE})
			case v.StopAsked != ledger.CloseNone:
				stops = append(stops, &joulev1.LeaseCommand{LeaseId: t.LeaseId, Stop: stopReason(v.StopAsked)})
			case v.Reason != ledger.CloseNone:
				stops = append(stops, &joulev1.LeaseCommand{LeaseId: t.LeaseId, Stop: stopReason(v.Reason)})
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, c := range stops {
		if err := sess.send(&joulev1.SessionDown{Message: &joulev1.SessionDown_LeaseCommand{LeaseCommand: c}}); err != nil {
			return err
		}
	}
	return nil
}

// stopReason is what the host is told about a lease that must end or has ended.
func stopReason(r ledger.CloseReason) joulev1.StopReason {
	if r == ledger.CloseFunds {
		return joulev1.StopReason_STOP_REASON_FUNDS
	}
	return joulev1.StopReason_STOP_REASON_OPERATOR
}
