package sim

import (
	"sync"
	"sync/atomic"

	"github.com/joulecloud/joule/settlement/ledger"
)

// history is what the clients know: what they asked for, what they were told.
type history struct {
	clock atomic.Int64 // orders calls and answers; virtual time has ties

	mu    sync.Mutex
	ops   []*op
	reads []*read
}

// op is one command of a client.
type op struct {
	client string
	env    ledger.Envelope
	called int64 // first try
	acked  int64 // 0: the client doesn't know what became of it
	result ledger.Result
	tries  int
}

// read is an answered linearizable read: the state it was made from.
type read struct {
	called, answered int64
	digest           ledger.Digest
	entries          uint64
}

func (h *history) begin(client string, env ledger.Envelope) *op {
	o := &op{client: client, env: env, called: h.clock.Add(1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, o)
	return o
}

func (h *history) ack(o *op, res ledger.Result) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if o.acked == 0 {
		o.acked, o.result = h.clock.Add(1), res
	}
}

func (h *history) addRead(r *read) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reads = append(h.reads, r)
}
