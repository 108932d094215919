package session

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/wire"
)

// Bounds on the heartbeat interval that a server may ask for.
const (
	heartbeatDefault = time.Second
	heartbeatMin     = 10 * time.Millisecond
	heartbeatMax     = time.Minute
)

// stream is one session to one server.
type stream struct {
	s      *Sessions
	srv    *server
	bidi   *connect.BidiStreamForClientSimple[joulev1.SessionUp, joulev1.SessionDown]
	down   chan *joulev1.SessionDown // closed when the server's side ended
	ended  error                     // why; set before down is closed
	alive  *time.Timer               // cuts the session when the server is silent
	limit  atomic.Int64              // of that silence, ns
	hostID wire.HostID

	beat    uint64 // number of the last heartbeat
	batch   uint64 // number of the last batch
	flight  []wire.Record
	late    *time.Timer // the answer to the batch under way is overdue
	dirty   bool        // there may be records to send
	paused  *time.Timer // ends the pause after a batch that was turned away
	pausing bool
	pause   time.Duration
	resting bool
}

// session makes one session and serves it until it breaks or ctx ends. worked
// says that the server did something useful in it, so that the next attempt
// need not wait long.
func (s *Sessions) session(ctx context.Context, srv *server, opened func()) (worked bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	bidi, err := srv.client.Session(ctx)
	if err != nil {
		cancel(nil)
		return false, classify(srv.url, err)
	}
	st := &stream{
		s: s, srv: srv, bidi: bidi, dirty: true,
		down:  make(chan *joulev1.SessionDown),
		pause: s.cfg.BackoffMin,
	}
	st.limit.Store(int64(s.cfg.Silence))
	silent := fmt.Errorf("%s: said nothing for %v", srv.url, s.cfg.Silence)
	st.alive = time.AfterFunc(s.cfg.Silence, func() { cancel(silent) })
	st.late, st.paused = stopped(), stopped()
	var reader sync.WaitGroup
	reader.Go(func() { st.receive(ctx) })
	defer func() {
		st.alive.Stop()
		st.late.Stop()
		st.paused.Stop()
		st.release()
		cancel(nil)
		// net/http sees that the context has ended only between reads of the
		// request's body, so that has to end too before Receive returns. Both
		// errors only say that the stream is over already.
		_ = bidi.CloseRequest()
		reader.Wait()
		_ = bidi.CloseResponse()
	}()

	var every time.Duration
	if every, err = st.greet(ctx); err == nil {
		srv.set(true, nil)
		opened()
		worked, err = st.serve(ctx, every)
	}
	if cause := context.Cause(ctx); cause != nil {
		return worked, cause
	}
	// A send fails with no more than "EOF": the reason is on the other side.
	if errors.Is(err, io.EOF) {
		unsaid := time.AfterFunc(time.Second, func() { cancel(err) })
		for range st.down {
		}
		unsaid.Stop()
		err = st.why(ctx)
	}
	return worked, err
}

func stopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// receive hands the server's messages to the session's goroutine.
func (st *stream) receive(ctx context.Context) {
	defer close(st.down)
	for {
		m, err := st.bidi.Receive()
		if err != nil {
			st.ended = fmt.Errorf("%s: closed the session", st.srv.url)
			if !errors.Is(err, io.EOF) {
				st.ended = classify(st.srv.url, err)
			}
			return
		}
		st.alive.Reset(time.Duration(st.limit.Load()))
		select {
		case st.down <- m:
		case <-ctx.Done():
			return
		}
	}
}

// why says why the server's side ended.
func (st *stream) why(ctx context.Context) error {
	if st.ended == nil {
		return context.Cause(ctx)
	}
	return st.ended
}

// next returns the server's next message.
func (st *stream) next(ctx context.Context) (*joulev1.SessionDown, error) {
	select {
	case m, ok := <-st.down:
		if !ok {
			return nil, st.why(ctx)
		}
		return m, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// greet proves who we are and learns what the server wants.
func (st *stream) greet(ctx context.Context) (heartbeatEvery time.Duration, err error) {
	cfg := &st.s.cfg
	err = st.bidi.Send(&joulev1.SessionUp{Message: &joulev1.SessionUp_Hello{Hello: &joulev1.Hello{
		Host: cfg.Host, Class: cfg.Class, Version: cfg.Version,
		Incarnation: cfg.Incarnation[:], BootId: cfg.BootID[:],
	}}})
	if err != nil {
		return 0, err
	}
	m, err := st.next(ctx)
	if err != nil {
		return 0, err
	}
	nonce := m.GetChallenge().GetNonce()
	if len(nonce) != 32 {
		return 0, fmt.Errorf("%s: sent a challenge of %d bytes, want 32", st.srv.url, len(nonce))
	}
	sig := ed25519.Sign(cfg.Key, wire.SessionSigningBytes(nonce, cfg.Host, cfg.Incarnation[:]))
	if err := st.bidi.Send(&joulev1.SessionUp{Message: &joulev1.SessionUp_Proof{Proof: &joulev1.Proof{Signature: sig}}}); err != nil {
		return 0, err
	}
	if m, err = st.next(ctx); err != nil {
		return 0, err
	}
	w := m.GetWelcome()
	if w == nil {
		return 0, fmt.Errorf("%s: sent %T in place of a welcome", st.srv.url, m.GetMessage())
	}
	st.hostID = wire.HostID(w.GetHostId())
	every := heartbeat(w)
	st.limit.Store(int64(max(cfg.Silence, 4*every)))
	if w.GetCheckpointMs() > 0 {
		st.s.host.CheckpointEvery(time.Duration(w.GetCheckpointMs()) * time.Millisecond)
	}
	return every, nil
}

// heartbeat is the interval that the server asks for, within bounds.
func heartbeat(w *joulev1.Welcome) time.Duration {
	if w.GetHeartbeatMs() <= 0 {
		return heartbeatDefault
	}
	ms := min(w.GetHeartbeatMs(), heartbeatMax.Milliseconds())
	return max(time.Duration(ms)*time.Millisecond, heartbeatMin)
}
