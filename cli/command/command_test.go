package command_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"

	"github.com/joulecloud/joule/cli/command"
	"github.com/joulecloud/joule/cli/command/commandtest"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/client"
)

// leaves calls visit with every command that does something and its words.
func leaves(app *cli.App, visit func(words []string, c *cli.Command)) {
	var walk func(words []string, commands []*cli.Command)
	walk = func(words []string, commands []*cli.Command) {
		for _, c := range commands {
			here := append(slices.Clone(words), c.Name)
			if len(c.Subcommands) > 0 {
				walk(here, c.Subcommands)
				continue
			}
			visit(here, c)
		}
	}
	walk([]string{"joule"}, app.Commands)
}

// valid is a good command line for every command: one that isn't here fails
// the tests below.
var valid = map[string]string{
	"customer create":    "x --namespace x",
	"customer list":      "",
	"deposit":            "acme 1 --ref r",
	"withdraw record":    "1 --treasury --currency joule --ref r",
	"withdraw request":   "1 --treasury --currency joule --to x",
	"withdraw confirm":   "1 --ref r",
	"withdraw fail":      "1 --why x --yes",
	"withdraw list":      "home-lab --open",
	"supplier show":      "west-dc",
	"rate list":          "",
	"rate override":      "2 --for 1h --why x --yes",
	"policy guard":       "--max-age 6m --deviation 1.5% --window 18m",
	"policy stake":       "--base 100 --factor 200% --unbond 504h",
	"stake buy":          "west-dc 5 --ref pay_1",
	"stake add":          "west-dc 5",
	"stake unbond":       "west-dc 5 --yes",
	"stake show":         "west-dc",
	"fine list":          "",
	"fine show":          "1",
	"fine simulate":      "--lease L1 --reason breach --evidence 7",
	"fine issue":         "--lease L1 --reason equivocation --evidence 7:30313233343536373839616263646566 --yes",
	"fine propose":       "--supplier west-dc --reason breach --evidence 7 --evidence 8 --why x",
	"fine approve":       "3 --yes",
	"fine appeal":        "3 --why x",
	"fine void":          "3 --why x --yes",
	"fine offences":      "",
	"fine schedule show": "",
	"fine schedule set":  "--appeal 168h --repeat 720h --day-cap 50% --rule breach:share=5%,grace=2,repeat=150%,remedy=1h",
	"correction make":    "L2 --entry 30 --leg supplier:treasury:1.5:joule --leg treasury:customer:0.08:usd --why x --yes",
	"correction list":    "L2",
	"refund":             "L2 0.25 --entry 30 --why x --yes",
	"budget":             "acme two-suppliers",
	"bill":               "acme",
	"balance":            "acme",
	"statement":          "treasury",
	"supplier create":    "x",
	"supplier list":      "",
	"host retire":        "dc-1 --yes",
	"host enroll":        "x --supplier west-dc --class crowd --public-key " + strings.Repeat("ab", ed25519.PublicKeySize),
	"host list":          "",
	"host key":           "--config hostd.hcl",
	"offer set":          "dc-1 --gpu 1",
	"lease list":         "",
	"lease explain":      "L1",
	"lease top-up":       "L3 --slices 1",
	"lease close":        "L3 --yes",
	"rate set":           "1",
	"rate show":          "",
	"mint":               "1 --ref r",
	"policy set":         "--fee 1% --slice 1s",
	"policy show":        "",
	"status":             "",
	"token create":       "alice --role operator",
	"errors":             "",
	"audit":              "journal",
	"server":             "-config good.hcl --check",
	"hostd":              "-config hostd.hcl",
	"doctor":             "",

	"operator raft peers":       "",
	"operator raft remove-peer": "id-3 --yes",
	"operator raft recover":     "--config good.hcl --yes",
	"operator snapshot save":    "$NEW",
	"operator snapshot inspect": "testdata/host.pub",
	"operator snapshot verify":  "testdata/host.pub",
	"operator snapshot restore": "testdata/host.pub --yes",
	"tls ca create":             "",
	"tls cert create":           "s1 --dns s1.example --ip 10.0.0.1",
}

// Every command works as it is written in valid, with its flags before or after
// its arguments, in text and JSON; and refuses one argument more than it takes,
// an unknown flag and an unreachable server before anything happens.
func TestEveryCommand(t *testing.T) {
	s := newScript(t)
	var names []string
	leaves(command.App(s.deps(io.Discard, io.Discard)), func(words []string, c *cli.Command) {
		if !c.SkipFlagParsing {
			names = append(names, strings.Join(words[1:], " "))
		}
	})
	for _, name := range names {
		line, ok := valid[name]
		if !ok {
			t.Errorf("joule %s: no valid command line in the table", name)
			continue
		}
		words := append(strings.Fields(name), strings.Fields(line)...)
		t.Run(name, func(t *testing.T) {
			for _, tt := range []struct {
				name  string
				words []string
				code  int
			}{
				{"as written", slices.Concat([]string{"joule"}, words), 0},
				{"as JSON", slices.Concat([]string{"joule"}, words, []string{"--output", "json"}), 0},
				{"with global flags first", slices.Concat([]string{"joule", "--output=json", "-timeout", "9s"}, words), 0},
				{"with an argument too many", slices.Concat([]string{"joule"}, words, []string{"a", "b", "c"}), 2},
				{"with an unknown flag", slices.Concat([]string{"joule"}, words, []string{"--no-such-flag"}), 2},
				{"with an unknown format", slices.Concat([]string{"joule"}, words, []string{"--output", "xml"}), 2},
			} {
				s := newScript(t)
				for i, w := range tt.words {
					if w == "$NEW" { // a file that is not there
						tt.words[i] = filepath.Join(t.TempDir(), "new")
					}
				}
				stdout, stderr, code := s.exec(tt.words)
				if code != tt.code {
					t.Errorf("%s: exit code: got %d, want %d; stderr %s", tt.name, code, tt.code, stderr)
				}
				if calls := s.server.Calls(); code != 0 && (stdout != "" || len(calls) > 0) {
					t.Errorf("%s: got output %q and requests %v, want neither", tt.name, stdout, calls)
				}
				if code != 0 && !strings.HasPrefix(stderr, "joule: error: ") {
					t.Errorf("%s: stderr: got %q, want an error", tt.name, stderr)
				}
				if tt.name == "as JSON" && words[0] != "hostd" && !json.Valid([]byte(stdout)) {
					t.Errorf("%s: got %q, want JSON", tt.name, stdout)
				}
				if words[0] != "hostd" && code == 0 && stderr != "" {
					t.Errorf("%s: stderr: got %q, want nothing", tt.name, stderr)
				}
			}
		})
	}
}

// Each flag has one name per command; environment variables belong to global
// flags, which have exactly one each, named after the flag.
func TestFlags(t *testing.T) {
	app := command.App(newScript(t).deps(io.Discard, io.Discard))
	seen := map[string]string{}
	globals := map[string]bool{}
	for _, f := range app.Flags {
		name := f.Names()[0]
		globals[name] = true
		env := f.(cli.DocGenerationFlag).GetEnvVars()
		want := "JOULE_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		if len(env) != 1 || env[0] != want {
			t.Errorf("--%s: environment variables: got %q, want only %s", name, env, want)
		}
		if other := seen[want]; other != "" {
			t.Errorf("%s belongs to --%s and --%s", want, other, name)
		}
		seen[want] = name
	}
	leaves(app, func(words []string, c *cli.Command) {
		for _, f := range c.Flags {
			name := f.Names()[0]
			if env := f.(cli.DocGenerationFlag).GetEnvVars(); len(env) > 0 {
				t.Errorf("%s --%s: environment variables: got %q, want none", strings.Join(words, " "), name, env)
			}
			if globals[name] {
				t.Errorf("%s --%s hides the global flag", strings.Join(words, " "), name)
			}
		}
	})
}

// The app alone, as urfave/cli reads it, refuses flags after arguments rather
// than taking them for arguments.
func TestAppAloneRefusesFlagsAfterArguments(t *testing.T) {
	s := newScript(t)
	var out, errs bytes.Buffer
	err := command.App(s.deps(&out, &errs)).Run([]string{"joule", "bill", "acme", "--job", "x"})
	if got := command.ExitCode(err); got != 2 || err == nil || !strings.Contains(err.Error(), `unexpected argument "--job"`) {
		t.Errorf("flags after the argument: got %v, exit code %d, want a refusal with 2", err, got)
	}
}

func TestEnvironmentSetsGlobalFlags(t *testing.T) {
	s := newScript(t)
	t.Setenv("JOULE_OUTPUT", "json")
	if out, _, code := s.exec([]string{"joule", "rate", "show"}); code != 0 || !strings.HasPrefix(out, "{") {
		t.Errorf("JOULE_OUTPUT=json: got %q, exit code %d, want JSON", out, code)
	}
	if out, _, code := s.exec([]string{"joule", "rate", "show", "--output", "text"}); code != 0 || strings.HasPrefix(out, "{") {
		t.Errorf("--output text with JOULE_OUTPUT=json: got %q, exit code %d, want text", out, code)
	}
	t.Setenv("JOULE_OUTPUT", "") // counts as unset
	if out, errs, code := s.exec([]string{"joule", "rate", "show"}); code != 0 || strings.HasPrefix(out, "{") {
		t.Errorf("JOULE_OUTPUT empty: got %q, %q, exit code %d, want text", out, errs, code)
	}
	t.Setenv("JOULE_TIMEOUT", "never")
	if _, errs, code := s.exec([]string{"joule", "rate", "show"}); code != 2 || !strings.Contains(errs, `"never"`) {
		t.Errorf("JOULE_TIMEOUT=never: got %q, exit code %d, want a refusal", errs, code)
	}
}

// Fresh keys are random, so that two runs are two commands.
func TestFreshKeysDiffer(t *testing.T) {
	s := newScript(t)
	keys := map[string]bool{}
	for range 2 {
		deps := s.deps(io.Discard, io.Discard)
		deps.NewKey = nil
		if code := command.Main(t.Context(), deps, []string{"joule", "rate", "set", "1"}); code != 0 {
			t.Fatalf("rate set: exit code %d", code)
		}
		for _, call := range s.server.Calls() {
			keys[call.Request.(*joulev1.SetRateRequest).GetKey()] = true
		}
	}
	if len(keys) != 2 {
		t.Fatalf("keys of two runs: got %v, want two", keys)
	}
	for key := range keys {
		if len(key) != 32 {
			t.Errorf("fresh key: got %q, want 16 bytes in hex", key)
		}
	}
}

func TestInterruptedCallSaysSo(t *testing.T) {
	s := newScript(t)
	if err := s.server.Fail("Deposit", "slow"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var errs bytes.Buffer
	code := command.Main(ctx, s.deps(io.Discard, &errs), []string{"joule", "deposit", "acme", "1", "--ref", "r"})
	if code != 1 || !strings.HasPrefix(errs.String(), "joule: error: interrupted\n") {
		t.Errorf("interrupted deposit: got exit code %d, %q", code, errs.String())
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestUnwritableOutputFails(t *testing.T) {
	s := newScript(t)
	var errs bytes.Buffer
	code := command.Main(t.Context(), s.deps(brokenPipe{}, &errs), []string{"joule", "balance"})
	if want := "joule: error: print result: broken pipe\n"; code != 1 || errs.String() != want {
		t.Errorf("balance to a broken pipe: got exit code %d, %q, want 1, %q", code, errs.String(), want)
	}
}

// A web server that isn't ours is told from one that is down.
func TestForeignServer(t *testing.T) {
	s := newScript(t)
	ts := httptest.NewUnstartedServer(http.NotFoundHandler())
	ts.Config.Protocols = new(http.Protocols)
	ts.Config.Protocols.SetUnencryptedHTTP2(true)
	ts.Start()
	t.Cleanup(ts.Close)
	_, errs, code := s.exec([]string{"joule", "status", "--addr", ts.URL})
	if want := fmt.Sprintf("joule: hint: is %s a joule settlement server?\n", ts.URL); code != 1 || !strings.HasSuffix(errs, want) {
		t.Errorf("status of a foreign server: got exit code %d, %q, want 1 and %q", code, errs, want)
	}
}

// What a server says is shown without what could move the cursor.
func TestServersTextIsCleaned(t *testing.T) {
	err := &client.Error{Reason: joulev1.ErrorReason_ERROR_REASON_INVALID, Message: "job \"\x1b[2Jx\""}
	var errs bytes.Buffer
	deps := command.Deps{Out: io.Discard, Err: &errs,
		RunHostd: func(context.Context, string, bool) error { return err }}
	code := command.Main(t.Context(), deps, []string{"joule", "hostd", "-config", "x"})
	if want := "joule: error: job \"\\x1b[2Jx\"\n"; code != 2 || errs.String() != want {
		t.Errorf("error of a hostile server: got %d, %q, want 2, %q", code, errs.String(), want)
	}
}

// Commands whose work isn't wired aren't offered.
func TestUnwiredCommandsAreAbsent(t *testing.T) {
	var out, errs bytes.Buffer
	deps := command.Deps{Out: &out, Err: &errs}
	for _, words := range [][]string{{"server"}, {"hostd"}, {"doctor"}, {"dev"}, {"demo"}, {"audit", "x"}, {"host", "key"}} {
		if code := command.Main(t.Context(), deps, append([]string{"joule"}, words...)); code != 2 {
			t.Errorf("joule %q without its function: exit code: got %d, want 2", words, code)
		}
	}
}

// Every reason of the API has one exit code; so has every Connect code.
func TestExitCodes(t *testing.T) {
	want := map[string]int{
		"UNSPECIFIED": 1, "INVALID": 2, "NOT_FOUND": 3, "EXISTS": 5, "CONFLICT": 5, "INSUFFICIENT": 6, "FORBIDDEN": 4,
		"TOO_DEAR": 6, "NO_OFFER": 6, "NO_RATE": 6, "CLOSED": 6, "OVERFLOW": 2, "UNAUTHENTICATED": 4, "BAD_SIGNATURE": 4,
		"MALFORMED": 2, "NO_ALLOCATION": 3, "WRONG_NODE": 4, "ALLOCATION_STOPPED": 6, "NOT_LEADER": 7, "UNAVAILABLE": 7,
		"STAKE": 6, "NOT_FINABLE": 6, "EVIDENCE": 6, "SAME_OPERATOR": 4, "OVERLOADED": 7,
	}
	got := map[string]int{}
	for number, name := range joulev1.ErrorReason_name {
		err := fmt.Errorf("wrapped: %w", &client.Error{Reason: joulev1.ErrorReason(number)})
		got[strings.TrimPrefix(name, "ERROR_REASON_")] = command.ExitCode(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("exit codes by reason (-want +got):\n%s", diff)
	}
	codes := map[connect.Code]int{
		connect.CodeCanceled: 1, connect.CodeUnknown: 1, connect.CodeInvalidArgument: 2, connect.CodeDeadlineExceeded: 7,
		connect.CodeNotFound: 3, connect.CodeAlreadyExists: 5, connect.CodePermissionDenied: 4, connect.CodeResourceExhausted: 2,
		connect.CodeFailedPrecondition: 6, connect.CodeAborted: 5, connect.CodeOutOfRange: 2, connect.CodeUnimplemented: 1,
		connect.CodeInternal: 1, connect.CodeUnavailable: 7, connect.CodeDataLoss: 1, connect.CodeUnauthenticated: 4,
	}
	for code, want := range codes {
		if got := command.ExitCode(connect.NewError(code, errors.New("x"))); got != want {
			t.Errorf("exit code of %v: got %d, want %d", code, got, want)
		}
	}
	for _, tt := range []struct {
		name string
		err  error
		want int
	}{
		{"nothing", nil, 0},
		{"help", flag.ErrHelp, 0},
		{"anything else", errors.New("x"), 1},
		{"what the person gave", command.Invalid(errors.New("x")), 2},
		{"what is there already", command.Conflict(errors.New("x")), 5},
		{"no server", &client.UnreachableError{Cause: errors.New("x")}, 7},
	} {
		if got := command.ExitCode(tt.err); got != tt.want {
			t.Errorf("exit code of %s: got %d, want %d", tt.name, got, tt.want)
		}
	}
	if command.Invalid(nil) != nil || command.Conflict(nil) != nil {
		t.Error("Invalid(nil), Conflict(nil): got an error, want nil")
	}
}

// The fake is what the tests trust, so its faults must reach the caller typed.
func TestFakeServerRefusesTyped(t *testing.T) {
	s := commandtest.New()
	c, err := client.Dial(s.Serve(t), "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.GetBill(t.Context(), &joulev1.GetBillRequest{Customer: "nobody"})
	if e, ok := errors.AsType[*client.Error](err); !ok || e.Reason != joulev1.ErrorReason_ERROR_REASON_NOT_FOUND {
		t.Errorf("bill of nobody: got %v, want a typed refusal", err)
	}
	if err := s.Fail("GetBill", "nonsense"); err == nil {
		t.Error("unknown fault: got no error, want one")
	}
}
