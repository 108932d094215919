package session

import (
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/joulecloud/joule/driver/session/sessiontest"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/wire"
)

func TestRecordsGoUpAndAcknowledgementsComeDown(t *testing.T) {
	f := start(t, nil)
	f.srv.Set(func(h *sessiontest.Hooks) { h.CheckpointMs = 700 })
	f.hostOf().add(1, 5)
	f.Wake()
	f.drained(t)
	f.hostOf().add(1, 1)
	f.hostOf().add(2, 3000) // several batches
	f.Wake()
	f.drained(t)
	f.accepted(t, "a/t/1", 6)
	f.accepted(t, "a/t/2", 3000)
	f.srv.Await(t, "heartbeat totals", func() bool {
		l, _ := f.srv.Lease("a/t/1")
		return l.Beat.GetWallMs() >= 30 && l.Beat.GetCpuMs() >= 3
	})
	st := f.Status()
	if len(st) != 1 || !st[0].Connected || st[0].Err != nil || st[0].URL != f.srv.URL() {
		t.Errorf("Status: got %+v", st)
	}
}

func TestWelcomeSetsTheCheckpoint(t *testing.T) {
	srv := newServer(t)
	srv.Set(func(h *sessiontest.Hooks) { h.CheckpointMs = 700 })
	cfg := config(t, srv.URL())
	srv.Enroll("h1", cfg.Key.Public().(ed25519.PublicKey))
	host := newHost()
	run(t, cfg, host)
	srv.Await(t, "the checkpoint interval", func() bool {
		host.mu.Lock()
		defer host.mu.Unlock()
		return host.checkpoint == 700*time.Millisecond
	})
}

func TestMisbehavingServer(t *testing.T) {
	unavailable := &joulev1.Error{Reason: joulev1.ErrorReason_ERROR_REASON_UNAVAILABLE, Message: "no quorum"}
	for _, tc := range []struct {
		name  string
		batch func(n int, b *wire.UsageBatch) sessiontest.Action
	}{
		{"cuts before applying", func(n int, _ *wire.UsageBatch) sessiontest.Action {
			if n <= 3 {
				return sessiontest.Action{Cut: true}
			}
			return sessiontest.Normal
		}},
		{"applies, then cuts without an answer", func(n int, _ *wire.UsageBatch) sessiontest.Action {
			if n <= 3 {
				return sessiontest.Action{Apply: true, Cut: true}
			}
			return sessiontest.Normal
		}},
		{"acknowledges everything twice", func(int, *wire.UsageBatch) sessiontest.Action {
			return sessiontest.Action{Apply: true, Acks: 2}
		}},
		{"is slow", func(int, *wire.UsageBatch) sessiontest.Action {
			return sessiontest.Action{Before: 50 * time.Millisecond, Apply: true, Acks: 1}
		}},
		{"never answers the first batch", func(n int, _ *wire.UsageBatch) sessiontest.Action {
			if n == 1 {
				return sessiontest.Action{Apply: true}
			}
			return sessiontest.Normal
		}},
		{"answers the first batch too late", func(n int, _ *wire.UsageBatch) sessiontest.Action {
			if n == 1 {
				return sessiontest.Action{Before: 600 * time.Millisecond, Apply: true, Acks: 1}
			}
			return sessiontest.Normal
		}},
		{"turns batches away", func(n int, _ *wire.UsageBatch) sessiontest.Action {
			if n <= 3 {
				return sessiontest.Action{Error: unavailable, Acks: 1}
			}
			return sessiontest.Normal
		}},
		{"answers with no outcome", func(n int, _ *wire.UsageBatch) sessiontest.Action {
			if n <= 2 {
				return sessiontest.Action{Acks: 1}
			}
			return sessiontest.Normal
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f := start(t, func(c *Config) { c.Silence = 400 * time.Millisecond })
			f.srv.Set(func(h *sessiontest.Hooks) { h.Batch = tc.batch })
			for range 4 {
				f.hostOf().add(1, 20)
				f.hostOf().add(2, 20)
				f.Wake()
				f.drained(t)
			}
			f.accepted(t, "a/t/1", 80)
			f.accepted(t, "a/t/2", 80)
		})
	}
}

func TestServerRestartAndCuts(t *testing.T) {
	f := start(t, nil)
	for i := range 6 {
		f.hostOf().add(1, 50)
		f.Wake()
		switch i % 3 {
		case 0:
			f.srv.Stop()
			f.srv.Start(t)
		case 1:
			f.srv.CutAll()
		}
		f.drained(t)
	}
	f.accepted(t, "a/t/1", 300)
	if got := f.srv.Sessions(); got < 3 {
		t.Errorf("sessions: got %d, want at least 3", got)
	}
}

func TestSilentServerIsLeft(t *testing.T) {
	f := start(t, func(c *Config) { c.Silence = 150 * time.Millisecond })
	f.srv.Set(func(h *sessiontest.Hooks) {
		h.Beat = func(*joulev1.Heartbeat) bool { return false }
	})
	f.srv.Await(t, "a second session", func() bool { return f.srv.Sessions() >= 2 })
	f.srv.Await(t, "its reason", func() bool {
		err := f.Status()[0].Err
		return err != nil && strings.Contains(err.Error(), "said nothing for")
	})
}

func TestRefusedHostKeepsTrying(t *testing.T) {
	srv := newServer(t)
	cfg := config(t, srv.URL())
	s := run(t, cfg, newHost())
	srv.Await(t, "the refusal", func() bool {
		var refused *RefusedError
		err := s.Status()[0].Err
		return errors.As(err, &refused) && refused.Reason == joulev1.ErrorReason_ERROR_REASON_UNAUTHENTICATED &&
			refused.Message == `unknown host "h1"`
	})
	_, err := s.OpenLease(t.Context(), "a", "t", "1")
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Reason != joulev1.ErrorReason_ERROR_REASON_UNAUTHENTICATED {
		t.Errorf("OpenLease: got %v, want a refusal", err)
	}
	srv.Enroll("h1", cfg.Key.Public().(ed25519.PublicKey))
	srv.Await(t, "a session once enrolled", func() bool { return s.Status()[0].Connected })
}

func TestWrongKeyIsRefused(t *testing.T) {
	srv := newServer(t)
	other, _, _ := ed25519.GenerateKey(nil)
	srv.Enroll("h1", other)
	s := run(t, config(t, srv.URL()), newHost())
	srv.Await(t, "the refusal", func() bool {
		err := s.Status()[0].Err
		return err != nil && strings.Contains(err.Error(), "bad proof")
	})
}

func TestCommandsReachTheHost(t *testing.T) {
	f := start(t, nil)
	f.srv.Await(t, "a session", func() bool { return f.Status()[0].Connected })
	f.srv.Command(2, joulev1.StopReason_STOP_REASON_FUNDS)
	f.srv.Await(t, "the command", func() bool {
		h := f.hostOf()
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.stops) == 1 && h.stops[0] == "2 STOP_REASON_FUNDS"
	})
}

func TestHostsOwnTroubleIsRetried(t *testing.T) {
	f := start(t, nil)
	h := f.hostOf()
	h.mu.Lock()
	h.failReads, h.failAcks = 2, 2
	h.mu.Unlock()
	h.add(1, 3)
	f.Wake()
	f.drained(t)
	f.accepted(t, "a/t/1", 3)
}

func TestSeveralServersShareTheWork(t *testing.T) {
	a, b := newServer(t), newServer(t)
	cfg := config(t, a.URL(), b.URL())
	host := newHost()
	for _, srv := range []*sessiontest.Server{a, b} {
		srv.Enroll("h1", cfg.Key.Public().(ed25519.PublicKey))
	}
	notLeader := &joulev1.Error{Reason: joulev1.ErrorReason_ERROR_REASON_NOT_LEADER}
	a.Set(func(h *sessiontest.Hooks) {
		h.Batch = func(int, *wire.UsageBatch) sessiontest.Action { return sessiontest.Action{Error: notLeader, Acks: 1} }
		h.Open = func(*joulev1.OpenLeaseRequest) error {
			return sessiontest.Refuse(connect.CodeUnavailable, notLeader.Reason, "not the leader")
		}
	})
	s := run(t, cfg, host)
	b.Await(t, "both sessions", func() bool { return s.Status()[0].Connected && s.Status()[1].Connected })
	host.add(1, 100)
	s.Wake()
	b.Await(t, "an empty spool", func() bool { return host.left() == 0 })
	if l, _ := b.Lease("a/t/1"); len(l.Accepted) != 100 {
		t.Errorf("got %d records at the leader, want 100", len(l.Accepted))
	}
	if _, err := s.OpenLease(t.Context(), "a", "t", "9"); err != nil {
		t.Errorf("OpenLease: %v", err)
	}
	a.Stop()
	host.add(1, 10)
	s.Wake()
	b.Await(t, "an empty spool with one server gone", func() bool { return host.left() == 0 })
}

func TestOpenAndCloseLease(t *testing.T) {
	f := start(t, nil)
	g, err := f.OpenLease(t.Context(), "alloc", "task", "inv")
	if err != nil {
		t.Fatal(err)
	}
	want := Grant{Lease: g.Lease, Epoch: 1, HostID: 1, Hold: 1_000_000,
		Prices: wire.Prices{Base: 36_000_000}, Resources: wire.Resources{MilliCores: 2000, MemoryMiB: 64}}
	if *g != want || g.Lease == 0 {
		t.Errorf("got %+v, want %+v", *g, want)
	}
	again, err := f.OpenLease(t.Context(), "alloc", "task", "inv")
	if err != nil || *again != *g {
		t.Errorf("again: got %+v %v, want the same", again, err)
	}
	if err := f.CloseLease(t.Context(), g.Lease); err != nil {
		t.Fatal(err)
	}
	if got := f.srv.Closed(); len(got) != 1 || got[0] != g.Lease {
		t.Errorf("closed: got %v, want [%d]", got, g.Lease)
	}
}

func TestOpenLeaseErrors(t *testing.T) {
	for _, tc := range []struct {
		name      string
		err       error
		refused   joulev1.ErrorReason
		maybeDone bool
	}{
		{"no funds", sessiontest.Refuse(connect.CodeFailedPrecondition, joulev1.ErrorReason_ERROR_REASON_INSUFFICIENT, "no money"),
			joulev1.ErrorReason_ERROR_REASON_INSUFFICIENT, false},
		{"no such allocation", sessiontest.Refuse(connect.CodeNotFound, joulev1.ErrorReason_ERROR_REASON_NO_ALLOCATION, "who?"),
			joulev1.ErrorReason_ERROR_REASON_NO_ALLOCATION, false},
		{"not the leader", sessiontest.Refuse(connect.CodeUnavailable, joulev1.ErrorReason_ERROR_REASON_NOT_LEADER, ""), 0, false},
		{"no quorum", sessiontest.Refuse(connect.CodeUnavailable, joulev1.ErrorReason_ERROR_REASON_UNAVAILABLE, "no quorum"), 0, true},
		{"internal", connect.NewError(connect.CodeInternal, errors.New("boom")), 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := start(t, nil)
			f.srv.Set(func(h *sessiontest.Hooks) { h.Open = func(*joulev1.OpenLeaseRequest) error { return tc.err } })
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			_, err := f.OpenLease(ctx, "a", "t", "1")
			var refused *RefusedError
			var unavailable *UnavailableError
			switch {
			case tc.refused != 0:
				if !errors.As(err, &refused) || refused.Reason != tc.refused || ctx.Err() != nil {
					t.Errorf("got %v, want an immediate refusal for %v", err, tc.refused)
				}
			case !errors.As(err, &unavailable) || unavailable.MaybeDone != tc.maybeDone:
				t.Errorf("got %#v, want unavailable with MaybeDone %v", err, tc.maybeDone)
			}
		})
	}
}

func TestOpenLeaseWaitsForAServer(t *testing.T) {
	srv := newServer(t)
	srv.Stop()
	cfg := config(t, srv.URL())
	srv.Enroll("h1", cfg.Key.Public().(ed25519.PublicKey))
	s, err := New(cfg, newHost(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
	defer cancel()
	_, err = s.OpenLease(ctx, "a", "t", "1")
	var unavailable *UnavailableError
	if !errors.As(err, &unavailable) || !strings.Contains(err.Error(), srv.URL()) {
		t.Fatalf("got %#v (%v), want unavailable, naming the server", err, err)
	}
	started := make(chan struct{})
	time.AfterFunc(100*time.Millisecond, func() { defer close(started); srv.Start(t) })
	defer func() { <-started }()
	if _, err := s.OpenLease(t.Context(), "a", "t", "1"); err != nil {
		t.Errorf("got %v, want a lease once the server is back", err)
	}
}

func TestTLSWithOwnAuthority(t *testing.T) {
	plain := newServer(t)
	srv := httptest.NewUnstartedServer(plain.Handler())
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := config(t, srv.URL)
	plain.Enroll("h1", cfg.Key.Public().(ed25519.PublicKey))

	stranger := run(t, cfg, newHost())
	plain.Await(t, "an unknown authority to be refused", func() bool {
		err := stranger.Status()[0].Err
		return err != nil && strings.Contains(err.Error(), "certificate")
	})
	cfg.CAFile = ca
	friend := run(t, cfg, newHost())
	plain.Await(t, "a session over TLS", func() bool { return friend.Status()[0].Connected })
}

func TestConfigFaults(t *testing.T) {
	cfg := config(t, "ftp://x", "https://", "https://h/path", ":bad:", "http://user:pw@h")
	cfg.Host, cfg.Key, cfg.Silence, cfg.BackoffMax = "", nil, 0, 1
	_, err := New(cfg, newHost(), slog.New(slog.DiscardHandler))
	if err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{"host:", "key:", "servers[0]", "servers[1]", "servers[2]", "servers[3]", "servers[4]", "silence:", "backoff_max:"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "pw") {
		t.Errorf("error shows a password: %v", err)
	}
	cfg = config(t, "https://h")
	cfg.CAFile = filepath.Join(t.TempDir(), "none.pem")
	if _, err := New(cfg, newHost(), slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "ca_file") {
		t.Errorf("missing ca_file: got %v", err)
	}
}

func TestNothingIsLeftRunning(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("sessions", func(t *testing.T) {
		f := start(t, nil)
		f.hostOf().add(1, 10)
		f.Wake()
		f.drained(t)
		f.srv.CutAll()
		f.srv.Await(t, "a second session", func() bool { return f.srv.Sessions() >= 2 })
	})
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	buf := make([]byte, 1<<20)
	t.Errorf("goroutines: got %d, want at most %d:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
}
