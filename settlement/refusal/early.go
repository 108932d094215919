package refusal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"connectrpc.com/connect"
)

// Handler gives the table's answer to calls that Connect's handlers refuse
// before any interceptor has seen them: a message that does not decode, is too
// large, or is packed in an unknown way. Every handler of next must have Seen
// as its first interceptor.
func Handler(next http.Handler) http.Handler {
	writer := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := &held{ResponseWriter: w}
		next.ServeHTTP(h, r.WithContext(context.WithValue(r.Context(), heldKey{}, h)))
		if h.seen {
			return
		}
		if err := h.refused(); err != nil && writer.IsSupported(r) {
			clear(w.Header())
			_ = writer.Write(w, r, OfProtocol(err)) // a client that is gone needs no answer
			return
		}
		h.pass()
	})
}

// Seen tells Handler that a call got as far as the interceptors: what is
// answered from there on has its form already.
func Seen() connect.Interceptor { return seen{} }

type heldKey struct{}

type seen struct{}

func (seen) mark(ctx context.Context) {
	if h, ok := ctx.Value(heldKey{}).(*held); ok {
		h.seen = true
	}
}

func (s seen) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		s.mark(ctx)
		return next(ctx, req)
	}
}

func (seen) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (s seen) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		s.mark(ctx)
		return next(ctx, conn)
	}
}

// held keeps an answer back until the call was seen. It has the methods that
// Connect asks a ResponseWriter for.
type held struct {
	http.ResponseWriter
	seen   bool
	status int
	body   bytes.Buffer
}

// WriteHeader implements http.ResponseWriter.
func (h *held) WriteHeader(status int) {
	if h.seen {
		h.ResponseWriter.WriteHeader(status)
		return
	}
	h.status = status
}

// Write implements http.ResponseWriter.
func (h *held) Write(p []byte) (int, error) {
	if h.seen {
		return h.ResponseWriter.Write(p)
	}
	return h.body.Write(p)
}

// Flush implements http.Flusher.
func (h *held) Flush() {
	if f, ok := h.ResponseWriter.(http.Flusher); ok && h.seen {
		f.Flush()
	}
}

// Unwrap is for http.ResponseController.
func (h *held) Unwrap() http.ResponseWriter { return h.ResponseWriter }

// pass lets go of what was kept back.
func (h *held) pass() {
	if h.status != 0 {
		h.ResponseWriter.WriteHeader(h.status)
	}
	if h.body.Len() > 0 {
		_, _ = h.ResponseWriter.Write(h.body.Bytes())
	}
}

// refused reads the error that is kept back, in the form of the protocol it is
// in; nil: there is none.
func (h *held) refused() *connect.Error {
	for _, prefix := range []string{"", http.TrailerPrefix} { // gRPC-Web, gRPC
		if n, err := strconv.ParseUint(h.Header().Get(prefix+"Grpc-Status"), 10, 32); err == nil && n > 0 {
			text := h.Header().Get(prefix + "Grpc-Message")
			if plain, err := url.PathUnescape(text); err == nil {
				text = plain
			}
			return connect.NewError(connect.Code(n), errors.New(text))
		}
	}
	var e struct {
		Code    connect.Code `json:"code"`
		Message string       `json:"message"`
	}
	if h.status < 400 || json.Unmarshal(h.body.Bytes(), &e) != nil || e.Code == 0 {
		return nil
	}
	return connect.NewError(e.Code, errors.New(e.Message))
}
