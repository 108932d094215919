package ledger

// touchAhead is how many records' rows are fetched at a time: enough that the
// memory works on many at once, few enough that they are still in the nearest
// cache when their records come up.
const touchAhead = 16

// touch reads a word of every cache line that the records are going to need.
// Applying a record is a chain of steps that each wait for the one before; the
// reads here wait for nothing, so the processor has many under way at once. It
// changes no result, and only the first records of a batch wait for memory.
func (l *Ledger) touch(records []Record) {
	var sum uint64
	n := LeaseID(l.leases.len())
	for i := range records {
		if id := records[i].Lease; id-1 < n {
			le := l.leases.get(int(id))
			sum += le.LastSeq + uint64(le.Budget) + le.Carry + le.Billed.WallMs + le.Standby.WallMs
		}
	}
	jobs := l.jobs.len()
	for i := range records {
		if id := records[i].Lease; id-1 < n {
			le := l.leases.get(int(id))
			if j := int(le.Job); j-1 < jobs && j > 0 {
				sum += uint64(l.jobs.get(j).held)
			}
			sum += uint64(l.balance(le.hold)) + uint64(l.balance(le.supplier))
		}
	}
	l.touched = sum
}
