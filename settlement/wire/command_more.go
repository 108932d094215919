package wire

import "github.com/joulecloud/joule/settlement/ledger"

// appendLaterCommand appends the fields of the kinds from ProposeRate on; ok is
// false for another one.
func appendLaterCommand(dst []byte, cmd ledger.Command) (_ []byte, ok bool) {
	switch c := cmd.(type) {
	case *ledger.ProposeRate:
		dst = appendI64(dst, int64(c.NUSDPerJoule))
	case *ledger.OverrideRate:
		dst = appendU32(dst, uint32(c.Rate))
		dst = appendU64(dst, c.ForMs)
		dst = appendStr(dst, c.Operator)
		dst = appendStr(dst, c.Why)
	case *ledger.SetRateGuard:
		dst = appendGuard(dst, &c.RateGuard)
	case *ledger.RequestWithdrawal:
		dst = append(dst, byte(c.Party))
		dst = appendStr(dst, c.Name)
		dst = append(dst, byte(c.Currency))
		dst = appendI64(dst, c.Amount)
		dst = appendStr(dst, c.To)
	case *ledger.ConfirmWithdrawal:
		dst = appendU32(dst, uint32(c.Withdrawal))
		dst = appendStr(dst, c.Ref)
	case *ledger.FailWithdrawal:
		dst = appendU32(dst, uint32(c.Withdrawal))
		dst = appendStr(dst, c.Why)
	case *ledger.Correct:
		dst = appendU64(dst, uint64(c.Lease))
		dst = appendU64(dst, c.Entry)
		dst = appendLegs(dst, c.Legs)
		dst = appendStr(dst, c.Operator)
		dst = appendStr(dst, c.Why)
	case *ledger.SetStakePolicy:
		dst = appendStakePolicy(dst, &c.StakePolicy)
	case *ledger.Bond:
		dst = appendStr(dst, c.Supplier)
		dst = appendI64(dst, int64(c.Amount))
		dst = append(dst, byte(c.From))
		dst = appendStr(dst, c.Ref)
	case *ledger.Unbond:
		dst = appendStr(dst, c.Supplier)
		dst = appendI64(dst, int64(c.Amount))
	case *ledger.SetFineSchedule:
		dst = appendSchedule(dst, &c.FineSchedule)
	case *ledger.IssueFine:
		dst = appendCase(dst, &c.FineCase)
	case *ledger.ProposeFine:
		dst = appendCase(dst, &c.FineCase)
		dst = appendStr(dst, c.Operator)
		dst = appendStr(dst, c.Why)
	case *ledger.ApproveFine:
		dst = appendU32(dst, uint32(c.Fine))
		dst = appendStr(dst, c.Operator)
	case *ledger.AppealFine:
		dst = appendU32(dst, uint32(c.Fine))
		dst = appendStr(dst, c.Supplier)
		dst = appendStr(dst, c.Why)
	case *ledger.VoidFine:
		dst = appendU32(dst, uint32(c.Fine))
		dst = appendStr(dst, c.Operator)
		dst = appendStr(dst, c.Why)
	case *ledger.BuyStake:
		dst = appendStr(dst, c.Supplier)
		dst = appendI64(dst, int64(c.Paid))
		dst = appendStr(dst, c.Ref)
	case *ledger.RetireHost:
		dst = appendStr(dst, c.Host)
	case *ledger.Tick:
	default:
		return dst, false
	}
	return dst, true
}

// laterCommand decodes the fields of a kind from ProposeRate on; nil for
// another one.
func (d *decoder) laterCommand(kind ledger.CommandKind) ledger.Command {
	switch kind {
	case ledger.KindProposeRate:
		return &ledger.ProposeRate{NUSDPerJoule: ledger.NUSD(d.i64("nusd_per_joule"))}
	case ledger.KindOverrideRate:
		return &ledger.OverrideRate{Rate: ledger.RateID(d.u32("rate")), ForMs: d.u64("for_ms"),
			Operator: d.str("operator"), Why: d.str("why")}
	case ledger.KindSetRateGuard:
		return &ledger.SetRateGuard{RateGuard: d.guard()}
	case ledger.KindRequestWithdrawal:
		return &ledger.RequestWithdrawal{Party: ledger.Party(d.u8("party")), Name: d.str("name"),
			Currency: ledger.Currency(d.u8("currency")), Amount: d.i64("amount"), To: d.str("to")}
	case ledger.KindConfirmWithdrawal:
		return &ledger.ConfirmWithdrawal{Withdrawal: ledger.WithdrawalID(d.u32("withdrawal")), Ref: d.str("ref")}
	case ledger.KindFailWithdrawal:
		return &ledger.FailWithdrawal{Withdrawal: ledger.WithdrawalID(d.u32("withdrawal")), Why: d.str("why")}
	case ledger.KindCorrect:
		return &ledger.Correct{Lease: ledger.LeaseID(d.u64("lease")), Entry: d.u64("entry"), Legs: d.legs(),
			Operator: d.str("operator"), Why: d.str("why")}
	case ledger.KindSetStakePolicy:
		return &ledger.SetStakePolicy{StakePolicy: d.stakePolicy()}
	case ledger.KindBond:
		return &ledger.Bond{Supplier: d.str("supplier"), Amount: ledger.NJ(d.i64("amount")),
			From: ledger.BondSource(d.u8("from")), Ref: d.str("ref")}
	case ledger.KindUnbond:
		return &ledger.Unbond{Supplier: d.str("supplier"), Amount: ledger.NJ(d.i64("amount"))}
	case ledger.KindSetFineSchedule:
		return &ledger.SetFineSchedule{FineSchedule: d.schedule()}
	case ledger.KindIssueFine:
		return &ledger.IssueFine{FineCase: d.fineCase()}
	case ledger.KindProposeFine:
		return &ledger.ProposeFine{FineCase: d.fineCase(), Operator: d.str("operator"), Why: d.str("why")}
	case ledger.KindApproveFine:
		return &ledger.ApproveFine{Fine: ledger.FineID(d.u32("fine")), Operator: d.str("operator")}
	case ledger.KindAppealFine:
		return &ledger.AppealFine{Fine: ledger.FineID(d.u32("fine")), Supplier: d.str("supplier"), Why: d.str("why")}
	case ledger.KindVoidFine:
		return &ledger.VoidFine{Fine: ledger.FineID(d.u32("fine")), Operator: d.str("operator"), Why: d.str("why")}
	case ledger.KindBuyStake:
		return &ledger.BuyStake{Supplier: d.str("supplier"), Paid: ledger.NUSD(d.i64("paid")), Ref: d.str("ref")}
	case ledger.KindRetireHost:
		return &ledger.RetireHost{Host: d.str("host")}
	case ledger.KindTick:
		return &ledger.Tick{}
	}
	return nil
}

func appendGuard(dst []byte, g *ledger.RateGuard) []byte {
	dst = appendU64(dst, g.MaxAgeMs)
	dst = appendU32(dst, g.DeviationPPM)
	return appendU64(dst, g.WindowMs)
}

func (d *decoder) guard() ledger.RateGuard {
	return ledger.RateGuard{MaxAgeMs: d.u64("max_age_ms"), DeviationPPM: d.u32("deviation_ppm"), WindowMs: d.u64("window_ms")}
}

func appendStakePolicy(dst []byte, p *ledger.StakePolicy) []byte {
	dst = appendI64(dst, int64(p.BasePerHost))
	dst = appendU32(dst, p.FactorPPM)
	return appendU64(dst, p.UnbondMs)
}

func (d *decoder) stakePolicy() ledger.StakePolicy {
	return ledger.StakePolicy{BasePerHost: ledger.NJ(d.i64("base_per_host")), FactorPPM: d.u32("factor_ppm"), UnbondMs: d.u64("unbond_ms")}
}

const legSize = 1 + 1 + 1 + 8

func appendLegs(dst []byte, legs []ledger.CorrectionLeg) []byte {
	dst = appendU32(dst, uint32(len(legs)))
	for _, l := range legs {
		dst = append(dst, byte(l.From), byte(l.To), byte(l.Currency))
		dst = appendI64(dst, l.Amount)
	}
	return dst
}

func (d *decoder) legs() []ledger.CorrectionLeg {
	return decodeList(d, "legs", legSize, func(l *ledger.CorrectionLeg) {
		*l = ledger.CorrectionLeg{From: ledger.Party(d.u8("from")), To: ledger.Party(d.u8("to")),
			Currency: ledger.Currency(d.u8("currency")), Amount: d.i64("amount")}
	})
}

const fineRuleSize = 1 + 4 + 4 + 4 + 8

func appendSchedule(dst []byte, s *ledger.FineSchedule) []byte {
	dst = appendU64(dst, s.AppealMs)
	dst = appendU64(dst, s.RepeatMs)
	dst = appendU32(dst, s.DayCapPPM)
	dst = appendU32(dst, uint32(len(s.Rules)))
	for i := range s.Rules {
		r := &s.Rules[i]
		dst = append(dst, byte(r.Reason))
		dst = appendU32(dst, r.SharePPM)
		dst = appendU32(dst, r.Grace)
		dst = appendU32(dst, r.RepeatPPM)
		dst = appendU64(dst, r.RemedyMs)
	}
	return dst
}

func (d *decoder) schedule() ledger.FineSchedule {
	return ledger.FineSchedule{AppealMs: d.u64("appeal_ms"), RepeatMs: d.u64("repeat_ms"), DayCapPPM: d.u32("day_cap_ppm"),
		Rules: decodeList(d, "rules", fineRuleSize, func(r *ledger.FineRule) {
			*r = ledger.FineRule{Reason: ledger.FineReason(d.u8("reason")), SharePPM: d.u32("share_ppm"),
				Grace: d.u32("grace"), RepeatPPM: d.u32("repeat_ppm"), RemedyMs: d.u64("remedy_ms")}
		})}
}

func appendCase(dst []byte, c *ledger.FineCase) []byte {
	dst = appendStr(dst, c.Supplier)
	dst = appendU64(dst, uint64(c.Lease))
	dst = append(dst, byte(c.Reason))
	return appendEvidence(dst, c.Evidence)
}

func (d *decoder) fineCase() ledger.FineCase {
	return ledger.FineCase{Supplier: d.str("supplier"), Lease: ledger.LeaseID(d.u64("lease")),
		Reason: ledger.FineReason(d.u8("reason")), Evidence: d.evidence()}
}

const evidenceSize = 8 + 16

func appendEvidence(dst []byte, list []ledger.Evidence) []byte {
	dst = appendU32(dst, uint32(len(list)))
	for i := range list {
		dst = appendU64(dst, list[i].Entry)
		dst = append(dst, list[i].Hash[:]...)
	}
	return dst
}

func (d *decoder) evidence() []ledger.Evidence {
	return decodeList(d, "evidence", evidenceSize, func(e *ledger.Evidence) {
		e.Entry = d.u64("entry")
		copy(e.Hash[:], d.take("hash", len(e.Hash)))
	})
}

// decodeList reads a count and so many elements of at least size bytes each; no
// elements give nil.
func decodeList[T any](d *decoder, what string, size int, decode func(*T)) []T {
	n := d.count(what, size)
	if n == 0 {
		return nil
	}
	list := make([]T, n)
	d.push(what)
	for i := 0; i < n && d.err == nil; i++ {
		d.at(i)
		decode(&list[i])
	}
	d.pop()
	return list
}
