package command

import (
	"context"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/joulecloud/joule/cli/output"
)

func (b *builder) server() *cli.Command {
	return b.command(leaf{
		name: "server", usage: "run one settlement server",
		description: "Example: joule server -config server.hcl",
		flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Usage: "`FILE` that configures it (required)"},
			&cli.BoolFlag{Name: "check", Usage: "only read and validate the configuration", DisableDefaultText: true},
		},
		run: func(in *invocation) error {
			config, err := in.required("config")
			if err != nil {
				return err
			}
			if !in.c.Bool("check") {
				return in.deps.RunServer(in.c.Context, config, false)
			}
			if err := in.deps.RunServer(in.c.Context, config, true); err != nil {
				return Invalid(err)
			}
			return in.value(configShown{config, true}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s is valid\n", output.Clean(config))
				return err
			})
		},
	})
}

// configShown is the JSON of server --check.
type configShown struct {
	Config string `json:"config"`
	Valid  bool   `json:"valid"`
}

func (b *builder) hostd() *cli.Command {
	return b.command(leaf{
		name: "hostd", usage: "run a host's daemon",
		description: "Example: joule hostd -config /etc/joule/hostd.hcl",
		flags:       []cli.Flag{&cli.StringFlag{Name: "config", Usage: "`FILE` that configures it (required)"}},
		run: func(in *invocation) error {
			config, err := in.required("config")
			if err != nil {
				return err
			}
			return in.deps.RunHostd(in.c.Context, config)
		},
	})
}

// passThrough makes a command that parses everything after its name by itself.
func (b *builder) passThrough(name, usage string, run func(context.Context, []string) error) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, SkipFlagParsing: true, HideHelp: true, HideHelpCommand: true,
		Action: func(c *cli.Context) error { return run(c.Context, c.Args().Slice()) },
	}
}

// AuditReport is what an audit of a journal found.
type AuditReport struct {
	Blocks   uint64         `json:"blocks"`
	Entries  uint64         `json:"entries"`
	Digest   string         `json:"digest"` // hex
	Checks   []AuditCheck   `json:"checks"`
	Findings []AuditFinding `json:"findings"`
}

// AuditCheck is one rule and how many things it was checked on.
type AuditCheck struct {
	Name    string `json:"name"`
	Checked uint64 `json:"checked"`
	Faults  uint64 `json:"faults"`
}

// AuditFinding is one fault; 0 in BlockSeq or EntrySeq means none in
// particular.
type AuditFinding struct {
	Check    string `json:"check"`
	BlockSeq uint64 `json:"block_seq"`
	EntrySeq uint64 `json:"entry_seq"`
	Text     string `json:"text"`
}

func (b *builder) audit() *cli.Command {
	return b.command(leaf{
		name: "audit", usage: "re-derive every balance from a journal, offline", args: []string{"DIR"},
		description: "DIR is a server's journal directory; nothing is written to it. Exit code 1 when anything is wrong.",
		run: func(in *invocation) error {
			report, err := in.deps.RunAudit(in.c.Context, in.arg(0))
			if err != nil {
				return err
			}
			if err := in.value(report, func(w io.Writer) error { return writeAudit(w, report) }); err != nil {
				return err
			}
			if n := len(report.Findings); n > 0 {
				return failed(exitInternal, "", "audit of %s: %s", in.arg(0), count(n, "finding"))
			}
			return nil
		},
	})
}

func writeAudit(w io.Writer, r *AuditReport) error {
	checks := output.NewTable(output.Column{Title: "CHECK"}, output.Column{Title: "CHECKED", Align: output.Right},
		output.Column{Title: "FAULTS", Align: output.Right})
	for _, c := range r.Checks {
		checks.Row(c.Name, fmt.Sprint(c.Checked), fmt.Sprint(c.Faults))
	}
	if err := checks.Write(w); err != nil {
		return err
	}
	findings := output.NewTable(output.Column{Title: "FINDING"}, output.Column{Title: "BLOCK", Align: output.Right},
		output.Column{Title: "ENTRY", Align: output.Right}, output.Column{Title: "TEXT"})
	for _, f := range r.Findings {
		findings.Row(f.Check, seqOrNone(f.BlockSeq), seqOrNone(f.EntrySeq), f.Text)
	}
	if len(r.Findings) > 0 {
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
	}
	if err := findings.Write(w); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%d blocks, %d entries, digest %s\n", r.Blocks, r.Entries, output.Clean(r.Digest))
	return err
}

func seqOrNone(n uint64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}
