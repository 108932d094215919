package server_test

import (
	"fmt"
	"strings"
	"testing"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

// Bad input gets an error that names the field or the value, and changes
// nothing.
func TestBadInputChangesNothing(t *testing.T) {
	f := start(t)
	f.world()
	ctx := t.Context()
	usd, joule := joulev1.Currency_CURRENCY_USD, joulev1.Currency_CURRENCY_JOULE
	status := func() string {
		r, err := f.api.ListAccounts(ctx, &joulev1.ListAccountsRequest{})
		f.ok(err)
		return r.String()
	}
	before := status()
	for _, tc := range []struct {
		name string
		call func() error
		want joulev1.ErrorReason
		word string
	}{
		{"a negative deposit", func() error {
			_, err := f.api.Deposit(ctx, &joulev1.DepositRequest{Key: "x1", Customer: "acme", Currency: usd, Amount: -1, Ref: "r"})
			return err
		}, joulev1.ErrorReason_ERROR_REASON_INVALID, "-1"},
		{"a deposit of nothing", func() error {
			_, err := f.api.Deposit(ctx, &joulev1.DepositRequest{Key: "x2", Customer: "acme", Currency: usd, Ref: "r"})
			return err
		}, joulev1.ErrorReason_ERROR_REASON_INVALID, "amount"},
		{"a deposit without a reference", func() error {
			_, err := f.api.Deposit(ctx, &joulev1.DepositRequest{Key: "x3", Customer: "acme", Currency: usd, Amount: 1})
			return err
		}, joulev1.ErrorReason_ERROR_REASON_INVALID, "ref"},
		{"a deposit to nobody", func() error {
			_, err := f.api.Deposit(ctx, &joulev1.DepositRequest{Key: "x4", Customer: "nobody", Currency: usd, Amount: 1, Ref: "r"})
			return err
		}, joulev1.ErrorReason_ERROR_REASON_NOT_FOUND, "nobody"},
		{"a deposit that overflows", func() error {
			_, err := f.api.Deposit(ctx, &joulev1.DepositRequest{Key: "x5", Customer: "acme", Currency: usd, Amount: 1<<63 - 1, Ref: "r"})
			return err
		}, joulev1.ErrorReason_ERROR_REASON_OVERFLOW, ""},
		{"an unknown currency", func() error {
			_, err := f.api.Deposit(ctx, &joulev1.DepositRequest{Key: "x6", Customer: "acme", Currency: 7, Amount: 1, Ref: "r"})
			return err
		}, joulev1.ErrorReason_ERROR_REASON_INVALID, "7"},
		{"a command without a key", func() error {
			_, err := f.api.Mint(ctx, &joulev1.MintRequest{AmountNj: 1, Ref: "r"})
			return err
		}, joulev1.ErrorReason_ERROR_REASON_INVALID, "key"},
		{"more JOULE than the cap", func() error {
			_, err := f.api.Mint(ctx, &joulev1.MintRequest{Key: "x7", AmountNj: 9_000_000_000_000_000_000, Ref: "r"})
			return err
		}, joulev1.ErrorReason_ERROR_REASON_INSUFFICIENT, ""},
		{"a used key with another input", func() error {
			_, err := f.api.Mint(ctx, &joulev1.MintRequest{Key: "3", AmountNj: 5, Ref: "r"})
			return err
		}, joulev1.ErrorReason_ERROR_REASON_CONFLICT, "3"},
		{"a rate of nothing", func() error {
			_, err := f.api.SetRate(ctx, &joulev1.SetRateRequest{Key: "x8"})
			return err
		}, joulev1.ErrorReason_ERROR_REASON_INVALID, "nusd_per_joule"},
		{"an offer of a host that is not there", func() error {
			_, err := f.api.SetOffer(ctx, &joulev1.SetOfferRequest{Key: "x9", Host: "h9", Prices: &joulev1.Prices{}})
			return err
		}, joulev1.ErrorReason_ERROR_REASON_NOT_FOUND, "h9"},
		{"a negative price", func() error {
			_, err := f.api.SetOffer(ctx, &joulev1.SetOfferRequest{Key: "x10", Host: "h1", Prices: &joulev1.Prices{CpuNusdPerHour: -5}})
			return err
		}, joulev1.ErrorReason_ERROR_REASON_INVALID, "-5"},
		{"a withdrawal beyond the balance", func() error {
			_, err := f.api.Withdraw(ctx, &joulev1.WithdrawRequest{Key: "x11", Party: joulev1.Party_PARTY_SUPPLIER, Name: "lab", Currency: joule, Amount: 1, Ref: "r"})
			return err
		}, joulev1.ErrorReason_ERROR_REASON_INSUFFICIENT, "lab"},
		{"a host of an unknown class", func() error {
			_, err := f.api.EnrollHost(ctx, &joulev1.EnrollHostRequest{Key: "x12", Name: "h3", Supplier: "lab", Class: "cloud", PublicKey: make([]byte, 32)})
			return err
		}, joulev1.ErrorReason_ERROR_REASON_INVALID, "cloud"},
		{"a host with half a key", func() error {
			_, err := f.api.EnrollHost(ctx, &joulev1.EnrollHostRequest{Key: "x13", Name: "h3", Supplier: "lab", Class: "crowd", PublicKey: make([]byte, 16)})
			return err
		}, joulev1.ErrorReason_ERROR_REASON_INVALID, "public_key"},
		{"a lease that is not there", func() error {
			_, err := f.api.CloseLease(ctx, &joulev1.CloseLeaseRequest{Key: "x14", LeaseId: 77})
			return err
		}, joulev1.ErrorReason_ERROR_REASON_NOT_FOUND, "77"},
		{"a bill of nobody", func() error {
			_, err := f.api.GetBill(ctx, &joulev1.GetBillRequest{Customer: "nobody"})
			return err
		}, joulev1.ErrorReason_ERROR_REASON_NOT_FOUND, "nobody"},
		{"a page that is too large", func() error {
			_, err := f.api.ListLeases(ctx, &joulev1.ListLeasesRequest{PageSize: 1 << 30})
			return err
		}, joulev1.ErrorReason_ERROR_REASON_INVALID, "page_size"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.call()
			if reason(err) != tc.want || !strings.Contains(err.Error(), tc.word) {
				t.Errorf("got %v (%v), want %v with %q", err, reason(err), tc.want, tc.word)
			}
			if got := status(); got != before {
				t.Errorf("the accounts changed:\n%s\nwere\n%s", got, before)
			}
		})
	}
}

// Rule M7: the same key with the same input returns the first result.
func TestRepeatedCommandMovesMoneyOnce(t *testing.T) {
	f := start(t)
	f.world()
	req := &joulev1.DepositRequest{Key: "again", Customer: "acme", Currency: joulev1.Currency_CURRENCY_USD, Amount: 7, Ref: "r"}
	first, err := f.api.Deposit(t.Context(), req)
	f.ok(err)
	second, err := f.api.Deposit(t.Context(), req)
	f.ok(err)
	if first.Balance != second.Balance {
		t.Errorf("got balances %d and %d, want the same", first.Balance, second.Balance)
	}
}

// What was acknowledged is there after a restart, to the digest.
func TestRestart(t *testing.T) {
	f := start(t)
	f.world()
	lease := f.openLease()
	s, err := f.connect("h1", "crowd", f.key)
	f.ok(err)
	b := s.batch(record(lease.LeaseId, 1, 100))
	s.send(b, s.sign(b))
	read := func() (string, string) {
		bill, err := f.api.GetBill(t.Context(), &joulev1.GetBillRequest{Customer: "acme"})
		f.ok(err)
		st, err := f.api.GetStatus(t.Context(), &joulev1.GetStatusRequest{})
		f.ok(err)
		return st.Digest, bill.String()
	}
	digest, bill := read()
	for _, snapshot := range []bool{false, true} {
		if snapshot {
			f.ok(f.node.Store().TakeSnapshot(t.Context()))
		}
		f.close()
		f.open()
		gotDigest, gotBill := read()
		if gotDigest != digest || gotBill != bill {
			t.Errorf("after a restart (snapshot %v): got %s\n%s\nwant %s\n%s", snapshot, gotDigest, gotBill, digest, bill)
		}
	}
}

// A correction names an entry about its lease, and no other.
func TestCorrectionOfItsOwnLease(t *testing.T) {
	f := start(t)
	f.evidenced() // lease 1 with a charge
	ids := f.openLeases(1)
	entries := func(lease uint64) map[uint64]bool {
		r, err := f.api.ExplainLease(t.Context(), &joulev1.ExplainLeaseRequest{LeaseId: lease})
		f.ok(err)
		out := map[uint64]bool{}
		for _, e := range r.Entries {
			out[e.Seq] = true
		}
		return out
	}
	mine, others := entries(1), entries(ids[0])
	st, err := f.api.GetStatus(t.Context(), &joulev1.GetStatusRequest{})
	f.ok(err)
	taken := 0
	for entry := uint64(0); entry <= st.Entries+1; entry++ {
		if entry > st.Entries {
			entry = 1 << 40 // the corrections have made some more
		}
		_, err := f.api.CorrectLease(t.Context(), &joulev1.CorrectLeaseRequest{Key: fmt.Sprint("c", entry), LeaseId: 1, Entry: entry, Why: "w", Legs: []*joulev1.CorrectionLeg{
			{From: joulev1.Party_PARTY_CUSTOMER, To: joulev1.Party_PARTY_TREASURY, Currency: joulev1.Currency_CURRENCY_USD, Amount: 1}}})
		want := joulev1.ErrorReason_ERROR_REASON_INVALID
		switch {
		case mine[entry]:
			want = joulev1.ErrorReason_ERROR_REASON_UNSPECIFIED
			taken++
		case entry == 0 || entry > st.Entries:
			want = joulev1.ErrorReason_ERROR_REASON_NOT_FOUND
		}
		if mine[entry] && others[entry] || reason(err) != want {
			t.Errorf("entry %d, about lease 1: %v, the other: %v: got %v, want %v", entry, mine[entry], others[entry], err, want)
		}
	}
	if taken < 3 || len(others) == 0 {
		t.Errorf("%d entries are about lease 1, %d about the other", taken, len(others))
	}
}
