package bill

import (
	"math/big"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/joulecloud/joule/settlement/ledger"
)

// The example of the design: 2.32 s on crowd hardware, 4.19 s on datacenter
// hardware.
func TestCost(t *testing.T) {
	for _, tc := range []struct {
		name   string
		prices ledger.Prices
		totals ledger.Totals
		exact  string
		floor  int64
	}{
		{"crowd", ledger.Prices{Base: 360_000_000}, ledger.Totals{WallMs: 2320}, "232000", 232_000},
		{"datacenter", ledger.Prices{Base: 900_000_000}, ledger.Totals{WallMs: 4190}, "1047500", 1_047_500},
		{"a third of a nano-dollar", ledger.Prices{Base: 1_200_000}, ledger.Totals{WallMs: 1}, "1/3", 0},
		{"every dimension", ledger.Prices{Base: 3_600_000, CPU: 7_200_000, GPU: 36_000_000, Memory: 3_686_400},
			ledger.Totals{WallMs: 1, CPUMs: 2, GPUMs: 3, MemoryMiBMs: 1000}, "36", 36},
		{"beyond 64 bits on the way", ledger.Prices{Base: ledger.PriceMax}, ledger.Totals{WallMs: 3_600_000_000},
			"1000000000000000000", 1_000_000_000_000_000_000},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cost := Cost(Lines(tc.prices, tc.totals))
			if got := cost.RatString(); got != tc.exact {
				t.Errorf("got exact %s, want %s", got, tc.exact)
			}
			if got := Floor(cost); got.Cmp(big.NewInt(tc.floor)) != 0 {
				t.Errorf("got floor %s, want %d", got, tc.floor)
			}
		})
	}
}

func TestArithmeticIsSpelledOut(t *testing.T) {
	got := Lines(ledger.Prices{Base: 360_000_000}, ledger.Totals{WallMs: 2320})[0].Arithmetic
	want := "2320 ms × 360000000 nUSD/h ÷ 3600000 ms/h = 232000 nUSD"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	conversion := JouleArithmetic(Conversion{USD: 232_000, PaidNJ: 4_547_200, FeeNJ: 92_800}, 50_000_000)
	want = "232000 nUSD × 10⁹ ÷ 50000000 nUSD per JOULE = 4640000 nJ; converted 4640000 nJ = 4547200 to the supplier + 92800 fee"
	if conversion != want {
		t.Errorf("got %q, want %q", conversion, want)
	}
}

func TestDecimal(t *testing.T) {
	for _, tc := range []struct {
		num, den int64
		want     string
	}{{6, 3, "2"}, {1, 8, "0.125"}, {1, 3, "1/3"}, {0, 5, "0"}} {
		if got := Decimal(big.NewRat(tc.num, tc.den)); got != tc.want {
			t.Errorf("%d/%d: got %s, want %s", tc.num, tc.den, got, tc.want)
		}
	}
}

func transfer(reason ledger.Reason, cur ledger.Currency, amount int64, rate ledger.RateID) ledger.Entry {
	return ledger.Entry{Kind: ledger.EntryTransfer, Transfer: ledger.Transfer{Currency: cur, Amount: amount, Reason: reason, Rate: rate, Lease: 1}}
}

func TestFold(t *testing.T) {
	opened := &ledger.LeaseOpened{ID: 1, PayIn: ledger.USD}
	closed := &ledger.LeaseClosed{ID: 1, Reason: ledger.CloseFinished}
	got, err := Fold([]ledger.Entry{
		{Kind: ledger.EntryLeaseOpened, Time: 5, Fact: opened},
		transfer(ledger.ReasonHold, ledger.USD, 100, 0),
		transfer(ledger.ReasonCharge, ledger.USD, 30, 1),
		transfer(ledger.ReasonPay, ledger.JOULE, 590, 1),
		transfer(ledger.ReasonFee, ledger.JOULE, 10, 1),
		transfer(ledger.ReasonAccrue, ledger.USD, 20, 0),
		transfer(ledger.ReasonConvert, ledger.USD, 15, 2),
		transfer(ledger.ReasonPay, ledger.JOULE, 300, 2),
		{Kind: ledger.EntryUsage, Usage: ledger.Usage{Lease: 1, Seq: 2}},
		transfer(ledger.ReasonRelease, ledger.USD, 50, 0),
		{Kind: ledger.EntryLeaseClosed, Time: 9, Fact: closed},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &Lease{Opened: opened, OpenedAt: 5, Usage: ledger.Usage{Lease: 1, Seq: 2}, Closed: closed, ClosedAt: 9,
		Held: 0, Charged: 50, Accrued: 5, PaidNJ: 890, FeeNJ: 10,
		Conversions: []Conversion{{Rate: 1, USD: 30, PaidNJ: 590, FeeNJ: 10}, {Rate: 2, USD: 15, PaidNJ: 300}}}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Lease{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if _, err := Fold([]ledger.Entry{transfer(ledger.ReasonDeposit, ledger.USD, 1, 0)}); err == nil {
		t.Error("a deposit in a lease's entries: got no error")
	}
}

// Corrections, fines and remedies are told apart from what was charged and
// paid, which they leave as it was.
func TestFoldOfWhatCameAfter(t *testing.T) {
	const customer, hold, treasury, supplier, escrow = 8, 9, 5, 12, 14
	move := func(reason ledger.Reason, from, to ledger.AccountID, cur ledger.Currency, amount int64) ledger.Entry {
		e := transfer(reason, cur, amount, 0)
		e.Transfer.Debit, e.Transfer.Credit = from, to
		return e
	}
	made := &ledger.CorrectionMade{ID: 1, Lease: 1, Corrects: 3, Legs: 4}
	got, err := Fold([]ledger.Entry{
		{Kind: ledger.EntryLeaseOpened, Fact: &ledger.LeaseOpened{ID: 1, PayIn: ledger.USD}},
		move(ledger.ReasonHold, customer, hold, ledger.USD, 100),
		move(ledger.ReasonCharge, hold, treasury, ledger.USD, 100),
		move(ledger.ReasonPay, treasury, supplier, ledger.JOULE, 900),
		{Kind: ledger.EntryCorrection, Fact: made},
		move(ledger.ReasonCorrect, treasury, customer, ledger.USD, 40),
		move(ledger.ReasonCorrect, customer, treasury, ledger.USD, 1),
		move(ledger.ReasonCorrect, supplier, treasury, ledger.JOULE, 300),
		move(ledger.ReasonCorrect, treasury, supplier, ledger.JOULE, 20),
		move(ledger.ReasonFine, supplier, escrow, ledger.JOULE, 70),
		move(ledger.ReasonFineReturn, escrow, supplier, ledger.JOULE, 10),
		move(ledger.ReasonRemedy, escrow, customer, ledger.JOULE, 50),
		move(ledger.ReasonForfeit, escrow, treasury, ledger.JOULE, 10),
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.Charged != 100 || got.PaidNJ != 900 || got.Held != 0 {
		t.Errorf("charged %d, paid %d, held %d, want 100, 900, 0", got.Charged, got.PaidNJ, got.Held)
	}
	if got.Refunded != 39 || got.TakenBackNJ != 280 || got.FinedNJ != 60 || got.RemedyNJ != 50 || len(got.Corrections) != 1 || got.Corrections[0] != made {
		t.Errorf("got %+v", got)
	}
}
