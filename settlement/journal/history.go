package journal

import (
	"cmp"
	"fmt"
	"slices"
	"sort"

	"github.com/joulecloud/joule/settlement/ledger"
)

// Range bounds what of a history is wanted. Zero values don't bound.
type Range struct {
	After    uint64      // entries with a larger sequence
	From, To ledger.Time // entries at From or later and before To
	Limit    int         // at most this many
}

// EntriesOfLease returns the entries about a lease, in order: its terms, its
// usage, every transfer for it, refused records that named it, its end. None
// for an unknown lease.
func (j *Journal) EntriesOfLease(id ledger.LeaseID, r Range) ([]ledger.Entry, error) {
	return j.collect(r, func(p part) ([]uint32, error) {
		l, err := p.lease(id)
		if l == nil {
			return nil, err
		}
		return l.blocks, err
	}, func(e *ledger.Entry) bool { return leaseOf(e) == id })
}

// EntriesOfAccounts returns the entries that move money of one of the accounts
// or open it, in order.
func (j *Journal) EntriesOfAccounts(ids []ledger.AccountID, r Range) ([]ledger.Entry, error) {
	return j.collect(r, func(p part) ([]uint32, error) {
		var blocks []uint32
		for _, id := range ids {
			moves, err := p.account(id)
			if err != nil {
				return nil, err
			}
			for _, m := range moves {
				blocks = append(blocks, m.block)
			}
		}
		slices.Sort(blocks)
		return slices.Compact(blocks), nil
	}, func(e *ledger.Entry) bool {
		return slices.ContainsFunc(ids, func(id ledger.AccountID) bool { return concerns(e, id) })
	})
}

// collect reads the blocks that a segment's index names, where they are in
// range, and keeps the entries that are wanted.
func (j *Journal) collect(r Range, blocks func(part) ([]uint32, error), want func(*ledger.Entry) bool) ([]ledger.Entry, error) {
	s, err := j.shape()
	if err != nil || s.seq == 0 {
		return nil, err
	}
	first, last, err := j.span(s, r)
	if err != nil || first > last {
		return nil, err
	}
	read := reader{j: j}
	defer read.close()
	var out []ledger.Entry
	for i := segmentOf(s.segs, first); i < len(s.segs) && s.segs[i].first <= last; i++ {
		var in []uint32
		if err := j.ask(i, func(p part) (err error) { in, err = blocks(p); return err }); err != nil {
			return nil, err
		}
		for _, ordinal := range in {
			seq := s.segs[i].first + uint64(ordinal)
			if seq < first {
				continue
			}
			if seq > last {
				return out, nil
			}
			b, ok, err := read.block(seq)
			if err != nil {
				return nil, err
			}
			if !ok {
				return nil, fmt.Errorf("read journal block %d: %w", seq, errMissing)
			}
			for k := range b.Entries {
				if e := &b.Entries[k]; e.Seq > r.After && want(e) {
					out = append(out, *e)
					if r.Limit > 0 && len(out) == r.Limit {
						return out, nil
					}
				}
			}
		}
	}
	return out, nil
}

// span returns the first and the last block that a range can touch.
func (j *Journal) span(s shape, r Range) (first, last uint64, err error) {
	first, last = 1, s.seq
	if r.After > 0 {
		if r.After >= s.entries {
			return 1, 0, nil
		}
		if first, err = j.blockOfEntry(s, r.After+1); err != nil {
			return 0, 0, err
		}
	}
	if r.From != 0 {
		from, err := j.blockFrom(s, r.From)
		if err != nil {
			return 0, 0, err
		}
		first = max(first, from)
	}
	if r.To != 0 {
		to, err := j.blockFrom(s, r.To)
		if err != nil {
			return 0, 0, err
		}
		last = to - 1
	}
	return first, last, nil
}

// blockOfEntry is the block that holds an entry, which must exist.
func (j *Journal) blockOfEntry(s shape, entry uint64) (uint64, error) {
	i := sort.Search(len(s.segs), func(i int) bool { return s.segs[i].before >= entry }) - 1
	return j.search(s, i, func(b blockRef) bool { return s.segs[i].before+uint64(b.before) >= entry }, -1)
}

// blockFrom is the first block at t or later; one past the last if there is
// none.
func (j *Journal) blockFrom(s shape, t ledger.Time) (uint64, error) {
	var failed error
	i := sort.Search(len(s.segs), func(i int) bool {
		b, err := j.ref(i, 0)
		if err != nil {
			failed = err
		}
		return b.time >= t
	}) - 1
	if failed != nil {
		return 0, failed
	}
	if i < 0 {
		return 1, nil
	}
	return j.search(s, i, func(b blockRef) bool { return b.time >= t }, 0)
}

// search is the sequence of the first block of a segment for which is holds,
// plus shift; one past the segment's last if it holds for none.
func (j *Journal) search(s shape, segment int, is func(blockRef) bool, shift int) (uint64, error) {
	n := s.seq + 1 - s.segs[segment].first
	if segment+1 < len(s.segs) {
		n = s.segs[segment+1].first - s.segs[segment].first
	}
	var failed error
	at := sort.Search(int(n), func(i int) bool {
		b, err := j.ref(segment, i)
		if err != nil {
			failed = err
		}
		return is(b)
	})
	return s.segs[segment].first + uint64(at+shift), failed
}

// BalanceAt returns an account's balance after everything that happened at t
// or before.
func (j *Journal) BalanceAt(id ledger.AccountID, t ledger.Time) (int64, error) {
	s, err := j.shape()
	if err != nil || s.seq == 0 {
		return 0, err
	}
	next, err := j.blockFrom(s, t+1)
	if err != nil {
		return 0, err
	}
	return j.balance(s, id, next-1)
}

// BalanceAfter returns an account's balance after the entry with the given
// sequence; 0 before the first. An entry that is still to come stands for the
// last one.
func (j *Journal) BalanceAfter(id ledger.AccountID, entry uint64) (int64, error) {
	s, err := j.shape()
	if err != nil || s.seq == 0 || entry == 0 {
		return 0, err
	}
	if entry >= s.entries {
		return j.balance(s, id, s.seq)
	}
	seq, err := j.blockOfEntry(s, entry)
	if err != nil {
		return 0, err
	}
	sum, err := j.balance(s, id, seq-1)
	if err != nil {
		return 0, err
	}
	r := reader{j: j}
	defer r.close()
	b, ok, err := r.block(seq)
	if err != nil {
		return 0, err
	}
	if !ok {
		return 0, fmt.Errorf("read journal block %d: %w", seq, errMissing)
	}
	for i := range b.Entries {
		if e := &b.Entries[i]; e.Seq <= entry {
			sum += moved(e, id)
		}
	}
	return sum, nil
}

// moved is by how much an entry changes an account's balance.
func moved(e *ledger.Entry, id ledger.AccountID) int64 {
	switch {
	case e.Kind != ledger.EntryTransfer:
		return 0
	case e.Transfer.Debit == id:
		return -e.Transfer.Amount
	case e.Transfer.Credit == id:
		return e.Transfer.Amount
	}
	return 0
}

// balance sums what the account's balance changed by up to and with a block.
func (j *Journal) balance(s shape, id ledger.AccountID, block uint64) (int64, error) {
	if block == 0 {
		return 0, nil
	}
	last := segmentOf(s.segs, block)
	var sum int64
	for i := range last {
		err := j.ask(i, func(p part) error {
			n, err := p.net(id)
			sum += n
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	err := j.ask(last, func(p part) error {
		moves, err := p.account(id)
		if err == nil {
			sum += movedUpTo(moves, int(block-s.segs[last].first))
		}
		return err
	})
	return sum, err
}

// LeasesOfCustomer returns the ids above after of the leases that were opened
// for a customer, in order, at most limit of them (0: all).
func (j *Journal) LeasesOfCustomer(id ledger.CustomerID, after ledger.LeaseID, limit int) ([]ledger.LeaseID, error) {
	return j.leases(byCustomer, uint64(id), after, limit)
}

// LeasesOfHost is LeasesOfCustomer for a host.
func (j *Journal) LeasesOfHost(id ledger.HostID, after ledger.LeaseID, limit int) ([]ledger.LeaseID, error) {
	return j.leases(byHost, uint64(id), after, limit)
}

func (j *Journal) leases(t table, key uint64, after ledger.LeaseID, limit int) ([]ledger.LeaseID, error) {
	s, err := j.shape()
	if err != nil {
		return nil, err
	}
	var out []ledger.LeaseID
	for i := range s.segs {
		var ids []ledger.LeaseID
		if err := j.ask(i, func(p part) (err error) { ids, err = p.opened(t, key); return err }); err != nil {
			return nil, err
		}
		from, found := slices.BinarySearch(ids, after)
		if found {
			from++
		}
		out = append(out, ids[from:]...)
		if limit > 0 && len(out) >= limit {
			return out[:limit:limit], nil
		}
	}
	return out, nil
}

// Condensed is a set of leases' entries as of one moment.
type Condensed struct {
	Leases  [][]ledger.Entry // in the order asked for; empty for an unknown lease
	Entries uint64           // the last entry that is in it
	Digest  ledger.Digest    // of the block that made that entry
}

// Condense returns the entries of leases, condensed: facts of a kind are
// represented by the last one, usage by the last record, and transfers that
// differ in no more than amount, time and reference by their sum. All are as of
// one moment.
func (j *Journal) Condense(ids []ledger.LeaseID) (*Condensed, error) {
	// The last segment grows: it is asked first, at once, and what came
	// before it is settled.
	j.mu.RLock()
	s := shape{segs: j.segs[:len(j.segs):len(j.segs)], seq: j.seq, digest: j.digest, entries: j.entryCount()}
	closed := j.err == ErrClosed
	var tail []*leasePart
	var err error
	if len(s.segs) > 0 {
		tail, err = leaseParts(j.tailPart(), ids)
	}
	j.mu.RUnlock()
	if closed {
		err = ErrClosed
	}
	if err != nil {
		return nil, err
	}
	sums := make([]leaseSum, len(ids))
	for i := range s.segs {
		parts := tail
		if i < len(s.segs)-1 {
			if err := j.ask(i, func(p part) (err error) { parts, err = leaseParts(p, ids); return err }); err != nil {
				return nil, err
			}
		}
		if err := j.condenseSegment(s, i, ids, parts, sums); err != nil {
			return nil, err
		}
	}
	out := &Condensed{Leases: make([][]ledger.Entry, len(ids)), Entries: s.entries, Digest: s.digest}
	for i := range ids {
		if out.Leases[i], err = sums[i].entries(); err != nil {
			return nil, fmt.Errorf("read the journal of lease %d: %w", ids[i], err)
		}
	}
	return out, nil
}

func leaseParts(p part, ids []ledger.LeaseID) ([]*leasePart, error) {
	out := make([]*leasePart, len(ids))
	for i, id := range ids {
		var err error
		if out[i], err = p.lease(id); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s *leaseSum) addAll(entries []ledger.Entry) {
	for i := range entries {
		s.add(&entries[i])
	}
}

// condenseSegment adds what a segment has about the leases: the first blocks of
// each are read, each block once, and the others are condensed in the index.
func (j *Journal) condenseSegment(s shape, i int, ids []ledger.LeaseID, parts []*leasePart, sums []leaseSum) error {
	type want struct {
		block uint32
		lease int // of ids
	}
	var wants []want
	for k, p := range parts {
		if p == nil {
			continue
		}
		for _, b := range p.head() {
			wants = append(wants, want{b, k})
		}
	}
	slices.SortFunc(wants, func(a, b want) int { return cmp.Compare(a.block, b.block) })
	r := reader{j: j}
	defer r.close()
	for len(wants) > 0 {
		n := 1
		for n < len(wants) && wants[n].block == wants[0].block {
			n++
		}
		seq := s.segs[i].first + uint64(wants[0].block)
		b, ok, err := r.block(seq)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("read journal block %d: %w", seq, errMissing)
		}
		leases := make(map[ledger.LeaseID]int, n)
		for _, w := range wants[:n] {
			leases[ids[w.lease]] = w.lease
		}
		for k := range b.Entries {
			if at, ok := leases[leaseOf(&b.Entries[k])]; ok {
				sums[at].add(&b.Entries[k])
			}
		}
		wants = wants[n:]
	}
	for k, p := range parts {
		if p != nil {
			sums[k].addAll(p.sum)
		}
	}
	return nil
}
