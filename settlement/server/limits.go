package server

import (
	"context"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
)

// Limits bound what clients together and each of them may ask at once. What is
// beyond a limit is refused before it is read, with a hint when to try again,
// so that neither memory nor the queue in front of the replicated log grows. A
// client is a token, or an address where no token is needed.
type Limits struct {
	Requests       int   // calls that run at once
	ClientRequests int   // of one client
	Reads          int   // of those, calls that read much
	ClientReads    int   // of one client
	ClientRate     int   // calls a second of one client, on average
	ClientBurst    int   // and at once after a pause
	Sessions       int   // of hosts
	ClientSessions int   // from one address
	BatchBytes     int64 // of usage batches that wait to be settled
	BeatsPerSecond int   // heartbeats of one session; faster ones wait
	CallBytes      int   // one message of a call
	SessionBytes   int   // one message of a host's session
}

// defaultLimits suit a server with 1 GiB for the API.
func defaultLimits() Limits {
	return Limits{
		Requests: 2048, ClientRequests: 256, Reads: 64, ClientReads: 16, ClientRate: 1000, ClientBurst: 2000,
		Sessions: 20_000, ClientSessions: 5000, BatchBytes: 256 << 20, BeatsPerSecond: 100,
		CallBytes: 64 << 10, SessionBytes: 1 << 20,
	}
}

// Hints of when to try again.
const (
	retryBusy    = 50 * time.Millisecond // a call or two will have ended
	retrySession = 2 * time.Second
	retryBatch   = 500 * time.Millisecond
)

// clientsMax bounds the memory for clients' shares; beyond it, those that are
// not known yet share one.
const clientsMax = 1 << 16

// limiter gives out shares of the server.
type limiter struct {
	limits Limits
	now    func() time.Time

	mu       sync.Mutex
	requests int
	most     int // that ever ran at once
	reads    int
	sessions int
	batches  int64 // bytes
	clients  map[string]*share
	swept    time.Time // when the idle ones were last forgotten
}

// share is what one client uses.
type share struct {
	requests, reads, sessions int
	tokens                    float64 // calls that it may make now
	at                        time.Time
}

func newLimiter(l Limits, now func() time.Time) *limiter {
	return &limiter{limits: l, now: now, clients: map[string]*share{}}
}

// work is what a call needs of the server.
type work struct {
	key     string
	exempt  bool // from the limit on the rate
	reads   bool
	session bool
}

// start takes a call's share, or says why not. done gives it back.
func (l *limiter) start(w work) (done func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.client(w.key)
	if w.session {
		switch {
		case l.sessions >= l.limits.Sessions:
			return nil, overloaded(retrySession, "this server has %d sessions: try another, or later", l.sessions)
		case c.sessions >= l.limits.ClientSessions:
			return nil, overloaded(retrySession, "%s has %d sessions, at most %d", w.key, c.sessions, l.limits.ClientSessions)
		}
		l.sessions++
		c.sessions++
		return func() { l.end(func() { l.sessions--; c.sessions-- }) }, nil
	}
	switch {
	case l.requests >= l.limits.Requests:
		return nil, overloaded(retryBusy, "this server is busy with %d calls", l.requests)
	case c.requests >= l.limits.ClientRequests:
		return nil, overloaded(retryBusy, "%s has %d calls under way, at most %d", w.key, c.requests, l.limits.ClientRequests)
	case w.reads && l.reads >= l.limits.Reads:
		return nil, overloaded(retryBusy, "this server is busy with %d calls that read", l.reads)
	case w.reads && c.reads >= l.limits.ClientReads:
		return nil, overloaded(retryBusy, "%s has %d calls under way that read, at most %d", w.key, c.reads, l.limits.ClientReads)
	case !w.exempt && c.tokens < 1:
		wait := time.Duration((1 - c.tokens) / float64(l.limits.ClientRate) * float64(time.Second))
		return nil, overloaded(max(wait, time.Millisecond), "%s makes more than %d calls a second", w.key, l.limits.ClientRate)
	}
	if !w.exempt {
		c.tokens--
	}
	l.requests++
	l.most = max(l.most, l.requests)
	c.requests++
	if w.reads {
		l.reads++
		c.reads++
	}
	return func() {
		l.end(func() {
			l.requests--
			c.requests--
			if w.reads {
				l.reads--
				c.reads--
			}
		})
	}, nil
}

func (l *limiter) end(give func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	give()
}

// client is a client's share, its calls replenished; mu is held.
func (l *limiter) client(key string) *share {
	now := l.now()
	c := l.clients[key]
	if c == nil {
		if len(l.clients) >= clientsMax && now.Sub(l.swept) >= time.Second {
			l.forget(now)
			l.swept = now
		}
		if len(l.clients) >= clientsMax {
			key = "others"
			c = l.clients[key]
		}
		if c == nil {
			c = &share{tokens: float64(l.limits.ClientBurst), at: now}
			l.clients[key] = c
		}
	}
	c.replenish(l.limits, now)
	return c
}

func (c *share) replenish(l Limits, now time.Time) {
	c.tokens = math.Min(float64(l.ClientBurst), c.tokens+now.Sub(c.at).Seconds()*float64(l.ClientRate))
	c.at = now
}

// forget drops the clients that use nothing and have their whole burst.
func (l *limiter) forget(now time.Time) {
	for key, c := range l.clients {
		c.replenish(l.limits, now)
		if c.requests == 0 && c.sessions == 0 && c.tokens >= float64(l.limits.ClientBurst) {
			delete(l.clients, key)
		}
	}
}

// startBatch takes room for a usage batch that waits to be settled.
func (l *limiter) startBatch(bytes int) (done func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := int64(bytes)
	if l.batches > 0 && l.batches+n > l.limits.BatchBytes {
		return nil, overloaded(retryBatch, "%d bytes of usage batches wait to be settled", l.batches)
	}
	l.batches += n
	return func() { l.end(func() { l.batches -= n }) }, nil
}

// limited lets a call through to next once it has its share, with who makes it
// in the context. A call's body is read only then.
func (s *Server) limited(next http.Handler) http.Handler {
	refusals := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := s.identify(r)
		done, err := s.limiter.start(work{key: c.key, exempt: c.exempt, reads: rules[r.URL.Path].reads,
			session: r.URL.Path == joulev1connect.HostServiceSessionProcedure})
		if err != nil {
			err = connectError(r.Context(), s.log, err)
			if after := retryAfter(err); after > 0 {
				w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(after.Seconds()))))
			}
			if !refusals.IsSupported(r) {
				http.Error(w, err.Error(), http.StatusTooManyRequests)
				return
			}
			if werr := refusals.Write(w, r, err); werr != nil {
				s.log.DebugContext(r.Context(), "a refusal could not be written", "error", werr)
			}
			return
		}
		defer done()
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
	})
}

// pace keeps a session's heartbeats apart: a host that floods waits, and HTTP/2
// makes it stop sending.
type pace struct {
	every time.Duration
	next  time.Time
}

// wait returns once the next heartbeat may be answered.
func (p *pace) wait(ctx context.Context, now time.Time) error {
	if p.next.Before(now) {
		p.next = now
	}
	delay := p.next.Sub(now)
	p.next = p.next.Add(p.every)
	const slack = 10 // heartbeats that may come at once
	if delay <= slack*p.every {
		return nil
	}
	t := time.NewTimer(delay - slack*p.every)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
