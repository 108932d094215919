package wire_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

func snapshotOf(tb testing.TB, l *ledger.Ledger, extra []byte) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := wire.WriteSnapshot(&b, l, extra); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// sampleLedger has something of everything: an open and a closed lease, a
// charge that waits for JOULE, refusals under keys.
func sampleLedger(tb testing.TB) *ledger.Ledger {
	tb.Helper()
	l := ledger.New()
	apply := func(now ledger.Time, key string, cmd ledger.Command, want ledger.Code) {
		tb.Helper()
		if res := l.Apply(now, &ledger.Envelope{Key: key, Command: cmd}); res.Code != want {
			tb.Fatalf("%T: got %v %q, want %v", cmd, res.Code, res.Msg, want)
		}
	}
	usage := func(now ledger.Time, r ledger.Record) {
		tb.Helper()
		r.Epoch, r.Known = 1, ledger.KnownAll
		r.Hash = wire.HashRecord(wire.AppendRecord(nil, &r))
		res := l.Apply(now, &ledger.Envelope{Command: &ledger.UsageBatch{Host: 1, Records: []ledger.Record{r}}})
		if res.Code != ledger.CodeOK || res.Records[0].Status != ledger.RecordAccepted {
			tb.Fatalf("usage: got %+v", res)
		}
	}
	open := func(alloc, namespace string) *ledger.OpenLease {
		return &ledger.OpenLease{Host: "dc-1", Namespace: namespace, Job: "llm", Group: "serve", Task: "api", Alloc: alloc, Invocation: "i1",
			Resources: ledger.Resources{MilliCores: 2000, MemoryMiB: 1024, GPUs: 1}, Budget: 4_000_000_000}
	}
	apply(1000, "k1", &ledger.CreateCustomer{Name: "acme", Namespace: "acme", PayIn: ledger.USD}, ledger.CodeOK)
	apply(1000, "k2", &ledger.CreateCustomer{Name: "solar", Namespace: "solar", PayIn: ledger.JOULE}, ledger.CodeOK)
	apply(1000, "k3", &ledger.CreateSupplier{Name: "west-dc"}, ledger.CodeOK)
	apply(1000, "k4", &ledger.EnrollHost{Name: "dc-1", Supplier: "west-dc", Class: ledger.ClassDatacenter, PublicKey: [32]byte{1}}, ledger.CodeOK)
	apply(1000, "k5", &ledger.SetOffer{Host: "dc-1", Prices: ledger.Prices{Base: 360_000_000, CPU: 40_000_000, GPU: 2_500_000_000, Memory: 5_000_000}}, ledger.CodeOK)
	apply(1000, "k6", &ledger.SetPolicy{FeePPM: 20_000, SliceMs: 30_000}, ledger.CodeOK)
	apply(1000, "k7", &ledger.SetRate{NUSDPerJoule: 51_234_567}, ledger.CodeOK)
	apply(1000, "k8", &ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: 5_000_000_000, Ref: "pay_1"}, ledger.CodeOK)
	apply(1000, "k9", &ledger.Withdraw{Party: ledger.PartyCustomer, Name: "acme", Currency: ledger.USD, Amount: 6_000_000_000, Ref: "out"}, ledger.CodeInsufficient)
	apply(1000, "k10", &ledger.Mint{Amount: 50_000_000, Ref: "mint"}, ledger.CodeOK)
	apply(1000, "k11", open("a1", "acme"), ledger.CodeOK)
	apply(1000, "k12", open("a2", "acme"), ledger.CodeOK)
	usage(4000, ledger.Record{Lease: 1, Seq: 1, Active: ledger.Totals{WallMs: 2320, CPUMs: 100, GPUMs: 2320, MemoryMiBMs: 1 << 20}, Final: true, Quality: ledger.QualityRebooted})
	usage(5000, ledger.Record{Lease: 2, Seq: 1, Active: ledger.Totals{WallMs: 1 << 40}, Standby: ledger.Totals{WallMs: 3}})
	return l
}

func TestSnapshotRoundTrip(t *testing.T) {
	l := sampleLedger(t)
	for _, size := range []int{0, 1, 64 << 10, 64<<10 + 1, 300_000} {
		extra := bytes.Repeat([]byte{7}, size)
		b := snapshotOf(t, l, extra)
		for name, r := range map[string]io.Reader{"whole": bytes.NewReader(b), "byte by byte": iotest.OneByteReader(bytes.NewReader(b))} {
			again, got, err := wire.ReadSnapshot(r)
			if err != nil || !bytes.Equal(got, extra) {
				t.Fatalf("%d extra bytes, %s: got %d, %v", size, name, len(got), err)
			}
			if err := again.Verify(); err != nil {
				t.Error(err)
			}
			if !bytes.Equal(snapshotOf(t, again, extra), b) {
				t.Errorf("%d extra bytes, %s: the restored ledger writes another snapshot", size, name)
			}
		}
	}
	golden(t, "snapshot", snapshotOf(t, l, []byte("extra")))
}

func TestSnapshotOfAnEmptyLedgerGoesOn(t *testing.T) {
	l, extra, err := wire.ReadSnapshot(bytes.NewReader(snapshotOf(t, ledger.New(), nil)))
	if err != nil || len(extra) != 0 {
		t.Fatalf("got %d extra bytes, %v", len(extra), err)
	}
	cmd := &ledger.Envelope{Key: "k", Command: &ledger.CreateSupplier{Name: "s"}}
	fresh := ledger.New()
	fresh.Apply(1, cmd)
	l.Apply(1, cmd)
	if got, want := len(l.TakeEntries()), len(fresh.TakeEntries()); got != want {
		t.Errorf("got %d entries, want %d, the system accounts' among them", got, want)
	}
}

func TestSnapshotDamage(t *testing.T) {
	good := snapshotOf(t, sampleLedger(t), []byte("extra"))
	for n := 0; n < len(good); n += 3 {
		if _, _, err := wire.ReadSnapshot(bytes.NewReader(good[:n])); err == nil {
			t.Fatalf("a snapshot cut to %d of %d bytes was read", n, len(good))
		}
	}
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 1 << (i % 8)
		if _, _, err := wire.ReadSnapshot(bytes.NewReader(b)); err == nil {
			t.Fatalf("a snapshot with a bit of byte %d flipped was read", i)
		}
	}
	if _, _, err := wire.ReadSnapshot(bytes.NewReader(append(bytes.Clone(good), 0))); err == nil || !strings.Contains(err.Error(), "trailing bytes") {
		t.Errorf("a trailing byte: got %v", err)
	}
	b := bytes.Clone(good)
	b[8] = 2
	if _, _, err := wire.ReadSnapshot(bytes.NewReader(b)); !errors.Is(err, wire.ErrUnknownVersion) {
		t.Errorf("another version: got %v, want ErrUnknownVersion", err)
	}
	b = bytes.Clone(good)
	b[len(b)-1] ^= 1
	if _, _, err := wire.ReadSnapshot(bytes.NewReader(b)); !errors.Is(err, wire.ErrSnapshotDigest) {
		t.Errorf("another digest: got %v, want ErrSnapshotDigest", err)
	}
	broken := errors.New("disk on fire")
	if _, _, err := wire.ReadSnapshot(io.MultiReader(bytes.NewReader(good[:200]), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("a failing reader: got %v, want its error", err)
	}
}

// failAfter fails every write once n bytes were written.
type failAfter struct{ n int }

var errFull = errors.New("disk full")

func (w *failAfter) Write(b []byte) (int, error) {
	if w.n < len(b) {
		return 0, errFull
	}
	w.n -= len(b)
	return len(b), nil
}

func TestSnapshotWriteErrors(t *testing.T) {
	l := sampleLedger(t)
	size := len(snapshotOf(t, l, nil))
	for _, n := range []int{0, size - 33, size - 1} {
		if err := wire.WriteSnapshot(&failAfter{n}, l, nil); !errors.Is(err, errFull) {
			t.Errorf("room for %d of %d bytes: got %v, want its error", n, size, err)
		}
	}
	if err := wire.WriteSnapshot(&failAfter{size}, l, nil); err != nil {
		t.Errorf("room for all: got %v", err)
	}
}

func BenchmarkSnapshot(b *testing.B) {
	l := sampleLedger(b)
	for i := range 100_000 {
		l.Apply(6000, &ledger.Envelope{Key: fmt.Sprint("d", i), Command: &ledger.OpenLease{Host: "dc-1", Namespace: "acme",
			Job: "j", Group: "g", Task: "t", Alloc: fmt.Sprint("alloc-", i), Invocation: "i"}})
		l.TakeEntries()
	}
	var buf bytes.Buffer
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			buf.Reset()
			if err := wire.WriteSnapshot(&buf, l, nil); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(buf.Len()))
		}
	})
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := wire.ReadSnapshot(bytes.NewReader(buf.Bytes())); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(buf.Len()))
		}
	})
}

func BenchmarkDecodeBatch(b *testing.B) {
	records := make([]ledger.Record, 1024)
	for i := range records {
		records[i] = sampleRecord(ledger.LeaseID(i+1), 1)
	}
	enc := wire.AppendBatch(nil, 1, [16]byte{}, records)
	var into ledger.UsageBatch
	b.ReportAllocs()
	for b.Loop() {
		if err := wire.DecodeBatch(enc, &into); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(records)), "ns/record")
}
