// Package refusal is the one table of what a refused call looks like: the
// ledger's code, the reason in the API, the Connect code and with it the HTTP
// status, and the exit code of the command line. `joule help errors` prints it.
package refusal

import (
	"net/http"
	"strings"

	"connectrpc.com/connect"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/ledger"
)

// The exit codes of the command line. Append only.
const (
	ExitOK           = 0
	ExitInternal     = 1
	ExitInvalid      = 2
	ExitNotFound     = 3
	ExitForbidden    = 4
	ExitConflict     = 5
	ExitInsufficient = 6
	ExitUnavailable  = 7
)

// Row is one kind of refusal.
type Row struct {
	Ledger  ledger.Code // CodeOK: it does not come from the ledger
	Reason  joulev1.ErrorReason
	Connect connect.Code
	Exit    int
	Meaning string
}

// Name is the reason's name as people read it, "not_found".
func (r Row) Name() string {
	return strings.ToLower(strings.TrimPrefix(r.Reason.String(), "ERROR_REASON_"))
}

// HTTP is the status of a unary call's answer in Connect's own protocol; gRPC
// always answers 200 and carries the code in a trailer.
func (r Row) HTTP() int { return httpOf[r.Connect] }

// httpOf is how the Connect protocol maps its codes.
var httpOf = map[connect.Code]int{
	connect.CodeCanceled:           499,
	connect.CodeUnknown:            http.StatusInternalServerError,
	connect.CodeInvalidArgument:    http.StatusBadRequest,
	connect.CodeDeadlineExceeded:   http.StatusGatewayTimeout,
	connect.CodeNotFound:           http.StatusNotFound,
	connect.CodeAlreadyExists:      http.StatusConflict,
	connect.CodePermissionDenied:   http.StatusForbidden,
	connect.CodeResourceExhausted:  http.StatusTooManyRequests,
	connect.CodeFailedPrecondition: http.StatusBadRequest,
	connect.CodeAborted:            http.StatusConflict,
	connect.CodeOutOfRange:         http.StatusBadRequest,
	connect.CodeUnimplemented:      http.StatusNotImplemented,
	connect.CodeInternal:           http.StatusInternalServerError,
	connect.CodeUnavailable:        http.StatusServiceUnavailable,
	connect.CodeDataLoss:           http.StatusInternalServerError,
	connect.CodeUnauthenticated:    http.StatusUnauthorized,
}

// Table returns every kind of refusal, in the order of the reasons' numbers.
func Table() []Row {
	return []Row{
		{ledger.CodeInvalid, joulev1.ErrorReason_ERROR_REASON_INVALID, connect.CodeInvalidArgument, ExitInvalid,
			"a field is malformed or out of range; the message names it"},
		{ledger.CodeNotFound, joulev1.ErrorReason_ERROR_REASON_NOT_FOUND, connect.CodeNotFound, ExitNotFound,
			"it does not exist, or is not the caller's"},
		{ledger.CodeExists, joulev1.ErrorReason_ERROR_REASON_EXISTS, connect.CodeAlreadyExists, ExitConflict,
			"the name is taken"},
		{ledger.CodeConflict, joulev1.ErrorReason_ERROR_REASON_CONFLICT, connect.CodeAborted, ExitConflict,
			"the idempotency key was used with another input"},
		{ledger.CodeInsufficient, joulev1.ErrorReason_ERROR_REASON_INSUFFICIENT, connect.CodeFailedPrecondition, ExitInsufficient,
			"a balance, a budget or the supply cap does not allow it"},
		{ledger.CodeForbidden, joulev1.ErrorReason_ERROR_REASON_FORBIDDEN, connect.CodePermissionDenied, ExitForbidden,
			"not for this caller"},
		{ledger.CodeTooDear, joulev1.ErrorReason_ERROR_REASON_TOO_DEAR, connect.CodeFailedPrecondition, ExitInsufficient,
			"the offer is above the job's max_price"},
		{ledger.CodeNoOffer, joulev1.ErrorReason_ERROR_REASON_NO_OFFER, connect.CodeFailedPrecondition, ExitInsufficient,
			"the host has no offer"},
		{ledger.CodeNoRate, joulev1.ErrorReason_ERROR_REASON_NO_RATE, connect.CodeFailedPrecondition, ExitInsufficient,
			"no rate was ever set"},
		{ledger.CodeClosed, joulev1.ErrorReason_ERROR_REASON_CLOSED, connect.CodeFailedPrecondition, ExitInsufficient,
			"the lease, withdrawal or fine has ended"},
		{ledger.CodeOverflow, joulev1.ErrorReason_ERROR_REASON_OVERFLOW, connect.CodeOutOfRange, ExitInvalid,
			"the amount would leave 64 bits"},
		{ledger.CodeStake, joulev1.ErrorReason_ERROR_REASON_STAKE, connect.CodeFailedPrecondition, ExitInsufficient,
			"the supplier's stake is below what its leases ask"},
		{ledger.CodeNotFinable, joulev1.ErrorReason_ERROR_REASON_NOT_FINABLE, connect.CodeFailedPrecondition, ExitInsufficient,
			"the fault is not the supplier's, or the schedule has no fine for it"},
		{ledger.CodeEvidence, joulev1.ErrorReason_ERROR_REASON_EVIDENCE, connect.CodeFailedPrecondition, ExitInsufficient,
			"the evidence is missing, not the ledger's own, too old, or was used before"},
		{ledger.CodeSameOperator, joulev1.ErrorReason_ERROR_REASON_SAME_OPERATOR, connect.CodePermissionDenied, ExitForbidden,
			"a manual fine needs a second operator"},
		{ledger.CodeOK, joulev1.ErrorReason_ERROR_REASON_UNAUTHENTICATED, connect.CodeUnauthenticated, ExitForbidden,
			"no token, host or signature that this server knows"},
		{ledger.CodeOK, joulev1.ErrorReason_ERROR_REASON_BAD_SIGNATURE, connect.CodeUnauthenticated, ExitForbidden,
			"a usage batch is not signed by its host"},
		{ledger.CodeOK, joulev1.ErrorReason_ERROR_REASON_MALFORMED, connect.CodeInvalidArgument, ExitInvalid,
			"a usage batch or a message does not decode"},
		{ledger.CodeOK, joulev1.ErrorReason_ERROR_REASON_NO_ALLOCATION, connect.CodeNotFound, ExitNotFound,
			"Nomad knows no such allocation"},
		{ledger.CodeOK, joulev1.ErrorReason_ERROR_REASON_WRONG_NODE, connect.CodePermissionDenied, ExitForbidden,
			"the allocation is placed on another host"},
		{ledger.CodeOK, joulev1.ErrorReason_ERROR_REASON_ALLOCATION_STOPPED, connect.CodeFailedPrecondition, ExitInsufficient,
			"Nomad does not want the allocation to run"},
		{ledger.CodeOK, joulev1.ErrorReason_ERROR_REASON_NOT_LEADER, connect.CodeUnavailable, ExitUnavailable,
			"another server leads"},
		{ledger.CodeOK, joulev1.ErrorReason_ERROR_REASON_UNAVAILABLE, connect.CodeUnavailable, ExitUnavailable,
			"no majority of servers, a shutdown, or Nomad does not answer"},
		{ledger.CodeOK, joulev1.ErrorReason_ERROR_REASON_OVERLOADED, connect.CodeResourceExhausted, ExitUnavailable,
			"too many calls, of this client or of all; the answer says when to try again"},
	}
}

var byReason, byLedger = func() (map[joulev1.ErrorReason]Row, map[ledger.Code]Row) {
	reasons, codes := map[joulev1.ErrorReason]Row{}, map[ledger.Code]Row{}
	for _, r := range Table() {
		reasons[r.Reason] = r
		if r.Ledger != ledger.CodeOK {
			codes[r.Ledger] = r
		}
	}
	return reasons, codes
}()

// Of returns a reason's row.
func Of(reason joulev1.ErrorReason) (Row, bool) {
	r, ok := byReason[reason]
	return r, ok
}

// OfLedger returns the row of a code of the ledger's.
func OfLedger(code ledger.Code) (Row, bool) {
	r, ok := byLedger[code]
	return r, ok
}

// ExitOf is the exit code for a call that failed with a Connect code and no
// reason: the protocol itself refused it, or it did not arrive.
func ExitOf(code connect.Code) int {
	switch code {
	case connect.CodeInvalidArgument, connect.CodeOutOfRange, connect.CodeResourceExhausted: // the last: a message that is too large
		return ExitInvalid
	case connect.CodeNotFound:
		return ExitNotFound
	case connect.CodeUnauthenticated, connect.CodePermissionDenied:
		return ExitForbidden
	case connect.CodeAlreadyExists, connect.CodeAborted:
		return ExitConflict
	case connect.CodeFailedPrecondition:
		return ExitInsufficient
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded:
		return ExitUnavailable
	}
	return ExitInternal
}
