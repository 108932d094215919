package node

import (
	"sync"
	"time"
)

// sumsEvery is how often all balances are added up at most.
const sumsEvery = time.Second

// sums remembers what was added up last.
type sums struct {
	mu         sync.Mutex
	at         time.Time
	block      uint64
	usd, joule int64
}

// Sums adds up all balances of each currency, which must give 0 (rule M2), as
// they were not more than a second ago. Commands go on meanwhile: it reads a
// capture.
func (n *Node) Sums() (usd, joule int64) {
	s := &n.sums
	s.mu.Lock()
	defer s.mu.Unlock()
	m := n.machine
	m.mu.Lock()
	if !s.at.IsZero() && (m.block == s.block || time.Since(s.at) < sumsEvery) {
		m.mu.Unlock()
		return s.usd, s.joule
	}
	l, capture := m.ledger, m.ledger.Capture()
	s.at, s.block = time.Now(), m.block
	m.mu.Unlock()
	s.usd, s.joule = capture.Sums()
	m.mu.Lock()
	l.Release(capture)
	m.mu.Unlock()
	return s.usd, s.joule
}
