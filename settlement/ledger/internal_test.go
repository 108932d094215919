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
	var s wide[int]
	pageSize := int(s.rows())
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
		"open leases":     func(l *Ledger) { l.hosts.edit(1).openLeases++ },
		"a lease's key":   func(l *Ledger) { l.texts.text(l.leaseTerms.get(2).texts, leaseTask)[0]++ },
		"a lease's texts": func(l *Ledger) { l.leaseTerms.edit(2).texts = l.leaseTerms.get(1).texts },
		"a lease's job":   func(l *Ledger) { l.leases.edit(2).Job = 1 },
		"its opening":     func(l *Ledger) { l.leaseTerms.edit(2).key = l.leaseTerms.get(1).key },
		"a job's name":    func(l *Ledger) { l.texts.text(l.jobNames.get(2).texts, 0)[0]++ },
		"a job's owner":   func(l *Ledger) { l.jobNames.edit(2).customer++ },
		"a key":           func(l *Ledger) { l.texts.text(l.keys.get(2).texts, 0)[0]++ },
		"a customer":      func(l *Ledger) { l.texts.text(l.customers.get(1).texts, 0)[0]++ },
		"a namespace":     func(l *Ledger) { l.texts.text(l.customers.get(1).texts, 1)[0]++ },
		"a supplier":      func(l *Ledger) { l.texts.text(l.suppliers.get(1).texts, 0)[0]++ },
		"an account":      func(l *Ledger) { l.accounts.edit(9).kind = accountHold },
		"a host name":     func(l *Ledger) { l.hostNames = index{} },
		"a host's key":    func(l *Ledger) { l.hosts.edit(1).publicKey[0]++ },
		"an index":        func(l *Ledger) { l.keyIndex.add(7, 1) },
	} {
		l := make()
		corrupt(l)
		if err := l.Verify(); err == nil {
			t.Errorf("%s out of order: nothing found", name)
		}
	}
}

// changed lets a table of a state yield another row id.
func changed[T any](t *Table[T], id int, change func(*T)) {
	rows := t.Rows
	t.Rows = func(yield func(*T) bool) {
		n := 0
		for row := range rows {
			n++
			other := *row
			if n == id {
				change(&other)
			}
			if !yield(&other) {
				return
			}
		}
	}
}

// twice lets a table yield its last row again.
func twice[T any](t *Table[T]) {
	rows := t.Rows
	t.Count++
	t.Rows = func(yield func(*T) bool) {
		var last T
		for row := range rows {
			if last = *row; !yield(row) {
				return
			}
		}
		yield(&last)
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
	lease := func(change func(*LeaseRow)) func(*State) {
		return func(st *State) {
			changed(&st.Leases, 1, func(s *LeaseState) {
				row := *s.Row
				change(&row)
				s.Row = &row
			})
		}
	}
	terms := func(change func(*LeaseState)) func(*State) {
		return func(st *State) { changed(&st.Leases, 1, change) }
	}
	customer := func(change func(*CustomerState)) func(*State) {
		return func(st *State) { changed(&st.Customers, 1, change) }
	}
	balance := func(id int, to int64) func(*State) {
		return func(st *State) { changed(&st.Balances, id, func(b *int64) { *b = to }) }
	}
	key := func(id int, change func(*KeyState)) func(*State) {
		return func(st *State) { changed(&st.Keys, id, change) }
	}
	opening := l.keys.len()
	for name, change := range map[string]func(*State){
		"time":                 func(st *State) { st.Now = -1 },
		"policy":               func(st *State) { st.Policy.SliceMs = 0 },
		"rate id":              func(st *State) { st.Rates[0].ID = 2 },
		"rate":                 func(st *State) { st.Rates[0].NUSDPerJoule = 0 },
		"no accounts":          func(st *State) { st.Balances = Table[int64]{Rows: func(func(*int64) bool) {}} },
		"account count":        func(st *State) { st.Balances.Count++ },
		"an account of nobody": func(st *State) { twice(&st.Balances) },
		"account of two":       func(st *State) { st.Escrow = 8 },
		"account of no one":    func(st *State) { st.Withdrawing[1] = 99 },
		"negative balance":     balance(8, -1),
		"least balance":        balance(1, math.MinInt64),
		"customer's accounts":  customer(func(c *CustomerState) { c.First++ }),
		"customer's overflow":  customer(func(c *CustomerState) { c.First = math.MaxUint32 }),
		"customer without any": customer(func(c *CustomerState) { c.First = 0 }),
		"customer's name":      customer(func(c *CustomerState) { c.Name = nil }),
		"customer's long name": customer(func(c *CustomerState) { c.Name = make([]byte, NameBytesMax+1) }),
		"customer's namespace": customer(func(c *CustomerState) { c.Namespace = make([]byte, 70_000) }),
		"customer's currency":  customer(func(c *CustomerState) { c.PayIn = 9 }),
		"customer twice":       func(st *State) { twice(&st.Customers) },
		"supplier twice":       func(st *State) { twice(&st.Suppliers) },
		"supplier's account":   func(st *State) { changed(&st.Suppliers, 1, func(s *SupplierState) { s.Joule = 0 }) },
		"supplier's stake":     func(st *State) { changed(&st.Suppliers, 1, func(s *SupplierState) { s.Stake = s.Joule }) },
		"supplier's name":      func(st *State) { changed(&st.Suppliers, 1, func(s *SupplierState) { s.Name = nil }) },
		"host's supplier":      func(st *State) { changed(&st.Hosts, 1, func(h *HostState) { h.Supplier = 7 }) },
		"host's offer":         func(st *State) { changed(&st.Hosts, 1, func(h *HostState) { h.Offer.GPU = -1 }) },
		"host twice":           func(st *State) { twice(&st.Hosts) },
		"job twice":            func(st *State) { twice(&st.Jobs) },
		"job of no one":        func(st *State) { changed(&st.Jobs, 1, func(j *JobState) { j.Customer = 2 }) },
		"job without a lease":  func(st *State) { st.Leases = Table[LeaseState]{Rows: func(func(*LeaseState) bool) {}} },
		"lease count":          func(st *State) { st.Leases.Count = 2 },
		"lease twice":          func(st *State) { twice(&st.Leases) },
		"lease's customer":     lease(func(r *LeaseRow) { r.Customer = 2 }),
		"lease's host":         lease(func(r *LeaseRow) { r.Host = 0 }),
		"lease's job":          lease(func(r *LeaseRow) { r.Job = 2 }),
		"lease without a job":  lease(func(r *LeaseRow) { r.Job = 0 }),
		"lease's rate":         lease(func(r *LeaseRow) { r.LastRate = 2 }),
		"lease's currency":     lease(func(r *LeaseRow) { r.PayIn = 0 }),
		"lease's price":        lease(func(r *LeaseRow) { r.Prices.CPU = PriceMax + 1 }),
		"lease's time":         lease(func(r *LeaseRow) { r.Opened = 2 }),
		"lease's hold":         lease(func(r *LeaseRow) { r.Hold = -1 }),
		"lease's slice": terms(func(s *LeaseState) {
			row := *s.Row
			row.Prices, s.SliceMs, row.Resources.GPUs = Prices{GPU: PriceMax}, SliceMsMax, LeaseGPUsMax
			s.Row = &row
		}),
		"lease's first hold": terms(func(s *LeaseState) { s.FirstHold = -1 }),
		"lease's end":        terms(func(s *LeaseState) { s.Closed = 2 }),
		"lease's task":       terms(func(s *LeaseState) { s.Task = nil }),
		"lease's alloc":      terms(func(s *LeaseState) { s.Alloc = make([]byte, 70_000) }),
		"lease's key":        terms(func(s *LeaseState) { s.Key-- }),
		"lease of no key":    terms(func(s *LeaseState) { s.Key = 0 }),
		"lease beyond keys":  terms(func(s *LeaseState) { s.Key = 99 }),
		"key count":          func(st *State) { st.Keys.Count++ },
		"key twice":          func(st *State) { twice(&st.Keys) },
		"key":                key(1, func(k *KeyState) { k.Key = nil }),
		"long key":           key(1, func(k *KeyState) { k.Key = make([]byte, 70_000) }),
		"long message":       key(1, func(k *KeyState) { k.Msg = make([]byte, 70_000) }),
		"hold of no grant":   key(1, func(k *KeyState) { k.Hold = 1 }),
		"grant of no lease":  key(1, func(k *KeyState) { k.Granted, k.ID = true, 2 }),
		"refused grant":      key(opening, func(k *KeyState) { k.Code = CodeInvalid }),
		"grant taken back":   key(opening, func(k *KeyState) { k.Granted, k.Hold = false, 0 }),
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
	followsFromTheRest := []string{"seed", "customerNames", "namespaces", "supplierNames", "hostNames", "hostKeys",
		"jobs", "jobIndex", "leaseIndex", "pending", "deferred", "keyIndex", "entries", "records", "taken", "touched", "scratch",
		"corrected", "offenceIndex", "evidenceUsed", "unbondingsOf", "finesOf", "due"}
	captured := []string{"now", "policy", "rates", "texts", "accounts", "withdrawing", "escrow", "customers", "suppliers", "hosts",
		"jobNames", "leases", "leaseTerms", "keys", "entryCount", "inForce", "pause", "pauseSince", "override", "convertNext",
		"withdrawals", "corrections", "unbondings", "fines", "offences", "marks"}
	typ := reflect.TypeFor[Ledger]()
	for i := range typ.NumField() {
		name := typ.Field(i).Name
		if slices.Contains(followsFromTheRest, name) == slices.Contains(captured, name) {
			t.Errorf("field %s: capture it in Capture, or rebuild it in FromState, and list it here", name)
		}
	}
}

// The rows of large tables are free of pointers, so that the collector does not
// look at them, and fill cache lines as they were laid out to.
func TestRowsAreLaidOut(t *testing.T) {
	for typ, size := range map[reflect.Type]uintptr{
		reflect.TypeFor[account](): 16, reflect.TypeFor[customer](): 16, reflect.TypeFor[supplier](): 32, reflect.TypeFor[host](): 88,
		reflect.TypeFor[job](): 16, reflect.TypeFor[jobName](): 16, reflect.TypeFor[LeaseRow](): 5 * 64, reflect.TypeFor[leaseTerms](): 32,
		reflect.TypeFor[keyRow](): 64,
	} {
		if typ.Size() != size {
			t.Errorf("%v has %d bytes, want %d", typ, typ.Size(), size)
		}
		var look func(reflect.Type, string)
		look = func(typ reflect.Type, path string) {
			switch typ.Kind() {
			case reflect.Struct:
				for i := range typ.NumField() {
					look(typ.Field(i).Type, path+"."+typ.Field(i).Name)
				}
			case reflect.Array:
				look(typ.Elem(), path)
			case reflect.Pointer, reflect.String, reflect.Slice, reflect.Map, reflect.Interface, reflect.Func, reflect.Chan, reflect.UnsafePointer:
				t.Errorf("%s is a %v", path, typ.Kind())
			}
		}
		look(typ, typ.Name())
	}
	var le LeaseRow
	typ := reflect.TypeOf(le)
	for name, line := range map[string]uintptr{"LastSeq": 0, "Budget": 1, "Carry": 2, "Billed": 3, "Standby": 4} { // what touch reads
		if f, _ := typ.FieldByName(name); f.Offset/64 != line {
			t.Errorf("%s is in line %d, want %d", name, f.Offset/64, line)
		}
	}
}

func TestReplacedPagesServeTheNextCapture(t *testing.T) {
	var s narrow[int]
	for range 2 * s.rows() {
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
