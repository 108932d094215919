package journal

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/joulecloud/joule/settlement/ledger"
)

// The table does what a map does.
func TestLeaseTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := newLeaseTable(rapid.IntRange(0, 200).Draw(t, "room"))
		want := map[ledger.LeaseID]uint32{}
		// Close together, so that they meet in the table.
		ids := rapid.SliceOfN(rapid.Uint64Range(1, 500), 0, 400).Draw(t, "ids")
		for _, n := range ids {
			id := ledger.LeaseID(n)
			if n%7 == 0 {
				id = ledger.LeaseID(n << 55)
			}
			_, had := want[id]
			if !had {
				want[id] = uint32(len(want))
			}
			if at, isNew := table.number(id); at != want[id] || isNew == had {
				t.Fatalf("lease %d: got number %d, new %v, want %d, new %v", id, at, isNew, want[id], !had)
			}
		}
		for id, at := range want {
			if got, ok := table.find(id); !ok || got != at || table.ids[at] != id {
				t.Fatalf("lease %d: got %d, %v, want %d", id, got, ok, at)
			}
		}
		for _, id := range []ledger.LeaseID{0, 501, 1 << 63} {
			if _, ok := table.find(id); ok {
				t.Fatalf("lease %d was found", id)
			}
		}
		if len(table.ids) != len(want) {
			t.Fatalf("got %d leases, want %d", len(table.ids), len(want))
		}
	})
}
