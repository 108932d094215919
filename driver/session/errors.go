package session

import (
	"errors"
	"fmt"
	"net"

	"connectrpc.com/connect"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

// RefusedError is returned when a server understood the request and said no.
// Trying again is pointless unless something changes.
type RefusedError struct {
	Server  string
	Reason  joulev1.ErrorReason // unspecified if the server gave none
	Message string              // the server's plain words
}

func (e *RefusedError) Error() string { return e.Message }

// UnavailableError is returned when no server could answer. Trying again later
// can help.
type UnavailableError struct {
	// MaybeDone says that a server may have carried the request out without
	// our hearing of it.
	MaybeDone bool
	Err       error // the last failure of each server
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("no settlement server answered: %v", e.Err)
}

func (e *UnavailableError) Unwrap() error { return e.Err }

// attemptError is the failure of one request to one server.
type attemptError struct {
	server    string
	maybeDone bool
	err       error
}

func (e *attemptError) Error() string { return fmt.Sprintf("%s: %v", e.server, e.err) }

func (e *attemptError) Unwrap() error { return e.err }

// classify makes a *RefusedError or an *attemptError of a Connect error.
func classify(server string, err error) error {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return &attemptError{server, true, err}
	}
	for _, d := range ce.Details() {
		v, verr := d.Value()
		if verr != nil {
			continue
		}
		if je, ok := v.(*joulev1.Error); ok {
			return classifyReason(server, je)
		}
	}
	switch ce.Code() {
	case connect.CodeInvalidArgument, connect.CodeNotFound, connect.CodeAlreadyExists, connect.CodePermissionDenied,
		connect.CodeFailedPrecondition, connect.CodeAborted, connect.CodeOutOfRange, connect.CodeUnauthenticated:
		return &RefusedError{Server: server, Message: ce.Message()}
	case connect.CodeUnimplemented:
		return &attemptError{server, false, errors.New("is not a settlement server, or one of another version")}
	}
	var op *net.OpError
	dialed := errors.As(err, &op) && op.Op == "dial"
	return &attemptError{server, !dialed, errors.New(ce.Message())}
}

func classifyReason(server string, je *joulev1.Error) error {
	switch je.GetReason() {
	case joulev1.ErrorReason_ERROR_REASON_NOT_LEADER, joulev1.ErrorReason_ERROR_REASON_OVERLOADED:
		return &attemptError{server, false, errors.New(words(je))}
	case joulev1.ErrorReason_ERROR_REASON_UNAVAILABLE:
		return &attemptError{server, true, errors.New(words(je))}
	}
	return &RefusedError{Server: server, Reason: je.GetReason(), Message: words(je)}
}

// words is the error's message, or its reason where it has none.
func words(je *joulev1.Error) string {
	if je.GetMessage() != "" {
		return je.GetMessage()
	}
	return je.GetReason().String()
}
