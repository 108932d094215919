package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/joulecloud/joule/settlement/cluster"
	"github.com/joulecloud/joule/settlement/enforce"
	"github.com/joulecloud/joule/settlement/money"
	"github.com/joulecloud/joule/settlement/node"
	"github.com/joulecloud/joule/settlement/nomad"
	"github.com/joulecloud/joule/settlement/server"
)

// FinesConfig is the fines block of server.hcl: what the leader does about
// offences that the cluster can prove by itself. It should be the same on every
// server. Without it offences are simulated.
type FinesConfig struct {
	Mode      string `hcl:"mode,optional"`       // off, simulate (the log says what would be fined), on
	Silence   string `hcl:"silence,optional"`    // after which a host may count as lost; 10m
	MassShare string `hcl:"mass_share,optional"` // of the hosts: where more are silent at once, none is lost; 20%
}

// silenceMin keeps a host that reboots from being lost.
const silenceMin = time.Minute

// enforcer returns the configuration of the enforcer, nil where there is to be
// none, or every fault of the block.
func (c *FinesConfig) enforcer() (*enforce.Config, error) {
	cfg := enforce.Default()
	if c == nil {
		return &cfg, nil
	}
	var errs []error
	switch c.Mode {
	case "off":
		return nil, nil
	case "", "simulate":
	case "on":
		cfg.Mode = enforce.On
	default:
		errs = append(errs, fmt.Errorf("mode: want off, simulate or on, got %q", c.Mode))
	}
	if c.Silence != "" {
		d, err := time.ParseDuration(c.Silence)
		if err != nil || d < silenceMin {
			errs = append(errs, fmt.Errorf("silence: want a duration of at least %s such as 10m, got %q", silenceMin, c.Silence))
		}
		cfg.Rules.Silence, cfg.Rules.LeaderAge = d, d
	}
	if c.MassShare != "" {
		ppm, err := money.ParsePPM("mass_share", c.MassShare)
		errs = append(errs, err)
		cfg.Rules.MassPPM = ppm
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("fines: %w", err)
	}
	return &cfg, nil
}

// startFines lets the leader fine; stop ends it and waits.
func startFines(ctx context.Context, cfg *enforce.Config, n *node.Node, agent *cluster.Agent, srv *server.Server, allocs *nomad.Client,
	log *slog.Logger) (stop func()) {
	agent.Witness(srv.Silent)
	if cfg == nil {
		return func() {}
	}
	e := enforce.New(*cfg, enforce.Deps{Node: n, History: n.Journal(), Witnesses: agent, Nomad: allocs, Leads: n.Store().IsLeader, Heard: srv.Silent}, log)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { e.Run(ctx) })
	return func() { cancel(); wg.Wait() }
}
