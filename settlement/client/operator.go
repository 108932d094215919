package client

import (
	"context"

	"connectrpc.com/connect"

	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
)

// DialOperator is Dial for the service of those who run the servers. The errors
// of its streams are connect's: see Rebuild.
func DialOperator(addr, caFile string, opts ...Option) (joulev1connect.OperatorServiceClient, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	hc, err := HTTPClient(addr, caFile)
	if err != nil {
		return nil, err
	}
	return joulev1connect.NewOperatorServiceClient(hc, addr,
		connect.WithInterceptors(Errors(addr), bearer(o.token), streamBearer(o.token))), nil
}

// streamBearer sends a token with streams.
type streamBearer string

func (b streamBearer) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc { return next }

func (b streamBearer) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		if b != "" {
			conn.RequestHeader().Set("Authorization", "Bearer "+string(b))
		}
		return conn
	}
}

func (b streamBearer) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}
