package audit

import (
	"cmp"
	"context"
	"slices"

	"github.com/joulecloud/joule/settlement/journal"
	"github.com/joulecloud/joule/settlement/ledger"
)

// link is an entry's word about an earlier one. They are few, and are checked
// by going through the journal a second time.
type link struct {
	by, block uint64 // the entry that says it, and its block
	entry     uint64 // what it points at
	lease     ledger.LeaseID

	evidence bool // of a fine; else a correction
	hash     ledger.Hash
	reason   ledger.FineReason
	own      bool        // the ledger's own evidence
	after    ledger.Time // it must be younger
}

// checkLinks goes through the journal again, if there is anything to look up.
func (a *auditor) checkLinks(ctx context.Context, dir string) error {
	links := a.books.links
	if len(links) == 0 {
		return nil
	}
	slices.SortStableFunc(links, func(x, y link) int { return cmp.Compare(x.entry, y.entry) })
	for f, err := range journal.Scan(dir) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil || len(links) == 0 {
			break // what can't be read was found the first time
		}
		entries := f.Block.Entries
		for i := range entries {
			for len(links) > 0 && links[0].entry <= entries[i].Seq {
				if l := &links[0]; l.entry == entries[i].Seq {
					a.checkLink(l, &entries[i])
				}
				links = links[1:]
			}
		}
	}
	return nil
}

func (a *auditor) checkLink(l *link, e *ledger.Entry) {
	if !l.evidence {
		if concerns(e) != l.lease {
			a.r.find(CheckCorrections, l.block, l.by, "the correction of lease %d corrects entry %d, which is about lease %d", l.lease, l.entry, concerns(e))
		}
		return
	}
	if e.Time <= l.after {
		a.r.find(CheckFines, l.block, l.by, "the evidence in entry %d is of %d, void at %d or before", l.entry, e.Time, l.after)
	}
	if !l.own {
		return
	}
	ok := false
	switch f := e.Fact.(type) {
	case *ledger.RecordRefused:
		ok = l.reason == ledger.FineEquivocation && f.Status == ledger.RecordEquivocation && f.Record.Lease == l.lease && f.Record.Hash == l.hash
	case *ledger.LeaseClosed:
		ok = l.reason == ledger.FineHostLost && f.Reason == ledger.CloseHostLost && f.ID == l.lease
	}
	if !ok {
		a.r.find(CheckFines, l.block, l.by, "entry %d is no evidence for %s on lease %d: %s", l.entry, l.reason, l.lease, show(e))
	}
}

// concerns is the lease that an entry is about; 0: none.
func concerns(e *ledger.Entry) ledger.LeaseID {
	switch e.Kind {
	case ledger.EntryTransfer:
		return e.Transfer.Lease
	case ledger.EntryUsage:
		return e.Usage.Lease
	}
	switch f := e.Fact.(type) {
	case *ledger.LeaseOpened:
		return f.ID
	case *ledger.LeaseClosed:
		return f.ID
	case *ledger.RecordRefused:
		return f.Record.Lease
	case *ledger.CorrectionMade:
		return f.Lease
	case *ledger.FineIssued:
		return f.Plan.Lease
	}
	return 0
}
