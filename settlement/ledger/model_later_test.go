package ledger_test

import (
	"cmp"
	"fmt"
	"math"
	"math/big"
	"slices"

	"github.com/joulecloud/joule/settlement/ledger"
)

// What the model knows of rates, stakes and fines, written again as plainly as
// possible: nothing is kept up to date that can be added up anew.

type modelRate struct {
	v, set             int64
	proposed, doubtful bool
}

type modelUnbonding struct {
	supplier string
	amount   *big.Int
	matures  int64
	ended    bool
}

type modelFine struct {
	state          ledger.FineState
	supplier       string
	lease          ledger.LeaseID
	reason         ledger.FineReason
	evidence       uint64
	proposer       string
	issued, ends   int64
	taken, remedy  *big.Int
	earned, staked *big.Int         // of taken
	parts          map[int]*big.Int // by index of the unbonding
}

type modelWithdrawal struct {
	from   string
	cur    ledger.Currency
	amount *big.Int
	state  ledger.WithdrawalState
	text   string
}

type modelOffence struct {
	lease  ledger.LeaseID
	reason ledger.FineReason
}

const (
	second = 1000
	day    = 86_400 * second
)

// pause is why nothing converts now.
func (m *model) pause() ledger.PauseReason {
	if len(m.rates) == 0 {
		return ledger.PauseNone
	}
	newest := m.rates[len(m.rates)-1]
	switch {
	case !newest.proposed, m.now < m.override:
		return ledger.PauseNone
	case newest.doubtful:
		return ledger.PauseDoubtful
	case m.guard.MaxAgeMs > 0 && m.now-newest.set > int64(m.guard.MaxAgeMs):
		return ledger.PauseStale
	}
	return ledger.PauseNone
}

// begin is what every command begins with.
func (m *model) begin() {
	if _, ok := m.minutes[m.now/60_000]; !ok {
		m.minutes[m.now/60_000] = m.now
	}
	m.judge()
}

// judge is what happens to rates at every command.
func (m *model) judge() {
	if m.pause() == ledger.PauseNone {
		m.inForce = len(m.rates) - 1
	}
}

func (m *model) addRate(v int64, proposed bool) {
	r := modelRate{v: v, set: m.now, proposed: proposed}
	if average := m.average(); proposed && average != nil && m.guard.DeviationPPM > 0 {
		diff := frac(new(big.Int).Abs(sub(bi(v), average)), average)
		r.doubtful = diff.Cmp(big.NewRat(int64(m.guard.DeviationPPM), 1_000_000)) > 0
	}
	m.rates = append(m.rates, r)
	m.override = 0
	m.judge()
	m.convertWaiting()
}

// average goes through the window millisecond by millisecond, in steps between
// which nothing changes; nil if there was no rate in it.
func (m *model) average() *big.Int {
	sum, n := bi(0), bi(0)
	for i, r := range m.rates {
		end := m.now
		if i+1 < len(m.rates) {
			end = m.rates[i+1].set
		}
		if ms := end - max(r.set, m.now-int64(m.guard.WindowMs)); ms > 0 {
			sum, n = add(sum, new(big.Int).Mul(bi(r.v), bi(ms))), add(n, bi(ms))
		}
	}
	if n.Sign() == 0 {
		return nil
	}
	return new(big.Int).Div(sum, n)
}

// hourly is what a lease can cost in an hour.
func (le *modelLease) hourly() *big.Int { return sliceOf(3_600_000, le.res, le.prices) }

func (m *model) exposure(supplier string) *big.Int {
	sum := bi(0)
	for _, le := range m.leases {
		if le.reason == 0 && le.host.supplier == supplier {
			sum = add(sum, le.hourly())
		}
	}
	return sum
}

// released says whether no stake is asked for a host any more.
func (m *model) released(h *modelHost) bool {
	for _, le := range m.leases {
		if le.host == h && le.reason == 0 {
			return false
		}
	}
	return h.retired
}

func (m *model) required(supplier string, exposure *big.Int) *big.Int {
	hosts := int64(0)
	for _, h := range m.hosts {
		if h.supplier == supplier && !m.released(h) {
			hosts++
		}
	}
	need := new(big.Int).Mul(bi(int64(m.stake.BasePerHost)), bi(hosts))
	if exposure.Sign() == 0 || m.stake.FactorPPM == 0 {
		return need
	}
	value := ceil(frac(new(big.Int).Mul(exposure, bi(int64(m.stake.FactorPPM))), bi(1_000_000)))
	need = add(need, ceil(frac(new(big.Int).Mul(value, bi(1_000_000_000)), bi(m.rate()))))
	return least(need, bi(math.MaxInt64)) // which no stake can ever reach
}

// dated is when an entry counts as made: when the first command came in its
// minute.
func (m *model) dated(entry uint64) int64 { return m.minutes[m.entries[entry-1]/60_000] }

// took notes the entries of the last command.
func (m *model) took(entries []ledger.Entry) {
	for i := range entries {
		m.entries = append(m.entries, int64(entries[i].Time))
	}
}

// judgeFine says whether a fine may be issued now.
func (m *model) judgeFine(supplier string, reason ledger.FineReason, evidence uint64) ledger.Code {
	switch rule := m.rule(reason); {
	case reason.Side() != ledger.SideSupplier || rule == nil:
		return ledger.CodeNotFinable
	case evidence == 0 || evidence > uint64(len(m.entries)), m.now-m.dated(evidence) >= int64(m.stake.UnbondMs):
		return ledger.CodeEvidence
	}
	for _, f := range m.fines {
		if f.evidence == evidence && f.issued >= 0 {
			return ledger.CodeEvidence
		}
	}
	return ledger.CodeOK
}

func (m *model) rule(reason ledger.FineReason) *ledger.FineRule {
	for i := range m.schedule.Rules {
		if m.schedule.Rules[i].Reason == reason {
			return &m.schedule.Rules[i]
		}
	}
	return nil
}

func parts(v *big.Int, ppm uint32) *big.Int {
	return floor(frac(new(big.Int).Mul(v, bi(int64(ppm))), bi(1_000_000)))
}

// issue takes a fine that may be issued.
func (m *model) issue(f *modelFine) {
	rule := m.rule(f.reason)
	exposure, worth := m.exposure(f.supplier), bi(0)
	if f.lease != 0 {
		le := m.leases[f.lease-1]
		worth = floor(frac(new(big.Int).Mul(le.hourly(), bi(int64(rule.RemedyMs))), bi(3_600_000)))
		if le.reason != 0 {
			exposure = add(exposure, le.hourly())
		}
	}
	required := m.required(f.supplier, exposure)
	if f.lease != 0 && m.leases[f.lease-1].reason != 0 && m.released(m.leases[f.lease-1].host) {
		required = least(add(required, bi(int64(m.stake.BasePerHost))), bi(math.MaxInt64))
	}
	prior, today := uint32(0), bi(0)
	for _, old := range m.fines {
		if old == f || old.issued < 0 || old.state == ledger.FineVoided || old.supplier != f.supplier {
			continue
		}
		if m.now-old.issued < int64(m.schedule.RepeatMs) && old.reason == f.reason {
			prior++
		}
		if m.now-old.issued < day {
			today = add(today, old.taken)
		}
	}
	amount := bi(0)
	if prior >= rule.Grace {
		amount = parts(required, rule.SharePPM)
		for range prior - rule.Grace {
			amount = parts(amount, rule.RepeatPPM)
		}
	}
	amount = least(amount, most(bi(0), sub(parts(required, m.schedule.DayCapPPM), today)))
	f.state, f.issued, f.ends = ledger.FineInEscrow, m.now, m.now+int64(m.schedule.AppealMs)
	take := func(account string) *big.Int {
		n := least(amount, m.get(account, ledger.JOULE))
		amount = sub(amount, n)
		m.move(account, "escrow", ledger.JOULE, n)
		return n
	}
	f.earned, f.staked = take("supplier/"+f.supplier), take("stake/"+f.supplier)
	f.taken = add(f.earned, f.staked)
	f.parts = make(map[int]*big.Int)
	order := make([]int, len(m.unbondings))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(m.unbondings[a].matures, m.unbondings[b].matures) })
	for _, i := range order {
		if u := m.unbondings[i]; u.supplier == f.supplier && !u.ended {
			n := least(amount, u.amount)
			m.move("unbonding/"+f.supplier, "escrow", ledger.JOULE, n)
			amount, u.amount, f.parts[i], f.taken = sub(amount, n), sub(u.amount, n), n, add(f.taken, n)
		}
	}
	f.remedy = bi(0)
	if worth.Sign() > 0 {
		f.remedy = least(f.taken, ceil(frac(new(big.Int).Mul(worth, bi(1_000_000_000)), bi(m.rate()))))
	}
}

func (m *model) void(f *modelFine) {
	f.state, f.ends = ledger.FineVoided, m.now
	if f.issued < 0 {
		return
	}
	m.move("escrow", "supplier/"+f.supplier, ledger.JOULE, f.earned)
	m.move("escrow", "stake/"+f.supplier, ledger.JOULE, f.staked)
	for i, u := range m.unbondings {
		if n := f.parts[i]; n != nil && u.ended {
			m.move("escrow", "supplier/"+f.supplier, ledger.JOULE, n)
		} else if n != nil {
			m.move("escrow", "unbonding/"+f.supplier, ledger.JOULE, n)
			u.amount = add(u.amount, n)
		}
	}
}

// tick does what is due, in the order of time, kind and id.
func (m *model) tick() {
	for {
		best, at, kind, do := -1, int64(0), 0, func() {}
		better := func(i int, t int64, k int, f func()) {
			if t <= m.now && (best < 0 || t < at || t == at && (k < kind || k == kind && i < best)) {
				best, at, kind, do = i, t, k, f
			}
		}
		for i, u := range m.unbondings {
			if !u.ended {
				better(i, u.matures, 1, func() {
					u.ended = true
					m.move("unbonding/"+u.supplier, "supplier/"+u.supplier, ledger.JOULE, u.amount)
				})
			}
		}
		for i, f := range m.fines {
			switch f.state {
			case ledger.FineProposedState:
				better(i, f.ends, 2, func() { f.state = ledger.FineLapsed })
			case ledger.FineInEscrow, ledger.FineAppealed:
				better(i, f.ends, 2, func() {
					f.state = ledger.FineFinal
					if f.lease != 0 {
						m.move("escrow", "customer/"+m.leases[f.lease-1].customer, ledger.JOULE, f.remedy)
					}
					m.move("escrow", "treasury", ledger.JOULE, sub(f.taken, f.remedy))
					if f.taken.Sign() > 0 {
						m.convertWaiting()
					}
				})
			}
		}
		if best < 0 {
			return
		}
		do()
	}
}

// laterDifferences says where the ledger and the model disagree on these.
func (m *model) laterDifferences(l *ledger.Ledger) []string {
	var out []string
	want := func(what string, got, want any) {
		if got != want {
			out = append(out, fmt.Sprintf("%s: got %v, want %v", what, got, want))
		}
	}
	if st, ok := l.RateState(); ok {
		want("pause", st.Paused, m.pause())
		want("rate in force", int(st.InForce.ID), m.inForce+1)
		want("doubtful", st.Newest.Doubtful, m.rates[len(m.rates)-1].doubtful)
	}
	for i, w := range m.withdrawals {
		got, _ := l.Withdrawal(ledger.WithdrawalID(i + 1))
		want(fmt.Sprintf("withdrawal %d", i+1), got.State, w.state)
	}
	for i, u := range m.unbondings {
		got, _ := l.Unbonding(ledger.UnbondingID(i + 1))
		want(fmt.Sprintf("unbonding %d", i+1), fmt.Sprint(got.Amount, got.Ended, got.Matures), fmt.Sprint(u.amount, u.ended, u.matures))
	}
	want("fines", int(l.FineCount()), len(m.fines))
	for i, f := range m.fines {
		got, _ := l.Fine(ledger.FineID(i + 1))
		what := fmt.Sprintf("fine %d ", i+1)
		want(what+"state", got.State, f.state)
		want(what+"ends", int64(got.Ends), f.ends)
		if f.issued >= 0 {
			want(what+"takes", fmt.Sprint(got.Plan.Taken(), got.Plan.FromEarnings, got.Plan.FromStake, got.Plan.Remedy),
				fmt.Sprint(f.taken, f.earned, f.staked, f.remedy))
		}
	}
	for id := ledger.SupplierID(1); id <= l.SupplierCount(); id++ {
		s, _ := l.SupplierByID(id)
		st, _ := l.Stake(id)
		want("stake of "+s.Name, fmt.Sprint(st.Required, st.Exposure),
			fmt.Sprint(m.required(s.Name, m.exposure(s.Name)), m.exposure(s.Name)))
	}
	return out
}
