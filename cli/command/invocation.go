package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"google.golang.org/protobuf/proto"

	"github.com/joulecloud/joule/cli/output"
	"github.com/joulecloud/joule/settlement/access"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/money"
)

// The hints that more than one command gives.
const (
	hintAccounts = "`joule balance` lists every account"
	hintHosts    = "`joule host list` lists every host"
	hintLeases   = "`joule lease list` lists the leases"
	hintDeposit  = "joule deposit CUSTOMER AMOUNT --ref REF brings money in; `joule balance` shows what is there"
)

// pageMax is the largest page that a server gives.
const pageMax = 10_000

// builder makes the commands.
type builder struct{ deps Deps }

// leaf describes a command that does something.
type leaf struct {
	name, usage, description string
	args                     []string // names; "[NAME]" may be left out, and is the last
	flags                    []cli.Flag
	changing                 bool   // has --key
	notFound                 string // hint for an unknown thing
	insufficient             string // hint for a lack of funds
	run                      func(*invocation) error
}

// command makes a leaf's command, which refuses missing, empty and surplus
// arguments and bad global flags before it runs.
func (b *builder) command(l leaf) *cli.Command {
	flags := l.flags
	if l.changing {
		flags = append(flags, &cli.StringFlag{Name: "key",
			Usage: "idempotency `KEY`: repeated with the same key and values, it happens once; default random"})
	}
	return &cli.Command{
		Name: l.name, Usage: l.usage, Description: l.description, ArgsUsage: strings.Join(l.args, " "),
		Flags: flags, HideHelpCommand: true, OnUsageError: usageFault,
		CustomHelpTemplate: leafHelp + globalHelp,
		Action: func(c *cli.Context) error {
			in := &invocation{deps: b.deps, c: c, leaf: l}
			if err := errors.Join(in.checkArgs(), in.checkGlobals()); err != nil {
				return flatten(err)
			}
			return in.leaf.run(in)
		},
	}
}

// group makes a command that only holds others.
func group(name, usage string, commands ...*cli.Command) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, Subcommands: commands, HideHelpCommand: true, OnUsageError: usageFault,
		CustomHelpTemplate: groupHelp,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return unknownCommand(c.Args().First(), "joule "+name, commands)
			}
			names := make([]string, len(commands))
			for i, sub := range commands {
				names[i] = sub.Name
			}
			return invalid("joule "+name+" --help", "%s: needs one of the commands %s", name, strings.Join(names, ", "))
		},
	}
}

// invocation is one run of a leaf.
type invocation struct {
	deps    Deps
	c       *cli.Context
	leaf    leaf
	json    bool
	timeout time.Duration
	key     string // the idempotency key, once asked for
	client  Client // once dialled
	moved   func() // a transfer goes on: see progressing
}

func (in *invocation) arg(i int) string { return in.c.Args().Get(i) }

func (in *invocation) checkArgs() error {
	given := in.c.Args().Slice()
	for i, name := range in.leaf.args {
		optional := strings.HasPrefix(name, "[")
		switch {
		case i < len(given) && given[i] == "":
			return invalid("", "%s: must not be empty", strings.Trim(name, "[]"))
		case i >= len(given) && !optional:
			return invalid(in.synopsis(), "%s: missing", name)
		}
	}
	if surplus := given[min(len(given), len(in.leaf.args)):]; len(surplus) > 0 {
		hint := in.synopsis()
		if strings.HasPrefix(surplus[0], "-") {
			hint = "put flags before arguments: " + hint
		}
		return invalid(hint, "unexpected argument %q", surplus[0])
	}
	return nil
}

func (in *invocation) synopsis() string {
	s := in.c.Command.HelpName
	if len(in.c.Command.VisibleFlags()) > 1 { // more than --help
		s += " [flags]"
	}
	return strings.TrimSpace(s + " " + in.c.Command.ArgsUsage)
}

func (in *invocation) checkGlobals() error {
	var faults []error
	switch format := in.c.String("output"); format {
	case "text":
	case "json":
		in.json = true
	default:
		faults = append(faults, fmt.Errorf("--output: must be text or json (got %q)", format))
	}
	text := in.c.String("timeout")
	var err error
	if in.timeout, err = time.ParseDuration(text); err != nil || in.timeout <= 0 {
		faults = append(faults, fmt.Errorf("--timeout: must be a duration such as 10s, more than 0 (got %q)", text))
	}
	if len(faults) == 0 {
		return nil
	}
	return &fault{code: exitInvalid, cause: errors.Join(faults...)}
}

// flatten joins faults of the same command line into one with all hints.
func flatten(err error) error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return err
	}
	out := &fault{code: exitInvalid, cause: err}
	for _, e := range joined.Unwrap() {
		if f, ok := errors.AsType[*fault](e); ok {
			out.hints = append(out.hints, f.hints...)
		}
	}
	return out
}

// required returns a flag's value and refuses an absent or empty one.
func (in *invocation) required(flag string) (string, error) {
	if v := in.c.String(flag); v != "" {
		return v, nil
	}
	if in.c.IsSet(flag) {
		return "", invalid("", "--%s: must not be empty", flag)
	}
	return "", invalid(in.c.Command.HelpName+" --help", "--%s: missing", flag)
}

// parseUint reads a whole number between least and most.
func parseUint(field, text string, least, most uint64) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n < least || n > most {
		return 0, invalid("", "%s: must be a whole number from %d to %d (got %q)", field, least, most, short(text))
	}
	return n, nil
}

// short cuts a value that would fill the screen.
func short(text string) string {
	const most = 40
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}

// lease reads a lease's id, "L12" or "12".
func (in *invocation) lease(i int) (uint64, error) {
	digits := strings.TrimPrefix(strings.TrimPrefix(in.arg(i), "L"), "l")
	id, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || id == 0 {
		return 0, invalid(hintLeases, "%s: must be a lease such as L12 (got %q)", in.leaf.args[i], short(in.arg(i)))
	}
	return id, nil
}

// idempotencyKey returns --key, or a fresh key.
func (in *invocation) idempotencyKey() string {
	if in.key == "" {
		if in.key = in.c.String("key"); in.key == "" {
			in.key = in.deps.NewKey()
		}
	}
	return in.key
}

// token reads the file that --token-file names; "" where there is none.
func (in *invocation) token() (string, error) {
	path := in.c.String("token-file")
	if path == "" {
		return "", nil
	}
	token, err := access.ReadToken(path)
	if err != nil {
		return "", &fault{code: exitInvalid, cause: fmt.Errorf("--token-file: %w", err)}
	}
	return token, nil
}

// call makes one call of the settlement service within --timeout. Its errors
// have hints.
func call[Req, Resp any](in *invocation, method func(Client, context.Context, *Req) (*Resp, error), req *Req) (*Resp, error) {
	if in.client == nil {
		token, err := in.token()
		if err != nil {
			return nil, err
		}
		c, err := in.deps.Dial(in.c.String("addr"), in.c.String("ca-file"), token)
		if err != nil {
			return nil, &fault{code: exitInvalid, cause: err,
				hints: []string{"--addr names the server, such as " + DefaultAddr + "; --ca-file the certificates to trust"}}
		}
		in.client = c
	}
	ctx, cancel := context.WithTimeout(in.c.Context, in.timeout)
	defer cancel()
	resp, err := method(in.client, ctx, req)
	if err != nil {
		return nil, in.explain(err)
	}
	return resp, nil
}

// result prints m as JSON or by text. currency is that of the amounts in m that
// carry none beside them.
func (in *invocation) result(m proto.Message, currency joulev1.Currency, text func(io.Writer) error) error {
	if in.json {
		return in.print(func(w io.Writer) error { return output.JSON(w, message{m, units(currency)}) })
	}
	return in.print(text)
}

// done prints m as JSON or a sentence.
func (in *invocation) done(m proto.Message, currency joulev1.Currency, format string, args ...any) error {
	return in.result(m, currency, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, output.Clean(fmt.Sprintf(format, args...)))
		return err
	})
}

// print writes a result at once, so that a failure half-way prints nothing.
func (in *invocation) print(write func(io.Writer) error) error {
	var buf bytes.Buffer
	if err := write(&buf); err != nil {
		return fmt.Errorf("print result: %w", err)
	}
	if _, err := in.deps.Out.Write(buf.Bytes()); err != nil {
		return fmt.Errorf("print result: %w", err)
	}
	return nil
}

// hint tells the person something beside a result.
func (in *invocation) hint(format string, args ...any) {
	fmt.Fprintf(in.deps.Err, "joule: hint: %s\n", output.Clean(fmt.Sprintf(format, args...)))
}

// uint32Max is the most of a 32-bit field.
const uint32Max = uint64(math.MaxUint32)

// currencyFlag reads a currency flag.
func (in *invocation) currencyFlag(flag string) (joulev1.Currency, money.Currency, error) {
	c, err := money.ParseCurrency("--"+flag, in.c.String(flag))
	if err != nil {
		return 0, 0, err
	}
	if c == money.Joule {
		return joulev1.Currency_CURRENCY_JOULE, c, nil
	}
	return joulev1.Currency_CURRENCY_USD, c, nil
}
