package sim

import (
	"bytes"
	"context"
	"io"
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/joulecloud/joule/raftstore"
	"github.com/joulecloud/joule/settlement/audit"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/node"
	"github.com/joulecloud/joule/settlement/wire"
)

// place is where a command stands in the history: block, and command in it.
type place struct{ block, command int }

// done is what the journal says of a command or a record.
type done struct {
	place
	result ledger.Result
}

type recordKey struct {
	lease ledger.LeaseID
	seq   uint64
	hash  ledger.Hash
}

// check compares what the clients were told with what every server has.
func (c *cluster) check(h *history) {
	blocks := c.converge()
	if blocks == nil {
		return
	}
	byKey, byRecord, byDigest := map[string]done{}, map[recordKey]done{}, map[ledger.Digest]int{{}: 0}
	var index uint64
	for i, b := range blocks {
		byDigest[b.Digest] = i + 1
		if b.Index <= index {
			c.tb.Errorf("block %d: log index %d follows %d", b.Seq, b.Index, index)
		}
		index = b.Index
		for k := range b.Envelopes {
			env, d := &b.Envelopes[k], done{place{i + 1, k}, b.Results[k]}
			if env.Key != "" {
				// A conflict is the answer to the key's second input, not the command's own.
				if first, ok := byKey[env.Key]; ok {
					if d.result.Code != ledger.CodeConflict && !reflect.DeepEqual(d.result, first.result) {
						c.tb.Errorf("key %q: got %+v in block %d, %+v in block %d", env.Key, first.result, first.block, d.result, d.block)
					}
				} else {
					byKey[env.Key] = d
				}
				continue
			}
			if batch, ok := env.Command.(*ledger.UsageBatch); ok && d.result.Code == ledger.CodeOK {
				for n, r := range batch.Records {
					key := recordKey{r.Lease, r.Seq, r.Hash}
					if _, ok := byRecord[key]; !ok {
						d.result.Records = d.result.Records[n : n+1]
						byRecord[key] = d
					}
				}
			}
		}
	}
	refused := map[ledger.LeaseID]uint64{}
	for _, b := range blocks {
		for i := range b.Entries {
			if e := &b.Entries[i]; e.Kind == ledger.EntryUsage {
				refused[e.Usage.Lease] = e.Usage.Refused.WallMs
			}
		}
	}
	// Time is refused only where nobody could know that it had passed: all had
	// been down, and a clock set back (rule U6).
	for lease, ms := range refused {
		if ms > 0 && c.steady {
			c.tb.Errorf("lease %d: %d ms of honest usage were refused", lease, ms)
		} else if ms > 0 {
			c.counts["leases with refused time"]++
		}
	}
	c.counts["leases"] += len(refused)
	type event struct {
		place
		called, acked int64
		what          string
	}
	var events []event
	unknown, again := 0, map[place]bool{}
	for _, o := range h.ops {
		var d done
		var ok bool
		if batch, isUsage := o.env.Command.(*ledger.UsageBatch); isUsage {
			r := &batch.Records[0]
			d, ok = byRecord[recordKey{r.Lease, r.Seq, r.Hash}]
		} else {
			d, ok = byKey[o.env.Key]
		}
		if o.acked == 0 {
			unknown++
			continue
		}
		if !ok {
			c.tb.Errorf("%s: acknowledged %T %q is lost", o.client, o.env.Command, o.env.Key)
			continue
		}
		if o.env.Key != "" && !reflect.DeepEqual(o.result, d.result) {
			c.tb.Errorf("%s: %T %q was answered %+v, block %d has %+v", o.client, o.env.Command, o.env.Key, o.result, d.block, d.result)
		}
		if o.env.Key == "" {
			if status := o.result.Records[0].Status; status != ledger.RecordAccepted && status != ledger.RecordRepeat &&
				status != ledger.RecordOld && status != ledger.RecordLeaseClosed {
				c.tb.Errorf("%s: an honest record was answered %+v", o.client, o.result.Records[0])
			}
			if again[d.place] { // a batch sent again stands at its first place
				continue
			}
			again[d.place] = true
		}
		events = append(events, event{d.place, o.called, o.acked, o.client + " " + o.env.Key})
	}
	for _, r := range h.reads {
		at, ok := byDigest[r.digest]
		if !ok {
			c.tb.Errorf("a read saw a state that no server has: digest %x after %d entries", r.digest, r.entries)
			continue
		}
		events = append(events, event{place{at, math.MaxInt}, r.called, r.answered, "read"})
	}
	// Whatever was answered before something else was asked for stands before it.
	slices.SortStableFunc(events, func(a, b event) int {
		if a.block != b.block {
			return a.block - b.block
		}
		return a.command - b.command
	})
	latest := event{}
	for _, e := range events {
		if latest.called > e.acked && latest.place != e.place {
			c.tb.Errorf("%q at %v was answered before %q at %v was asked for", e.what, e.place, latest.what, latest.place)
		}
		if e.called > latest.called {
			latest = e
		}
	}
	c.counts["blocks"], c.counts["commands"], c.counts["reads"], c.counts["unanswered"] = len(blocks), len(h.ops), len(h.reads), unknown
}

// converge waits until all servers have the same, and returns the history.
func (c *cluster) converge() []*wire.Block {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	for led := false; !led; {
		for _, s := range c.servers {
			if n, _ := s.live(); n != nil && n.Read(ctx, (*ledger.Ledger).Verify) == nil {
				led = true
			}
		}
		if !c.pause(ctx, 100*time.Millisecond, 200*time.Millisecond) {
			c.tb.Error("no server leads three minutes after everything was mended")
			return nil
		}
	}
	c.settle(ctx)
	var blocks []*wire.Block
	var state []byte
	for _, s := range c.servers {
		n, _ := s.live()
		if n == nil {
			c.tb.Errorf("%s: is down after everything was mended", s.id)
			return nil
		}
		var got []*wire.Block
		for b, err := range n.Journal().Blocks(0) {
			if err != nil {
				c.tb.Errorf("%s: journal: %v", s.id, err)
				return nil
			}
			got = append(got, b)
		}
		st := n.Status()
		usd, joule := n.Sums()
		if len(got) == 0 || st.Digest != got[len(got)-1].Digest || usd != 0 || joule != 0 {
			c.tb.Errorf("%s: got %d blocks, sums %d and %d, status %+v", s.id, len(got), usd, joule, st)
			return nil
		}
		if blocks == nil {
			blocks = got
		} else if len(got) != len(blocks) || got[len(got)-1].Digest != blocks[len(blocks)-1].Digest {
			c.tb.Errorf("%s has %d blocks to digest %x, %s %d to %x", s.id, len(got), st.Digest, c.servers[0].id, len(blocks), blocks[len(blocks)-1].Digest)
			return nil
		}
		snap, err := s.snapshot(ctx, n)
		if err != nil {
			c.tb.Errorf("%s: snapshot: %v", s.id, err)
		} else if state == nil {
			state = snap
		} else if !bytes.Equal(snap, state) {
			c.tb.Errorf("%s: its ledger differs from that of %s", s.id, c.servers[0].id)
		}
	}
	dir := filepath.Join(c.dir, "audit")
	if err := c.servers[0].disk.Dump(journalDir, dir); err != nil {
		c.tb.Error(err)
		return nil
	}
	report, err := audit.Run(ctx, dir)
	if err != nil {
		c.tb.Errorf("audit: %v", err)
		return nil
	}
	for _, f := range report.Findings {
		c.tb.Errorf("audit: %+v", f)
	}
	if report.Blocks != uint64(len(blocks)) {
		c.tb.Errorf("audit: %d blocks, want %d", report.Blocks, len(blocks))
	}
	return blocks
}

// settle waits until every server has as many blocks as the others for some
// seconds, or ctx ends: a command whose client left may still be on its way.
func (c *cluster) settle(ctx context.Context) {
	for same := 0; same < 20 && c.pause(ctx, 500*time.Millisecond, 500*time.Millisecond); same++ {
		var want uint64
		for i, s := range c.servers {
			n, _ := s.live()
			if n == nil {
				same = -1
				break
			}
			if got, _ := n.Journal().Last(); i == 0 {
				want = got
			} else if got != want {
				same = -1
			}
		}
	}
}

// snapshot is the server's ledger as a new snapshot of its has it.
func (s *server) snapshot(ctx context.Context, n *node.Node) ([]byte, error) {
	if err := n.Store().TakeSnapshot(ctx); err != nil {
		return nil, err
	}
	metas, err := snapshots{s.disk}.List()
	if err != nil {
		return nil, err
	}
	_, r, err := snapshots{s.disk}.Open(metas[0].ID)
	if err != nil {
		return nil, err
	}
	l, extra, err := readSnapshot(r)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := wire.WriteSnapshot(&out, l, extra); err != nil {
		return nil, err
	}
	return out.Bytes(), l.Verify()
}

// readSnapshot reads what raftstore wrote: its own header, then the node's.
func readSnapshot(r io.Reader) (*ledger.Ledger, []byte, error) {
	if _, err := io.CopyN(io.Discard, r, raftstore.SnapshotHeaderSize); err != nil {
		return nil, nil, err
	}
	return wire.ReadSnapshot(r)
}
