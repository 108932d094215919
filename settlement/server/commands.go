package server

import (
	"context"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/ledger"
)

// submit runs one command of a person or program.
func (s *Server) submit(ctx context.Context, key string, cmd ledger.Command) (ledger.Result, error) {
	res, err := s.node.Submit(ctx, ledger.Envelope{Key: key, Command: cmd})
	if err != nil {
		return res, err
	}
	return res, res.Err()
}

// CreateCustomer implements SettlementServiceHandler.
func (s *Server) CreateCustomer(ctx context.Context, r *joulev1.CreateCustomerRequest) (*joulev1.CreateCustomerResponse, error) {
	payIn := ledger.USD
	if r.PayIn != joulev1.Currency_CURRENCY_UNSPECIFIED {
		var err error
		if payIn, err = ledgerCurrency("pay_in", r.PayIn); err != nil {
			return nil, err
		}
	}
	res, err := s.submit(ctx, r.Key, &ledger.CreateCustomer{Name: r.Name, Namespace: r.Namespace, PayIn: payIn})
	if err != nil {
		return nil, err
	}
	return &joulev1.CreateCustomerResponse{CustomerId: uint32(res.ID)}, nil
}

// CreateSupplier implements SettlementServiceHandler.
func (s *Server) CreateSupplier(ctx context.Context, r *joulev1.CreateSupplierRequest) (*joulev1.CreateSupplierResponse, error) {
	res, err := s.submit(ctx, r.Key, &ledger.CreateSupplier{Name: r.Name})
	if err != nil {
		return nil, err
	}
	return &joulev1.CreateSupplierResponse{SupplierId: uint32(res.ID)}, nil
}

// EnrollHost implements SettlementServiceHandler.
func (s *Server) EnrollHost(ctx context.Context, r *joulev1.EnrollHostRequest) (*joulev1.EnrollHostResponse, error) {
	class, err := parseClass(r.Class)
	if err != nil {
		return nil, err
	}
	cmd := &ledger.EnrollHost{Name: r.Name, Supplier: r.Supplier, Class: class}
	if len(r.PublicKey) != len(cmd.PublicKey) {
		return nil, invalid("public_key: want %d bytes (Ed25519), got %d", len(cmd.PublicKey), len(r.PublicKey))
	}
	copy(cmd.PublicKey[:], r.PublicKey)
	res, err := s.submit(ctx, r.Key, cmd)
	if err != nil {
		return nil, err
	}
	return &joulev1.EnrollHostResponse{HostId: uint32(res.ID)}, nil
}

// SetOffer implements SettlementServiceHandler.
func (s *Server) SetOffer(ctx context.Context, r *joulev1.SetOfferRequest) (*joulev1.SetOfferResponse, error) {
	if r.Prices == nil {
		return nil, invalid("prices: required")
	}
	_, err := s.submit(ctx, r.Key, &ledger.SetOffer{Host: r.Host, Prices: ledgerPrices(r.Prices)})
	if err != nil {
		return nil, err
	}
	return &joulev1.SetOfferResponse{}, nil
}

// SetRate implements SettlementServiceHandler.
func (s *Server) SetRate(ctx context.Context, r *joulev1.SetRateRequest) (*joulev1.SetRateResponse, error) {
	res, err := s.submit(ctx, r.Key, &ledger.SetRate{NUSDPerJoule: ledger.NUSD(r.NusdPerJoule)})
	if err != nil {
		return nil, err
	}
	return &joulev1.SetRateResponse{RateId: uint32(res.ID)}, nil
}

// SetPolicy implements SettlementServiceHandler.
func (s *Server) SetPolicy(ctx context.Context, r *joulev1.SetPolicyRequest) (*joulev1.SetPolicyResponse, error) {
	_, err := s.submit(ctx, r.Key, &ledger.SetPolicy{FeePPM: r.FeePpm, SliceMs: r.SliceMs})
	if err != nil {
		return nil, err
	}
	return &joulev1.SetPolicyResponse{}, nil
}

// Deposit implements SettlementServiceHandler.
func (s *Server) Deposit(ctx context.Context, r *joulev1.DepositRequest) (*joulev1.DepositResponse, error) {
	cur, err := ledgerCurrency("currency", r.Currency)
	if err != nil {
		return nil, err
	}
	if _, err := s.submit(ctx, r.Key, &ledger.Deposit{Customer: r.Customer, Currency: cur, Amount: r.Amount, Ref: r.Ref}); err != nil {
		return nil, err
	}
	balance, err := s.balance(ctx, "customer/"+r.Customer, cur)
	return &joulev1.DepositResponse{Balance: balance}, err
}

// Mint implements SettlementServiceHandler.
func (s *Server) Mint(ctx context.Context, r *joulev1.MintRequest) (*joulev1.MintResponse, error) {
	if _, err := s.submit(ctx, r.Key, &ledger.Mint{Amount: ledger.NJ(r.AmountNj), Ref: r.Ref}); err != nil {
		return nil, err
	}
	balance, err := s.balance(ctx, "treasury", ledger.JOULE)
	return &joulev1.MintResponse{TreasuryNj: balance}, err
}

// Withdraw implements SettlementServiceHandler.
func (s *Server) Withdraw(ctx context.Context, r *joulev1.WithdrawRequest) (*joulev1.WithdrawResponse, error) {
	cur, err := ledgerCurrency("currency", r.Currency)
	if err != nil {
		return nil, err
	}
	party, err := ledgerParty("party", r.Party)
	if err != nil {
		return nil, err
	}
	cmd := &ledger.Withdraw{Party: party, Name: r.Name, Currency: cur, Amount: r.Amount, Ref: r.Ref}
	if _, err := s.submit(ctx, r.Key, cmd); err != nil {
		return nil, err
	}
	account := "treasury"
	switch cmd.Party {
	case ledger.PartyCustomer:
		account = "customer/" + r.Name
	case ledger.PartySupplier:
		account = "supplier/" + r.Name
	}
	balance, err := s.balance(ctx, account, cur)
	return &joulev1.WithdrawResponse{Balance: balance}, err
}

// TopUpLease implements SettlementServiceHandler.
func (s *Server) TopUpLease(ctx context.Context, r *joulev1.TopUpLeaseRequest) (*joulev1.TopUpLeaseResponse, error) {
	res, err := s.submit(ctx, r.Key, &ledger.TopUpLease{Lease: ledger.LeaseID(r.LeaseId), Slices: r.Slices})
	if err != nil {
		return nil, err
	}
	out := &joulev1.TopUpLeaseResponse{}
	if res.Lease != nil {
		out.Hold = res.Lease.Hold
	}
	return out, nil
}

// CloseLease implements SettlementServiceHandler. The host is told to stop the
// task at once when it has a session here, else at its next heartbeat.
func (s *Server) CloseLease(ctx context.Context, r *joulev1.CloseLeaseRequest) (*joulev1.CloseLeaseResponse, error) {
	lease := ledger.LeaseID(r.LeaseId)
	if _, err := s.submit(ctx, r.Key, &ledger.CloseLease{Lease: lease, Reason: ledger.CloseOperator}); err != nil {
		return nil, err
	}
	var host ledger.HostID
	err := s.node.Read(ctx, func(l *ledger.Ledger) error {
		if v, ok := l.Lease(lease); ok {
			host = v.Host
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.sessions.command(host, &joulev1.LeaseCommand{LeaseId: r.LeaseId, Stop: joulev1.StopReason_STOP_REASON_OPERATOR})
	return &joulev1.CloseLeaseResponse{}, nil
}

func (s *Server) balance(ctx context.Context, account string, cur ledger.Currency) (int64, error) {
	var balance int64
	err := s.node.Read(ctx, func(l *ledger.Ledger) error {
		a, ok := l.AccountByName(account, cur)
		if !ok {
			return notFound("account %q in %s", account, currencyName(cur))
		}
		balance = a.Balance
		return nil
	})
	return balance, err
}
