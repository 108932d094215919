package hostd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/joulecloud/joule/driver/hostapi"
)

const (
	bodyBytesMax = 8 << 20 // a request's; environments can be large
	drainWait    = 500 * time.Millisecond
)

// server is hostd's unix socket.
type server struct {
	path   string
	l      *net.UnixListener
	http   *http.Server
	failed chan error
	done   chan struct{}
}

// listen takes the socket's place: one that lies there is stale, since we hold
// the lock. It appears with its mode set.
func (d *daemon) listen() (*server, error) {
	path := d.cfg.Socket
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != os.ModeSocket {
		return nil, fmt.Errorf("make socket: %q exists and is no socket", path)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(temp, 0o600)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make socket: %w", err), l.Close(), os.Remove(temp))
	}
	return &server{
		path: path,
		l:    l,
		http: &http.Server{
			Handler:           d.handler(),
			ReadHeaderTimeout: 10 * time.Second,
			BaseContext:       func(net.Listener) context.Context { return d.ctx },
		},
		failed: make(chan error, 1),
		done:   make(chan struct{}),
	}, nil
}

func (s *server) serve() {
	go func() {
		defer close(s.done)
		if err := s.http.Serve(s.l); !errors.Is(err, http.ErrServerClosed) {
			s.failed <- err
		}
	}()
}

// close ends the service. Answers under way get a moment.
func (s *server) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), drainWait)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	// Not served yet: Shutdown doesn't know the listener.
	if closeErr := s.l.Close(); closeErr != nil && !errors.Is(closeErr, net.ErrClosed) {
		err = errors.Join(err, closeErr)
	}
	if rmErr := os.Remove(s.path); rmErr != nil && !errors.Is(rmErr, os.ErrNotExist) {
		err = errors.Join(err, rmErr)
	}
	return err
}

// handler serves hostapi.
func (d *daemon) handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, fn func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, bodyBytesMax)
			v, err := fn(r)
			if d.ctx.Err() != nil && err != nil {
				// As if we had been killed: the caller asks the next hostd.
				panic(http.ErrAbortHandler)
			}
			d.answer(w, v, err)
		})
	}
	handle("POST /v1/tasks", func(r *http.Request) (any, error) {
		req, err := decode[hostapi.StartRequest](r)
		if err != nil {
			return nil, err
		}
		return d.startTask(r.Context(), req)
	})
	handle("GET /v1/tasks", func(*http.Request) (any, error) {
		out := []*hostapi.TaskStatus{}
		for _, t := range d.list() {
			out = append(out, t.status())
		}
		return out, nil
	})
	handle("GET /v1/tasks/{id}", func(r *http.Request) (any, error) {
		t, err := d.task(r.PathValue("id"))
		if err != nil {
			return nil, err
		}
		return t.status(), nil
	})
	handle("GET /v1/tasks/{id}/wait", func(r *http.Request) (any, error) {
		t, err := d.task(r.PathValue("id"))
		if err != nil {
			return nil, err
		}
		return t.wait(r.Context())
	})
	handle("POST /v1/tasks/{id}/stop", func(r *http.Request) (any, error) {
		req, err := decode[hostapi.StopRequest](r)
		if err != nil {
			return nil, err
		}
		return d.stopTask(r.Context(), r.PathValue("id"), req)
	})
	handle("POST /v1/tasks/{id}/signal", func(r *http.Request) (any, error) {
		req, err := decode[hostapi.SignalRequest](r)
		if err != nil {
			return nil, err
		}
		return struct{}{}, d.signalTask(r.PathValue("id"), req)
	})
	handle("POST /v1/tasks/{id}/freeze", func(r *http.Request) (any, error) { return d.freezeTask(r.Context(), r.PathValue("id")) })
	handle("POST /v1/tasks/{id}/thaw", func(r *http.Request) (any, error) {
		req, err := decode[hostapi.ThawRequest](r)
		if err != nil {
			return nil, err
		}
		return d.thawTask(r.PathValue("id"), req)
	})
	handle("GET /v1/tasks/{id}/stats", func(r *http.Request) (any, error) {
		t, err := d.task(r.PathValue("id"))
		if err != nil {
			return nil, err
		}
		p := t.process()
		if p == nil {
			return hostapi.Stats{At: time.Now()}, nil
		}
		return p.Stats(), nil
	})
	handle("DELETE /v1/tasks/{id}", func(r *http.Request) (any, error) {
		force := false
		if v := r.URL.Query().Get("force"); v != "" {
			var err error
			if force, err = strconv.ParseBool(v); err != nil {
				return nil, apiError(hostapi.ErrInvalid, "force: must be true or false (got %q)", v)
			}
		}
		return struct{}{}, d.destroy(r.Context(), r.PathValue("id"), force)
	})
	handle("GET /v1/host", func(r *http.Request) (any, error) { return d.info(r.Context()), nil })
	return mux
}

func decode[T any](r *http.Request) (*T, error) {
	v := new(T)
	err := json.NewDecoder(r.Body).Decode(v)
	if err != nil && !errors.Is(err, io.EOF) { // an empty body is an empty request
		return nil, apiError(hostapi.ErrInvalid, "request body: %v", err)
	}
	return v, nil
}

// httpStatus is the one table of error codes.
func httpStatus(code hostapi.ErrorCode) int {
	switch code {
	case hostapi.ErrInvalid:
		return http.StatusBadRequest
	case hostapi.ErrNotFound:
		return http.StatusNotFound
	case hostapi.ErrRunning:
		return http.StatusConflict
	case hostapi.ErrRefused:
		return http.StatusForbidden
	case hostapi.ErrUnavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

func (d *daemon) answer(w http.ResponseWriter, v any, err error) {
	status := http.StatusOK
	if err != nil {
		var e *hostapi.Error
		if !errors.As(err, &e) {
			d.log.Error("request failed", "error", err)
			e = apiError(hostapi.ErrInternal, "%v", err)
		}
		status, v = httpStatus(e.Code), e
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A caller that is gone can't be told.
	_ = json.NewEncoder(w).Encode(v)
}
