package command

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/joulecloud/joule/cli/output"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

func (b *builder) balance() *cli.Command {
	return b.command(leaf{
		name: "balance", usage: "show balances", args: []string{"[NAME]"},
		description: "NAME is an account (customer/acme, treasury) or whoever owns some (acme); without it every account is shown.",
		run:         balance,
	})
}

func balance(in *invocation) error {
	resp, err := call(in, Client.ListAccounts, &joulev1.ListAccountsRequest{})
	if err != nil {
		return err
	}
	if name := in.arg(0); name != "" {
		resp.Accounts = slices.DeleteFunc(resp.GetAccounts(), func(a *joulev1.Account) bool {
			_, owner, _ := strings.Cut(a.GetName(), "/")
			return a.GetName() != name && owner != name
		})
		if len(resp.GetAccounts()) == 0 {
			return failed(exitNotFound, hintAccounts, "no account %q", name)
		}
	}
	return in.result(resp, 0, func(w io.Writer) error {
		return accountTable(resp.GetAccounts(), "").Write(w)
	})
}

// accountAmount prints a balance and its currency apart, for a table.
func accountAmount(c joulev1.Currency, n int64) (number, unit string) {
	number, unit, _ = strings.Cut(amount(c, n), " ")
	return number, unit
}

func trimPrefix(name, prefix string) string { return strings.TrimPrefix(name, prefix) }

func (b *builder) statement() *cli.Command {
	return b.command(leaf{
		name: "statement", usage: "list what moved an account's balance", args: []string{"ACCOUNT"},
		description: "ACCOUNT is a full name, such as customer/acme. Example: joule statement supplier/west-dc --currency joule",
		flags: []cli.Flag{
			&cli.StringFlag{Name: "currency", Value: "usd", Usage: "`CURRENCY` of the balance: usd or joule"},
			&cli.StringFlag{Name: "after", Value: "0", Usage: "only entries after the one with this sequence `NUMBER`"},
			&cli.StringFlag{Name: "limit", Value: "1000", Usage: "at most this `NUMBER` of entries, up to 10000"},
		},
		notFound: hintAccounts,
		run:      statement,
	})
}

func statement(in *invocation) error {
	currency, _, err := in.currencyFlag("currency")
	if err != nil {
		return err
	}
	after, err := parseUint("--after", in.c.String("after"), 0, math.MaxInt64)
	if err != nil {
		return err
	}
	limit, err := parseUint("--limit", in.c.String("limit"), 1, pageMax)
	if err != nil {
		return err
	}
	resp, err := call(in, Client.GetStatement, &joulev1.GetStatementRequest{
		Account: in.arg(0), Currency: currency, AfterSeq: after, PageSize: uint32(limit)})
	if err != nil {
		return err
	}
	err = in.result(resp, currency, func(w io.Writer) error {
		if err := statementTable(in.arg(0), resp.GetEntries()).Write(w); err != nil {
			return err
		}
		_, err := fmt.Fprintf(w, "balance %s\n", amount(currency, resp.GetBalance()))
		return err
	})
	if err == nil && resp.GetMore() && len(resp.GetEntries()) > 0 {
		last := resp.GetEntries()[len(resp.GetEntries())-1]
		in.hint("there are more entries: --after %d shows them", last.GetSeq())
	}
	return err
}

// statementTable shows entries from one account's side: what it paid is
// negative.
func statementTable(account string, entries []*joulev1.JournalEntry) *output.Table {
	t := output.NewTable(output.Column{Title: "SEQ", Align: output.Right}, output.Column{Title: "TIME"},
		output.Column{Title: "REASON"}, output.Column{Title: "WITH"}, output.Column{Title: "AMOUNT", Align: output.Point},
		output.Column{Title: "CURRENCY"}, output.Column{Title: "LEASE"}, output.Column{Title: "RATE"}, output.Column{Title: "REF"})
	for _, e := range entries {
		if e.GetCurrency() == joulev1.Currency_CURRENCY_UNSPECIFIED { // a fact: it moves nothing
			t.Row(fmt.Sprint(e.GetSeq()), moment(e.GetUnixMs()), e.GetKind(), "-", "", "",
				leaseOrNone(e.GetLeaseId()), rateName(e.GetRateId()), e.GetText())
			continue
		}
		with, n := e.GetDebit(), e.GetAmount()
		if e.GetDebit() == account {
			with, n = e.GetCredit(), -n
		}
		number, unit := accountAmount(e.GetCurrency(), n)
		t.Row(fmt.Sprint(e.GetSeq()), moment(e.GetUnixMs()), e.GetReason(), with, number, unit,
			leaseOrNone(e.GetLeaseId()), rateName(e.GetRateId()), e.GetRef())
	}
	return t
}

func leaseOrNone(id uint64) string {
	if id == 0 {
		return "-"
	}
	return leaseName(id)
}

// entryTable shows journal entries as they are, facts in words.
func entryTable(entries []*joulev1.JournalEntry) *output.Table {
	t := output.NewTable(output.Column{Title: "SEQ", Align: output.Right}, output.Column{Title: "TIME"},
		output.Column{Title: "ENTRY"}, output.Column{Title: "DETAIL"})
	for _, e := range entries {
		kind, detail := e.GetKind(), e.GetText()
		if e.GetCurrency() != joulev1.Currency_CURRENCY_UNSPECIFIED {
			kind = e.GetReason()
			detail = fmt.Sprintf("%s from %s to %s", amount(e.GetCurrency(), e.GetAmount()), e.GetDebit(), e.GetCredit())
			if e.GetRateId() != 0 {
				detail += fmt.Sprintf(" at rate %d", e.GetRateId())
			}
		}
		t.Row(fmt.Sprint(e.GetSeq()), moment(e.GetUnixMs()), kind, detail)
	}
	return t
}
