package journal

import (
	"math/bits"

	"github.com/joulecloud/joule/settlement/ledger"
)

// leaseTable numbers leases in the order in which they come. It is a hash
// table with open addressing and without pointers: a busy segment has hundreds
// of thousands of leases, in no order that a cache could foresee.
type leaseTable struct {
	slots []leaseSlot // a power of two, at most three quarters full
	shift uint
	ids   []ledger.LeaseID // by number
	seen  ledger.LeaseID   // what touch read: it must not be found needless
}

// leaseSlot is a lease with its number; id 0: free.
type leaseSlot struct {
	id ledger.LeaseID
	at uint32
}

// newLeaseTable has room for n leases before it grows.
func newLeaseTable(n int) leaseTable {
	size := uint(bits.Len(uint(max(n, 64) * 4 / 3)))
	return leaseTable{slots: make([]leaseSlot, 1<<size), shift: 64 - size, ids: make([]ledger.LeaseID, 0, n)}
}

// emptied returns an empty table in the memory of t, which is no more to be used.
func (t *leaseTable) emptied() leaseTable {
	clear(t.slots)
	return leaseTable{slots: t.slots, shift: t.shift, ids: t.ids[:0]}
}

// slot is where the lease is, or would be.
func (t *leaseTable) slot(id ledger.LeaseID) *leaseSlot {
	mask := uint64(len(t.slots) - 1)
	for i := uint64(id) * 0x9e3779b97f4a7c15 >> t.shift; ; i = (i + 1) & mask {
		if s := &t.slots[i]; s.id == id || s.id == 0 {
			return s
		}
	}
}

// find returns the lease's number; ok is false if it has none.
func (t *leaseTable) find(id ledger.LeaseID) (at uint32, ok bool) {
	s := t.slot(id)
	return s.at, id != 0 && s.id == id
}

// number returns the lease's number, a new one if it has none; id is not 0.
func (t *leaseTable) number(id ledger.LeaseID) (at uint32, isNew bool) {
	s := t.slot(id)
	if s.id == id {
		return s.at, false
	}
	at = uint32(len(t.ids))
	*s = leaseSlot{id, at}
	t.ids = append(t.ids, id)
	if len(t.ids) > len(t.slots)/4*3 {
		t.grow()
	}
	return at, true
}

func (t *leaseTable) grow() {
	t.slots = make([]leaseSlot, 2*len(t.slots))
	t.shift--
	for at, id := range t.ids {
		*t.slot(id) = leaseSlot{id, uint32(at)}
	}
}

// touch reads the slots of leases that are about to be numbered. The reads wait
// for nothing, so the memory works on many at once.
func (t *leaseTable) touch(entries []ledger.Entry) {
	var sum ledger.LeaseID
	for i := range entries {
		if e := &entries[i]; e.Kind == ledger.EntryUsage {
			sum += t.slots[uint64(e.Usage.Lease)*0x9e3779b97f4a7c15>>t.shift].id
		}
	}
	t.seen = sum
}
