package command

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/joulecloud/joule/cli/output"
	"github.com/joulecloud/joule/settlement/access"
	"github.com/joulecloud/joule/settlement/refusal"
)

func (b *builder) token() *cli.Command {
	return group("token", "who may call a settlement server",
		b.command(leaf{
			name: "create", usage: "make a token, print it once, and the entry for the servers' tokens_file", args: []string{"NAME"},
			description: "NAME is the person or program who gets it; an operator's acts under it. The token itself is kept nowhere. " +
				"Servers read a changed tokens_file by themselves. Example: joule token create acme-ci --role customer --subject acme --file /etc/joule/tokens.hcl",
			flags: []cli.Flag{
				&cli.StringFlag{Name: "role", Usage: "`ROLE`: operator (everything), customer or supplier (what is their own) (required)"},
				&cli.StringFlag{Name: "subject", Usage: "the customer's or supplier's `NAME`"},
				&cli.StringFlag{Name: "file", Usage: "append the entry to this tokens `FILE`, made with mode 0600 if needed"},
			},
			run: createToken,
		}))
}

// tokenMade is the JSON of token create.
type tokenMade struct {
	Name    string `json:"name"`
	Role    string `json:"role"`
	Subject string `json:"subject"`
	Token   string `json:"token"`
	SHA256  string `json:"sha256"`
	File    string `json:"file"`
}

func createToken(in *invocation) error {
	roleText, err := in.required("role")
	if err != nil {
		return err
	}
	role, err := access.ParseRole(roleText)
	if err != nil {
		return invalid("", "--role: must be operator, customer or supplier (got %q)", short(roleText))
	}
	secret, t, err := in.deps.NewToken(in.arg(0), role, in.c.String("subject"))
	if err != nil {
		return Invalid(err)
	}
	file := in.c.String("file")
	if file != "" {
		if err := access.Append(file, t); err != nil {
			return Invalid(err)
		}
	}
	v := tokenMade{Name: t.Name, Role: t.Role, Subject: t.Subject, Token: secret, SHA256: t.SHA256, File: file}
	return in.value(v, func(w io.Writer) error {
		if file == "" {
			_, err := fmt.Fprintf(w, "%s\n\nfor the servers' tokens_file:\n%s", secret, t.HCL())
			return err
		}
		_, err := fmt.Fprintf(w, "%s\n", secret)
		return err
	})
}

// errorsName is the command that `joule help errors` runs.
const errorsName = "errors"

func (b *builder) errors() *cli.Command {
	c := b.command(leaf{name: errorsName, usage: "list the kinds of refusal, with their codes", run: listErrors})
	c.Hidden = true // found by `joule help errors` and --help
	return c
}

// errorShown is a row of the JSON of help errors.
type errorShown struct {
	Reason  string `json:"reason"`
	Ledger  string `json:"ledger"`
	Connect string `json:"connect"`
	HTTP    int    `json:"http"`
	Exit    int    `json:"exit"`
	Meaning string `json:"meaning"`
}

func listErrors(in *invocation) error {
	var rows []errorShown
	for _, r := range refusal.Table() {
		row := errorShown{Reason: r.Name(), Ledger: "-", Connect: r.Connect.String(), HTTP: r.HTTP(), Exit: r.Exit, Meaning: r.Meaning}
		if r.Ledger != 0 {
			row.Ledger = r.Ledger.String()
		}
		rows = append(rows, row)
	}
	return in.value(map[string]any{"errors": rows}, func(w io.Writer) error {
		t := output.NewTable(output.Column{Title: "REASON"}, output.Column{Title: "LEDGER"}, output.Column{Title: "CONNECT"},
			output.Column{Title: "HTTP", Align: output.Right}, output.Column{Title: "EXIT", Align: output.Right}, output.Column{Title: "MEANING"})
		for _, r := range rows {
			t.Row(r.Reason, r.Ledger, r.Connect, fmt.Sprint(r.HTTP), fmt.Sprint(r.Exit), r.Meaning)
		}
		return t.Write(w)
	})
}
