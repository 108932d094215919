package bench

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/joulecloud/joule/settlement/bench/cluster"
)

// The parts that the program takes when it starts itself.
const (
	serverPart = "server"
	clientPart = "client"
)

// Main is the program: its exit code.
func Main(ctx context.Context, args []string, in io.Reader, out, errw io.Writer) int {
	err := run(ctx, args, in, out, errw)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, flag.ErrHelp):
		return 2
	}
	fmt.Fprintln(errw, "joule-bench: error:", err)
	return 1
}

func run(ctx context.Context, args []string, in io.Reader, out, errw io.Writer) error {
	if len(args) == 2 {
		switch args[1] {
		case serverPart:
			return cluster.Server(ctx, in, out)
		case clientPart:
			return cluster.Client(ctx, in, out)
		}
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	cfg, path, err := parse(args[1:], errw)
	if err != nil {
		return err
	}
	cfg.Program = []string{program}
	// The largest ledger fills most of a small machine: the collector must not
	// let it double.
	debug.SetMemoryLimit(memoryLimit())
	r, err := Run(ctx, cfg, errw)
	return errors.Join(err, r.Table(out), r.Write(path))
}

// memoryLimit is three fifths of the machine's memory.
func memoryLimit() int64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 1 << 33
	}
	return int64(info.Totalram) * int64(info.Unit) / 5 * 3
}

// parse reads the flags; path is where the report goes.
func parse(args []string, errw io.Writer) (cfg Config, path string, err error) {
	cfg = Default()
	fs := flag.NewFlagSet("joule-bench", flag.ContinueOnError)
	fs.SetOutput(errw)
	quick := fs.Bool("quick", false, "go through everything in seconds, on little: its figures mean nothing")
	large := fs.Int("large", 0, "leases of the largest ledger measured alone, and accounts of the restore (default 10000000)")
	each := fs.Duration("each", 0, "length of one measurement (default 10s)")
	leases := fs.Int("leases", 0, "leases in the cluster and in PostgreSQL (default 1000000)")
	rounds := fs.Int("rounds", 0, "turns of cluster and PostgreSQL; the figures are medians (default 3)")
	inFlight := fs.Int("in-flight", 0, "batches on their way to the cluster at once (default 32)")
	noAlone := fs.Bool("no-alone", false, "leave out the ledger alone")
	noCluster := fs.Bool("no-cluster", false, "leave out the cluster")
	noPostgres := fs.Bool("no-postgres", false, "leave out PostgreSQL")
	fs.StringVar(&cfg.Profiles, "profiles", "", "directory for the servers' CPU profiles")
	fs.StringVar(&path, "out", "build/bench.json", "where the report goes")
	if err := fs.Parse(args); err != nil {
		return cfg, "", err
	}
	if fs.NArg() > 0 {
		return cfg, "", fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if *quick {
		profiles := cfg.Profiles
		cfg = Quick()
		cfg.Profiles = profiles
	}
	if *large != 0 {
		cfg.Alone[len(cfg.Alone)-1], cfg.Accounts = *large, *large
	}
	for flag, field := range map[*int]*int{leases: &cfg.Leases, rounds: &cfg.Rounds, inFlight: &cfg.InFlight} {
		if *flag != 0 {
			*field = *flag
		}
	}
	if *each != 0 {
		cfg.Each = *each
	}
	if *noAlone {
		cfg.Alone, cfg.Accounts = nil, 0
	}
	cfg.Cluster, cfg.Postgres = !*noCluster, !*noPostgres
	return cfg, path, cfg.Validate()
}
