// Package feed asks HTTP sources what a JOULE costs and proposes a rate to the
// ledger when package rate says so. Only the server that leads proposes.
//
// A source that fails keeps its last price until that is too old; one that
// stalls, lies or answers garbage costs the others nothing.
package feed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/joulecloud/joule/settlement/rate"
)

// ErrNotLeading is what Ledger.InForce returns on a server that does not lead.
var ErrNotLeading = errors.New("this server does not lead")

// Ledger is where rates are proposed.
type Ledger interface {
	// InForce returns the rate in force, nil if none was ever set, and the
	// ledger's time in Unix ms, which the rate's age is counted by.
	InForce(ctx context.Context) (r *rate.Rate, now int64, err error)
	// Propose sets a rate.
	Propose(ctx context.Context, nusdPerJoule int64) error
}

// Config holds a feed's values.
type Config struct {
	Interval time.Duration // between rounds
	Rules    rate.Rules
	Sources  []Source
	Now      func() time.Time  // nil: time.Now
	HTTP     http.RoundTripper // nil: one of our own
}

// Bounds and defaults of Config. Rates are stale to the ledger after six
// minutes (rule M6): the same price is proposed again well before.
const (
	intervalMin = time.Second
	refreshMax  = 5 * time.Minute
)

// Default returns every default; Sources are the caller's.
func Default() Config {
	return Config{
		Interval: 15 * time.Second,
		Rules: rate.Rules{
			MinSources: 2, MaxAgeMs: 2 * 60_000, MaxAheadMs: 10_000,
			DeviationPPM: 15_000, MovePPM: 1000, RefreshMs: 2 * 60_000,
		},
	}
}

// Validate reports every fault at once, each naming the field and the value.
func (c *Config) Validate() error {
	_, err := c.check()
	return err
}

func (c *Config) check() ([]source, error) {
	var errs []error
	if c.Interval < intervalMin || c.Interval > time.Hour {
		errs = append(errs, &rate.Error{Field: "interval", Value: c.Interval.String(), Rule: "must be 1s to 1h"})
	}
	errs = append(errs, c.Rules.Validate())
	if limit := refreshMax.Milliseconds(); c.Rules.RefreshMs+c.Interval.Milliseconds() > limit {
		errs = append(errs, &rate.Error{Field: "refresh", Value: fmt.Sprintf("%d ms", c.Rules.RefreshMs),
			Rule: fmt.Sprintf("must be, with interval, at most %d ms: the ledger takes a rate for stale after six minutes", limit)})
	}
	if len(c.Sources) < c.Rules.MinSources || len(c.Sources) > rate.SourcesMax {
		errs = append(errs, fmt.Errorf("source: want at least min_sources (%d) and at most %d of them, got %d",
			c.Rules.MinSources, rate.SourcesMax, len(c.Sources)))
	}
	seen := map[string]bool{}
	var sources []source
	for _, s := range c.Sources {
		checked, err := s.check()
		errs = append(errs, err)
		if seen[s.Name] {
			errs = append(errs, fmt.Errorf("source %q: is there twice", s.Name))
		}
		seen[s.Name] = true
		sources = append(sources, checked)
	}
	return sources, errors.Join(errs...)
}

// Feed is the rate feed of one server.
type Feed struct {
	cfg     Config
	http    *http.Client
	log     *slog.Logger
	ledger  Ledger
	sources []source
	quotes  []rate.Quote // the last good one of each source, under step
	failing []string     // what each source's last failure was, to log changes only
	paused  string       // why there was no rate to be trusted last time, likewise
}

// New returns a feed, or every fault of cfg.
func New(cfg Config, l Ledger, log *slog.Logger) (*Feed, error) {
	sources, err := cfg.check()
	if err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.HTTP == nil {
		cfg.HTTP = &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			TLSHandshakeTimeout: timeoutDefault, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 1,
			MaxResponseHeaderBytes: 32 << 10, ForceAttemptHTTP2: true,
		}
	}
	f := &Feed{cfg: cfg, http: newHTTP(cfg.HTTP), log: log, ledger: l, sources: sources,
		quotes: make([]rate.Quote, len(sources)), failing: make([]string, len(sources))}
	for i, s := range sources {
		f.quotes[i] = rate.Quote{Source: s.Name, Weight: s.Weight}
	}
	return f, nil
}

// Run makes a round at every interval until ctx ends.
func (f *Feed) Run(ctx context.Context) {
	defer f.http.CloseIdleConnections()
	tick := time.NewTicker(f.cfg.Interval)
	defer tick.Stop()
	for {
		if _, err := f.Step(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, ErrNotLeading) {
			f.log.LogAttrs(ctx, slog.LevelWarn, "no rate could be proposed", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Step makes one round: it asks every source at once, decides and proposes.
// On a server that does not lead it asks nobody. It is not for concurrent use.
func (f *Feed) Step(ctx context.Context) (rate.Decision, error) {
	if _, _, err := f.ledger.InForce(ctx); err != nil {
		return rate.Decision{}, err
	}
	f.ask(ctx)
	// Asked again after the sources have answered: somebody may have set a rate
	// meanwhile, and this server may lead no more.
	inForce, ledgerNow, err := f.ledger.InForce(ctx)
	if err != nil {
		return rate.Decision{}, err
	}
	now := f.cfg.Now().UnixMilli()
	if inForce != nil {
		// Quotes are dated by clocks outside, the rate by the ledger's.
		inForce = &rate.Rate{NUSD: inForce.NUSD, Set: now - max(ledgerNow-inForce.Set, 0)}
	}
	d := rate.Decide(&f.cfg.Rules, f.quotes, inForce, now)
	f.report(ctx, &d)
	if !d.Propose {
		return d, nil
	}
	if err := f.ledger.Propose(ctx, d.NUSD); err != nil {
		return d, fmt.Errorf("propose %d nUSD per JOULE: %w", d.NUSD, err)
	}
	f.log.LogAttrs(ctx, slog.LevelInfo, "rate proposed", slog.Int64("nusd_per_joule", d.NUSD),
		slog.String("why", d.Why), slog.Int("sources", d.Counted))
	return d, nil
}

// ask asks all sources side by side; each is bounded by its own timeout.
func (f *Feed) ask(ctx context.Context) {
	errs := make([]error, len(f.sources))
	var wg sync.WaitGroup
	for i := range f.sources {
		wg.Go(func() {
			q, err := f.fetch(ctx, &f.sources[i])
			if err == nil {
				f.quotes[i] = q
			}
			errs[i] = err
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return
	}
	for i, err := range errs {
		text := ""
		if err != nil {
			text = err.Error()
		}
		if (text == "") != (f.failing[i] == "") {
			f.log.LogAttrs(ctx, slog.LevelWarn, "rate source changed", slog.String("source", f.sources[i].Name),
				slog.Bool("answers", err == nil), slog.String("error", text))
		}
		f.failing[i] = text
	}
}

// report says once when there is no price to be trusted any more, and once when
// there is again.
func (f *Feed) report(ctx context.Context, d *rate.Decision) {
	why := ""
	if d.NUSD == 0 {
		why = d.Why
	}
	switch {
	case why != "" && f.paused == "":
		attrs := []slog.Attr{slog.String("why", why)}
		for _, r := range d.Rejected {
			attrs = append(attrs, slog.String("source."+r.Source, r.Why))
		}
		f.log.LogAttrs(ctx, slog.LevelWarn, "no price can be trusted; the rate in force grows stale", attrs...)
	case why == "" && f.paused != "":
		f.log.LogAttrs(ctx, slog.LevelInfo, "prices can be trusted again")
	}
	f.paused = why
}
