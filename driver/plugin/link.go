package plugin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/joulecloud/joule/driver/hostapi"
)

const (
	pingTimeout  = 2 * time.Second        // hostd answers from memory
	startTimeout = 15 * time.Second       // from starting hostd to its first answer
	pingEvery    = 20 * time.Millisecond  // while it starts
	backoffMin   = 100 * time.Millisecond // between attempts that fail
	retryMax     = 500 * time.Millisecond // of asking again
	restartMax   = 5 * time.Second        // of starting hostd again
)

// link is the plugin's connection to hostd. It outlives each hostd process:
// a call that finds none has it started (or waits for whoever keeps it) and goes
// out again. Safe for concurrent use.
type link struct {
	ctx    context.Context // the plugin's own life
	set    settings
	client *hostapi.Client
	log    hclog.Logger

	mu       sync.Mutex
	current  *attempt      // ensure's, while it lasts
	failures int           // of attempts, in a row
	changed  chan struct{} // closed and replaced when hostd came or went
}

// attempt is one try to have hostd answer, which all who want that share.
type attempt struct {
	done chan struct{}
	err  error // once done is closed
}

func newLink(ctx context.Context, set settings, log hclog.Logger) *link {
	return &link{ctx: ctx, set: set, client: hostapi.NewClient(set.socket), log: log, changed: make(chan struct{})}
}

// watch returns a channel that is closed when hostd comes or goes next.
func (l *link) watch() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *link) notify() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
}

// call runs fn until hostd has answered it: with success, or with a refusal
// (*hostapi.Error). fn must be idempotent, since an answer may have been lost.
// When ctx ends first, the error says why hostd did not answer.
func (l *link) call(ctx context.Context, fn func(context.Context) error) error {
	for attempt := 0; ; attempt++ {
		err := fn(ctx)
		if err == nil || answered(err) {
			return err
		}
		if ctx.Err() == nil {
			// The first failure is most often a hostd that went away; a
			// later one must not become a busy loop.
			if attempt > 0 {
				pause(ctx, backoff(attempt, retryMax))
			}
			if ensureErr := l.ensure(ctx); ensureErr != nil {
				err = ensureErr
			}
		}
		if ctx.Err() != nil {
			return &unreachableError{socket: l.set.socket, err: err}
		}
	}
}

// answered tells a refusal by hostd from a connection that failed.
func answered(err error) bool {
	var refusal *hostapi.Error
	return errors.As(err, &refusal)
}

// isCode tells whether hostd refused with code.
func isCode(err error, code hostapi.ErrorCode) bool {
	var refusal *hostapi.Error
	return errors.As(err, &refusal) && refusal.Code == code
}

// unreachableError is returned when hostd did not answer in time.
type unreachableError struct {
	socket string
	err    error
}

func (e *unreachableError) Error() string {
	return fmt.Sprintf("hostd does not answer at %q: %v", e.socket, rootCause(e.err))
}

func (e *unreachableError) Unwrap() error { return e.err }

// rootCause leaves out the addresses and the like that the net package puts
// around an errno, so that the same trouble always has the same text.
func rootCause(err error) error {
	var inner *unreachableError
	if errors.As(err, &inner) && inner.err != nil {
		err = inner.err
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("timed out")
	}
	return err
}

// ensure returns nil once hostd answers. Concurrent callers share one attempt,
// and attempts that fail in a row wait longer and longer. It gives up with ctx,
// but an attempt goes on for the others.
func (l *link) ensure(ctx context.Context) error {
	l.mu.Lock()
	a := l.current
	if a == nil {
		a = &attempt{done: make(chan struct{})}
		l.current = a
		go l.try(a, l.failures)
	}
	l.mu.Unlock()
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *link) try(a *attempt, failures int) {
	if failures > 0 {
		limit := retryMax
		if l.set.startHostd {
			limit = restartMax
		}
		pause(l.ctx, backoff(failures, limit))
	}
	a.err = l.revive()
	l.mu.Lock()
	l.current = nil
	if a.err == nil {
		l.failures = 0
	} else {
		l.failures++
	}
	l.mu.Unlock()
	if a.err == nil {
		l.notify()
	}
	close(a.done)
}

func (l *link) revive() error {
	err := l.ping()
	if err == nil {
		return nil
	}
	if !l.set.startHostd || !nobodyListens(err) {
		return &unreachableError{socket: l.set.socket, err: err}
	}
	l.log.Info("starting hostd", "binary", l.set.hostdBinary, "config", l.set.hostdConfig)
	exited, err := startHostd(l.set)
	if err != nil {
		return &unreachableError{socket: l.set.socket, err: err}
	}
	ctx, cancel := context.WithTimeout(l.ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(pingEvery) // a socket has no event for "now someone listens"
	defer tick.Stop()
	for {
		select {
		case status := <-exited:
			// Another hostd may have been quicker; then this one has left it the place.
			if l.ping() == nil {
				return nil
			}
			l.log.Error("hostd exited", "status", status, "last_words", lastLine(logPath(l.set)), "log", logPath(l.set))
			return &unreachableError{socket: l.set.socket, err: fmt.Errorf("hostd exited (%v), see %q", status, logPath(l.set))}
		case <-ctx.Done():
			return &unreachableError{socket: l.set.socket, err: ctx.Err()}
		case <-tick.C:
			if l.ping() == nil {
				go l.mourn(exited)
				return nil
			}
		}
	}
}

// mourn reports the end of a hostd that we started; it also ends with the
// process, so it is never more than one per hostd.
func (l *link) mourn(exited <-chan error) {
	select {
	case status := <-exited:
		l.log.Warn("hostd ended", "status", status)
		l.notify()
	case <-l.ctx.Done():
	}
}

func (l *link) ping() error {
	ctx, cancel := context.WithTimeout(l.ctx, pingTimeout)
	defer cancel()
	_, err := l.client.Host(ctx)
	if answered(err) {
		return nil
	}
	return err
}

// nobodyListens tells a hostd that is not there from one that is slow.
func nobodyListens(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED)
}

// backoff is the pause before the next attempt after so many failures (≥ 1).
func backoff(failures int, limit time.Duration) time.Duration {
	return min(backoffMin<<min(failures-1, 10), limit)
}

// pause waits for d or for the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
