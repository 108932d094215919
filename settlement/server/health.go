package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/node"
)

// healthTimeout bounds what a health check waits for.
const healthTimeout = 2 * time.Second

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
