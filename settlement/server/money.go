package server

import (
	"context"
	"fmt"
	"slices"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/journal"
	"github.com/joulecloud/joule/settlement/ledger"
)

// rowsPerRead bounds how many rows are looked at while commands wait.
const rowsPerRead = 8192

// list returns a page of what show makes of the ledger's rows above after, nil
// where a row is not wanted, and whether there are more. The ledger is read a
// part at a time.
func list[M any](ctx context.Context, s *Server, after uint32, size uint32,
	last func(*ledger.Ledger) (uint32, error), show func(names, uint32) *M) (page []*M, more bool, err error) {
	limit, err := pageSize(size)
	if err != nil {
		return nil, false, err
	}
	for done := false; !done && err == nil; {
		err = s.node.Read(ctx, func(l *ledger.Ledger) error {
			end, err := last(l)
			if err != nil {
				return err
			}
			for n := 0; n < rowsPerRead && after < end; n++ {
				after++
				m := show(names{l}, after)
				if m == nil {
					continue
				}
				if len(page) == limit {
					more, done = true, true
					return nil
				}
				page = append(page, m)
			}
			done = after >= end
			return nil
		})
	}
	return page, more, err
}

// show reads one row back after a command.
func show[M any](ctx context.Context, s *Server, fn func(names) *M) (m *M, err error) {
	err = s.node.Read(ctx, func(l *ledger.Ledger) error {
		m = fn(names{l})
		return nil
	})
	return m, err
}

// RequestWithdrawal implements SettlementServiceHandler.
func (s *Server) RequestWithdrawal(ctx context.Context, r *joulev1.RequestWithdrawalRequest) (*joulev1.RequestWithdrawalResponse, error) {
	party, err := ledgerParty("party", r.Party)
	if err != nil {
		return nil, err
	}
	cur, err := ledgerCurrency("currency", r.Currency)
	if err != nil {
		return nil, err
	}
	res, err := s.submit(ctx, r.Key, &ledger.RequestWithdrawal{Party: party, Name: r.Name, Currency: cur, Amount: r.Amount, To: r.To})
	if err != nil {
		return nil, err
	}
	w, err := show(ctx, s, func(n names) *joulev1.Withdrawal { return n.withdrawal(ledger.WithdrawalID(res.ID)) })
	return &joulev1.RequestWithdrawalResponse{Withdrawal: w}, err
}

// ConfirmWithdrawal implements SettlementServiceHandler.
func (s *Server) ConfirmWithdrawal(ctx context.Context, r *joulev1.ConfirmWithdrawalRequest) (*joulev1.ConfirmWithdrawalResponse, error) {
	id := ledger.WithdrawalID(r.WithdrawalId)
	if _, err := s.submit(ctx, r.Key, &ledger.ConfirmWithdrawal{Withdrawal: id, Ref: r.Ref}); err != nil {
		return nil, err
	}
	w, err := show(ctx, s, func(n names) *joulev1.Withdrawal { return n.withdrawal(id) })
	return &joulev1.ConfirmWithdrawalResponse{Withdrawal: w}, err
}

// FailWithdrawal implements SettlementServiceHandler.
func (s *Server) FailWithdrawal(ctx context.Context, r *joulev1.FailWithdrawalRequest) (*joulev1.FailWithdrawalResponse, error) {
	id := ledger.WithdrawalID(r.WithdrawalId)
	if _, err := s.submit(ctx, r.Key, &ledger.FailWithdrawal{Withdrawal: id, Why: r.Why}); err != nil {
		return nil, err
	}
	w, err := show(ctx, s, func(n names) *joulev1.Withdrawal { return n.withdrawal(id) })
	return &joulev1.FailWithdrawalResponse{Withdrawal: w}, err
}

func (n names) withdrawal(id ledger.WithdrawalID) *joulev1.Withdrawal {
	w, ok := n.l.Withdrawal(id)
	if !ok {
		return nil
	}
	out := &joulev1.Withdrawal{Id: uint32(w.ID), Account: n.account(w.Account), Currency: joulev1.Currency(w.Currency),
		Amount: w.Amount, To: w.To, RequestedUnixMs: int64(w.Requested), EndedUnixMs: int64(w.Ended)}
	switch w.State {
	case ledger.WithdrawalOpen:
		out.State = "requested"
	case ledger.WithdrawalConfirmed:
		out.State, out.Ref = "confirmed", w.Text
	case ledger.WithdrawalFailed:
		out.State, out.Why = "failed", w.Text
	default:
		out.State = fmt.Sprintf("state %d", w.State)
	}
	return out
}

// ListWithdrawals implements SettlementServiceHandler.
func (s *Server) ListWithdrawals(ctx context.Context, r *joulev1.ListWithdrawalsRequest) (*joulev1.ListWithdrawalsResponse, error) {
	var of []ledger.Account
	page, more, err := list(ctx, s, r.AfterId, r.PageSize, func(l *ledger.Ledger) (uint32, error) {
		if of = accountsNamed(ctx, l, r.Account, 0); r.Account != "" && len(of) == 0 {
			return 0, notFound("account %q", r.Account)
		}
		return uint32(l.WithdrawalCount()), nil
	}, func(n names, id uint32) *joulev1.Withdrawal {
		w, ok := n.l.Withdrawal(ledger.WithdrawalID(id))
		if !ok || r.OpenOnly && w.State != ledger.WithdrawalOpen ||
			r.Account != "" && !slices.ContainsFunc(of, func(a ledger.Account) bool { return a.ID == w.Account }) {
			return nil
		}
		return n.withdrawal(w.ID)
	})
	return &joulev1.ListWithdrawalsResponse{Withdrawals: page, More: more}, err
}

// CorrectLease implements SettlementServiceHandler.
func (s *Server) CorrectLease(ctx context.Context, r *joulev1.CorrectLeaseRequest) (*joulev1.CorrectLeaseResponse, error) {
	cmd := &ledger.Correct{Lease: ledger.LeaseID(r.LeaseId), Entry: r.Entry, Operator: operator(ctx), Why: r.Why}
	if len(r.Legs) > ledger.CorrectionLegsMax {
		return nil, invalid("legs: at most %d, got %d", ledger.CorrectionLegsMax, len(r.Legs))
	}
	for i, leg := range r.Legs {
		field := func(name string) string { return fmt.Sprintf("legs[%d].%s", i, name) }
		from, err := ledgerParty(field("from"), leg.GetFrom())
		if err != nil {
			return nil, err
		}
		to, err := ledgerParty(field("to"), leg.GetTo())
		if err != nil {
			return nil, err
		}
		cur, err := ledgerCurrency(field("currency"), leg.GetCurrency())
		if err != nil {
			return nil, err
		}
		cmd.Legs = append(cmd.Legs, ledger.CorrectionLeg{From: from, To: to, Currency: cur, Amount: leg.GetAmount()})
	}
	if err := s.checkEntryOfLease(ctx, cmd.Entry, cmd.Lease); err != nil {
		return nil, err
	}
	res, err := s.submit(ctx, r.Key, cmd)
	if err != nil {
		return nil, err
	}
	c, err := show(ctx, s, func(n names) *joulev1.Correction { return n.correction(ledger.CorrectionID(res.ID)) })
	return &joulev1.CorrectLeaseResponse{Correction: c}, err
}

// checkEntryOfLease refuses an entry that is not about the lease. The journal
// knows, which the ledger does not read; an entry never changes, so what was
// found here holds when the command is applied. What is not there at all is for
// the ledger to refuse.
func (s *Server) checkEntryOfLease(ctx context.Context, entry uint64, lease ledger.LeaseID) error {
	there := false
	err := s.node.Read(ctx, func(l *ledger.Ledger) error {
		there = entry > 0 && entry <= l.EntryCount() && lease > 0 && lease <= l.LeaseCount()
		return nil
	})
	if err != nil || !there {
		return err
	}
	found, err := s.history.EntriesOfLease(lease, journal.Range{After: entry - 1, Limit: 1})
	if err != nil {
		return fmt.Errorf("read the journal of lease %d: %w", lease, err)
	}
	if len(found) == 0 || found[0].Seq != entry {
		return invalid("entry: %d is not about lease L%d", entry, lease)
	}
	return nil
}

func (n names) correction(id ledger.CorrectionID) *joulev1.Correction {
	c, ok := n.l.Correction(id)
	if !ok {
		return nil
	}
	out := &joulev1.Correction{Id: uint32(c.ID), LeaseId: uint64(c.Lease), Entry: c.Corrects, UnixMs: int64(c.At),
		Operator: c.Operator, Why: c.Why}
	for _, leg := range c.Legs {
		out.Legs = append(out.Legs, &joulev1.CorrectionLeg{From: joulev1.Party(leg.From), To: joulev1.Party(leg.To),
			Currency: joulev1.Currency(leg.Currency), Amount: leg.Amount})
	}
	return out
}

// ListCorrections implements SettlementServiceHandler.
func (s *Server) ListCorrections(ctx context.Context, r *joulev1.ListCorrectionsRequest) (*joulev1.ListCorrectionsResponse, error) {
	page, more, err := list(ctx, s, r.AfterId, r.PageSize, func(l *ledger.Ledger) (uint32, error) {
		if r.LeaseId != 0 {
			if _, err := knownLease(l, ledger.LeaseID(r.LeaseId)); err != nil {
				return 0, err
			}
		}
		return uint32(l.CorrectionCount()), nil
	}, func(n names, id uint32) *joulev1.Correction {
		c, ok := n.l.Correction(ledger.CorrectionID(id))
		if !ok || r.LeaseId != 0 && uint64(c.Lease) != r.LeaseId {
			return nil
		}
		return n.correction(c.ID)
	})
	return &joulev1.ListCorrectionsResponse{Corrections: page, More: more}, err
}

// GetBudget implements SettlementServiceHandler.
func (s *Server) GetBudget(ctx context.Context, r *joulev1.GetBudgetRequest) (*joulev1.GetBudgetResponse, error) {
	out := &joulev1.GetBudgetResponse{Customer: r.Customer, Job: r.Job}
	var c ledger.Customer
	err := s.node.Read(ctx, func(l *ledger.Ledger) error {
		var ok bool
		if c, ok = l.Customer(r.Customer); !ok {
			return notFound("customer %q", r.Customer)
		}
		j, ok := l.JobByName(c.ID, r.Job)
		if !ok {
			return notFound("job %q of customer %q", r.Job, r.Customer)
		}
		out.ChargedNusd, out.HeldNusd = int64(j.Charged), int64(j.Held)
		return nil
	})
	if err != nil {
		return nil, err
	}
	next := func(after ledger.LeaseID) ([]ledger.LeaseID, error) {
		return s.history.LeasesOfCustomer(c.ID, after, leasesPerRead)
	}
	_, _, err = s.leases(ctx, next, 0, 1, func(v *ledger.Lease) bool {
		if v.Job == r.Job {
			out.Leases++
			out.BudgetNusd = int64(v.Budget)
			if v.Reason == ledger.CloseNone {
				out.OpenLeases++
			}
		}
		return false
	})
	if out.BudgetNusd != 0 {
		out.LeftNusd = out.BudgetNusd - out.ChargedNusd - out.HeldNusd
	}
	return out, err
}
