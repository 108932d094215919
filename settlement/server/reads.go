package server

import (
	"context"
	"encoding/hex"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
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

// ListHosts implements SettlementServiceHandler.
func (s *Server) ListHosts(ctx context.Context, r *joulev1.ListHostsRequest) (*joulev1.ListHostsResponse, error) {
	var of ledger.SupplierID
	page, more, err := list(ctx, s, r.AfterId, r.PageSize, func(l *ledger.Ledger) (uint32, error) {
		if r.Supplier != "" {
			sup, ok := l.Supplier(r.Supplier)
			if !ok {
				return 0, notFound("supplier %q", r.Supplier)
			}
			of = sup.ID
		}
		return uint32(l.HostCount()), nil
	}, func(n names, id uint32) *joulev1.Host {
		h, ok := n.l.HostByID(ledger.HostID(id))
		if !ok || of != 0 && h.Supplier != of {
			return nil
		}
		v := &joulev1.Host{Id: id, Name: h.Name, Supplier: n.supplier(h.Supplier), Class: className(h.Class), OpenLeases: h.OpenLeases, Retired: h.Retired}
		if h.HasOffer {
			v.Offer = apiPrices(h.Offer)
		}
		v.Connected, v.LastHeardMs = s.sessions.heard(h.ID)
		return v
	})
	return &joulev1.ListHostsResponse{Hosts: page, More: more}, err
}

func matches(want, got string) bool { return want == "" || want == got }

// GetStatus implements SettlementServiceHandler. It answers on any server.
func (s *Server) GetStatus(ctx context.Context, _ *joulev1.GetStatusRequest) (*joulev1.GetStatusResponse, error) {
	st := s.node.Status()
	usd, joule := s.node.Sums()
	return &joulev1.GetStatusResponse{
		Server: s.cfg.Name, Version: s.cfg.Version, Leader: st.Leader, LeaderAddress: st.LeaderAddr,
		AppliedIndex: st.AppliedIndex, Entries: st.Entries, Digest: hex.EncodeToString(st.Digest[:]),
		LedgerUnixMs: int64(st.LedgerTime), RateNusdPerJoule: int64(st.Rate.NUSDPerJoule), RateId: uint32(st.Rate.ID),
		FeePpm: st.Policy.FeePPM, SliceMs: st.Policy.SliceMs, UsdSum: usd, JouleSum: joule,
		Sessions: uint32(s.sessions.count()),
	}, nil
}
