package ledger

import "testing"

// withTables has rows in every table: a withdrawal under way, a correction, two
// unbondings, fines in escrow and proposed, an offence.
func withTables(t *testing.T) *Ledger {
	t.Helper()
	l := New()
	do := func(cmd Command) {
		t.Helper()
		env := &Envelope{Command: cmd}
		if _, ok := cmd.(*UsageBatch); !ok {
			env.Key = string(rune('a' + l.keys.len()))
		}
		if res := l.Apply(1_000_000+Time(l.keys.len()), env); res.Code != CodeOK {
			t.Fatalf("%T: %s", cmd, res.Msg)
		}
		if err := l.Verify(); err != nil {
			t.Fatal(err)
		}
	}
	record := func(hash byte) *UsageBatch {
		return &UsageBatch{Host: 1, Records: []Record{{Lease: 1, Seq: 1, Epoch: 1, Known: KnownAll, Hash: Hash{hash}, Active: Totals{WallMs: 500}}}}
	}
	for _, cmd := range []Command{
		&CreateCustomer{Name: "acme", Namespace: "acme", PayIn: USD}, &CreateSupplier{Name: "s"}, &CreateSupplier{Name: "other"},
		&EnrollHost{Name: "h", Supplier: "s", Class: ClassCrowd, PublicKey: [32]byte{1}},
		&SetOffer{Host: "h", Prices: Prices{Base: 3_600_000_000}}, &ProposeRate{NUSDPerJoule: 50_000_000},
		&Deposit{Customer: "acme", Currency: USD, Amount: nano, Ref: "r"}, &Mint{Amount: 300 * nano, Ref: "r"},
		&Withdraw{Party: PartyTreasury, Currency: JOULE, Amount: 200 * nano, Ref: "r"},
		&SetStakePolicy{StakePolicy{BasePerHost: 10 * nano, UnbondMs: hourMs}},
		&Bond{Supplier: "s", Amount: 50 * nano, From: BondDeposit, Ref: "r"},
		&OpenLease{Host: "h", Namespace: "acme", Job: "j", Group: "g", Task: "t", Alloc: "a", Invocation: "i"},
		record(1), record(2),
		&RequestWithdrawal{Party: PartyCustomer, Name: "acme", Currency: USD, Amount: 1000, To: "x"},
		&Correct{Lease: 1, Entry: 30, Operator: "ann", Why: "w", Legs: []CorrectionLeg{{From: PartyTreasury, To: PartyCustomer, Currency: USD, Amount: 7}}},
		&Unbond{Supplier: "s", Amount: 20 * nano}, &Unbond{Supplier: "s", Amount: 29 * nano},
	} {
		do(cmd)
	}
	o, _ := l.Offence(1, FineEquivocation)
	do(&IssueFine{FineCase{Lease: 1, Reason: FineEquivocation, Evidence: []Evidence{o.Evidence}}})
	do(&ProposeFine{FineCase: FineCase{Supplier: "s", Reason: FineBreach, Evidence: []Evidence{{Entry: 3}}}, Operator: "ann", Why: "w"})
	return l
}

func TestVerifyFindsWhatIsOutOfOrderInTables(t *testing.T) {
	for name, corrupt := range map[string]func(*Ledger){
		"a withdrawal's amount":    func(l *Ledger) { l.withdrawals.edit(1).Amount++ },
		"a withdrawal's state":     func(l *Ledger) { l.withdrawals.edit(1).State = WithdrawalConfirmed },
		"an unbonding's amount":    func(l *Ledger) { l.unbondings.edit(1).Amount-- },
		"an unbonding's end":       func(l *Ledger) { l.unbondings.edit(2).Ended = true },
		"an unbonding's time":      func(l *Ledger) { l.unbondings.edit(2).Matures++ },
		"a fine's state":           func(l *Ledger) { l.fines.edit(1).State = FineFinal },
		"a fine's taking":          func(l *Ledger) { l.fines.edit(1).Plan.FromStake++ },
		"a fine's part":            func(l *Ledger) { l.fines.edit(1).Parts = nil },
		"a fine's remedy":          func(l *Ledger) { l.fines.edit(1).Plan.Remedy = 50 * nano },
		"a fine's window":          func(l *Ledger) { l.fines.edit(1).Ends-- },
		"a proposal's window":      func(l *Ledger) { l.fines.edit(2).Ends++ },
		"used evidence":            func(l *Ledger) { clear(l.evidenceUsed) },
		"what is due":              func(l *Ledger) { l.due = l.due[:1] },
		"the order of what is due": func(l *Ledger) { l.due[0], l.due[1] = l.due[1], l.due[0] },
		"an offence":               func(l *Ledger) { l.offences.edit(1).Lease++ },
		"an exposure":              func(l *Ledger) { l.suppliers.edit(1).exposure++ },
		"a count of hosts":         func(l *Ledger) { l.suppliers.edit(2).hosts++ },
		"a record of fines":        func(l *Ledger) { clear(l.finesOf) },
		"a list of unbondings":     func(l *Ledger) { l.unbondingsOf[1] = l.unbondingsOf[1][:1] },
		"no rate in force":         func(l *Ledger) { l.inForce = 0 },
		"a deferred charge":        func(l *Ledger) { l.deferred++ },
		"a charge in USD deferred": func(l *Ledger) { l.leases.edit(1).Deferred = true },
	} {
		l := withTables(t)
		corrupt(l)
		if err := l.Verify(); err == nil {
			t.Errorf("%s out of order: nothing found", name)
		}
	}
}

func TestRestoreRefusesTablesThatNoLedgerCanHave(t *testing.T) {
	l := withTables(t)
	for name, change := range map[string]func(*State){
		"policy":                  func(st *State) { st.Policy.Guard.WindowMs = 0 },
		"stake policy":            func(st *State) { st.Policy.Stake.BasePerHost = -1 },
		"schedule":                func(st *State) { st.Policy.Fines.Rules = []FineRule{{Reason: FineFunds}} },
		"rate in force":           func(st *State) { st.InForce = 2 },
		"no rate in force":        func(st *State) { st.InForce = 0 },
		"overridden rate":         func(st *State) { st.OverrideRate = 9 },
		"pause":                   func(st *State) { st.Paused = 9 },
		"pause to come":           func(st *State) { st.PausedSince = st.Now + 1 },
		"rate to come":            func(st *State) { st.Rates[0].Set = st.Now + 1 },
		"withdrawal order":        func(st *State) { st.Withdrawals[0].ID = 2 },
		"withdrawal of no one":    func(st *State) { st.Withdrawals[0].Account = 999 },
		"withdrawal's currency":   func(st *State) { st.Withdrawals[0].Currency = JOULE },
		"withdrawal of nothing":   func(st *State) { st.Withdrawals[0].Amount = 0 },
		"correction of no lease":  func(st *State) { st.Corrections[0].Lease = 2 },
		"correction without legs": func(st *State) { st.Corrections[0].Legs = nil },
		"unbonding of no one":     func(st *State) { st.Unbondings[0].Supplier = 9 },
		"unbonding without stake": func(st *State) { st.Unbondings[0].Supplier = 2 },
		"unbonding of less":       func(st *State) { st.Unbondings[0].Amount = -1 },
		"fine order":              func(st *State) { st.Fines[1].ID = 1 },
		"fine of no one":          func(st *State) { st.Fines[0].Plan.Supplier = 0 },
		"fine's remedy":           func(st *State) { st.Fines[0].Plan.Remedy = 1 << 60 },
		"fine's remedy to no one": func(st *State) { st.Fines[0].Plan.Customer = 0 },
		"fine's part of another":  func(st *State) { st.Fines[0].Parts = []UnbondingPart{{Unbonding: 9, Amount: 1}} },
		"fine that wraps":         func(st *State) { st.Fines[0].Plan.FromStake = 1 << 62; st.Fines[0].Plan.FromEarnings = 1 << 62 },
		"fine's state":            func(st *State) { st.Fines[0].State = 9 },
		"proposal issued":         func(st *State) { st.Fines[1].Issued = 5 },
		"fine without evidence":   func(st *State) { st.Fines[0].Case.Evidence = nil },
		"offence on no lease":     func(st *State) { st.Offences[0].Lease = 7 },
		"offence twice":           func(st *State) { st.Offences = append(st.Offences, st.Offences[0]) },
		"offence to come":         func(st *State) { st.Offences[0].Evidence.Entry = st.EntryCount + 1 },
		"mark to come":            func(st *State) { st.Marks[0].Entries = st.EntryCount + 1 },
		"mark order":              func(st *State) { st.Marks = append(st.Marks, st.Marks[0]) },
	} {
		st := l.State()
		change(st)
		if _, err := FromState(st); err == nil {
			t.Errorf("%s: restored", name)
		}
	}
	again, err := FromState(l.State())
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Verify(); err != nil {
		t.Error(err)
	}
}

// Items come out in the order of (at, kind, id), whatever order they came in.
func TestDueComesInOrder(t *testing.T) {
	var h dueHeap
	const n = 500
	for i := range uint32(n) {
		x := i * 7919 % n
		h.push(dueItem{at: Time(x / 10), kind: uint8(x % 2), id: x})
	}
	last := h.pop()
	for i := 1; i < n; i++ {
		next := h.pop()
		if last.compare(next) >= 0 {
			t.Fatalf("%+v came before %+v", last, next)
		}
		last = next
	}
	if len(h) != 0 {
		t.Errorf("%d items are left", len(h))
	}
}

// Entries are dated to the minute that they were made in, and what evidence
// can't reach back to is forgotten.
func TestEntriesAreDated(t *testing.T) {
	l := New()
	l.policy.Stake.UnbondMs = 10 * markMs
	type made struct {
		entry uint64
		at    Time
	}
	var all []made
	now := Time(50 * markMs)
	for i := range 40 {
		now += Time(i) * markMs / 13
		l.Apply(now, &Envelope{Key: string(rune('A' + i)), Command: &CreateSupplier{Name: string(rune('A'+i%26)) + string(rune('a'+i/26))}})
		all = append(all, made{l.entryCount, now})
		for _, m := range all {
			at, ok := l.dated(m.entry)
			if age := now - m.at; age < Time(l.policy.Stake.UnbondMs)-markMs && !ok {
				t.Fatalf("entry %d of %d is forgotten after %d ms", m.entry, m.at, age)
			}
			if ok && (at > m.at || m.at-at >= markMs) {
				t.Fatalf("entry %d of %d is dated %d", m.entry, m.at, at)
			}
		}
	}
	if len(l.marks) > 12 {
		t.Errorf("%d marks are kept for 10 minutes", len(l.marks))
	}
}
