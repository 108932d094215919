package devcluster

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

// Default addresses of a development cluster: those that the joule and nomad
// commands use when they are told nothing.
const (
	devSettlementAddr = "127.0.0.1:7433"
	devNomadAddr      = "127.0.0.1:4646"
)

// startLimit bounds how long a development cluster may take to start.
const startLimit = 2 * time.Minute

// Dev runs a cluster of two hosts, ready to take jobs of customer acme, until
// ctx ends; it is `joule dev`.
func Dev(ctx context.Context, args []string, out, errOut io.Writer) (err error) {
	var p Programs
	fs := flag.NewFlagSet("joule dev", flag.ContinueOnError)
	fs.SetOutput(errOut)
	settlement := fs.String("listen", devSettlementAddr, "address of the settlement API")
	nomad := fs.String("nomad-listen", devNomadAddr, "address of the Nomad API")
	servers := fs.Int("servers", 1, "settlement servers: 1, 3 or 5, as one cluster")
	tokens := fs.Bool("tokens", false, "let nobody call the settlement API without a token")
	p.Flags(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("surplus arguments: %q", fs.Args())
	}
	if *servers < 1 || *servers > 7 || *servers == 2 {
		return fmt.Errorf("-servers: want 1, 3, 5 or another number up to 7 but 2 (got %d)", *servers)
	}
	if err := p.Resolve(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "joule-dev-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	started := time.Now()
	startCtx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	hosts := TwoHosts()
	hosts[0].Offer = &joulev1.Prices{BaseNusdPerHour: 360_000_000, CpuNusdPerHour: 40_000_000, MemoryNusdPerHour: 5_000_000}
	hosts[1].Offer = &joulev1.Prices{BaseNusdPerHour: 900_000_000, CpuNusdPerHour: 90_000_000, MemoryNusdPerHour: 10_000_000}
	c, err := Start(startCtx, Config{Dir: dir, LogDir: filepath.Join(dir, "logs"), Programs: p, Hosts: hosts,
		Servers: *servers, Tokens: *tokens, SettlementAddr: *settlement, NomadAddr: *nomad, Out: out})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	if err := c.Seed(startCtx); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nready after %.1f s\n\n  settlement  %s\n  Nomad       %s  (a web page as well)\n  logs        %s\n\n",
		time.Since(started).Seconds(), c.SettlementURL(), c.NomadURL(), c.cfg.LogDir)
	env := ""
	if *settlement != devSettlementAddr {
		env = "JOULE_ADDR=" + c.SettlementURL() + " "
	}
	if *tokens {
		env += "JOULE_TOKEN_FILE=" + c.TokenFile() + " "
	}
	nomadEnv := ""
	if *nomad != devNomadAddr {
		nomadEnv = "NOMAD_ADDR=" + c.NomadURL() + " "
	}
	fmt.Fprintf(out, "try, in another terminal:\n\n  %s%s job run jobs/two-suppliers.nomad.hcl\n  %s%s bill acme\n  %s%s lease explain L1\n\nCtrl-C stops everything.\n",
		nomadEnv, short(p.Nomad), env, short(p.Joule), env, short(p.Joule))
	select {
	case <-ctx.Done():
		fmt.Fprintln(out, "\nstopping")
		return nil
	case s := <-c.serverEnded():
		return fmt.Errorf("settlement server %s ended; the end of its log:\n%s", s.name, s.tail())
	case <-c.Nomad.Done():
		return fmt.Errorf("the Nomad server ended; the end of its log:\n%s", c.Nomad.tail())
	}
}

// serverEnded gives the last settlement server once all of them have ended: one
// of several may be killed to see how the others go on.
func (c *Cluster) serverEnded() <-chan *Server {
	out := make(chan *Server, 1)
	go func() {
		for _, s := range c.Servers {
			<-s.Done()
		}
		out <- c.Servers[len(c.Servers)-1]
	}()
	return out
}

// Seed sets a rate, fills the treasury and makes customer acme with 5 USD.
func (c *Cluster) Seed(ctx context.Context) error {
	if _, err := c.API.SetRate(ctx, &joulev1.SetRateRequest{Key: "dev-rate", NusdPerJoule: 50_000_000}); err != nil {
		return err
	}
	if _, err := c.API.Mint(ctx, &joulev1.MintRequest{Key: "dev-mint", AmountNj: 1_000_000_000_000, Ref: "genesis"}); err != nil {
		return err
	}
	return c.CreateCustomer(ctx, "acme", 5_000_000_000)
}

// short is a path as a person in the working directory would type it.
func short(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(wd, path); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return path
}
