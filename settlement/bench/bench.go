// Package bench measures settlement: the ledger alone, three servers under
// load, and PostgreSQL doing the same postings in the same run.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/joulecloud/joule/settlement/bench/alone"
	"github.com/joulecloud/joule/settlement/bench/cluster"
	"github.com/joulecloud/joule/settlement/bench/postgres"
	"github.com/joulecloud/joule/settlement/bench/workload"
)

// Config says what is measured, and for how long.
type Config struct {
	Alone    []int         // leases of the ledgers that are measured alone; the snapshot is of the last
	Leases   int           // of the cluster and of PostgreSQL
	Accounts int           // of the ledger whose restore is measured; 0: none
	Each     time.Duration // of each measurement
	Rounds   int           // of cluster and PostgreSQL in turn
	InFlight int           // batches on their way to the cluster at once
	Expect   int           // records/s that the prepared batches last for
	Commands int           // small commands, one after another
	Cluster  bool
	Postgres bool
	Profiles string // directory for CPU profiles; "": none

	// Program starts this program again as one of the cluster's processes.
	Program []string
}

// Default is the whole run: about a quarter of an hour.
func Default() Config {
	return Config{Alone: []int{10_000, 1_000_000, 10_000_000}, Leases: 1_000_000, Accounts: 10_000_000, Each: 10 * time.Second, Rounds: 3,
		InFlight: 32, Expect: 500_000, Commands: 500, Cluster: true, Postgres: true}
}

// Quick goes through everything in some seconds. Its figures mean nothing.
func Quick() Config {
	c := Default()
	c.Alone, c.Leases, c.Accounts, c.Each, c.Rounds, c.Expect, c.Commands = []int{1000, 5000}, 5000, 5000, 200*time.Millisecond, 1, 100_000, 20
	return c
}

// Validate reports every fault at once.
func (c *Config) Validate() error {
	var errs []error
	least := func(field string, got, want int) {
		if got < want {
			errs = append(errs, fmt.Errorf("%s: want at least %d, got %d", field, want, got))
		}
	}
	for i, n := range c.Alone {
		least(fmt.Sprintf("alone[%d]", i), n, 1000)
	}
	least("leases", c.Leases, 1000)
	least("accounts", c.Accounts, 0)
	least("rounds", c.Rounds, 1)
	least("in-flight", c.InFlight, 1)
	least("expect", c.Expect, 1000)
	least("commands", c.Commands, 1)
	if c.Each < 100*time.Millisecond {
		errs = append(errs, fmt.Errorf("each: want at least 100ms, got %s", c.Each))
	}
	return errors.Join(errs...)
}

// Run measures what cfg says and reports it; progress goes to log, one line
// each. Where an error ends it, the report has what was measured before.
func Run(ctx context.Context, cfg Config, log io.Writer) (*Report, error) {
	r := &Report{Started: time.Now().UTC().Truncate(time.Second), Config: cfg}
	err := errors.Join(r.alone(ctx, cfg, log), r.together(ctx, cfg, log))
	r.Machine = machine()
	r.sum()
	return r, err
}

func say(log io.Writer, format string, args ...any) { fmt.Fprintf(log, format+"\n", args...) }

func (r *Report) alone(ctx context.Context, cfg Config, log io.Writer) error {
	for i, n := range cfg.Alone {
		say(log, "ledger alone: %d leases", n)
		res, err := alone.Run(ctx, workload.Sized(n), []int{64, 1024}, cfg.Each/2, i == len(cfg.Alone)-1)
		if err != nil {
			return fmt.Errorf("ledger of %d leases: %w", n, err)
		}
		r.Ledgers = append(r.Ledgers, *res)
	}
	if cfg.Accounts > 0 {
		say(log, "ledger alone: %d accounts", cfg.Accounts)
		res, err := alone.Accounts(ctx, cfg.Accounts, cfg.Each/2)
		if err != nil {
			return fmt.Errorf("ledger of %d accounts: %w", cfg.Accounts, err)
		}
		r.Accounts = res
	}
	return nil
}

// together measures the cluster and PostgreSQL in turn, so that both meet the
// same machine.
func (r *Report) together(ctx context.Context, cfg Config, log io.Writer) (err error) {
	spec := workload.Sized(cfg.Leases)
	var c *cluster.Cluster
	var pg *postgres.Server
	var db *postgres.Bench
	if cfg.Postgres {
		say(log, "PostgreSQL: loading %d leases", cfg.Leases)
		if pg, err = postgres.Start(ctx); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, pg.Stop()) }()
		if db, err = pg.Load(ctx, spec, false); err != nil {
			return fmt.Errorf("PostgreSQL: %w", err)
		}
		defer func() { err = errors.Join(err, db.Close(context.WithoutCancel(ctx))) }()
	}
	if cfg.Cluster {
		say(log, "cluster: opening %d leases on three servers", cfg.Leases)
		c, err = cluster.Start(ctx, cluster.Config{Program: cfg.Program, Spec: spec, Servers: 3, Clients: 2, Profiles: cfg.Profiles})
		if err != nil {
			return fmt.Errorf("cluster: %w", err)
		}
		defer func() { err = errors.Join(err, c.Stop()) }()
		say(log, "cluster: %d small commands", cfg.Commands)
		if r.CommandP50, r.CommandP99, err = c.Commands(ctx, cfg.Commands); err != nil {
			return fmt.Errorf("cluster: commands: %w", err)
		}
	}
	ours := func(batch int) error {
		if c == nil {
			return nil
		}
		load, err := c.Run(batch, cfg.InFlight, cfg.Each, cfg.Expect)
		if err != nil {
			return fmt.Errorf("cluster: batches of %d: %w", batch, err)
		}
		say(log, "cluster, batches of %d: %.0f records/s, %.1f µs of processor each", batch, load.PerS, load.CPUUs+load.ClientCPUUs)
		r.Cluster = append(r.Cluster, *load)
		return nil
	}
	theirs := func(what string, into *[]postgres.Load, batch int) error {
		if db == nil {
			return nil
		}
		load, err := db.Run(ctx, batch, cfg.Each)
		if err != nil {
			return fmt.Errorf("%s: batches of %d: %w", what, batch, err)
		}
		say(log, "%s, batches of %d: %.0f records/s, %.1f µs of processor each", what, batch, load.PerS, load.CPUUs+load.ClientCPUUs)
		*into = append(*into, *load)
		return nil
	}
	for range cfg.Rounds {
		for _, batch := range []int{1024, 64} {
			if err := errors.Join(ours(batch), theirs("PostgreSQL", &r.Postgres, batch)); err != nil {
				return err
			}
		}
	}
	if db != nil {
		say(log, "PostgreSQL: adding two synchronous standbys")
		if err := pg.Replicate(ctx); err != nil {
			return fmt.Errorf("PostgreSQL: %w", err)
		}
		for range cfg.Rounds {
			if err := errors.Join(ours(1024), theirs("PostgreSQL, replicated", &r.PostgresReplicated, 1024)); err != nil {
				return err
			}
		}
		say(log, "PostgreSQL: comparing with the rules")
		if err := db.Check(ctx); err != nil {
			return fmt.Errorf("PostgreSQL: %w", err)
		}
	}
	if c == nil {
		return nil
	}
	say(log, "cluster: comparing what was acknowledged with every server's ledger")
	if r.ServerMemory, err = c.Resident(); err != nil {
		return err
	}
	if err := c.Check(ctx); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	return nil
}

// middle is the median of what f says of each; 0 for none.
func middle[T any](all []T, f func(*T) (float64, bool)) float64 {
	var v []float64
	for i := range all {
		if x, ok := f(&all[i]); ok {
			v = append(v, x)
		}
	}
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
