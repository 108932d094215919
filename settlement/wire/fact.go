package wire

import "github.com/joulecloud/joule/settlement/ledger"

// appendLaterFact appends the fields of the facts from RateProposed on; kind is
// that of the fact, 0 for another one.
func appendLaterFact(dst []byte, fact ledger.Fact) (_ []byte, kind ledger.EntryKind) {
	switch f := fact.(type) {
	case *ledger.RateProposed:
		dst = appendU32(dst, uint32(f.ID))
		dst = appendI64(dst, int64(f.NUSDPerJoule))
		dst = appendI64(dst, int64(f.Average))
		return appendBool(dst, f.Doubtful), ledger.EntryRateProposed
	case *ledger.RateOverridden:
		dst = appendU32(dst, uint32(f.Rate))
		dst = appendI64(dst, int64(f.Until))
		dst = appendStr(dst, f.Operator)
		return appendStr(dst, f.Why), ledger.EntryRateOverridden
	case *ledger.ConversionChanged:
		dst = append(dst, byte(f.Paused))
		return appendU32(dst, uint32(f.Rate)), ledger.EntryConversion
	case *ledger.RateGuardSet:
		return appendGuard(dst, &f.RateGuard), ledger.EntryRateGuard
	case *ledger.WithdrawalRequested:
		dst = appendU32(dst, uint32(f.ID))
		dst = appendU32(dst, uint32(f.Account))
		dst = append(dst, byte(f.Currency))
		dst = appendI64(dst, f.Amount)
		return appendStr(dst, f.To), ledger.EntryWithdrawal
	case *ledger.WithdrawalEnded:
		dst = appendU32(dst, uint32(f.ID))
		dst = appendBool(dst, f.Confirmed)
		return appendStr(dst, f.Text), ledger.EntryWithdrawalEnded
	case *ledger.CorrectionMade:
		dst = appendU32(dst, uint32(f.ID))
		dst = appendU64(dst, uint64(f.Lease))
		dst = appendU64(dst, f.Corrects)
		dst = appendU32(dst, f.Legs)
		dst = appendStr(dst, f.Operator)
		return appendStr(dst, f.Why), ledger.EntryCorrection
	case *ledger.StakePolicySet:
		return appendStakePolicy(dst, &f.StakePolicy), ledger.EntryStakePolicy
	case *ledger.UnbondingStarted:
		dst = appendU32(dst, uint32(f.ID))
		dst = appendU32(dst, uint32(f.Supplier))
		dst = appendI64(dst, int64(f.Amount))
		return appendI64(dst, int64(f.Matures)), ledger.EntryUnbonding
	case *ledger.UnbondingEnded:
		dst = appendU32(dst, uint32(f.ID))
		return appendI64(dst, int64(f.Amount)), ledger.EntryUnbondingEnded
	case *ledger.FineScheduleSet:
		return appendSchedule(dst, &f.FineSchedule), ledger.EntryFineSchedule
	case *ledger.FineProposed:
		dst = appendU32(dst, uint32(f.ID))
		dst = appendU32(dst, uint32(f.Supplier))
		dst = appendU64(dst, uint64(f.Lease))
		dst = append(dst, byte(f.Reason))
		dst = appendEvidence(dst, f.Evidence)
		dst = appendStr(dst, f.Operator)
		dst = appendStr(dst, f.Why)
		return appendI64(dst, int64(f.LapsesAt)), ledger.EntryFineProposed
	case *ledger.FineIssued:
		dst = appendU32(dst, uint32(f.ID))
		dst = appendPlan(dst, &f.Plan)
		dst = appendEvidence(dst, f.Evidence)
		return appendStr(dst, f.Approved), ledger.EntryFineIssued
	case *ledger.FineChanged:
		dst = appendU32(dst, uint32(f.ID))
		dst = append(dst, byte(f.State))
		dst = appendStr(dst, f.By)
		dst = appendStr(dst, f.Why)
		return appendI64(dst, int64(f.FinalAt)), ledger.EntryFineChanged
	case *ledger.StakeBought:
		dst = appendU32(dst, uint32(f.Supplier))
		dst = appendI64(dst, int64(f.Paid))
		dst = appendI64(dst, int64(f.Amount))
		return appendU32(dst, uint32(f.Rate)), ledger.EntryStakeBought
	case *ledger.HostRetired:
		return appendU32(dst, uint32(f.ID)), ledger.EntryHostRetired
	}
	return dst, 0
}

// laterFact decodes the fields of a fact from RateProposed on; nil for another
// kind.
func (d *decoder) laterFact(kind ledger.EntryKind) ledger.Fact {
	switch kind {
	case ledger.EntryRateProposed:
		return &ledger.RateProposed{ID: ledger.RateID(d.u32("id")), NUSDPerJoule: ledger.NUSD(d.i64("nusd_per_joule")),
			Average: ledger.NUSD(d.i64("average")), Doubtful: d.bool("doubtful")}
	case ledger.EntryRateOverridden:
		return &ledger.RateOverridden{Rate: ledger.RateID(d.u32("rate")), Until: ledger.Time(d.i64("until")),
			Operator: d.str("operator"), Why: d.str("why")}
	case ledger.EntryConversion:
		return &ledger.ConversionChanged{Paused: ledger.PauseReason(d.u8("paused")), Rate: ledger.RateID(d.u32("rate"))}
	case ledger.EntryRateGuard:
		return &ledger.RateGuardSet{RateGuard: d.guard()}
	case ledger.EntryWithdrawal:
		return &ledger.WithdrawalRequested{ID: ledger.WithdrawalID(d.u32("id")), Account: ledger.AccountID(d.u32("account")),
			Currency: ledger.Currency(d.u8("currency")), Amount: d.i64("amount"), To: d.str("to")}
	case ledger.EntryWithdrawalEnded:
		return &ledger.WithdrawalEnded{ID: ledger.WithdrawalID(d.u32("id")), Confirmed: d.bool("confirmed"), Text: d.str("text")}
	case ledger.EntryCorrection:
		return &ledger.CorrectionMade{ID: ledger.CorrectionID(d.u32("id")), Lease: ledger.LeaseID(d.u64("lease")),
			Corrects: d.u64("corrects"), Legs: d.u32("legs"), Operator: d.str("operator"), Why: d.str("why")}
	case ledger.EntryStakePolicy:
		return &ledger.StakePolicySet{StakePolicy: d.stakePolicy()}
	case ledger.EntryUnbonding:
		return &ledger.UnbondingStarted{ID: ledger.UnbondingID(d.u32("id")), Supplier: ledger.SupplierID(d.u32("supplier")),
			Amount: ledger.NJ(d.i64("amount")), Matures: ledger.Time(d.i64("matures"))}
	case ledger.EntryUnbondingEnded:
		return &ledger.UnbondingEnded{ID: ledger.UnbondingID(d.u32("id")), Amount: ledger.NJ(d.i64("amount"))}
	case ledger.EntryFineSchedule:
		return &ledger.FineScheduleSet{FineSchedule: d.schedule()}
	case ledger.EntryFineProposed:
		return &ledger.FineProposed{ID: ledger.FineID(d.u32("id")), Supplier: ledger.SupplierID(d.u32("supplier")),
			Lease: ledger.LeaseID(d.u64("lease")), Reason: ledger.FineReason(d.u8("reason")), Evidence: d.evidence(),
			Operator: d.str("operator"), Why: d.str("why"), LapsesAt: ledger.Time(d.i64("lapses_at"))}
	case ledger.EntryFineIssued:
		return &ledger.FineIssued{ID: ledger.FineID(d.u32("id")), Plan: d.plan(), Evidence: d.evidence(), Approved: d.str("approved")}
	case ledger.EntryFineChanged:
		return &ledger.FineChanged{ID: ledger.FineID(d.u32("id")), State: ledger.FineState(d.u8("state")),
			By: d.str("by"), Why: d.str("why"), FinalAt: ledger.Time(d.i64("final_at"))}
	case ledger.EntryStakeBought:
		return &ledger.StakeBought{Supplier: ledger.SupplierID(d.u32("supplier")), Paid: ledger.NUSD(d.i64("paid")),
			Amount: ledger.NJ(d.i64("amount")), Rate: ledger.RateID(d.u32("rate"))}
	case ledger.EntryHostRetired:
		return &ledger.HostRetired{ID: ledger.HostID(d.u32("id"))}
	}
	return nil
}

func appendPlan(dst []byte, p *ledger.FinePlan) []byte {
	dst = appendU32(dst, uint32(p.Supplier))
	dst = appendU64(dst, uint64(p.Lease))
	dst = appendU32(dst, uint32(p.Customer))
	dst = append(dst, byte(p.Reason))
	dst = appendI64(dst, int64(p.Required))
	dst = appendU32(dst, p.Prior)
	for _, v := range []ledger.NJ{p.Schedule, p.Amount, p.FromEarnings, p.FromStake, p.FromUnbonding, p.Remedy} {
		dst = appendI64(dst, int64(v))
	}
	return appendI64(dst, int64(p.FinalAt))
}

func (d *decoder) plan() ledger.FinePlan {
	return ledger.FinePlan{Supplier: ledger.SupplierID(d.u32("supplier")), Lease: ledger.LeaseID(d.u64("lease")),
		Customer: ledger.CustomerID(d.u32("customer")), Reason: ledger.FineReason(d.u8("reason")),
		Required: ledger.NJ(d.i64("required")), Prior: d.u32("prior"), Schedule: ledger.NJ(d.i64("schedule")),
		Amount: ledger.NJ(d.i64("amount")), FromEarnings: ledger.NJ(d.i64("from_earnings")), FromStake: ledger.NJ(d.i64("from_stake")),
		FromUnbonding: ledger.NJ(d.i64("from_unbonding")), Remedy: ledger.NJ(d.i64("remedy")), FinalAt: ledger.Time(d.i64("final_at"))}
}
