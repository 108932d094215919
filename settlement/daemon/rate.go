package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/money"
	"github.com/joulecloud/joule/settlement/node"
	"github.com/joulecloud/joule/settlement/rate"
	"github.com/joulecloud/joule/settlement/rate/feed"
)

// RateConfig is the rate block of server.hcl. Without one, rates are set by
// operators alone.
type RateConfig struct {
	Interval   string       `hcl:"interval,optional"`    // between rounds; 15s
	MinSources *int         `hcl:"min_sources,optional"` // that are fresh and agree; 2
	MaxAge     string       `hcl:"max_age,optional"`     // of a price; 2m
	Deviation  string       `hcl:"deviation,optional"`   // from the median; 1.5%
	Move       string       `hcl:"move,optional"`        // that is worth a new rate; 0.1%
	Refresh    string       `hcl:"refresh,optional"`     // the same rate again after; 2m
	Sources    []RateSource `hcl:"source,block"`
}

// RateSource is one source block.
type RateSource struct {
	Name     string  `hcl:"name,label"`
	URL      string  `hcl:"url"`
	Path     string  `hcl:"path"`               // such as data.0.price
	TimePath string  `hcl:"time_path,optional"` // to the price's own time
	Weight   *uint32 `hcl:"weight,optional"`    // 1
	Timeout  string  `hcl:"timeout,optional"`   // 5s
	MaxBody  int     `hcl:"max_body,optional"`  // bytes; 65536
}

// feed returns the feed's own configuration, or every fault of the block.
func (c *RateConfig) feed() (feed.Config, error) {
	cfg := feed.Default()
	var errs []error
	duration := func(field, text string, into *time.Duration) {
		if text == "" {
			return
		}
		d, err := time.ParseDuration(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: want a duration such as 30s, got %q", field, text))
			return
		}
		*into = d
	}
	ms := func(field, text string, into *int64) {
		d := time.Duration(*into) * time.Millisecond
		duration(field, text, &d)
		*into = d.Milliseconds()
	}
	share := func(field, text string, into *uint32) {
		if text == "" {
			return
		}
		ppm, err := money.ParsePPM(field, text)
		errs = append(errs, err)
		*into = ppm
	}
	duration("interval", c.Interval, &cfg.Interval)
	if c.MinSources != nil {
		cfg.Rules.MinSources = *c.MinSources
	}
	ms("max_age", c.MaxAge, &cfg.Rules.MaxAgeMs)
	share("deviation", c.Deviation, &cfg.Rules.DeviationPPM)
	share("move", c.Move, &cfg.Rules.MovePPM)
	ms("refresh", c.Refresh, &cfg.Rules.RefreshMs)
	for _, s := range c.Sources {
		source := feed.Source{Name: s.Name, URL: s.URL, Path: s.Path, TimePath: s.TimePath, Weight: 1, BodyMax: s.MaxBody}
		if s.Weight != nil {
			source.Weight = *s.Weight
		}
		duration(fmt.Sprintf("source %q: timeout", s.Name), s.Timeout, &source.Timeout)
		cfg.Sources = append(cfg.Sources, source)
	}
	return cfg, errors.Join(append(errs, cfg.Validate())...)
}

// validate reports every fault of the block, if there is one.
func (c *RateConfig) validate() error {
	if c == nil {
		return nil
	}
	if _, err := c.feed(); err != nil {
		return fmt.Errorf("rate: %w", err)
	}
	return nil
}

// startRate runs the feed if one is configured; stop ends it and waits.
func startRate(ctx context.Context, c *RateConfig, n *node.Node, log *slog.Logger) (stop func(), err error) {
	if c == nil {
		return func() {}, nil
	}
	cfg, err := c.feed()
	if err != nil {
		return nil, fmt.Errorf("rate: %w", err)
	}
	f, err := feed.New(cfg, rates{n}, log)
	if err != nil {
		return nil, fmt.Errorf("rate: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { f.Run(ctx) })
	return func() { cancel(); wg.Wait() }, nil
}

// rates is the ledger as a feed sees it. A server that does not lead has
// nothing to propose.
type rates struct{ node *node.Node }

// rateTimeout bounds one question to the ledger.
const rateTimeout = 10 * time.Second

// InForce implements feed.Ledger.
func (r rates) InForce(ctx context.Context) (*rate.Rate, int64, error) {
	if !r.node.Store().IsLeader() {
		return nil, 0, feed.ErrNotLeading
	}
	ctx, cancel := context.WithTimeout(ctx, rateTimeout)
	defer cancel()
	var inForce *rate.Rate
	var now int64
	err := r.node.Read(ctx, func(l *ledger.Ledger) error {
		now = int64(l.Now())
		// Doubtful or not: what a feed has found already it need not find again.
		if v, ok := l.NewestRate(); ok {
			inForce = &rate.Rate{NUSD: int64(v.NUSDPerJoule), Set: int64(v.Set)}
		}
		return nil
	})
	return inForce, now, err
}

// Propose implements feed.Ledger.
func (r rates) Propose(ctx context.Context, nusdPerJoule int64) error {
	ctx, cancel := context.WithTimeout(ctx, rateTimeout)
	defer cancel()
	res, err := r.node.Submit(ctx, ledger.Envelope{Key: rand.Text(), Command: &ledger.ProposeRate{NUSDPerJoule: ledger.NUSD(nusdPerJoule)}})
	if err != nil {
		return err
	}
	return res.Err()
}
