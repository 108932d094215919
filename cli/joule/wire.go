package main

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"time"

	"github.com/joulecloud/joule/cli/command"
	"github.com/joulecloud/joule/cli/demo"
	"github.com/joulecloud/joule/cli/devcluster"
	"github.com/joulecloud/joule/driver/doctor"
	"github.com/joulecloud/joule/driver/hostd"
	"github.com/joulecloud/joule/settlement/audit"
	"github.com/joulecloud/joule/settlement/daemon"
	"github.com/joulecloud/joule/settlement/money"
)

// deps wires the commands to the packages that do their work.
func deps() command.Deps {
	return command.Deps{
		Out:       os.Stdout,
		Err:       os.Stderr,
		Version:   command.Version(),
		RunServer: runServer,
		RunHostd:  runHostd,
		RunDoctor: runDoctor,
		RunDev:    func(ctx context.Context, args []string) error { return devcluster.Dev(ctx, args, os.Stdout, os.Stderr) },
		RunDemo:   runDemo,
		RunAudit:  runAudit,
		PublicKey: publicKey,

		CreateCA:   createCA,
		CreateCert: createCert,
		Recover:    recoverCluster,
		Backup:     readBackup,
	}
}

func runServer(ctx context.Context, configPath string, check bool) error {
	cfg, err := daemon.Load(configPath)
	if err != nil {
		return command.Invalid(err)
	}
	log, err := cfg.Logger(os.Stderr)
	if err != nil {
		return command.Invalid(err)
	}
	if check {
		return nil
	}
	return daemon.Run(ctx, cfg, command.Version(), log, nil)
}

// logger writes to standard error: standard output is for results.
func logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

func runHostd(ctx context.Context, configPath string, check bool) error {
	cfg, err := hostd.Load(configPath)
	if err != nil {
		return command.Invalid(err)
	}
	if check {
		return cfg.CheckFiles()
	}
	err = hostd.Run(ctx, cfg, logger(slog.LevelInfo))
	if errors.Is(err, hostd.ErrAlreadyRunning) {
		return command.Conflict(err)
	}
	return err
}

// defaultNomadAddr is where a Nomad agent listens unless it is told otherwise.
const defaultNomadAddr = "http://127.0.0.1:4646"

func runDoctor(ctx context.Context, configPath string, timeout time.Duration) (*command.DoctorReport, error) {
	opt := doctor.Options{Config: configPath, NomadAddr: defaultNomadAddr, NomadToken: os.Getenv("NOMAD_TOKEN"), Timeout: timeout}
	if addr := os.Getenv("NOMAD_ADDR"); addr != "" {
		opt.NomadAddr = addr
	}
	r, err := doctor.Examine(ctx, doctor.Machine(hostd.Version()), opt)
	if err != nil {
		return nil, err
	}
	out := &command.DoctorReport{Config: r.Config, Host: r.Host, Findings: []command.DoctorFinding{}}
	for _, f := range r.Findings {
		out.Findings = append(out.Findings, command.DoctorFinding{Area: f.Area, Check: f.Check, Status: string(f.Status), Found: f.Found, Advice: f.Advice})
	}
	return out, nil
}

func publicKey(configPath string) (ed25519.PublicKey, error) {
	cfg, err := hostd.Load(configPath)
	if err != nil {
		return nil, command.Invalid(err)
	}
	return hostd.PublicKey(cfg.DataDir)
}

func runDemo(ctx context.Context, args []string) error {
	o, err := demo.ParseOptions(args, os.Stderr)
	if err != nil {
		return command.Invalid(err)
	}
	return demo.Run(ctx, o, os.Stdout)
}

func runAudit(ctx context.Context, dir string) (*command.AuditReport, error) {
	r, err := audit.Run(ctx, dir)
	if err != nil {
		return nil, err
	}
	out := &command.AuditReport{
		Dir: r.Dir, Blocks: r.Blocks, Commands: r.Commands, Entries: r.Entries, Transfers: r.Transfers,
		Leases: r.Leases, Records: r.Records, FromUnixMs: int64(r.From), ToUnixMs: int64(r.To),
		Digest: hex.EncodeToString(r.Digest[:]), Note: r.Note,
		Checks: []command.AuditCheck{}, Accounts: []command.AuditAccount{}, Findings: []command.AuditFinding{},
	}
	for _, v := range r.Verdicts {
		out.Checks = append(out.Checks, command.AuditCheck{Name: v.Check, Checked: v.Checked, Findings: v.Findings, Stopped: v.Stopped})
	}
	for _, a := range r.Accounts {
		out.Accounts = append(out.Accounts, command.AuditAccount{Name: a.Name, Currency: money.Currency(a.Currency), Balance: a.Balance})
	}
	for _, f := range r.Findings {
		out.Findings = append(out.Findings, command.AuditFinding(f))
	}
	return out, nil
}
