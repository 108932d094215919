package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strings"

	"connectrpc.com/connect"
	"github.com/urfave/cli/v2"

	"github.com/joulecloud/joule/cli/output"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/client"
	"github.com/joulecloud/joule/settlement/money"
	"github.com/joulecloud/joule/settlement/refusal"
)

// The exit codes; which refusal has which is in settlement/refusal.
const (
	exitOK           = refusal.ExitOK
	exitInternal     = refusal.ExitInternal
	exitInvalid      = refusal.ExitInvalid
	exitNotFound     = refusal.ExitNotFound
	exitForbidden    = refusal.ExitForbidden
	exitConflict     = refusal.ExitConflict
	exitInsufficient = refusal.ExitInsufficient
	exitUnavailable  = refusal.ExitUnavailable
)

// exit is one row of the table of exit codes.
type exit struct {
	code    int
	meaning string
}

// exits is the table of exit codes that --help prints.
func exits() []exit {
	return []exit{
		{exitOK, "done"},
		{exitInternal, "internal error; a bill or an audit that does not add up; a check of doctor that failed"},
		{exitInvalid, "wrong usage or an invalid value"},
		{exitNotFound, "not found"},
		{exitForbidden, "not authenticated or not allowed"},
		{exitConflict, "exists already, or the key was used with other values"},
		{exitInsufficient, "insufficient funds or stake, too dear, no offer, no rate, or closed"},
		{exitUnavailable, "server unreachable, without a leader, overloaded or too slow"},
	}
}

// ExitCode is the process's exit code for an error of Run; nil is 0.
func ExitCode(err error) int {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	if f, ok := errors.AsType[*fault](err); ok && f.code != exitOK {
		return f.code
	}
	if _, ok := errors.AsType[*money.Error](err); ok {
		return exitInvalid
	}
	if _, ok := errors.AsType[*client.UnreachableError](err); ok {
		return exitUnavailable
	}
	if refused, ok := errors.AsType[*client.Error](err); ok {
		if row, known := refusal.Of(refused.Reason); known {
			return row.Exit
		}
		return exitInternal
	}
	if ce, ok := errors.AsType[*connect.Error](err); ok {
		return refusal.ExitOf(ce.Code())
	}
	return exitInternal
}

// fault is an error with what the person can do next.
type fault struct {
	code  int // exitOK: by the cause
	cause error
	hints []string
}

// Error implements error.
func (f *fault) Error() string { return f.cause.Error() }

// Unwrap returns the cause.
func (f *fault) Unwrap() error { return f.cause }

// Invalid marks err as a fault of what the person gave, such as a
// configuration file: its exit code is 2. nil stays nil.
func Invalid(err error) error {
	if err == nil {
		return nil
	}
	return &fault{code: exitInvalid, cause: err}
}

// Conflict marks err as a clash with what is there already, such as a second
// daemon on one directory: its exit code is 5. nil stays nil.
func Conflict(err error) error {
	if err == nil {
		return nil
	}
	return &fault{code: exitConflict, cause: err}
}

func invalid(hint, format string, args ...any) error {
	return failed(exitInvalid, hint, format, args...)
}

func failed(code int, hint, format string, args ...any) error {
	f := &fault{code: code, cause: fmt.Errorf(format, args...)}
	if hint != "" {
		f.hints = []string{hint}
	}
	return f
}

// printError prints err and its hints, one prefixed line for each of theirs.
func printError(w io.Writer, err error) {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintf(w, "joule: error: %s\n", output.Clean(line))
	}
	if f, ok := errors.AsType[*fault](err); ok {
		for _, hint := range f.hints {
			fmt.Fprintf(w, "joule: hint: %s\n", output.Clean(hint))
		}
	}
}

// explain gives a failed call its hints.
func (in *invocation) explain(err error) error {
	f := &fault{cause: err}
	if refused, ok := errors.AsType[*client.Error](err); ok {
		f.hints = in.refusalHints(refused.Reason)
		return f
	}
	dial, ok := errors.AsType[*net.OpError](err)
	notSent := ok && dial.Op == "dial"
	switch {
	case in.c.Context.Err() != nil:
		f.code, f.cause = exitInternal, errors.New("interrupted")
	case errors.Is(err, context.DeadlineExceeded) || connect.CodeOf(err) == connect.CodeDeadlineExceeded: // either side's clock
		f.code = exitUnavailable
		f.cause = fmt.Errorf("no answer from settlement server %s within %v", in.c.String("addr"), in.timeout)
		f.hints = append(f.hints, "--timeout waits longer")
	case notSent:
		f.hints = append(f.hints, "start a server with `joule dev` or `joule server -config FILE`, or name another with --addr")
	default:
		if ce, ok := errors.AsType[*connect.Error](err); ok {
			f.code, f.cause = ExitCode(err), errors.New(ce.Message())
			if ce.Code() == connect.CodeUnimplemented || ce.Code() == connect.CodeUnknown {
				f.hints = append(f.hints, fmt.Sprintf("is %s a joule settlement server?", in.c.String("addr")))
			}
		}
	}
	if !notSent {
		f.hints = append(f.hints, in.repeatHints()...)
	}
	return f
}

// repeatHints says how to repeat a changing call whose outcome isn't known.
func (in *invocation) repeatHints() []string {
	if in.key == "" {
		return nil
	}
	return []string{fmt.Sprintf("it may have happened or not; repeated with --key %s it happens once at most", in.key)}
}

func (in *invocation) refusalHints(reason joulev1.ErrorReason) []string {
	one := func(hint string) []string {
		if hint == "" {
			return nil
		}
		return []string{hint}
	}
	switch reason {
	case joulev1.ErrorReason_ERROR_REASON_NOT_FOUND:
		return one(in.leaf.notFound)
	case joulev1.ErrorReason_ERROR_REASON_INSUFFICIENT:
		return one(in.leaf.insufficient)
	case joulev1.ErrorReason_ERROR_REASON_CONFLICT:
		return one("a key belongs to one command and its values: leave --key out for a fresh one")
	case joulev1.ErrorReason_ERROR_REASON_NO_RATE:
		return one("joule rate set USD_PER_JOULE")
	case joulev1.ErrorReason_ERROR_REASON_NO_OFFER:
		return one("joule offer set HOST --base USD --cpu USD --gpu USD --memory USD")
	case joulev1.ErrorReason_ERROR_REASON_UNAUTHENTICATED:
		return one("--token-file FILE, or JOULE_TOKEN_FILE, says who you are; an operator makes tokens with `joule token create`")
	case joulev1.ErrorReason_ERROR_REASON_STAKE:
		return one("`joule supplier show SUPPLIER` shows stake and what is required; joule stake add SUPPLIER AMOUNT")
	case joulev1.ErrorReason_ERROR_REASON_OVERLOADED:
		return one("nothing has happened: try again a little later; --timeout lets it wait longer by itself")
	case joulev1.ErrorReason_ERROR_REASON_NOT_LEADER, joulev1.ErrorReason_ERROR_REASON_UNAVAILABLE:
		return append([]string{"`joule status` shows the leader; try again in a few seconds"}, in.repeatHints()...)
	}
	return nil
}

// usageFault rewords what the flag package says.
func usageFault(c *cli.Context, err error, _ bool) error {
	hint := fmt.Sprintf("joule%s --help", strings.TrimPrefix(c.Command.HelpName, "joule"))
	text := err.Error()
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		return invalid(hint, "unknown flag %q", "--"+name)
	}
	if name, ok := strings.CutPrefix(text, "flag needs an argument: -"); ok {
		return invalid(hint, "--%s: needs a value", name)
	}
	return &fault{code: exitInvalid, cause: err, hints: []string{hint}}
}

func unknownCommand(name, parent string, commands []*cli.Command) error {
	hint := parent + " --help"
	if near := nearest(name, commands); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	return invalid(hint, "unknown command %q", name)
}

// nearest is the command whose name is at most two edits from name, "" if none
// is.
func nearest(name string, commands []*cli.Command) string {
	const editsMax = 2
	best, bestEdits := "", editsMax+1
	for _, c := range commands {
		if n := edits(name, c.Name); n < min(bestEdits, len(c.Name)) {
			best, bestEdits = c.Name, n
		}
	}
	return best
}

// edits is the Levenshtein distance of a and b in bytes.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
