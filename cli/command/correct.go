package command

import (
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/joulecloud/joule/cli/output"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/money"
)

func entryFlag() cli.Flag {
	return &cli.StringFlag{Name: "entry", Usage: "sequence `NUMBER` of the journal entry that is put right; `joule lease explain` shows them (required)"}
}

func (b *builder) correction() *cli.Command {
	return group("correction", "putting right what a lease was charged or paid; nothing is edited",
		b.command(leaf{
			name: "make", usage: "move money between a lease's customer, its supplier and the treasury", args: []string{"LEASE"}, changing: true,
			description: "All legs move or none. Example: joule correction make L12 --entry 4711 --leg supplier:treasury:1.5:joule --leg treasury:customer:0.08:usd --why 'metered twice' --yes",
			flags: []cli.Flag{entryFlag(),
				&cli.StringSliceFlag{Name: "leg", Usage: "`FROM:TO:AMOUNT:CURRENCY`, between customer, supplier and treasury; up to 4 (required)"},
				whyFlag(), yesFlag("really move it (required)")},
			notFound: hintLeases, insufficient: hintAccounts, run: makeCorrection,
		}),
		b.command(leaf{
			name: "list", usage: "list corrections, oldest first", args: []string{"[LEASE]"}, flags: pageFlags("corrections"), notFound: hintLeases, run: listCorrections,
		}))
}

func (b *builder) refund() *cli.Command {
	return b.command(leaf{
		name: "refund", usage: "give a lease's customer back what it paid, out of the treasury", args: []string{"LEASE", "AMOUNT"}, changing: true,
		description: "A correction of one leg. Example: joule refund L12 0.25 --entry 4711 --why 'the disk was slow' --yes",
		flags: []cli.Flag{entryFlag(), &cli.StringFlag{Name: "currency", Value: "usd", Usage: "`CURRENCY` of AMOUNT: usd or joule"},
			whyFlag(), yesFlag("really refund it (required)")},
		notFound: hintLeases, insufficient: hintAccounts, run: refund,
	})
}

// correct makes a correction.
func (in *invocation) correct(lease uint64, legs []*joulev1.CorrectionLeg) error {
	text, err := in.required("entry")
	if err != nil {
		return err
	}
	entry, err := parseUint("--entry", text, 1, math.MaxInt64)
	if err != nil {
		return err
	}
	why, err := in.sure("a correction of %s", leaseName(lease))
	if err != nil {
		return err
	}
	resp, err := call(in, Client.CorrectLease, &joulev1.CorrectLeaseRequest{
		Key: in.idempotencyKey(), LeaseId: lease, Entry: entry, Legs: legs, Why: why})
	if err != nil {
		return err
	}
	c := resp.GetCorrection()
	return in.done(c, 0, "correction %d of entry %d of %s: %s", c.GetId(), c.GetEntry(), leaseName(c.GetLeaseId()), legWords(c.GetLegs()))
}

func legWords(legs []*joulev1.CorrectionLeg) string {
	words := make([]string, len(legs))
	for i, l := range legs {
		words[i] = fmt.Sprintf("%s from %s to %s", amount(l.GetCurrency(), l.GetAmount()), partyName(l.GetFrom()), partyName(l.GetTo()))
	}
	return strings.Join(words, ", ")
}

func partyName(p joulev1.Party) string {
	return strings.ToLower(strings.TrimPrefix(p.String(), "PARTY_"))
}

func refund(in *invocation) error {
	lease, err := in.lease(0)
	if err != nil {
		return err
	}
	currency, unit, err := in.currencyFlag("currency")
	if err != nil {
		return err
	}
	n, err := money.ParsePositive(unit, "AMOUNT", in.arg(1))
	if err != nil {
		return err
	}
	return in.correct(lease, []*joulev1.CorrectionLeg{{From: joulev1.Party_PARTY_TREASURY, To: joulev1.Party_PARTY_CUSTOMER, Currency: currency, Amount: n}})
}

func makeCorrection(in *invocation) error {
	lease, err := in.lease(0)
	if err != nil {
		return err
	}
	var legs []*joulev1.CorrectionLeg
	for _, text := range in.c.StringSlice("leg") {
		leg, err := parseLeg(text)
		if err != nil {
			return err
		}
		legs = append(legs, leg)
	}
	if len(legs) == 0 {
		return invalid("joule correction make --help", "--leg: required")
	}
	return in.correct(lease, legs)
}

func parseLeg(text string) (*joulev1.CorrectionLeg, error) {
	parts := strings.Split(text, ":")
	if len(parts) != 4 {
		return nil, invalid("", "--leg: must be FROM:TO:AMOUNT:CURRENCY, such as treasury:customer:0.25:usd (got %q)", short(text))
	}
	leg := &joulev1.CorrectionLeg{}
	for i, into := range []*joulev1.Party{&leg.From, &leg.To} {
		p, ok := joulev1.Party_value["PARTY_"+strings.ToUpper(parts[i])]
		if !ok || p == 0 {
			return nil, invalid("", "--leg: must be between customer, supplier and treasury (got %q)", short(parts[i]))
		}
		*into = joulev1.Party(p)
	}
	c, err := money.ParseCurrency("--leg", parts[3])
	if err != nil {
		return nil, err
	}
	leg.Currency = usd
	if c == money.Joule {
		leg.Currency = joule
	}
	leg.Amount, err = money.ParsePositive(c, "--leg", parts[2])
	return leg, err
}

func listCorrections(in *invocation) error {
	after, limit, err := in.page()
	if err != nil {
		return err
	}
	req := &joulev1.ListCorrectionsRequest{PageSize: limit, AfterId: after}
	if in.arg(0) != "" {
		if req.LeaseId, err = in.lease(0); err != nil {
			return err
		}
	}
	resp, err := call(in, Client.ListCorrections, req)
	if err != nil {
		return err
	}
	list := resp.GetCorrections()
	err = in.result(resp, 0, func(w io.Writer) error {
		t := output.NewTable(output.Column{Title: "CORRECTION", Align: output.Right}, output.Column{Title: "LEASE"}, output.Column{Title: "ENTRY", Align: output.Right},
			output.Column{Title: "TIME"}, output.Column{Title: "MOVED"}, output.Column{Title: "BY"}, output.Column{Title: "WHY"})
		for _, c := range list {
			t.Row(idName(c.GetId()), leaseName(c.GetLeaseId()), fmt.Sprint(c.GetEntry()), moment(c.GetUnixMs()), legWords(c.GetLegs()), c.GetOperator(), c.GetWhy())
		}
		return t.Write(w)
	})
	if err == nil && resp.GetMore() && len(list) > 0 {
		in.hint("there are more corrections: --after %d shows them", list[len(list)-1].GetId())
	}
	return err
}

func (b *builder) budget() *cli.Command {
	return b.command(leaf{
		name: "budget", usage: "show what a job has cost, and what its budget leaves", args: []string{"CUSTOMER", "JOB"},
		description: "Example: joule budget acme llm", notFound: "`joule lease list --customer CUSTOMER` shows the jobs", run: showBudget,
	})
}

func showBudget(in *invocation) error {
	b, err := call(in, Client.GetBudget, &joulev1.GetBudgetRequest{Customer: in.arg(0), Job: in.arg(1)})
	if err != nil {
		return err
	}
	return in.result(b, 0, func(w io.Writer) error {
		var f output.Fields
		f.Add("job", "%s of %s", b.GetJob(), b.GetCustomer())
		f.Add("charged", "%s over %s", amount(usd, b.GetChargedNusd()), count(uint64(b.GetLeases()), "lease"))
		f.Add("held", "%s for %s", amount(usd, b.GetHeldNusd()), count(uint64(b.GetOpenLeases()), "open lease"))
		if b.GetBudgetNusd() == 0 {
			f.Add("budget", "none")
		} else {
			f.Add("budget", "%s, of which %s are left", amount(usd, b.GetBudgetNusd()), amount(usd, b.GetLeftNusd()))
		}
		return f.Write(w)
	})
}
