package journal

import (
	"encoding/binary"
	"iter"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// index finds blocks: by sequence, by what their entries are about, by the
// entries' own sequence.
type index struct {
	blocks   []place // of block i+1
	leases   map[ledger.LeaseID]*posting
	accounts map[ledger.AccountID]*posting
	names    map[ledger.AccountID]ledger.AccountOpened
	entries  uint64 // sequence of the last entry
}

// place is where a block's frame stands.
type place struct {
	segment uint32
	offset  uint32
	before  uint64 // sequence of the last entry before the block
}

// posting is a growing list of block sequences, as varints of the differences:
// mostly one byte each.
type posting struct {
	last   uint64
	deltas []byte
}

func newIndex() index {
	return index{
		leases:   make(map[ledger.LeaseID]*posting),
		accounts: make(map[ledger.AccountID]*posting),
		names:    make(map[ledger.AccountID]ledger.AccountOpened),
	}
}

func (x *index) add(b *wire.Block, segment int, offset int64) {
	x.blocks = append(x.blocks, place{segment: uint32(segment), offset: uint32(offset), before: x.entries})
	for i := range b.Entries {
		e := &b.Entries[i]
		x.entries = e.Seq
		if id := leaseOf(e); id != 0 {
			post(x.leases, id, b.Seq)
		}
		switch e.Kind {
		case ledger.EntryTransfer:
			post(x.accounts, e.Transfer.Debit, b.Seq)
			post(x.accounts, e.Transfer.Credit, b.Seq)
		case ledger.EntryAccount:
			if a, ok := e.Fact.(*ledger.AccountOpened); ok {
				post(x.accounts, a.ID, b.Seq)
				x.names[a.ID] = *a
			}
		}
	}
}

func post[K comparable](m map[K]*posting, key K, seq uint64) {
	p := m[key]
	if p == nil {
		p = new(posting)
		m[key] = p
	}
	if p.last != seq {
		p.deltas = binary.AppendUvarint(p.deltas, seq-p.last)
		p.last = seq
	}
}

// all yields the block sequences in order. The posting may grow meanwhile if p
// is a copy: bytes that are in use don't change.
func (p posting) all() iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		var seq uint64
		for rest := p.deltas; len(rest) > 0; {
			d, n := binary.Uvarint(rest)
			seq, rest = seq+d, rest[n:]
			if !yield(seq) {
				return
			}
		}
	}
}

// leaseOf is the lease that an entry is about; 0: none.
func leaseOf(e *ledger.Entry) ledger.LeaseID {
	switch e.Kind {
	case ledger.EntryTransfer:
		return e.Transfer.Lease
	case ledger.EntryUsage:
		return e.Usage.Lease
	}
	switch f := e.Fact.(type) {
	case *ledger.LeaseOpened:
		return f.ID
	case *ledger.LeaseClosed:
		return f.ID
	case *ledger.RecordRefused:
		return f.Record.Lease
	case *ledger.CorrectionMade:
		return f.Lease
	case *ledger.FineProposed:
		return f.Lease
	case *ledger.FineIssued:
		return f.Plan.Lease
	}
	return 0
}

// concerns reports whether an entry moves money of the account or opens it.
func concerns(e *ledger.Entry, id ledger.AccountID) bool {
	switch e.Kind {
	case ledger.EntryTransfer:
		return e.Transfer.Debit == id || e.Transfer.Credit == id
	case ledger.EntryAccount:
		a, ok := e.Fact.(*ledger.AccountOpened)
		return ok && a.ID == id
	}
	return false
}
