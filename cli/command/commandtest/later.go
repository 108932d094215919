package commandtest

import (
	"context"

	"google.golang.org/protobuf/proto"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

// answer records a request and answers with what fn makes, which sees the
// state.
func answer[Req, Resp proto.Message](ctx context.Context, s *Server, method string, req Req, fn func() Resp) (Resp, error) {
	defer s.mu.Unlock()
	if err := s.enter(ctx, method, req); err != nil {
		var none Resp
		return none, err
	}
	return proto.CloneOf(fn()), nil
}

func withdrawal(id uint32, state string, c joulev1.Currency, amount int64, to string) *joulev1.Withdrawal {
	w := &joulev1.Withdrawal{Id: id, Account: "supplier/home-lab", Currency: c, Amount: amount, To: to, State: state, RequestedUnixMs: start}
	if state != "requested" {
		w.EndedUnixMs = start + 60_000
	}
	return w
}

func stake() *joulev1.Stake {
	return &joulev1.Stake{BondedNj: 150_000_000_000, UnbondingNj: 1_000_000_000, RequiredNj: 218_000_000_000, Hosts: 2, ExposureNusd: 900_000_000}
}

func breach() *joulev1.FineCase {
	return &joulev1.FineCase{Supplier: "west-dc", Reason: "breach", Evidence: []*joulev1.Evidence{{Entry: 41, Hash: []byte("0123456789abcdef")}}}
}

func fine(id uint32, state string, c *joulev1.FineCase) *joulev1.Fine {
	p := &joulev1.FinePlan{Supplier: "west-dc", LeaseId: c.LeaseId, Reason: c.Reason, Side: "supplier", RequiredNj: 218_000_000_000,
		Prior: 1, ScheduleNj: 10_900_000_000, AmountNj: 10_900_000_000, FromEarningsNj: 22_114_473, FromStakeNj: 10_877_885_527,
		TakenNj: 10_900_000_000, FinalUnixMs: start + 604_800_000}
	if c.LeaseId != 0 {
		p.Customer, p.RemedyNj = "acme", 18_000_000_000
	}
	return &joulev1.Fine{Id: id, State: state, Case: c, Plan: p, OpenedUnixMs: start, IssuedUnixMs: start, EndsUnixMs: start + 604_800_000}
}

// RequestWithdrawal implements the API.
func (s *Server) RequestWithdrawal(ctx context.Context, req *joulev1.RequestWithdrawalRequest) (*joulev1.RequestWithdrawalResponse, error) {
	return answer(ctx, s, "RequestWithdrawal", req, func() *joulev1.RequestWithdrawalResponse {
		return &joulev1.RequestWithdrawalResponse{Withdrawal: withdrawal(3, "requested", req.Currency, req.Amount, req.To)}
	})
}

// ConfirmWithdrawal implements the API.
func (s *Server) ConfirmWithdrawal(ctx context.Context, req *joulev1.ConfirmWithdrawalRequest) (*joulev1.ConfirmWithdrawalResponse, error) {
	return answer(ctx, s, "ConfirmWithdrawal", req, func() *joulev1.ConfirmWithdrawalResponse {
		w := withdrawal(req.WithdrawalId, "confirmed", joule, 2_000_000, "account 4711")
		w.Ref = req.Ref
		return &joulev1.ConfirmWithdrawalResponse{Withdrawal: w}
	})
}

// FailWithdrawal implements the API.
func (s *Server) FailWithdrawal(ctx context.Context, req *joulev1.FailWithdrawalRequest) (*joulev1.FailWithdrawalResponse, error) {
	return answer(ctx, s, "FailWithdrawal", req, func() *joulev1.FailWithdrawalResponse {
		w := withdrawal(req.WithdrawalId, "failed", joule, 2_000_000, "account 4711")
		w.Why = req.Why
		return &joulev1.FailWithdrawalResponse{Withdrawal: w}
	})
}

// ListWithdrawals implements the API.
func (s *Server) ListWithdrawals(ctx context.Context, req *joulev1.ListWithdrawalsRequest) (*joulev1.ListWithdrawalsResponse, error) {
	return answer(ctx, s, "ListWithdrawals", req, func() *joulev1.ListWithdrawalsResponse {
		return &joulev1.ListWithdrawalsResponse{Withdrawals: []*joulev1.Withdrawal{withdrawal(1, "requested", joule, 2_000_000, "account 4711"), withdrawal(2, "confirmed", usd, 500_000_000, "evil\x1b[2J")}, More: req.PageSize == 2}
	})
}

// GetPolicy implements the API.
func (s *Server) GetPolicy(ctx context.Context, req *joulev1.GetPolicyRequest) (*joulev1.GetPolicyResponse, error) {
	return answer(ctx, s, "GetPolicy", req, func() *joulev1.GetPolicyResponse {
		return &joulev1.GetPolicyResponse{FeePpm: s.fee, SliceMs: s.slice, Guard: &joulev1.RateGuard{MaxAgeMs: 360_000, DeviationPpm: 15_000, WindowMs: 1_080_000},
			Stake: &joulev1.StakePolicy{BasePerHostNj: 100_000_000_000, FactorPpm: 2_000_000, UnbondMs: 1_814_400_000},
			Fines: &joulev1.FineSchedule{AppealMs: 604_800_000, RepeatMs: 2_592_000_000, DayCapPpm: 500_000, Rules: []*joulev1.FineRule{
				{Reason: "equivocation", SharePpm: 200_000, RepeatPpm: 2_000_000, RemedyMs: 3_600_000}, {Reason: "host lost", SharePpm: 50_000, Grace: 2, RepeatPpm: 1_500_000}}}}
	})
}

// ListRates implements the API.
func (s *Server) ListRates(ctx context.Context, req *joulev1.ListRatesRequest) (*joulev1.ListRatesResponse, error) {
	return answer(ctx, s, "ListRates", req, func() *joulev1.ListRatesResponse {
		if s.rate == 0 {
			return &joulev1.ListRatesResponse{State: &joulev1.RateState{}}
		}
		r := &joulev1.Rate{Id: s.rates, NusdPerJoule: s.rate, SetUnixMs: start}
		doubtful := &joulev1.Rate{Id: s.rates + 1, NusdPerJoule: 2 * s.rate, SetUnixMs: start + 60_000, Proposed: true, Doubtful: true, AverageNusdPerJoule: s.rate}
		return &joulev1.ListRatesResponse{State: &joulev1.RateState{Newest: doubtful, InForce: r, Paused: "doubtful", SinceUnixMs: start + 60_000},
			Rates: []*joulev1.Rate{doubtful, r}, More: req.PageSize == 2}
	})
}

// OverrideRate implements the API.
func (s *Server) OverrideRate(ctx context.Context, req *joulev1.OverrideRateRequest) (*joulev1.OverrideRateResponse, error) {
	return answer(ctx, s, "OverrideRate", req, func() *joulev1.OverrideRateResponse {
		return &joulev1.OverrideRateResponse{UntilUnixMs: start + int64(req.ForMs)}
	})
}

// SetRateGuard implements the API.
func (s *Server) SetRateGuard(ctx context.Context, req *joulev1.SetRateGuardRequest) (*joulev1.SetRateGuardResponse, error) {
	return answer(ctx, s, "SetRateGuard", req, func() *joulev1.SetRateGuardResponse {
		return &joulev1.SetRateGuardResponse{}
	})
}

// SetStakePolicy implements the API.
func (s *Server) SetStakePolicy(ctx context.Context, req *joulev1.SetStakePolicyRequest) (*joulev1.SetStakePolicyResponse, error) {
	return answer(ctx, s, "SetStakePolicy", req, func() *joulev1.SetStakePolicyResponse {
		return &joulev1.SetStakePolicyResponse{}
	})
}

// SetFineSchedule implements the API.
func (s *Server) SetFineSchedule(ctx context.Context, req *joulev1.SetFineScheduleRequest) (*joulev1.SetFineScheduleResponse, error) {
	return answer(ctx, s, "SetFineSchedule", req, func() *joulev1.SetFineScheduleResponse {
		return &joulev1.SetFineScheduleResponse{}
	})
}

// Bond implements the API.
func (s *Server) Bond(ctx context.Context, req *joulev1.BondRequest) (*joulev1.BondResponse, error) {
	return answer(ctx, s, "Bond", req, func() *joulev1.BondResponse {
		return &joulev1.BondResponse{Stake: stake()}
	})
}

// BuyStake implements the API.
func (s *Server) BuyStake(ctx context.Context, req *joulev1.BuyStakeRequest) (*joulev1.BuyStakeResponse, error) {
	return answer(ctx, s, "BuyStake", req, func() *joulev1.BuyStakeResponse { return &joulev1.BuyStakeResponse{Stake: stake()} })
}

// RetireHost implements the API.
func (s *Server) RetireHost(ctx context.Context, req *joulev1.RetireHostRequest) (*joulev1.RetireHostResponse, error) {
	return answer(ctx, s, "RetireHost", req, func() *joulev1.RetireHostResponse {
		return &joulev1.RetireHostResponse{OpenLeases: 1, Stake: stake()}
	})
}

// Unbond implements the API.
func (s *Server) Unbond(ctx context.Context, req *joulev1.UnbondRequest) (*joulev1.UnbondResponse, error) {
	return answer(ctx, s, "Unbond", req, func() *joulev1.UnbondResponse {
		return &joulev1.UnbondResponse{Unbonding: &joulev1.Unbonding{Id: 1, AmountNj: req.AmountNj, StartedUnixMs: start, MaturesUnixMs: start + 1_814_400_000}, Stake: stake()}
	})
}

// GetSupplier implements the API.
func (s *Server) GetSupplier(ctx context.Context, req *joulev1.GetSupplierRequest) (*joulev1.GetSupplierResponse, error) {
	return answer(ctx, s, "GetSupplier", req, func() *joulev1.GetSupplierResponse {
		return &joulev1.GetSupplierResponse{Supplier: req.Supplier, BalanceNj: 22_114_473, Stake: stake(), OpenLeases: 1,
			Unbondings: []*joulev1.Unbonding{{Id: 1, AmountNj: 1_000_000_000, StartedUnixMs: start, MaturesUnixMs: start + 1_814_400_000}}}
	})
}

// IssueFine implements the API.
func (s *Server) IssueFine(ctx context.Context, req *joulev1.IssueFineRequest) (*joulev1.IssueFineResponse, error) {
	return answer(ctx, s, "IssueFine", req, func() *joulev1.IssueFineResponse {
		return &joulev1.IssueFineResponse{Fine: fine(2, "in escrow", req.Case)}
	})
}

// ProposeFine implements the API.
func (s *Server) ProposeFine(ctx context.Context, req *joulev1.ProposeFineRequest) (*joulev1.ProposeFineResponse, error) {
	return answer(ctx, s, "ProposeFine", req, func() *joulev1.ProposeFineResponse {
		f := fine(3, "proposed", req.Case)
		f.IssuedUnixMs, f.ProposedBy, f.Why = 0, "alice", req.Why
		return &joulev1.ProposeFineResponse{Fine: f}
	})
}

// ApproveFine implements the API.
func (s *Server) ApproveFine(ctx context.Context, req *joulev1.ApproveFineRequest) (*joulev1.ApproveFineResponse, error) {
	return answer(ctx, s, "ApproveFine", req, func() *joulev1.ApproveFineResponse {
		f := fine(req.FineId, "in escrow", breach())
		f.ProposedBy, f.ApprovedBy = "alice", "bob"
		return &joulev1.ApproveFineResponse{Fine: f}
	})
}

// AppealFine implements the API.
func (s *Server) AppealFine(ctx context.Context, req *joulev1.AppealFineRequest) (*joulev1.AppealFineResponse, error) {
	return answer(ctx, s, "AppealFine", req, func() *joulev1.AppealFineResponse {
		f := fine(req.FineId, "appealed", breach())
		f.Appeal = req.Why
		return &joulev1.AppealFineResponse{Fine: f}
	})
}

// VoidFine implements the API.
func (s *Server) VoidFine(ctx context.Context, req *joulev1.VoidFineRequest) (*joulev1.VoidFineResponse, error) {
	return answer(ctx, s, "VoidFine", req, func() *joulev1.VoidFineResponse {
		f := fine(req.FineId, "voided", breach())
		f.VoidedBy, f.VoidWhy = "alice", req.Why
		return &joulev1.VoidFineResponse{Fine: f}
	})
}

// SimulateFine implements the API.
func (s *Server) SimulateFine(ctx context.Context, req *joulev1.SimulateFineRequest) (*joulev1.SimulateFineResponse, error) {
	return answer(ctx, s, "SimulateFine", req, func() *joulev1.SimulateFineResponse {
		return &joulev1.SimulateFineResponse{Plan: fine(0, "", req.Case).Plan}
	})
}

// GetFine implements the API.
func (s *Server) GetFine(ctx context.Context, req *joulev1.GetFineRequest) (*joulev1.GetFineResponse, error) {
	return answer(ctx, s, "GetFine", req, func() *joulev1.GetFineResponse {
		f := fine(req.FineId, "appealed", breach())
		f.ProposedBy, f.ApprovedBy, f.Why, f.Appeal = "alice", "bob", "sold the disks", "we did not"
		return &joulev1.GetFineResponse{Fine: f}
	})
}

// ListFines implements the API.
func (s *Server) ListFines(ctx context.Context, req *joulev1.ListFinesRequest) (*joulev1.ListFinesResponse, error) {
	return answer(ctx, s, "ListFines", req, func() *joulev1.ListFinesResponse {
		return &joulev1.ListFinesResponse{Fines: []*joulev1.Fine{fine(1, "final", breach()), fine(2, "in escrow", &joulev1.FineCase{LeaseId: 2, Reason: "host lost", Evidence: []*joulev1.Evidence{{Entry: 40}}})}, More: req.PageSize == 2}
	})
}

// ListOffences implements the API.
func (s *Server) ListOffences(ctx context.Context, req *joulev1.ListOffencesRequest) (*joulev1.ListOffencesResponse, error) {
	return answer(ctx, s, "ListOffences", req, func() *joulev1.ListOffencesResponse {
		return &joulev1.ListOffencesResponse{Offences: []*joulev1.Offence{{Id: 1, LeaseId: 2, Reason: "equivocation", Evidence: &joulev1.Evidence{Entry: 33, Hash: []byte("0123456789abcdef")}, UnixMs: start, FineId: 1},
			{Id: 2, LeaseId: 3, Reason: "host lost", Evidence: &joulev1.Evidence{Entry: 40}, UnixMs: start + 1000}}, More: req.PageSize == 2}
	})
}

// CorrectLease implements the API.
func (s *Server) CorrectLease(ctx context.Context, req *joulev1.CorrectLeaseRequest) (*joulev1.CorrectLeaseResponse, error) {
	return answer(ctx, s, "CorrectLease", req, func() *joulev1.CorrectLeaseResponse {
		return &joulev1.CorrectLeaseResponse{Correction: &joulev1.Correction{Id: 1, LeaseId: req.LeaseId, Entry: req.Entry, UnixMs: start, Legs: req.Legs, Operator: "alice", Why: req.Why}}
	})
}

// ListCorrections implements the API.
func (s *Server) ListCorrections(ctx context.Context, req *joulev1.ListCorrectionsRequest) (*joulev1.ListCorrectionsResponse, error) {
	return answer(ctx, s, "ListCorrections", req, func() *joulev1.ListCorrectionsResponse {
		return &joulev1.ListCorrectionsResponse{Corrections: []*joulev1.Correction{{Id: 1, LeaseId: 2, Entry: 30, UnixMs: start, Operator: "alice", Why: "metered twice",
			Legs: []*joulev1.CorrectionLeg{{From: joulev1.Party_PARTY_SUPPLIER, To: joulev1.Party_PARTY_TREASURY, Currency: joule, Amount: 1_500_000_000}, {From: joulev1.Party_PARTY_TREASURY, To: joulev1.Party_PARTY_CUSTOMER, Currency: usd, Amount: 80_000_000}}}}, More: req.PageSize == 1}
	})
}

// GetBudget implements the API.
func (s *Server) GetBudget(ctx context.Context, req *joulev1.GetBudgetRequest) (*joulev1.GetBudgetResponse, error) {
	return answer(ctx, s, "GetBudget", req, func() *joulev1.GetBudgetResponse {
		return &joulev1.GetBudgetResponse{Customer: req.Customer, Job: req.Job, ChargedNusd: 1_780_360, HeldNusd: 15_000_000, BudgetNusd: 25_000_000_000, LeftNusd: 24_983_219_640, Leases: 3, OpenLeases: 1}
	})
}
