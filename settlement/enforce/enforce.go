package enforce

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/nomad"
)

// Mode says what is done about what is found.
type Mode int

// The modes.
const (
	Simulate Mode = iota // it is logged, with what the fine would come to; nothing changes
	On                   // leases of lost hosts are closed, and fines are issued
)

// Config holds the enforcer's values.
type Config struct {
	Mode     Mode
	Rules    Rules
	Interval time.Duration // between two looks
}

// Default returns the values that suit strangers' machines: one that reboots
// has time to come back.
func Default() Config {
	return Config{Rules: Rules{Silence: 10 * time.Minute, MassPPM: 200_000, LeaderAge: 10 * time.Minute}, Interval: 15 * time.Second}
}

// Node is the replicated ledger.
type Node interface {
	Read(ctx context.Context, fn func(*ledger.Ledger) error) error
	Submit(ctx context.Context, env ledger.Envelope) (ledger.Result, error)
}

// History finds a host's leases.
type History interface {
	LeasesOfHost(host ledger.HostID, after ledger.LeaseID, limit int) ([]ledger.LeaseID, error)
}

// Witnesses are the servers as those who hear hosts.
type Witnesses interface {
	// Heard returns for how long each server that answers has not heard each of
	// the hosts, this server first, and how many servers have a vote.
	Heard(ctx context.Context, hosts []uint32) (answers [][]time.Duration, voters int)
}

// Allocations says what Nomad knows.
type Allocations interface {
	// Lost reports whether Nomad has given an allocation's node up.
	Lost(ctx context.Context, allocID string) (bool, error)
}

// Deps are what an enforcer works with.
type Deps struct {
	Node      Node
	History   History
	Witnesses Witnesses
	Nomad     Allocations
	Leads     func() bool                     // whether this server leads
	Heard     func(host uint32) time.Duration // for how long this server has not heard a host
}

// Enforcer looks for what is to be fined. Run it on every server: those that
// do not lead do nothing.
type Enforcer struct {
	cfg  Config
	d    Deps
	log  *slog.Logger
	now  func() time.Time
	led  time.Time       // since when this server leads; zero: it doesn't
	said map[string]bool // what was logged already
	next uint32          // the first offence that may still be open
}

// New returns an enforcer; Run makes it work.
func New(cfg Config, d Deps, log *slog.Logger) *Enforcer {
	return &Enforcer{cfg: cfg, d: d, log: log, now: time.Now, said: map[string]bool{}, next: 1}
}

// Run looks again and again until ctx ends.
func (e *Enforcer) Run(ctx context.Context) {
	tick := time.NewTicker(e.cfg.Interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if err := e.look(ctx); err != nil && ctx.Err() == nil {
			e.log.LogAttrs(ctx, slog.LevelWarn, "offences wait", slog.Any("error", err))
		}
	}
}

// look does one round.
func (e *Enforcer) look(ctx context.Context) error {
	if !e.d.Leads() {
		e.led = time.Time{}
		return nil
	}
	if e.led.IsZero() {
		e.led = e.now()
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return errors.Join(e.lostHosts(ctx), e.fines(ctx))
}

// once logs what was not logged before.
func (e *Enforcer) once(ctx context.Context, level slog.Level, msg string, attrs ...slog.Attr) {
	key := fmt.Sprint(msg, attrs)
	if len(e.said) > saidMax {
		clear(e.said)
	}
	if !e.said[key] {
		e.said[key] = true
		e.log.LogAttrs(ctx, level, msg, attrs...)
	}
}

const saidMax = 10_000

// suspect is a host that this server does not hear.
type suspect struct {
	id   ledger.HostID
	name string
}

// suspectsMax is how many hosts are judged in one round.
const suspectsMax = 1000

// lostHosts closes the leases of hosts that are lost.
func (e *Enforcer) lostHosts(ctx context.Context) error {
	f := facts{leading: e.now().Sub(e.led)}
	var suspects []suspect
	err := e.d.Node.Read(ctx, func(l *ledger.Ledger) error {
		for id := ledger.HostID(1); id <= l.HostCount(); id++ {
			h, _ := l.HostByID(id)
			silent := e.d.Heard(uint32(id)) >= e.cfg.Rules.Silence
			if h.OpenLeases > 0 || !silent {
				f.hosts++
			}
			if h.OpenLeases > 0 && silent {
				f.silent++
				if len(suspects) < suspectsMax {
					suspects = append(suspects, suspect{id, h.Name})
				}
			}
		}
		return nil
	})
	if err != nil || len(suspects) == 0 {
		return err
	}
	ids := make([]uint32, len(suspects))
	for i, s := range suspects {
		ids[i] = uint32(s.id)
	}
	f.answers, f.voters = e.d.Witnesses.Heard(ctx, ids)
	if why := e.cfg.Rules.verdict(&f); why != "" {
		e.once(ctx, slog.LevelWarn, "hosts are silent, and none is taken to be lost", slog.String("why", why),
			slog.Int("silent", f.silent), slog.Int("hosts", f.hosts))
		return nil
	}
	var errs []error
	for i, s := range suspects {
		if e.cfg.Rules.lost(&f, i) {
			errs = append(errs, e.lost(ctx, s))
		}
	}
	return errors.Join(errs...)
}

// leasesPerRound is how many leases of one host are looked at in one call.
const leasesPerRound = 1000

// lost closes those leases of a silent host that Nomad has given up too.
func (e *Enforcer) lost(ctx context.Context, s suspect) error {
	for after := ledger.LeaseID(0); ; {
		ids, err := e.d.History.LeasesOfHost(s.id, after, leasesPerRound)
		if err != nil {
			return fmt.Errorf("host %s: %w", s.name, err)
		}
		if len(ids) == 0 {
			return nil
		}
		after = ids[len(ids)-1]
		open := map[ledger.LeaseID]string{}
		if err := e.d.Node.Read(ctx, func(l *ledger.Ledger) error {
			for _, id := range ids {
				if v, ok := l.Lease(id); ok && v.Reason == ledger.CloseNone {
					open[id] = v.Alloc
				}
			}
			return nil
		}); err != nil {
			return err
		}
		for _, id := range ids {
			if alloc, ok := open[id]; ok {
				if err := e.lostLease(ctx, s, id, alloc); err != nil {
					return err
				}
			}
		}
	}
}

func (e *Enforcer) lostLease(ctx context.Context, s suspect, id ledger.LeaseID, alloc string) error {
	gone, err := e.d.Nomad.Lost(ctx, alloc)
	if errors.Is(err, nomad.ErrNoAllocation) {
		gone, err = false, nil // Nomad has forgotten it: it proves nothing
	}
	attrs := []slog.Attr{slog.String("host", s.name), slog.Uint64("lease", uint64(id)), slog.String("allocation", alloc)}
	switch {
	case err != nil:
		return fmt.Errorf("host %s: %w", s.name, err)
	case !gone:
		e.once(ctx, slog.LevelInfo, "a host is silent, but Nomad has not given it up", attrs...)
		return nil
	case e.cfg.Mode == Simulate:
		e.once(ctx, slog.LevelWarn, "SIMULATED: a host is lost, and this lease would be closed for it", attrs...)
		return nil
	}
	e.once(ctx, slog.LevelWarn, "a host is lost: its lease is closed", attrs...)
	res, err := e.d.Node.Submit(ctx, ledger.Envelope{Key: fmt.Sprintf("enforce/lost/%d", id),
		Command: &ledger.CloseLease{Lease: id, Reason: ledger.CloseHostLost}})
	if err != nil {
		return err
	}
	if res.Code == ledger.CodeClosed {
		return nil // it ended meanwhile
	}
	return res.Err()
}
