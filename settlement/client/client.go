// Package client is the Go client of the settlement API.
package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"

	"connectrpc.com/connect"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
)

// Error is a refusal by the server, rebuilt from what travelled.
type Error struct {
	Reason  joulev1.ErrorReason
	Message string
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

// Dial returns a client of the settlement service at addr. It connects on the
// first call. The client is safe for concurrent use; its errors are *Error and
// *UnreachableError.
func Dial(addr, caFile string) (joulev1connect.SettlementServiceClient, error) {
	hc, err := HTTPClient(addr, caFile)
	if err != nil {
		return nil, err
	}
	return joulev1connect.NewSettlementServiceClient(hc, addr,
		connect.WithInterceptors(Errors(addr))), nil
}

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
				return &Error{Reason: e.Reason, Message: e.Message}
			}
		}
	}
	var netErr net.Error
	if ce.Code() == connect.CodeUnavailable || errors.As(err, &netErr) && ce.Code() != connect.CodeCanceled {
		return &UnreachableError{Addr: addr, Cause: ce.Unwrap()}
	}
	return err
}
