package wire_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// The generators draw whole values of the types, right or wrong for the
// ledger: the wire carries both.

func genTotals(t *rapid.T) ledger.Totals {
	return ledger.Totals{WallMs: rapid.Uint64().Draw(t, "wall"), CPUMs: rapid.Uint64().Draw(t, "cpu"),
		GPUMs: rapid.Uint64().Draw(t, "gpu"), MemoryMiBMs: rapid.Uint64().Draw(t, "mem")}
}

func genHash(t *rapid.T) (h ledger.Hash) {
	copy(h[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "hash"))
	return h
}

func genRecord(t *rapid.T) ledger.Record {
	r := ledger.Record{Lease: ledger.LeaseID(rapid.Uint64().Draw(t, "lease")), Seq: rapid.Uint64().Draw(t, "seq"),
		Epoch: rapid.Uint32().Draw(t, "epoch"), Prev: genHash(t), Known: ledger.Known(rapid.Byte().Draw(t, "known")),
		Final: rapid.Bool().Draw(t, "final"), Active: genTotals(t), Standby: genTotals(t),
		GPUBusyMs: rapid.Uint64().Draw(t, "busy"), GPUEnergyMJ: rapid.Uint64().Draw(t, "energy"),
		Quality: ledger.Quality(rapid.Uint32().Draw(t, "quality"))}
	r.Hash = wire.HashRecord(wire.AppendRecord(nil, &r))
	return r
}

func genBatch(t *rapid.T) *ledger.UsageBatch {
	b := &ledger.UsageBatch{Host: ledger.HostID(rapid.Uint32().Draw(t, "host")), Boot: [16]byte(genHash(t)),
		Records: []ledger.Record{}}
	h := genHash(t)
	copy(b.Signature[20:], h[:])
	for range rapid.IntRange(0, 4).Draw(t, "records") {
		b.Records = append(b.Records, genRecord(t))
	}
	return b
}

func genPrices(t *rapid.T) ledger.Prices {
	n := rapid.Int64()
	return ledger.Prices{Base: ledger.NUSD(n.Draw(t, "base")), CPU: ledger.NUSD(n.Draw(t, "cpu")),
		GPU: ledger.NUSD(n.Draw(t, "gpu")), Memory: ledger.NUSD(n.Draw(t, "memory"))}
}

func genCommand(t *rapid.T) ledger.Command {
	s := func(name string) string { return string(rapid.SliceOfN(rapid.Byte(), 0, 80).Draw(t, name)) }
	u8 := func(name string) uint8 { return rapid.Byte().Draw(t, name) }
	u32 := func(name string) uint32 { return rapid.Uint32().Draw(t, name) }
	u64 := func(name string) uint64 { return rapid.Uint64().Draw(t, name) }
	i64 := func(name string) int64 { return rapid.Int64().Draw(t, name) }
	switch kind := ledger.CommandKind(rapid.IntRange(1, int(ledger.KindTick)).Draw(t, "kind")); kind {
	case ledger.KindCreateCustomer:
		return &ledger.CreateCustomer{Name: s("name"), Namespace: s("ns"), PayIn: ledger.Currency(u8("pay"))}
	case ledger.KindCreateSupplier:
		return &ledger.CreateSupplier{Name: s("name")}
	case ledger.KindEnrollHost:
		c := &ledger.EnrollHost{Name: s("name"), Supplier: s("supplier"), Class: ledger.Class(u8("class"))}
		h := genHash(t)
		copy(c.PublicKey[9:], h[:])
		return c
	case ledger.KindSetOffer:
		return &ledger.SetOffer{Host: s("host"), Prices: genPrices(t)}
	case ledger.KindSetRate:
		return &ledger.SetRate{NUSDPerJoule: ledger.NUSD(i64("rate"))}
	case ledger.KindSetPolicy:
		return &ledger.SetPolicy{FeePPM: u32("fee"), SliceMs: u32("slice")}
	case ledger.KindDeposit:
		return &ledger.Deposit{Customer: s("customer"), Currency: ledger.Currency(u8("cur")), Amount: i64("amount"), Ref: s("ref")}
	case ledger.KindMint:
		return &ledger.Mint{Amount: ledger.NJ(i64("amount")), Ref: s("ref")}
	case ledger.KindWithdraw:
		return &ledger.Withdraw{Party: ledger.Party(u8("party")), Name: s("name"), Currency: ledger.Currency(u8("cur")), Amount: i64("amount"), Ref: s("ref")}
	case ledger.KindOpenLease:
		return &ledger.OpenLease{Host: s("host"), Namespace: s("ns"), Job: s("job"), Group: s("group"), Task: s("task"), Alloc: s("alloc"),
			Invocation: s("inv"), Resources: ledger.Resources{MilliCores: u32("cores"), MemoryMiB: u32("mem"), GPUs: u32("gpus")},
			MaxPrices: genPrices(t), Budget: ledger.NUSD(i64("budget"))}
	case ledger.KindTopUpLease:
		return &ledger.TopUpLease{Lease: ledger.LeaseID(u64("lease")), Slices: u32("slices")}
	case ledger.KindCloseLease:
		return &ledger.CloseLease{Lease: ledger.LeaseID(u64("lease")), Reason: ledger.CloseReason(u8("reason")), Host: ledger.HostID(u32("host"))}
	case ledger.KindUsageBatch:
		return genBatch(t)
	default:
		return laterCommands()[kind-ledger.KindProposeRate]
	}
}

func genCommands(t *rapid.T) *wire.CommandBatch {
	b := &wire.CommandBatch{Time: ledger.Time(rapid.Int64().Draw(t, "time")), Envelopes: []ledger.Envelope{}}
	for range rapid.IntRange(0, 5).Draw(t, "envelopes") {
		b.Envelopes = append(b.Envelopes, ledger.Envelope{Key: rapid.String().Draw(t, "key"), Command: genCommand(t)})
	}
	return b
}

// Decoding into a value that was used before gives the same as into a new one.
func TestCommandBatchRoundTrip(t *testing.T) {
	var used wire.CommandBatch
	rapid.Check(t, func(t *rapid.T) {
		in := genCommands(t)
		enc := wire.AppendCommandBatch([]byte("prefix"), in)[len("prefix"):]
		out := wire.CommandBatch{Envelopes: []ledger.Envelope{}}
		if err := wire.DecodeCommandBatch(enc, &out); err != nil {
			t.Fatal(err)
		}
		for i := range out.Envelopes {
			if b, ok := out.Envelopes[i].Command.(*ledger.UsageBatch); ok && b.Records == nil {
				b.Records = []ledger.Record{}
			}
		}
		if diff := cmp.Diff(in, &out); diff != "" {
			t.Fatalf("decoded differs (-want +got):\n%s", diff)
		}
		if err := wire.DecodeCommandBatch(enc, &used); err != nil {
			t.Fatal(err)
		}
		if again := wire.AppendCommandBatch(nil, &used); !bytes.Equal(again, enc) {
			t.Fatal("decoded into a used value encodes differently")
		}
	})
}

func TestBlockRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cmds := genCommands(t)
		in := &wire.Block{Seq: rapid.Uint64().Draw(t, "seq"), Index: rapid.Uint64().Draw(t, "index"), Time: cmds.Time, Envelopes: cmds.Envelopes}
		samples := append(sampleEntries(), laterEntries()...)
		for range rapid.IntRange(0, 5).Draw(t, "entries") {
			e := samples[rapid.IntRange(0, len(samples)-1).Draw(t, "entry")]
			e.Seq, e.Time = rapid.Uint64().Draw(t, "entry seq"), ledger.Time(rapid.Int64().Draw(t, "entry time"))
			if e.Kind == ledger.EntryUsage {
				e.Usage.Billed, e.Usage.Standby, e.Usage.Refused = genTotals(t), genTotals(t), genTotals(t)
			}
			in.Entries = append(in.Entries, e)
		}
		for range in.Envelopes {
			res := ledger.Result{Code: ledger.Code(rapid.Uint16().Draw(t, "code")), Msg: rapid.String().Draw(t, "msg"), ID: rapid.Uint64().Draw(t, "id")}
			if rapid.Bool().Draw(t, "grant") {
				res.Lease = &ledger.LeaseGrant{Lease: 3, Prices: genPrices(t), Epoch: rapid.Uint32().Draw(t, "epoch"), Hold: rapid.Int64().Draw(t, "hold")}
			}
			for range rapid.IntRange(0, 3).Draw(t, "records") {
				res.Records = append(res.Records, ledger.RecordResult{Lease: 1, Seq: rapid.Uint64().Draw(t, "rseq"),
					Status: ledger.RecordStatus(rapid.Byte().Draw(t, "status")), Stop: ledger.CloseReason(rapid.Byte().Draw(t, "stop")),
					Charged: ledger.NUSD(rapid.Int64().Draw(t, "charged"))})
			}
			in.Results = append(in.Results, res)
		}
		enc := wire.AppendBlock(nil, ledger.Digest{1}, in)
		out, err := wire.DecodeBlock(enc)
		if err != nil {
			t.Fatal(err)
		}
		if out.Digest != in.Digest {
			t.Fatalf("digest %x, want %x", out.Digest, in.Digest)
		}
		if again := wire.AppendBlock(nil, ledger.Digest{1}, out); !bytes.Equal(again, enc) {
			t.Fatal("a decoded block encodes differently")
		}
		if diff := cmp.Diff(in.Results, out.Results); diff != "" {
			t.Fatalf("results differ (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(in.Entries, out.Entries); diff != "" {
			t.Fatalf("entries differ (-want +got):\n%s", diff)
		}
	})
}

// Whatever decodes, encodes to the same bytes: one value, one form.

func FuzzDecodeBatch(f *testing.F) {
	b := sampleBatch()
	f.Add(wire.AppendBatch(nil, b.Host, b.Boot, b.Records))
	f.Add(wire.AppendBatch(nil, 0, [16]byte{}, nil))
	f.Fuzz(func(t *testing.T, in []byte) {
		var b ledger.UsageBatch
		err := wire.DecodeBatch(in, &b)
		host, n, cerr := wire.CheckBatch(in)
		if (err == nil) != (cerr == nil) || err != nil && err.Error() != cerr.Error() {
			t.Errorf("%x decodes with %v and is checked with %v", in, err, cerr)
		}
		if err != nil {
			return
		}
		if host != b.Host || n != len(b.Records) {
			t.Errorf("%x is checked as %d records of host %d, want %d of %d", in, n, host, len(b.Records), b.Host)
		}
		if out := wire.AppendBatch(nil, b.Host, b.Boot, b.Records); !bytes.Equal(out, in) {
			t.Errorf("%x encodes to %x", in, out)
		}
	})
}

func FuzzDecodeCommandBatch(f *testing.F) {
	all := &wire.CommandBatch{Time: 7}
	for _, cmd := range sampleCommands() {
		all.Envelopes = append(all.Envelopes, ledger.Envelope{Key: "k", Command: cmd})
		f.Add(wire.AppendCommandBatch(nil, &wire.CommandBatch{Envelopes: all.Envelopes[len(all.Envelopes)-1:]}))
	}
	for _, cmd := range laterCommands() {
		f.Add(wire.AppendCommandBatch(nil, &wire.CommandBatch{Envelopes: []ledger.Envelope{{Key: "k", Command: cmd}}}))
	}
	f.Add(wire.AppendCommandBatch(nil, all))
	f.Fuzz(func(t *testing.T, in []byte) {
		var b wire.CommandBatch
		if err := wire.DecodeCommandBatch(in, &b); err != nil {
			return
		}
		if out := wire.AppendCommandBatch(nil, &b); !bytes.Equal(out, in) {
			t.Errorf("%x encodes to %x", in, out)
		}
	})
}

func FuzzDecodeBlock(f *testing.F) {
	f.Add(wire.AppendBlock(nil, ledger.Digest{}, sampleBlock()))
	f.Add(wire.AppendBlock(nil, ledger.Digest{}, &wire.Block{}))
	for _, e := range append(sampleEntries(), laterEntries()...) {
		f.Add(wire.AppendBlock(nil, ledger.Digest{}, &wire.Block{Entries: []ledger.Entry{e}}))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		b, err := wire.DecodeBlock(in)
		if err != nil {
			return
		}
		digest := b.Digest
		out := wire.AppendBlock(nil, ledger.Digest{}, b)
		if n := len(in) - len(digest); !bytes.Equal(out[:n], in[:n]) {
			t.Errorf("%x encodes to %x", in, out)
		}
	})
}

func FuzzReadSnapshot(f *testing.F) {
	f.Add(snapshotOf(f, ledger.New(), nil))
	f.Add(snapshotOf(f, sampleLedger(f), []byte("extra")))
	f.Add(snapshotOf(f, tablesLedger(f), nil))
	f.Fuzz(func(t *testing.T, in []byte) {
		l, extra, err := wire.ReadSnapshot(bytes.NewReader(in))
		if err != nil {
			return
		}
		if out := snapshotOf(t, l, extra); !bytes.Equal(out, in) {
			t.Errorf("%x writes %x", in, out)
		}
	})
}
