package ledger_test

import (
	"fmt"
	"math"
	"math/big"
	"testing"

	"github.com/joulecloud/joule/settlement/ledger"
)

// M1: amounts are int64; overflow is an error, never a wrap; JOULE is capped.
func TestM1_AmountsNeverWrap(t *testing.T) {
	b := newBench(t, ledger.USD, ledger.Prices{Base: ledger.PriceMax, CPU: ledger.PriceMax, GPU: ledger.PriceMax, Memory: ledger.PriceMax})
	b.must(&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: math.MaxInt64 - 5, Ref: "r"})
	b.refused(&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: 6, Ref: "r"}, ledger.CodeOverflow)
	b.refused(&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: math.MaxInt64, Ref: "r"}, ledger.CodeOverflow)
	b.refused(&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: math.MinInt64, Ref: "r"}, ledger.CodeInvalid)
	b.must(&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: 5, Ref: "r"})
	b.refused(&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: 1, Ref: "r"}, ledger.CodeOverflow)
	b.refused(&ledger.Mint{Amount: ledger.JouleSupplyMax + 1, Ref: "r"}, ledger.CodeInsufficient)
	b.must(&ledger.Mint{Amount: ledger.JouleSupplyMax, Ref: "r"})
	b.refused(&ledger.Mint{Amount: 1, Ref: "r"}, ledger.CodeInsufficient)

	// The dearest task there can be costs more per slice than the ledger holds.
	b.must(&ledger.SetPolicy{SliceMs: ledger.SliceMsMax})
	all := func(c *ledger.OpenLease) {
		c.Resources = ledger.Resources{MilliCores: ledger.LeaseMilliCoresMax, MemoryMiB: ledger.LeaseMemoryMiBMax, GPUs: ledger.LeaseGPUsMax}
	}
	b.refused(openCommand("dear", all), ledger.CodeOverflow)

	// A lease whose claims and time are beyond all measure: its cost saturates,
	// what is charged is what there was.
	b.must(&ledger.SetPolicy{SliceMs: 1})
	id := b.open("long", func(c *ledger.OpenLease) {
		all(c)
		c.Resources.MilliCores = 1000
		c.Resources.GPUs = 1
		c.Resources.MemoryMiB = 1
	})
	b.now = math.MaxInt64
	most := uint64(math.MaxUint64)
	res := b.usage(b.record(id, ledger.Totals{WallMs: most, CPUMs: most, GPUMs: most, MemoryMiBMs: most}, false))
	if res.Status != ledger.RecordAccepted || res.Stop != ledger.CloseFunds || res.Charged != math.MaxInt64 {
		t.Errorf("got %+v, want everything charged and a stop", res)
	}
	b.refused(&ledger.TopUpLease{Lease: id, Slices: math.MaxUint32}, ledger.CodeInsufficient)
	b.refused(&ledger.SetRate{NUSDPerJoule: math.MinInt64}, ledger.CodeInvalid)
	b.must(&ledger.SetRate{NUSDPerJoule: math.MaxInt64})
	b.must(&ledger.SetRate{NUSDPerJoule: 1})
	b.must(&ledger.CloseLease{Lease: id, Reason: ledger.CloseOperator})
	if le := b.lease(id); le.CostNUSD != math.MaxInt64 || le.ChargedNUSD != math.MaxInt64 {
		t.Errorf("cost %d, charged %d, want both %d", le.CostNUSD, le.ChargedNUSD, int64(math.MaxInt64))
	}
}

// M2: money moves only by transfers between two accounts of one currency, and
// all balances of a currency sum to zero.
func TestM2_TransfersAloneMoveMoney(t *testing.T) {
	b := newBench(t, ledger.USD, ledger.Prices{Base: 3_600_000_000})
	b.must(&ledger.Mint{Amount: joule, Ref: "r"})
	b.must(&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: usd, Ref: "r"})
	id := b.open("a")
	b.wall(id, 5000, true)
	balances := make(map[ledger.AccountID]int64)
	for i, e := range b.l.TakeEntries() {
		if e.Seq != uint64(i+1) {
			t.Errorf("entry %d has sequence %d", i+1, e.Seq)
		}
		if e.Kind != ledger.EntryTransfer {
			continue
		}
		from, _ := b.l.Account(e.Transfer.Debit)
		to, _ := b.l.Account(e.Transfer.Credit)
		if e.Transfer.Amount <= 0 || e.Transfer.Reason == 0 || from.Currency != e.Transfer.Currency || to.Currency != e.Transfer.Currency || from == to {
			t.Errorf("transfer %+v from %+v to %+v", e.Transfer, from, to)
		}
		balances[e.Transfer.Debit] -= e.Transfer.Amount
		balances[e.Transfer.Credit] += e.Transfer.Amount
	}
	for id := ledger.AccountID(1); id <= b.l.AccountCount(); id++ {
		if a, _ := b.l.Account(id); a.Balance != balances[id] {
			t.Errorf("account %q: balance %d, its transfers sum to %d", a.Name, a.Balance, balances[id])
		} else if a.Balance < 0 && a.Name != "external" && a.Name != "issuance" {
			t.Errorf("account %q: balance %d", a.Name, a.Balance)
		}
	}
	if u, j := b.l.Sums(); u != 0 || j != 0 {
		t.Errorf("sums %d, %d, want 0", u, j)
	}
}

// M3: whatever the steps, the total charged is the floor of the exact cost.
func TestM3_ChargedIsTheFloorOfTheExactCost(t *testing.T) {
	prices := ledger.Prices{Base: 7, CPU: 40_000_001, GPU: 3, Memory: 5_000_011}
	b := newBench(t, ledger.USD, prices)
	b.must(&ledger.Mint{Amount: 1000 * joule, Ref: "r"})
	b.must(&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: 100 * usd, Ref: "r"})
	id := b.open("a", func(c *ledger.OpenLease) { c.Resources.GPUs = 1 })
	var totals ledger.Totals
	var sum ledger.NUSD
	for i := range uint64(300) {
		totals.WallMs += i*i%977 + 1
		totals.CPUMs += i * i % 977
		totals.GPUMs += i % 5
		totals.MemoryMiBMs += 3*i + 1
		b.now = max(b.now, b.lease(id).Opened+ledger.Time(totals.WallMs))
		sum += b.usage(b.record(id, totals, i == 299)).Charged
	}
	exact := new(big.Rat)
	for _, d := range []struct {
		quantity uint64
		price    ledger.NUSD
		per      int64
	}{{totals.WallMs, prices.Base, 3_600_000}, {totals.CPUMs, prices.CPU, 3_600_000}, {totals.GPUMs, prices.GPU, 3_600_000},
		{totals.MemoryMiBMs, prices.Memory, 3_600_000 * 1024}} {
		exact.Add(exact, new(big.Rat).SetFrac(new(big.Int).Mul(new(big.Int).SetUint64(d.quantity), big.NewInt(int64(d.price))), big.NewInt(d.per)))
	}
	want := new(big.Int).Quo(exact.Num(), exact.Denom()).Int64()
	if le := b.lease(id); int64(sum) != want || int64(le.ChargedNUSD) != want || le.Billed != totals {
		t.Errorf("charged %d in steps, %d in all, want %d", sum, le.ChargedNUSD, want)
	}
}

// M4: USD becomes JOULE at the rate in force, whose id is on the entries; no
// remainder is lost over many charges; the fee is the floor of its share.
func TestM4_ConversionLosesNothing(t *testing.T) {
	const rate = 7_777_777_777 // 7.78 USD per JOULE: one nUSD is a fraction of a nJ
	b := newBench(t, ledger.USD, ledger.Prices{Base: 36_000_000})
	b.must(&ledger.Mint{Amount: joule, Ref: "r"})
	b.must(&ledger.SetPolicy{FeePPM: 33_333, SliceMs: 1000})
	b.must(&ledger.SetRate{NUSDPerJoule: rate})
	b.must(&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: usd, Ref: "r"})
	id := b.open("a")
	b.l.TakeEntries()
	for ms := uint64(1); ms <= 500; ms++ {
		b.wall(id, ms, ms == 500) // 10 nUSD each, worth 1.28 nJ
	}
	le := b.lease(id)
	gross := int64(le.ChargedNUSD) * joule / rate
	if got := int64(le.PaidNJ + le.FeeNJ); got != gross {
		t.Errorf("converted %d nUSD to %d nJ, want %d", le.ChargedNUSD, got, gross)
	}
	if want := gross * 33_333 / 1_000_000; int64(le.FeeNJ) != want {
		t.Errorf("fee %d of %d nJ, want %d", le.FeeNJ, gross, want)
	}
	if got := b.balance("treasury", ledger.USD); got != int64(le.ChargedNUSD) {
		t.Errorf("treasury has %d nUSD, want %d", got, le.ChargedNUSD)
	}
	if got := b.balance("treasury", ledger.JOULE); got != joule-gross {
		t.Errorf("treasury has %d nJ, want %d", got, joule-gross)
	}
	for _, e := range b.l.TakeEntries() {
		if r := e.Transfer.Reason; (r == ledger.ReasonCharge || r == ledger.ReasonPay || r == ledger.ReasonFee) && e.Transfer.Rate != 2 {
			t.Errorf("transfer %+v does not name rate 2", e.Transfer)
		}
	}
}

// M4: the remainder stays on the lease across a change of the rate.
func TestM4_RemainderSurvivesARateChange(t *testing.T) {
	b := newBench(t, ledger.USD, ledger.Prices{Base: 3_600_000}) // 1 nUSD per ms
	b.must(&ledger.Mint{Amount: joule, Ref: "r"})
	b.must(&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: usd, Ref: "r"})
	b.must(&ledger.SetRate{NUSDPerJoule: 3 * usd}) // 1/3 nJ per nUSD
	id := b.open("a")
	b.wall(id, 5, false) // 5/3: pays 1, keeps 2 nUSD
	if le := b.lease(id); le.PaidNJ != 1 || le.Carry != 2*usd {
		t.Fatalf("paid %d, carry %d, want 1 and %d", le.PaidNJ, le.Carry, 2*usd)
	}
	b.must(&ledger.SetRate{NUSDPerJoule: usd / 2}) // 2 nJ per nUSD
	b.wall(id, 6, true)                            // 1 new and 2 kept: 6 nJ
	if le := b.lease(id); le.PaidNJ != 7 || le.Carry != 0 || le.LastRate != 3 {
		t.Errorf("paid %d, carry %d at rate %d, want 7, 0 at 3", le.PaidNJ, le.Carry, le.LastRate)
	}
}

// M5: no free run: a lease opens only with its first slice held, is told to
// stop before its hold is used up, and is never charged beyond it.
func TestM5_ALeaseRunsOnlyWithinItsHold(t *testing.T) {
	b := newBench(t, ledger.USD, ledger.Prices{Base: 3_600_000_000}) // 1,000,000 nUSD per second
	b.must(&ledger.Mint{Amount: 100 * joule, Ref: "r"})
	b.must(&ledger.SetPolicy{SliceMs: 10_000})
	b.must(&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: 9_999_999, Ref: "r"})
	b.refused(openCommand("a"), ledger.CodeInsufficient)
	b.must(&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: 25_000_001, Ref: "r"})
	id := b.open("a")
	stopped := uint64(0)
	for ms := uint64(2000); ; ms += 2000 {
		res := b.wall(id, ms, false)
		le := b.lease(id)
		if le.CostNUSD != le.ChargedNUSD {
			t.Fatalf("after %d ms: %d of %d nUSD not charged", ms, le.CostNUSD-le.ChargedNUSD, le.CostNUSD)
		}
		if res.Stop == ledger.CloseFunds {
			stopped = ms
			if le.Hold <= 0 {
				t.Errorf("stopped with a hold of %d", le.Hold)
			}
			break
		}
		if le.Hold < int64(le.SliceNUSD) {
			t.Fatalf("after %d ms: goes on with a hold of %d, a slice costs %d", ms, le.Hold, le.SliceNUSD)
		}
	}
	if stopped != 26_000 { // 35 s of funds, of which less than 10 s are left
		t.Errorf("stopped after %d ms, want 26000", stopped)
	}
	b.wall(id, stopped+3000, true)
	if le := b.lease(id); le.Reason != ledger.CloseFunds || le.ChargedNUSD != 29_000_000 {
		t.Errorf("closed for %d with %d nUSD charged, want funds with 29000000", le.Reason, le.ChargedNUSD)
	}
	if got := b.balance("customer/acme", ledger.USD); got != 6_000_000 {
		t.Errorf("the customer has %d nUSD left, want 6000000", got)
	}
}

// M6, its core: without JOULE in the treasury charges accrue in USD; once there
// is JOULE they convert at the rate then in force.
func TestM6_AccruedChargesConvertOnRecovery(t *testing.T) {
	b := newBench(t, ledger.USD, ledger.Prices{Base: 3_600_000_000})
	b.must(&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: usd, Ref: "r"})
	id := b.open("a")
	b.wall(id, 3000, false)
	b.wall(id, 4000, true)
	if le := b.lease(id); le.ChargedNUSD != 4_000_000 || le.UnconvertedNUSD != 4_000_000 || le.PaidNJ != 0 {
		t.Errorf("charged %d, unconverted %d, paid %d, want 4000000, 4000000, 0", le.ChargedNUSD, le.UnconvertedNUSD, le.PaidNJ)
	}
	if got := b.balance("accrued", ledger.USD); got != 4_000_000 {
		t.Errorf("accrued %d nUSD, want 4000000", got)
	}
	b.must(&ledger.SetRate{NUSDPerJoule: 100_000_000})
	b.must(&ledger.Mint{Amount: joule, Ref: "r"})
	if le := b.lease(id); le.UnconvertedNUSD != 0 || le.PaidNJ != 40_000_000 || le.LastRate != 2 {
		t.Errorf("unconverted %d, paid %d at rate %d, want 0, 40000000 at 2", le.UnconvertedNUSD, le.PaidNJ, le.LastRate)
	}
}

// M6: one Mint converts a bounded number of leases, the lowest ids first; the
// next one goes on.
func TestM6_ConversionIsBoundedPerCommand(t *testing.T) {
	const leases, most = 5000, 4096
	b := newBench(t, ledger.USD, ledger.Prices{Base: 3_600_000_000})
	b.must(&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: 1000 * usd, Ref: "r"})
	for i := range leases {
		res := b.l.Apply(b.now, &ledger.Envelope{Key: fmt.Sprint("open", i), Command: openCommand(fmt.Sprint("a", i))})
		r := b.record(res.Lease.Lease, ledger.Totals{WallMs: 1000}, true)
		b.l.Apply(b.now, &ledger.Envelope{Command: &ledger.UsageBatch{Host: 1, Records: []ledger.Record{r}}})
	}
	waiting := func() (n int) {
		for id := ledger.LeaseID(1); id <= leases; id++ {
			if b.lease(id).UnconvertedNUSD > 0 {
				n++
			}
		}
		return n
	}
	b.must(&ledger.Mint{Amount: 1000 * joule, Ref: "r"})
	if got := waiting(); got != leases-most || b.lease(most).UnconvertedNUSD != 0 {
		t.Errorf("after one Mint %d leases wait, want the last %d", got, leases-most)
	}
	b.must(&ledger.Mint{Amount: 1, Ref: "r"})
	if got := waiting(); got != 0 || b.balance("accrued", ledger.USD) != 0 {
		t.Errorf("after the next Mint %d leases wait, want none", got)
	}
}

// M7: the same key with the same input returns the first result, with another
// input it is a conflict; deduplication happens with the money.
func TestM7_AKeyMovesMoneyOnce(t *testing.T) {
	l := ledger.New()
	apply := func(key string, cmd ledger.Command) ledger.Result {
		return l.Apply(1, &ledger.Envelope{Key: key, Command: cmd})
	}
	balance := func() int64 { a, _ := l.AccountByName("customer/acme", ledger.USD); return a.Balance }
	first := apply("c", &ledger.CreateCustomer{Name: "acme", Namespace: "acme", PayIn: ledger.USD})
	if again := apply("c", &ledger.CreateCustomer{Name: "acme", Namespace: "acme", PayIn: ledger.USD}); again.ID != first.ID || again.Code != ledger.CodeOK {
		t.Errorf("repeated create: got %+v, want %+v", again, first)
	}
	if got := apply("c2", &ledger.CreateCustomer{Name: "acme", Namespace: "acme", PayIn: ledger.USD}); got.Code != ledger.CodeExists {
		t.Errorf("create under another key: got %v, want exists", got.Code)
	}
	pay := &ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: 5, Ref: "r"}
	apply("d", pay)
	entries := l.EntryCount()
	apply("d", pay)
	if balance() != 5 || l.EntryCount() != entries {
		t.Errorf("a repeated deposit left %d nUSD and %d new entries", balance(), l.EntryCount()-entries)
	}
	for i, other := range []ledger.Command{
		&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: 6, Ref: "r"},
		&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: 5, Ref: "s"},
		&ledger.Mint{Amount: 5, Ref: "r"},
	} {
		if got := apply("d", other); got.Code != ledger.CodeConflict {
			t.Errorf("input %d under the same key: got %v, want conflict", i, got.Code)
		}
	}
	for _, key := range []string{"", string(make([]byte, ledger.KeyBytesMax+1))} {
		if got := apply(key, pay); got.Code != ledger.CodeInvalid {
			t.Errorf("key of %d bytes: got %v, want invalid", len(key), got.Code)
		}
	}
	if got := apply("u", nil); got.Code != ledger.CodeInvalid {
		t.Errorf("no command: got %v, want invalid", got.Code)
	}
	l = throughSnapshot(t, l)
	if got := apply("d", pay); got.Code != ledger.CodeOK || balance() != 5 {
		t.Errorf("after a restore: got %v and %d nUSD, want ok and 5", got.Code, balance())
	}
}

// M8: every remainder, fee and release goes to a named account: a closed lease
// leaves nothing in its hold, and what left the customer is what others have.
func TestM8_NothingIsLeftUnnamed(t *testing.T) {
	b := newBench(t, ledger.USD, ledger.Prices{Base: 1_234_567, CPU: 7_654_321})
	b.must(&ledger.SetPolicy{FeePPM: 12_345, SliceMs: 60_000})
	b.must(&ledger.Mint{Amount: joule, Ref: "r"})
	b.must(&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: usd, Ref: "r"})
	for i := range 5 {
		id := b.open(fmt.Sprint("a", i))
		for ms := uint64(100); ms <= 700; ms += 100 {
			b.wall(id, ms+uint64(i), ms == 700)
		}
	}
	if got := b.balance("hold/acme", ledger.USD); got != 0 {
		t.Errorf("closed leases left %d nUSD in the hold", got)
	}
	if got := b.balance("customer/acme", ledger.USD) + b.balance("treasury", ledger.USD); got != usd {
		t.Errorf("customer and treasury have %d nUSD, want %d", got, int64(usd))
	}
	if got := b.balance("supplier/west-dc", ledger.JOULE) + b.balance("fees", ledger.JOULE) + b.balance("treasury", ledger.JOULE); got != joule {
		t.Errorf("supplier, fees and treasury have %d nJ, want %d", got, int64(joule))
	}
}
