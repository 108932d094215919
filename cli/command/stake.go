package command

import (
	"io"

	"github.com/urfave/cli/v2"

	"github.com/joulecloud/joule/cli/output"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/money"
)

const hintSuppliers = "`joule supplier list` lists the suppliers"

func (b *builder) stake() *cli.Command {
	return group("stake", "suppliers' deposits, which fines are taken from",
		b.command(leaf{
			name: "add", usage: "add to a supplier's stake", args: []string{"SUPPLIER", "AMOUNT"}, changing: true,
			description: "AMOUNT is in JOULE. Example: joule stake add west-dc 5000",
			flags: []cli.Flag{
				&cli.StringFlag{Name: "from", Value: "earnings", Usage: "`SOURCE`: earnings (the supplier's balance) or deposit (outside; only what was withdrawn before can come back)"},
				&cli.StringFlag{Name: "ref", Usage: "outside `REFERENCE` of a deposit"},
			},
			notFound: hintSuppliers, insufficient: "`joule balance SUPPLIER` shows what there is to bond", run: addStake,
		}),
		b.command(leaf{
			name: "buy", usage: "give a supplier stake for USD that came from outside", args: []string{"SUPPLIER", "USD"}, changing: true,
			description: "The treasury gives JOULE for it at the rate in force. So a new supplier can begin. Example: joule stake buy west-dc 250 --ref pay_77",
			flags:       []cli.Flag{&cli.StringFlag{Name: "ref", Usage: "outside `REFERENCE` of the payment (required)"}},
			notFound:    hintSuppliers, insufficient: "`joule balance treasury` shows what the treasury has; joule mint makes more", run: buyStake,
		}),
		b.command(leaf{
			name: "unbond", usage: "begin to take stake back", args: []string{"SUPPLIER", "AMOUNT"}, changing: true,
			description: "AMOUNT is in JOULE. It arrives after the policy's delay, and can be fined until then. Example: joule stake unbond west-dc 100 --yes",
			flags:       []cli.Flag{yesFlag("really begin it (required)")},
			notFound:    hintSuppliers, insufficient: "`joule stake show SUPPLIER` shows what is at stake", run: unbond,
		}),
		b.command(leaf{
			name: "show", usage: "show a supplier's stake, what is required, and what is on its way back", args: []string{"SUPPLIER"},
			notFound: hintSuppliers, run: showSupplier,
		}))
}

func addStake(in *invocation) error {
	n, err := money.ParsePositive(money.Joule, "AMOUNT", in.arg(1))
	if err != nil {
		return err
	}
	from := in.c.String("from")
	if from != "earnings" && from != "deposit" {
		return invalid("", "--from: must be earnings or deposit (got %q)", short(from))
	}
	if (from == "deposit") != (in.c.String("ref") != "") {
		return invalid("", "--ref: belongs to --from deposit, and only to it")
	}
	resp, err := call(in, Client.Bond, &joulev1.BondRequest{Key: in.idempotencyKey(), Supplier: in.arg(0), AmountNj: n,
		From: from, Ref: in.c.String("ref")})
	if err != nil {
		return err
	}
	return in.done(resp, 0, "%s bonded for %s: stake %s, required %s", amount(joule, n), in.arg(0),
		amount(joule, resp.GetStake().GetBondedNj()), amount(joule, resp.GetStake().GetRequiredNj()))
}

func buyStake(in *invocation) error {
	n, err := money.ParsePositive(money.USD, "USD", in.arg(1))
	if err != nil {
		return err
	}
	ref, err := in.required("ref")
	if err != nil {
		return err
	}
	resp, err := call(in, Client.BuyStake, &joulev1.BuyStakeRequest{Key: in.idempotencyKey(), Supplier: in.arg(0), PaidNusd: n, Ref: ref})
	if err != nil {
		return err
	}
	return in.done(resp, 0, "stake bought for %s with %s: stake %s, required %s", in.arg(0), amount(usd, n),
		amount(joule, resp.GetStake().GetBondedNj()), amount(joule, resp.GetStake().GetRequiredNj()))
}

func unbond(in *invocation) error {
	n, err := money.ParsePositive(money.Joule, "AMOUNT", in.arg(1))
	if err != nil {
		return err
	}
	if err := in.confirmed("unbonding %s of %s", amount(joule, n), in.arg(0)); err != nil {
		return err
	}
	resp, err := call(in, Client.Unbond, &joulev1.UnbondRequest{Key: in.idempotencyKey(), Supplier: in.arg(0), AmountNj: n})
	if err != nil {
		return err
	}
	u := resp.GetUnbonding()
	return in.done(resp, 0, "unbonding %d: %s of %s until %s; stake %s, required %s", u.GetId(), amount(joule, u.GetAmountNj()), in.arg(0),
		moment(u.GetMaturesUnixMs()), amount(joule, resp.GetStake().GetBondedNj()), amount(joule, resp.GetStake().GetRequiredNj()))
}

func showSupplier(in *invocation) error {
	resp, err := call(in, Client.GetSupplier, &joulev1.GetSupplierRequest{Supplier: in.arg(0)})
	if err != nil {
		return err
	}
	return in.result(resp, 0, func(w io.Writer) error {
		s := resp.GetStake()
		var f output.Fields
		f.Add("supplier", "%s", resp.GetSupplier())
		f.Add("balance", "%s", amount(joule, resp.GetBalanceNj()))
		f.Add("stake", "%s", amount(joule, s.GetBondedNj()))
		if short := s.GetRequiredNj() - s.GetBondedNj(); short > 0 {
			f.Add("required", "%s: SHORT by %s, no new leases", amount(joule, s.GetRequiredNj()), amount(joule, short))
		} else {
			f.Add("required", "%s: in order", amount(joule, s.GetRequiredNj()))
		}
		f.Add("exposure", "%s an hour over %s", amount(usd, s.GetExposureNusd()), count(uint64(resp.GetOpenLeases()), "open lease"))
		f.Add("hosts", "%d", s.GetHosts())
		f.Add("unbonding", "%s", amount(joule, s.GetUnbondingNj()))
		if err := f.Write(w); err != nil || len(resp.GetUnbondings()) == 0 {
			return err
		}
		if _, err := io.WriteString(w, "\n"); err != nil {
			return err
		}
		t := output.NewTable(output.Column{Title: "UNBONDING", Align: output.Right}, output.Column{Title: "JOULE", Align: output.Point},
			output.Column{Title: "STARTED"}, output.Column{Title: "MATURES"})
		for _, u := range resp.GetUnbondings() {
			t.Row(idName(u.GetId()), jouleNumber(u.GetAmountNj()), moment(u.GetStartedUnixMs()), moment(u.GetMaturesUnixMs()))
		}
		return t.Write(w)
	})
}
