package daemon

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A server without a leader answers stale reads, says how stale it is, and
// refuses the others; the answers name who answered and where the leader is.
func TestConsistencyOfReads(t *testing.T) {
	t.Parallel()
	s := newServers(t, 3, 3)
	s.start(0, 1, 2)
	s.wait(0, 1, 2)
	s.supplier(0, "lab")
	s.sees(1, "lab")
	leader := s.leader()
	follower := (leader + 1) % 3
	read := func(consistency string) (int, http.Header) {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.cfgs[follower].Listen+"/joule.v1.SettlementService/ListAccounts", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Joule-Consistency", consistency)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode, resp.Header
	}
	for _, c := range []string{"", "stale", "default", "consistent"} {
		s.eventually("read "+c, func() error {
			code, h := read(c)
			if code != http.StatusOK || h.Get("Joule-Server") != s.cfgs[follower].Name || h.Get("Joule-Applied-Index") == "" || h.Get("Joule-Stale-Ms") == "" {
				t.Errorf("read %q: got %d, %v", c, code, h)
			}
			return nil
		})
	}
	s.eventually("learn the leader's address", func() error {
		if _, h := read("stale"); h.Get("Joule-Leader") != "http://"+s.cfgs[leader].Listen {
			return context.DeadlineExceeded
		}
		return nil
	})
	if code, _ := read("fresh"); code != http.StatusBadRequest {
		t.Errorf("an unknown consistency: got %d, want %d", code, http.StatusBadRequest)
	}
	s.mustStop(leader)
	s.mustStop((leader + 2) % 3)
	if code, h := read("stale"); code != http.StatusOK || h.Get("Joule-Stale-Ms") == "" {
		t.Errorf("stale read without a leader: got %d, %v", code, h)
	}
	// It takes a while to notice that nobody is there.
	deadline := time.Now().Add(limit)
	for code, _ := read("consistent"); code != http.StatusServiceUnavailable; code, _ = read("consistent") {
		if time.Now().After(deadline) {
			t.Fatalf("consistent read without a leader: got %d, want %d", code, http.StatusServiceUnavailable)
		}
	}
}
