package command

import (
	"io"

	"github.com/urfave/cli/v2"

	"github.com/joulecloud/joule/cli/output"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/money"
)

func (b *builder) mint() *cli.Command {
	return b.command(leaf{
		name: "mint", usage: "create JOULE in the treasury", args: []string{"AMOUNT"}, changing: true,
		description:  "AMOUNT is in JOULE. Example: joule mint 1000 --ref genesis",
		flags:        []cli.Flag{&cli.StringFlag{Name: "ref", Usage: "outside `REFERENCE`, such as a decision's number (required)"}},
		insufficient: "at most 9000000000 JOULE may ever exist",
		run: func(in *invocation) error {
			n, err := money.ParsePositive(money.Joule, "AMOUNT", in.arg(0))
			if err != nil {
				return err
			}
			ref, err := in.required("ref")
			if err != nil {
				return err
			}
			resp, err := call(in, Client.Mint, &joulev1.MintRequest{Key: in.idempotencyKey(), AmountNj: n, Ref: ref})
			if err != nil {
				return err
			}
			return in.done(resp, joule, "minted %s: treasury %s", amount(joule, n), amount(joule, resp.GetTreasuryNj()))
		},
	})
}

// value prints a result that is no message of the API.
func (in *invocation) value(v any, text func(io.Writer) error) error {
	if in.json {
		return in.print(func(w io.Writer) error { return output.JSON(w, v) })
	}
	return in.print(text)
}

func (b *builder) status() *cli.Command {
	return b.command(leaf{name: "status", usage: "show a settlement server's state", run: showStatus})
}

func showStatus(in *invocation) error {
	st, err := call(in, Client.GetStatus, &joulev1.GetStatusRequest{})
	if err != nil {
		return err
	}
	return in.result(st, 0, func(w io.Writer) error {
		var f output.Fields
		f.Add("server", "%s", st.GetServer())
		f.Add("version", "%s", st.GetVersion())
		switch {
		case st.GetLeader():
			f.Add("leader", "this server")
		case st.GetLeaderAddress() == "":
			f.Add("leader", "none known")
		default:
			f.Add("leader", "%s", st.GetLeaderAddress())
		}
		f.Add("applied index", "%d", st.GetAppliedIndex())
		f.Add("journal", "%d entries, digest %s", st.GetEntries(), st.GetDigest())
		f.Add("ledger time", "%s", moment(st.GetLedgerUnixMs()))
		if st.GetRateId() == 0 {
			f.Add("rate", "none set")
		} else {
			f.Add("rate", "%s per JOULE (rate %d)", amount(usd, st.GetRateNusdPerJoule()), st.GetRateId())
		}
		f.Add("policy", "fee %s, slice %v", money.FormatPPM(st.GetFeePpm()), sliceOf(st))
		f.Add("balances", "sum to %s and %s: %s", amount(usd, st.GetUsdSum()), amount(joule, st.GetJouleSum()),
			sumsVerdict(st.GetUsdSum(), st.GetJouleSum()))
		f.Add("sessions", "%d", st.GetSessions())
		return f.Write(w)
	})
}
