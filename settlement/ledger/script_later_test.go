package ledger_test

import (
	"fmt"
	"strings"

	"github.com/joulecloud/joule/settlement/ledger"
)

func (a args) text(name, def string) string { return strings.ReplaceAll(a.str(name, def), "~", " ") }

var (
	parties     = map[string]ledger.Party{"customer": ledger.PartyCustomer, "supplier": ledger.PartySupplier, "treasury": ledger.PartyTreasury}
	fineReasons = map[string]ledger.FineReason{"equivocation": ledger.FineEquivocation, "host-lost": ledger.FineHostLost, "breach": ledger.FineBreach,
		"network": ledger.FineNetwork, "workload": ledger.FineWorkload, "funds": ledger.FineFunds, "platform": ledger.FinePlatform}
)

// later reads a line with one of the commands from ProposeRate on.
func (s *script) later(verb string, a args) ledger.Command {
	id := func() uint32 { return uint32(atoi(s.t, a.at(0))) }
	op, why := a.str("op", "ann"), a.text("why", "because")
	switch verb {
	case "propose":
		return &ledger.ProposeRate{NUSDPerJoule: ledger.NUSD(decimal(s.t, a.at(0)))}
	case "override":
		return &ledger.OverrideRate{Rate: ledger.RateID(id()), ForMs: uint64(a.num("for", 60_000)), Operator: op, Why: why}
	case "guard":
		return &ledger.SetRateGuard{RateGuard: ledger.RateGuard{MaxAgeMs: uint64(a.num("age", 360_000)),
			DeviationPPM: uint32(a.num("deviation", 15_000)), WindowMs: uint64(a.num("window", 1_800_000))}}
	case "request":
		return &ledger.RequestWithdrawal{Party: parties[a.at(0)], Name: a.str("name", ""), Amount: decimal(s.t, a.at(1)),
			Currency: currency(a.at(2)), To: a.text("to", "iban")}
	case "confirm":
		return &ledger.ConfirmWithdrawal{Withdrawal: ledger.WithdrawalID(id()), Ref: a.text("ref", "out")}
	case "fail":
		return &ledger.FailWithdrawal{Withdrawal: ledger.WithdrawalID(id()), Why: why}
	case "correct":
		c := &ledger.Correct{Lease: ledger.LeaseID(id()), Entry: uint64(a.num("entry", 1)), Operator: op, Why: why}
		for _, word := range a.pos[1:] { // from>to:amount:currency
			f := strings.FieldsFunc(word, func(r rune) bool { return r == '>' || r == ':' })
			c.Legs = append(c.Legs, ledger.CorrectionLeg{From: parties[f[0]], To: parties[f[1]], Amount: decimal(s.t, f[2]), Currency: currency(f[3])})
		}
		return c
	case "stakepolicy":
		return &ledger.SetStakePolicy{StakePolicy: ledger.StakePolicy{BasePerHost: ledger.NJ(a.money("base")),
			FactorPPM: uint32(a.num("factor", 0)), UnbondMs: uint64(a.num("unbond", 1_814_400_000))}}
	case "bond":
		from := map[string]ledger.BondSource{"earnings": ledger.BondEarnings, "deposit": ledger.BondDeposit}[a.str("from", "deposit")]
		def := ""
		if from == ledger.BondDeposit {
			def = "in"
		}
		return &ledger.Bond{Supplier: a.at(0), Amount: ledger.NJ(decimal(s.t, a.at(1))), From: from, Ref: a.str("ref", def)}
	case "buystake":
		return &ledger.BuyStake{Supplier: a.at(0), Paid: ledger.NUSD(decimal(s.t, a.at(1))), Ref: a.str("ref", "pay")}
	case "retire":
		return &ledger.RetireHost{Host: a.at(0)}
	case "unbond":
		return &ledger.Unbond{Supplier: a.at(0), Amount: ledger.NJ(decimal(s.t, a.at(1)))}
	case "schedule":
		c := &ledger.SetFineSchedule{FineSchedule: ledger.FineSchedule{AppealMs: uint64(a.num("appeal", 604_800_000)),
			RepeatMs: uint64(a.num("repeat", 2_592_000_000)), DayCapPPM: uint32(a.num("cap", 1_000_000))}}
		for _, word := range a.pos { // reason:share:grace:repeat:remedy
			f := strings.Split(word, ":")
			c.Rules = append(c.Rules, ledger.FineRule{Reason: fineReasons[f[0]], SharePPM: uint32(atoi(s.t, f[1])), Grace: uint32(atoi(s.t, f[2])),
				RepeatPPM: uint32(atoi(s.t, f[3])), RemedyMs: uint64(atoi(s.t, f[4]))})
		}
		return c
	case "fine":
		return &ledger.IssueFine{FineCase: s.fineCase(a)}
	case "propose-fine":
		return &ledger.ProposeFine{FineCase: s.fineCase(a), Operator: op, Why: why}
	case "approve":
		return &ledger.ApproveFine{Fine: ledger.FineID(id()), Operator: op}
	case "appeal":
		return &ledger.AppealFine{Fine: ledger.FineID(id()), Supplier: a.str("supplier", "west-dc"), Why: why}
	case "void":
		return &ledger.VoidFine{Fine: ledger.FineID(id()), Operator: op, Why: why}
	}
	s.t.Fatalf("unknown command %q", verb)
	return nil
}

// fineCase reads "lease=1 reason=breach entry=7", or with the ledger's own
// evidence for the reason where no entry is named.
func (s *script) fineCase(a args) ledger.FineCase {
	c := ledger.FineCase{Supplier: a.str("supplier", ""), Lease: ledger.LeaseID(a.num("lease", 0)), Reason: fineReasons[a.str("reason", "")]}
	if o, ok := s.l.Offence(c.Lease, c.Reason); ok {
		c.Evidence = []ledger.Evidence{o.Evidence}
	}
	if entry := a.num("entry", 0); entry != 0 {
		c.Evidence = []ledger.Evidence{{Entry: uint64(entry)}}
	}
	return c
}

func (s *script) plan(p *ledger.FinePlan) string {
	return fmt.Sprintf("supplier %d lease %d customer %d %s: required %d, prior %d, schedule %d, amount %d, takes %d+%d+%d, remedy %d, final at %d",
		p.Supplier, p.Lease, p.Customer, p.Reason, p.Required, p.Prior, p.Schedule, p.Amount, p.FromEarnings, p.FromStake, p.FromUnbonding,
		p.Remedy, p.FinalAt)
}

// simulate prints what a fine would do.
func (s *script) simulate(a args) {
	c := s.fineCase(a)
	p, err := s.l.SimulateFine(s.now, &c, a.has("manual"))
	if err != nil {
		fmt.Fprintf(&s.out, "%v\n", err)
		return
	}
	fmt.Fprintf(&s.out, "%s\n", s.plan(&p))
}

func (s *script) printDue() {
	at, ok := s.l.NextDue()
	fmt.Fprintf(&s.out, "%d %v\n", at, ok)
}

func (s *script) tick() {
	res := s.l.Apply(s.now, &ledger.Envelope{Command: &ledger.Tick{}})
	s.print(&res)
}

func evidence(list []ledger.Evidence) string {
	var out strings.Builder
	for _, e := range list {
		fmt.Fprintf(&out, " entry %d", e.Entry)
		if e.Hash != (ledger.Hash{}) {
			out.WriteString(" and its record")
		}
	}
	return out.String()
}

func (s *script) fineFact(f ledger.Fact) (string, bool) {
	switch f := f.(type) {
	case *ledger.FineProposed:
		return fmt.Sprintf("fine %d proposed by %s: supplier %d lease %d %s,%s, lapses at %d: %s",
			f.ID, f.Operator, f.Supplier, f.Lease, f.Reason, evidence(f.Evidence), f.LapsesAt, f.Why), true
	case *ledger.FineIssued:
		by := ""
		if f.Approved != "" {
			by = ", approved by " + f.Approved
		}
		return fmt.Sprintf("fine %d issued: %s,%s%s", f.ID, s.plan(&f.Plan), evidence(f.Evidence), by), true
	case *ledger.FineChanged:
		text := fmt.Sprintf("fine %d is %s", f.ID, f.State)
		if f.By != "" {
			text += fmt.Sprintf(" by %s: %s", f.By, f.Why)
		}
		return text + fmt.Sprintf(", %d", f.FinalAt), true
	}
	return "", false
}

// finalTables prints what is left of withdrawals, stakes and fines.
func (s *script) finalTables() {
	if st, ok := s.l.RateState(); ok && (st.Paused != 0 || st.InForce.ID != st.Newest.ID) {
		fmt.Fprintf(&s.out, "rate %d in force, %d newest, paused %d since %d\n", st.InForce.ID, st.Newest.ID, st.Paused, st.Since)
	}
	for id := ledger.WithdrawalID(1); id <= s.l.WithdrawalCount(); id++ {
		w, _ := s.l.Withdrawal(id)
		fmt.Fprintf(&s.out, "withdrawal %d of %s: %d %s, state %d %q\n", id, s.account(w.Account), w.Amount, units[w.Currency], w.State, w.Text)
	}
	for id := ledger.SupplierID(1); id <= s.l.SupplierCount(); id++ {
		if st, _ := s.l.Stake(id); st.Bonded+st.Unbonding+st.Required > 0 {
			fmt.Fprintf(&s.out, "stake of supplier %d: bonded %d unbonding %d required %d for %d hosts and %d nUSD an hour\n",
				id, st.Bonded, st.Unbonding, st.Required, st.Hosts, st.Exposure)
		}
	}
	for id := ledger.UnbondingID(1); id <= s.l.UnbondingCount(); id++ {
		u, _ := s.l.Unbonding(id)
		fmt.Fprintf(&s.out, "unbonding %d of supplier %d: %d nJ, matures %d, ended %v\n", id, u.Supplier, u.Amount, u.Matures, u.Ended)
	}
	for id := ledger.FineID(1); id <= s.l.FineCount(); id++ {
		f, _ := s.l.Fine(id)
		fmt.Fprintf(&s.out, "fine %d %s: taken %d, ends %d\n", id, f.State, f.Plan.Taken(), f.Ends)
	}
}
