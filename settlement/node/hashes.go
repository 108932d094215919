package node

import (
	"context"
	"crypto/sha256"
	"slices"
	"sync"
	"time"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// stateHashEvery is the distance in blocks between hashes of the whole state:
// at some hundred blocks a second, one a minute.
const stateHashEvery = 16384

// stateHashInterval is how long a fault in memory may stay unseen.
const stateHashInterval = 2 * time.Minute

// stateHashesKept is how many the others can still ask for.
const stateHashesKept = 8

// StateHash is a hash over the whole ledger as it was after a block. The digest
// stands for everything that commands did; this one for what is in memory.
type StateHash struct {
	Block uint64
	Hash  [32]byte
}

// hashes makes a hash every so many blocks, and every so much ledger time,
// beside Apply: which blocks have one follows from the log alone, so that the
// servers have some in common. Its fields but kept belong to the machine's lock.
type hashes struct {
	every    uint64 // 0: none is made, as where nobody could ask for it
	interval time.Duration
	period   ledger.Time // of the last block: its time in intervals
	running  bool
	done     sync.WaitGroup

	mu   sync.Mutex
	kept []StateHash
}

// due reports whether a hash is to be made. One that the last has not let go
// is left out.
func (h *hashes) due(block uint64, at ledger.Time) bool {
	if h.every == 0 {
		return false
	}
	period := at / max(ledger.Time(h.interval.Milliseconds()), 1)
	fresh := h.period != 0 && period != h.period
	h.period = period
	return (fresh || block%h.every == 0) && !h.running
}

// start captures the state; m.mu is held.
func (h *hashes) start(m *machine) {
	h.running = true
	l, block, capture := m.ledger, m.block, m.ledger.Capture()
	h.done.Go(func() {
		hash := stateHash(capture.State())
		m.mu.Lock()
		l.Release(capture)
		h.running = false
		m.mu.Unlock()
		h.mu.Lock()
		defer h.mu.Unlock()
		// The same block again: what counts is what is in memory now.
		h.kept = slices.DeleteFunc(h.kept, func(k StateHash) bool { return k.Block == block })
		h.kept = append(h.kept, StateHash{block, hash})
		if n := len(h.kept) - stateHashesKept; n > 0 {
			h.kept = slices.Delete(h.kept, 0, n)
		}
	})
}

// hashIdle makes a hash of a ledger that nothing changes, again and again: an
// idle cluster's servers are all at one block.
func (n *Node) hashIdle(ctx context.Context) {
	h := &n.machine.hashes
	tick := time.NewTicker(h.interval)
	defer tick.Stop()
	before := uint64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		n.machine.mu.Lock()
		block := n.machine.block
		if block > 0 && block == before && !h.running && n.machine.failed == nil {
			h.start(n.machine)
		}
		before = block
		n.machine.mu.Unlock()
	}
}

func stateHash(st *ledger.State) (hash [32]byte) {
	sum := sha256.New()
	_ = wire.WriteState(sum, st, nil) // a hash can't fail
	sum.Sum(hash[:0])
	return hash
}

func (h *hashes) list() []StateHash {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.kept)
}

// StateHashes returns the newest hashes over this server's whole ledger.
func (n *Node) StateHashes() []StateHash { return n.machine.hashes.list() }

// Position returns the last applied block and its digest.
func (n *Node) Position() (block uint64, digest ledger.Digest) {
	n.machine.mu.RLock()
	defer n.machine.mu.RUnlock()
	return n.machine.block, n.machine.digest
}
