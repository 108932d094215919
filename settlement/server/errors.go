package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"connectrpc.com/connect"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/node"
	"github.com/joulecloud/joule/settlement/nomad"
	"github.com/joulecloud/joule/settlement/refusal"
)

// refused is an error made by a handler itself, with its reason in the API.
type refused struct {
	reason     joulev1.ErrorReason
	msg        string
	retryAfter time.Duration // with OVERLOADED
}

func refuse(reason joulev1.ErrorReason, format string, args ...any) error {
	return &refused{reason: reason, msg: fmt.Sprintf(format, args...)}
}

// overloaded asks a client to try again later; nothing has happened.
func overloaded(after time.Duration, format string, args ...any) error {
	return &refused{reason: joulev1.ErrorReason_ERROR_REASON_OVERLOADED, msg: fmt.Sprintf(format, args...), retryAfter: after}
}

func (r *refused) Error() string { return r.msg }

// classify finds an error's reason in the API. ok is false for faults of our
// own, whose text must not go out.
func classify(err error) (reason joulev1.ErrorReason, ok bool) {
	var ref *refused
	var led *ledger.Error
	var notLeader *node.NotLeaderError
	switch {
	case errors.As(err, &ref):
		return ref.reason, true
	case errors.As(err, &led):
		row, ok := refusal.OfLedger(led.Code)
		return row.Reason, ok
	case errors.As(err, &notLeader):
		return joulev1.ErrorReason_ERROR_REASON_NOT_LEADER, true
	case errors.Is(err, node.ErrBusy):
		return joulev1.ErrorReason_ERROR_REASON_OVERLOADED, true
	case errors.Is(err, nomad.ErrNoAllocation):
		return joulev1.ErrorReason_ERROR_REASON_NO_ALLOCATION, true
	case errors.Is(err, nomad.ErrNotWanted):
		return joulev1.ErrorReason_ERROR_REASON_ALLOCATION_STOPPED, true
	case errors.Is(err, nomad.ErrBadTerms):
		return joulev1.ErrorReason_ERROR_REASON_INVALID, true
	case errors.Is(err, nomad.ErrUnreachable), errors.Is(err, node.ErrShutdown), errors.Is(err, node.ErrFailed),
		errors.Is(err, node.ErrUnknownOutcome), errors.Is(err, node.ErrRestoring), errors.Is(err, node.ErrNotUnderstood):
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
	return detailOf(reason, err)
}

// detailOf is the detail that goes with an error whose reason is known.
func detailOf(reason joulev1.ErrorReason, err error) *joulev1.Error {
	out := &joulev1.Error{Reason: reason, Message: err.Error()}
	if ref := (*refused)(nil); errors.As(err, &ref) {
		out.RetryAfterMs = ref.retryAfter.Milliseconds()
	} else if errors.Is(err, node.ErrBusy) {
		out.RetryAfterMs = retryBatch.Milliseconds()
	}
	return out
}

// retryAfter is the hint of an error made by connectError; 0: none.
func retryAfter(err error) time.Duration {
	return time.Duration(refusal.Detail(err).GetRetryAfterMs()) * time.Millisecond
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
		if ce := (*connect.Error)(nil); errors.As(err, &ce) {
			if ce = refusal.OfProtocol(ce); ce.Code() != connect.CodeInternal {
				return ce
			}
		}
		log.LogAttrs(ctx, slog.LevelError, "internal error", slog.Any("error", err))
		return connect.NewError(connect.CodeInternal, errors.New("internal error"))
	}
	return refusal.Error(detailOf(reason, err))
}
