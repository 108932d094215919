package command

import (
	"fmt"
	"io"
	"math"

	"github.com/urfave/cli/v2"

	"github.com/joulecloud/joule/cli/output"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

func (b *builder) lease() *cli.Command {
	return group("lease", "one task on one host at fixed prices",
		b.command(leaf{
			name: "list", usage: "list leases, oldest first",
			flags: []cli.Flag{
				&cli.StringFlag{Name: "customer", Usage: "only this customer's: `NAME`"},
				&cli.StringFlag{Name: "supplier", Usage: "only this supplier's: `NAME`"},
				&cli.StringFlag{Name: "host", Usage: "only on this host: `NAME`"},
				&cli.BoolFlag{Name: "open", Usage: "only those still open", DisableDefaultText: true},
				&cli.StringFlag{Name: "after", Value: "0", Usage: "only leases with a larger `NUMBER`"},
				&cli.StringFlag{Name: "limit", Value: "1000", Usage: "at most this `NUMBER` of leases, up to 10000"},
			},
			notFound: hintAccounts + ", `joule host list` every host", run: listLeases,
		}),
		b.command(leaf{
			name: "explain", usage: "show every number of a lease's charge, with the arithmetic", args: []string{"LEASE"},
			description: "Example: joule lease explain L12",
			flags: []cli.Flag{
				&cli.StringFlag{Name: "after", Value: "0", Usage: "only journal entries after the one with this sequence `NUMBER`"},
				&cli.StringFlag{Name: "limit", Value: "1000", Usage: "at most this `NUMBER` of journal entries, up to 10000"},
			},
			notFound: hintLeases, run: explainLease,
		}),
		b.command(leaf{
			name: "top-up", usage: "raise a lease's hold from its customer's balance", args: []string{"LEASE"}, changing: true,
			description: "Example: joule lease top-up L12 --slices 10",
			flags:       []cli.Flag{&cli.StringFlag{Name: "slices", Usage: "`NUMBER` of slices that the hold shall cover (required)"}},
			notFound:    hintLeases, insufficient: hintDeposit, run: topUpLease,
		}),
		b.command(leaf{
			name: "close", usage: "end a lease at its last known usage and release its hold", args: []string{"LEASE"}, changing: true,
			description: "The task is stopped. Example: joule lease close L12 --yes",
			flags:       []cli.Flag{&cli.BoolFlag{Name: "yes", Usage: "really close it (required)", DisableDefaultText: true}},
			notFound:    hintLeases, run: closeLease,
		}))
}

func listLeases(in *invocation) error {
	after, err := parseUint("--after", in.c.String("after"), 0, math.MaxInt64)
	if err != nil {
		return err
	}
	limit, err := parseUint("--limit", in.c.String("limit"), 1, pageMax)
	if err != nil {
		return err
	}
	resp, err := call(in, Client.ListLeases, &joulev1.ListLeasesRequest{
		Customer: in.c.String("customer"), Supplier: in.c.String("supplier"), Host: in.c.String("host"),
		OpenOnly: in.c.Bool("open"), PageSize: uint32(limit), AfterId: after})
	if err != nil {
		return err
	}
	err = in.result(resp, 0, func(w io.Writer) error { return leaseTable(resp.GetLeases()).Write(w) })
	if err == nil && resp.GetMore() && len(resp.GetLeases()) > 0 {
		in.hint("there are more leases: --after %d shows them", resp.GetLeases()[len(resp.GetLeases())-1].GetId())
	}
	return err
}

func leaseTable(leases []*joulev1.Lease) *output.Table {
	t := output.NewTable(output.Column{Title: "LEASE"}, output.Column{Title: "STATE"}, output.Column{Title: "CUSTOMER"},
		output.Column{Title: "JOB/GROUP/TASK"}, output.Column{Title: "HOST"}, output.Column{Title: "SUPPLIER"},
		output.Column{Title: "OPENED"}, output.Column{Title: "WALL MS", Align: output.Right},
		output.Column{Title: "CPU MS", Align: output.Right}, output.Column{Title: "CHARGED USD", Align: output.Point},
		output.Column{Title: "PAID JOULE", Align: output.Point})
	for _, l := range leases {
		t.Row(leaseName(l.GetId()), state(l), l.GetCustomer(), taskName(l), l.GetHost(), l.GetSupplier(),
			moment(l.GetOpenedUnixMs()), fmt.Sprint(l.GetBilled().GetWallMs()), fmt.Sprint(l.GetBilled().GetCpuMs()),
			usdNumber(l.GetChargedNusd()), jouleNumber(l.GetPaidNj()))
	}
	return t
}

func state(l *joulev1.Lease) string {
	if l.GetReason() == "" {
		return l.GetState()
	}
	return l.GetState() + ": " + l.GetReason()
}

func taskName(l *joulev1.Lease) string { return l.GetJob() + "/" + l.GetGroup() + "/" + l.GetTask() }

func topUpLease(in *invocation) error {
	id, err := in.lease(0)
	if err != nil {
		return err
	}
	text, err := in.required("slices")
	if err != nil {
		return err
	}
	slices, err := parseUint("--slices", text, 1, uint32Max)
	if err != nil {
		return err
	}
	// The answer is in the currency that the lease is paid in, which it doesn't
	// name; asking before the change leaves no doubt about what happened.
	found, err := call(in, Client.ListLeases, &joulev1.ListLeasesRequest{AfterId: id - 1, PageSize: 1})
	if err != nil {
		return err
	}
	if len(found.GetLeases()) == 0 || found.GetLeases()[0].GetId() != id {
		return failed(exitNotFound, hintLeases, "no lease %s", leaseName(id))
	}
	currency := payIn(found.GetLeases()[0])
	resp, err := call(in, Client.TopUpLease, &joulev1.TopUpLeaseRequest{
		Key: in.idempotencyKey(), LeaseId: id, Slices: uint32(slices)})
	if err != nil {
		return err
	}
	return in.done(resp, currency, "lease %s holds %s", leaseName(id), amount(currency, resp.GetHold()))
}

func closeLease(in *invocation) error {
	id, err := in.lease(0)
	if err != nil {
		return err
	}
	if !in.c.Bool("yes") {
		return invalid(fmt.Sprintf("joule lease close %s --yes", leaseName(id)),
			"--yes: missing; closing %s stops its task", leaseName(id))
	}
	resp, err := call(in, Client.CloseLease, &joulev1.CloseLeaseRequest{Key: in.idempotencyKey(), LeaseId: id})
	if err != nil {
		return err
	}
	return in.done(resp, 0, "lease %s closed", leaseName(id))
}
