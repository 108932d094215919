package command

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/joulecloud/joule/settlement/access"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
	"github.com/joulecloud/joule/settlement/client"
)

// DefaultAddr is the settlement server spoken to unless --addr says otherwise.
const DefaultAddr = "http://127.0.0.1:7433"

// keyBytes is the length of a fresh idempotency key, before hex.
const keyBytes = 16

// Client is what commands need of a settlement server. Its errors are those of
// settlement/client.
type Client interface {
	joulev1connect.SettlementServiceClient
}

// Deps is everything a command reaches outside itself. Out and Err are
// required; a command whose Run function is nil isn't offered.
type Deps struct {
	Out io.Writer // results only
	Err io.Writer // errors and hints

	// Version is printed by --version.
	Version string
	// NewKey makes a fresh idempotency key; nil: 16 random bytes in hex.
	NewKey func() string
	// NewToken makes an access token; nil: access.New.
	NewToken func(name string, role access.Role, subject string) (secret string, t access.Token, err error)
	// Dial makes a client of the server at addr, trusting the certificates in
	// caFile ("": the system's), with a bearer's token ("": none); nil:
	// client.Dial.
	Dial func(addr, caFile, token string) (Client, error)

	// DialOperator is Dial for the operators' service; nil: client.DialOperator.
	DialOperator func(addr, caFile, token string) (joulev1connect.OperatorServiceClient, error)
	// Recover makes the servers in peersFile, or with "" this one alone, the
	// whole cluster of a stopped server.
	Recover func(configPath, peersFile string) (*Recovery, error)
	// Backup reads what a backup says of itself, and with verify checks it.
	Backup func(path string, verify bool) (*Backup, error)

	// RunServer runs a settlement server until ctx ends; with check it only
	// reads and validates the configuration.
	RunServer func(ctx context.Context, configPath string, check bool) error
	// RunHostd runs a host's daemon until ctx ends; with check it only reads and
	// validates the configuration and what that points to.
	RunHostd func(ctx context.Context, configPath string, check bool) error
	// RunDoctor examines this machine as a host. A report with failures is not
	// an error.
	RunDoctor func(ctx context.Context, configPath string, timeout time.Duration) (*DoctorReport, error)
	// RunDev runs everything on this machine until ctx ends. It parses its own
	// flags.
	RunDev func(ctx context.Context, args []string) error
	// RunDemo runs the demo. It parses its own flags.
	RunDemo func(ctx context.Context, args []string) error
	// RunAudit audits a journal directory. A report with findings is not an
	// error.
	RunAudit func(ctx context.Context, dir string) (*AuditReport, error)
	// CreateCA and CreateCert make certificates; both are given or neither.
	CreateCA   func(CertificateOptions) (*Certificate, error)
	CreateCert func(CertificateOptions) (*Certificate, error)
	// PublicKey returns the host key of a host's daemon by its configuration,
	// creating the key where there is none.
	PublicKey func(configPath string) (ed25519.PublicKey, error)
}

// Main runs the command line args (the program's name first), prints an error
// with its hints to deps.Err and returns the exit code.
func Main(ctx context.Context, deps Deps, args []string) int {
	err := Run(ctx, deps, args)
	printError(deps.Err, err)
	return ExitCode(err)
}

// Run runs the command line args (the program's name first). Flags may stand
// before or after arguments, and global flags anywhere.
func Run(ctx context.Context, deps Deps, args []string) error {
	app := App(deps)
	app.Setup()
	return app.RunContext(ctx, arrange(app, args))
}

// App returns the command tree. Its own Run takes flags before arguments only;
// use the package's Run.
func App(deps Deps) *cli.App {
	if deps.NewKey == nil {
		deps.NewKey = randomKey
	}
	if deps.NewToken == nil {
		deps.NewToken = access.New
	}
	if deps.Dial == nil {
		deps.Dial = func(addr, caFile, token string) (Client, error) {
			return client.Dial(addr, caFile, client.WithToken(token))
		}
	}
	if deps.DialOperator == nil {
		deps.DialOperator = func(addr, caFile, token string) (joulev1connect.OperatorServiceClient, error) {
			return client.DialOperator(addr, caFile, client.WithToken(token))
		}
	}
	b := &builder{deps: deps}
	app := &cli.App{
		Name:                  "joule",
		Usage:                 "one cloud from many suppliers' machines, billed exactly",
		UsageText:             "joule [global flags] COMMAND [flags] [ARGUMENT…]",
		Version:               deps.Version,
		Writer:                deps.Out,
		ErrWriter:             deps.Err,
		HideHelpCommand:       true,
		CustomAppHelpTemplate: appHelp + exitHelp(),
		ExitErrHandler:        func(*cli.Context, error) {}, // Main exits, once
		OnUsageError:          usageFault,
		Flags:                 globalFlags(),
		Commands:              b.commands(),
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return unknownCommand(c.Args().First(), c.App.Name, c.App.Commands)
			}
			return cli.ShowAppHelp(c)
		},
	}
	return app
}

func (b *builder) commands() []*cli.Command {
	cmds := []*cli.Command{
		b.customer(), b.deposit(), b.withdraw(), b.bill(), b.balance(), b.statement(),
		b.supplier(), b.host(), b.offer(), b.lease(),
		b.rate(), b.mint(), b.policy(), b.stake(), b.fine(), b.correction(), b.refund(), b.budget(), b.token(), b.status(), b.errors(),
	}
	if b.deps.RunAudit != nil {
		cmds = append(cmds, b.audit())
	}
	if b.deps.RunServer != nil {
		cmds = append(cmds, b.server())
	}
	cmds = append(cmds, b.operator())
	if b.deps.CreateCA != nil {
		cmds = append(cmds, b.tls())
	}
	if b.deps.RunHostd != nil {
		cmds = append(cmds, b.hostd())
	}
	if b.deps.RunDoctor != nil {
		cmds = append(cmds, b.doctor())
	}
	if b.deps.RunDev != nil {
		cmds = append(cmds, b.passThrough("dev", "run everything on this machine until Ctrl-C", b.deps.RunDev))
	}
	if b.deps.RunDemo != nil {
		cmds = append(cmds, b.passThrough("demo", "run two suppliers, one job and its bill, and check them", b.deps.RunDemo))
	}
	return cmds
}

func globalFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "addr", Value: DefaultAddr, EnvVars: variable("JOULE_ADDR"),
			Usage: "settlement server's `URL`"},
		&cli.StringFlag{Name: "ca-file", EnvVars: variable("JOULE_CA_FILE"),
			Usage: "`FILE` with the certificates to trust, PEM; the system's if unset"},
		&cli.StringFlag{Name: "token-file", EnvVars: variable("JOULE_TOKEN_FILE"),
			Usage: "`FILE` with the token that says who you are; none is needed on the machine of a server without tokens"},
		&cli.StringFlag{Name: "output", Value: "text", EnvVars: variable("JOULE_OUTPUT"),
			Usage: "`FORMAT` of results: text or json"},
		&cli.StringFlag{Name: "timeout", Value: "10s", EnvVars: variable("JOULE_TIMEOUT"),
			Usage: "how long to wait for the server, a `DURATION`"},
	}
}

// variable is a flag's environment variable; an empty one counts as unset, as
// everywhere in a shell, while urfave/cli would take it for a value.
func variable(name string) []string {
	if v, found := os.LookupEnv(name); found && v == "" {
		return nil
	}
	return []string{name}
}

func randomKey() string {
	var b [keyBytes]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	return hex.EncodeToString(b[:])
}

const globalHelp = `
GLOBAL FLAGS:
   --addr URL, --ca-file FILE, --token-file FILE, --output text|json, --timeout DURATION; see joule --help
`

const appHelp = `NAME:
   {{template "helpNameTemplate" .}}

USAGE:
   {{.UsageText}}

   Flags may stand before or after arguments; after -- everything is an argument.

COMMANDS:{{template "visibleCommandTemplate" .}}

GLOBAL FLAGS:{{template "visibleFlagTemplate" .}}
`

const leafHelp = `NAME:
   {{template "helpNameTemplate" .}}

USAGE:
   {{.HelpName}}{{if .VisibleFlags}} [flags]{{end}}{{if .ArgsUsage}} {{.ArgsUsage}}{{end}}{{if .Description}}

   {{wrap .Description 3}}{{end}}

FLAGS:{{template "visibleFlagTemplate" .}}
`

const groupHelp = `NAME:
   {{template "helpNameTemplate" .}}

USAGE:
   {{.HelpName}} COMMAND [flags] [ARGUMENT…]

COMMANDS:{{template "visibleCommandTemplate" .}}
`

// exitHelp prints the table of exit codes for --help.
func exitHelp() string {
	s := "\nEXIT CODES:\n"
	for _, e := range exits() {
		s += fmt.Sprintf("   %d  %s\n", e.code, e.meaning)
	}
	return s
}
