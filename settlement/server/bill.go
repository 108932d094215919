package server

import (
	"context"
	"encoding/hex"
	"fmt"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/bill"
	"github.com/joulecloud/joule/settlement/journal"
	"github.com/joulecloud/joule/settlement/ledger"
)

// ExplainLease implements SettlementServiceHandler.
func (s *Server) ExplainLease(ctx context.Context, r *joulev1.ExplainLeaseRequest) (*joulev1.ExplainLeaseResponse, error) {
	limit, err := pageSize(r.PageSize)
	if err != nil {
		return nil, err
	}
	id := ledger.LeaseID(r.LeaseId)
	var view ledger.Lease
	err = s.node.Read(ctx, func(l *ledger.Ledger) (err error) {
		view, err = knownLease(l, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	folded, _, err := s.fold([]ledger.LeaseID{id})
	if err != nil {
		return nil, err
	}
	entries, err := s.history.EntriesOfLease(id, journal.Range{After: r.AfterSeq, Limit: limit + 1})
	if err != nil {
		return nil, fmt.Errorf("read the journal of lease L%d: %w", id, err)
	}
	out := &joulev1.ExplainLeaseResponse{}
	if len(entries) > limit {
		entries, out.More = entries[:limit], true
	}
	lines := bill.Lines(folded[0].Opened.Prices, folded[0].Usage.Billed)
	for _, line := range lines {
		out.Cost = append(out.Cost, &joulev1.CostLine{
			Dimension: line.Dimension, Quantity: line.Quantity, Unit: line.Unit,
			PriceNusdPerHour: int64(line.Price), Arithmetic: line.Arithmetic, Nusd: bill.Decimal(line.NUSD)})
	}
	exact := bill.Cost(lines)
	out.ExactNusd = exact.RatString()
	out.RecomputedNusd = bill.Floor(exact).String()
	return out, s.node.Read(ctx, func(l *ledger.Ledger) error {
		n := names{l}
		out.Lease = n.folded(&view, folded[0])
		for _, c := range folded[0].Conversions {
			rate, _ := l.RateByID(c.Rate)
			out.Conversions = append(out.Conversions, &joulev1.Conversion{
				RateId: uint32(c.Rate), RateNusdPerJoule: int64(rate.NUSDPerJoule), ChargedNusd: int64(c.USD),
				PaidNj: int64(c.PaidNJ), FeeNj: int64(c.FeeNJ), Arithmetic: bill.JouleArithmetic(c, rate.NUSDPerJoule)})
		}
		for i := range entries {
			out.Entries = append(out.Entries, n.entry(&entries[i]))
		}
		return nil
	})
}

func knownLease(l *ledger.Ledger, id ledger.LeaseID) (ledger.Lease, error) {
	v, ok := l.Lease(id)
	if !ok {
		return v, notFound("lease L%d", id)
	}
	return v, nil
}

// fold reads the leases' history, as of one moment.
func (s *Server) fold(ids []ledger.LeaseID) ([]*bill.Lease, *journal.Condensed, error) {
	con, err := s.history.Condense(ids)
	if err != nil {
		return nil, nil, fmt.Errorf("read the journal of %d leases: %w", len(ids), err)
	}
	out := make([]*bill.Lease, len(ids))
	for i, id := range ids {
		if out[i], err = bill.Fold(con.Leases[i]); err != nil {
			return nil, nil, fmt.Errorf("fold the journal of lease L%d: %w", id, err)
		}
		if out[i].Opened == nil {
			return nil, nil, fmt.Errorf("the journal has no opening of lease L%d", id)
		}
	}
	return out, con, nil
}

// folded is a lease whose usage, charge and pay are read from the journal.
func (n names) folded(v *ledger.Lease, f *bill.Lease) *joulev1.Lease {
	out := n.lease(v)
	out.Billed = apiTotals(f.Usage.Billed)
	out.PaidNj, out.FeeNj = int64(f.PaidNJ), int64(f.FeeNJ)
	out.UnconvertedNusd, out.LastSeq = int64(f.Accrued), f.Usage.Seq
	if f.Opened.PayIn == ledger.USD {
		out.ChargedNusd = f.Charged
	}
	if f.Closed != nil {
		out.State, out.Reason, out.ClosedUnixMs = "closed", closeReasonName(f.Closed.Reason), int64(f.ClosedAt)
	}
	return out
}

// GetBill implements SettlementServiceHandler. Every amount comes from the
// journal as of one moment; the proof says what it was checked against.
func (s *Server) GetBill(ctx context.Context, r *joulev1.GetBillRequest) (*joulev1.GetBillResponse, error) {
	limit, err := pageSize(r.PageSize)
	if err != nil {
		return nil, err
	}
	views, more, err := s.billed(ctx, r, limit)
	if err != nil {
		return nil, err
	}
	ids := make([]ledger.LeaseID, len(views))
	for i := range views {
		ids[i] = views[i].ID
	}
	folded, con, err := s.fold(ids)
	if err != nil {
		return nil, err
	}
	out := &joulev1.GetBillResponse{Customer: r.Customer, More: more,
		Proof: &joulev1.GetBillResponse_Proof{Digest: hex.EncodeToString(con.Digest[:]), Entries: con.Entries}}
	out.Proof.UsdSum, out.Proof.JouleSum = s.node.Sums()
	sums := map[string]*joulev1.SupplierSum{}
	return out, s.node.Read(ctx, func(l *ledger.Ledger) error {
		for i := range views {
			lease := names{l}.folded(&views[i], folded[i])
			cost := bill.Floor(bill.Cost(bill.Lines(folded[i].Opened.Prices, folded[i].Usage.Billed)))
			if !cost.IsInt64() {
				return fmt.Errorf("lease L%d: its cost %s nUSD is beyond int64", ids[i], cost)
			}
			addLease(out, sums, lease, cost.Int64())
		}
		return nil
	})
}

func addLease(out *joulev1.GetBillResponse, sums map[string]*joulev1.SupplierSum, lease *joulev1.Lease, recomputed int64) {
	out.Leases = append(out.Leases, lease)
	out.ChargedNusd += lease.ChargedNusd
	out.PaidNj += lease.PaidNj
	out.FeeNj += lease.FeeNj
	out.Proof.RecomputedNusd += recomputed
	sum := sums[lease.Supplier]
	if sum == nil {
		sum = &joulev1.SupplierSum{Supplier: lease.Supplier}
		sums[lease.Supplier] = sum
		out.Suppliers = append(out.Suppliers, sum)
	}
	sum.Leases++
	sum.WallMs += lease.Billed.WallMs
	sum.CpuMs += lease.Billed.CpuMs
	sum.ChargedNusd += lease.ChargedNusd
	sum.PaidNj += lease.PaidNj
	sum.FeeNj += lease.FeeNj
}

// billed returns the leases of a page of a bill, and whether there are more.
func (s *Server) billed(ctx context.Context, r *joulev1.GetBillRequest, limit int) (page []ledger.Lease, more bool, err error) {
	var c ledger.Customer
	err = s.node.Read(ctx, func(l *ledger.Ledger) error {
		var ok bool
		if c, ok = l.Customer(r.Customer); !ok {
			return notFound("customer %q", r.Customer)
		}
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	next := func(after ledger.LeaseID) ([]ledger.LeaseID, error) {
		return s.history.LeasesOfCustomer(c.ID, after, leasesPerRead)
	}
	return s.leases(ctx, next, ledger.LeaseID(r.AfterId), limit, func(v *ledger.Lease) bool {
		return matches(r.Job, v.Job) && (r.FromUnixMs == 0 || int64(v.Opened) >= r.FromUnixMs) &&
			(r.ToUnixMs == 0 || int64(v.Opened) < r.ToUnixMs)
	})
}

// leasesPerRead bounds how many leases are looked at while commands wait.
const leasesPerRead = 8192

// leases returns the first leases that are wanted among those that next lists,
// and whether there are more. The ledger is read a part at a time.
func (s *Server) leases(ctx context.Context, next func(after ledger.LeaseID) ([]ledger.LeaseID, error),
	after ledger.LeaseID, limit int, want func(*ledger.Lease) bool) (page []ledger.Lease, more bool, err error) {
	for {
		ids, err := next(after)
		if err != nil {
			return nil, false, fmt.Errorf("list leases from the journal: %w", err)
		}
		if len(ids) == 0 {
			return page, false, nil
		}
		err = s.node.Read(ctx, func(l *ledger.Ledger) error {
			for _, id := range ids {
				v, ok := l.Lease(id)
				if !ok || !want(&v) {
					continue
				}
				if len(page) == limit {
					more = true
					return nil
				}
				page = append(page, v)
			}
			return nil
		})
		if err != nil || more {
			return page, more, err
		}
		after = ids[len(ids)-1]
	}
}

// ListLeases implements SettlementServiceHandler.
func (s *Server) ListLeases(ctx context.Context, r *joulev1.ListLeasesRequest) (*joulev1.ListLeasesResponse, error) {
	limit, err := pageSize(r.PageSize)
	if err != nil {
		return nil, err
	}
	var f leaseFilter
	err = s.node.Read(ctx, func(l *ledger.Ledger) (err error) {
		f, err = newLeaseFilter(l, r)
		return err
	})
	if err != nil {
		return nil, err
	}
	page, more, err := s.leases(ctx, f.next(s.history), ledger.LeaseID(r.AfterId), limit, f.matches)
	if err != nil {
		return nil, err
	}
	out := &joulev1.ListLeasesResponse{More: more}
	return out, s.node.Read(ctx, func(l *ledger.Ledger) error {
		for i := range page {
			out.Leases = append(out.Leases, names{l}.lease(&page[i]))
		}
		return nil
	})
}

// leaseFilter says which leases are listed; zero values filter nothing.
type leaseFilter struct {
	customer ledger.CustomerID
	supplier ledger.SupplierID
	host     ledger.HostID
	open     bool
	last     ledger.LeaseID // that there was
}

// newLeaseFilter refuses names that do not exist: an empty list would look like
// "none yet".
func newLeaseFilter(l *ledger.Ledger, r *joulev1.ListLeasesRequest) (leaseFilter, error) {
	f := leaseFilter{open: r.OpenOnly, last: l.LeaseCount()}
	if r.Customer != "" {
		c, ok := l.Customer(r.Customer)
		if !ok {
			return f, notFound("customer %q", r.Customer)
		}
		f.customer = c.ID
	}
	if r.Supplier != "" {
		s, ok := l.Supplier(r.Supplier)
		if !ok {
			return f, notFound("supplier %q", r.Supplier)
		}
		f.supplier = s.ID
	}
	if r.Host != "" {
		h, ok := l.Host(r.Host)
		if !ok {
			return f, notFound("host %q", r.Host)
		}
		f.host = h.ID
	}
	return f, nil
}

func (f *leaseFilter) matches(v *ledger.Lease) bool {
	return (f.customer == 0 || v.Customer == f.customer) && (f.supplier == 0 || v.Supplier == f.supplier) &&
		(f.host == 0 || v.Host == f.host) && (!f.open || v.Reason == ledger.CloseNone)
}

// next lists the leases by the narrowest index that there is.
func (f *leaseFilter) next(h History) func(after ledger.LeaseID) ([]ledger.LeaseID, error) {
	return func(after ledger.LeaseID) ([]ledger.LeaseID, error) {
		switch {
		case f.host != 0:
			return h.LeasesOfHost(f.host, after, leasesPerRead)
		case f.customer != 0:
			return h.LeasesOfCustomer(f.customer, after, leasesPerRead)
		case after >= f.last:
			return nil, nil
		}
		ids := make([]ledger.LeaseID, 0, min(leasesPerRead, int(f.last-after)))
		for id := after + 1; id <= f.last && len(ids) < leasesPerRead; id++ {
			ids = append(ids, id)
		}
		return ids, nil
	}
}
