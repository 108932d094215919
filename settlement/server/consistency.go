package server

import (
	"context"
	"net/http"
	"strconv"

	"connectrpc.com/connect"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/node"
)

// The headers of requests and answers that concern several servers. A request's
// Joule-Consistency is stale, default or consistent: what this server has now;
// what the leader has, on its own word; what the leader has after asking a
// majority whether it still leads. Every server answers all three.
const (
	headerConsistency = "Joule-Consistency"
	headerServer      = "Joule-Server"        // who answered
	headerLeader      = "Joule-Leader"        // URL of the leader's API, where it is known
	headerApplied     = "Joule-Applied-Index" // how far the answering server is in the log
	headerStaleMs     = "Joule-Stale-Ms"      // since it heard the leader; 0: it leads; -1: never
)

// consistencies are the values of headerConsistency.
var consistencies = map[string]node.Consistency{
	"":           node.Leader,
	"default":    node.Leader,
	"stale":      node.Stale,
	"consistent": node.Consistent,
}

// consistencyInterceptor gives reads the freshness that the request asks for,
// and answers who answered and how fresh that server is.
type consistencyInterceptor struct{ s *Server }

func (i consistencyInterceptor) context(ctx context.Context, h http.Header) (context.Context, error) {
	c, ok := consistencies[h.Get(headerConsistency)]
	if !ok {
		return ctx, refuse(joulev1.ErrorReason_ERROR_REASON_INVALID, "header %s: want stale, default or consistent, got %q",
			headerConsistency, h.Get(headerConsistency))
	}
	return node.WithConsistency(ctx, c), nil
}

// answer fills the headers in.
func (i consistencyInterceptor) answer(h http.Header) {
	st := i.s.node.Status()
	h.Set(headerServer, i.s.cfg.Name)
	h.Set(headerApplied, strconv.FormatUint(st.AppliedIndex, 10))
	stale := int64(-1)
	if st.LastContact >= 0 {
		stale = st.LastContact.Milliseconds()
	}
	h.Set(headerStaleMs, strconv.FormatInt(stale, 10))
	if i.s.cfg.Cluster != nil {
		if url := i.s.cfg.Cluster.LeaderAPI(); url != "" {
			h.Set(headerLeader, url)
		}
	}
}

// WrapUnary implements connect.Interceptor.
func (i consistencyInterceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		ctx, err := i.context(ctx, req.Header())
		if err != nil {
			return nil, connectError(ctx, i.s.log, err)
		}
		resp, err := next(ctx, req)
		var ce *connect.Error
		switch {
		case err == nil:
			i.answer(resp.Header())
		case connectErr(err, &ce):
			i.answer(ce.Meta())
		}
		return resp, err
	}
}

// connectErr finds the error that will travel; its metadata become headers.
func connectErr(err error, into **connect.Error) bool {
	ce, ok := err.(*connect.Error)
	*into = ce
	return ok
}

// WrapStreamingClient implements connect.Interceptor.
func (i consistencyInterceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor.
func (i consistencyInterceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		ctx, err := i.context(ctx, conn.RequestHeader())
		if err != nil {
			return connectError(ctx, i.s.log, err)
		}
		i.answer(conn.ResponseHeader())
		return next(ctx, conn)
	}
}
