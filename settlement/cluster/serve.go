package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"connectrpc.com/connect"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
	"github.com/joulecloud/joule/settlement/node"
	"github.com/joulecloud/joule/settlement/refusal"
)

// The bounds on what other servers may ask. They have shown a server's
// certificate, but one may be broken, or of another version.
const (
	callBytes     = 64 << 10 // of one message
	proposalBytes = 2 << 20  // of a batch; the node's own bound is below it
	callsMax      = 1024     // at once
	retryPeer     = 50 * time.Millisecond
)

// handler serves PeerService with the errors of the one table.
func (a *Agent) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(joulev1connect.NewPeerServiceHandler(&service{a},
		connect.WithConditionalHandlerOptions(func(spec connect.Spec) []connect.HandlerOption {
			if spec.Procedure == joulev1connect.PeerServiceProposeProcedure {
				return []connect.HandlerOption{connect.WithReadMaxBytes(proposalBytes)}
			}
			return []connect.HandlerOption{connect.WithReadMaxBytes(callBytes)}
		}),
		connect.WithInterceptors(refusal.Seen(), peerErrors{}),
		connect.WithRecover(func(ctx context.Context, spec connect.Spec, _ http.Header, p any) error {
			a.log.LogAttrs(ctx, slog.LevelError, "panic in handler", slog.String("procedure", spec.Procedure), slog.Any("panic", p))
			return connect.NewError(connect.CodeInternal, errors.New("internal error"))
		})))
	return limited(refusal.Handler(mux))
}

// limited lets callsMax calls run at once.
func limited(next http.Handler) http.Handler {
	running := make(chan struct{}, callsMax)
	refusals := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case running <- struct{}{}:
			defer func() { <-running }()
			next.ServeHTTP(w, r)
		default:
			_ = refusals.Write(w, r, refusal.Error(&joulev1.Error{Reason: joulev1.ErrorReason_ERROR_REASON_OVERLOADED,
				Message: fmt.Sprintf("this server is busy with %d calls of other servers", callsMax), RetryAfterMs: retryPeer.Milliseconds()}))
		}
	})
}

// peerErrors gives errors their form between servers.
type peerErrors struct{}

// WrapUnary implements connect.Interceptor.
func (peerErrors) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		resp, err := next(ctx, req)
		if err != nil {
			return nil, toPeer(err)
		}
		return resp, nil
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (peerErrors) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor.
func (peerErrors) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		if err := next(ctx, conn); err != nil {
			return toPeer(err)
		}
		return nil
	}
}

// refused is an error that says its kind.
type refused struct {
	reason joulev1.ErrorReason
	text   string
}

func (r *refused) Error() string { return r.text }

func invalid(format string, args ...any) error {
	return &refused{joulev1.ErrorReason_ERROR_REASON_INVALID, fmt.Sprintf(format, args...)}
}

// toPeer is the form of an error between servers.
func toPeer(err error) error {
	var ce *connect.Error
	var ref *refused
	var notLeader *node.NotLeaderError
	reason, known := reasonOf(err)
	switch {
	case known:
	case errors.As(err, &ce):
		return refusal.OfProtocol(ce)
	case errors.As(err, &ref):
		reason = ref.reason
	case errors.As(err, &notLeader):
		reason = joulev1.ErrorReason_ERROR_REASON_NOT_LEADER
	case errors.Is(err, node.ErrNotUnderstood):
		reason = joulev1.ErrorReason_ERROR_REASON_MALFORMED
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return connect.NewError(connect.CodeOf(err), err)
	default:
		reason = joulev1.ErrorReason_ERROR_REASON_UNAVAILABLE
	}
	return refusal.Error(&joulev1.Error{Reason: reason, Message: err.Error()})
}
