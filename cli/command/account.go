package command

import (
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/joulecloud/joule/cli/output"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

func (b *builder) balance() *cli.Command {
	return b.command(leaf{
		name: "balance", usage: "show balances, now or at an earlier time", args: []string{"[NAME]"},
		description: "NAME is an account (customer/acme, treasury) or whoever owns some (acme); without it every account is shown. " +
			"Example: joule balance acme --at 2026-11-01T12:00:00Z",
		flags: []cli.Flag{&cli.StringFlag{Name: "at", Usage: "balances at this `TIME` (2026-11-01, or RFC 3339), with all that happened at it"}},

		notFound: hintAccounts, run: balance,
	})
}

func balance(in *invocation) error {
	at, err := in.timeFlag("at")
	if err != nil {
		return err
	}
	all, err := in.accounts(&joulev1.ListAccountsRequest{Name: in.arg(0), AtUnixMs: at})
	if err != nil {
		return err
	}
	return in.result(all, 0, func(w io.Writer) error {
		if len(all.GetAccounts()) == 0 {
			_, err := fmt.Fprintln(w, "no accounts then")
			return err
		}
		return accountTable(all.GetAccounts(), "").Write(w)
	})
}

// accounts gets every page of accounts.
func (in *invocation) accounts(req *joulev1.ListAccountsRequest) (*joulev1.ListAccountsResponse, error) {
	all := &joulev1.ListAccountsResponse{}
	for {
		resp, err := call(in, Client.ListAccounts, req)
		if err != nil {
			return nil, err
		}
		all.Accounts = append(all.Accounts, resp.GetAccounts()...)
		if !resp.GetMore() || len(resp.GetAccounts()) == 0 {
			return all, nil
		}
		req.AfterId = resp.GetAccounts()[len(resp.GetAccounts())-1].GetId()
	}
}

// accountAmount prints a balance and its currency apart, for a table.
func accountAmount(c joulev1.Currency, n int64) (number, unit string) {
	number, unit, _ = strings.Cut(amount(c, n), " ")
	return number, unit
}

func trimPrefix(name, prefix string) string { return strings.TrimPrefix(name, prefix) }

func (b *builder) statement() *cli.Command {
	return b.command(leaf{
		name: "statement", usage: "list what moved the balances of an account, a customer or a supplier", args: []string{"ACCOUNT"},
		description: "ACCOUNT is a full name, such as customer/acme, or a customer's or supplier's: all its accounts. " +
			"Example: joule statement west-dc --from 2026-11-01 --to 2026-12-01",
		flags: []cli.Flag{
			&cli.StringFlag{Name: "currency", Usage: "only balances in this `CURRENCY`: usd or joule"},
			&cli.StringFlag{Name: "from", Usage: "only entries at this `TIME` (2026-11-01, or RFC 3339) or later"},
			&cli.StringFlag{Name: "to", Usage: "only entries before this `TIME`"},
			&cli.StringFlag{Name: "after", Value: "0", Usage: "only entries after the one with this sequence `NUMBER`"},
			&cli.StringFlag{Name: "limit", Value: "1000", Usage: "at most this `NUMBER` of entries, up to 10000"},
		},
		notFound: hintAccounts,
		run:      statement,
	})
}

func statement(in *invocation) error {
	req := &joulev1.GetStatementRequest{Account: in.arg(0)}
	var err error
	if in.c.IsSet("currency") {
		if req.Currency, _, err = in.currencyFlag("currency"); err != nil {
			return err
		}
	}
	if req.FromUnixMs, req.ToUnixMs, err = in.period(); err != nil {
		return err
	}
	if req.AfterSeq, err = parseUint("--after", in.c.String("after"), 0, math.MaxInt64); err != nil {
		return err
	}
	limit, err := parseUint("--limit", in.c.String("limit"), 1, pageMax)
	if err != nil {
		return err
	}
	req.PageSize = uint32(limit)
	resp, err := call(in, Client.GetStatement, req)
	if err != nil {
		return err
	}
	err = in.result(resp, 0, func(w io.Writer) error { return writeStatement(w, resp) })
	if err == nil && resp.GetMore() && len(resp.GetEntries()) > 0 {
		last := resp.GetEntries()[len(resp.GetEntries())-1]
		in.hint("there are more entries: --after %d shows them", last.GetSeq())
	}
	return err
}

// writeStatement prints the entries from the accounts' side, each with the
// balance that it leads to: what an account paid is negative.
func writeStatement(w io.Writer, s *joulev1.GetStatementResponse) error {
	type key struct {
		name     string
		currency joulev1.Currency
	}
	running := map[key]int64{}
	for _, a := range s.GetAccounts() {
		running[key{a.GetName(), a.GetCurrency()}] = a.GetOpening()
	}
	t := output.NewTable(output.Column{Title: "SEQ", Align: output.Right}, output.Column{Title: "TIME"},
		output.Column{Title: "REASON"}, output.Column{Title: "ACCOUNT"}, output.Column{Title: "WITH"},
		output.Column{Title: "AMOUNT", Align: output.Point}, output.Column{Title: "BALANCE", Align: output.Point},
		output.Column{Title: "CURRENCY"}, output.Column{Title: "LEASE"}, output.Column{Title: "RATE"}, output.Column{Title: "REF"})
	for _, e := range s.GetEntries() {
		if e.GetCurrency() == joulev1.Currency_CURRENCY_UNSPECIFIED { // a fact: it moves nothing
			t.Row(fmt.Sprint(e.GetSeq()), moment(e.GetUnixMs()), e.GetKind(), "-", "-", "", "", "",
				leaseOrNone(e.GetLeaseId()), rateName(e.GetRateId()), e.GetText())
			continue
		}
		for _, side := range []struct {
			account, with string
			n             int64
		}{{e.GetDebit(), e.GetCredit(), -e.GetAmount()}, {e.GetCredit(), e.GetDebit(), e.GetAmount()}} {
			k := key{side.account, e.GetCurrency()}
			before, ours := running[k]
			if !ours {
				continue
			}
			running[k] = before + side.n
			number, unit := accountAmount(e.GetCurrency(), side.n)
			balance, _ := accountAmount(e.GetCurrency(), running[k])
			t.Row(fmt.Sprint(e.GetSeq()), moment(e.GetUnixMs()), e.GetReason(), side.account, side.with, number, balance, unit,
				leaseOrNone(e.GetLeaseId()), rateName(e.GetRateId()), e.GetRef())
		}
	}
	if err := t.Write(w); err != nil {
		return err
	}
	for _, a := range s.GetAccounts() {
		c := a.GetCurrency()
		line := fmt.Sprintf("%s: from %s to %s", a.GetName(), amount(c, a.GetOpening()), amount(c, a.GetClosing()))
		if a.GetBalance() != a.GetClosing() {
			line += ", now " + amount(c, a.GetBalance())
		}
		if _, err := fmt.Fprintln(w, output.Clean(line)); err != nil {
			return err
		}
	}
	return nil
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
