package command

import (
	"fmt"
	"io"
	"math"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/joulecloud/joule/cli/output"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/money"
)

func (b *builder) rate() *cli.Command {
	return group("rate", "the price of one JOULE",
		b.command(leaf{
			name: "set", usage: "set the rate", args: []string{"USD_PER_JOULE"}, changing: true,
			description: "A rate set by hand is in force at once, and is not judged. Example: joule rate set 0.05",
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
		b.command(leaf{name: "show", usage: "show the rate in force, and whether anything converts", run: showRate}),
		b.command(leaf{
			name: "list", usage: "list rates, newest first",
			flags: []cli.Flag{
				&cli.StringFlag{Name: "before", Value: "0", Usage: "only rates with a smaller `NUMBER`"},
				&cli.StringFlag{Name: "limit", Value: "1000", Usage: "at most this `NUMBER` of rates, up to 10000"},
			},
			run: listRates,
		}),
		b.command(leaf{
			name: "override", usage: "let conversion go on at the newest rate, stale or doubtful as it is", args: []string{"RATE"}, changing: true,
			description: "A newer rate ends it. Example: joule rate override 12 --for 1h --why 'the exchange moved, I checked' --yes",
			flags: []cli.Flag{&cli.StringFlag{Name: "for", Usage: "for this `DURATION` (required)"}, whyFlag(),
				yesFlag("really convert at it (required)")},
			run: overrideRate,
		}))
}

func showRate(in *invocation) error {
	resp, err := call(in, Client.ListRates, &joulev1.ListRatesRequest{PageSize: 1})
	if err != nil {
		return err
	}
	st := resp.GetState()
	if st.GetNewest() == nil {
		return failed(exitInsufficient, "joule rate set USD_PER_JOULE", "no rate was set yet")
	}
	return in.result(st, 0, func(w io.Writer) error { return rateFields(st).Write(w) })
}

func rateFields(st *joulev1.RateState) *output.Fields {
	f := &output.Fields{}
	if r := st.GetInForce(); r != nil {
		f.Add("in force", "rate %d: %s per JOULE, since %s", r.GetId(), amount(usd, r.GetNusdPerJoule()), moment(r.GetSetUnixMs()))
	} else {
		f.Add("in force", "none")
	}
	if r := st.GetNewest(); r.GetId() != st.GetInForce().GetId() {
		f.Add("newest", "rate %d: %s per JOULE, since %s", r.GetId(), amount(usd, r.GetNusdPerJoule()), moment(r.GetSetUnixMs()))
	}
	if st.GetPaused() == "" {
		f.Add("conversion", "goes on")
	} else {
		f.Add("conversion", "PAUSED since %s: the newest rate is %s", moment(st.GetSinceUnixMs()), st.GetPaused())
	}
	if until := st.GetOverrideUntilUnixMs(); until != 0 {
		f.Add("override", "until %s", moment(until))
	}
	return f
}

func listRates(in *invocation) error {
	before, err := parseUint("--before", in.c.String("before"), 0, math.MaxUint32)
	if err != nil {
		return err
	}
	limit, err := parseUint("--limit", in.c.String("limit"), 1, pageMax)
	if err != nil {
		return err
	}
	resp, err := call(in, Client.ListRates, &joulev1.ListRatesRequest{PageSize: uint32(limit), BeforeId: uint32(before)})
	if err != nil {
		return err
	}
	err = in.result(resp, 0, func(w io.Writer) error {
		t := output.NewTable(output.Column{Title: "RATE", Align: output.Right}, output.Column{Title: "USD/JOULE", Align: output.Point},
			output.Column{Title: "SINCE"}, output.Column{Title: "FROM"}, output.Column{Title: "AVERAGE USD/JOULE", Align: output.Point}, output.Column{Title: "STATE"})
		for _, r := range resp.GetRates() {
			from, average, state := "set by hand", "", ""
			if r.GetProposed() {
				from = "proposed"
			}
			if r.GetAverageNusdPerJoule() != 0 {
				average = usdNumber(r.GetAverageNusdPerJoule())
			}
			switch {
			case r.GetDoubtful():
				state = "doubtful"
			case r.GetId() == resp.GetState().GetInForce().GetId():
				state = "in force"
			}
			t.Row(idName(r.GetId()), usdNumber(r.GetNusdPerJoule()), moment(r.GetSetUnixMs()), from, average, state)
		}
		return t.Write(w)
	})
	if err == nil && resp.GetMore() && len(resp.GetRates()) > 0 {
		in.hint("there are older rates: --before %d shows them", resp.GetRates()[len(resp.GetRates())-1].GetId())
	}
	return err
}

func overrideRate(in *invocation) error {
	id, err := in.number(0)
	if err != nil {
		return err
	}
	if _, err := in.required("for"); err != nil {
		return err
	}
	ms, err := in.durationFlag("for", time.Millisecond)
	if err != nil {
		return err
	}
	why, err := in.sure("conversion at rate %d", id)
	if err != nil {
		return err
	}
	resp, err := call(in, Client.OverrideRate, &joulev1.OverrideRateRequest{Key: in.idempotencyKey(), RateId: id, ForMs: ms, Why: why})
	if err != nil {
		return err
	}
	return in.done(resp, 0, "conversion goes on at rate %d until %s", id, moment(resp.GetUntilUnixMs()))
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
		b.command(leaf{
			name: "guard", usage: "set when a proposed rate may not convert", changing: true,
			description: "All parameters are set together. Example: joule policy guard --max-age 6m --deviation 1.5% --window 18m",
			flags: []cli.Flag{
				&cli.StringFlag{Name: "max-age", Usage: "an older rate is stale: `DURATION`; 0s: none ever is (required)"},
				&cli.StringFlag{Name: "deviation", Usage: "a rate further from the average is doubtful: `SHARE`; 0%: none ever is (required)"},
				&cli.StringFlag{Name: "window", Usage: "`DURATION` of the average (required)"},
			},
			run: setGuard,
		}),
		b.command(leaf{
			name: "stake", usage: "set what suppliers must have at stake", changing: true,
			description: "All parameters are set together. Example: joule policy stake --base 100 --factor 200% --unbond 504h",
			flags: []cli.Flag{
				&cli.StringFlag{Name: "base", Usage: "JOULE for each enrolled host: `AMOUNT` (required)"},
				&cli.StringFlag{Name: "factor", Usage: "and this `SHARE` of the hourly value of the open leases; 100%: an hour's value (required)"},
				&cli.StringFlag{Name: "unbond", Usage: "`DURATION` of an unbonding, in which the stake can still be fined (required)"},
			},
			run: setStakePolicy,
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

// requiredMs reads a required duration.
func (in *invocation) requiredMs(flag string, least time.Duration) (uint64, error) {
	if _, err := in.required(flag); err != nil {
		return 0, err
	}
	return in.durationFlag(flag, least)
}

func setGuard(in *invocation) error {
	g := &joulev1.RateGuard{}
	var err error
	if g.MaxAgeMs, err = in.requiredMs("max-age", 0); err != nil {
		return err
	}
	text, err := in.required("deviation")
	if err != nil {
		return err
	}
	if g.DeviationPpm, err = money.ParsePPM("--deviation", text); err != nil {
		return err
	}
	if g.WindowMs, err = in.requiredMs("window", time.Millisecond); err != nil {
		return err
	}
	resp, err := call(in, Client.SetRateGuard, &joulev1.SetRateGuardRequest{Key: in.idempotencyKey(), Guard: g})
	if err != nil {
		return err
	}
	return in.done(resp, 0, "guard set: %s", guardWords(g))
}

func guardWords(g *joulev1.RateGuard) string {
	return fmt.Sprintf("stale after %s, doubtful beyond %s of the average over %s",
		span(g.GetMaxAgeMs()), money.FormatPPM(g.GetDeviationPpm()), span(g.GetWindowMs()))
}

func setStakePolicy(in *invocation) error {
	p := &joulev1.StakePolicy{}
	text, err := in.required("base")
	if err != nil {
		return err
	}
	if p.BasePerHostNj, err = money.Parse(money.Joule, "--base", text); err != nil {
		return err
	}
	if text, err = in.required("factor"); err != nil {
		return err
	}
	if p.FactorPpm, err = money.ParseFactor("--factor", text); err != nil {
		return err
	}
	if p.UnbondMs, err = in.requiredMs("unbond", time.Millisecond); err != nil {
		return err
	}
	resp, err := call(in, Client.SetStakePolicy, &joulev1.SetStakePolicyRequest{Key: in.idempotencyKey(), Policy: p})
	if err != nil {
		return err
	}
	return in.done(resp, 0, "stake policy set: %s", stakeWords(p))
}

func stakeWords(p *joulev1.StakePolicy) string {
	return fmt.Sprintf("%s for each host and %s of the hourly value of open leases, unbonding takes %s",
		amount(joule, p.GetBasePerHostNj()), money.FormatPPM(p.GetFactorPpm()), span(p.GetUnbondMs()))
}

func showPolicy(in *invocation) error {
	p, err := call(in, Client.GetPolicy, &joulev1.GetPolicyRequest{})
	if err != nil {
		return err
	}
	return in.result(p, 0, func(w io.Writer) error {
		var f output.Fields
		f.Add("fee", "%s", money.FormatPPM(p.GetFeePpm()))
		f.Add("slice", "%s", span(uint64(p.GetSliceMs())))
		f.Add("rate guard", "%s", guardWords(p.GetGuard()))
		f.Add("stake", "%s", stakeWords(p.GetStake()))
		f.Add("fines", "%s; `joule fine schedule show` shows them", count(len(p.GetFines().GetRules()), "rule"))
		return f.Write(w)
	})
}

func sliceOf(st *joulev1.GetStatusResponse) time.Duration {
	return time.Duration(st.GetSliceMs()) * time.Millisecond
}
