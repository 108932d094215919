package ledger_test

import (
	"math/big"
	"slices"

	"pgregory.net/rapid"

	"github.com/joulecloud/joule/settlement/ledger"
)

func (d *driver) supplier() string {
	return rapid.SampledFrom([]string{"a", "b"}).Draw(d.t, "supplier")
}

func (d *driver) operator() string {
	return rapid.SampledFrom([]string{"ann", "bob"}).Draw(d.t, "operator")
}

// later is a step with one of the commands from ProposeRate on.
func (d *driver) later() {
	m := d.m
	switch rapid.IntRange(0, 23).Draw(d.t, "later") {
	case 0, 1, 2:
		v := rapid.SampledFrom([]int64{50_000_000, 50_600_000, 50_750_000, 51_234_567, 90_000_000}).Draw(d.t, "rate")
		m.addRate(v, true)
		d.check(&ledger.ProposeRate{NUSDPerJoule: ledger.NUSD(v)}, ledger.CodeOK)
	case 3:
		d.override()
	case 4:
		m.guard = ledger.RateGuard{MaxAgeMs: rapid.SampledFrom([]uint64{0, 1, 2500, 40_000}).Draw(d.t, "age"),
			DeviationPPM: rapid.SampledFrom([]uint32{0, 15_000, 15_000, 400_000}).Draw(d.t, "deviation"),
			WindowMs:     rapid.SampledFrom([]uint64{1, 2000, 60_000}).Draw(d.t, "window")}
		m.judge()
		m.convertWaiting()
		d.check(&ledger.SetRateGuard{RateGuard: m.guard}, ledger.CodeOK)
	case 5:
		d.requestWithdrawal()
	case 6:
		d.endWithdrawal()
	case 7, 8:
		d.correct()
	case 9:
		m.stake.BasePerHost = ledger.NJ(rapid.SampledFrom([]int64{0, 3, 500_000_001}).Draw(d.t, "base"))
		m.stake.FactorPPM = rapid.SampledFrom([]uint32{0, 1, 333, 40_000_000}).Draw(d.t, "factor")
		d.check(&ledger.SetStakePolicy{StakePolicy: m.stake}, ledger.CodeOK)
	case 10, 11:
		d.bond()
	case 22:
		d.buyStake()
	case 23:
		d.retire()
	case 12, 13:
		d.unbond()
	case 14:
		m.schedule.Rules = []ledger.FineRule{
			{Reason: ledger.FineEquivocation, SharePPM: 250_000, RepeatPPM: 1_500_001, RemedyMs: 7_777},
			{Reason: ledger.FineHostLost, SharePPM: 100_003, Grace: uint32(rapid.IntRange(0, 2).Draw(d.t, "grace")), RepeatPPM: 2_000_000, RemedyMs: 3_600_000}}
		if rapid.Bool().Draw(d.t, "breach") {
			m.schedule.Rules = append(m.schedule.Rules, ledger.FineRule{Reason: ledger.FineBreach, SharePPM: 1_000_000, RepeatPPM: 0})
		}
		m.schedule.DayCapPPM = rapid.SampledFrom([]uint32{1, 300_000, 1_000_000}).Draw(d.t, "cap")
		m.schedule.RepeatMs = rapid.SampledFrom([]uint64{1, 20_000, 60_000}).Draw(d.t, "repeat")
		m.schedule.AppealMs = rapid.SampledFrom([]uint64{1, 4_000, 60_000}).Draw(d.t, "appeal")
		d.check(&ledger.SetFineSchedule{FineSchedule: ledger.FineSchedule{AppealMs: m.schedule.AppealMs, RepeatMs: m.schedule.RepeatMs,
			DayCapPPM: m.schedule.DayCapPPM, Rules: slices.Clone(m.schedule.Rules)}}, ledger.CodeOK)
	case 15, 16:
		d.issueFine()
	case 17:
		d.proposeFine()
	case 18, 19:
		d.changeFine()
	default:
		m.tick()
		d.check(&ledger.Tick{}, ledger.CodeOK)
	}
}

func (d *driver) override() {
	m := d.m
	c := &ledger.OverrideRate{Rate: ledger.RateID(rapid.IntRange(max(0, len(m.rates)-1), len(m.rates)).Draw(d.t, "rate")),
		ForMs: rapid.SampledFrom([]uint64{1, 3000, 50_000}).Draw(d.t, "for"), Operator: d.operator(), Why: "w"}
	switch {
	case c.Rate == 0:
		d.check(c, ledger.CodeNotFound)
	case int(c.Rate) < len(m.rates):
		d.check(c, ledger.CodeClosed)
	case !m.rates[c.Rate-1].proposed:
		d.check(c, ledger.CodeInvalid)
	default:
		m.override = m.now + int64(c.ForMs)
		m.judge()
		m.convertWaiting()
		d.check(c, ledger.CodeOK)
	}
}

func (d *driver) requestWithdrawal() {
	c := &ledger.RequestWithdrawal{Party: ledger.PartySupplier, Name: d.supplier(), Currency: ledger.JOULE, Amount: amount(d.t), To: "x"}
	account := "supplier/" + c.Name
	if rapid.Bool().Draw(d.t, "customer's") {
		c.Party, c.Name, c.Currency = ledger.PartyCustomer, "usd", ledger.USD
		account = "customer/usd"
	}
	if d.m.get(account, c.Currency).Cmp(bi(c.Amount)) < 0 {
		d.check(c, ledger.CodeInsufficient)
		return
	}
	d.m.move(account, "withdrawing", c.Currency, bi(c.Amount))
	d.m.withdrawals = append(d.m.withdrawals, &modelWithdrawal{from: account, cur: c.Currency, amount: bi(c.Amount), state: ledger.WithdrawalOpen})
	d.check(c, ledger.CodeOK)
}

func (d *driver) endWithdrawal() {
	id := rapid.IntRange(0, len(d.m.withdrawals)+1).Draw(d.t, "withdrawal")
	text := rapid.SampledFrom([]string{"r1", "r2"}).Draw(d.t, "ref")
	state := rapid.SampledFrom([]ledger.WithdrawalState{ledger.WithdrawalConfirmed, ledger.WithdrawalFailed}).Draw(d.t, "end")
	var c ledger.Command = &ledger.ConfirmWithdrawal{Withdrawal: ledger.WithdrawalID(id), Ref: text}
	if state == ledger.WithdrawalFailed {
		c = &ledger.FailWithdrawal{Withdrawal: ledger.WithdrawalID(id), Why: text}
	}
	if id == 0 || id > len(d.m.withdrawals) {
		d.check(c, ledger.CodeNotFound)
		return
	}
	w := d.m.withdrawals[id-1]
	switch {
	case w.state == ledger.WithdrawalOpen:
		to := w.from
		if state == ledger.WithdrawalConfirmed {
			to = "external"
		}
		d.m.move("withdrawing", to, w.cur, w.amount)
		w.state, w.text = state, text
		d.check(c, ledger.CodeOK)
	case w.state == state && w.text == text:
		d.check(c, ledger.CodeOK)
	default:
		d.check(c, ledger.CodeClosed)
	}
}

// correct moves one leg in the lease's currency, or between supplier and
// treasury.
func (d *driver) correct() {
	m := d.m
	parties := rapid.SampledFrom([]ledger.Party{ledger.PartyCustomer, ledger.PartySupplier, ledger.PartyTreasury})
	leg := ledger.CorrectionLeg{From: parties.Draw(d.t, "from"), To: parties.Draw(d.t, "to"), Currency: ledger.JOULE, Amount: amount(d.t)}
	c := &ledger.Correct{Lease: d.lease(), Entry: 1, Operator: d.operator(), Why: "w"}
	known := c.Lease != 0 && int(c.Lease) <= len(m.leases)
	if known && m.leases[c.Lease-1].payIn == ledger.USD && leg.From != ledger.PartySupplier && leg.To != ledger.PartySupplier {
		leg.Currency = ledger.USD
	}
	c.Legs = []ledger.CorrectionLeg{leg}
	if leg.From == leg.To {
		d.check(c, ledger.CodeInvalid)
		return
	}
	if !known {
		d.check(c, ledger.CodeNotFound)
		return
	}
	le := m.leases[c.Lease-1]
	names := map[ledger.Party]string{ledger.PartyCustomer: "customer/" + le.customer, ledger.PartySupplier: "supplier/" + le.host.supplier, ledger.PartyTreasury: "treasury"}
	back, taken, paid := le.refunded, le.clawed, le.charged
	if le.payIn == ledger.JOULE {
		paid = add(le.paid, le.fees)
	}
	for party, sign := range map[ledger.Party]int64{leg.From: -1, leg.To: 1} {
		v := new(big.Int).Mul(bi(leg.Amount), bi(sign))
		switch party {
		case ledger.PartyCustomer:
			back = add(back, v)
		case ledger.PartySupplier:
			taken = sub(taken, v)
		}
	}
	switch {
	case le.payIn != leg.Currency && (leg.From == ledger.PartyCustomer || leg.To == ledger.PartyCustomer):
		d.check(c, ledger.CodeInvalid)
	case back.Cmp(paid) > 0, taken.Cmp(le.paid) > 0, m.get(names[leg.From], leg.Currency).Cmp(bi(leg.Amount)) < 0:
		d.check(c, ledger.CodeInsufficient)
	default:
		m.move(names[leg.From], names[leg.To], leg.Currency, bi(leg.Amount))
		le.refunded, le.clawed = back, taken
		m.convertWaiting()
		d.check(c, ledger.CodeOK)
	}
}

func (d *driver) bond() {
	c := &ledger.Bond{Supplier: d.supplier(), Amount: ledger.NJ(amount(d.t)), From: ledger.BondDeposit, Ref: "r"}
	from := "external"
	if rapid.Bool().Draw(d.t, "earned") {
		c.From, c.Ref, from = ledger.BondEarnings, "", "supplier/"+c.Supplier
	}
	if d.m.get(from, ledger.JOULE).Cmp(bi(int64(c.Amount))) < 0 {
		d.check(c, ledger.CodeInsufficient)
		return
	}
	d.m.move(from, "stake/"+c.Supplier, ledger.JOULE, bi(int64(c.Amount)))
	d.check(c, ledger.CodeOK)
}

func (d *driver) buyStake() {
	c := &ledger.BuyStake{Supplier: d.supplier(), Paid: ledger.NUSD(amount(d.t)), Ref: "r"}
	if len(d.m.rates) == 0 || d.m.pause() != ledger.PauseNone {
		d.check(c, ledger.CodeNoRate)
		return
	}
	nj := floor(frac(new(big.Int).Mul(bi(int64(c.Paid)), bi(1_000_000_000)), bi(d.m.rate())))
	if d.m.get("treasury", ledger.JOULE).Cmp(nj) < 0 || nj.Sign() == 0 {
		d.check(c, ledger.CodeInsufficient)
		return
	}
	d.m.move("external", "treasury", ledger.USD, bi(int64(c.Paid)))
	d.m.move("treasury", "stake/"+c.Supplier, ledger.JOULE, nj)
	d.check(c, ledger.CodeOK)
}

func (d *driver) retire() {
	c := &ledger.RetireHost{Host: d.host()}
	if h := d.m.hosts[c.Host]; h.retired {
		d.check(c, ledger.CodeClosed)
		return
	} else if rapid.IntRange(0, 3).Draw(d.t, "really") > 0 {
		return // most runs go on with both hosts
	} else {
		h.retired = true
	}
	d.check(c, ledger.CodeOK)
}

func (d *driver) unbond() {
	c := &ledger.Unbond{Supplier: d.supplier(), Amount: ledger.NJ(amount(d.t))}
	if d.m.get("stake/"+c.Supplier, ledger.JOULE).Cmp(bi(int64(c.Amount))) < 0 {
		d.check(c, ledger.CodeInsufficient)
		return
	}
	d.m.move("stake/"+c.Supplier, "unbonding/"+c.Supplier, ledger.JOULE, bi(int64(c.Amount)))
	d.m.unbondings = append(d.m.unbondings, &modelUnbonding{supplier: c.Supplier, amount: bi(int64(c.Amount)), matures: d.m.now + int64(d.m.stake.UnbondMs)})
	d.check(c, ledger.CodeOK)
}

func (d *driver) issueFine() {
	m := d.m
	lease := d.lease()
	reason := rapid.SampledFrom([]ledger.FineReason{ledger.FineEquivocation, ledger.FineHostLost}).Draw(d.t, "reason")
	c := &ledger.IssueFine{FineCase: ledger.FineCase{Lease: lease, Reason: reason, Evidence: []ledger.Evidence{{Entry: 1}}}}
	if lease == 0 {
		d.check(c, ledger.CodeInvalid)
		return
	}
	o, seen := d.l.Offence(lease, reason)
	if seen != m.offences[modelOffence{lease, reason}] {
		d.t.Fatalf("lease %d, %s: seen %v", lease, reason, seen)
	}
	if !seen {
		d.check(c, ledger.CodeEvidence)
		return
	}
	c.Evidence[0] = o.Evidence
	supplier := m.leases[lease-1].host.supplier
	code := m.judgeFine(supplier, reason, o.Evidence.Entry)
	plan, err := d.l.SimulateFine(ledger.Time(m.now), &c.FineCase, false)
	if (err == nil) != (code == ledger.CodeOK) {
		d.t.Fatalf("simulated: %v, want %v", err, code)
	}
	if code == ledger.CodeOK {
		f := &modelFine{supplier: supplier, lease: lease, reason: reason, evidence: o.Evidence.Entry}
		m.fines = append(m.fines, f)
		m.issue(f)
	}
	d.check(c, code)
	if got, _ := d.l.Fine(d.l.FineCount()); code == ledger.CodeOK && got.Plan != plan {
		d.t.Fatalf("issued %+v, simulated was %+v", got.Plan, plan)
	}
}

func (d *driver) proposeFine() {
	m := d.m
	c := &ledger.ProposeFine{FineCase: ledger.FineCase{Supplier: d.supplier(), Reason: rapid.SampledFrom([]ledger.FineReason{ledger.FineBreach, ledger.FineHostLost,
		ledger.FineNetwork}).Draw(d.t, "reason"), Evidence: []ledger.Evidence{{Entry: rapid.Uint64Range(0, uint64(len(m.entries)+3)).Draw(d.t, "entry")}}},
		Operator: d.operator(), Why: "w"}
	code := m.judgeFine(c.Supplier, c.Reason, c.Evidence[0].Entry)
	if code == ledger.CodeOK {
		m.fines = append(m.fines, &modelFine{state: ledger.FineProposedState, supplier: c.Supplier, reason: c.Reason, evidence: c.Evidence[0].Entry,
			proposer: c.Operator, issued: -1, ends: m.now + int64(m.schedule.AppealMs)})
	}
	d.check(c, code)
}

// changeFine approves, appeals or voids.
func (d *driver) changeFine() {
	m := d.m
	id := ledger.FineID(rapid.IntRange(0, len(m.fines)+1).Draw(d.t, "fine"))
	approve := &ledger.ApproveFine{Fine: id, Operator: d.operator()}
	appeal := &ledger.AppealFine{Fine: id, Supplier: d.supplier(), Why: "w"}
	kind := rapid.IntRange(0, 2).Draw(d.t, "change")
	cmd := []ledger.Command{approve, appeal, &ledger.VoidFine{Fine: id, Operator: approve.Operator, Why: "w"}}[kind]
	if id == 0 || int(id) > len(m.fines) {
		d.check(cmd, ledger.CodeNotFound)
		return
	}
	f := m.fines[id-1]
	code := ledger.CodeOK
	switch {
	case f.state > ledger.FineAppealed || m.now >= f.ends:
		code = ledger.CodeClosed
	case kind == 0 && f.state != ledger.FineProposedState:
		code = ledger.CodeClosed
	case kind == 0 && f.proposer == approve.Operator:
		code = ledger.CodeSameOperator
	case kind == 0:
		if code = m.judgeFine(f.supplier, f.reason, f.evidence); code == ledger.CodeOK {
			m.issue(f)
		}
	case kind == 1 && f.supplier != appeal.Supplier:
		code = ledger.CodeForbidden
	case kind == 1 && f.state != ledger.FineInEscrow:
		code = ledger.CodeClosed
	case kind == 1:
		f.state, f.ends = ledger.FineAppealed, m.now+int64(m.schedule.AppealMs)
	default:
		m.void(f)
	}
	d.check(cmd, code)
}
