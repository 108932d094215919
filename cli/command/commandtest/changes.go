package commandtest

import (
	"context"
	"fmt"
	"slices"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

// CreateCustomer implements the API.
func (s *Server) CreateCustomer(ctx context.Context, req *joulev1.CreateCustomerRequest) (*joulev1.CreateCustomerResponse, error) {
	defer s.mu.Unlock()
	if err := s.enter(ctx, "CreateCustomer", req); err != nil {
		return nil, err
	}
	if !s.again(req) {
		if s.known("customer/" + req.Name) {
			return nil, refuse(joulev1.ErrorReason_ERROR_REASON_EXISTS, fmt.Sprintf("customer %q exists", req.Name))
		}
		s.accounts = append(s.accounts, &joulev1.Account{Name: "customer/" + req.Name, Currency: req.PayIn})
	}
	return &joulev1.CreateCustomerResponse{CustomerId: 3}, nil
}

// CreateSupplier implements the API.
func (s *Server) CreateSupplier(ctx context.Context, req *joulev1.CreateSupplierRequest) (*joulev1.CreateSupplierResponse, error) {
	defer s.mu.Unlock()
	if err := s.enter(ctx, "CreateSupplier", req); err != nil {
		return nil, err
	}
	if !s.again(req) {
		if s.known("supplier/" + req.Name) {
			return nil, refuse(joulev1.ErrorReason_ERROR_REASON_EXISTS, fmt.Sprintf("supplier %q exists", req.Name))
		}
		s.accounts = append(s.accounts, &joulev1.Account{Name: "supplier/" + req.Name, Currency: joule})
	}
	return &joulev1.CreateSupplierResponse{SupplierId: 3}, nil
}

// EnrollHost implements the API.
func (s *Server) EnrollHost(ctx context.Context, req *joulev1.EnrollHostRequest) (*joulev1.EnrollHostResponse, error) {
	defer s.mu.Unlock()
	if err := s.enter(ctx, "EnrollHost", req); err != nil {
		return nil, err
	}
	if !s.known("supplier/" + req.Supplier) {
		return nil, notFound("supplier", req.Supplier)
	}
	if !s.again(req) {
		s.hosts = append(s.hosts, &joulev1.Host{Name: req.Name, Supplier: req.Supplier, Class: req.Class})
	}
	return &joulev1.EnrollHostResponse{HostId: uint32(len(s.hosts))}, nil
}

// SetOffer implements the API.
func (s *Server) SetOffer(ctx context.Context, req *joulev1.SetOfferRequest) (*joulev1.SetOfferResponse, error) {
	defer s.mu.Unlock()
	if err := s.enter(ctx, "SetOffer", req); err != nil {
		return nil, err
	}
	at := slices.IndexFunc(s.hosts, func(h *joulev1.Host) bool { return h.Name == req.Host })
	if at < 0 {
		return nil, notFound("host", req.Host)
	}
	const priceMax = 1_000_000 * 1_000_000_000
	if n := req.GetPrices().GetGpuNusdPerHour(); n > priceMax {
		return nil, refuse(joulev1.ErrorReason_ERROR_REASON_INVALID, fmt.Sprintf("prices.gpu: at most %d, got %d", priceMax, n))
	}
	if !s.again(req) {
		s.hosts[at].Offer = req.Prices
	}
	return &joulev1.SetOfferResponse{}, nil
}

// SetRate implements the API.
func (s *Server) SetRate(ctx context.Context, req *joulev1.SetRateRequest) (*joulev1.SetRateResponse, error) {
	defer s.mu.Unlock()
	if err := s.enter(ctx, "SetRate", req); err != nil {
		return nil, err
	}
	if !s.again(req) {
		s.rate = req.NusdPerJoule
		s.rates++
	}
	return &joulev1.SetRateResponse{RateId: s.rates}, nil
}

// SetPolicy implements the API.
func (s *Server) SetPolicy(ctx context.Context, req *joulev1.SetPolicyRequest) (*joulev1.SetPolicyResponse, error) {
	defer s.mu.Unlock()
	if err := s.enter(ctx, "SetPolicy", req); err != nil {
		return nil, err
	}
	const feeMax = 500_000
	if req.FeePpm > feeMax {
		return nil, refuse(joulev1.ErrorReason_ERROR_REASON_INVALID, fmt.Sprintf("fee_ppm: at most %d, got %d", feeMax, req.FeePpm))
	}
	if !s.again(req) {
		s.fee, s.slice = req.FeePpm, req.SliceMs
	}
	return &joulev1.SetPolicyResponse{}, nil
}

// Deposit implements the API.
func (s *Server) Deposit(ctx context.Context, req *joulev1.DepositRequest) (*joulev1.DepositResponse, error) {
	defer s.mu.Unlock()
	if err := s.enter(ctx, "Deposit", req); err != nil {
		return nil, err
	}
	if !s.known("customer/" + req.Customer) {
		return nil, notFound("customer", req.Customer)
	}
	a := s.account("customer/"+req.Customer, req.Currency)
	if a == nil {
		a = &joulev1.Account{Name: "customer/" + req.Customer, Currency: req.Currency}
		s.accounts = append(s.accounts, a)
	}
	if !s.again(req) {
		a.Balance += req.Amount
	}
	return &joulev1.DepositResponse{Balance: a.Balance}, nil
}

// Mint implements the API.
func (s *Server) Mint(ctx context.Context, req *joulev1.MintRequest) (*joulev1.MintResponse, error) {
	defer s.mu.Unlock()
	if err := s.enter(ctx, "Mint", req); err != nil {
		return nil, err
	}
	const supplyMax = 9_000_000_000 * 1_000_000_000
	a := s.account("treasury", joule)
	if supply := -s.account("issuance", joule).Balance; req.AmountNj > supplyMax-supply {
		return nil, refuse(joulev1.ErrorReason_ERROR_REASON_INSUFFICIENT,
			fmt.Sprintf("amount: %d nJ would exceed the supply cap of %d nJ", req.AmountNj, int64(supplyMax)))
	}
	if !s.again(req) {
		a.Balance += req.AmountNj
	}
	return &joulev1.MintResponse{TreasuryNj: a.Balance}, nil
}

// Withdraw implements the API.
func (s *Server) Withdraw(ctx context.Context, req *joulev1.WithdrawRequest) (*joulev1.WithdrawResponse, error) {
	defer s.mu.Unlock()
	if err := s.enter(ctx, "Withdraw", req); err != nil {
		return nil, err
	}
	name := "treasury"
	switch req.Party {
	case joulev1.Party_PARTY_CUSTOMER:
		name = "customer/" + req.Name
	case joulev1.Party_PARTY_SUPPLIER:
		name = "supplier/" + req.Name
	}
	a := s.account(name, req.Currency)
	if a == nil {
		return nil, notFound("account", name)
	}
	if a.Balance < req.Amount {
		return nil, refuse(joulev1.ErrorReason_ERROR_REASON_INSUFFICIENT,
			fmt.Sprintf("amount: %d is more than the balance %d", req.Amount, a.Balance))
	}
	if !s.again(req) {
		a.Balance -= req.Amount
	}
	return &joulev1.WithdrawResponse{Balance: a.Balance}, nil
}

// TopUpLease implements the API.
func (s *Server) TopUpLease(ctx context.Context, req *joulev1.TopUpLeaseRequest) (*joulev1.TopUpLeaseResponse, error) {
	defer s.mu.Unlock()
	if err := s.enter(ctx, "TopUpLease", req); err != nil {
		return nil, err
	}
	l, err := s.openLease(req.LeaseId)
	if err != nil {
		return nil, err
	}
	if req.Slices > 1000 {
		return nil, refuse(joulev1.ErrorReason_ERROR_REASON_INSUFFICIENT, `customer "acme" lacks 12.50 USD`)
	}
	if !s.again(req) {
		l.Hold += int64(req.Slices) * 15_000_000
	}
	return &joulev1.TopUpLeaseResponse{Hold: l.Hold}, nil
}

// CloseLease implements the API.
func (s *Server) CloseLease(ctx context.Context, req *joulev1.CloseLeaseRequest) (*joulev1.CloseLeaseResponse, error) {
	defer s.mu.Unlock()
	if err := s.enter(ctx, "CloseLease", req); err != nil {
		return nil, err
	}
	if s.done[req.Key] != nil {
		return &joulev1.CloseLeaseResponse{}, nil
	}
	l, err := s.openLease(req.LeaseId)
	if err != nil {
		return nil, err
	}
	s.again(req)
	l.State, l.Reason, l.ClosedUnixMs, l.Hold = "closed", "operator", start+60_000, 0
	return &joulev1.CloseLeaseResponse{}, nil
}

func (s *Server) openLease(id uint64) (*joulev1.Lease, error) {
	at := slices.IndexFunc(s.leases, func(l *joulev1.Lease) bool { return l.Id == id })
	if at < 0 {
		return nil, notFound("lease", fmt.Sprint(id))
	}
	if s.leases[at].State != "open" {
		return nil, refuse(joulev1.ErrorReason_ERROR_REASON_CLOSED, fmt.Sprintf("lease %d is closed", id))
	}
	return s.leases[at], nil
}
