package server

import (
	"context"
	"encoding/hex"
	"fmt"
	"math"
	"strings"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/bill"
	"github.com/joulecloud/joule/settlement/ledger"
)

// Page sizes of the listing calls.
const (
	pageSizeDefault = 1000
	pageSizeMax     = 10000
)

func pageSize(n uint32) (int, error) {
	switch {
	case n == 0:
		return pageSizeDefault, nil
	case n > pageSizeMax:
		return 0, invalid("page_size: at most %d, got %d", pageSizeMax, n)
	}
	return int(n), nil
}

// ListAccounts implements SettlementServiceHandler.
func (s *Server) ListAccounts(ctx context.Context, r *joulev1.ListAccountsRequest) (*joulev1.ListAccountsResponse, error) {
	out := &joulev1.ListAccountsResponse{}
	return out, s.node.Read(ctx, func(l *ledger.Ledger) error {
		for id := range l.AccountCount() {
			a, ok := l.Account(id + 1)
			if ok && strings.HasPrefix(a.Name, r.Prefix) {
				out.Accounts = append(out.Accounts, &joulev1.Account{
					Name: a.Name, Currency: joulev1.Currency(a.Currency), Balance: a.Balance})
			}
		}
		return nil
	})
}

// ListHosts implements SettlementServiceHandler.
func (s *Server) ListHosts(ctx context.Context, _ *joulev1.ListHostsRequest) (*joulev1.ListHostsResponse, error) {
	out := &joulev1.ListHostsResponse{}
	return out, s.node.Read(ctx, func(l *ledger.Ledger) error {
		for id := range l.HostCount() {
			h, ok := l.HostByID(id + 1)
			if !ok {
				continue
			}
			v := &joulev1.Host{Name: h.Name, Supplier: names{l}.supplier(h.Supplier),
				Class: className(h.Class), OpenLeases: uint32(h.OpenLeases)}
			if h.HasOffer {
				v.Offer = apiPrices(h.Offer)
			}
			v.Connected, v.LastHeardMs = s.sessions.heard(h.ID)
			out.Hosts = append(out.Hosts, v)
		}
		return nil
	})
}

// ListLeases implements SettlementServiceHandler.
func (s *Server) ListLeases(ctx context.Context, r *joulev1.ListLeasesRequest) (*joulev1.ListLeasesResponse, error) {
	limit, err := pageSize(r.PageSize)
	if err != nil {
		return nil, err
	}
	out := &joulev1.ListLeasesResponse{}
	return out, s.node.Read(ctx, func(l *ledger.Ledger) error {
		if err := checkFilters(l, r.Customer, r.Supplier, r.Host); err != nil {
			return err
		}
		if r.AfterId == math.MaxUint64 {
			return nil
		}
		for id := ledger.LeaseID(r.AfterId + 1); id <= l.LeaseCount(); id++ {
			v, ok := l.Lease(id)
			if !ok || r.OpenOnly && v.Reason != ledger.CloseNone {
				continue
			}
			lease := names{l}.lease(&v)
			if !matches(r.Customer, lease.Customer) || !matches(r.Supplier, lease.Supplier) || !matches(r.Host, lease.Host) {
				continue
			}
			if len(out.Leases) == limit {
				out.More = true
				return nil
			}
			out.Leases = append(out.Leases, lease)
		}
		return nil
	})
}

func matches(want, got string) bool { return want == "" || want == got }

// checkFilters refuses names that do not exist: an empty list would look like
// "none yet".
func checkFilters(l *ledger.Ledger, customer, supplier, host string) error {
	if _, ok := l.Customer(customer); customer != "" && !ok {
		return notFound("customer %q", customer)
	}
	if _, ok := l.Supplier(supplier); supplier != "" && !ok {
		return notFound("supplier %q", supplier)
	}
	if _, ok := l.Host(host); host != "" && !ok {
		return notFound("host %q", host)
	}
	return nil
}

// ExplainLease implements SettlementServiceHandler.
func (s *Server) ExplainLease(ctx context.Context, r *joulev1.ExplainLeaseRequest) (*joulev1.ExplainLeaseResponse, error) {
	id := ledger.LeaseID(r.LeaseId)
	out := &joulev1.ExplainLeaseResponse{}
	return out, s.node.Read(ctx, func(l *ledger.Ledger) error {
		v, ok := l.Lease(id)
		if !ok {
			return notFound("lease L%d", id)
		}
		entries, folded, err := s.fold(id)
		if err != nil {
			return err
		}
		n := names{l}
		out.Lease = n.lease(&v)
		lines := bill.Lines(folded.Opened.Prices, folded.Usage.Billed)
		for _, line := range lines {
			out.Cost = append(out.Cost, &joulev1.CostLine{
				Dimension: line.Dimension, Quantity: line.Quantity, Unit: line.Unit,
				PriceNusdPerHour: int64(line.Price), Arithmetic: line.Arithmetic, Nusd: bill.Decimal(line.NUSD)})
		}
		exact := bill.Cost(lines)
		out.ExactNusd = exact.RatString()
		out.RecomputedNusd = bill.Floor(exact).String()
		for _, c := range folded.Conversions {
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

// fold reads a lease's entries from the journal.
func (s *Server) fold(id ledger.LeaseID) ([]ledger.Entry, *bill.Lease, error) {
	entries, err := s.history.EntriesOfLease(id)
	if err != nil {
		return nil, nil, fmt.Errorf("read the journal of lease L%d: %w", id, err)
	}
	folded, err := bill.Fold(entries)
	if err != nil {
		return nil, nil, fmt.Errorf("fold the journal of lease L%d: %w", id, err)
	}
	if folded.Opened == nil {
		return nil, nil, fmt.Errorf("the journal has no opening of lease L%d", id)
	}
	return entries, folded, nil
}

// GetBill implements SettlementServiceHandler. Every amount comes from the
// journal; the proof says what it was checked against.
func (s *Server) GetBill(ctx context.Context, r *joulev1.GetBillRequest) (*joulev1.GetBillResponse, error) {
	out := &joulev1.GetBillResponse{Customer: r.Customer, Proof: &joulev1.GetBillResponse_Proof{}}
	return out, s.node.ReadDigest(ctx, func(l *ledger.Ledger, digest ledger.Digest) error {
		c, ok := l.Customer(r.Customer)
		if !ok {
			return notFound("customer %q", r.Customer)
		}
		sums := map[string]*joulev1.SupplierSum{}
		for id := ledger.LeaseID(1); id <= l.LeaseCount(); id++ {
			v, ok := l.Lease(id)
			if !ok || v.Customer != c.ID || !matches(r.Job, v.Job) ||
				r.FromUnixMs != 0 && int64(v.Opened) < r.FromUnixMs || r.ToUnixMs != 0 && int64(v.Opened) >= r.ToUnixMs {
				continue
			}
			lease, recomputed, err := s.billLease(l, &v)
			if err != nil {
				return err
			}
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
		out.Proof.UsdSum, out.Proof.JouleSum = l.Sums()
		out.Proof.Digest, out.Proof.Entries = hex.EncodeToString(digest[:]), l.EntryCount()
		return nil
	})
}

// billLease is a lease whose usage, charge and pay are read from the journal,
// and its cost computed apart from the ledger.
func (s *Server) billLease(l *ledger.Ledger, v *ledger.Lease) (*joulev1.Lease, int64, error) {
	_, folded, err := s.fold(v.ID)
	if err != nil {
		return nil, 0, err
	}
	lease := names{l}.lease(v)
	lease.Billed = apiTotals(folded.Usage.Billed)
	lease.PaidNj, lease.FeeNj = int64(folded.PaidNJ), int64(folded.FeeNJ)
	lease.UnconvertedNusd = int64(folded.Accrued)
	if folded.Opened.PayIn == ledger.USD {
		lease.ChargedNusd = folded.Charged
	}
	cost := bill.Floor(bill.Cost(bill.Lines(folded.Opened.Prices, folded.Usage.Billed)))
	if !cost.IsInt64() {
		return nil, 0, fmt.Errorf("lease L%d: its cost %s nUSD is beyond int64", v.ID, cost)
	}
	return lease, cost.Int64(), nil
}

// GetStatement implements SettlementServiceHandler.
func (s *Server) GetStatement(ctx context.Context, r *joulev1.GetStatementRequest) (*joulev1.GetStatementResponse, error) {
	limit, err := pageSize(r.PageSize)
	if err != nil {
		return nil, err
	}
	out := &joulev1.GetStatementResponse{}
	return out, s.node.Read(ctx, func(l *ledger.Ledger) error {
		a, ok := l.AccountByName(r.Account, ledger.Currency(r.Currency))
		if !ok {
			return notFound("account %q in %s", r.Account, currencyName(ledger.Currency(r.Currency)))
		}
		out.Balance = a.Balance
		entries, err := s.history.EntriesOfAccount(a.ID, r.AfterSeq, limit+1)
		if err != nil {
			return fmt.Errorf("read the journal of account %q: %w", r.Account, err)
		}
		if len(entries) > limit {
			entries, out.More = entries[:limit], true
		}
		for i := range entries {
			out.Entries = append(out.Entries, names{l}.entry(&entries[i]))
		}
		return nil
	})
}

// GetStatus implements SettlementServiceHandler. It answers on any server.
func (s *Server) GetStatus(ctx context.Context, _ *joulev1.GetStatusRequest) (*joulev1.GetStatusResponse, error) {
	st := s.node.Status()
	return &joulev1.GetStatusResponse{
		Server: s.cfg.Name, Version: s.cfg.Version, Leader: st.Leader, LeaderAddress: st.LeaderAddr,
		AppliedIndex: st.AppliedIndex, Entries: st.Entries, Digest: hex.EncodeToString(st.Digest[:]),
		LedgerUnixMs: int64(st.LedgerTime), RateNusdPerJoule: int64(st.Rate.NUSDPerJoule), RateId: uint32(st.Rate.ID),
		FeePpm: st.Policy.FeePPM, SliceMs: st.Policy.SliceMs, UsdSum: st.USDSum, JouleSum: st.JouleSum,
		Sessions: uint32(s.sessions.count()),
	}, nil
}
