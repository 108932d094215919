package ledger

import (
	"cmp"
	"slices"
)

// UnbondingPart is what a fine took from one unbonding.
type UnbondingPart struct {
	Unbonding UnbondingID
	Amount    NJ
}

// ownEvidence says whether the ledger itself has seen the offence.
func (l *Ledger) ownEvidence(c *FineCase) Result {
	var ck check
	c.validate(&ck)
	if res, ok := ck.result(); !ok {
		return res
	}
	if c.Reason.Side() != SideSupplier {
		return Result{} // planFine refuses it by name
	}
	if c.Reason == FineBreach || c.Lease == 0 {
		return refuse(CodeForbidden, "a fine for %s without the ledger's own evidence needs two operators: propose it", c.Reason)
	}
	o, ok := l.Offence(c.Lease, c.Reason)
	if !ok {
		return refuse(CodeEvidence, "the ledger has seen no %s on lease %d", c.Reason, c.Lease)
	}
	if len(c.Evidence) != 1 || c.Evidence[0] != o.Evidence {
		return refuse(CodeEvidence, "the evidence for %s on lease %d is entry %d with hash %x and nothing else",
			c.Reason, c.Lease, o.Evidence.Entry, o.Evidence.Hash)
	}
	return Result{}
}

func (l *Ledger) issueFine(c *IssueFine) Result {
	if res := l.ownEvidence(&c.FineCase); res.Code != CodeOK {
		return res
	}
	plan, res := l.planFine(&c.FineCase, l.now)
	if res.Code != CodeOK {
		return res
	}
	id := l.addFine(&Fine{Case: cloneCase(&c.FineCase), Opened: l.now})
	l.issue(id, plan, "")
	return Result{ID: uint64(id)}
}

func (l *Ledger) proposeFine(c *ProposeFine) Result {
	var ck check
	ck.name("operator", c.Operator)
	ck.text("why", c.Why, WhyBytesMax)
	if res, ok := ck.result(); !ok {
		return res
	}
	plan, res := l.planFine(&c.FineCase, l.now)
	if res.Code != CodeOK {
		return res
	}
	f := Fine{State: FineProposedState, Case: cloneCase(&c.FineCase), Opened: l.now, Ends: plan.FinalAt, Proposed: c.Operator, Why: c.Why,
		Plan: FinePlan{Supplier: plan.Supplier, Lease: plan.Lease, Customer: plan.Customer, Reason: plan.Reason}}
	id := l.addFine(&f)
	l.due.push(dueItem{at: f.Ends, kind: dueFine, id: uint32(id)})
	l.emit(EntryFineProposed).Fact = &FineProposed{ID: id, Supplier: plan.Supplier, Lease: c.Lease, Reason: c.Reason,
		Evidence: f.Case.Evidence, Operator: c.Operator, Why: c.Why, LapsesAt: f.Ends}
	return Result{ID: uint64(id)}
}

func cloneCase(c *FineCase) FineCase {
	again := *c
	again.Evidence = slices.Clone(c.Evidence)
	return again
}

func (l *Ledger) addFine(f *Fine) FineID {
	i, row := l.fines.add()
	*row = *f
	row.ID = FineID(i)
	return row.ID
}

// fine finds a fine that a command may still change.
func (l *Ledger) fine(id FineID) (*Fine, Result) {
	if id == 0 || int(id) > l.fines.len() {
		return nil, refuse(CodeNotFound, "fine %d not found", id)
	}
	f := l.fines.edit(int(id))
	switch {
	case f.State != FineProposedState && f.State != FineInEscrow && f.State != FineAppealed:
		return nil, refuse(CodeClosed, "fine %d is %s", id, f.State)
	case l.now >= f.Ends:
		// What comes of it is for the next Tick, but its window is over.
		return nil, refuse(CodeClosed, "the window of fine %d ended at %d", id, f.Ends)
	}
	return f, Result{}
}

func (l *Ledger) approveFine(c *ApproveFine) Result {
	var ck check
	ck.name("operator", c.Operator)
	if res, ok := ck.result(); !ok {
		return res
	}
	f, res := l.fine(c.Fine)
	switch {
	case res.Code != CodeOK:
		return res
	case f.State != FineProposedState:
		return refuse(CodeClosed, "fine %d is %s, not proposed", c.Fine, f.State)
	case f.Proposed == c.Operator:
		return refuse(CodeSameOperator, "fine %d was proposed by %q, who can't approve it too", c.Fine, c.Operator)
	}
	plan, res := l.planFine(&f.Case, l.now)
	if res.Code != CodeOK {
		return res
	}
	l.issue(c.Fine, plan, c.Operator)
	return Result{ID: uint64(c.Fine)}
}

// issue takes the fine into escrow.
func (l *Ledger) issue(id FineID, plan FinePlan, approved string) {
	f := l.fines.edit(int(id))
	f.State, f.Plan, f.Issued, f.Ends, f.Approved = FineInEscrow, plan, l.now, plan.FinalAt, approved
	l.linkFine(f)
	l.due.push(dueItem{at: f.Ends, kind: dueFine, id: uint32(id)})

	s := l.suppliers.get(int(plan.Supplier))
	escrow := AccountID(0)
	if plan.Taken() > 0 {
		escrow = l.escrowAccount()
	}
	l.emit(EntryFineIssued).Fact = &FineIssued{ID: id, Plan: plan, Evidence: f.Case.Evidence, Approved: approved}
	t := Transfer{Credit: escrow, Reason: ReasonFine, Lease: plan.Lease, Ref: ref("fine", id)}
	l.moveSome(t, s.joule, escrow, plan.FromEarnings)
	l.moveSome(t, s.stake, escrow, plan.FromStake)
	// What would leave soonest goes first.
	left := plan.FromUnbonding
	open := slices.Clone(l.unbondingsOf[plan.Supplier])
	slices.SortFunc(open, func(a, b UnbondingID) int {
		x, y := l.unbondings.get(int(a)), l.unbondings.get(int(b))
		return cmp.Or(cmp.Compare(x.Matures, y.Matures), cmp.Compare(a, b))
	})
	for _, u := range open {
		row := l.unbondings.edit(int(u))
		if n := min(left, row.Amount); n > 0 {
			row.Amount -= n
			left -= n
			f.Parts = append(f.Parts, UnbondingPart{Unbonding: u, Amount: n})
			l.moveSome(t, s.unbonding, escrow, n)
		}
	}
}

// issued says whether the fine ever was one, and not a proposal alone.
func (f *Fine) issued() bool {
	return f.State == FineInEscrow || f.State == FineAppealed || f.State == FineFinal ||
		f.State == FineVoided && (f.Proposed == "" || f.Approved != "")
}

// linkFine puts an issued fine on its supplier's record, and uses its evidence
// up.
func (l *Ledger) linkFine(f *Fine) {
	l.finesOf[f.Plan.Supplier] = append(l.finesOf[f.Plan.Supplier], f.ID)
	for _, e := range f.Case.Evidence {
		l.evidenceUsed[e.Entry] = f.ID
	}
}

// moveSome is transfer of t between two accounts, unless the amount is 0.
func (l *Ledger) moveSome(t Transfer, from, to AccountID, amount NJ) {
	if amount > 0 {
		t.Debit, t.Credit, t.Amount = from, to, int64(amount)
		l.transfer(&t)
	}
}

func (l *Ledger) appealFine(c *AppealFine) Result {
	var ck check
	ck.name("supplier", c.Supplier)
	ck.text("why", c.Why, WhyBytesMax)
	if res, ok := ck.result(); !ok {
		return res
	}
	f, res := l.fine(c.Fine)
	switch {
	case res.Code != CodeOK:
		return res
	case l.supplierName(f.Plan.Supplier) != c.Supplier:
		return refuse(CodeForbidden, "fine %d is not of supplier %q", c.Fine, c.Supplier)
	case f.State != FineInEscrow:
		return refuse(CodeClosed, "fine %d is %s: only one that was issued can be appealed, once", c.Fine, f.State)
	}
	f.State, f.Appeal, f.Ends = FineAppealed, c.Why, later(l.now, l.policy.Fines.AppealMs)
	l.due.push(dueItem{at: f.Ends, kind: dueFine, id: uint32(c.Fine)})
	l.emit(EntryFineChanged).Fact = &FineChanged{ID: c.Fine, State: f.State, By: c.Supplier, Why: c.Why, FinalAt: f.Ends}
	return Result{ID: uint64(c.Fine)}
}

func (l *Ledger) voidFine(c *VoidFine) Result {
	var ck check
	ck.name("operator", c.Operator)
	ck.text("why", c.Why, WhyBytesMax)
	if res, ok := ck.result(); !ok {
		return res
	}
	f, res := l.fine(c.Fine)
	if res.Code != CodeOK {
		return res
	}
	f.State, f.By, f.ByWhy, f.Ends = FineVoided, c.Operator, c.Why, l.now
	l.emit(EntryFineChanged).Fact = &FineChanged{ID: c.Fine, State: f.State, By: c.Operator, Why: c.Why, FinalAt: f.Ends}
	if f.Plan.Taken() == 0 {
		return Result{ID: uint64(c.Fine)}
	}
	s := l.suppliers.get(int(f.Plan.Supplier))
	escrow := l.escrowAccount()
	t := Transfer{Reason: ReasonFineReturn, Lease: f.Plan.Lease, Ref: ref("fine", c.Fine)}
	l.moveSome(t, escrow, s.joule, f.Plan.FromEarnings)
	l.moveSome(t, escrow, s.stake, f.Plan.FromStake)
	for _, part := range f.Parts {
		if u := l.unbondings.edit(int(part.Unbonding)); u.Ended {
			l.moveSome(t, escrow, s.joule, part.Amount)
		} else {
			u.Amount += part.Amount
			l.moveSome(t, escrow, s.unbonding, part.Amount)
		}
	}
	return Result{ID: uint64(c.Fine)}
}

// fineDue ends a fine or a proposal whose window is over (rule F4): the harmed
// customer's remedy first, the rest to the treasury.
func (l *Ledger) fineDue(id FineID) {
	f := l.fines.edit(int(id))
	if l.now < f.Ends {
		return // it was put off
	}
	switch f.State {
	case FineProposedState:
		f.State = FineLapsed
	case FineInEscrow, FineAppealed:
		f.State = FineFinal
	default:
		return
	}
	l.emit(EntryFineChanged).Fact = &FineChanged{ID: id, State: f.State, FinalAt: f.Ends}
	if f.Plan.Taken() == 0 {
		return
	}
	escrow := l.escrowAccount()
	t := Transfer{Lease: f.Plan.Lease, Ref: ref("fine", id), Reason: ReasonRemedy}
	if f.Plan.Remedy > 0 {
		l.moveSome(t, escrow, l.customers.get(int(f.Plan.Customer)).account(JOULE), f.Plan.Remedy)
	}
	t.Reason = ReasonForfeit
	l.moveSome(t, escrow, treasuryJoule, f.Plan.Taken()-f.Plan.Remedy)
	l.treasuryGained()
}

// String returns the state's name.
func (s FineState) String() string {
	return nameOf(s, "proposed", "in escrow", "appealed", "final", "voided", "lapsed")
}

// FineCount returns how many fines and proposals there are; ids run from 1 to
// it.
func (l *Ledger) FineCount() FineID { return FineID(l.fines.len()) }

// Fine returns a fine. Its lists may not be changed.
func (l *Ledger) Fine(id FineID) (Fine, bool) { return rowOf(&l.fines, id) }
