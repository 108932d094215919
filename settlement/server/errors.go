package server

import (
	"context"
	"errors"
	"log/slog"

	"connectrpc.com/connect"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/node"
	"github.com/joulecloud/joule/settlement/nomad"
)

// codes is the one table of what a refusal looks like outside: the ledger's
// code, the reason in the API, the Connect code (which fixes the HTTP status).
// The CLI's exit codes hang on the reason (cli/command).
var codes = []struct {
	ledger ledger.Code // CodeOK: the reason does not come from the ledger
	reason joulev1.ErrorReason
	code   connect.Code
}{
	{ledger.CodeInvalid, joulev1.ErrorReason_ERROR_REASON_INVALID, connect.CodeInvalidArgument},
	{ledger.CodeNotFound, joulev1.ErrorReason_ERROR_REASON_NOT_FOUND, connect.CodeNotFound},
	{ledger.CodeExists, joulev1.ErrorReason_ERROR_REASON_EXISTS, connect.CodeAlreadyExists},
	{ledger.CodeConflict, joulev1.ErrorReason_ERROR_REASON_CONFLICT, connect.CodeAborted},
	{ledger.CodeInsufficient, joulev1.ErrorReason_ERROR_REASON_INSUFFICIENT, connect.CodeFailedPrecondition},
	{ledger.CodeForbidden, joulev1.ErrorReason_ERROR_REASON_FORBIDDEN, connect.CodePermissionDenied},
	{ledger.CodeTooDear, joulev1.ErrorReason_ERROR_REASON_TOO_DEAR, connect.CodeFailedPrecondition},
	{ledger.CodeNoOffer, joulev1.ErrorReason_ERROR_REASON_NO_OFFER, connect.CodeFailedPrecondition},
	{ledger.CodeNoRate, joulev1.ErrorReason_ERROR_REASON_NO_RATE, connect.CodeFailedPrecondition},
	{ledger.CodeClosed, joulev1.ErrorReason_ERROR_REASON_CLOSED, connect.CodeFailedPrecondition},
	{ledger.CodeOverflow, joulev1.ErrorReason_ERROR_REASON_OVERFLOW, connect.CodeOutOfRange},
	{ledger.CodeOK, joulev1.ErrorReason_ERROR_REASON_UNAUTHENTICATED, connect.CodeUnauthenticated},
	{ledger.CodeOK, joulev1.ErrorReason_ERROR_REASON_BAD_SIGNATURE, connect.CodeUnauthenticated},
	{ledger.CodeOK, joulev1.ErrorReason_ERROR_REASON_MALFORMED, connect.CodeInvalidArgument},
	{ledger.CodeOK, joulev1.ErrorReason_ERROR_REASON_NO_ALLOCATION, connect.CodeNotFound},
	{ledger.CodeOK, joulev1.ErrorReason_ERROR_REASON_WRONG_NODE, connect.CodePermissionDenied},
	{ledger.CodeOK, joulev1.ErrorReason_ERROR_REASON_ALLOCATION_STOPPED, connect.CodeFailedPrecondition},
	{ledger.CodeOK, joulev1.ErrorReason_ERROR_REASON_NOT_LEADER, connect.CodeUnavailable},
	{ledger.CodeOK, joulev1.ErrorReason_ERROR_REASON_UNAVAILABLE, connect.CodeUnavailable},
}

// refusal is an error made by a handler itself, with its reason in the API.
type refusal struct {
	reason joulev1.ErrorReason
	msg    string
}

func (r *refusal) Error() string { return r.msg }

// classify finds an error's reason in the API. ok is false for faults of our
// own, whose text must not go out.
func classify(err error) (reason joulev1.ErrorReason, ok bool) {
	var ref *refusal
	var led *ledger.Error
	var notLeader *node.NotLeaderError
	switch {
	case errors.As(err, &ref):
		return ref.reason, true
	case errors.As(err, &led):
		for _, c := range codes {
			if c.ledger == led.Code && c.ledger != ledger.CodeOK {
				return c.reason, true
			}
		}
		return 0, false
	case errors.As(err, &notLeader):
		return joulev1.ErrorReason_ERROR_REASON_NOT_LEADER, true
	case errors.Is(err, nomad.ErrNoAllocation):
		return joulev1.ErrorReason_ERROR_REASON_NO_ALLOCATION, true
	case errors.Is(err, nomad.ErrNotWanted):
		return joulev1.ErrorReason_ERROR_REASON_ALLOCATION_STOPPED, true
	case errors.Is(err, nomad.ErrBadTerms):
		return joulev1.ErrorReason_ERROR_REASON_INVALID, true
	case errors.Is(err, nomad.ErrUnreachable), errors.Is(err, node.ErrShutdown), errors.Is(err, node.ErrFailed):
		return joulev1.ErrorReason_ERROR_REASON_UNAVAILABLE, true
	}
	return 0, false
}

// apiError is the typed form of err for a session's acknowledgement.
func apiError(err error) *joulev1.Error {
	reason, ok := classify(err)
	if !ok {
		return &joulev1.Error{Reason: joulev1.ErrorReason_ERROR_REASON_UNAVAILABLE, Message: "internal error"}
	}
	return &joulev1.Error{Reason: reason, Message: err.Error()}
}

// connectError is the form of err that a unary call answers: the Connect code
// of the table with a joule.v1.Error as detail. A fault of our own is logged
// here, once, and its text stays inside.
func connectError(ctx context.Context, log *slog.Logger, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return connect.NewError(connect.CodeOf(err), err)
	}
	reason, ok := classify(err)
	if !ok {
		log.LogAttrs(ctx, slog.LevelError, "internal error", slog.Any("error", err))
		return connect.NewError(connect.CodeInternal, errors.New("internal error"))
	}
	code := connect.CodeUnknown
	for _, c := range codes {
		if c.reason == reason {
			code = c.code
		}
	}
	out := connect.NewError(code, errors.New(err.Error()))
	if detail, derr := connect.NewErrorDetail(&joulev1.Error{Reason: reason, Message: err.Error()}); derr == nil {
		out.AddDetail(detail)
	}
	return out
}
