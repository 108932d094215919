package procevent

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Source says where a stamp comes from.
type Source string

// The sources.
const (
	SourceConnector Source = "connector" // the kernel's process connector
	SourceBPF       Source = "bpf"       // the kernel's clock, read at the tracepoint
	SourceTaskstats Source = "taskstats" // the kernel's taskstats
	SourceClock     Source = "clock"     // our own clock, read once we were told
)

// Stamp is a moment on CLOCK_MONOTONIC.
type Stamp struct {
	MonoNs int64
	Source Source
}

// Kernel reports whether the kernel took the stamp itself.
func (s Stamp) Kernel() bool { return s.Source != SourceClock }

// ErrDied is returned when the process died before it executed anything.
var ErrDied = errors.New("the process died before it executed the command")

// ErrTimeout is returned when nothing happened within the time given.
var ErrTimeout = errors.New("no event within the time given")

// Options leaves sources out; the zero value uses all. It is for tests and for
// hosts whose kernel misbehaves.
type Options struct {
	NoConnector bool
	NoBPF       bool
	NoTaskstats bool
}

// Watcher hears of one process's exec and exit. It is not safe for concurrent
// use. It must be closed.
type Watcher struct {
	pid     int
	pidfd   int
	conn    *connector
	exit    exitSource // nil: none but the connector
	reasons error
}

// Watch subscribes to the events of process pid, a child of the caller or of
// its, that has not executed yet what Exec is to wait for. It costs the process
// nothing. A source that is missing is no error: Missing says why it is.
func Watch(pid int, opt Options) (*Watcher, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("open pidfd of %d: %w", pid, err)
	}
	w := &Watcher{pid: pid, pidfd: fd}
	if !opt.NoConnector {
		if w.conn, err = openConnector(pid); err != nil {
			w.conn = nil
			w.reasons = errors.Join(w.reasons, fmt.Errorf("process connector: %w", err))
		}
	}
	if err := w.openExit(opt); err != nil {
		w.reasons = errors.Join(w.reasons, err)
	}
	return w, nil
}

// exitSource tells when the process exited, once it has been waited for.
type exitSource interface {
	stamp() (monoNs int64, ok bool)
	source() Source
	close()
}

// openExit takes the best source of exits that there is, and says why the better
// ones are not.
func (w *Watcher) openExit(opt Options) (missing error) {
	if !opt.NoBPF {
		x, err := openBPFExit(w.pid)
		if err == nil {
			w.exit = x
			return nil
		}
		missing = errors.Join(missing, fmt.Errorf("bpf: %w", err))
	}
	if !opt.NoTaskstats {
		x, err := openTaskstatsExit(w.pid)
		if err == nil {
			w.exit = x
			return missing
		}
		missing = errors.Join(missing, fmt.Errorf("taskstats: %w", err))
	}
	return missing
}

// Missing says which sources could not be had, and why; nil: all are there.
func (w *Watcher) Missing() error { return w.reasons }

// Exec waits for the process's first exec since Watch and returns its stamp. On
// a host without the process connector it returns the clock at once, so the
// caller calls it at the moment when it knows that the process is about to
// exec. ErrDied: the process ended without an exec; ErrTimeout: it did neither
// in time.
func (w *Watcher) Exec(timeout time.Duration) (Stamp, error) {
	if w.conn == nil {
		return Stamp{MonoNs: monoNow(), Source: SourceClock}, nil
	}
	fds := []unix.PollFd{
		{Fd: int32(w.conn.fd), Events: unix.POLLIN},
		{Fd: int32(w.pidfd), Events: unix.POLLIN},
	}
	for deadline := time.Now().Add(timeout); ; {
		w.conn.drain()
		if w.conn.exec != 0 {
			s := Stamp{MonoNs: w.conn.exec, Source: SourceConnector}
			if w.exit != nil { // exits come from there: hear no more of this one's
				w.conn.close()
				w.conn = nil
			}
			return s, nil
		}
		if fds[1].Revents != 0 {
			return Stamp{}, ErrDied
		}
		left := time.Until(deadline)
		if left <= 0 {
			return Stamp{}, ErrTimeout
		}
		_, err := unix.Poll(fds, int(left.Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return Stamp{}, fmt.Errorf("wait for an exec of %d: %w", w.pid, err)
		}
	}
}

// connectorLateMax bounds the wait for the connector's exit event, which the
// kernel sends after it has told the parent.
const connectorLateMax = 50 * time.Millisecond

// Exit returns when the process exited. The caller has waited for the process
// (wait4) just before. Nothing sleeps on the exit's message meanwhile: to be
// woken by it would take the core from the process in the middle of its exit.
func (w *Watcher) Exit() Stamp {
	now := monoNow()
	if w.exit != nil {
		if ns, ok := w.exit.stamp(); ok {
			return Stamp{MonoNs: ns, Source: w.exit.source()}
		}
	}
	if w.conn != nil {
		fds := []unix.PollFd{{Fd: int32(w.conn.fd), Events: unix.POLLIN}}
		for deadline := time.Now().Add(connectorLateMax); ; {
			w.conn.drain()
			left := time.Until(deadline)
			if w.conn.exit != 0 || left <= 0 {
				break
			}
			_, _ = unix.Poll(fds, int(left.Milliseconds())+1) // an error: the loop ends by the deadline
		}
		if w.conn.exit != 0 {
			return Stamp{MonoNs: w.conn.exit, Source: SourceConnector}
		}
	}
	return Stamp{MonoNs: now, Source: SourceClock}
}

// Close ends the subscriptions.
func (w *Watcher) Close() {
	_ = unix.Close(w.pidfd)
	if w.conn != nil {
		w.conn.close()
	}
	if w.exit != nil {
		w.exit.close()
	}
}
