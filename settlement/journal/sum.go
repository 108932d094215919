package journal

import (
	"cmp"
	"slices"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// leaseSum condenses a lease's entries: of usage and of each fact the last one
// is kept, and transfers that differ in nothing but amount, reference and time
// are added up, at the place of the first. Whoever folds entries by the last
// usage, the facts and sums of transfers gets the same from the condensed ones.
type leaseSum struct {
	usage     ledger.Usage
	usageSeq  uint64 // 0: none
	usageTime ledger.Time
	transfers []sumRow
	facts     []factRow
}

type sumRow struct {
	seq  uint64
	time ledger.Time
	t    ledger.Transfer
}

type factRow struct {
	kind    ledger.EntryKind
	encoded []byte
}

func (s *leaseSum) add(e *ledger.Entry) {
	switch e.Kind {
	case ledger.EntryUsage:
		s.usage, s.usageSeq, s.usageTime = e.Usage, e.Seq, e.Time
	case ledger.EntryTransfer:
		s.transfer(e)
	default:
		for i := range s.facts {
			if f := &s.facts[i]; f.kind == e.Kind {
				f.encoded = wire.AppendEntry(nil, e)
				return
			}
		}
		s.facts = append(s.facts, factRow{e.Kind, wire.AppendEntry(nil, e)})
	}
}

func (s *leaseSum) transfer(e *ledger.Entry) {
	t := &e.Transfer
	for i := range s.transfers {
		r := &s.transfers[i].t
		if r.Reason == t.Reason && r.Debit == t.Debit && r.Credit == t.Credit && r.Rate == t.Rate &&
			r.Currency == t.Currency && r.Amount <= r.Amount+t.Amount {
			r.Amount += t.Amount
			return
		}
	}
	row := sumRow{seq: e.Seq, time: e.Time, t: *t}
	row.t.Ref = ""
	s.transfers = append(s.transfers, row)
}

// entries returns the condensed entries in order.
func (s *leaseSum) entries() ([]ledger.Entry, error) {
	out := make([]ledger.Entry, 0, len(s.transfers)+len(s.facts)+1)
	for i := range s.transfers {
		r := &s.transfers[i]
		out = append(out, ledger.Entry{Seq: r.seq, Time: r.time, Kind: ledger.EntryTransfer, Transfer: r.t})
	}
	for i := range s.facts {
		e, err := wire.DecodeEntry(s.facts[i].encoded)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	if s.usageSeq != 0 {
		out = append(out, ledger.Entry{Seq: s.usageSeq, Time: s.usageTime, Kind: ledger.EntryUsage, Usage: s.usage})
	}
	slices.SortFunc(out, func(a, b ledger.Entry) int { return cmp.Compare(a.Seq, b.Seq) })
	return out, nil
}

// leaseOf is the lease that an entry is about; 0: none.
func leaseOf(e *ledger.Entry) ledger.LeaseID {
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
	case *ledger.FineProposed:
		return f.Lease
	case *ledger.FineIssued:
		return f.Plan.Lease
	}
	return 0
}

// concerns reports whether an entry moves money of the account or opens it.
func concerns(e *ledger.Entry, id ledger.AccountID) bool {
	switch e.Kind {
	case ledger.EntryTransfer:
		return e.Transfer.Debit == id || e.Transfer.Credit == id
	case ledger.EntryAccount:
		a, ok := e.Fact.(*ledger.AccountOpened)
		return ok && a.ID == id
	}
	return false
}
