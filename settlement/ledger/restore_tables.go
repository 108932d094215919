package ledger

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// stateOfTables adds the tables that stand after the leases in a ledger's life.
func (l *Ledger) stateOfTables(st *State) {
	st.InForce, st.Paused, st.PausedSince = l.inForce, l.pause, l.pauseSince
	st.OverrideRate, st.OverrideUntil, st.ConvertNext = l.override.rate, l.override.until, l.convertNext
	st.Withdrawing, st.Escrow = l.withdrawing, l.escrow
	st.Withdrawals, st.Corrections = rowsOf(&l.withdrawals), rowsOf(&l.corrections)
	st.Unbondings, st.Fines, st.Offences = rowsOf(&l.unbondings), rowsOf(&l.fines), rowsOf(&l.offences)
	st.Marks = slices.Clone(l.marks)
}

// rowsOf copies a table.
func rowsOf[T any, P page[T]](s *slab[T, P]) []T {
	rows := make([]T, 0, s.len())
	for _, row := range s.all() {
		rows = append(rows, *row)
	}
	return rows
}

func (p *Policy) validate() error {
	for _, check := range []func() (Result, bool){p.Guard.validate, p.Stake.validate, p.Fines.validate} {
		if res, ok := check(); !ok {
			return errors.New(res.Msg)
		}
	}
	if p.FeePPM > FeePPMMax || p.SliceMs == 0 || p.SliceMs > SliceMsMax {
		return fmt.Errorf("fee_ppm %d or slice_ms %d out of range", p.FeePPM, p.SliceMs)
	}
	return nil
}

func (l *Ledger) restoreRates(st *State) error {
	for i, r := range st.Rates {
		if r.ID != RateID(i+1) || r.NUSDPerJoule <= 0 || r.Average < 0 || r.Set < 0 || r.Set > st.Now || i > 0 && r.Set < st.Rates[i-1].Set {
			return fmt.Errorf("restore rate %d: %+v", i+1, r)
		}
	}
	n := RateID(len(st.Rates))
	if st.InForce > n || n > 0 && st.InForce == 0 || st.OverrideRate > n || st.Paused > PauseDoubtful ||
		st.PausedSince < 0 || st.PausedSince > st.Now || n == 0 && st.Paused != PauseNone {
		return fmt.Errorf("restore rates: %d in force of %d, %d overridden, paused %d since %d", st.InForce, n, st.OverrideRate, st.Paused, st.PausedSince)
	}
	l.rates = append(l.rates, st.Rates...)
	l.inForce, l.pause, l.pauseSince = st.InForce, st.Paused, st.PausedSince
	l.override, l.convertNext = override{rate: st.OverrideRate, until: st.OverrideUntil}, st.ConvertNext
	return nil
}

// restoreTables restores what follows on leases and parties.
func (l *Ledger) restoreTables(st *State) error {
	for i := range st.Withdrawals {
		if err := l.restoreWithdrawal(WithdrawalID(i+1), &st.Withdrawals[i]); err != nil {
			return err
		}
	}
	for i := range st.Corrections {
		if err := l.restoreCorrection(CorrectionID(i+1), &st.Corrections[i]); err != nil {
			return err
		}
	}
	for i, u := range st.Unbondings {
		s, ok := rowOf(&l.suppliers, u.Supplier)
		if u.ID != UnbondingID(i+1) || !ok || s.unbonding == 0 || u.Amount < 0 || u.Started < 0 || u.Matures < u.Started {
			return fmt.Errorf("restore unbonding %d: %+v", i+1, u)
		}
		_, row := l.unbondings.add()
		if *row = u; !u.Ended {
			l.linkUnbonding(row)
		}
	}
	for i := range st.Fines {
		if err := l.restoreFine(FineID(i+1), &st.Fines[i]); err != nil {
			return err
		}
	}
	for i := range st.Offences {
		o := &st.Offences[i]
		if _, dup := l.offenceIndex[offenceKey{o.Lease, o.Reason}]; dup || o.Lease == 0 || o.Lease > l.LeaseCount() ||
			o.Fine != 0 || o.Evidence.Entry == 0 || o.Evidence.Entry > st.EntryCount {
			return fmt.Errorf("restore offence %d: %+v", i+1, *o)
		}
		l.addOffence(o)
	}
	for i, m := range st.Marks {
		if m.At < 0 || m.At > st.Now || m.Entries > st.EntryCount || i > 0 && (m.At <= st.Marks[i-1].At || m.Entries < st.Marks[i-1].Entries) {
			return fmt.Errorf("restore mark %d: %+v", i+1, m)
		}
	}
	l.marks = slices.Clone(st.Marks)
	return nil
}

func (l *Ledger) restoreWithdrawal(id WithdrawalID, w *Withdrawal) error {
	payer, ok := l.Account(w.Account)
	if !ok || w.ID != id || payer.Currency != w.Currency || l.withdrawing[w.Currency-1] == 0 ||
		w.Amount <= 0 || w.State < WithdrawalOpen || w.State > WithdrawalFailed {
		return fmt.Errorf("restore withdrawal %d: %+v", id, *w)
	}
	_, row := l.withdrawals.add()
	*row = *w
	return nil
}

func (l *Ledger) restoreCorrection(id CorrectionID, c *Correction) error {
	again := Correct{Lease: c.Lease, Entry: c.Corrects, Legs: c.Legs, Operator: c.Operator, Why: c.Why}
	if res, ok := again.validate(); !ok || c.ID != id || c.Lease == 0 || c.Lease > l.LeaseCount() {
		return fmt.Errorf("restore correction %d: %+v: %s", id, *c, res.Msg)
	}
	// What was allowed when it was made need not be the bound of today: only
	// the sums themselves matter.
	le := *l.leases.get(int(c.Lease))
	le.Charged, le.Paid, le.Fee = math.MaxInt64, math.MaxInt64, 0
	sums := l.corrected[c.Lease]
	for i := range c.Legs {
		if !sums.add(&c.Legs[i], &le) {
			return fmt.Errorf("restore correction %d: %+v", id, *c)
		}
	}
	l.corrected[c.Lease] = sums
	_, row := l.corrections.add()
	*row = *c
	return nil
}

func (l *Ledger) restoreFine(id FineID, f *Fine) error {
	p := &f.Plan
	_, ok := rowOf(&l.suppliers, p.Supplier)
	for _, part := range f.Parts {
		u, known := l.Unbonding(part.Unbonding)
		ok = ok && known && u.Supplier == p.Supplier && part.Amount > 0
	}
	switch {
	case !ok, f.ID != id, f.State < FineProposedState, f.State > FineLapsed, !f.issued() && f.Issued != 0, f.Issued < 0, f.Issued > l.now,
		f.Case.Lease > l.LeaseCount(), p.Customer > l.CustomerCount(), p.Remedy > 0 && p.Customer == 0,
		min(p.FromEarnings, p.FromStake, p.FromUnbonding, p.Remedy) < 0,
		p.FromEarnings > JouleSupplyMax, p.FromStake > JouleSupplyMax-p.FromEarnings,
		p.FromUnbonding > JouleSupplyMax-p.FromEarnings-p.FromStake, p.Remedy > p.Taken():
		return fmt.Errorf("restore fine %d: %+v", id, *f)
	}
	var ck check
	if f.Case.validate(&ck); ck.msg != "" {
		return fmt.Errorf("restore fine %d: %s", id, ck.msg)
	}
	_, row := l.fines.add()
	*row = *f
	if f.issued() {
		l.linkFine(row)
	}
	if f.State <= FineAppealed {
		l.due.push(dueItem{at: f.Ends, kind: dueFine, id: uint32(id)})
	}
	return nil
}
