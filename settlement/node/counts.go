package node

import (
	"sync/atomic"
	"time"

	"github.com/joulecloud/joule/settlement/ledger"
)

// Counts are what a node has done since it was opened, of the commands that
// were submitted here.
type Counts struct {
	Applied   uint64 // commands that took effect
	Refused   uint64 // by the ledger
	Failed    uint64 // without a known outcome, or not proposed
	Records   uint64 // usage records settled, whatever their status
	Forwarded uint64 // batches handed to another server, repeats included
	Waited    time.Duration
	Verified  uint64 // the last block of the journal that was read again since the start, and is as it was written
}

type counters struct {
	applied, refused, failed, records, forwarded, verified atomic.Uint64
	waited                                                 atomic.Int64 // ns
}

// count takes the outcome of one batch.
func (c *counters) count(commands int, results []ledger.Result, err error, took time.Duration) {
	c.waited.Add(int64(took) * int64(commands))
	if err != nil {
		c.failed.Add(uint64(commands))
		return
	}
	for i := range results {
		if results[i].Code == ledger.CodeOK {
			c.applied.Add(1)
		} else {
			c.refused.Add(1)
		}
		c.records.Add(uint64(len(results[i].Records)))
	}
}

// Counts returns the node's counters.
func (n *Node) Counts() Counts {
	c := &n.counters
	return Counts{Applied: c.applied.Load(), Refused: c.refused.Load(), Failed: c.failed.Load(), Records: c.records.Load(),
		Forwarded: c.forwarded.Load(), Waited: time.Duration(c.waited.Load()), Verified: c.verified.Load()}
}
