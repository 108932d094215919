package journal

import (
	"encoding/binary"
	"iter"
	"slices"
	"sort"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// part is the index of one segment: in memory (memPart) while the segment
// grows, in a file beside it (diskPart) afterwards. Blocks are numbered from 0
// within the segment.
type part interface {
	// block says where a block stands.
	block(ordinal int) (blockRef, error)
	// lease returns what the segment has about a lease; nil: nothing.
	lease(id ledger.LeaseID) (*leasePart, error)
	// account returns the account's moves in order; none: nothing.
	account(id ledger.AccountID) ([]move, error)
	// opened returns the leases that the segment's entries open for a customer
	// or on a host, in order.
	opened(t table, key uint64) ([]ledger.LeaseID, error)
	// net is by how much the account's balance changes in the segment.
	net(id ledger.AccountID) (int64, error)
}

// blockRef is where a block stands.
type blockRef struct {
	offset uint32 // of its frame in the segment
	before uint32 // entries of the segment before it
	time   ledger.Time
}

// move is a block that moves an account's money, or opens the account.
type move struct {
	block uint32
	after int64 // change of the balance from the segment's beginning up to this block's end
}

// leasePart is what a segment has about a lease.
type leasePart struct {
	blocks []uint32       // that hold entries about it
	sum    []ledger.Entry // the entries of the blocks from the headBlocks-th on, condensed
}

// headBlocks is how many of a lease's blocks in a segment are read for a
// condensed view; what the others hold is condensed in the index. Most leases
// of a busy cluster have few blocks in a segment, and cost nothing more.
const headBlocks = 4

// head are the blocks that are to be read.
func (l *leasePart) head() []uint32 { return l.blocks[:min(headBlocks, len(l.blocks))] }

// table is one of the two lists of leases.
type table int

const (
	byCustomer table = iota
	byHost
	tables
)

// memPart is the index of a segment in memory. It grows by add; slices that
// were handed out stay as they are.
type memPart struct {
	blocks   []blockRef
	entries  uint32
	leases   leaseTable   // place in rows
	rows     [][]leaseRow // in pages: growing one slice would copy it
	accounts map[ledger.AccountID]*[]move
	lists    [tables]map[uint64]*[]ledger.LeaseID

	// The entries of one usage record name one lease and a few accounts many
	// times over.
	lastLease ledger.LeaseID
	lastRow   uint32
	recent    [16]struct {
		id    ledger.AccountID
		moves *[]move
	}
}

// leaseRow is a lease's row of a memPart.
type leaseRow struct {
	last  uint32             // the last block
	n     uint32             // blocks
	first [headBlocks]uint32 // of the blocks
	rest  []byte             // differences of the others' numbers, as varints
	sum   *leaseSum          // of the others
}

const rowsPerPage = 1024

func (m *memPart) row(at uint32) *leaseRow { return &m.rows[at/rowsPerPage][at%rowsPerPage] }

// newMemPart returns an empty index. The memory for leases comes from old, an
// index that nobody uses any more; nil: there is none. Tens of megabytes of
// fresh memory for each segment would cost more than filling them.
func newMemPart(old *memPart) *memPart {
	m := &memPart{
		accounts: make(map[ledger.AccountID]*[]move),
		lists:    [tables]map[uint64]*[]ledger.LeaseID{make(map[uint64]*[]ledger.LeaseID), make(map[uint64]*[]ledger.LeaseID)},
	}
	if old == nil {
		m.leases = newLeaseTable(0)
		return m
	}
	for _, page := range old.rows {
		clear(page)
	}
	m.leases, m.rows = old.leases.emptied(), old.rows
	return m
}

// touchAhead is how many entries' leases are looked up ahead: those of about
// sixteen usage records.
const touchAhead = 64

// add indexes the next block, whose frame stands at offset.
func (m *memPart) add(b *wire.Block, offset int64) {
	n := uint32(len(m.blocks))
	m.blocks = append(m.blocks, blockRef{offset: uint32(offset), before: m.entries, time: b.Time})
	for i := range b.Entries {
		if i%touchAhead == 0 {
			m.leases.touch(b.Entries[i:min(i+touchAhead, len(b.Entries))])
		}
		e := &b.Entries[i]
		m.entries++
		if id := leaseOf(e); id != 0 {
			m.leaseEntry(id, n, e)
		}
		switch e.Kind {
		case ledger.EntryTransfer:
			m.move(e.Transfer.Debit, n, -e.Transfer.Amount)
			m.move(e.Transfer.Credit, n, e.Transfer.Amount)
		case ledger.EntryAccount:
			if a, ok := e.Fact.(*ledger.AccountOpened); ok {
				m.move(a.ID, n, 0)
			}
		case ledger.EntryLeaseOpened:
			if l, ok := e.Fact.(*ledger.LeaseOpened); ok {
				list(m.lists[byCustomer], uint64(l.Customer), l.ID)
				list(m.lists[byHost], uint64(l.Host), l.ID)
			}
		}
	}
}

func list(m map[uint64]*[]ledger.LeaseID, key uint64, id ledger.LeaseID) {
	ids := m[key]
	if ids == nil {
		ids = new([]ledger.LeaseID)
		m[key] = ids
	}
	*ids = append(*ids, id)
}

func (m *memPart) leaseEntry(id ledger.LeaseID, block uint32, e *ledger.Entry) {
	if m.lastLease != id {
		at, isNew := m.leases.number(id)
		if isNew && at/rowsPerPage == uint32(len(m.rows)) {
			m.rows = append(m.rows, make([]leaseRow, rowsPerPage))
		}
		m.lastLease, m.lastRow = id, at
	}
	r := m.row(m.lastRow)
	if r.n == 0 || r.last != block {
		if r.n < headBlocks {
			r.first[r.n] = block
		} else {
			r.rest = binary.AppendUvarint(r.rest, uint64(block-r.last))
		}
		r.last = block
		r.n++
	}
	if r.n > headBlocks {
		if r.sum == nil {
			r.sum = new(leaseSum)
		}
		r.sum.add(e)
	}
}

func (m *memPart) move(id ledger.AccountID, block uint32, amount int64) {
	slot := &m.recent[id%ledger.AccountID(len(m.recent))]
	if slot.id != id || slot.moves == nil {
		p := m.accounts[id]
		if p == nil {
			p = new([]move)
			m.accounts[id] = p
		}
		slot.id, slot.moves = id, p
	}
	moves := *slot.moves
	if n := len(moves); n > 0 && moves[n-1].block == block {
		// Still the block that is being added: nobody has seen it.
		moves[n-1].after += amount
		return
	}
	after := amount
	if n := len(moves); n > 0 {
		after += moves[n-1].after
	}
	*slot.moves = append(moves, move{block: block, after: after})
}

func (m *memPart) block(ordinal int) (blockRef, error) { return m.blocks[ordinal], nil }

func (m *memPart) lease(id ledger.LeaseID) (*leasePart, error) {
	at, ok := m.leases.find(id)
	if !ok {
		return nil, nil
	}
	r := m.row(at)
	out := &leasePart{blocks: r.blocks()}
	var err error
	if r.sum != nil {
		out.sum, err = r.sum.entries()
	}
	return out, err
}

func (r *leaseRow) blocks() []uint32 {
	return slices.AppendSeq(make([]uint32, 0, r.n), r.each())
}

// each yields the row's blocks in order.
func (r *leaseRow) each() iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		for _, b := range r.first[:min(r.n, headBlocks)] {
			if !yield(b) {
				return
			}
		}
		at := r.first[headBlocks-1]
		for rest := r.rest; len(rest) > 0; {
			d, n := binary.Uvarint(rest)
			at, rest = at+uint32(d), rest[n:]
			if !yield(at) {
				return
			}
		}
	}
}

func (m *memPart) account(id ledger.AccountID) ([]move, error) {
	if p := m.accounts[id]; p != nil {
		return (*p)[:len(*p):len(*p)], nil
	}
	return nil, nil
}

func (m *memPart) net(id ledger.AccountID) (int64, error) {
	moves, err := m.account(id)
	if len(moves) == 0 {
		return 0, err
	}
	return moves[len(moves)-1].after, nil
}

func (m *memPart) opened(t table, key uint64) ([]ledger.LeaseID, error) {
	if p := m.lists[t][key]; p != nil {
		return (*p)[:len(*p):len(*p)], nil
	}
	return nil, nil
}

// movedUpTo is the change of the balance up to and with a block.
func movedUpTo(moves []move, block int) int64 {
	n := sort.Search(len(moves), func(i int) bool { return int(moves[i].block) > block })
	if n == 0 {
		return 0
	}
	return moves[n-1].after
}
