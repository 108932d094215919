package alone_test

import (
	"testing"
	"time"

	"github.com/joulecloud/joule/settlement/bench/alone"
	"github.com/joulecloud/joule/settlement/bench/workload"
)

// A small run goes through everything that a large one does; Run itself checks
// that every record is charged and that the restored ledger is whole.
func TestRun(t *testing.T) {
	res, err := alone.Run(t.Context(), workload.Sized(3000), []int{64, 1024}, time.Millisecond, true)
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Records) != 2 || res.Snapshot == nil || res.BytesPerLease <= 0 {
		t.Fatalf("got %+v", res)
	}
	for _, r := range res.Records {
		if r.Count == 0 || r.NsPerRecord <= 0 || r.WallNs <= 0 || r.Allocs > 0.05 {
			t.Errorf("batches of %d: got %+v, want times, and no allocation for a record", r.Batch, r)
		}
	}
	if s := res.Snapshot; s.Bytes == 0 || s.WriteS <= 0 || s.RestoreS <= 0 {
		t.Errorf("snapshot: got %+v", s)
	}
}

func TestAccounts(t *testing.T) {
	res, err := alone.Accounts(t.Context(), 3000, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if s := res.Snapshot; res.Accounts < 3000 || res.BytesPerAccount <= 0 || s.Bytes == 0 || s.StallMs <= 0 || s.QuietMs <= 0 || s.RestoreS <= 0 {
		t.Errorf("got %+v", res)
	}
}
