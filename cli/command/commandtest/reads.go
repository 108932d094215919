package commandtest

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

// start is when the first lease opened: 2026-11-01T12:00:00Z.
const start = 1_793_534_400_000

// Digest is the digest that the server claims.
const Digest = "5f2d1e0c9b8a79685746352413021f0e5f2d1e0c9b8a79685746352413021f0e"

func cannedLeases() []*joulev1.Lease {
	return []*joulev1.Lease{
		{Id: 1, Customer: "acme", Supplier: "home-lab", Host: "crowd-1", Class: "crowd", Job: "two-suppliers", Group: "crowd",
			Task: "work", AllocId: "11111111-0000-0000-0000-000000000000", Invocation: "a1", State: "closed", Reason: "finished",
			OpenedUnixMs: start, ClosedUnixMs: start + 2_400, LastSeq: 2, FeePpm: 20_000, RateId: 1, RateNusdPerJoule: 50_000_000, PayIn: usd,
			Prices:    &joulev1.Prices{BaseNusdPerHour: 360_000_000, CpuNusdPerHour: 40_000_000},
			Resources: &joulev1.Resources{MilliCores: 100, MemoryMib: 64},
			Billed:    &joulev1.Totals{WallMs: 2320, CpuMs: 3, MemoryMibMs: 148_480}, Refused: &joulev1.Totals{},
			ChargedNusd: 232_033, PaidNj: 4_547_847, FeeNj: 92_813},
		{Id: 2, Customer: "acme", Supplier: "west-dc", Host: "dc-1", Class: "datacenter", Job: "two-suppliers", Group: "datacenter",
			Task: "work", AllocId: "22222222-0000-0000-0000-000000000000", Invocation: "b1", State: "closed", Reason: "finished",
			OpenedUnixMs: start + 10, ClosedUnixMs: start + 4_300, LastSeq: 4, FeePpm: 20_000, RateId: 1, RateNusdPerJoule: 50_000_000, PayIn: usd,
			Prices:    &joulev1.Prices{BaseNusdPerHour: 900_000_000, CpuNusdPerHour: 90_000_000, MemoryNusdPerHour: 10_000_000},
			Resources: &joulev1.Resources{MilliCores: 1500, MemoryMib: 64, Gpus: 1},
			Billed:    &joulev1.Totals{WallMs: 4190, CpuMs: 4, GpuMs: 4190, MemoryMibMs: 268_160}, Refused: &joulev1.Totals{},
			Quality:     []string{"start unstamped"},
			ChargedNusd: 1_048_327, PaidNj: 20_547_209, FeeNj: 419_330},
		{Id: 3, Customer: "acme", Supplier: "west-dc", Host: "dc-1", Class: "datacenter", Job: "evil\x1b[2J\njob", Group: "g",
			Task: "t", AllocId: "33333333-0000-0000-0000-000000000000", Invocation: "c1", State: "open",
			OpenedUnixMs: start + 5_000, LastSeq: 1, FeePpm: 20_000, PayIn: usd, BudgetNusd: 25_000_000_000,
			Prices:    &joulev1.Prices{BaseNusdPerHour: 900_000_000},
			Resources: &joulev1.Resources{MilliCores: 100, MemoryMib: 64},
			Billed:    &joulev1.Totals{WallMs: 2000}, Refused: &joulev1.Totals{CpuMs: 7}, Bounds: []string{"cores"},
			Hold: 15_000_000, ChargedNusd: 500_000, UnconvertedNusd: 500_000},
	}
}

// ListAccounts implements the API.
func (s *Server) ListAccounts(ctx context.Context, req *joulev1.ListAccountsRequest) (*joulev1.ListAccountsResponse, error) {
	defer s.mu.Unlock()
	if err := s.enter(ctx, "ListAccounts", req); err != nil {
		return nil, err
	}
	out := &joulev1.ListAccountsResponse{}
	for i, a := range s.accounts {
		if !strings.HasPrefix(a.Name, req.Prefix) || req.Name != "" && !owns(req.Name, a.Name) || i < int(req.AfterId) {
			continue
		}
		if len(out.Accounts) == accountsPage {
			out.More = true
			break
		}
		a := proto.CloneOf(a)
		a.Id = uint32(i + 1)
		if req.AtUnixMs != 0 {
			a.Balance /= 2
		}
		out.Accounts = append(out.Accounts, a)
	}
	if req.Name != "" && len(out.Accounts) == 0 {
		return nil, notFound("account", req.Name)
	}
	return proto.CloneOf(out), nil
}

// accountsPage is how many accounts the server gives at once.
const accountsPage = 5

// owns reports whether name is the account's, or its owner's.
func owns(name, account string) bool {
	_, owner, _ := strings.Cut(account, "/")
	return account == name || owner == name
}

// ListHosts implements the API.
func (s *Server) ListHosts(ctx context.Context, req *joulev1.ListHostsRequest) (*joulev1.ListHostsResponse, error) {
	defer s.mu.Unlock()
	if err := s.enter(ctx, "ListHosts", req); err != nil {
		return nil, err
	}
	return proto.CloneOf(&joulev1.ListHostsResponse{Hosts: s.hosts}), nil
}

// ListLeases implements the API.
func (s *Server) ListLeases(ctx context.Context, req *joulev1.ListLeasesRequest) (*joulev1.ListLeasesResponse, error) {
	defer s.mu.Unlock()
	if err := s.enter(ctx, "ListLeases", req); err != nil {
		return nil, err
	}
	if req.Customer != "" && !s.known("customer/"+req.Customer) {
		return nil, notFound("customer", req.Customer)
	}
	out := &joulev1.ListLeasesResponse{}
	for _, l := range s.leases {
		switch {
		case req.Customer != "" && l.Customer != req.Customer, req.Supplier != "" && l.Supplier != req.Supplier,
			req.Host != "" && l.Host != req.Host, req.OpenOnly && l.State != "open", l.Id <= req.AfterId:
		case req.PageSize > 0 && len(out.Leases) == int(req.PageSize):
			out.More = true
		default:
			out.Leases = append(out.Leases, l)
		}
	}
	return proto.CloneOf(out), nil
}

// ExplainLease implements the API.
func (s *Server) ExplainLease(ctx context.Context, req *joulev1.ExplainLeaseRequest) (*joulev1.ExplainLeaseResponse, error) {
	defer s.mu.Unlock()
	if err := s.enter(ctx, "ExplainLease", req); err != nil {
		return nil, err
	}
	at := slices.IndexFunc(s.leases, func(l *joulev1.Lease) bool { return l.Id == req.LeaseId })
	if at < 0 {
		return nil, notFound("lease", fmt.Sprint(req.LeaseId))
	}
	out := &joulev1.ExplainLeaseResponse{Lease: s.leases[at], ExactNusd: "500000", RecomputedNusd: "500000"} // lease 2: less than charged
	if req.LeaseId != 1 {
		return proto.CloneOf(out), nil
	}
	out.ExactNusd, out.RecomputedNusd = "696100/3", "232033"
	out.Cost = []*joulev1.CostLine{
		{Dimension: "base", Quantity: 2320, Unit: "ms", PriceNusdPerHour: 360_000_000, Nusd: "232000",
			Arithmetic: "2320 ms × 360000000 nUSD/h ÷ 3600000 ms/h = 232000 nUSD"},
		{Dimension: "cpu", Quantity: 3, Unit: "ms", PriceNusdPerHour: 40_000_000, Nusd: "100/3",
			Arithmetic: "3 ms × 40000000 nUSD/h ÷ 3600000 ms/h = 100/3 nUSD"},
	}
	out.Conversions = []*joulev1.Conversion{{RateId: 1, RateNusdPerJoule: 50_000_000, ChargedNusd: 232_033, PaidNj: 4_547_847, FeeNj: 92_813,
		Arithmetic: "232033 nUSD ÷ 50000000 nUSD/JOULE = 4640660 nJ, less 2% = 4547847 nJ"}}
	out.Entries = s.entries()
	return proto.CloneOf(out), nil
}

func (s *Server) entries() []*joulev1.JournalEntry {
	return []*joulev1.JournalEntry{
		{Seq: 20, UnixMs: start, Kind: "lease_opened", LeaseId: 1, Text: "lease 1 opened on crowd-1 for acme"},
		{Seq: 21, UnixMs: start, Kind: "transfer", Debit: "customer/acme", Credit: "hold/acme", Currency: usd, Amount: 6_070_000, Reason: "hold", LeaseId: 1},
		{Seq: 30, UnixMs: start + 2_400, Kind: "transfer", Debit: "hold/acme", Credit: "treasury", Currency: usd, Amount: 232_033, Reason: "charge", LeaseId: 1, RateId: 1},
		{Seq: 31, UnixMs: start + 2_400, Kind: "transfer", Debit: "treasury", Credit: "supplier/home-lab", Currency: joule, Amount: 4_547_847, Reason: "pay", LeaseId: 1, RateId: 1},
		{Seq: 33, UnixMs: start + 2_400, Kind: "transfer", Debit: "hold/acme", Credit: "customer/acme", Currency: usd, Amount: 5_837_967, Reason: "release", LeaseId: 1},
		{Seq: 34, UnixMs: start + 2_400, Kind: "lease_closed", LeaseId: 1, Text: "lease 1 closed: finished"},
	}
}

// GetBill implements the API. The job "cooked" has a bill that does not add up,
// the job "poor" one that funds did not cover.
func (s *Server) GetBill(ctx context.Context, req *joulev1.GetBillRequest) (*joulev1.GetBillResponse, error) {
	defer s.mu.Unlock()
	if err := s.enter(ctx, "GetBill", req); err != nil {
		return nil, err
	}
	if !s.known("customer/" + req.Customer) {
		return nil, notFound("customer", req.Customer)
	}
	out := &joulev1.GetBillResponse{Customer: req.Customer,
		Proof: &joulev1.GetBillResponse_Proof{Digest: Digest, Entries: 42}}
	sums := map[string]*joulev1.SupplierSum{}
	for _, l := range s.leases {
		if l.Customer != req.Customer || req.Job == "two-suppliers" && l.Job != req.Job ||
			l.OpenedUnixMs < req.FromUnixMs || req.ToUnixMs != 0 && l.OpenedUnixMs >= req.ToUnixMs {
			continue
		}
		out.Leases = append(out.Leases, l)
		sum := sums[l.Supplier]
		if sum == nil {
			sum = &joulev1.SupplierSum{Supplier: l.Supplier}
			sums[l.Supplier] = sum
			out.Suppliers = append(out.Suppliers, sum)
		}
		sum.Leases++
		sum.WallMs += l.Billed.WallMs
		sum.CpuMs += l.Billed.CpuMs
		sum.ChargedNusd += l.ChargedNusd
		sum.PaidNj += l.PaidNj
		sum.FeeNj += l.FeeNj
		out.ChargedNusd += l.ChargedNusd
		out.PaidNj += l.PaidNj
		out.FeeNj += l.FeeNj
	}
	out.Proof.RecomputedNusd = out.ChargedNusd
	switch req.Job {
	case "cooked":
		out.Proof.RecomputedNusd--
		out.Proof.UsdSum = 1
	case "poor":
		out.Proof.RecomputedNusd += 1000
	}
	return proto.CloneOf(out), nil
}

// GetStatement implements the API.
func (s *Server) GetStatement(ctx context.Context, req *joulev1.GetStatementRequest) (*joulev1.GetStatementResponse, error) {
	defer s.mu.Unlock()
	if err := s.enter(ctx, "GetStatement", req); err != nil {
		return nil, err
	}
	out := &joulev1.GetStatementResponse{}
	for _, a := range s.accounts {
		if owns(req.Account, a.Name) && (req.Currency == 0 || req.Currency == a.Currency) {
			out.Accounts = append(out.Accounts, &joulev1.StatementAccount{Name: a.Name, Currency: a.Currency,
				Opening: a.Balance, Closing: a.Balance, Balance: a.Balance})
		}
	}
	if len(out.Accounts) == 0 {
		return nil, notFound("account", req.Account)
	}
	if out.Accounts[0].Name == "customer/acme" && req.AfterSeq < 8 && req.FromUnixMs == 0 {
		out.Entries = append(out.Entries, &joulev1.JournalEntry{Seq: 8, UnixMs: start - 1000, Kind: "account", Text: "account customer/acme opened"})
	}
	for _, e := range s.entries() {
		if e.Seq <= req.AfterSeq || req.ToUnixMs != 0 && e.UnixMs >= req.ToUnixMs || req.FromUnixMs != 0 && e.UnixMs < req.FromUnixMs {
			continue
		}
		full := len(out.Entries) == int(req.PageSize)
		ours := false
		for _, a := range out.Accounts {
			if a.Currency != e.Currency || e.Debit != a.Name && e.Credit != a.Name {
				continue
			}
			ours = true
			n := e.Amount
			if e.Debit == a.Name {
				n = -n
			}
			a.Opening -= n
			if full {
				a.Closing -= n
			}
		}
		switch {
		case ours && full:
			out.More = true
		case ours:
			out.Entries = append(out.Entries, e)
		}
	}
	return proto.CloneOf(out), nil
}

// GetStatus implements the API.
func (s *Server) GetStatus(ctx context.Context, req *joulev1.GetStatusRequest) (*joulev1.GetStatusResponse, error) {
	defer s.mu.Unlock()
	if err := s.enter(ctx, "GetStatus", req); err != nil {
		return nil, err
	}
	out := &joulev1.GetStatusResponse{Server: "s1", Version: "devel", Leader: true, LeaderAddress: "127.0.0.1:7434",
		AppliedIndex: 57, Entries: 42, Digest: Digest, LedgerUnixMs: start + 9_000, FeePpm: s.fee, SliceMs: s.slice, Sessions: 2}
	if s.rate != 0 {
		out.RateNusdPerJoule, out.RateId = s.rate, s.rates
	}
	return proto.CloneOf(out), nil
}

// ForgetRate makes the server one where no rate was ever set.
func (s *Server) ForgetRate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rate, s.rates = 0, 0
}
