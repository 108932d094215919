package command

import (
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/joulecloud/joule/cli/output"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/money"
)

const hintFines = "`joule fine list` lists the fines"

// caseFlags describe an offence.
func caseFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "lease", Usage: "the `LEASE` whose customer was harmed"},
		&cli.StringFlag{Name: "supplier", Usage: "the supplier's `NAME`; the lease's if unset"},
		&cli.StringFlag{Name: "reason", Usage: "`REASON`: equivocation, 'host lost' or breach (required)"},
		&cli.StringSliceFlag{Name: "evidence", Usage: "`ENTRY[:HASH]`: a journal entry's sequence, and the hash of the usage record in it, hex; may be repeated (required)"},
	}
}

func (b *builder) fine() *cli.Command {
	one := func(name, usage, description string, flags []cli.Flag, run func(*invocation, uint32) (*joulev1.Fine, error)) *cli.Command {
		return b.command(leaf{name: name, usage: usage, description: description, args: []string{"NUMBER"}, changing: true, flags: flags,
			notFound: hintFines, run: func(in *invocation) error {
				id, err := in.number(0)
				if err != nil {
					return err
				}
				f, err := run(in, id)
				if err != nil {
					return err
				}
				return in.fineDone(f)
			}})
	}
	return group("fine", "penalties out of suppliers' stakes",
		b.command(leaf{
			name: "list", usage: "list fines, oldest first", run: listFines, notFound: hintSuppliers,
			flags: append(pageFlags("fines"), &cli.StringFlag{Name: "supplier", Usage: "only this supplier's: `NAME`"},
				&cli.BoolFlag{Name: "open", Usage: "only those that are not final, voided or lapsed", DisableDefaultText: true}),
		}),
		b.command(leaf{name: "show", usage: "show a fine with all that its amount follows from", args: []string{"NUMBER"}, notFound: hintFines, run: showFine}),
		b.command(leaf{
			name: "simulate", usage: "show what a fine would come to now; nothing changes",
			description: "Example: joule fine simulate --lease L12 --reason 'host lost' --evidence 4711",
			flags:       append(caseFlags(), &cli.BoolFlag{Name: "manual", Usage: "as one that operators propose and approve", DisableDefaultText: true}),
			notFound:    hintLeases, run: simulateFine,
		}),
		b.command(leaf{
			name: "issue", usage: "fine for what the ledger itself has seen", changing: true,
			description: "`joule fine offences` lists what it has seen. Example: joule fine issue --lease L12 --reason equivocation --evidence 4711:ab… --yes",
			flags:       append(caseFlags(), yesFlag("really fine (required)")), notFound: hintLeases, run: issueFine,
		}),
		b.command(leaf{
			name: "propose", usage: "ask for a fine that a second operator must approve", changing: true,
			description: "Example: joule fine propose --supplier west-dc --reason breach --evidence 4711 --why 'sold a customer's disk'",
			flags:       append(caseFlags(), whyFlag()), notFound: hintLeases, run: proposeFine,
		}),
		one("approve", "issue a fine that another operator proposed", "Example: joule fine approve 3 --yes",
			[]cli.Flag{yesFlag("really fine (required)")}, func(in *invocation, id uint32) (*joulev1.Fine, error) {
				if err := in.confirmed("approving fine %d", id); err != nil {
					return nil, err
				}
				resp, err := call(in, Client.ApproveFine, &joulev1.ApproveFineRequest{Key: in.idempotencyKey(), FineId: id})
				return resp.GetFine(), err
			}),
		one("appeal", "contest a fine within its window", "Example: joule fine appeal 3 --supplier west-dc --why 'the power was cut'",
			[]cli.Flag{whyFlag(), &cli.StringFlag{Name: "supplier", Usage: "the fined supplier's `NAME`; a supplier's token says it"}},
			func(in *invocation, id uint32) (*joulev1.Fine, error) {
				why, err := in.required("why")
				if err != nil {
					return nil, err
				}
				resp, err := call(in, Client.AppealFine, &joulev1.AppealFineRequest{Key: in.idempotencyKey(), FineId: id, Supplier: in.c.String("supplier"), Why: why})
				return resp.GetFine(), err
			}),
		one("void", "take back a fine that is not final, or a proposal", "What was taken goes back. Example: joule fine void 3 --why 'the network was ours' --yes",
			[]cli.Flag{whyFlag(), yesFlag("really void it (required)")}, func(in *invocation, id uint32) (*joulev1.Fine, error) {
				why, err := in.sure("voiding fine %d", id)
				if err != nil {
					return nil, err
				}
				resp, err := call(in, Client.VoidFine, &joulev1.VoidFineRequest{Key: in.idempotencyKey(), FineId: id, Why: why})
				return resp.GetFine(), err
			}),
		b.command(leaf{
			name: "offences", usage: "list the ledger's own evidence, oldest first",
			flags: append(pageFlags("offences"), &cli.BoolFlag{Name: "open", Usage: "only those without a fine", DisableDefaultText: true}), run: listOffences,
		}),
		b.schedule())
}

// fineCase reads the flags of caseFlags.
func (in *invocation) fineCase() (*joulev1.FineCase, error) {
	c := &joulev1.FineCase{Supplier: in.c.String("supplier")}
	var err error
	if text := in.c.String("lease"); text != "" {
		if c.LeaseId, err = parseUint("--lease", strings.TrimPrefix(text, "L"), 1, math.MaxInt64); err != nil {
			return nil, err
		}
	}
	if c.Reason, err = in.required("reason"); err != nil {
		return nil, err
	}
	evidence := in.c.StringSlice("evidence")
	if len(evidence) == 0 {
		return nil, invalid("`joule fine offences` and `joule lease explain LEASE` show journal entries", "--evidence: required")
	}
	for _, text := range evidence {
		entry, hash, _ := strings.Cut(text, ":")
		n, err := parseUint("--evidence", entry, 1, math.MaxInt64)
		if err != nil {
			return nil, err
		}
		b, err := hex.DecodeString(hash)
		if err != nil || len(b) != 0 && len(b) != 16 {
			return nil, invalid("", "--evidence: the hash must be 32 hex digits (got %q)", short(hash))
		}
		c.Evidence = append(c.Evidence, &joulev1.Evidence{Entry: n, Hash: b})
	}
	return c, nil
}

func (in *invocation) fineDone(f *joulev1.Fine) error {
	p := f.GetPlan()
	what := fmt.Sprintf("fine %d of %s for %s: %s", f.GetId(), p.GetSupplier(), p.GetReason(), f.GetState())
	if f.GetIssuedUnixMs() != 0 {
		what += fmt.Sprintf(", %s taken of %s", amount(joule, p.GetTakenNj()), amount(joule, p.GetAmountNj()))
	}
	if f.GetEndsUnixMs() != 0 {
		what += ", until " + moment(f.GetEndsUnixMs())
	}
	return in.done(f, 0, "%s", what)
}

func issueFine(in *invocation) error {
	c, err := in.fineCase()
	if err != nil {
		return err
	}
	if err := in.confirmed("a fine for %s", c.GetReason()); err != nil {
		return err
	}
	resp, err := call(in, Client.IssueFine, &joulev1.IssueFineRequest{Key: in.idempotencyKey(), Case: c})
	if err != nil {
		return err
	}
	return in.fineDone(resp.GetFine())
}

func proposeFine(in *invocation) error {
	c, err := in.fineCase()
	if err != nil {
		return err
	}
	why, err := in.required("why")
	if err != nil {
		return err
	}
	resp, err := call(in, Client.ProposeFine, &joulev1.ProposeFineRequest{Key: in.idempotencyKey(), Case: c, Why: why})
	if err != nil {
		return err
	}
	return in.fineDone(resp.GetFine())
}

func simulateFine(in *invocation) error {
	c, err := in.fineCase()
	if err != nil {
		return err
	}
	resp, err := call(in, Client.SimulateFine, &joulev1.SimulateFineRequest{Case: c, Manual: in.c.Bool("manual")})
	if err != nil {
		return err
	}
	return in.result(resp, 0, func(w io.Writer) error {
		f := &output.Fields{}
		planFields(f, resp.GetPlan())
		return f.Write(w)
	})
}

func planFields(f *output.Fields, p *joulev1.FinePlan) {
	f.Add("supplier", "%s", p.GetSupplier())
	f.Add("reason", "%s, the %s's side", p.GetReason(), p.GetSide())
	if p.GetLeaseId() != 0 {
		f.Add("lease", "%s of %s", leaseName(p.GetLeaseId()), p.GetCustomer())
	}
	f.Add("required", "%s of stake", amount(joule, p.GetRequiredNj()))
	f.Add("offences", "%d before within the window", p.GetPrior())
	f.Add("schedule", "%s", amount(joule, p.GetScheduleNj()))
	f.Add("amount", "%s within the cap of the day", amount(joule, p.GetAmountNj()))
	f.Add("taken", "%s: %s of earnings, %s of stake, %s of unbonding", amount(joule, p.GetTakenNj()), amount(joule, p.GetFromEarningsNj()),
		amount(joule, p.GetFromStakeNj()), amount(joule, p.GetFromUnbondingNj()))
	f.Add("remedy", "%s of it to the customer", amount(joule, p.GetRemedyNj()))
	f.Add("final", "%s", moment(p.GetFinalUnixMs()))
}

func showFine(in *invocation) error {
	id, err := in.number(0)
	if err != nil {
		return err
	}
	resp, err := call(in, Client.GetFine, &joulev1.GetFineRequest{FineId: id})
	if err != nil {
		return err
	}
	v := resp.GetFine()
	return in.result(v, 0, func(w io.Writer) error {
		f := &output.Fields{}
		f.Add("fine", "%d, %s", v.GetId(), v.GetState())
		planFields(f, v.GetPlan())
		for _, e := range v.GetCase().GetEvidence() {
			f.Add("evidence", "%s", evidence(e))
		}
		f.Add("opened", "%s", moment(v.GetOpenedUnixMs()))
		f.Add("issued", "%s", moment(v.GetIssuedUnixMs()))
		f.Add("ends", "%s", moment(v.GetEndsUnixMs()))
		for _, who := range []struct{ label, who, why string }{{"proposed", v.GetProposedBy(), v.GetWhy()},
			{"approved", v.GetApprovedBy(), ""}, {"appeal", v.GetPlan().GetSupplier(), v.GetAppeal()}, {"voided", v.GetVoidedBy(), v.GetVoidWhy()}} {
			switch {
			case who.label == "appeal" && who.why == "", who.who == "":
			case who.why == "":
				f.Add(who.label, "by %s", who.who)
			default:
				f.Add(who.label, "by %s: %s", who.who, who.why)
			}
		}
		return f.Write(w)
	})
}

func evidence(e *joulev1.Evidence) string {
	if len(e.GetHash()) == 0 {
		return fmt.Sprint("entry ", e.GetEntry())
	}
	return fmt.Sprintf("entry %d, record %x", e.GetEntry(), e.GetHash())
}

func listFines(in *invocation) error {
	after, limit, err := in.page()
	if err != nil {
		return err
	}
	resp, err := call(in, Client.ListFines, &joulev1.ListFinesRequest{Supplier: in.c.String("supplier"), OpenOnly: in.c.Bool("open"),
		PageSize: limit, AfterId: after})
	if err != nil {
		return err
	}
	err = in.result(resp, 0, func(w io.Writer) error {
		t := output.NewTable(output.Column{Title: "FINE", Align: output.Right}, output.Column{Title: "STATE"}, output.Column{Title: "SUPPLIER"},
			output.Column{Title: "REASON"}, output.Column{Title: "LEASE"}, output.Column{Title: "TAKEN JOULE", Align: output.Point},
			output.Column{Title: "REMEDY JOULE", Align: output.Point}, output.Column{Title: "OPENED"}, output.Column{Title: "ENDS"})
		for _, v := range resp.GetFines() {
			p := v.GetPlan()
			t.Row(idName(v.GetId()), v.GetState(), p.GetSupplier(), p.GetReason(), leaseOrNone(p.GetLeaseId()),
				jouleNumber(p.GetTakenNj()), jouleNumber(p.GetRemedyNj()), moment(v.GetOpenedUnixMs()), moment(v.GetEndsUnixMs()))
		}
		return t.Write(w)
	})
	if err == nil && resp.GetMore() && len(resp.GetFines()) > 0 {
		in.hint("there are more fines: --after %d shows them", resp.GetFines()[len(resp.GetFines())-1].GetId())
	}
	return err
}

func listOffences(in *invocation) error {
	after, limit, err := in.page()
	if err != nil {
		return err
	}
	resp, err := call(in, Client.ListOffences, &joulev1.ListOffencesRequest{OpenOnly: in.c.Bool("open"), PageSize: limit, AfterId: after})
	if err != nil {
		return err
	}
	err = in.result(resp, 0, func(w io.Writer) error {
		t := output.NewTable(output.Column{Title: "OFFENCE", Align: output.Right}, output.Column{Title: "REASON"}, output.Column{Title: "LEASE"},
			output.Column{Title: "TIME"}, output.Column{Title: "EVIDENCE"}, output.Column{Title: "FINE"})
		for _, o := range resp.GetOffences() {
			fine := "-"
			if o.GetFineId() != 0 {
				fine = idName(o.GetFineId())
			}
			t.Row(idName(o.GetId()), o.GetReason(), leaseName(o.GetLeaseId()), moment(o.GetUnixMs()), evidence(o.GetEvidence()), fine)
		}
		return t.Write(w)
	})
	if err == nil && resp.GetMore() && len(resp.GetOffences()) > 0 {
		in.hint("there are more offences: --after %d shows them", resp.GetOffences()[len(resp.GetOffences())-1].GetId())
	}
	return err
}

func (b *builder) schedule() *cli.Command {
	return group("schedule", "what fines come to",
		b.command(leaf{name: "show", usage: "show the schedule in force", run: showSchedule}),
		b.command(leaf{
			name: "set", usage: "publish the schedule of fines from now on", changing: true,
			description: "Everything is set together; a reason without a rule can't be fined. " +
				"Example: joule fine schedule set --appeal 168h --repeat 720h --day-cap 50% --rule 'host lost:share=5%,grace=2,repeat=150%,remedy=1h'",
			flags: []cli.Flag{
				&cli.StringFlag{Name: "appeal", Usage: "a fine is final after this `DURATION` (required)"},
				&cli.StringFlag{Name: "repeat", Usage: "offences within this `DURATION` count as repeats (required)"},
				&cli.StringFlag{Name: "day-cap", Usage: "`SHARE` of the required stake that is fined within 24 hours at most (required)"},
				&cli.StringSliceFlag{Name: "rule", Usage: "`REASON:share=SHARE,grace=N,repeat=SHARE,remedy=DURATION`; may be repeated"},
			},
			run: setSchedule,
		}))
}

func setSchedule(in *invocation) error {
	s := &joulev1.FineSchedule{}
	var err error
	if s.AppealMs, err = in.requiredMs("appeal", time.Millisecond); err != nil {
		return err
	}
	if s.RepeatMs, err = in.requiredMs("repeat", time.Millisecond); err != nil {
		return err
	}
	text, err := in.required("day-cap")
	if err != nil {
		return err
	}
	if s.DayCapPpm, err = money.ParsePPM("--day-cap", text); err != nil {
		return err
	}
	for _, text := range in.ruleFlags() {
		rule, err := parseRule(text)
		if err != nil {
			return err
		}
		s.Rules = append(s.Rules, rule)
	}
	resp, err := call(in, Client.SetFineSchedule, &joulev1.SetFineScheduleRequest{Key: in.idempotencyKey(), Schedule: s})
	if err != nil {
		return err
	}
	return in.done(resp, 0, "schedule set: %s", count(len(s.GetRules()), "rule"))
}

// ruleFlags puts the rules together again, which the flag package splits at
// commas.
func (in *invocation) ruleFlags() []string {
	var out []string
	for _, part := range in.c.StringSlice("rule") {
		if strings.Contains(part, ":") || len(out) == 0 {
			out = append(out, part)
		} else {
			out[len(out)-1] += "," + part
		}
	}
	return out
}

func parseRule(text string) (*joulev1.FineRule, error) {
	reason, values, _ := strings.Cut(text, ":")
	r := &joulev1.FineRule{Reason: reason, RepeatPpm: 1_000_000}
	for value := range strings.SplitSeq(values, ",") {
		name, v, _ := strings.Cut(value, "=")
		var err error
		var n uint64
		switch name {
		case "share":
			r.SharePpm, err = money.ParsePPM("--rule: share", v)
		case "grace":
			n, err = parseUint("--rule: grace", v, 0, math.MaxUint32)
			r.Grace = uint32(n)
		case "repeat":
			r.RepeatPpm, err = money.ParseFactor("--rule: repeat", v)
		case "remedy":
			r.RemedyMs, err = parseMs("--rule: remedy", v, 0)
		default:
			err = invalid("", "--rule: must be REASON:share=SHARE,grace=N,repeat=SHARE,remedy=DURATION (got %q)", short(text))
		}
		if err != nil {
			return nil, err
		}
	}
	return r, nil
}

func showSchedule(in *invocation) error {
	p, err := call(in, Client.GetPolicy, &joulev1.GetPolicyRequest{})
	if err != nil {
		return err
	}
	s := p.GetFines()
	return in.result(s, 0, func(w io.Writer) error {
		var f output.Fields
		f.Add("final", "%s after it is issued or appealed", span(s.GetAppealMs()))
		f.Add("repeats", "within %s", span(s.GetRepeatMs()))
		f.Add("cap", "%s of the required stake within 24 hours", money.FormatPPM(s.GetDayCapPpm()))
		if err := f.Write(w); err != nil {
			return err
		}
		if _, err := io.WriteString(w, "\n"); err != nil {
			return err
		}
		t := output.NewTable(output.Column{Title: "REASON"}, output.Column{Title: "SHARE OF REQUIRED", Align: output.Right},
			output.Column{Title: "GRACE", Align: output.Right}, output.Column{Title: "REPEAT", Align: output.Right}, output.Column{Title: "REMEDY"})
		for _, r := range s.GetRules() {
			t.Row(r.GetReason(), money.FormatPPM(r.GetSharePpm()), fmt.Sprint(r.GetGrace()), money.FormatPPM(r.GetRepeatPpm()), span(r.GetRemedyMs()))
		}
		return t.Write(w)
	})
}
