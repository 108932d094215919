package ledger

import (
	"iter"
	"math/bits"
	"slices"
)

const (
	// One page in sparePart is made ahead, up to sparesMax of a table: the
	// first writes after a capture copy into pages that are in memory already.
	sparePart = 16
	sparesMax = 2048
)

// page has as many rows as suit their size: a capture copies the list of pages,
// so there should be few, and after it the first write to a page copies that,
// so it should be small.
type page[T any] interface{ [32]T | [256]T }

// wide is a table of rows of cache lines, narrow one of rows of words.
type (
	wide[T any]   = slab[T, [32]T]
	narrow[T any] = slab[T, [256]T]
)

// slab is a growing table of rows in pages, numbered from 1. Growth copies
// nothing but the list of pages.
//
// While a capture is open its pages are shared with whoever encodes it, so a
// row is written only through edit or add, which copy a shared page first. A
// pointer that they return stays good until the next capture; one from get
// only until the next edit or add, and is for reading.
type slab[T any, P page[T]] struct {
	pages  []*P
	gens   []uint32 // of each page: the generation it was made or copied in
	n      int
	gen    uint32 // raised by each capture
	open   int    // captures that were not released
	spares []*P
	old    []*P // replaced while a capture is open
}

// rows is how many a page has, to the compiler a constant.
func (s *slab[T, P]) rows() uint {
	var p P
	return uint(len(p))
}

func (s *slab[T, P]) add() (id int, row *T) {
	if uint(s.n)%s.rows() == 0 {
		if len(s.pages)%sparePart == 0 && len(s.spares) < sparesMax {
			var zero P
			p := new(P)
			*p = zero // a write to every byte: the kernel gives the memory now
			s.spares = append(s.spares, p)
		}
		s.pages = append(s.pages, new(P))
		s.gens = append(s.gens, s.gen)
	}
	s.n++
	return s.n, s.edit(s.n)
}

// get returns row id, which must be within 1 and len, for reading.
func (s *slab[T, P]) get(id int) *T {
	i := uint(id - 1)
	return &(*s.pages[i/s.rows()])[i%s.rows()]
}

// edit returns row id, which must be within 1 and len, for reading and
// writing.
func (s *slab[T, P]) edit(id int) *T {
	i := uint(id - 1)
	at := i / s.rows()
	if s.open > 0 && s.gens[at] != s.gen {
		s.unshare(at)
	}
	return &(*s.pages[at])[i%s.rows()]
}

func (s *slab[T, P]) unshare(i uint) {
	var p *P
	if n := len(s.spares); n > 0 {
		p, s.spares = s.spares[n-1], s.spares[:n-1]
	} else {
		p = new(P)
	}
	*p = *s.pages[i]
	if len(s.old) < sparesMax {
		s.old = append(s.old, s.pages[i])
	}
	s.pages[i], s.gens[i] = p, s.gen
}

// capture returns the table as it is now. It is good for get and all, beside
// edits of s, until release.
func (s *slab[T, P]) capture() slab[T, P] {
	s.gen++
	s.open++
	return slab[T, P]{pages: slices.Clone(s.pages), n: s.n}
}

// release ends one capture. With the last one, the pages that were replaced
// are nobody's, and serve the next.
func (s *slab[T, P]) release() {
	s.open--
	if s.open == 0 {
		s.spares = append(s.spares, s.old[:min(len(s.old), sparesMax-min(sparesMax, len(s.spares)))]...)
		s.old = nil
	}
}

func (s *slab[T, P]) len() int { return s.n }

// all yields every row, for reading.
func (s *slab[T, P]) all() iter.Seq2[int, *T] {
	return func(yield func(int, *T) bool) {
		for id := 1; id <= s.n; id++ {
			if !yield(id, s.get(id)) {
				return
			}
		}
	}
}

// idSet is an ordered set of dense ids: one bit each and a summary bit per
// word, so that finding the next member skips 4,096 absent ids at a step.
type idSet struct {
	words, summary []uint64
	n              int
}

func (s *idSet) has(id uint64) bool {
	w := id >> 6
	return w < uint64(len(s.words)) && s.words[w]&(1<<(id&63)) != 0
}

func (s *idSet) add(id uint64) {
	if s.has(id) {
		return
	}
	w := id >> 6
	for uint64(len(s.words)) <= w {
		s.words = append(s.words, 0)
	}
	for uint64(len(s.summary)) <= w>>6 {
		s.summary = append(s.summary, 0)
	}
	s.words[w] |= 1 << (id & 63)
	s.summary[w>>6] |= 1 << (w & 63)
	s.n++
}

func (s *idSet) remove(id uint64) {
	if !s.has(id) {
		return
	}
	w := id >> 6
	s.words[w] &^= 1 << (id & 63)
	if s.words[w] == 0 {
		s.summary[w>>6] &^= 1 << (w & 63)
	}
	s.n--
}

// next returns the smallest member that is at least from.
func (s *idSet) next(from uint64) (id uint64, ok bool) {
	w := from >> 6
	if w >= uint64(len(s.words)) {
		return 0, false
	}
	if rest := s.words[w] >> (from & 63); rest != 0 {
		return from + uint64(bits.TrailingZeros64(rest)), true
	}
	w++
	for i := w >> 6; i < uint64(len(s.summary)); i++ {
		sum := s.summary[i]
		if i == w>>6 {
			sum &= ^uint64(0) << (w & 63)
		}
		if sum != 0 {
			w = i<<6 + uint64(bits.TrailingZeros64(sum))
			return w<<6 + uint64(bits.TrailingZeros64(s.words[w])), true
		}
	}
	return 0, false
}
