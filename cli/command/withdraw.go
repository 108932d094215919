package command

import (
	"io"

	"github.com/urfave/cli/v2"

	"github.com/joulecloud/joule/cli/output"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/money"
)

const hintWithdrawals = "`joule withdraw list` lists the withdrawals"

// partyFlags say whose balance money comes from.
func partyFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "customer", Usage: "from this customer's balance: `NAME`"},
		&cli.StringFlag{Name: "supplier", Usage: "from this supplier's balance: `NAME`"},
		&cli.BoolFlag{Name: "treasury", Usage: "from the treasury", DisableDefaultText: true},
		&cli.StringFlag{Name: "currency", Usage: "`CURRENCY` of AMOUNT: usd or joule (required)"},
	}
}

func (b *builder) withdraw() *cli.Command {
	return group("withdraw", "take money out",
		b.command(leaf{
			name: "request", usage: "take an amount off a balance, to be paid out by hand", args: []string{"AMOUNT"}, changing: true,
			description: "Once it is paid, `withdraw confirm` books it; `withdraw fail` gives it back. " +
				"Example: joule withdraw request 12.5 --supplier west-dc --currency joule --to 'account 4711'",
			flags:    append(partyFlags(), &cli.StringFlag{Name: "to", Usage: "`DESTINATION` outside (required)"}),
			notFound: hintAccounts, insufficient: hintAccounts, run: requestWithdrawal,
		}),
		b.command(leaf{
			name: "confirm", usage: "say that a requested withdrawal was paid out", args: []string{"NUMBER"}, changing: true,
			description: "Example: joule withdraw confirm 3 --ref wire_3",
			flags:       []cli.Flag{&cli.StringFlag{Name: "ref", Usage: "outside `REFERENCE` of the payment (required)"}},
			notFound:    hintWithdrawals,
			run: func(in *invocation) error {
				id, err := in.number(0)
				if err != nil {
					return err
				}
				ref, err := in.required("ref")
				if err != nil {
					return err
				}
				resp, err := call(in, Client.ConfirmWithdrawal, &joulev1.ConfirmWithdrawalRequest{Key: in.idempotencyKey(), WithdrawalId: id, Ref: ref})
				if err != nil {
					return err
				}
				return in.withdrawalDone(resp.GetWithdrawal())
			},
		}),
		b.command(leaf{
			name: "fail", usage: "say that a requested withdrawal could not be paid out, and give it back", args: []string{"NUMBER"}, changing: true,
			description: "Example: joule withdraw fail 3 --why 'account closed' --yes",
			flags:       []cli.Flag{whyFlag(), yesFlag("really give it back (required)")},
			notFound:    hintWithdrawals,
			run: func(in *invocation) error {
				id, err := in.number(0)
				if err != nil {
					return err
				}
				why, err := in.sure("giving withdrawal %d back", id)
				if err != nil {
					return err
				}
				resp, err := call(in, Client.FailWithdrawal, &joulev1.FailWithdrawalRequest{Key: in.idempotencyKey(), WithdrawalId: id, Why: why})
				if err != nil {
					return err
				}
				return in.withdrawalDone(resp.GetWithdrawal())
			},
		}),
		b.command(leaf{
			name: "list", usage: "list withdrawals, oldest first", args: []string{"[NAME]"},
			description: "NAME is a customer, a supplier or an account, such as treasury.",
			flags:       append(pageFlags("withdrawals"), &cli.BoolFlag{Name: "open", Usage: "only those neither confirmed nor failed", DisableDefaultText: true}),
			notFound:    hintAccounts, run: listWithdrawals,
		}),
		b.command(leaf{
			name: "record", usage: "book money that has left already", args: []string{"AMOUNT"}, changing: true,
			description: "Example: joule withdraw record 12.5 --supplier west-dc --currency joule --ref wire_1",
			flags:       append(partyFlags(), &cli.StringFlag{Name: "ref", Usage: "outside `REFERENCE` (required)"}),
			notFound:    hintAccounts, insufficient: hintAccounts, run: recordWithdrawal,
		}))
}

// payer reads whose balance is meant, its currency, and the amount.
func (in *invocation) payer(command string) (party joulev1.Party, name string, currency joulev1.Currency, n int64, err error) {
	fail := func(err error) (joulev1.Party, string, joulev1.Currency, int64, error) { return 0, "", 0, 0, err }
	parties := 0
	for _, p := range []struct {
		flag  string
		party joulev1.Party
	}{
		{"customer", joulev1.Party_PARTY_CUSTOMER},
		{"supplier", joulev1.Party_PARTY_SUPPLIER},
		{"treasury", joulev1.Party_PARTY_TREASURY},
	} {
		if !in.c.IsSet(p.flag) || p.party == joulev1.Party_PARTY_TREASURY && !in.c.Bool(p.flag) {
			continue
		}
		parties++
		party = p.party
		if p.party == joulev1.Party_PARTY_TREASURY {
			continue
		}
		if name, err = in.required(p.flag); err != nil {
			return fail(err)
		}
	}
	if parties != 1 {
		return fail(invalid("joule withdraw "+command+" --help", "withdraw: needs one of --customer, --supplier and --treasury (got %d)", parties))
	}
	if _, err := in.required("currency"); err != nil {
		return fail(err)
	}
	currency, unit, err := in.currencyFlag("currency")
	if err != nil {
		return fail(err)
	}
	if n, err = money.ParsePositive(unit, "AMOUNT", in.arg(0)); err != nil {
		return fail(err)
	}
	return party, name, currency, n, nil
}

func recordWithdrawal(in *invocation) error {
	party, name, currency, n, err := in.payer("record")
	if err != nil {
		return err
	}
	ref, err := in.required("ref")
	if err != nil {
		return err
	}
	resp, err := call(in, Client.Withdraw, &joulev1.WithdrawRequest{
		Key: in.idempotencyKey(), Party: party, Name: name, Currency: currency, Amount: n, Ref: ref})
	if err != nil {
		return err
	}
	if name == "" {
		name = "the treasury"
	}
	return in.done(resp, currency, "withdrew %s from %s: balance %s", amount(currency, n), name, amount(currency, resp.GetBalance()))
}

func requestWithdrawal(in *invocation) error {
	party, name, currency, n, err := in.payer("request")
	if err != nil {
		return err
	}
	to, err := in.required("to")
	if err != nil {
		return err
	}
	resp, err := call(in, Client.RequestWithdrawal, &joulev1.RequestWithdrawalRequest{
		Key: in.idempotencyKey(), Party: party, Name: name, Currency: currency, Amount: n, To: to})
	if err != nil {
		return err
	}
	return in.withdrawalDone(resp.GetWithdrawal())
}

func (in *invocation) withdrawalDone(w *joulev1.Withdrawal) error {
	return in.done(w, 0, "withdrawal %d of %s from %s to %s: %s", w.GetId(), amount(w.GetCurrency(), w.GetAmount()),
		w.GetAccount(), w.GetTo(), w.GetState())
}

func listWithdrawals(in *invocation) error {
	after, limit, err := in.page()
	if err != nil {
		return err
	}
	resp, err := call(in, Client.ListWithdrawals, &joulev1.ListWithdrawalsRequest{
		Account: in.arg(0), OpenOnly: in.c.Bool("open"), PageSize: limit, AfterId: after})
	if err != nil {
		return err
	}
	list := resp.GetWithdrawals()
	err = in.result(resp, 0, func(w io.Writer) error {
		t := output.NewTable(output.Column{Title: "WITHDRAWAL", Align: output.Right}, output.Column{Title: "STATE"}, output.Column{Title: "FROM"},
			output.Column{Title: "AMOUNT", Align: output.Point}, output.Column{Title: "CURRENCY"}, output.Column{Title: "TO"},
			output.Column{Title: "REQUESTED"}, output.Column{Title: "ENDED"}, output.Column{Title: "REF OR WHY"})
		for _, v := range list {
			number, unit := accountAmount(v.GetCurrency(), v.GetAmount())
			t.Row(idName(v.GetId()), v.GetState(), v.GetAccount(), number, unit, v.GetTo(),
				moment(v.GetRequestedUnixMs()), moment(v.GetEndedUnixMs()), v.GetRef()+v.GetWhy())
		}
		return t.Write(w)
	})
	if err == nil && resp.GetMore() && len(list) > 0 {
		in.hint("there are more withdrawals: --after %d shows them", list[len(list)-1].GetId())
	}
	return err
}
