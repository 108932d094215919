package ledger

// markMs is the time that one Mark stands for: entries are dated to the minute.
const markMs = 60_000

// Mark says how many entries there were when a minute of ledger time began that
// something happened in. Entries are dated by it, to the disfavour of evidence:
// an entry counts as made at the beginning of its minute.
type Mark struct {
	At      Time
	Entries uint64
}

// mark notes the beginning of a minute, and forgets what evidence can't reach
// back to any more.
func (l *Ledger) mark() {
	if n := len(l.marks); n > 0 && l.now/markMs == l.marks[n-1].At/markMs {
		return
	}
	l.marks = append(l.marks, Mark{At: l.now, Entries: l.entryCount})
	for len(l.marks) > 1 && l.tooOld(l.marks[1].At, l.now) {
		l.marks = l.marks[1:]
	}
}

// tooOld says whether evidence of a time is void at another (rule F2).
func (l *Ledger) tooOld(at, now Time) bool {
	return uint64(now-at) >= l.policy.Stake.UnbondMs
}

// dated returns the time that an entry counts as made at; ok is false if it is
// none there is, or one before all that is remembered.
func (l *Ledger) dated(entry uint64) (_ Time, ok bool) {
	if entry > l.entryCount || len(l.marks) == 0 || entry <= l.marks[0].Entries {
		return 0, false
	}
	low, high := 0, len(l.marks)-1 // the answer is the last mark with fewer entries than this one
	for low < high {
		mid := (low + high + 1) / 2
		if l.marks[mid].Entries < entry {
			low = mid
		} else {
			high = mid - 1
		}
	}
	return l.marks[low].At, true
}

type offenceKey struct {
	lease  LeaseID
	reason FineReason
}

// offend keeps the entry made last as the ledger's own evidence, the first of a
// kind for a lease.
func (l *Ledger) offend(lease LeaseID, reason FineReason, hash Hash) {
	key := offenceKey{lease, reason}
	if _, ok := l.offenceIndex[key]; !ok {
		l.addOffence(&Offence{Lease: lease, Reason: reason, Evidence: Evidence{Entry: l.entryCount, Hash: hash}, At: l.now})
	}
}

func (l *Ledger) addOffence(o *Offence) {
	i, row := l.offences.add()
	*row = *o
	l.offenceIndex[offenceKey{o.Lease, o.Reason}] = i
}

// OffenceCount returns how many offences the ledger has seen; they are numbered
// from 1 in the order in which it did.
func (l *Ledger) OffenceCount() uint32 { return uint32(l.offences.len()) }

// OffenceByNumber returns an offence, with the fine that was issued for it.
func (l *Ledger) OffenceByNumber(n uint32) (Offence, bool) {
	o, ok := rowOf(&l.offences, n)
	if ok {
		o.Fine = l.evidenceUsed[o.Evidence.Entry]
	}
	return o, ok
}

// Offence returns the ledger's own evidence against a lease's host.
func (l *Ledger) Offence(lease LeaseID, reason FineReason) (Offence, bool) {
	return l.OffenceByNumber(uint32(l.offenceIndex[offenceKey{lease, reason}]))
}
