package ledger

import "fmt"

// verifyTables checks that what withdrawals, stakes and fines say is what their
// accounts hold.
func (l *Ledger) verifyTables() error {
	withdrawing := map[Currency]int64{}
	for _, w := range l.withdrawals.all() {
		if w.State == WithdrawalOpen {
			withdrawing[w.Currency] += w.Amount
		}
	}
	for _, cur := range []Currency{USD, JOULE} {
		if got := int64(l.balanceOr0(l.withdrawing[cur-1])); got != withdrawing[cur] {
			return fmt.Errorf("verify withdrawals: %d %s under way, the account has %d", withdrawing[cur], unit(cur), got)
		}
	}
	unbonding := make([]NJ, l.suppliers.len()+1)
	open := make([]int, l.suppliers.len()+1)
	for i, u := range l.unbondings.all() {
		if u.Amount < 0 {
			return fmt.Errorf("verify unbonding %d: %d nJ", i, u.Amount)
		}
		if !u.Ended {
			unbonding[u.Supplier] += u.Amount
			open[u.Supplier]++
		}
	}
	var escrow NJ
	fines := make([]int, l.suppliers.len()+1)
	for i, f := range l.fines.all() {
		var parts NJ
		for _, p := range f.Parts {
			parts += p.Amount
		}
		if p := &f.Plan; parts != p.FromUnbonding || p.Remedy > p.Taken() || p.Taken() > p.Amount && f.issued() {
			return fmt.Errorf("verify fine %d: parts of %d nJ in %+v", i, parts, f.Plan)
		}
		if f.State == FineInEscrow || f.State == FineAppealed {
			escrow += f.Plan.Taken()
		}
		if f.issued() {
			fines[f.Plan.Supplier]++
			for _, e := range f.Case.Evidence {
				if got := l.evidenceUsed[e.Entry]; got != f.ID {
					return fmt.Errorf("verify fine %d: its entry %d finds fine %d", i, e.Entry, got)
				}
			}
		}
	}
	if got := l.balanceOr0(l.escrow); got != escrow {
		return fmt.Errorf("verify fines: %d nJ in escrow, the account has %d", escrow, got)
	}
	for i, s := range l.suppliers.all() {
		haveOpen, haveFines := len(l.unbondingsOf[SupplierID(i)]), len(l.finesOf[SupplierID(i)])
		if got := l.balanceOr0(s.unbonding); got != unbonding[i] || haveOpen != open[i] || haveFines != fines[i] {
			return fmt.Errorf("verify supplier %q: %d unbondings of %d nJ and %d fines, want %d of %d and %d",
				l.supplierName(SupplierID(i)), haveOpen, got, haveFines, open[i], unbonding[i], fines[i])
		}
	}
	return l.verifyDue()
}

// verifyDue checks that everything that waits for time is found when it comes.
func (l *Ledger) verifyDue() error {
	waiting := make(map[dueItem]bool, len(l.due))
	for i, item := range l.due {
		if up := (i - 1) / 2; i > 0 && l.due[up].compare(item) > 0 {
			return fmt.Errorf("verify due: item %d %+v is before its parent %+v", i, item, l.due[up])
		}
		waiting[item] = true
	}
	for _, u := range l.unbondings.all() {
		if item := (dueItem{at: u.Matures, kind: dueUnbonding, id: uint32(u.ID)}); !u.Ended && !waiting[item] {
			return fmt.Errorf("verify due: unbonding %d is not among them", u.ID)
		}
	}
	for _, f := range l.fines.all() {
		if item := (dueItem{at: f.Ends, kind: dueFine, id: uint32(f.ID)}); f.State <= FineAppealed && !waiting[item] {
			return fmt.Errorf("verify due: fine %d is not among them", f.ID)
		}
	}
	for i, o := range l.offences.all() {
		if got := l.offenceIndex[offenceKey{o.Lease, o.Reason}]; got != i {
			return fmt.Errorf("verify offence %d: its lease and reason find %d", i, got)
		}
	}
	if n := len(l.rates); n > 0 && l.inForce == 0 || int(l.inForce) > n {
		return fmt.Errorf("verify rates: rate %d of %d is in force", l.inForce, n)
	}
	return nil
}
