package server

import (
	"context"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/ledger"
)

// IssueFine implements SettlementServiceHandler.
func (s *Server) IssueFine(ctx context.Context, r *joulev1.IssueFineRequest) (*joulev1.IssueFineResponse, error) {
	c, err := fineCase(r.Case)
	if err != nil {
		return nil, err
	}
	res, err := s.submit(ctx, r.Key, &ledger.IssueFine{FineCase: c})
	if err != nil {
		return nil, err
	}
	f, err := s.fine(ctx, ledger.FineID(res.ID))
	return &joulev1.IssueFineResponse{Fine: f}, err
}

// ProposeFine implements SettlementServiceHandler.
func (s *Server) ProposeFine(ctx context.Context, r *joulev1.ProposeFineRequest) (*joulev1.ProposeFineResponse, error) {
	c, err := fineCase(r.Case)
	if err != nil {
		return nil, err
	}
	res, err := s.submit(ctx, r.Key, &ledger.ProposeFine{FineCase: c, Operator: operator(ctx), Why: r.Why})
	if err != nil {
		return nil, err
	}
	f, err := s.fine(ctx, ledger.FineID(res.ID))
	return &joulev1.ProposeFineResponse{Fine: f}, err
}

// ApproveFine implements SettlementServiceHandler.
func (s *Server) ApproveFine(ctx context.Context, r *joulev1.ApproveFineRequest) (*joulev1.ApproveFineResponse, error) {
	id := ledger.FineID(r.FineId)
	if _, err := s.submit(ctx, r.Key, &ledger.ApproveFine{Fine: id, Operator: operator(ctx)}); err != nil {
		return nil, err
	}
	f, err := s.fine(ctx, id)
	return &joulev1.ApproveFineResponse{Fine: f}, err
}

// AppealFine implements SettlementServiceHandler.
func (s *Server) AppealFine(ctx context.Context, r *joulev1.AppealFineRequest) (*joulev1.AppealFineResponse, error) {
	id := ledger.FineID(r.FineId)
	if _, err := s.submit(ctx, r.Key, &ledger.AppealFine{Fine: id, Supplier: r.Supplier, Why: r.Why}); err != nil {
		return nil, err
	}
	f, err := s.fine(ctx, id)
	return &joulev1.AppealFineResponse{Fine: f}, err
}

// VoidFine implements SettlementServiceHandler.
func (s *Server) VoidFine(ctx context.Context, r *joulev1.VoidFineRequest) (*joulev1.VoidFineResponse, error) {
	id := ledger.FineID(r.FineId)
	if _, err := s.submit(ctx, r.Key, &ledger.VoidFine{Fine: id, Operator: operator(ctx), Why: r.Why}); err != nil {
		return nil, err
	}
	f, err := s.fine(ctx, id)
	return &joulev1.VoidFineResponse{Fine: f}, err
}

// SimulateFine implements SettlementServiceHandler.
func (s *Server) SimulateFine(ctx context.Context, r *joulev1.SimulateFineRequest) (*joulev1.SimulateFineResponse, error) {
	c, err := fineCase(r.Case)
	if err != nil {
		return nil, err
	}
	out := &joulev1.SimulateFineResponse{}
	return out, s.node.Read(ctx, func(l *ledger.Ledger) error {
		plan, err := l.SimulateFine(ledger.Time(s.now().UnixMilli()), &c, r.Manual)
		if err != nil {
			return err
		}
		out.Plan = names{l}.finePlan(&plan)
		return nil
	})
}

// GetFine implements SettlementServiceHandler.
func (s *Server) GetFine(ctx context.Context, r *joulev1.GetFineRequest) (*joulev1.GetFineResponse, error) {
	f, err := s.fine(ctx, ledger.FineID(r.FineId))
	return &joulev1.GetFineResponse{Fine: f}, err
}

func (s *Server) fine(ctx context.Context, id ledger.FineID) (out *joulev1.Fine, err error) {
	err = s.node.Read(ctx, func(l *ledger.Ledger) error {
		f, ok := l.Fine(id)
		if !ok {
			return notFound("fine %d", id)
		}
		out = names{l}.fine(&f)
		return nil
	})
	return out, err
}

func (n names) fine(f *ledger.Fine) *joulev1.Fine {
	out := &joulev1.Fine{Id: uint32(f.ID), State: fineStateName(f.State), Plan: n.finePlan(&f.Plan),
		Case:         &joulev1.FineCase{Supplier: n.supplier(f.Plan.Supplier), LeaseId: uint64(f.Case.Lease), Reason: f.Case.Reason.String()},
		OpenedUnixMs: int64(f.Opened), IssuedUnixMs: int64(f.Issued), EndsUnixMs: int64(f.Ends),
		ProposedBy: f.Proposed, ApprovedBy: f.Approved, Why: f.Why, Appeal: f.Appeal, VoidedBy: f.By, VoidWhy: f.ByWhy}
	for _, e := range f.Case.Evidence {
		out.Case.Evidence = append(out.Case.Evidence, apiEvidence(e))
	}
	return out
}

func (n names) finePlan(p *ledger.FinePlan) *joulev1.FinePlan {
	out := &joulev1.FinePlan{Supplier: n.supplier(p.Supplier), LeaseId: uint64(p.Lease), Reason: p.Reason.String(),
		Side: p.Reason.Side().String(), RequiredNj: int64(p.Required), Prior: p.Prior, ScheduleNj: int64(p.Schedule),
		AmountNj: int64(p.Amount), FromEarningsNj: int64(p.FromEarnings), FromStakeNj: int64(p.FromStake),
		FromUnbondingNj: int64(p.FromUnbonding), TakenNj: int64(p.Taken()), RemedyNj: int64(p.Remedy), FinalUnixMs: int64(p.FinalAt)}
	if p.Customer != 0 {
		out.Customer = n.customer(p.Customer)
	}
	return out
}

// ListFines implements SettlementServiceHandler.
func (s *Server) ListFines(ctx context.Context, r *joulev1.ListFinesRequest) (*joulev1.ListFinesResponse, error) {
	var of ledger.SupplierID
	page, more, err := list(ctx, s, r.AfterId, r.PageSize, func(l *ledger.Ledger) (uint32, error) {
		if r.Supplier != "" {
			sup, ok := l.Supplier(r.Supplier)
			if !ok {
				return 0, notFound("supplier %q", r.Supplier)
			}
			of = sup.ID
		}
		return uint32(l.FineCount()), nil
	}, func(n names, id uint32) *joulev1.Fine {
		f, ok := n.l.Fine(ledger.FineID(id))
		open := f.State == ledger.FineProposedState || f.State == ledger.FineInEscrow || f.State == ledger.FineAppealed
		if !ok || r.OpenOnly && !open || of != 0 && f.Plan.Supplier != of {
			return nil
		}
		return n.fine(&f)
	})
	return &joulev1.ListFinesResponse{Fines: page, More: more}, err
}

// ListOffences implements SettlementServiceHandler.
func (s *Server) ListOffences(ctx context.Context, r *joulev1.ListOffencesRequest) (*joulev1.ListOffencesResponse, error) {
	page, more, err := list(ctx, s, r.AfterId, r.PageSize, func(l *ledger.Ledger) (uint32, error) {
		return l.OffenceCount(), nil
	}, func(n names, id uint32) *joulev1.Offence {
		o, ok := n.l.OffenceByNumber(id)
		if !ok || r.OpenOnly && o.Fine != 0 {
			return nil
		}
		return &joulev1.Offence{Id: id, LeaseId: uint64(o.Lease), Reason: o.Reason.String(), Evidence: apiEvidence(o.Evidence),
			UnixMs: int64(o.At), FineId: uint32(o.Fine)}
	})
	return &joulev1.ListOffencesResponse{Offences: page, More: more}, err
}
