package ledger

// later covers the commands from ProposeRate on but Tick, which has no key; false for a foreign type.
func (w *inputWriter) later(cmd Command) bool {
	switch c := cmd.(type) {
	case *ProposeRate:
		w.num(uint64(c.NUSDPerJoule))
	case *OverrideRate:
		w.num(uint64(c.Rate))
		w.num(c.ForMs)
		w.str(c.Operator)
		w.str(c.Why)
	case *SetRateGuard:
		w.num(c.MaxAgeMs)
		w.num(uint64(c.DeviationPPM))
		w.num(c.WindowMs)
	case *RequestWithdrawal:
		w.num(uint64(c.Party))
		w.str(c.Name)
		w.num(uint64(c.Currency))
		w.num(uint64(c.Amount))
		w.str(c.To)
	case *ConfirmWithdrawal:
		w.num(uint64(c.Withdrawal))
		w.str(c.Ref)
	case *FailWithdrawal:
		w.num(uint64(c.Withdrawal))
		w.str(c.Why)
	case *Correct:
		w.num(uint64(c.Lease))
		w.num(c.Entry)
		w.num(uint64(len(c.Legs)))
		for _, leg := range c.Legs {
			w.num(uint64(leg.From))
			w.num(uint64(leg.To))
			w.num(uint64(leg.Currency))
			w.num(uint64(leg.Amount))
		}
		w.str(c.Operator)
		w.str(c.Why)
	case *SetStakePolicy:
		w.num(uint64(c.BasePerHost))
		w.num(uint64(c.FactorPPM))
		w.num(c.UnbondMs)
	case *Bond:
		w.str(c.Supplier)
		w.num(uint64(c.Amount))
		w.num(uint64(c.From))
		w.str(c.Ref)
	case *BuyStake:
		w.str(c.Supplier)
		w.num(uint64(c.Paid))
		w.str(c.Ref)
	case *RetireHost:
		w.str(c.Host)
	case *Unbond:
		w.str(c.Supplier)
		w.num(uint64(c.Amount))
	case *SetFineSchedule:
		w.num(c.AppealMs)
		w.num(c.RepeatMs)
		w.num(uint64(c.DayCapPPM))
		w.num(uint64(len(c.Rules)))
		for _, r := range c.Rules {
			for _, v := range []uint64{uint64(r.Reason), uint64(r.SharePPM), uint64(r.Grace), uint64(r.RepeatPPM), r.RemedyMs} {
				w.num(v)
			}
		}
	case *IssueFine:
		w.fineCase(&c.FineCase)
	case *ProposeFine:
		w.fineCase(&c.FineCase)
		w.str(c.Operator)
		w.str(c.Why)
	case *ApproveFine:
		w.num(uint64(c.Fine))
		w.str(c.Operator)
	case *AppealFine:
		w.num(uint64(c.Fine))
		w.str(c.Supplier)
		w.str(c.Why)
	case *VoidFine:
		w.num(uint64(c.Fine))
		w.str(c.Operator)
		w.str(c.Why)
	default:
		return false
	}
	return true
}

func (w *inputWriter) fineCase(c *FineCase) {
	w.str(c.Supplier)
	w.num(uint64(c.Lease))
	w.num(uint64(c.Reason))
	w.num(uint64(len(c.Evidence)))
	for _, e := range c.Evidence {
		w.num(e.Entry)
		*w = append(*w, e.Hash[:]...)
	}
}

func (l *Ledger) dispatchLater(cmd Command) (_ Result, ok bool) {
	switch c := cmd.(type) {
	case *ProposeRate:
		return l.proposeRate(c), true
	case *OverrideRate:
		return l.overrideRate(c), true
	case *SetRateGuard:
		return l.setRateGuard(c), true
	case *RequestWithdrawal:
		return l.requestWithdrawal(c), true
	case *ConfirmWithdrawal:
		return l.confirmWithdrawal(c), true
	case *FailWithdrawal:
		return l.failWithdrawal(c), true
	case *Correct:
		return l.correct(c), true
	case *SetStakePolicy:
		return l.setStakePolicy(c), true
	case *Bond:
		return l.bond(c), true
	case *BuyStake:
		return l.buyStake(c), true
	case *RetireHost:
		return l.retireHost(c), true
	case *Unbond:
		return l.unbond(c), true
	case *SetFineSchedule:
		return l.setFineSchedule(c), true
	case *IssueFine:
		return l.issueFine(c), true
	case *ProposeFine:
		return l.proposeFine(c), true
	case *ApproveFine:
		return l.approveFine(c), true
	case *AppealFine:
		return l.appealFine(c), true
	case *VoidFine:
		return l.voidFine(c), true
	}
	return Result{}, false
}
