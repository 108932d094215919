package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/joulecloud/joule/settlement/access"
	"github.com/joulecloud/joule/settlement/metrics"
	"github.com/joulecloud/joule/settlement/nomad"
	"github.com/joulecloud/joule/settlement/server"
)

// shutdownTimeout bounds how long running calls may take to finish.
const shutdownTimeout = 5 * time.Second

// stopTimeout bounds how long the data may take to be closed: a disk that never
// answers must not keep a server that has failed from ending.
const stopTimeout = time.Minute

// within returns what fn does, or after the time that it is not done.
func within(limit time.Duration, fn func() error) error {
	done := make(chan error, 1)
	go func() { done <- fn() }()
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case err := <-done:
		return err
	case <-t.C:
		return fmt.Errorf("the data was not closed within %s", limit)
	}
}

// Run runs a server until ctx ends or it fails; everything it started has
// stopped when it returns. cfg must have passed Validate. ready, unless nil, is
// called once the API answers, with its address.
func Run(ctx context.Context, cfg Config, version string, log *slog.Logger, ready func(addr string)) (err error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)

	token, err := cfg.token()
	if err != nil {
		return err
	}
	allocs, err := nomad.NewClient(cfg.Nomad, token)
	if err != nil {
		return err
	}
	sc := server.Default()
	sc.Name, sc.Version, sc.MetricsPublic = cfg.Name, version, cfg.MetricsPublic
	if sc.Limits, err = cfg.Limits.limits(); err != nil {
		return err
	}
	fines, err := cfg.Fines.enforcer()
	if err != nil {
		return err
	}
	if cfg.enforce != nil {
		fines = cfg.enforce
	}
	if cfg.TokensFile != "" {
		if sc.Tokens, err = access.Load(cfg.TokensFile); err != nil {
			return fmt.Errorf("tokens_file: %w", err)
		}
	}
	n, agent, stopCluster, err := startCluster(ctx, &cfg, version, log, fail)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, within(stopTimeout, stopCluster)) }()

	stopRate, err := startRate(ctx, cfg.Rate, n, log)
	if err != nil {
		return err
	}
	defer stopRate()

	sc.Cluster, sc.TempDir = agent, cfg.DataDir
	sc.Metrics = func(srv *server.Server) http.Handler {
		return metrics.Handler(metrics.Sources{Server: cfg.Name, Version: version, Node: n, Log: n.Store(), Cluster: agent,
			Sessions: srv.Sessions, CertNotAfter: cfg.certNotAfter})
	}
	srv := server.New(sc, n, n.Journal(), allocs, log)
	stopFines := startFines(ctx, fines, n, agent, srv, allocs, log)
	defer stopFines()

	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	hs := &http.Server{
		Handler:           srv.Handler(),
		Protocols:         new(http.Protocols),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		// A host that is gone without a word, or does not read, is noticed.
		HTTP2:    &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second, WriteByteTimeout: 20 * time.Second},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	hs.Protocols.SetHTTP1(true)
	hs.Protocols.SetHTTP2(true)
	hs.Protocols.SetUnencryptedHTTP2(cfg.CertFile == "")
	if hs.TLSConfig, err = cfg.apiTLS(); err != nil {
		return errors.Join(err, ln.Close())
	}
	served := make(chan error, 1)
	go func() {
		if hs.TLSConfig != nil {
			served <- hs.ServeTLS(ln, "", "")
		} else {
			served <- hs.Serve(ln)
		}
	}()
	log.LogAttrs(ctx, slog.LevelInfo, "settlement server listens", slog.String("addr", ln.Addr().String()))
	if ready != nil && n.WaitLeader(ctx) == nil {
		ready(ln.Addr().String())
	}
	select {
	case <-ctx.Done():
	case err = <-served:
	}
	srv.Close()
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if serr := hs.Shutdown(stopCtx); serr != nil {
		err = errors.Join(err, hs.Close())
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = errors.Join(err, cause)
	}
	return err
}
