package ledger_test

import (
	"fmt"
	"testing"

	"github.com/joulecloud/joule/settlement/ledger"
)

// manyLeases is a ledger with n open leases of one host, each with funds for
// hours.
func manyLeases(tb testing.TB, n int) (*ledger.Ledger, ledger.Time) {
	tb.Helper()
	l := ledger.New()
	now := ledger.Time(1_763_800_000_000)
	key := 0
	do := func(cmd ledger.Command) {
		key++
		if res := l.Apply(now, &ledger.Envelope{Key: fmt.Sprint("k", key), Command: cmd}); res.Code != ledger.CodeOK {
			tb.Fatalf("%T: %s", cmd, res.Msg)
		}
		l.TakeEntries()
	}
	do(&ledger.CreateSupplier{Name: "west-dc"})
	do(&ledger.EnrollHost{Name: "dc-1", Supplier: "west-dc", Class: ledger.ClassDatacenter, PublicKey: [32]byte{1}})
	do(&ledger.SetOffer{Host: "dc-1", Prices: ledger.Prices{Base: 10_000_000, CPU: 40_000_000, GPU: 2_500_000_000, Memory: 5_000_000}})
	do(&ledger.SetRate{NUSDPerJoule: 51_234_567})
	do(&ledger.SetPolicy{FeePPM: 20_000, SliceMs: 60_000})
	do(&ledger.Mint{Amount: 1_000_000_000 * joule, Ref: "r"})
	for c := range 100 {
		name := fmt.Sprintf("customer-%d", c)
		do(&ledger.CreateCustomer{Name: name, Namespace: name, PayIn: ledger.USD})
		do(&ledger.Deposit{Customer: name, Currency: ledger.USD, Amount: 1_000_000 * usd, Ref: "r"})
	}
	for i := range n {
		c := openCommand(fmt.Sprint("alloc-", i))
		c.Namespace = fmt.Sprintf("customer-%d", i%100)
		do(c)
	}
	return l, now
}

// stride visits the leases in an order that the memory cannot foresee.
const stride = 7_919_317

// nextRound writes into batch the records of the next leases.
func nextRound(batch *ledger.UsageBatch, leases int, next *uint64) (newRound bool) {
	for i := range batch.Records {
		n := *next
		*next++
		round := n/uint64(leases) + 1
		batch.Records[i] = ledger.Record{
			Lease: ledger.LeaseID(n*stride%uint64(leases) + 1), Seq: round, Epoch: 1, Known: ledger.KnownAll,
			Prev: hashOfRound(round - 1), Hash: hashOfRound(round),
			Active: ledger.Totals{WallMs: 2000 * round, CPUMs: 1777 * round, MemoryMiBMs: 1024 * 2000 * round},
		}
		newRound = newRound || n%uint64(leases) == 0
	}
	return newRound
}

// hashOfRound stands for a record's hash: the ledger only compares them.
func hashOfRound(round uint64) (h ledger.Hash) {
	if round > 0 {
		h[0], h[1], h[2], h[15] = byte(round), byte(round>>8), byte(round>>16), 1
	}
	return h
}

func TestUsageDoesNotAllocate(t *testing.T) {
	l, now := manyLeases(t, 1024)
	batch := &ledger.UsageBatch{Host: 1, Records: make([]ledger.Record, 64)}
	env := &ledger.Envelope{Command: batch}
	var next uint64
	apply := func() {
		if nextRound(batch, 1024, &next) {
			now += 2000
		}
		res := l.Apply(now, env)
		for _, r := range res.Records {
			if r.Status != ledger.RecordAccepted || r.Charged == 0 {
				t.Fatalf("record %+v was not charged", r)
			}
		}
		l.TakeEntries()
	}
	for range 64 { // let the buffers grow, through the first top-ups
		apply()
	}
	if got := testing.AllocsPerRun(1000, apply); got != 0 {
		t.Errorf("a batch of %d records allocates %.2f times, want 0", len(batch.Records), got)
	}
	if err := l.Verify(); err != nil {
		t.Error(err)
	}
}

func BenchmarkUsageBatch(b *testing.B) {
	const leases = 1_000_000
	l, now := manyLeases(b, leases)
	var next uint64
	for _, size := range []int{64, 1024} {
		b.Run(fmt.Sprintf("records=%d", size), func(b *testing.B) {
			batch := &ledger.UsageBatch{Host: 1, Records: make([]ledger.Record, size)}
			env := &ledger.Envelope{Command: batch}
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				if nextRound(batch, leases, &next) {
					now += 2000
				}
				b.StartTimer()
				res := l.Apply(now, env)
				l.TakeEntries()
				if len(res.Records) != size || res.Records[0].Status != ledger.RecordAccepted {
					b.Fatalf("got %+v", res)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/record")
		})
	}
}
