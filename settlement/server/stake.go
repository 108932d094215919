package server

import (
	"context"
	"fmt"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/ledger"
)

// Bond implements SettlementServiceHandler.
func (s *Server) Bond(ctx context.Context, r *joulev1.BondRequest) (*joulev1.BondResponse, error) {
	cmd := &ledger.Bond{Supplier: r.Supplier, Amount: ledger.NJ(r.AmountNj), Ref: r.Ref}
	switch r.From {
	case "earnings":
		cmd.From = ledger.BondEarnings
	case "deposit":
		cmd.From = ledger.BondDeposit
	default:
		return nil, invalid("from: want earnings or deposit, got %q", r.From)
	}
	if _, err := s.submit(ctx, r.Key, cmd); err != nil {
		return nil, err
	}
	stake, err := show(ctx, s, func(n names) *joulev1.Stake { return n.stake(r.Supplier) })
	return &joulev1.BondResponse{Stake: stake}, err
}

// BuyStake implements SettlementServiceHandler.
func (s *Server) BuyStake(ctx context.Context, r *joulev1.BuyStakeRequest) (*joulev1.BuyStakeResponse, error) {
	if _, err := s.submit(ctx, r.Key, &ledger.BuyStake{Supplier: r.Supplier, Paid: ledger.NUSD(r.PaidNusd), Ref: r.Ref}); err != nil {
		return nil, err
	}
	stake, err := show(ctx, s, func(n names) *joulev1.Stake { return n.stake(r.Supplier) })
	return &joulev1.BuyStakeResponse{Stake: stake}, err
}

// RetireHost implements SettlementServiceHandler.
func (s *Server) RetireHost(ctx context.Context, r *joulev1.RetireHostRequest) (*joulev1.RetireHostResponse, error) {
	if _, err := s.submit(ctx, r.Key, &ledger.RetireHost{Host: r.Host}); err != nil {
		return nil, err
	}
	out := &joulev1.RetireHostResponse{}
	return out, s.node.Read(ctx, func(l *ledger.Ledger) error {
		if h, ok := l.Host(r.Host); ok {
			out.OpenLeases = h.OpenLeases
			out.Stake = names{l}.stake(names{l}.supplier(h.Supplier))
		}
		return nil
	})
}

// Unbond implements SettlementServiceHandler.
func (s *Server) Unbond(ctx context.Context, r *joulev1.UnbondRequest) (*joulev1.UnbondResponse, error) {
	res, err := s.submit(ctx, r.Key, &ledger.Unbond{Supplier: r.Supplier, Amount: ledger.NJ(r.AmountNj)})
	if err != nil {
		return nil, err
	}
	out := &joulev1.UnbondResponse{}
	return out, s.node.Read(ctx, func(l *ledger.Ledger) error {
		if u, ok := l.Unbonding(ledger.UnbondingID(res.ID)); ok {
			out.Unbonding = apiUnbonding(&u)
		}
		out.Stake = names{l}.stake(r.Supplier)
		return nil
	})
}

func apiUnbonding(u *ledger.Unbonding) *joulev1.Unbonding {
	return &joulev1.Unbonding{Id: uint32(u.ID), AmountNj: int64(u.Amount), StartedUnixMs: int64(u.Started),
		MaturesUnixMs: int64(u.Matures), Ended: u.Ended}
}

func (n names) stake(supplier string) *joulev1.Stake {
	sup, ok := n.l.Supplier(supplier)
	if !ok {
		return nil
	}
	v, ok := n.l.Stake(sup.ID)
	if !ok {
		return nil
	}
	return &joulev1.Stake{BondedNj: int64(v.Bonded), UnbondingNj: int64(v.Unbonding), RequiredNj: int64(v.Required),
		Hosts: v.Hosts, ExposureNusd: int64(v.Exposure)}
}

// GetSupplier implements SettlementServiceHandler.
func (s *Server) GetSupplier(ctx context.Context, r *joulev1.GetSupplierRequest) (*joulev1.GetSupplierResponse, error) {
	out := &joulev1.GetSupplierResponse{Supplier: r.Supplier}
	return out, s.node.Read(ctx, func(l *ledger.Ledger) error {
		sup, ok := l.Supplier(r.Supplier)
		if !ok {
			return notFound("supplier %q", r.Supplier)
		}
		if a, ok := l.AccountByName("supplier/"+r.Supplier, ledger.JOULE); ok {
			out.BalanceNj = a.Balance
		}
		out.Stake = names{l}.stake(r.Supplier)
		for id := ledger.HostID(1); id <= l.HostCount(); id++ {
			if h, ok := l.HostByID(id); ok && h.Supplier == sup.ID {
				out.OpenLeases += h.OpenLeases
			}
		}
		for id := ledger.UnbondingID(1); id <= l.UnbondingCount(); id++ {
			if u, ok := l.Unbonding(id); ok && u.Supplier == sup.ID && !u.Ended {
				out.Unbondings = append(out.Unbondings, apiUnbonding(&u))
			}
		}
		return nil
	})
}

// fineReasons are the reasons by name.
var fineReasons = func() map[string]ledger.FineReason {
	out := map[string]ledger.FineReason{}
	for r := ledger.FineEquivocation; r <= ledger.FinePlatform; r++ {
		out[r.String()] = r
	}
	return out
}()

func fineReason(field, name string) (ledger.FineReason, error) {
	if r, ok := fineReasons[name]; ok {
		return r, nil
	}
	return 0, invalid("%s: want equivocation, host lost, breach, or a reason of another side: network, workload, funds, platform; got %q", field, name)
}

func fineCase(c *joulev1.FineCase) (ledger.FineCase, error) {
	if c == nil {
		return ledger.FineCase{}, invalid("case: required")
	}
	out := ledger.FineCase{Supplier: c.Supplier, Lease: ledger.LeaseID(c.LeaseId)}
	var err error
	if out.Reason, err = fineReason("case.reason", c.Reason); err != nil {
		return out, err
	}
	if len(c.Evidence) > ledger.EvidenceMax {
		return out, invalid("case.evidence: at most %d, got %d", ledger.EvidenceMax, len(c.Evidence))
	}
	for i, e := range c.Evidence {
		ev := ledger.Evidence{Entry: e.GetEntry()}
		if n := len(e.GetHash()); n != 0 && n != len(ev.Hash) {
			return out, invalid("case.evidence[%d].hash: want %d bytes or none, got %d", i, len(ev.Hash), n)
		}
		copy(ev.Hash[:], e.GetHash())
		out.Evidence = append(out.Evidence, ev)
	}
	return out, nil
}

func apiEvidence(e ledger.Evidence) *joulev1.Evidence {
	out := &joulev1.Evidence{Entry: e.Entry}
	if e.Hash != (ledger.Hash{}) {
		out.Hash = e.Hash[:]
	}
	return out
}

func fineStateName(s ledger.FineState) string {
	states := [...]string{"", "proposed", "in escrow", "appealed", "final", "voided", "lapsed"}
	if s > 0 && int(s) < len(states) {
		return states[s]
	}
	return fmt.Sprintf("state %d", s)
}
