package server

import (
	"errors"
	"log/slog"
	"testing"

	"connectrpc.com/connect"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/ledger"
)

// A fault of our own goes out as "internal error", without its text.
func TestInternalErrorsStayInside(t *testing.T) {
	err := connectError(t.Context(), slog.New(slog.DiscardHandler), errors.New("disk /secret is full"))
	var ce *connect.Error
	if !errors.As(err, &ce) || ce.Code() != connect.CodeInternal || ce.Message() != "internal error" {
		t.Errorf("got %v, want internal error", err)
	}
}

// The API's numbers are the ledger's: they are converted by value.
func TestNumbersAgree(t *testing.T) {
	for _, tc := range []struct {
		name       string
		api, ledgr int
	}{
		{"USD", int(joulev1.Currency_CURRENCY_USD), int(ledger.USD)},
		{"JOULE", int(joulev1.Currency_CURRENCY_JOULE), int(ledger.JOULE)},
		{"customer", int(joulev1.Party_PARTY_CUSTOMER), int(ledger.PartyCustomer)},
		{"treasury", int(joulev1.Party_PARTY_TREASURY), int(ledger.PartyTreasury)},
		{"accepted", int(joulev1.RecordStatus_RECORD_STATUS_ACCEPTED), int(ledger.RecordAccepted)},
		{"invalid record", int(joulev1.RecordStatus_RECORD_STATUS_INVALID), int(ledger.RecordInvalid)},
	} {
		if tc.api != tc.ledgr {
			t.Errorf("%s: %d in the API, %d in the ledger", tc.name, tc.api, tc.ledgr)
		}
	}
}
