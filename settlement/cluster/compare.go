package cluster

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/node"
)

// compare holds this server's history and state against the others'. Digests
// are chained, so two servers that agree on one block agree on all before it.
//
// Whose digest is a majority's is taken to be right. A server that finds itself
// apart from it stops, and one that has no majority on either side as well:
// nobody can tell which is right then.
func (a *Agent) compare(ctx context.Context, n *node.Node) {
	type vote struct {
		name string
		p    *peer
		d    *joulev1.DescribeResponse
	}
	a.mu.Lock()
	if a.diverged {
		a.mu.Unlock()
		return
	}
	var others []vote
	for _, p := range a.peers {
		if p.d != nil && p.err == nil && p.d.Member && p.d.Block > 0 {
			others = append(others, vote{p.d.Name, p, p.d})
		}
	}
	a.mu.Unlock()
	block, _ := n.Position()
	own := map[uint64][]byte{}
	for _, h := range n.StateHashes() {
		own[h.Block] = h.Hash[:]
	}
	for _, v := range others {
		what, at := "", uint64(0)
		if v.d.Block <= block {
			mine, ok, err := n.DigestAt(v.d.Block)
			switch {
			case err != nil:
				a.cfg.Fatal(fmt.Errorf("this server's journal can't be read: %w", err))
				return
			case ok && !bytes.Equal(mine[:], v.d.Digest):
				what, at = "history", v.d.Block
			case ok:
				a.mark(v.p, func(p *peer) { p.proven = max(p.proven, v.d.Block) })
			}
		}
		for _, h := range v.d.Hashes {
			if mine := own[h.Block]; what == "" && mine != nil && !bytes.Equal(mine, h.Hash) {
				what, at = "state", h.Block
			}
		}
		if what == "" {
			continue
		}
		text := fmt.Sprintf("its %s at block %d is not this server's", what, at)
		first := false
		a.mark(v.p, func(p *peer) { first, p.apart = p.apart == "", text })
		if first {
			a.log.LogAttrs(ctx, slog.LevelError, "ANOTHER SERVER HAS A DIFFERENT "+what, slog.String("peer", v.name), slog.Uint64("block", at))
		}
		if same, apart, total := a.count(ctx, n, what, at); 2*same <= total {
			a.mu.Lock()
			done := a.diverged
			a.diverged = true
			a.mu.Unlock()
			if !done {
				a.cfg.Diverged(fmt.Errorf("the %s of this server at block %d is not that of the others: of %d servers %d have this one's, %d another",
					what, at, total, same, apart))
			}
			return
		}
	}
}

func (a *Agent) mark(p *peer, change func(*peer)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(p)
}

// count asks every member what it has at a block: how many of all have the
// same as this server, itself included, and how many something else.
func (a *Agent) count(ctx context.Context, n *node.Node, what string, block uint64) (same, apart, total int) {
	members := n.Store().Peers()
	same = 1
	for _, m := range members {
		if m.Nonvoter && m.ID != a.cfg.ID {
			continue
		}
		total++
		if m.ID == a.cfg.ID {
			continue
		}
		var mine, theirs []byte
		ctx, cancel := context.WithTimeout(ctx, describeTimeout)
		if what == "history" {
			if d, ok, err := n.DigestAt(block); err == nil && ok {
				mine = d[:]
			}
			if r, err := a.at(m.Addr).DigestAt(ctx, &joulev1.DigestAtRequest{Block: block}); err == nil {
				theirs = r.Digest
			}
		} else {
			for _, h := range n.StateHashes() {
				if h.Block == block {
					mine = h.Hash[:]
				}
			}
			if r, err := a.at(m.Addr).Describe(ctx, &joulev1.DescribeRequest{}); err == nil {
				for _, h := range r.Hashes {
					if h.Block == block {
						theirs = h.Hash
					}
				}
			}
		}
		cancel()
		switch {
		case len(mine) == 0 || len(theirs) == 0:
		case bytes.Equal(mine, theirs):
			same++
		default:
			apart++
		}
	}
	return same, apart, total
}
