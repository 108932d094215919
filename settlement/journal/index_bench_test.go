package journal

import (
	"fmt"
	"testing"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// usageBlock has n records of leases spread over `leases`, with the transfers
// of a charge each.
func usageBlock(seq uint64, n, leases int) *wire.Block {
	b := &wire.Block{Seq: seq}
	for i := range n {
		k := (int(seq)*n + i) * 7919 % leases
		id := ledger.LeaseID(1 + k)
		hold, supplier := ledger.AccountID(10+k%5000), ledger.AccountID(6000+k%700)
		b.Entries = append(b.Entries,
			ledger.Entry{Seq: 1, Kind: ledger.EntryUsage, Usage: ledger.Usage{Lease: id, Seq: seq}},
			ledger.Entry{Seq: 1, Kind: ledger.EntryTransfer, Transfer: ledger.Transfer{Debit: hold, Credit: 4, Amount: 5, Reason: ledger.ReasonCharge, Lease: id, Rate: 1}},
			ledger.Entry{Seq: 1, Kind: ledger.EntryTransfer, Transfer: ledger.Transfer{Debit: 5, Credit: supplier, Amount: 5, Reason: ledger.ReasonPay, Lease: id, Rate: 1}},
			ledger.Entry{Seq: 1, Kind: ledger.EntryTransfer, Transfer: ledger.Transfer{Debit: 5, Credit: 6, Amount: 5, Reason: ledger.ReasonFee, Lease: id, Rate: 1}})
	}
	return b
}

// What indexing costs the goroutine that applies commands, per usage record.
func BenchmarkIndexRecord(b *testing.B) {
	for _, leases := range []int{1000, 1_000_000} {
		b.Run(fmt.Sprint(leases, " leases"), func(b *testing.B) {
			const perBlock, perSegment = 1024, 150 // about 64 MiB of blocks
			blocks := make([]*wire.Block, perSegment)
			for i := range blocks {
				blocks[i] = usageBlock(uint64(i+1), perBlock, leases)
			}
			b.ReportAllocs()
			b.ResetTimer()
			m := newMemPart(nil)
			for i := 0; i < b.N; i += perBlock {
				n := i / perBlock % perSegment
				if n == 0 {
					m = newMemPart(m)
				}
				m.add(blocks[n], 1)
			}
		})
	}
}
