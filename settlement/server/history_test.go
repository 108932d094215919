package server_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/nomad"
	"github.com/joulecloud/joule/settlement/wire"
)

// openLeases opens n leases on host h1 for jobs job-0, job-1, job-0, …, each
// with some usage settled.
func (f *fixture) openLeases(n int) []uint64 {
	f.t.Helper()
	s, err := f.connect("h1", "crowd", f.key)
	f.ok(err)
	var ids []uint64
	for i := range n {
		alloc := fmt.Sprint("alloc-", i)
		f.allocs.mu.Lock()
		f.allocs.tasks[alloc] = &nomad.Task{Namespace: "acme", Job: fmt.Sprint("job-", i%2), Group: "group", Name: "main",
			Host: "h1", MilliCores: 2000, MemoryMiB: 64}
		f.allocs.mu.Unlock()
		r, err := f.hosts().OpenLease(f.t.Context(), &joulev1.OpenLeaseRequest{
			Auth:    signed(f.key, "h1", "OpenLease", wire.OpenLeaseBody(alloc, "main", "i"), time.Now()),
			AllocId: alloc, Task: "main", Invocation: "i"})
		f.ok(err)
		ids = append(ids, r.LeaseId)
		b := s.batch(record(r.LeaseId, 1, uint64(1+i)))
		s.send(b, s.sign(b))
	}
	return ids
}

// Pages of leases and of bills put together are the whole.
func TestPages(t *testing.T) {
	f := start(t)
	f.world()
	ids := f.openLeases(5)
	whole, err := f.api.GetBill(t.Context(), &joulev1.GetBillRequest{Customer: "acme"})
	f.ok(err)
	if len(whole.Leases) != 5 || whole.More || whole.Proof.RecomputedNusd != whole.ChargedNusd {
		t.Fatalf("bill: got %d leases, more %v, charged %d, recomputed %d", len(whole.Leases), whole.More, whole.ChargedNusd, whole.Proof.RecomputedNusd)
	}
	var charged int64
	var billed, listed []uint64
	for after, more := uint64(0), true; more; {
		r, err := f.api.GetBill(t.Context(), &joulev1.GetBillRequest{Customer: "acme", PageSize: 2, AfterId: after})
		f.ok(err)
		charged += r.ChargedNusd
		for _, l := range r.Leases {
			billed = append(billed, l.Id)
		}
		if more = r.More; more {
			after = billed[len(billed)-1]
		}
	}
	if charged != whole.ChargedNusd || !slices.Equal(billed, ids) {
		t.Errorf("pages of the bill: got %v charged %d, want %v charged %d", billed, charged, ids, whole.ChargedNusd)
	}
	for _, filter := range []*joulev1.ListLeasesRequest{{}, {Customer: "acme"}, {Supplier: "lab"}, {Host: "h1"}, {Host: "h1", OpenOnly: true}} {
		listed = nil
		for more := true; more; {
			filter.PageSize = 2
			r, err := f.api.ListLeases(t.Context(), filter)
			f.ok(err)
			for _, l := range r.Leases {
				listed = append(listed, l.Id)
				filter.AfterId = l.Id
			}
			more = r.More
		}
		if !slices.Equal(listed, ids) {
			t.Errorf("pages of the list %v: got %v, want %v", filter, listed, ids)
		}
	}
	job, err := f.api.GetBill(t.Context(), &joulev1.GetBillRequest{Customer: "acme", Job: "job-1"})
	f.ok(err)
	if len(job.Leases) != 2 {
		t.Errorf("bill of job-1: got %d leases, want 2", len(job.Leases))
	}
	e, err := f.api.ExplainLease(t.Context(), &joulev1.ExplainLeaseRequest{LeaseId: ids[0], PageSize: 2})
	f.ok(err)
	rest, err := f.api.ExplainLease(t.Context(), &joulev1.ExplainLeaseRequest{LeaseId: ids[0], AfterSeq: e.Entries[1].Seq})
	f.ok(err)
	if !e.More || rest.More || len(rest.Entries) == 0 || rest.Entries[0].Seq <= e.Entries[1].Seq || rest.RecomputedNusd != e.RecomputedNusd {
		t.Errorf("pages of an explanation: got %v, then %v", e, rest)
	}
}

// A statement leads from its opening balance to its closing one, page by page
// and period by period, and balances at a time agree with it.
func TestStatementsAndBalancesAtATime(t *testing.T) {
	f := start(t)
	f.world()
	f.openLeases(3)
	for _, name := range []string{"acme", "lab", "treasury", "hold/acme"} {
		running := map[string]int64{}
		var last *joulev1.GetStatementResponse
		for after, more := uint64(0), true; more; {
			r, err := f.api.GetStatement(t.Context(), &joulev1.GetStatementRequest{Account: name, AfterSeq: after, PageSize: 3})
			f.ok(err)
			for _, a := range r.Accounts {
				key := a.Name + a.Currency.String()
				if after == 0 {
					running[key] = 0
				}
				if a.Opening != running[key] {
					t.Errorf("%s after %d: opens at %d, want %d", key, after, a.Opening, running[key])
				}
				for _, e := range r.Entries {
					if e.Currency == a.Currency && e.Debit == a.Name {
						running[key] -= e.Amount
					}
					if e.Currency == a.Currency && e.Credit == a.Name {
						running[key] += e.Amount
					}
				}
				if a.Closing != running[key] {
					t.Errorf("%s after %d: closes at %d, want %d", key, after, a.Closing, running[key])
				}
			}
			for _, e := range r.Entries {
				at, err := f.api.ListAccounts(t.Context(), &joulev1.ListAccountsRequest{Name: name, AtUnixMs: e.UnixMs})
				f.ok(err)
				upTo, err := f.api.GetStatement(t.Context(), &joulev1.GetStatementRequest{Account: name, ToUnixMs: e.UnixMs + 1})
				f.ok(err)
				for _, a := range at.Accounts {
					for _, s := range upTo.Accounts {
						if s.Name == a.Name && s.Currency == a.Currency && s.Closing != a.Balance {
							t.Errorf("%s at %d: the balance is %d, a statement up to it closes at %d", a.Name, e.UnixMs, a.Balance, s.Closing)
						}
					}
				}
			}
			if more, last = r.More, r; more {
				after = r.Entries[len(r.Entries)-1].Seq
			}
		}
		for _, a := range last.Accounts {
			if a.Closing != a.Balance {
				t.Errorf("%s: closes at %d, the balance is %d", a.Name, a.Closing, a.Balance)
			}
		}
	}
	before, err := f.api.ListAccounts(t.Context(), &joulev1.ListAccountsRequest{Name: "acme", AtUnixMs: 1})
	f.ok(err)
	if len(before.Accounts) != 0 {
		t.Errorf("accounts before the first: got %v, want none: unknown is not zero", before.Accounts)
	}
	_, err = f.api.ListAccounts(t.Context(), &joulev1.ListAccountsRequest{Name: "acme", AtUnixMs: time.Now().Add(time.Hour).UnixMilli()})
	if reason(err) != joulev1.ErrorReason_ERROR_REASON_INVALID {
		t.Errorf("balances of the future: got %v, want an invalid at_unix_ms", err)
	}
}
