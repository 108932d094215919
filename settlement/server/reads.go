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

func matches(want, got string) bool { return want == "" || want == got }

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
