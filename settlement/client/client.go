// Package client is the Go client of the settlement API.
package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"connectrpc.com/connect"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
)

// Error is a refusal by the server, rebuilt from what travelled.
type Error struct {
	Reason     joulev1.ErrorReason
	Message    string
	RetryAfter time.Duration // of an overloaded server: not before; nothing has happened
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// UnreachableError says that no answer came: the outcome of a changing call is
// unknown, and repeating it with the same key is safe.
type UnreachableError struct {
	Addr  string
	Cause error
}

// Error implements error.
func (e *UnreachableError) Error() string {
	return fmt.Sprintf("no answer from settlement server %s: %v", e.Addr, e.Cause)
}

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Cause }

// HTTPClient returns an HTTP client for a server's URL that speaks HTTP/2
// always: without TLS for http:// (h2c), with TLS for https://, trusting the
// certificates in caFile, or the system's when caFile is "".
func HTTPClient(addr, caFile string) (*http.Client, error) {
	u, err := url.Parse(addr)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("server address: want http://host:port or https://host:port, got %q", addr)
	}
	protocols := new(http.Protocols)
	tr := &http.Transport{Protocols: protocols}
	switch u.Scheme {
	case "http":
		protocols.SetUnencryptedHTTP2(true)
	case "https":
		protocols.SetHTTP2(true)
		if tr.TLSClientConfig, err = tlsConfig(caFile); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("server address: want http:// or https://, got %q", addr)
	}
	return &http.Client{Transport: tr}, nil
}

func tlsConfig(caFile string) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS13}
	if caFile == "" {
		return cfg, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("read ca_file: %w", err)
	}
	cfg.RootCAs = x509.NewCertPool()
	if !cfg.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca_file: no certificate in %q", caFile)
	}
	return cfg, nil
}

// Option changes how a client calls.
type Option func(*options)

type options struct{ token string }

// WithToken sends a bearer's token with each call; "": none.
func WithToken(secret string) Option { return func(o *options) { o.token = secret } }

// Dial returns a client of the settlement service at addr. It connects on the
// first call. The client is safe for concurrent use; its errors are *Error and
// *UnreachableError. A call that an overloaded server turns away is made again
// when the server says, as long as its context allows.
func Dial(addr, caFile string, opts ...Option) (joulev1connect.SettlementServiceClient, error) {
	hc, with, err := connection(addr, caFile, opts, Patience())
	if err != nil {
		return nil, err
	}
	return joulev1connect.NewSettlementServiceClient(hc, addr, with), nil
}

// connection is what every client is made of; outer interceptors come around
// those that all have.
func connection(addr, caFile string, opts []Option, outer ...connect.Interceptor) (*http.Client, connect.ClientOption, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	hc, err := HTTPClient(addr, caFile)
	if err != nil {
		return nil, nil, err
	}
	return hc, connect.WithInterceptors(append(outer, Errors(addr), bearer(o.token))...), nil
}

// bearer sends a token with calls and streams; "": none.
type bearer string

func (b bearer) set(h http.Header) {
	if b != "" {
		h.Set("Authorization", "Bearer "+string(b))
	}
}

func (b bearer) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		b.set(req.Header())
		return next(ctx, req)
	}
}

func (b bearer) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		b.set(conn.RequestHeader())
		return conn
	}
}

func (b bearer) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// Patience is an interceptor, outside of Errors, that makes calls again which
// an overloaded server turned away, after the time that it asks for. Where the
// context ends before that, the refusal is returned at once.
func Patience() connect.Interceptor {
	return connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			for wait := time.Duration(0); ; wait = min(2*wait, patienceMax) {
				resp, err := next(ctx, req)
				var refused *Error
				if !errors.As(err, &refused) || refused.Reason != joulev1.ErrorReason_ERROR_REASON_OVERLOADED {
					return resp, err
				}
				wait = max(wait, refused.RetryAfter, time.Millisecond)
				// Clients that were turned away together come back apart.
				pause := wait + rand.N(wait)
				if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < pause {
					return nil, err
				}
				t := time.NewTimer(pause)
				select {
				case <-t.C:
				case <-ctx.Done():
					t.Stop()
					return nil, err
				}
			}
		}
	})
}

// patienceMax bounds the pause between two tries.
const patienceMax = 5 * time.Second

// Errors is an interceptor that gives unary calls this package's errors.
func Errors(addr string) connect.Interceptor {
	return connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			resp, err := next(ctx, req)
			if err != nil {
				return nil, Rebuild(addr, err)
			}
			return resp, nil
		}
	})
}

// Rebuild turns an error of a Connect call into *Error where the server gave a
// reason, and into *UnreachableError where no server answered.
func Rebuild(addr string, err error) error {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return err
	}
	for _, d := range ce.Details() {
		if v, verr := d.Value(); verr == nil {
			if e, ok := v.(*joulev1.Error); ok {
				return &Error{Reason: e.Reason, Message: e.Message, RetryAfter: time.Duration(e.RetryAfterMs) * time.Millisecond}
			}
		}
	}
	var netErr net.Error
	if ce.Code() == connect.CodeUnavailable || errors.As(err, &netErr) && ce.Code() != connect.CodeCanceled {
		return &UnreachableError{Addr: addr, Cause: ce.Unwrap()}
	}
	return err
}
