package command

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/joulecloud/joule/cli/output"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/money"
)

func explainLease(in *invocation) error {
	id, err := in.lease(0)
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
	resp, err := call(in, Client.ExplainLease, &joulev1.ExplainLeaseRequest{LeaseId: id, AfterSeq: after, PageSize: uint32(limit)})
	if err != nil {
		return err
	}
	if err := in.result(resp, 0, func(w io.Writer) error { return writeExplanation(w, resp) }); err != nil {
		return err
	}
	if resp.GetMore() && len(resp.GetEntries()) > 0 {
		in.hint("there are more journal entries: --after %d shows them", resp.GetEntries()[len(resp.GetEntries())-1].GetSeq())
	}
	if verdict, ok := chargeVerdict(resp); !ok {
		return failed(exitInternal, "", "charge of %s: %s", leaseName(id), verdict)
	}
	return nil
}

func writeExplanation(w io.Writer, e *joulev1.ExplainLeaseResponse) error {
	l := e.GetLease()
	if err := leaseFields(l).Write(w); err != nil {
		return err
	}
	sections := []struct {
		title string
		write func(io.Writer) error
	}{
		{"COST", func(w io.Writer) error { return writeCost(w, e) }},
		{"CONVERSION", func(w io.Writer) error { return writeConversions(w, e) }},
		{"JOURNAL", func(w io.Writer) error { return writeEntries(w, e.GetEntries()) }},
	}
	for _, s := range sections {
		if _, err := fmt.Fprintf(w, "\n%s\n", s.title); err != nil {
			return err
		}
		if err := s.write(w); err != nil {
			return err
		}
	}
	return nil
}

func leaseFields(l *joulev1.Lease) *output.Fields {
	f := &output.Fields{}
	f.Add("lease", "%s, %s", leaseName(l.GetId()), state(l))
	f.Add("customer", "%s, pays in %s", l.GetCustomer(), strings.TrimPrefix(payIn(l).String(), "CURRENCY_"))
	f.Add("supplier", "%s, host %s, class %s", l.GetSupplier(), l.GetHost(), l.GetClass())
	f.Add("task", "%s, allocation %s, invocation %s", taskName(l), l.GetAllocId(), l.GetInvocation())
	f.Add("opened", "%s", moment(l.GetOpenedUnixMs()))
	f.Add("closed", "%s", moment(l.GetClosedUnixMs()))
	f.Add("resources", "%s cores, %d MiB, %d GPUs", cores(l.GetResources().GetMilliCores()),
		l.GetResources().GetMemoryMib(), l.GetResources().GetGpus())
	f.Add("prices", "%s (USD per hour)", prices(l.GetPrices()))
	f.Add("usage", "%s", totals(l.GetBilled()))
	if refused := l.GetRefused(); nonZero(refused) {
		f.Add("refused", "%s, beyond the bounds: %s", totals(refused), strings.Join(l.GetBounds(), ", "))
	} else {
		f.Add("refused", "nothing")
	}
	switch {
	case l.GetLastSeq() == 0:
		f.Add("records", "none yet")
	case len(l.GetQuality()) > 0:
		f.Add("records", "%d, quality: %s", l.GetLastSeq(), strings.Join(l.GetQuality(), ", "))
	default:
		f.Add("records", "%d, every boundary stamped by the kernel", l.GetLastSeq())
	}
	f.Add("hold", "%s", amount(payIn(l), l.GetHold()))
	if l.GetBudgetNusd() != 0 {
		f.Add("budget", "%s for the whole job", amount(usd, l.GetBudgetNusd()))
	}
	f.Add("charged", "%s", amount(usd, l.GetChargedNusd()))
	f.Add("paid", "%s, after a fee of %s (%s)", amount(joule, l.GetPaidNj()), amount(joule, l.GetFeeNj()), money.FormatPPM(l.GetFeePpm()))
	return f
}

func cores(milli uint32) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%d.%03d", milli/1000, milli%1000), "0"), ".")
}

func totals(t *joulev1.Totals) string {
	return fmt.Sprintf("wall %d ms, cpu %d ms, gpu %d ms, memory %d MiB·ms",
		t.GetWallMs(), t.GetCpuMs(), t.GetGpuMs(), t.GetMemoryMibMs())
}

func nonZero(t *joulev1.Totals) bool {
	return t.GetWallMs() != 0 || t.GetCpuMs() != 0 || t.GetGpuMs() != 0 || t.GetMemoryMibMs() != 0
}

func writeCost(w io.Writer, e *joulev1.ExplainLeaseResponse) error {
	t := output.NewTable(output.Column{Title: "DIMENSION"}, output.Column{Title: "QUANTITY", Align: output.Right},
		output.Column{Title: "UNIT"}, output.Column{Title: "PRICE NUSD/H", Align: output.Right},
		output.Column{Title: "COST NUSD", Align: output.Point}, output.Column{Title: "ARITHMETIC"})
	for _, c := range e.GetCost() {
		t.Row(c.GetDimension(), fmt.Sprint(c.GetQuantity()), c.GetUnit(), fmt.Sprint(c.GetPriceNusdPerHour()),
			c.GetNusd(), c.GetArithmetic())
	}
	if err := t.Write(w); err != nil {
		return err
	}
	verdict, _ := chargeVerdict(e)
	_, err := fmt.Fprintf(w, "exact %s nUSD, its floor %s nUSD, charged %d nUSD: %s\n",
		output.Clean(e.GetExactNusd()), output.Clean(e.GetRecomputedNusd()), e.GetLease().GetChargedNusd(), verdict)
	return err
}

// chargeVerdict compares what was charged with what usage and prices give. Less
// is what a hold could not cover; more is never right.
func chargeVerdict(e *joulev1.ExplainLeaseResponse) (verdict string, ok bool) {
	recomputed, err := strconv.ParseInt(e.GetRecomputedNusd(), 10, 64)
	if err != nil {
		return "the server recomputed nothing to compare with", false
	}
	switch d := e.GetLease().GetChargedNusd() - recomputed; {
	case d > 0:
		return fmt.Sprintf("%d nUSD too much", d), false
	case d < 0:
		return fmt.Sprintf("%d nUSD less, which funds lacked", -d), true
	}
	return "equal", true
}

// writeEntries prints the journal's part of an explanation.
func writeEntries(w io.Writer, entries []*joulev1.JournalEntry) error {
	if len(entries) == 0 {
		_, err := fmt.Fprintln(w, "no entries")
		return err
	}
	return entryTable(entries).Write(w)
}

func writeConversions(w io.Writer, e *joulev1.ExplainLeaseResponse) error {
	t := output.NewTable(output.Column{Title: "RATE", Align: output.Right}, output.Column{Title: "USD/JOULE", Align: output.Point},
		output.Column{Title: "CHARGED USD", Align: output.Point}, output.Column{Title: "PAID JOULE", Align: output.Point},
		output.Column{Title: "FEE JOULE", Align: output.Point}, output.Column{Title: "ARITHMETIC"})
	for _, c := range e.GetConversions() {
		t.Row(fmt.Sprint(c.GetRateId()), usdNumber(c.GetRateNusdPerJoule()), usdNumber(c.GetChargedNusd()),
			jouleNumber(c.GetPaidNj()), jouleNumber(c.GetFeeNj()), c.GetArithmetic())
	}
	if err := t.Write(w); err != nil {
		return err
	}
	var line string
	switch n := e.GetLease().GetUnconvertedNusd(); {
	case n != 0:
		line = amount(usd, n) + " waits for a rate or for treasury JOULE"
	case len(e.GetConversions()) == 0:
		line = "nothing to convert"
	default:
		return nil
	}
	_, err := fmt.Fprintln(w, line)
	return err
}
