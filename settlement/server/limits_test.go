package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"pgregory.net/rapid"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

// MostRequests is how many calls ever ran at once.
func (s *Server) MostRequests() int {
	s.limiter.mu.Lock()
	defer s.limiter.mu.Unlock()
	return s.limiter.most
}

// NoLimitOnRate is for tests that make many calls as one client.
func (s *Server) NoLimitOnRate() {
	s.limiter.mu.Lock()
	defer s.limiter.mu.Unlock()
	s.limiter.limits.ClientRate, s.limiter.limits.ClientBurst = 1_000_000, 1_000_000
}

// Whatever clients do, no limit is passed, who is within its own limits while
// the server is is let in, and everything is given back.
func TestLimiterModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		now := time.Unix(1000, 0)
		l := newLimiter(Limits{Requests: 5, ClientRequests: 3, Reads: 3, ClientReads: 2, ClientRate: 10, ClientBurst: 4,
			Sessions: 4, ClientSessions: 2}, func() time.Time { return now })
		type running struct {
			w    work
			done func()
		}
		var open []running
		count := func(is func(work) bool) (n int) {
			for _, r := range open {
				if is(r.w) {
					n++
				}
			}
			return n
		}
		for range rapid.IntRange(1, 80).Draw(rt, "steps") {
			switch rapid.IntRange(0, 3).Draw(rt, "step") {
			case 0:
				now = now.Add(time.Duration(rapid.IntRange(1, 300).Draw(rt, "ms")) * time.Millisecond)
			case 1:
				if len(open) > 0 {
					i := rapid.IntRange(0, len(open)-1).Draw(rt, "which")
					open[i].done()
					open = append(open[:i], open[i+1:]...)
				}
			default:
				w := work{key: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "client"), session: rapid.Bool().Draw(rt, "session"),
					reads: rapid.Bool().Draw(rt, "reads"), exempt: rapid.Bool().Draw(rt, "exempt")}
				calls := count(func(o work) bool { return !o.session })
				mine := count(func(o work) bool { return !o.session && o.key == w.key })
				reads := count(func(o work) bool { return !o.session && o.reads })
				myReads := count(func(o work) bool { return !o.session && o.reads && o.key == w.key })
				sessions := count(func(o work) bool { return o.session })
				mySessions := count(func(o work) bool { return o.session && o.key == w.key })
				fits := calls < 5 && mine < 3 && (!w.reads || reads < 3 && myReads < 2)
				if w.session {
					fits = sessions < 4 && mySessions < 2
				}
				done, err := l.start(w)
				var ref *refused
				switch {
				case err == nil && !fits:
					rt.Fatalf("%+v was let in beside %d calls", w, len(open))
				case err != nil && (!errors.As(err, &ref) || ref.reason != joulev1.ErrorReason_ERROR_REASON_OVERLOADED || ref.retryAfter <= 0):
					rt.Fatalf("%+v: got %v, want a hint when to try again", w, err)
				case err != nil && fits && (w.exempt || w.session):
					rt.Fatalf("%+v was turned away: %v", w, err)
				case err != nil && fits:
					// The rate: after the hint there is room again.
					now = now.Add(ref.retryAfter + time.Millisecond)
					if done, err = l.start(w); err != nil {
						rt.Fatalf("%+v came back when it was told: %v", w, err)
					}
				}
				if err == nil {
					open = append(open, running{w, done})
				}
			}
		}
		for _, r := range open {
			r.done()
		}
		if l.requests != 0 || l.reads != 0 || l.sessions != 0 {
			rt.Fatalf("left over: %d calls, %d reads, %d sessions", l.requests, l.reads, l.sessions)
		}
	})
}

// However many addresses come, the memory for their shares is bounded.
func TestClientsAreForgotten(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	l := newLimiter(defaultLimits(), func() time.Time { return now })
	for i := range clientsMax + 1000 {
		done, err := l.start(work{key: fmt.Sprint(i)})
		if err == nil {
			done()
		}
	}
	if n := len(l.clients); n > clientsMax+1 {
		t.Errorf("got %d shares, want at most %d", n, clientsMax+1)
	}
	now = now.Add(time.Minute)
	if done, err := l.start(work{key: "new"}); err != nil {
		t.Errorf("a new client after a minute: %v", err)
	} else {
		done()
	}
	if n := len(l.clients); n > 2 {
		t.Errorf("got %d shares after a minute, want the idle ones forgotten", n)
	}
}

func TestBatchesWaitForRoom(t *testing.T) {
	t.Parallel()
	limits := defaultLimits()
	limits.BatchBytes = 1000
	l := newLimiter(limits, time.Now)
	first, err := l.startBatch(900)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.startBatch(200); err == nil {
		t.Error("a batch beyond the room was taken")
	}
	first()
	large, err := l.startBatch(5000) // alone it always has room
	if err != nil {
		t.Errorf("a large batch alone: %v", err)
	}
	large()
}

// Heartbeats that come too fast wait.
func TestPace(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := pace{every: 100 * time.Millisecond}
	now := time.Unix(1000, 0)
	for i := range 20 {
		if err := p.wait(ctx, now.Add(time.Duration(i)*100*time.Millisecond)); err != nil {
			t.Fatalf("heartbeat %d in time: it had to wait", i)
		}
	}
	waited := 0
	for range 20 {
		if p.wait(ctx, now.Add(2*time.Second)) != nil { // it would wait, and the context has ended
			waited++
		}
	}
	if waited == 0 || waited == 20 {
		t.Errorf("20 heartbeats at once: %d waited, want some", waited)
	}
}

// Callers are who their token says; without tokens only this machine's are.
func TestCallers(t *testing.T) {
	t.Parallel()
	s := New(Default(), nil, nil, nil, nil)
	for addr, operator := range map[string]bool{"127.0.0.1:80": true, "[::1]:80": true, "[::ffff:127.0.0.1]:80": true,
		"10.0.0.1:80": false, "[2001:db8::1]:80": false, "": false, "localhost:80": false} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.RemoteAddr = addr
		if c := s.identify(r); (c.refused == "") != operator {
			t.Errorf("from %q without tokens: got %+v, want it let in: %v", addr, c, operator)
		}
	}
}
