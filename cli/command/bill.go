package command

import (
	"fmt"
	"io"
	"math"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/joulecloud/joule/cli/output"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

func (b *builder) bill() *cli.Command {
	return b.command(leaf{
		name: "bill", usage: "show what a customer's leases cost, and the proof", args: []string{"CUSTOMER"},
		description: "Example: joule bill acme --job two-suppliers --from 2026-11-01",
		flags: []cli.Flag{
			&cli.StringFlag{Name: "job", Usage: "only leases of this job: `NAME`"},
			&cli.StringFlag{Name: "from", Usage: "only leases opened at this `TIME` (2026-11-01, or RFC 3339) or later"},
			&cli.StringFlag{Name: "to", Usage: "only leases opened before this `TIME`"},
			&cli.StringFlag{Name: "after", Value: "0", Usage: "only leases with a larger `NUMBER`"},
			&cli.StringFlag{Name: "limit", Value: "10000", Usage: "at most this `NUMBER` of leases, up to 10000; sums and proof are of those shown"},
		},
		notFound: "`joule customer list` lists the customers",
		run:      bill,
	})
}

func bill(in *invocation) error {
	from, to, err := in.period()
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
	resp, err := call(in, Client.GetBill, &joulev1.GetBillRequest{Customer: in.arg(0), Job: in.c.String("job"),
		FromUnixMs: from, ToUnixMs: to, PageSize: uint32(limit), AfterId: after})
	if err != nil {
		return err
	}
	if err := in.result(resp, 0, func(w io.Writer) error { return WriteBill(w, resp) }); err != nil {
		return err
	}
	if resp.GetMore() && len(resp.GetLeases()) > 0 {
		in.hint("there are more leases: --after %d shows them", resp.GetLeases()[len(resp.GetLeases())-1].GetId())
	}
	return checkProof(resp)
}

// period reads --from and --to.
func (in *invocation) period() (from, to int64, err error) {
	if from, err = in.timeFlag("from"); err != nil {
		return 0, 0, err
	}
	if to, err = in.timeFlag("to"); err != nil {
		return 0, 0, err
	}
	if to != 0 && to <= from {
		return 0, 0, invalid("", "--to: must be after --from (got %q)", in.c.String("to"))
	}
	return from, to, nil
}

// timeFlag reads a day or a moment as Unix milliseconds, 0 where it isn't set.
func (in *invocation) timeFlag(flag string) (int64, error) {
	if !in.c.IsSet(flag) {
		return 0, nil
	}
	text := in.c.String(flag)
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, text); err == nil && t.UnixMilli() > 0 {
			return t.UnixMilli(), nil
		}
	}
	return 0, invalid("", "--%s: must be a day such as 2026-11-01 or a time such as 2026-11-01T12:00:00Z (got %q)", flag, short(text))
}

// checkProof fails for a bill that does not add up.
func checkProof(b *joulev1.GetBillResponse) error {
	p := b.GetProof()
	switch {
	case p == nil:
		return failed(exitInternal, "", "bill of %s: the server sent no proof", b.GetCustomer())
	case b.GetChargedNusd() > p.GetRecomputedNusd():
		return failed(exitInternal, "`joule lease explain LEASE` shows where", "bill of %s: charged more than usage and prices give", b.GetCustomer())
	case p.GetUsdSum() != 0 || p.GetJouleSum() != 0:
		return failed(exitInternal, "`joule audit DIR` on a server's journal shows where", "bill of %s: the balances do not sum to zero", b.GetCustomer())
	}
	return nil
}

// WriteBill prints a bill for people: its leases, the sums per supplier, the
// proof.
func WriteBill(w io.Writer, b *joulev1.GetBillResponse) error {
	if len(b.GetLeases()) == 0 {
		if _, err := fmt.Fprintf(w, "no leases of %s\n", output.Clean(b.GetCustomer())); err != nil {
			return err
		}
		return writeProof(w, b)
	}
	open := 0
	var waiting int64
	t := output.NewTable(output.Column{Title: "LEASE"}, output.Column{Title: "HOST"}, output.Column{Title: "SUPPLIER"},
		output.Column{Title: "CLASS"}, output.Column{Title: "WALL MS", Align: output.Right},
		output.Column{Title: "CPU MS", Align: output.Right}, output.Column{Title: "PRICE USD/H"},
		output.Column{Title: "CHARGED USD", Align: output.Point}, output.Column{Title: "PAID JOULE", Align: output.Point},
		output.Column{Title: "RATE", Align: output.Right})
	for _, l := range b.GetLeases() {
		t.Row(leaseName(l.GetId()), l.GetHost(), l.GetSupplier(), l.GetClass(),
			fmt.Sprint(l.GetBilled().GetWallMs()), fmt.Sprint(l.GetBilled().GetCpuMs()), prices(l.GetPrices()),
			usdNumber(l.GetChargedNusd()), jouleNumber(l.GetPaidNj()), rateName(l.GetRateId()))
		if l.GetState() == "open" {
			open++
		}
		waiting += l.GetUnconvertedNusd()
	}
	if err := t.Write(w); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	if err := supplierTable(b).Write(w); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	if open > 0 {
		if _, err := fmt.Fprintf(w, "still open: %s, charged up to the last record\n", count(open, "lease")); err != nil {
			return err
		}
	}
	if waiting > 0 {
		if _, err := fmt.Fprintf(w, "unconverted: %s charged and not yet paid out\n", amount(usd, waiting)); err != nil {
			return err
		}
	}
	return writeProof(w, b)
}

func supplierTable(b *joulev1.GetBillResponse) *output.Table {
	t := output.NewTable(output.Column{Title: "SUPPLIER"}, output.Column{Title: "LEASES", Align: output.Right},
		output.Column{Title: "WALL MS", Align: output.Right}, output.Column{Title: "CPU MS", Align: output.Right},
		output.Column{Title: "CHARGED USD", Align: output.Point}, output.Column{Title: "PAID JOULE", Align: output.Point},
		output.Column{Title: "FEE JOULE", Align: output.Point})
	var leases uint64
	var wall, cpu uint64
	for _, s := range b.GetSuppliers() {
		t.Row(s.GetSupplier(), fmt.Sprint(s.GetLeases()), fmt.Sprint(s.GetWallMs()), fmt.Sprint(s.GetCpuMs()),
			usdNumber(s.GetChargedNusd()), jouleNumber(s.GetPaidNj()), jouleNumber(s.GetFeeNj()))
		leases, wall, cpu = leases+uint64(s.GetLeases()), wall+s.GetWallMs(), cpu+s.GetCpuMs()
	}
	t.Row("(all)", fmt.Sprint(leases), fmt.Sprint(wall), fmt.Sprint(cpu),
		usdNumber(b.GetChargedNusd()), jouleNumber(b.GetPaidNj()), jouleNumber(b.GetFeeNj()))
	return t
}

// writeProof prints what the server re-derived from the journal, and whether
// it agrees.
func writeProof(w io.Writer, b *joulev1.GetBillResponse) error {
	p := b.GetProof()
	verdict := "equal"
	switch d := b.GetChargedNusd() - p.GetRecomputedNusd(); {
	case d > 0:
		verdict = "NOT EQUAL, charged too much by " + amount(usd, d)
	case d < 0:
		verdict = "less by " + amount(usd, -d) + ", which funds lacked"
	}
	var f output.Fields
	f.Add("proof: charged", "%s, recomputed from usage and prices %s: %s",
		amount(usd, b.GetChargedNusd()), amount(usd, p.GetRecomputedNusd()), verdict)
	f.Add("proof: balances", "sum to %s and %s: %s", amount(usd, p.GetUsdSum()), amount(joule, p.GetJouleSum()),
		sumsVerdict(p.GetUsdSum(), p.GetJouleSum()))
	f.Add("proof: digest", "%s over %d journal entries", p.GetDigest(), p.GetEntries())
	return f.Write(w)
}

// sumsVerdict says whether all balances sum to zero, as they always must.
func sumsVerdict(usdSum, jouleSum int64) string {
	if usdSum != 0 || jouleSum != 0 {
		return "NOT ZERO"
	}
	return "both zero"
}
