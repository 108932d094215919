package refusal

import (
	"errors"
	"strings"

	"connectrpc.com/connect"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

// Error is how a refused call is answered: the Connect code of the table, with
// the detail that says why.
func Error(detail *joulev1.Error) *connect.Error {
	row, ok := Of(detail.Reason)
	if !ok {
		row.Connect = connect.CodeUnknown
	}
	out := connect.NewError(row.Connect, errors.New(detail.Message))
	if d, err := connect.NewErrorDetail(detail); err == nil {
		out.AddDetail(d)
	}
	return out
}

// Detail returns the detail of an error that Error has made, here or on
// another server; nil: it has none.
func Detail(err error) *joulev1.Error {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return nil
	}
	for _, d := range ce.Details() {
		if v, verr := d.Value(); verr == nil {
			if e, ok := v.(*joulev1.Error); ok {
				return e
			}
		}
	}
	return nil
}

// ofProtocol are the reasons for what the protocol itself refuses.
var ofProtocol = map[connect.Code]joulev1.ErrorReason{
	connect.CodeInvalidArgument:   joulev1.ErrorReason_ERROR_REASON_MALFORMED,
	connect.CodeUnknown:           joulev1.ErrorReason_ERROR_REASON_MALFORMED, // it ends in the middle
	connect.CodeResourceExhausted: joulev1.ErrorReason_ERROR_REASON_INVALID,   // it is too large, which no later try cures
	connect.CodeUnimplemented:     joulev1.ErrorReason_ERROR_REASON_INVALID,   // an encoding that this server does not have
	connect.CodeUnavailable:       joulev1.ErrorReason_ERROR_REASON_UNAVAILABLE,
}

// OfProtocol gives an error that the protocol made by itself (a message does
// not decode, is too large, ends in the middle) its row of the table. Others
// are returned as they are: a call that was given up has no reason.
func OfProtocol(err *connect.Error) *connect.Error {
	reason, ok := ofProtocol[err.Code()]
	if err.Code() == connect.CodeInternal && strings.HasPrefix(err.Message(), "protocol error") { // of the client's
		reason, ok = joulev1.ErrorReason_ERROR_REASON_MALFORMED, true
	}
	if !ok || Detail(err) != nil {
		return err
	}
	return Error(&joulev1.Error{Reason: reason, Message: err.Message()})
}
