package cluster

import (
	"context"
	"sync"
	"time"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

// HeardMax is how many hosts may be asked about at once.
const HeardMax = 1000

// Witness makes heard what this server knows of hosts: for how long one has not
// been heard here, or this server runs, where that is less.
func (a *Agent) Witness(heard func(host uint32) time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heard = heard
}

func (a *Agent) heardHere(hosts []uint32) []time.Duration {
	a.mu.Lock()
	heard := a.heard
	a.mu.Unlock()
	if heard == nil {
		return nil
	}
	out := make([]time.Duration, len(hosts))
	for i, h := range hosts {
		out[i] = heard(h)
	}
	return out
}

// Heard asks every server with a vote for how long it has not heard hosts, at
// most HeardMax of them. It returns the answers that came, each in the order of
// hosts, and how many servers have a vote.
func (a *Agent) Heard(ctx context.Context, hosts []uint32) (answers [][]time.Duration, voters int) {
	n := a.attached()
	if n == nil {
		return nil, 0
	}
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	take := func(ages []time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		if len(ages) == len(hosts) {
			answers = append(answers, ages)
		}
	}
	for _, m := range n.Store().Peers() {
		switch {
		case m.Nonvoter:
			continue
		case m.ID == a.cfg.ID:
			take(a.heardHere(hosts))
		default:
			wg.Go(func() {
				r, err := a.at(m.Addr).Heard(ctx, &joulev1.HeardRequest{HostIds: hosts})
				if err != nil {
					return
				}
				ages := make([]time.Duration, len(r.SilentMs))
				for i, ms := range r.SilentMs {
					ages[i] = time.Duration(ms) * time.Millisecond
				}
				take(ages)
			})
		}
		voters++
	}
	wg.Wait()
	return answers, voters
}

// Heard implements PeerServiceHandler.
func (s *service) Heard(_ context.Context, r *joulev1.HeardRequest) (*joulev1.HeardResponse, error) {
	if len(r.HostIds) > HeardMax {
		return nil, invalid("host_ids: at most %d, got %d", HeardMax, len(r.HostIds))
	}
	ages := s.a.heardHere(r.HostIds)
	if ages == nil {
		return nil, errStarting
	}
	out := &joulev1.HeardResponse{SilentMs: make([]int64, len(ages))}
	for i, age := range ages {
		out.SilentMs[i] = age.Milliseconds()
	}
	return out, nil
}
