package node

import (
	"fmt"

	"github.com/joulecloud/joule/settlement/ledger"
)

// Inspect runs fn on this server's own ledger and digest, which may lag behind
// the leader's. fn must not keep the ledger; commands wait for it.
func (n *Node) Inspect(fn func(*ledger.Ledger, ledger.Digest) error) error {
	n.machine.mu.RLock()
	defer n.machine.mu.RUnlock()
	if n.machine.failed != nil {
		return fmt.Errorf("%w: %w", ErrFailed, n.machine.failed)
	}
	return fn(n.machine.ledger, n.machine.digest)
}
