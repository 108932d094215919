package ledger

const (
	partMin = 64   // slots of an index's first part
	partMax = 4096 // slots of a part before it is split
)

// index finds rows by a key of theirs: an extendible hash table without
// pointers. It holds numbers of rows, and of each key a part of its hash; the
// keys themselves are the rows'. Nothing is ever taken out.
//
// It grows by splitting one part of at most partMax slots at a time, so no
// command waits for the whole of a large index to be made anew. There is no
// order to be seen in it: the hash, which is seeded, decides nothing but where
// a row's number stands.
type index struct {
	parts []*indexPart // by the first bits of the hash; one that has split less often than others is there several times
	bits  uint         // log₂ of how many parts
	n     int
}

type indexPart struct {
	slots []uint64 // hash<<32 | row; 0: free. A power of two, at most 7/8 of them taken
	n     int
	bits  uint // how many first bits the hashes of its rows have in common
}

func (x *index) len() int { return x.n }

func (x *index) part(hash uint32) *indexPart { return x.parts[hash>>(32-x.bits)] }

// find returns the row with the hash that is the one looked for.
func (x *index) find(hash uint32, is func(row int) bool) (row int, ok bool) {
	if x.n == 0 {
		return 0, false
	}
	slots := x.part(hash).slots
	mask := uint32(len(slots) - 1)
	for i := hash & mask; slots[i] != 0; i = (i + 1) & mask {
		if s := slots[i]; uint32(s>>32) == hash && is(int(uint32(s))) {
			return int(uint32(s)), true
		}
	}
	return 0, false
}

// add adds a row, from 1, whose key is not there.
func (x *index) add(hash uint32, row int) {
	if x.parts == nil {
		x.parts = []*indexPart{{slots: make([]uint64, partMin)}}
	}
	p := x.part(hash)
	for p.n == len(p.slots)/8*7 {
		x.grow(p, hash)
		p = x.part(hash)
	}
	p.put(uint64(hash)<<32 | uint64(uint32(row)))
	x.n++
}

func (p *indexPart) put(slot uint64) {
	mask := uint32(len(p.slots) - 1)
	i := uint32(slot>>32) & mask
	for p.slots[i] != 0 {
		i = (i + 1) & mask
	}
	p.slots[i] = slot
	p.n++
}

// grow makes room in the part of a hash.
func (x *index) grow(p *indexPart, hash uint32) {
	old := p.slots
	if len(old) < partMax || p.bits == x.bits && len(x.parts) > x.n/partMin {
		// It is small; or its rows have more of the hash in common than chance
		// gives, and the list of parts must not grow on their account.
		p.slots, p.n = make([]uint64, 2*len(old)), 0
		for _, s := range old {
			if s != 0 {
				p.put(s)
			}
		}
		return
	}
	if p.bits == x.bits {
		parts := make([]*indexPart, 2*len(x.parts))
		for i := range parts {
			parts[i] = x.parts[i/2]
		}
		x.parts = parts
		x.bits++
	}
	p.bits++
	p.slots, p.n = make([]uint64, len(old)), 0
	upper := &indexPart{slots: make([]uint64, len(old)), bits: p.bits}
	for _, s := range old {
		switch {
		case s == 0:
		case s>>(64-p.bits)&1 == 0:
			p.put(s)
		default:
			upper.put(s)
		}
	}
	// The parts of all hashes that begin as this one did.
	same := 1 << (x.bits - p.bits + 1)
	first := int(hash>>(32-x.bits)) &^ (same - 1)
	for i := first + same/2; i < first+same; i++ {
		x.parts[i] = upper
	}
}
