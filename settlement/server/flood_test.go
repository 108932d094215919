package server_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/client"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/server"
)

// A client that floods is told to wait, and when to come back; the others are
// served meanwhile, no more calls run at once than the limits say, and what was
// acknowledged, and nothing else, has happened, after a restart too.
func TestFlood(t *testing.T) {
	f := start(t)
	f.world()
	lease := f.openLease()
	tokens := f.withTokens()
	f.close()
	tokened := f.configure
	f.configure = func(c *server.Config) {
		tokened(c)
		c.Limits.Requests, c.Limits.ClientRequests, c.Limits.ClientRate, c.Limits.ClientBurst = 24, 8, 500, 100
		c.Limits.BeatsPerSecond = 1000
	}
	f.open()
	usd := joulev1.Currency_CURRENCY_USD
	deposit := func(key string) *joulev1.DepositRequest {
		return &joulev1.DepositRequest{Key: key, Customer: "acme", Currency: usd, Amount: 1, Ref: "flood"}
	}
	m := procedures(t)["/joule.v1.SettlementService/Deposit"]

	var done, turnedAway atomic.Int64
	stop := make(chan struct{})
	var flood, others sync.WaitGroup
	for g := range 48 {
		flood.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				_, err := f.call("/joule.v1.SettlementService/Deposit", m, deposit(fmt.Sprint("flood-", g, "-", n)), tokens["bob"])
				var refused *client.Error
				switch {
				case err == nil:
					done.Add(1)
				case errors.As(err, &refused) && refused.Reason == joulev1.ErrorReason_ERROR_REASON_OVERLOADED && refused.RetryAfter > 0:
					turnedAway.Add(1)
				default:
					t.Errorf("flood: got %v, want success or to be told to wait", err)
					return
				}
			}
		})
	}
	const calls, records = 30, 30
	others.Go(func() {
		api, err := client.Dial(f.url, "", client.WithToken(tokens["alice"]))
		if err != nil {
			t.Error(err)
			return
		}
		for n := range calls {
			if _, err := api.Deposit(t.Context(), deposit(fmt.Sprint("alice-", n))); err != nil {
				t.Errorf("alice's deposit beside the flood: %v", err)
			}
		}
	})
	others.Go(func() {
		s, err := f.connect("h1", "crowd", f.key)
		if err != nil {
			t.Error(err)
			return
		}
		r := record(lease.LeaseId, 1, 1)
		for n := range records {
			b := s.batch(r)
			if ack := s.send(b, s.sign(b)); ack.Error != nil || ack.Statuses[0] != joulev1.RecordStatus_RECORD_STATUS_ACCEPTED {
				t.Errorf("a host's batch beside the flood: got %v", ack)
			}
			r = chained(r, record(lease.LeaseId, uint64(n+2), uint64(n+2)))
		}
	})
	others.Wait()
	for turnedAway.Load() == 0 && !t.Failed() { // the flood goes on until it has met its limit
	}
	close(stop)
	flood.Wait()
	t.Logf("the flood: %d deposits done, %d turned away", done.Load(), turnedAway.Load())
	if most := f.srv.MostRequests(); most > 24 {
		t.Errorf("got %d calls at once, want at most 24", most)
	}
	for _, restarted := range []bool{false, true} {
		if restarted {
			f.close()
			f.open()
		}
		var balance int64
		var v ledger.Lease
		f.ok(f.node.Read(t.Context(), func(l *ledger.Ledger) error {
			a, _ := l.AccountByName("external", ledger.USD)
			balance, v = -a.Balance, mustLease(l, lease.LeaseId)
			return nil
		}))
		if want := int64(5_000_000_000) + done.Load() + calls; balance != want {
			t.Errorf("restarted %v: %d nUSD were deposited, want %d: what was acknowledged and no more", restarted, balance, want)
		}
		if v.LastSeq != records || v.Billed.WallMs != records {
			t.Errorf("restarted %v: the lease is at record %d with %d ms, want %d and %d", restarted, v.LastSeq, v.Billed.WallMs, records, records)
		}
	}
}

func mustLease(l *ledger.Ledger, id uint64) ledger.Lease {
	v, _ := l.Lease(ledger.LeaseID(id))
	return v
}
