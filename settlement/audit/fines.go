package audit

import (
	"cmp"
	"fmt"
	"math/big"
	"slices"

	"github.com/joulecloud/joule/settlement/ledger"
)

// fine is a fine or a proposal as its entries tell it.
type fine struct {
	ledger.FineIssued
	state    ledger.FineState
	proposer string
	ends     ledger.Time
	issued   ledger.Time
	parts    []ledger.UnbondingPart
}

// fineFact takes a fact of fines; false for another one.
func (b *books) fineFact(e *ledger.Entry) bool {
	switch f := e.Fact.(type) {
	case *ledger.FineScheduleSet:
		b.stakes.schedule = f.FineSchedule
	case *ledger.FineProposed:
		b.r.checked(CheckFines)
		if int(f.ID) != len(b.stakes.fines)+1 || b.stakes.suppliers[f.Supplier] == nil || f.Operator == "" || f.Why == "" ||
			f.Reason.Side() != ledger.SideSupplier || f.LapsesAt != later(e.Time, b.stakes.schedule.AppealMs) {
			b.find(CheckFines, e, "fine %d is proposed by %q for %s of supplier %d, to lapse at %d", f.ID, f.Operator, f.Reason, f.Supplier, f.LapsesAt)
		}
		b.stakes.fines = append(b.stakes.fines, fine{state: ledger.FineProposedState, proposer: f.Operator, ends: f.LapsesAt,
			FineIssued: ledger.FineIssued{ID: f.ID, Evidence: f.Evidence,
				Plan: ledger.FinePlan{Supplier: f.Supplier, Lease: f.Lease, Reason: f.Reason}}})
	case *ledger.FineIssued:
		b.fineIssued(e, f)
	case *ledger.FineChanged:
		b.fineChanged(e, f)
	default:
		return false
	}
	return true
}

// fineIssued checks rule F3: who asked for it, by which evidence, and that it
// comes to what the schedule says.
func (b *books) fineIssued(e *ledger.Entry, f *ledger.FineIssued) {
	b.r.checked(CheckFines)
	s := b.stakes.suppliers[f.Plan.Supplier]
	if s == nil {
		b.find(CheckFines, e, "fine %d is of supplier %d, who is not known", f.ID, f.Plan.Supplier)
		return
	}
	switch n := len(b.stakes.fines); {
	case int(f.ID) == n+1 && f.Approved == "":
		b.stakes.fines = append(b.stakes.fines, fine{})
		if f.Plan.Reason != ledger.FineEquivocation && f.Plan.Reason != ledger.FineHostLost || len(f.Evidence) != 1 || f.Plan.Lease == 0 {
			b.find(CheckFines, e, "fine %d for %s was not proposed, and is not by the ledger's own evidence", f.ID, f.Plan.Reason)
		}
	case f.ID == 0 || int(f.ID) > n:
		b.find(CheckFines, e, "fine %d follows fine %d", f.ID, n)
		return
	default:
		old := &b.stakes.fines[f.ID-1]
		if old.state != ledger.FineProposedState || e.Time >= old.ends || f.Approved == "" || f.Approved == old.proposer ||
			!slices.Equal(f.Evidence, old.Evidence) || f.Plan.Reason != old.Plan.Reason || f.Plan.Lease != old.Plan.Lease || f.Plan.Supplier != old.Plan.Supplier {
			b.find(CheckFines, e, "fine %d, %s, proposed by %q until %d, is approved by %q", f.ID, old.state, old.proposer, old.ends, f.Approved)
		}
	}
	row := &b.stakes.fines[f.ID-1]
	*row = fine{FineIssued: *f, state: ledger.FineInEscrow, ends: f.Plan.FinalAt, issued: e.Time, proposer: row.proposer}
	for _, ev := range f.Evidence {
		if by, used := b.stakes.evidence[ev.Entry]; used || ev.Entry == 0 || ev.Entry >= e.Seq {
			b.find(CheckFines, e, "fine %d: entry %d is no evidence, or served fine %d", f.ID, ev.Entry, by)
		}
		b.stakes.evidence[ev.Entry] = f.ID
		b.links = append(b.links, link{by: e.Seq, block: b.block, entry: ev.Entry, evidence: true, hash: ev.Hash, lease: f.Plan.Lease,
			reason: f.Plan.Reason, own: f.Approved == "", after: e.Time - ledger.Time(b.stakes.policy.UnbondMs)})
	}
	if want := b.plan(f, s, e.Time); want != f.Plan {
		b.find(CheckFines, e, "fine %d is %+v, the schedule gives %+v", f.ID, f.Plan, want)
	}
	s.fines = append(s.fines, f.ID)
	b.takeFine(row, s)
}

// plan works the fine out again.
func (b *books) plan(f *ledger.FineIssued, s *staker, now ledger.Time) ledger.FinePlan {
	p := ledger.FinePlan{Supplier: f.Plan.Supplier, Lease: f.Plan.Lease, Reason: f.Plan.Reason, FinalAt: later(now, b.stakes.schedule.AppealMs)}
	i := slices.IndexFunc(b.stakes.schedule.Rules, func(r ledger.FineRule) bool { return r.Reason == p.Reason })
	if i < 0 {
		return p
	}
	rule := b.stakes.schedule.Rules[i]
	exposure, remedy, hosts := new(big.Int).Set(s.exposure), new(big.Int), s.hosts
	if l := b.leases[p.Lease]; l != nil {
		p.Customer = l.Customer
		value := hourly(&l.LeaseOpened)
		if l.closed {
			exposure.Add(exposure, value)
			if b.released(l.Host) {
				hosts++
			}
		}
		remedy.Mul(value, new(big.Int).SetUint64(rule.RemedyMs)).Quo(remedy, big.NewInt(3_600_000))
	}
	required := b.required(hosts, exposure)
	today := new(big.Int)
	for _, id := range s.fines {
		old := &b.stakes.fines[id-1]
		if old.state == ledger.FineVoided {
			continue
		}
		if uint64(now-old.issued) < b.stakes.schedule.RepeatMs && old.Plan.Reason == p.Reason {
			p.Prior++
		}
		if now-old.issued < 86_400_000 {
			today.Add(today, big.NewInt(int64(old.Plan.Taken())))
		}
	}
	amount := new(big.Int)
	if p.Prior >= rule.Grace {
		amount = ppm(required, rule.SharePPM)
		for n := p.Prior - rule.Grace; n > 0 && amount.Sign() > 0 && amount.BitLen() < 200; n-- {
			amount = ppm(amount, rule.RepeatPPM)
		}
	}
	p.Required, p.Schedule = nj(required), nj(amount)
	room := new(big.Int).Sub(ppm(required, b.stakes.schedule.DayCapPPM), today)
	if room.Sign() < 0 {
		room.SetInt64(0)
	}
	if room.Cmp(amount) < 0 {
		amount = room
	}
	p.Amount = nj(amount)
	left := p.Amount
	take := func(account string) ledger.NJ {
		n := min(left, ledger.NJ(b.balanceOf(account)))
		left -= n
		return n
	}
	p.FromEarnings = take("supplier/" + s.name)
	p.FromStake = take("stake/" + s.name)
	p.FromUnbonding = take("unbonding/" + s.name)
	if remedy.Sign() > 0 {
		p.Remedy = min(p.Taken(), nj(ceilDiv(remedy.Mul(remedy, nano), big.NewInt(int64(b.rates.all[b.rates.inForce])))))
	}
	return p
}

func ppm(v *big.Int, share uint32) *big.Int {
	n := new(big.Int).Mul(v, big.NewInt(int64(share)))
	return n.Quo(n, million)
}

// nj is v within int64.
func nj(v *big.Int) ledger.NJ {
	if !v.IsInt64() {
		return 1<<63 - 1
	}
	return ledger.NJ(v.Int64())
}

// takeFine announces the transfers into escrow, in their order.
func (b *books) takeFine(f *fine, s *staker) {
	x := expected{reason: ledger.ReasonFine, to: "escrow", currency: ledger.JOULE, lease: f.Plan.Lease, ref: fmt.Sprintf("fine/%d", f.ID)}
	from := func(account string, amount ledger.NJ) {
		if amount > 0 {
			x.from, x.amount = account, int64(amount)
			b.expect(x)
		}
	}
	from("supplier/"+s.name, f.Plan.FromEarnings)
	from("stake/"+s.name, f.Plan.FromStake)
	open := slices.Clone(s.open)
	slices.SortFunc(open, func(x, y ledger.UnbondingID) int {
		return cmp.Or(cmp.Compare(b.stakes.unbondings[x-1].Matures, b.stakes.unbondings[y-1].Matures), cmp.Compare(x, y))
	})
	left := f.Plan.FromUnbonding
	for _, id := range open {
		u := &b.stakes.unbondings[id-1]
		n := min(left, ledger.NJ(u.left))
		if n <= 0 {
			continue
		}
		u.left -= int64(n)
		left -= n
		f.parts = append(f.parts, ledger.UnbondingPart{Unbonding: id, Amount: n})
		from("unbonding/"+s.name, n)
	}
}

// fineChanged checks rule F4: who may change a fine and when, and where escrow
// goes.
func (b *books) fineChanged(e *ledger.Entry, c *ledger.FineChanged) {
	b.r.checked(CheckFines)
	if c.ID == 0 || int(c.ID) > len(b.stakes.fines) {
		b.find(CheckFines, e, "fine %d changes, which there is none of", c.ID)
		return
	}
	f := &b.stakes.fines[c.ID-1]
	s := b.stakes.suppliers[f.Plan.Supplier]
	live, in := f.state == ledger.FineInEscrow || f.state == ledger.FineAppealed, e.Time < f.ends
	var ok bool
	switch c.State {
	case ledger.FineAppealed:
		ok = f.state == ledger.FineInEscrow && in && c.By == s.name && c.FinalAt == later(e.Time, b.stakes.schedule.AppealMs)
	case ledger.FineVoided:
		ok = (live || f.state == ledger.FineProposedState) && in && c.By != "" && c.Why != "" && c.FinalAt == e.Time
	case ledger.FineFinal:
		ok = live && !in && c.FinalAt == f.ends
	case ledger.FineLapsed:
		ok = f.state == ledger.FineProposedState && !in && c.FinalAt == f.ends
	}
	if !ok {
		b.find(CheckFines, e, "fine %d, %s until %d, becomes %s by %q at %d", c.ID, f.state, f.ends, c.State, c.By, e.Time)
	}
	f.state, f.ends = c.State, c.FinalAt
	x := expected{from: "escrow", currency: ledger.JOULE, lease: f.Plan.Lease, ref: fmt.Sprintf("fine/%d", c.ID)}
	give := func(reason ledger.Reason, to string, amount ledger.NJ) {
		if amount > 0 {
			x.reason, x.to, x.amount = reason, to, int64(amount)
			b.expect(x)
		}
	}
	switch c.State {
	case ledger.FineFinal:
		if cust := b.customers[f.Plan.Customer]; cust != nil {
			give(ledger.ReasonRemedy, "customer/"+cust.Name, f.Plan.Remedy)
		}
		give(ledger.ReasonForfeit, "treasury", f.Plan.Taken()-f.Plan.Remedy)
	case ledger.FineVoided:
		give(ledger.ReasonFineReturn, "supplier/"+s.name, f.Plan.FromEarnings)
		give(ledger.ReasonFineReturn, "stake/"+s.name, f.Plan.FromStake)
		for _, part := range f.parts {
			if u := &b.stakes.unbondings[part.Unbonding-1]; u.ended {
				give(ledger.ReasonFineReturn, "supplier/"+s.name, part.Amount)
			} else {
				u.left += int64(part.Amount)
				give(ledger.ReasonFineReturn, "unbonding/"+s.name, part.Amount)
			}
		}
	}
}
