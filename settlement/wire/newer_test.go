package wire_test

import (
	"encoding/hex"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// The commands after Tick and the entries that they make have fixed bytes.
func TestGoldenNewerKinds(t *testing.T) {
	for _, tc := range []struct {
		cmd  ledger.Command
		want string
	}{
		{&ledger.BuyStake{Supplier: "lab", Paid: 5, Ref: "pay"}, "01010000000000000001000000010000006b1f00030000006c6162050000000000000003000000706179"},
		{&ledger.RetireHost{Host: "h1"}, "01010000000000000001000000010000006b2000020000006831"},
	} {
		in := &wire.CommandBatch{Time: 1, Envelopes: []ledger.Envelope{{Key: "k", Command: tc.cmd}}}
		b := wire.AppendCommandBatch(nil, in)
		if got := hex.EncodeToString(b); got != tc.want {
			t.Errorf("%T: got %s, want %s", tc.cmd, got, tc.want)
		}
		var out wire.CommandBatch
		if err := wire.DecodeCommandBatch(b, &out); err != nil {
			t.Errorf("%T: %v", tc.cmd, err)
		} else if diff := cmp.Diff(in, &out); diff != "" {
			t.Errorf("%T: decoded differs (-want +got):\n%s", tc.cmd, diff)
		}
	}
	entries := []ledger.Entry{
		{Seq: 1, Time: 1, Kind: ledger.EntryStakeBought, Fact: &ledger.StakeBought{Supplier: 2, Paid: 3, Amount: 4, Rate: 5}},
		{Seq: 2, Time: 1, Kind: ledger.EntryHostRetired, Fact: &ledger.HostRetired{ID: 6}},
	}
	in := &wire.Block{Seq: 1, Index: 1, Time: 1, Envelopes: []ledger.Envelope{{Key: "k", Command: &ledger.RetireHost{Host: "h1"}}},
		Results: []ledger.Result{{}}, Entries: entries}
	b := wire.AppendBlock(nil, ledger.Digest{}, in)
	out, err := wire.DecodeBlock(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(entries, out.Entries); diff != "" {
		t.Errorf("entries differ (-want +got):\n%s", diff)
	}
}
