package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/ledger"
)

// GetPolicy implements SettlementServiceHandler.
func (s *Server) GetPolicy(ctx context.Context, _ *joulev1.GetPolicyRequest) (*joulev1.GetPolicyResponse, error) {
	out := &joulev1.GetPolicyResponse{}
	return out, s.node.Read(ctx, func(l *ledger.Ledger) error {
		p := l.Policy()
		out.FeePpm, out.SliceMs = p.FeePPM, p.SliceMs
		out.Guard = &joulev1.RateGuard{MaxAgeMs: p.Guard.MaxAgeMs, DeviationPpm: p.Guard.DeviationPPM, WindowMs: p.Guard.WindowMs}
		out.Stake = &joulev1.StakePolicy{BasePerHostNj: int64(p.Stake.BasePerHost), FactorPpm: p.Stake.FactorPPM, UnbondMs: p.Stake.UnbondMs}
		out.Fines = &joulev1.FineSchedule{AppealMs: p.Fines.AppealMs, RepeatMs: p.Fines.RepeatMs, DayCapPpm: p.Fines.DayCapPPM}
		for _, r := range p.Fines.Rules {
			out.Fines.Rules = append(out.Fines.Rules, &joulev1.FineRule{Reason: r.Reason.String(), SharePpm: r.SharePPM,
				Grace: r.Grace, RepeatPpm: r.RepeatPPM, RemedyMs: r.RemedyMs})
		}
		return nil
	})
}

// SetRateGuard implements SettlementServiceHandler.
func (s *Server) SetRateGuard(ctx context.Context, r *joulev1.SetRateGuardRequest) (*joulev1.SetRateGuardResponse, error) {
	if r.Guard == nil {
		return nil, invalid("guard: required")
	}
	_, err := s.submit(ctx, r.Key, &ledger.SetRateGuard{RateGuard: ledger.RateGuard{MaxAgeMs: r.Guard.MaxAgeMs,
		DeviationPPM: r.Guard.DeviationPpm, WindowMs: r.Guard.WindowMs}})
	return &joulev1.SetRateGuardResponse{}, err
}

// SetStakePolicy implements SettlementServiceHandler.
func (s *Server) SetStakePolicy(ctx context.Context, r *joulev1.SetStakePolicyRequest) (*joulev1.SetStakePolicyResponse, error) {
	if r.Policy == nil {
		return nil, invalid("policy: required")
	}
	_, err := s.submit(ctx, r.Key, &ledger.SetStakePolicy{StakePolicy: ledger.StakePolicy{
		BasePerHost: ledger.NJ(r.Policy.BasePerHostNj), FactorPPM: r.Policy.FactorPpm, UnbondMs: r.Policy.UnbondMs}})
	return &joulev1.SetStakePolicyResponse{}, err
}

// SetFineSchedule implements SettlementServiceHandler.
func (s *Server) SetFineSchedule(ctx context.Context, r *joulev1.SetFineScheduleRequest) (*joulev1.SetFineScheduleResponse, error) {
	if r.Schedule == nil {
		return nil, invalid("schedule: required")
	}
	cmd := &ledger.SetFineSchedule{FineSchedule: ledger.FineSchedule{AppealMs: r.Schedule.AppealMs,
		RepeatMs: r.Schedule.RepeatMs, DayCapPPM: r.Schedule.DayCapPpm}}
	if len(r.Schedule.Rules) > len(fineReasons) {
		return nil, invalid("schedule.rules: at most %d, got %d", len(fineReasons), len(r.Schedule.Rules))
	}
	for i, rule := range r.Schedule.Rules {
		reason, err := fineReason(fmt.Sprintf("schedule.rules[%d].reason", i), rule.GetReason())
		if err != nil {
			return nil, err
		}
		cmd.Rules = append(cmd.Rules, ledger.FineRule{Reason: reason, SharePPM: rule.GetSharePpm(), Grace: rule.GetGrace(),
			RepeatPPM: rule.GetRepeatPpm(), RemedyMs: rule.GetRemedyMs()})
	}
	slices.SortFunc(cmd.Rules, func(a, b ledger.FineRule) int { return cmp.Compare(a.Reason, b.Reason) })
	_, err := s.submit(ctx, r.Key, cmd)
	return &joulev1.SetFineScheduleResponse{}, err
}

// OverrideRate implements SettlementServiceHandler.
func (s *Server) OverrideRate(ctx context.Context, r *joulev1.OverrideRateRequest) (*joulev1.OverrideRateResponse, error) {
	cmd := &ledger.OverrideRate{Rate: ledger.RateID(r.RateId), ForMs: r.ForMs, Operator: operator(ctx), Why: r.Why}
	if _, err := s.submit(ctx, r.Key, cmd); err != nil {
		return nil, err
	}
	out := &joulev1.OverrideRateResponse{}
	return out, s.node.Read(ctx, func(l *ledger.Ledger) error {
		state, _ := l.RateState()
		out.UntilUnixMs = int64(state.OverrideUntil)
		return nil
	})
}

func apiRate(r *ledger.Rate) *joulev1.Rate {
	return &joulev1.Rate{Id: uint32(r.ID), NusdPerJoule: int64(r.NUSDPerJoule), SetUnixMs: int64(r.Set),
		Proposed: r.Proposed, Doubtful: r.Doubtful, AverageNusdPerJoule: int64(r.Average)}
}

// ListRates implements SettlementServiceHandler.
func (s *Server) ListRates(ctx context.Context, r *joulev1.ListRatesRequest) (*joulev1.ListRatesResponse, error) {
	limit, err := pageSize(r.PageSize)
	if err != nil {
		return nil, err
	}
	out := &joulev1.ListRatesResponse{State: &joulev1.RateState{}}
	return out, s.node.Read(ctx, func(l *ledger.Ledger) error {
		if state, ok := l.RateState(); ok {
			out.State = &joulev1.RateState{Newest: apiRate(&state.Newest), Paused: pauseName(state.Paused),
				SinceUnixMs: int64(state.Since), OverrideUntilUnixMs: int64(state.OverrideUntil)}
			if state.InForce.ID != 0 {
				out.State.InForce = apiRate(&state.InForce)
			}
		}
		id := l.RateCount()
		if r.BeforeId != 0 {
			id = min(id, ledger.RateID(r.BeforeId-1))
		}
		for ; id > 0; id-- {
			if len(out.Rates) == limit {
				out.More = true
				return nil
			}
			if rate, ok := l.RateByID(id); ok {
				out.Rates = append(out.Rates, apiRate(&rate))
			}
		}
		return nil
	})
}

func pauseName(p ledger.PauseReason) string {
	switch p {
	case ledger.PauseNone:
		return ""
	case ledger.PauseStale:
		return "stale"
	case ledger.PauseDoubtful:
		return "doubtful"
	}
	return fmt.Sprintf("pause %d", p)
}
