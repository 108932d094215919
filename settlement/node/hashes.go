package node

import (
	"crypto/sha256"
	"slices"
	"sync"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// stateHashEvery is the distance in blocks between hashes of the whole state:
// at some hundred blocks a second, one a minute.
const stateHashEvery = 16384

// stateHashesKept is how many the others can still ask for.
const stateHashesKept = 8

// StateHash is a hash over the whole ledger as it was after a block. The digest
// stands for everything that commands did; this one for what is in memory.
type StateHash struct {
	Block uint64
	Hash  [32]byte
}

// hashes makes a hash every so many blocks, beside Apply. Its fields but kept
// belong to the machine's lock.
type hashes struct {
	every   uint64
	running bool
	done    sync.WaitGroup

	mu   sync.Mutex
	kept []StateHash
}

// due reports whether a hash is to be made. One that the last has not let go
// is left out.
func (h *hashes) due(block uint64) bool {
	return h.every > 0 && block%h.every == 0 && !h.running
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
		h.kept = append(h.kept, StateHash{block, hash})
		if n := len(h.kept) - stateHashesKept; n > 0 {
			h.kept = slices.Delete(h.kept, 0, n)
		}
	})
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
