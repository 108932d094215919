package ledger

import (
	"iter"
	"math/bits"
)

const (
	pageBits = 10
	pageSize = 1 << pageBits
	pageMask = pageSize - 1
)

// slab is a growing array of rows in pages that never move: a pointer to a row
// stays good, and growth copies nothing but the table of pages. Rows are
// numbered from 1.
type slab[T any] struct {
	pages [][]T
	n     int
}

func (s *slab[T]) add() (id int, row *T) {
	if s.n&pageMask == 0 {
		s.pages = append(s.pages, make([]T, pageSize))
	}
	s.n++
	return s.n, s.at(s.n)
}

// at returns row id, which must be within 1 and len.
func (s *slab[T]) at(id int) *T {
	i := id - 1
	return &s.pages[i>>pageBits][i&pageMask]
}

func (s *slab[T]) len() int { return s.n }

func (s *slab[T]) all() iter.Seq2[int, *T] {
	return func(yield func(int, *T) bool) {
		for id := 1; id <= s.n; id++ {
			if !yield(id, s.at(id)) {
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
