package command

import (
	"fmt"
	"io"
	"time"

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

func (b *builder) rate() *cli.Command {
	return group("rate", "the price of one JOULE",
		b.command(leaf{
			name: "set", usage: "set the rate", args: []string{"USD_PER_JOULE"}, changing: true,
			description: "Example: joule rate set 0.05",
			run: func(in *invocation) error {
				n, err := money.ParsePositive(money.USD, "USD_PER_JOULE", in.arg(0))
				if err != nil {
					return err
				}
				resp, err := call(in, Client.SetRate, &joulev1.SetRateRequest{Key: in.idempotencyKey(), NusdPerJoule: n})
				if err != nil {
					return err
				}
				return in.done(resp, 0, "rate %d set: %s per JOULE", resp.GetRateId(), amount(usd, n))
			},
		}),
		b.command(leaf{name: "show", usage: "show the rate in force", run: showRate}))
}

// rateShown is the JSON of rate show.
type rateShown struct {
	RateID           uint32 `json:"rate_id"`
	RateNUSDPerJoule int64  `json:"rate_nusd_per_joule"`
}

func showRate(in *invocation) error {
	st, err := call(in, Client.GetStatus, &joulev1.GetStatusRequest{})
	if err != nil {
		return err
	}
	if st.GetRateId() == 0 {
		return failed(exitInsufficient, "joule rate set USD_PER_JOULE", "no rate was set yet")
	}
	return in.value(rateShown{st.GetRateId(), st.GetRateNusdPerJoule()}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "rate %d: %s per JOULE\n", st.GetRateId(), amount(usd, st.GetRateNusdPerJoule()))
		return err
	})
}

func (b *builder) policy() *cli.Command {
	return group("policy", "the operator's parameters",
		b.command(leaf{
			name: "set", usage: "set the parameters of leases opened from now on", changing: true,
			description: "Both parameters are set together. Example: joule policy set --fee 2% --slice 60s",
			flags: []cli.Flag{
				&cli.StringFlag{Name: "fee", Usage: "`SHARE` of suppliers' JOULE kept as the fee, such as 2% (required)"},
				&cli.StringFlag{Name: "slice", Usage: "`DURATION` that a lease's hold must cover, such as 60s (required)"},
			},
			run: setPolicy,
		}),
		b.command(leaf{name: "show", usage: "show the parameters in force", run: showPolicy}))
}

func setPolicy(in *invocation) error {
	feeText, err := in.required("fee")
	if err != nil {
		return err
	}
	fee, err := money.ParsePPM("--fee", feeText)
	if err != nil {
		return err
	}
	sliceText, err := in.required("slice")
	if err != nil {
		return err
	}
	slice, err := time.ParseDuration(sliceText)
	ms := slice.Milliseconds()
	if err != nil || ms < 1 || uint64(ms) > uint32Max || slice != time.Duration(ms)*time.Millisecond {
		return invalid("", "--slice: must be a duration of whole milliseconds such as 60s, more than 0 (got %q)", short(sliceText))
	}
	resp, err := call(in, Client.SetPolicy, &joulev1.SetPolicyRequest{
		Key: in.idempotencyKey(), FeePpm: fee, SliceMs: uint32(ms)})
	if err != nil {
		return err
	}
	return in.done(resp, 0, "policy set: fee %s, slice %v", money.FormatPPM(fee), slice)
}

// policyShown is the JSON of policy show.
type policyShown struct {
	FeePPM  uint32 `json:"fee_ppm"`
	SliceMs uint32 `json:"slice_ms"`
}

func showPolicy(in *invocation) error {
	st, err := call(in, Client.GetStatus, &joulev1.GetStatusRequest{})
	if err != nil {
		return err
	}
	return in.value(policyShown{st.GetFeePpm(), st.GetSliceMs()}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "fee %s, slice %v\n", money.FormatPPM(st.GetFeePpm()), sliceOf(st))
		return err
	})
}

func sliceOf(st *joulev1.GetStatusResponse) time.Duration {
	return time.Duration(st.GetSliceMs()) * time.Millisecond
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
