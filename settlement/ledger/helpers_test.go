package ledger_test

import (
	"bytes"
	"testing"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

type fataler interface {
	Helper()
	Fatal(...any)
}

// snapshotBytes returns the whole state as bytes: equal states, equal bytes.
func snapshotBytes(tb fataler, l *ledger.Ledger) []byte {
	tb.Helper()
	return stateBytes(tb, l.State())
}

func stateBytes(tb fataler, st *ledger.State) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := wire.WriteState(&b, st, nil); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func throughSnapshot(tb fataler, l *ledger.Ledger) *ledger.Ledger {
	tb.Helper()
	b := snapshotBytes(tb, l)
	again, _, err := wire.ReadSnapshot(bytes.NewReader(b))
	if err != nil {
		tb.Fatal(err)
	}
	if err := again.Verify(); err != nil {
		tb.Fatal(err)
	}
	if !bytes.Equal(b, snapshotBytes(tb, again)) {
		tb.Fatal("a restored ledger writes another snapshot")
	}
	return again
}

// bench is a ledger with one customer, supplier and host, for tests that drive
// it by hand.
type bench struct {
	t   testing.TB
	l   *ledger.Ledger
	now ledger.Time
	seq map[ledger.LeaseID]uint64
	key int
}

const (
	usd   = 1_000_000_000 // nUSD
	joule = 1_000_000_000 // nJ
)

func newBench(t testing.TB, payIn ledger.Currency, offer ledger.Prices) *bench {
	b := &bench{t: t, l: ledger.New(), now: 1_000_000, seq: make(map[ledger.LeaseID]uint64)}
	b.must(&ledger.CreateCustomer{Name: "acme", Namespace: "acme", PayIn: payIn})
	b.must(&ledger.CreateSupplier{Name: "west-dc"})
	b.must(&ledger.EnrollHost{Name: "dc-1", Supplier: "west-dc", Class: ledger.ClassDatacenter, PublicKey: [32]byte{1}})
	b.must(&ledger.SetOffer{Host: "dc-1", Prices: offer})
	b.must(&ledger.SetRate{NUSDPerJoule: 50_000_000})
	return b
}

func (b *bench) apply(cmd ledger.Command) ledger.Result {
	b.key++
	env := &ledger.Envelope{Command: cmd}
	if keyed(cmd) {
		env.Key = string(rune('a'+b.key%26)) + "-" + string(rune('0'+b.key/26%10)) + "-" + string(rune('0'+b.key/260))
	}
	res := b.l.Apply(b.now, env)
	if err := b.l.Verify(); err != nil {
		b.t.Fatalf("%T %+v: %v", cmd, cmd, err)
	}
	return res
}

func (b *bench) must(cmd ledger.Command) ledger.Result {
	b.t.Helper()
	res := b.apply(cmd)
	if err := res.Err(); err != nil {
		b.t.Fatalf("%T %+v: %v", cmd, cmd, err)
	}
	return res
}

func (b *bench) refused(cmd ledger.Command, want ledger.Code) {
	b.t.Helper()
	before := b.balances()
	if res := b.apply(cmd); res.Code != want {
		b.t.Errorf("%T %+v: got %v %q, want %v", cmd, cmd, res.Code, res.Msg, want)
	}
	if after := b.balances(); !bytes.Equal(before, after) {
		b.t.Errorf("%T %+v: refused, but balances moved", cmd, cmd)
	}
}

func (b *bench) balances() []byte {
	var out []byte
	for id := ledger.AccountID(1); id <= b.l.AccountCount(); id++ {
		a, _ := b.l.Account(id)
		out = append(out, byte(a.Balance), byte(a.Balance>>8), byte(a.Balance>>16), byte(a.Balance>>24),
			byte(a.Balance>>32), byte(a.Balance>>40), byte(a.Balance>>48), byte(a.Balance>>56))
	}
	return out
}

func (b *bench) balance(name string, cur ledger.Currency) int64 {
	a, ok := b.l.AccountByName(name, cur)
	if !ok {
		b.t.Fatalf("no account %q", name)
	}
	return a.Balance
}

func (b *bench) open(alloc string, change ...func(*ledger.OpenLease)) ledger.LeaseID {
	b.t.Helper()
	return b.must(openCommand(alloc, change...)).Lease.Lease
}

func openCommand(alloc string, change ...func(*ledger.OpenLease)) *ledger.OpenLease {
	c := &ledger.OpenLease{Host: "dc-1", Namespace: "acme", Job: "job", Group: "g", Task: "t", Alloc: alloc, Invocation: "i",
		Resources: ledger.Resources{MilliCores: 1000, MemoryMiB: 1024}}
	for _, f := range change {
		f(c)
	}
	return c
}

func (b *bench) lease(id ledger.LeaseID) ledger.Lease {
	b.t.Helper()
	le, ok := b.l.Lease(id)
	if !ok {
		b.t.Fatalf("no lease %d", id)
	}
	return le
}

// record makes the next record of a lease, chained to its last one.
func (b *bench) record(id ledger.LeaseID, active ledger.Totals, final bool) ledger.Record {
	le, _ := b.l.Lease(id)
	return sealed(ledger.Record{Lease: id, Seq: le.LastSeq + 1, Epoch: 1, Prev: le.LastHash, Known: ledger.KnownAll, Active: active, Final: final})
}

func sealed(r ledger.Record) ledger.Record {
	r.Hash = wire.HashRecord(wire.AppendRecord(nil, &r))
	return r
}

func (b *bench) usage(r ledger.Record) ledger.RecordResult {
	b.t.Helper()
	return b.must(&ledger.UsageBatch{Host: 1, Records: []ledger.Record{r}}).Records[0]
}

// wall reports wall time alone, once the ledger's clock is past it.
func (b *bench) wall(id ledger.LeaseID, ms uint64, final bool) ledger.RecordResult {
	b.t.Helper()
	b.now = max(b.now, b.lease(id).Opened+ledger.Time(ms))
	return b.usage(b.record(id, ledger.Totals{WallMs: ms}, final))
}

// keyed says whether a command has an idempotency key.
func keyed(cmd ledger.Command) bool {
	return cmd.Kind() != ledger.KindUsageBatch && cmd.Kind() != ledger.KindTick
}
