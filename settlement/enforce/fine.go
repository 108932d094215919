package enforce

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/joulecloud/joule/settlement/ledger"
)

// offencesPerRound is how many offences are looked at in one round.
const offencesPerRound = 1000

// plan is what a fine for an offence would come to.
type plan struct {
	offence ledger.Offence
	plan    ledger.FinePlan
	name    string // of the supplier
}

// fines issues the fines for what the ledger has evidence of. The key comes from
// the offence, so that it is fined once whichever server leads.
func (e *Enforcer) fines(ctx context.Context) error {
	var due []plan
	err := e.d.Node.Read(ctx, func(l *ledger.Ledger) error {
		for n := e.next; n <= l.OffenceCount() && len(due) < offencesPerRound; n++ {
			o, _ := l.OffenceByNumber(n)
			p, err := l.SimulateFine(l.Now(), caseOf(&o), false)
			if n == e.next && (o.Fine != 0 || void(l, &o)) {
				e.next++
			}
			switch {
			case o.Fine != 0:
			case err != nil:
				e.once(ctx, slog.LevelInfo, "an offence is not fined", slog.Uint64("lease", uint64(o.Lease)), slog.String("reason", o.Reason.String()),
					slog.String("why", err.Error()))
			default:
				s, _ := l.SupplierByID(p.Supplier)
				due = append(due, plan{o, p, s.Name})
			}
		}
		return nil
	})
	errs := []error{err}
	for _, p := range due {
		errs = append(errs, e.fine(ctx, &p))
	}
	return errors.Join(errs...)
}

// void says whether an offence's evidence is too old to be fined ever (rule F2).
func void(l *ledger.Ledger, o *ledger.Offence) bool {
	return uint64(l.Now()-o.At) > l.Policy().Stake.UnbondMs+dayMs
}

const dayMs = 86_400_000

func caseOf(o *ledger.Offence) *ledger.FineCase {
	return &ledger.FineCase{Lease: o.Lease, Reason: o.Reason, Evidence: []ledger.Evidence{o.Evidence}}
}

func (e *Enforcer) fine(ctx context.Context, p *plan) error {
	attrs := []slog.Attr{slog.String("supplier", p.name), slog.String("reason", p.plan.Reason.String()),
		slog.Uint64("lease", uint64(p.plan.Lease)), slog.Uint64("evidence", p.offence.Evidence.Entry)}
	amounts := []slog.Attr{slog.Int64("fine_nj", int64(p.plan.Amount)), slog.Int64("taken_nj", int64(p.plan.Taken())),
		slog.Int64("remedy_nj", int64(p.plan.Remedy)), slog.Uint64("prior", uint64(p.plan.Prior))}
	if e.cfg.Mode == Simulate {
		e.once(ctx, slog.LevelWarn, "SIMULATED: an offence would be fined", append(attrs, amounts...)...)
		return nil
	}
	res, err := e.d.Node.Submit(ctx, ledger.Envelope{Key: fmt.Sprintf("enforce/fine/%d/%d", p.offence.Lease, p.offence.Reason),
		Command: &ledger.IssueFine{FineCase: *caseOf(&p.offence)}})
	if err == nil {
		err = res.Err()
	}
	if err != nil {
		return fmt.Errorf("fine for %s on lease %d: %w", p.plan.Reason, p.plan.Lease, err)
	}
	e.log.LogAttrs(ctx, slog.LevelWarn, "an offence is fined", append(append(attrs, amounts...), slog.Uint64("fine", res.ID))...)
	return nil
}
