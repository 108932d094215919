package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/joulecloud/joule/settlement/access"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/node"
)

// healthTimeout bounds what a health check waits for.
const healthTimeout = 2 * time.Second

// probesMax is how many probes of one kind may run at once: no flood of them
// holds up the ledger.
const probesMax = 32

// probe bounds how often fn runs at once; beyond it the answer is 503.
func probe(fn http.HandlerFunc) http.Handler {
	running := make(chan struct{}, probesMax)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case running <- struct{}{}:
			defer func() { <-running }()
			fn(w, r)
		default:
			http.Error(w, "busy", http.StatusServiceUnavailable)
		}
	})
}

// forMetrics lets those in who may see the metrics.
func (s *Server) forMetrics(next http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !s.cfg.MetricsPublic {
			switch c := s.identify(r); c.id.Role {
			case access.Operator:
			case access.Nobody:
				w.Header().Set("WWW-Authenticate", "Bearer")
				http.Error(w, c.refused, http.StatusUnauthorized)
				return
			default:
				http.Error(w, "/metrics is for operators: set metrics_public to open it", http.StatusForbidden)
				return
			}
		}
		next.ServeHTTP(w, r)
	}
}

// health answers 200 while this server can serve, 503 otherwise: it has a
// leader and the ledger as the leader has it.
func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	s.check(w, r, node.Leader)
}

// live answers 503 only when this server has failed and should be replaced; one
// that merely has no leader is alive.
func (s *Server) live(w http.ResponseWriter, r *http.Request) {
	s.check(w, r, node.Stale)
}

func (s *Server) check(w http.ResponseWriter, r *http.Request, c node.Consistency) {
	ctx, cancel := context.WithTimeout(node.WithConsistency(r.Context(), c), healthTimeout)
	defer cancel()
	err := s.node.Read(ctx, func(*ledger.Ledger) error { return nil })
	if err == nil {
		fmt.Fprintln(w, "ok")
		return
	}
	var notLeader *node.NotLeaderError
	why := "unavailable"
	switch {
	case errors.As(err, &notLeader), errors.Is(err, context.DeadlineExceeded):
		why = "no leader"
	case errors.Is(err, node.ErrFailed):
		why = "failed"
	}
	http.Error(w, why, http.StatusServiceUnavailable)
}

// Sessions is how many hosts have a session here.
func (s *Server) Sessions() int { return s.sessions.count() }

// Silent is for how long a host has not been heard here, or this server runs,
// where that is less.
func (s *Server) Silent(host uint32) time.Duration { return s.sessions.silent(ledger.HostID(host)) }
