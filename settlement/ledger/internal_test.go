package ledger

import (
	"math"
	"math/big"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestIDSetIsAnOrderedSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s idSet
		want := make(map[uint64]bool)
		id := rapid.Uint64Range(0, 20_000)
		for range rapid.IntRange(0, 40).Draw(t, "ops") {
			v := id.Draw(t, "id")
			if rapid.Bool().Draw(t, "add") {
				s.add(v)
				want[v] = true
			} else {
				s.remove(v)
				delete(want, v)
			}
		}
		var got []uint64
		for v, ok := s.next(0); ok; v, ok = s.next(v + 1) {
			got = append(got, v)
		}
		var ids []uint64
		for v := range want {
			ids = append(ids, v)
		}
		slices.Sort(ids)
		if !slices.Equal(got, ids) || s.n != len(ids) {
			t.Fatalf("got %v (%d), want %v", got, s.n, ids)
		}
	})
}

func TestSlabKeepsItsRows(t *testing.T) {
	var s slab[int]
	first, p := s.add()
	*p = 7
	for i := 2; i <= 3*pageSize; i++ {
		id, row := s.add()
		if id != i {
			t.Fatalf("row %d got id %d", i, id)
		}
		*row = i
	}
	if s.edit(first) != p || *p != 7 || *s.get(pageSize + 1) != pageSize+1 || s.len() != 3*pageSize {
		t.Error("rows moved")
	}
}

// The 128-bit arithmetic against math/big, over the whole range of its inputs.
func TestArithmeticMatchesBig(t *testing.T) {
	num := func(v uint64) *big.Int { return new(big.Int).SetUint64(v) }
	clamp := func(v *big.Int) int64 {
		if !v.IsInt64() {
			return math.MaxInt64
		}
		return v.Int64()
	}
	billion := num(nano)
	rapid.Check(t, func(t *rapid.T) {
		amount := rapid.Int64Range(0, math.MaxInt64).Draw(t, "amount")
		rate := NUSD(rapid.Int64Range(1, math.MaxInt64).Draw(t, "rate"))
		carry := rapid.Uint64().Draw(t, "carry")
		n := new(big.Int).Mul(num(uint64(amount)), billion)
		n.Add(n, num(carry))
		q, r := new(big.Int).QuoRem(n, num(uint64(rate)), new(big.Int))
		nj, rem, ok := gross(NUSD(amount), carry, rate)
		if ok != q.IsInt64() || ok && (int64(nj) != q.Int64() || rem != r.Uint64()) {
			t.Fatalf("gross(%d, %d, %d) = %d, %d, %v, want %d, %d", amount, carry, rate, nj, rem, ok, q, r)
		}
		up := new(big.Int).Set(q)
		if r.Sign() > 0 {
			up.Add(up, num(1))
		}
		if got := jouleFor(NUSD(amount), carry, rate); got != clamp(up) {
			t.Fatalf("jouleFor(%d, %d, %d) = %d, want %d", amount, carry, rate, got, up)
		}
		w := new(big.Int).Mul(num(uint64(amount)), num(uint64(rate)))
		if got := worth(amount, rate); int64(got) != clamp(w.Quo(w, billion)) {
			t.Fatalf("worth(%d, %d) = %d, want %d", amount, rate, got, w)
		}
		most := affordable(NJ(amount), carry, rate)
		if most >= 0 {
			if nj, _, ok := gross(most, carry, rate); !ok || int64(nj) > amount {
				t.Fatalf("affordable(%d, %d, %d) = %d, which costs %d", amount, carry, rate, most, nj)
			}
		}
		if most < math.MaxInt64 {
			if nj, _, ok := gross(most+1, carry, rate); ok && int64(nj) <= amount {
				t.Fatalf("affordable(%d, %d, %d) = %d, but one more costs %d too", amount, carry, rate, most, nj)
			}
		}

		total := Totals{WallMs: rapid.Uint64Max(1<<63).Draw(t, "wall"), CPUMs: rapid.Uint64().Draw(t, "cpu"),
			GPUMs: rapid.Uint64().Draw(t, "gpu"), MemoryMiBMs: rapid.Uint64().Draw(t, "mem")}
		price := rapid.Int64Range(0, int64(PriceMax))
		p := Prices{Base: NUSD(price.Draw(t, "base")), CPU: NUSD(price.Draw(t, "pcpu")), GPU: NUSD(price.Draw(t, "pgpu")), Memory: NUSD(price.Draw(t, "pmem"))}
		sum := new(big.Int)
		for _, term := range [][3]uint64{{total.WallMs, uint64(p.Base), 1024}, {total.CPUMs, uint64(p.CPU), 1024},
			{total.GPUMs, uint64(p.GPU), 1024}, {total.MemoryMiBMs, uint64(p.Memory), 1}} {
			v := new(big.Int).Mul(num(term[0]), num(term[1]))
			sum.Add(sum, v.Mul(v, num(term[2])))
		}
		if got := cost(&total, &p); int64(got) != clamp(sum.Quo(sum, num(costDenominator))) {
			t.Fatalf("cost(%+v, %+v) = %d, want %d", total, p, got, sum)
		}

		res := Resources{MilliCores: rapid.Uint32Max(LeaseMilliCoresMax).Draw(t, "cores"),
			MemoryMiB: rapid.Uint32Max(LeaseMemoryMiBMax).Draw(t, "mib"), GPUs: rapid.Uint32Max(LeaseGPUsMax).Draw(t, "gpus")}
		ms := rapid.Uint32Range(1, SliceMsMax).Draw(t, "slice")
		slice := new(big.Rat)
		for _, term := range []struct {
			quantity uint64
			price    NUSD
			per      int64
		}{{1, p.Base, 1}, {uint64(res.MilliCores), p.CPU, 1000}, {uint64(res.GPUs), p.GPU, 1}, {uint64(res.MemoryMiB), p.Memory, 1024}} {
			v := new(big.Int).Mul(num(term.quantity), num(uint64(term.price)))
			slice.Add(slice, new(big.Rat).SetFrac(v.Mul(v, num(uint64(ms))), big.NewInt(term.per*3_600_000)))
		}
		want := new(big.Int).Add(slice.Num(), new(big.Int).Sub(slice.Denom(), num(1)))
		want.Quo(want, slice.Denom())
		if got, ok := sliceCost(ms, res, &p); ok != want.IsInt64() || ok && int64(got) != want.Int64() {
			t.Fatalf("sliceCost(%d, %+v, %+v) = %d, %v, want %d", ms, res, p, got, ok, want)
		}
	})
}

func TestMoneyIsExact(t *testing.T) {
	for _, tt := range []struct {
		v    int64
		cur  Currency
		want string
	}{
		{0, USD, "0.00 USD"}, {100_000_000, USD, "0.10 USD"}, {1, USD, "0.000000001 USD"}, {-2_500_000_000, JOULE, "-2.50 JOULE"},
		{math.MaxInt64, USD, "9223372036.854775807 USD"}, {math.MinInt64, USD, "-9223372036.854775808 USD"},
	} {
		if got := money(tt.v, tt.cur); got != tt.want {
			t.Errorf("money(%d, %d) = %q, want %q", tt.v, tt.cur, got, tt.want)
		}
	}
}

// Verify is worth something: it finds what is out of order.
func TestVerifyFindsCorruption(t *testing.T) {
	make := func() *Ledger {
		l := New()
		for i, cmd := range []Command{
			&CreateCustomer{Name: "acme", Namespace: "acme", PayIn: USD}, &CreateSupplier{Name: "s"},
			&EnrollHost{Name: "h", Supplier: "s", Class: ClassCrowd, PublicKey: [32]byte{1}},
			&SetOffer{Host: "h", Prices: Prices{Base: 3_600_000_000}}, &SetRate{NUSDPerJoule: 7},
			&Deposit{Customer: "acme", Currency: USD, Amount: nano, Ref: "r"}, &Mint{Amount: JouleSupplyMax, Ref: "r"},
			&OpenLease{Host: "h", Namespace: "acme", Job: "j", Group: "g", Task: "t", Alloc: "a", Invocation: "i", Budget: nano},
			&OpenLease{Host: "h", Namespace: "acme", Job: "k", Group: "g", Task: "t", Alloc: "b", Invocation: "i"},
		} {
			if res := l.Apply(1, &Envelope{Key: string(rune('a' + i)), Command: cmd}); res.Code != CodeOK {
				t.Fatalf("%T: %s", cmd, res.Msg)
			}
		}
		l.Apply(5000, &Envelope{Command: &UsageBatch{Host: 1, Records: []Record{{Lease: 1, Seq: 1, Epoch: 1, Known: KnownAll, Active: Totals{WallMs: 2000}}}}})
		return l
	}
	if err := make().Verify(); err != nil {
		t.Fatal(err)
	}
	for name, corrupt := range map[string]func(*Ledger){
		"a balance":       func(l *Ledger) { l.accounts.edit(8).balance++ },
		"a swapped pair":  func(l *Ledger) { l.accounts.edit(8).balance++; l.accounts.edit(10).balance-- },
		"a negative":      func(l *Ledger) { l.accounts.edit(4).balance -= nano; l.accounts.edit(8).balance += nano },
		"a charge":        func(l *Ledger) { l.leases.edit(1).Charged-- },
		"an overcharge":   func(l *Ledger) { l.leases.edit(1).Charged++ },
		"a hold":          func(l *Ledger) { l.leases.edit(1).Hold++ },
		"a payment":       func(l *Ledger) { l.leases.edit(1).Paid++ },
		"a carry":         func(l *Ledger) { l.leases.edit(1).Carry++ },
		"a fee":           func(l *Ledger) { l.leases.edit(1).Fee++ },
		"billed time":     func(l *Ledger) { l.leases.edit(2).Billed.CPUMs++ },
		"waiting":         func(l *Ledger) { l.leases.edit(1).Unconverted++ },
		"a waiting set":   func(l *Ledger) { l.pending.add(1) },
		"a job":           func(l *Ledger) { l.jobs.edit(1).held++ },
		"a budget":        func(l *Ledger) { l.leases.edit(1).Budget = 1 },
		"a closed lease":  func(l *Ledger) { l.leases.edit(1).Reason = CloseFinished },
		"open leases":     func(l *Ledger) { l.hosts[0].openLeases++ },
		"a lease's key":   func(l *Ledger) { l.leaseNames.edit(2).Task = "other" },
		"a lease's job":   func(l *Ledger) { l.leaseNames.edit(2).Job = "j" },
		"a key":           func(l *Ledger) { l.keys.edit(2).key = "other" },
		"an account name": func(l *Ledger) { l.accountNames[8] = "other" },
		"a host name":     func(l *Ledger) { delete(l.hostNames, "h") },
	} {
		l := make()
		corrupt(l)
		if err := l.Verify(); err == nil {
			t.Errorf("%s out of order: nothing found", name)
		}
	}
}

func TestRestoreRefusesWhatNoLedgerCanBe(t *testing.T) {
	l := New()
	for i, cmd := range []Command{
		&CreateCustomer{Name: "acme", Namespace: "acme", PayIn: USD}, &CreateSupplier{Name: "s"},
		&EnrollHost{Name: "h", Supplier: "s", Class: ClassCrowd, PublicKey: [32]byte{1}},
		&SetOffer{Host: "h", Prices: Prices{Base: 3_600_000_000}}, &SetRate{NUSDPerJoule: 7},
		&Deposit{Customer: "acme", Currency: USD, Amount: nano, Ref: "r"},
		&OpenLease{Host: "h", Namespace: "acme", Job: "j", Group: "g", Task: "t", Alloc: "a", Invocation: "i"},
	} {
		l.Apply(1, &Envelope{Key: string(rune('a' + i)), Command: cmd})
	}
	lease := func(change func(*LeaseRow, *LeaseNames)) func(*State) {
		return func(st *State) {
			st.Leases = func(yield func(*LeaseRow, *LeaseNames) bool) {
				row, names := *l.leases.edit(1), *l.leaseNames.edit(1)
				change(&row, &names)
				yield(&row, &names)
			}
		}
	}
	for name, change := range map[string]func(*State){
		"time":                func(st *State) { st.Now = -1 },
		"policy":              func(st *State) { st.Policy.SliceMs = 0 },
		"rate id":             func(st *State) { st.Rates[0].ID = 2 },
		"rate":                func(st *State) { st.Rates[0].NUSDPerJoule = 0 },
		"no accounts":         func(st *State) { st.Accounts = nil },
		"account order":       func(st *State) { st.Accounts[1].ID = 1 },
		"account twice":       func(st *State) { st.Accounts[8].Name, st.Accounts[8].Currency = "customer/acme", USD },
		"negative balance":    func(st *State) { st.Accounts[7].Balance = -1 },
		"least balance":       func(st *State) { st.Accounts[0].Balance = math.MinInt64 },
		"system account":      func(st *State) { st.Accounts[3].Name = "other" },
		"customer's account":  func(st *State) { st.Accounts[7].Name = "customer/other" },
		"customer twice":      func(st *State) { st.Customers = append(st.Customers, st.Customers[0]) },
		"customer's currency": func(st *State) { st.Customers[0].PayIn = 9 },
		"supplier twice":      func(st *State) { st.Suppliers = append(st.Suppliers, st.Suppliers[0]) },
		"host's supplier":     func(st *State) { st.Hosts[0].Supplier = 7 },
		"host's offer":        func(st *State) { st.Hosts[0].Offer.GPU = -1 },
		"lease count":         func(st *State) { st.LeaseCount = 2 },
		"lease's customer":    lease(func(r *LeaseRow, _ *LeaseNames) { r.Customer = 2 }),
		"lease's host":        lease(func(r *LeaseRow, _ *LeaseNames) { r.Host = 0 }),
		"lease's rate":        lease(func(r *LeaseRow, _ *LeaseNames) { r.LastRate = 2 }),
		"lease's currency":    lease(func(r *LeaseRow, _ *LeaseNames) { r.PayIn = 0 }),
		"lease's price":       lease(func(r *LeaseRow, _ *LeaseNames) { r.Prices.CPU = PriceMax + 1 }),
		"lease's time":        lease(func(r *LeaseRow, _ *LeaseNames) { r.Opened = 2 }),
		"lease's hold":        lease(func(r *LeaseRow, _ *LeaseNames) { r.Hold = -1 }),
		"lease's slice": lease(func(r *LeaseRow, _ *LeaseNames) {
			r.Prices, r.SliceMs, r.Resources.GPUs = Prices{GPU: PriceMax}, SliceMsMax, LeaseGPUsMax
		}),
		"key count": func(st *State) { st.KeyCount++ },
		"key": func(st *State) {
			st.Keys = func(yield func(KeyState) bool) { yield(KeyState{}) }
		},
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

// A capture has every table that a state is made of. Whoever adds a field to
// the ledger says here what becomes of it.
func TestCaptureKnowsEveryField(t *testing.T) {
	followsFromTheRest := []string{"accountIndex", "customerNames", "namespaces", "supplierNames", "hostNames", "hostKeys",
		"jobs", "jobIndex", "leaseIndex", "pending", "deferred", "keyIndex", "entries", "records", "taken", "touched",
		"corrected", "offenceIndex", "evidenceUsed", "due"}
	captured := []string{"now", "policy", "rates", "accounts", "accountNames", "customers", "suppliers", "hosts",
		"leases", "leaseNames", "keys", "entryCount", "inForce", "pause", "pauseSince", "override", "convertNext",
		"withdrawals", "corrections", "unbondings", "fines", "offences", "marks"}
	typ := reflect.TypeFor[Ledger]()
	for i := range typ.NumField() {
		name := typ.Field(i).Name
		if slices.Contains(followsFromTheRest, name) == slices.Contains(captured, name) {
			t.Errorf("field %s: capture it in Capture, or rebuild it in FromState, and list it here", name)
		}
	}
}

func TestReplacedPagesServeTheNextCapture(t *testing.T) {
	var s slab[int]
	for range 2 * pageSize {
		s.add()
	}
	c := s.capture()
	*s.edit(1), *s.edit(2) = 7, 8
	if got := [...]int{*c.get(1), *c.get(2), *s.get(1), *s.get(2)}; got != [...]int{0, 0, 7, 8} {
		t.Errorf("capture and table have %v", got)
	}
	if len(s.old) != 1 {
		t.Fatalf("%d pages were copied, want 1", len(s.old))
	}
	was := s.old[0]
	s.release()
	c = s.capture()
	*s.edit(1) = 9
	if s.pages[0] != was || *c.get(1) != 7 || *s.get(1) != 9 || *s.get(2) != 8 {
		t.Errorf("capture has %d, table has %d and %d", *c.get(1), *s.get(1), *s.get(2))
	}
}
