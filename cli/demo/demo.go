// Package demo runs the main job end to end on a cluster of its own: two
// suppliers, one customer, one job whose tasks run on both, an exact bill, and
// beside it the run times measured from outside.
package demo

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/joulecloud/joule/cli/devcluster"
	"github.com/joulecloud/joule/cli/outside"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

// DifferenceMax is how far a billed wall time may be from the outside one.
const DifferenceMax = time.Millisecond

// Options are what the demo can be told.
type Options struct {
	Crowd      time.Duration // how long the task runs on crowd hardware
	Datacenter time.Duration // and on datacenter hardware
	Repeat     int           // tasks per class, all at once
	Load       bool          // busy loops on every core meanwhile
	Job        string        // the job file
	Out        string        // where bill.json, logs and the journal go
	Programs   devcluster.Programs
}

// Limits of what the demo takes: a bounded load.
const (
	durationMax = 10 * time.Minute
	repeatMax   = 100
)

// ParseOptions reads the demo's command line.
func ParseOptions(args []string, errOut io.Writer) (Options, error) {
	var o Options
	fs := flag.NewFlagSet("joule demo", flag.ContinueOnError)
	fs.SetOutput(errOut)
	fs.DurationVar(&o.Crowd, "crowd", 2320*time.Millisecond, "how long the task runs on crowd hardware")
	fs.DurationVar(&o.Datacenter, "datacenter", 4190*time.Millisecond, "how long the task runs on datacenter hardware")
	fs.IntVar(&o.Repeat, "repeat", 1, "tasks on each class, all at once")
	fs.BoolVar(&o.Load, "load", false, "run busy loops on every core meanwhile")
	fs.StringVar(&o.Job, "job", "jobs/two-suppliers.nomad.hcl", "the job file")
	fs.StringVar(&o.Out, "out", "build/demo", "directory for bill.json, logs and the journal")
	o.Programs.Flags(fs)
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	return o, o.validate(fs.Args())
}

func (o *Options) validate(rest []string) error {
	var errs []error
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"crowd", o.Crowd}, {"datacenter", o.Datacenter}} {
		if d.value < 0 || d.value > durationMax {
			errs = append(errs, fmt.Errorf("-%s: want 0s to %s, got %s", d.name, durationMax, d.value))
		}
	}
	if o.Repeat < 1 || o.Repeat > repeatMax {
		errs = append(errs, fmt.Errorf("-repeat: want 1 to %d, got %d", repeatMax, o.Repeat))
	}
	if len(rest) > 0 {
		errs = append(errs, fmt.Errorf("surplus arguments: %q", rest))
	}
	return errors.Join(errs...)
}

// demo is one run.
type demo struct {
	Options
	out     io.Writer
	cluster *devcluster.Cluster
	leases  int // how many the job makes
}

// Run runs the demo and stops everything that it started.
func Run(ctx context.Context, o Options, out io.Writer) (err error) {
	if err := o.Programs.Resolve(); err != nil {
		return err
	}
	if o.Job, err = filepath.Abs(o.Job); err != nil {
		return err
	}
	if _, err := os.Stat(o.Job); err != nil {
		return fmt.Errorf("-job: %w", err)
	}
	if err := os.RemoveAll(o.Out); err != nil {
		return err
	}
	d := &demo{Options: o, out: out, leases: 2 * o.Repeat}
	// Short, for unix sockets go below it.
	dir, err := os.MkdirTemp("", "joule-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	started := time.Now()
	d.cluster, err = devcluster.Start(ctx, devcluster.Config{
		Dir: dir, LogDir: filepath.Join(o.Out, "logs"), Programs: o.Programs, Hosts: devcluster.TwoHosts(), Out: out,
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "cluster is up after %.1f s\n\n", time.Since(started).Seconds())
	runErr := d.run(ctx)
	journal := filepath.Join(o.Out, "journal")
	stopErr := d.cluster.Stop()
	copyErr := os.CopyFS(journal, os.DirFS(filepath.Join(d.cluster.ServerDataDir(), "journal")))
	if err := errors.Join(runErr, stopErr, copyErr); err != nil {
		return err
	}
	// The history stays behind, to be audited by anyone.
	if err := d.joule(ctx, "audit", journal); err != nil {
		return err
	}
	fmt.Fprintf(out, "\neverything is stopped; the bill is in %s\n", filepath.Join(o.Out, "bill.json"))
	return nil
}

// run is what customer, suppliers and operator type.
func (d *demo) run(ctx context.Context) error {
	for _, step := range [][]string{
		{"nomad", "namespace", "apply", "-description", "the customer acme", "acme"},
		{"joule", "customer", "create", "--namespace", "acme", "acme"},
		{"joule", "deposit", "--ref", "pay_123", "acme", "5"},
		{"joule", "mint", "--ref", "genesis", "1000"},
		{"joule", "rate", "set", "0.05"},
		{"joule", "policy", "set", "--fee", "2%", "--slice", "60s"},
		{"joule", "offer", "set", "--base", "0.36", "--cpu", "0.04", "--memory", "0.005", "crowd-1"},
		{"joule", "offer", "set", "--base", "0.90", "--cpu", "0.09", "--memory", "0.01", "dc-1"},
	} {
		if err := d.command(ctx, step[0], step[1:]...); err != nil {
			return err
		}
	}
	observer, err := outside.Start()
	if err != nil {
		return fmt.Errorf("outside observer: %w", err)
	}
	runs, err := d.runJob(ctx, observer)
	if err != nil {
		return err
	}
	if err := d.joule(ctx, "bill", "acme"); err != nil {
		return err
	}
	return d.report(ctx, runs)
}

// runJob submits the job and waits until every lease is closed; it returns
// what the observer saw, which it stops.
func (d *demo) runJob(ctx context.Context, observer *outside.Observer) (runs []outside.Run, err error) {
	stopped := false
	defer func() {
		if !stopped {
			err = errors.Join(err, observer.Stop())
		}
	}()
	if d.Load {
		stop, err := busyLoops()
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	err = d.command(ctx, "nomad", "job", "run", "-detach",
		"-var", fmt.Sprintf("crowd=%g", d.Crowd.Seconds()),
		"-var", fmt.Sprintf("datacenter=%g", d.Datacenter.Seconds()),
		"-var", fmt.Sprintf("repeat=%d", d.Repeat), d.Job)
	if err != nil {
		return nil, err
	}
	// Starting a task takes up to half a second of a core, more under load.
	budget := max(d.Crowd, d.Datacenter) + 30*time.Second + time.Duration(d.leases)*2*time.Second
	waitCtx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	if err := d.waitClosed(waitCtx); err != nil {
		return nil, err
	}
	stopped = true
	if err := observer.Stop(); err != nil {
		return nil, fmt.Errorf("outside observer: %w", err)
	}
	return observer.Runs("joule", "sleep")
}

// waitClosed returns when the job's leases are all there and closed.
func (d *demo) waitClosed(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		r, err := d.cluster.API.ListLeases(ctx, &joulev1.ListLeasesRequest{Customer: "acme"})
		if err != nil {
			return err
		}
		closed := 0
		for _, l := range r.Leases {
			if l.State == "closed" {
				closed++
			}
		}
		if closed >= d.leases {
			return nil
		}
		if err := d.failedAllocation(ctx); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d leases are closed: %w; see %s", closed, d.leases, ctx.Err(), filepath.Join(d.Out, "logs"))
		}
	}
}

// failedAllocation reports the first allocation that failed, in Nomad's words.
func (d *demo) failedAllocation(ctx context.Context) error {
	q := (&api.QueryOptions{Namespace: "acme"}).WithContext(ctx)
	allocs, _, err := d.cluster.NomadAPI.Allocations().List(q)
	if err != nil {
		return err
	}
	for _, a := range allocs {
		if a.ClientStatus != api.AllocClientStatusFailed {
			continue
		}
		var why []string
		for _, st := range a.TaskStates {
			for _, e := range st.Events {
				why = append(why, e.Type+": "+e.DisplayMessage)
			}
		}
		return fmt.Errorf("allocation %s failed:\n  %s", a.ID, strings.Join(why, "\n  "))
	}
	return nil
}

func (d *demo) joule(ctx context.Context, args ...string) error {
	return d.command(ctx, "joule", args...)
}

// command shows a command as a person would type it and runs it.
func (d *demo) command(ctx context.Context, name string, args ...string) error {
	shown := append([]string{name}, args...)
	for i, a := range shown {
		if strings.Contains(a, " ") {
			shown[i] = "'" + a + "'"
		}
		if a == d.Job {
			shown[i] = filepath.Join("jobs", filepath.Base(a))
		}
	}
	fmt.Fprintf(d.out, "$ %s\n", strings.Join(shown, " "))
	path := d.Programs.Joule
	if name == "nomad" {
		path = d.Programs.Nomad
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"),
		"JOULE_ADDR=" + d.cluster.SettlementURL(), "NOMAD_ADDR=" + d.cluster.NomadURL(), "NOMAD_CLI_NO_COLOR=1", "NOMAD_CLI_SHOW_HINTS=false"}
	cmd.Stdout, cmd.Stderr = d.out, d.out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(shown, " "), err)
	}
	fmt.Fprintln(d.out)
	return nil
}
