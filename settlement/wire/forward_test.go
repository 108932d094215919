package wire_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

func TestResultsTravel(t *testing.T) {
	want := []ledger.Result{
		{Code: ledger.CodeOK, ID: 7, Lease: &ledger.LeaseGrant{Lease: 3, Epoch: 1, Hold: 12}},
		{Code: ledger.CodeConflict, Msg: "key: used before"},
		{Records: []ledger.RecordResult{{Lease: 3, Seq: 9, Status: ledger.RecordAccepted, Charged: 5}}},
	}
	b := wire.AppendResults(nil, want)
	got, err := wire.DecodeResults(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for n := range b {
		if _, err := wire.DecodeResults(b[:n]); err == nil {
			t.Errorf("the first %d of %d bytes: got no error", n, len(b))
		}
	}
	b[0] = 99
	if _, err := wire.DecodeResults(b); !errors.Is(err, wire.ErrUnknownVersion) {
		t.Errorf("got %v, want %v", err, wire.ErrUnknownVersion)
	}
}

func TestStampCommandBatch(t *testing.T) {
	b := wire.CommandBatch{Envelopes: []ledger.Envelope{{Key: "k", Command: &ledger.CreateSupplier{Name: "lab"}}}}
	encoded := wire.AppendCommandBatch(nil, &b)
	if err := wire.StampCommandBatch(encoded, 1234); err != nil {
		t.Fatal(err)
	}
	b.Time = 1234
	if want := wire.AppendCommandBatch(nil, &b); !cmp.Equal(encoded, want) {
		t.Errorf("got % x, want % x", encoded, want)
	}
	encoded[0] = 99
	if err := wire.StampCommandBatch(encoded, 1); !errors.Is(err, wire.ErrUnknownVersion) {
		t.Errorf("got %v, want %v", err, wire.ErrUnknownVersion)
	}
}
