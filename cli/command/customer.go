package command

import (
	"io"

	"github.com/urfave/cli/v2"

	"github.com/joulecloud/joule/cli/output"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/money"
)

func (b *builder) customer() *cli.Command {
	return group("customer", "who pays",
		b.command(leaf{
			name: "create", usage: "create a customer for a Nomad namespace", args: []string{"NAME"}, changing: true,
			description: "Example: joule customer create acme --namespace acme",
			flags: []cli.Flag{
				&cli.StringFlag{Name: "namespace", Usage: "`NAMESPACE` of Nomad whose jobs this customer pays for (required)"},
				&cli.StringFlag{Name: "pay-in", Value: "usd", Usage: "`CURRENCY` of the balance that leases are paid from: usd or joule"},
			},
			run: createCustomer,
		}),
		b.command(leaf{
			name: "list", usage: "list customers and their balances",
			run: func(in *invocation) error { return listParties(in, "customer/") },
		}))
}

func createCustomer(in *invocation) error {
	namespace, err := in.required("namespace")
	if err != nil {
		return err
	}
	currency, name, err := in.currencyFlag("pay-in")
	if err != nil {
		return err
	}
	resp, err := call(in, Client.CreateCustomer, &joulev1.CreateCustomerRequest{
		Key: in.idempotencyKey(), Name: in.arg(0), Namespace: namespace, PayIn: currency})
	if err != nil {
		return err
	}
	return in.done(resp, 0, "customer %s created: id %d, namespace %s, pays in %s",
		in.arg(0), resp.GetCustomerId(), namespace, name)
}

func (b *builder) supplier() *cli.Command {
	return group("supplier", "who owns hosts",
		b.command(leaf{
			name: "create", usage: "create a supplier", args: []string{"NAME"}, changing: true,
			description: "Example: joule supplier create west-dc",
			run: func(in *invocation) error {
				resp, err := call(in, Client.CreateSupplier, &joulev1.CreateSupplierRequest{
					Key: in.idempotencyKey(), Name: in.arg(0)})
				if err != nil {
					return err
				}
				return in.done(resp, 0, "supplier %s created: id %d", in.arg(0), resp.GetSupplierId())
			},
		}),
		b.command(leaf{
			name: "list", usage: "list suppliers and their balances",
			run: func(in *invocation) error { return listParties(in, "supplier/") },
		}),
		b.command(leaf{
			name: "show", usage: "show a supplier's balance, stake and exposure", args: []string{"SUPPLIER"},
			description: "Example: joule supplier show west-dc", notFound: hintSuppliers, run: showSupplier,
		}))
}

// listParties lists the accounts whose names begin with prefix, without it.
func listParties(in *invocation, prefix string) error {
	resp, err := in.accounts(&joulev1.ListAccountsRequest{Prefix: prefix})
	if err != nil {
		return err
	}
	return in.result(resp, 0, func(w io.Writer) error {
		return accountTable(resp.GetAccounts(), prefix).Write(w)
	})
}

func (b *builder) deposit() *cli.Command {
	return b.command(leaf{
		name: "deposit", usage: "bring a customer's money in", args: []string{"CUSTOMER", "AMOUNT"}, changing: true,
		description: "Example: joule deposit acme 100 --ref pay_123",
		flags: []cli.Flag{
			&cli.StringFlag{Name: "ref", Usage: "outside `REFERENCE`, such as a payment's id (required)"},
			&cli.StringFlag{Name: "currency", Value: "usd", Usage: "`CURRENCY` of AMOUNT: usd or joule"},
		},
		notFound:     "`joule customer list` lists the customers; joule customer create NAME --namespace NAMESPACE makes one",
		insufficient: "JOULE can only come back in that was withdrawn before; `joule balance external` shows how much",
		run:          deposit,
	})
}

func deposit(in *invocation) error {
	currency, unit, err := in.currencyFlag("currency")
	if err != nil {
		return err
	}
	n, err := money.ParsePositive(unit, "AMOUNT", in.arg(1))
	if err != nil {
		return err
	}
	ref, err := in.required("ref")
	if err != nil {
		return err
	}
	resp, err := call(in, Client.Deposit, &joulev1.DepositRequest{
		Key: in.idempotencyKey(), Customer: in.arg(0), Currency: currency, Amount: n, Ref: ref})
	if err != nil {
		return err
	}
	return in.done(resp, currency, "deposited %s for %s: balance %s",
		amount(currency, n), in.arg(0), amount(currency, resp.GetBalance()))
}

func accountTable(accounts []*joulev1.Account, prefix string) *output.Table {
	t := output.NewTable(output.Column{Title: "ACCOUNT"}, output.Column{Title: "BALANCE", Align: output.Point},
		output.Column{Title: "CURRENCY"})
	for _, a := range accounts {
		number, unit := accountAmount(a.GetCurrency(), a.GetBalance())
		t.Row(trimPrefix(a.GetName(), prefix), number, unit)
	}
	return t
}
