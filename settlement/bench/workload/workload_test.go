package workload_test

import (
	"testing"

	"github.com/joulecloud/joule/settlement/bench/workload"
	"github.com/joulecloud/joule/settlement/ledger"
)

// The ledger takes every record of the workload, and charges exactly what the
// workload says that it must.
func TestLedgerChargesWhatTheWorkloadSays(t *testing.T) {
	spec := workload.Sized(5000)
	l := ledger.New()
	now := ledger.Time(1_763_800_000_000)
	for env := range spec.Setup() {
		if res := l.Apply(now, &env); res.Code != ledger.CodeOK {
			t.Fatalf("%T: %s", env.Command, res.Msg)
		}
		l.TakeEntries()
	}
	if got := int(l.LeaseCount()); got != spec.Leases {
		t.Fatalf("got %d leases, want %d", got, spec.Leases)
	}
	const rounds = 3
	now += ledger.Time(rounds * spec.StepMs)
	total := 0
	for _, f := range spec.Feeds(workload.CheapHash) {
		batch := &ledger.UsageBatch{Host: f.Host(), Records: make([]ledger.Record, f.Leases())}
		for f.Round() <= rounds {
			f.Fill(batch.Records)
			res := l.Apply(now, &ledger.Envelope{Command: batch})
			for _, r := range res.Records {
				if r.Status != ledger.RecordAccepted || r.Charged <= 0 {
					t.Fatalf("got %+v, want it accepted and charged", r)
				}
			}
			total += len(res.Records)
			l.TakeEntries()
		}
	}
	if total != rounds*spec.Leases {
		t.Errorf("got %d records, want %d", total, rounds*spec.Leases)
	}
	charged, paid, fee := spec.Charged(rounds)
	for id := ledger.LeaseID(1); id <= l.LeaseCount(); id++ {
		le, _ := l.Lease(id)
		if le.ChargedNUSD != charged || le.PaidNJ != paid || le.FeeNJ != fee || le.LastSeq != rounds {
			t.Fatalf("lease %d: charged %d, paid %d, fee %d at record %d, want %d, %d, %d at %d",
				id, le.ChargedNUSD, le.PaidNJ, le.FeeNJ, le.LastSeq, charged, paid, fee, rounds)
		}
	}
	if err := l.Verify(); err != nil {
		t.Error(err)
	}
}
