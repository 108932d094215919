package command

import (
	"fmt"
	"io"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/joulecloud/joule/cli/output"
	"github.com/joulecloud/joule/settlement/money"
)

// AuditReport is what an audit of a journal found.
type AuditReport struct {
	Dir        string         `json:"dir"`
	Blocks     uint64         `json:"blocks"`
	Commands   uint64         `json:"commands"`
	Entries    uint64         `json:"entries"`
	Transfers  uint64         `json:"transfers"`
	Leases     uint64         `json:"leases"`
	Records    uint64         `json:"records"`
	FromUnixMs int64          `json:"from_unix_ms"` // of the first block; 0: none
	ToUnixMs   int64          `json:"to_unix_ms"`   // of the last block; 0: none
	Digest     string         `json:"digest"`       // hex
	Note       string         `json:"note"`         // about what is no fault
	Checks     []AuditCheck   `json:"checks"`
	Accounts   []AuditAccount `json:"accounts"`
	Findings   []AuditFinding `json:"findings"`
}

// AuditCheck is one rule, on how many things it was checked, and how many of
// them break it.
type AuditCheck struct {
	Name     string `json:"name"`
	Checked  uint64 `json:"checked"`
	Findings uint64 `json:"findings"`
	Stopped  string `json:"stopped"` // why not everything was checked; "": it was
}

// AuditAccount is a balance as the transfers make it.
type AuditAccount struct {
	Name     string
	Currency money.Currency
	Balance  int64 // in 10⁻⁹
}

// MarshalJSON implements json.Marshaler: the unit is in the balance's name.
func (a AuditAccount) MarshalJSON() ([]byte, error) {
	name, err := appendString(nil, a.Name)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, `{"name":%s,"currency":%q,"balance_%s":%d}`, name, a.Currency, a.Currency.Suffix(), a.Balance), nil
}

// AuditFinding is one fault; 0 in BlockSeq or EntrySeq means none in
// particular.
type AuditFinding struct {
	Check    string `json:"check"`
	BlockSeq uint64 `json:"block_seq"`
	EntrySeq uint64 `json:"entry_seq"`
	Text     string `json:"text"`
}

// err is nil where every check saw everything and found nothing.
func (r *AuditReport) err() error {
	var findings uint64
	for _, c := range r.Checks {
		findings += c.Findings
	}
	stopped := slices.ContainsFunc(r.Checks, func(c AuditCheck) bool { return c.Stopped != "" })
	switch {
	case findings > 0:
		return failed(exitInternal, "", "audit of %s: %s", r.Dir, count(findings, "finding"))
	case stopped:
		return failed(exitInternal, "", "audit of %s: a check could not be finished", r.Dir)
	}
	return nil
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
			return report.err()
		},
	})
}

func writeAudit(w io.Writer, r *AuditReport) error {
	accounts := output.NewTable(output.Column{Title: "ACCOUNT"}, output.Column{Title: "BALANCE", Align: output.Point},
		output.Column{Title: "CURRENCY"})
	for _, a := range r.Accounts {
		accounts.Row(a.Name, money.Number(a.Currency, a.Balance), a.Currency.String())
	}
	checks := output.NewTable(output.Column{Title: "CHECK"}, output.Column{Title: "CHECKED", Align: output.Right},
		output.Column{Title: "FINDINGS", Align: output.Right}, output.Column{Title: "STOPPED"})
	for _, c := range r.Checks {
		checks.Row(c.Name, fmt.Sprint(c.Checked), fmt.Sprint(c.Findings), c.Stopped)
	}
	findings := output.NewTable(output.Column{Title: "FINDING"}, output.Column{Title: "BLOCK", Align: output.Right},
		output.Column{Title: "ENTRY", Align: output.Right}, output.Column{Title: "TEXT"})
	for _, f := range r.Findings {
		findings.Row(f.Check, seqOrNone(f.BlockSeq), seqOrNone(f.EntrySeq), f.Text)
	}
	var totals output.Fields
	totals.Add("journal", "%d blocks, %d commands, %d entries (%d transfers), %d leases, %d usage records",
		r.Blocks, r.Commands, r.Entries, r.Transfers, r.Leases, r.Records)
	totals.Add("time", "%s to %s", moment(r.FromUnixMs), moment(r.ToUnixMs))
	totals.Add("digest", "%s", r.Digest)
	if r.Note != "" {
		totals.Add("note", "%s", r.Note)
	}
	verdict := "every check passed"
	if r.err() != nil {
		verdict = "NOT every check passed"
	}
	totals.Add("verdict", "%s", verdict)
	for _, part := range []*output.Table{accounts, checks, findings} {
		if part.Empty() {
			continue
		}
		if err := part.Write(w); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
	}
	return totals.Write(w)
}

func seqOrNone(n uint64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}
