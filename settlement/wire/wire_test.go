package wire_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares b with testdata/name.hex, which holds 16 bytes a line.
func golden(t *testing.T, name string, b []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	var text strings.Builder
	for line := range slices.Chunk(b, 16) {
		text.WriteString(hex.EncodeToString(line))
		text.WriteByte('\n')
	}
	if *update {
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text.String()); diff != "" {
		t.Errorf("%s changed; a released form never does (-want +got):\n%s", path, diff)
	}
}

func sampleRecord(lease ledger.LeaseID, seq uint64) ledger.Record {
	r := ledger.Record{
		Lease: lease, Seq: seq, Epoch: 1, Prev: ledger.Hash{1, 2, 3, 15: 16}, Known: ledger.KnownAll, Final: seq%2 == 0,
		Active:    ledger.Totals{WallMs: 2320, CPUMs: 17, GPUMs: 4640, MemoryMiBMs: 148480},
		Standby:   ledger.Totals{WallMs: 5, CPUMs: 6, GPUMs: 7, MemoryMiBMs: 8},
		GPUBusyMs: 9, GPUEnergyMJ: 10, Quality: ledger.QualityExitEstimated | ledger.QualityRebooted,
	}
	r.Hash = wire.HashRecord(wire.AppendRecord(nil, &r))
	return r
}

func sampleBatch() *ledger.UsageBatch {
	return &ledger.UsageBatch{
		Host: 7, Boot: [16]byte{0xb0, 15: 0x01},
		Records:   []ledger.Record{sampleRecord(1, 1), sampleRecord(1, 2), sampleRecord(9, 40)},
		Signature: [64]byte{0x51, 63: 0x52},
	}
}

// sampleCommands holds one of every kind, in the order of their numbers.
func sampleCommands() []ledger.Command {
	prices := ledger.Prices{Base: 10_000_000, CPU: 40_000_000, GPU: 2_500_000_000, Memory: 5_000_000}
	return []ledger.Command{
		&ledger.CreateCustomer{Name: "acme", Namespace: "acme-prod", PayIn: ledger.USD},
		&ledger.CreateSupplier{Name: "west-dc"},
		&ledger.EnrollHost{Name: "dc-1", Supplier: "west-dc", Class: ledger.ClassDatacenter, PublicKey: [32]byte{1, 31: 2}},
		&ledger.SetOffer{Host: "dc-1", Prices: prices},
		&ledger.SetRate{NUSDPerJoule: 50_000_000},
		&ledger.SetPolicy{FeePPM: 20_000, SliceMs: 60_000},
		&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: 5_000_000_000, Ref: "pay_123"},
		&ledger.Mint{Amount: 1_000_000_000_000, Ref: "genesis"},
		&ledger.Withdraw{Party: ledger.PartySupplier, Name: "west-dc", Currency: ledger.JOULE, Amount: 3, Ref: "out_1"},
		&ledger.OpenLease{Host: "dc-1", Namespace: "acme-prod", Job: "llm", Group: "serve", Task: "api",
			Alloc: "6b0c7bf0-1111-2222-3333-444455556666", Invocation: "0f9a3c11",
			Resources: ledger.Resources{MilliCores: 2000, MemoryMiB: 8192, GPUs: 1}, MaxPrices: prices, Budget: 25_000_000_000},
		&ledger.TopUpLease{Lease: 12, Slices: 3},
		&ledger.CloseLease{Lease: 12, Reason: ledger.CloseNotRun, Host: 7},
		sampleBatch(),
	}
}

// sampleEntries holds one of every kind, in the order of their numbers.
func sampleEntries() []ledger.Entry {
	totals := ledger.Totals{WallMs: 1, CPUMs: 2, GPUMs: 3, MemoryMiBMs: 4}
	entries := []ledger.Entry{
		{Kind: ledger.EntryTransfer, Transfer: ledger.Transfer{Debit: 9, Credit: 1, Currency: ledger.USD, Amount: 232_000,
			Reason: ledger.ReasonCharge, Lease: 12, Rate: 3, Ref: "r"}},
		{Kind: ledger.EntryAccount, Fact: &ledger.AccountOpened{ID: 9, Name: "hold/acme", Currency: ledger.USD}},
		{Kind: ledger.EntryRate, Fact: &ledger.RateSet{ID: 3, NUSDPerJoule: 50_000_000}},
		{Kind: ledger.EntryPolicy, Fact: &ledger.PolicySet{FeePPM: 1, SliceMs: 2}},
		{Kind: ledger.EntryOffer, Fact: &ledger.OfferSet{Host: 7, Prices: ledger.Prices{Base: 1, CPU: 2, GPU: 3, Memory: 4}}},
		{Kind: ledger.EntryHost, Fact: &ledger.HostEnrolled{ID: 7, Name: "dc-1", Supplier: 2, Class: ledger.ClassCrowd,
			PublicKey: [32]byte{5, 31: 6}}},
		{Kind: ledger.EntryLeaseOpened, Fact: &ledger.LeaseOpened{ID: 12, Customer: 1, Host: 7, Job: "llm", Group: "serve",
			Task: "api", Alloc: "alloc", Invocation: "inv", Prices: ledger.Prices{Base: 1, CPU: 2, GPU: 3, Memory: 4},
			Resources: ledger.Resources{MilliCores: 5, MemoryMiB: 6, GPUs: 7}, FeePPM: 8, SliceMs: 9, PayIn: ledger.JOULE, Budget: 10}},
		{Kind: ledger.EntryUsage, Usage: ledger.Usage{Lease: 12, Seq: 4, Billed: totals,
			Standby: ledger.Totals{WallMs: 5}, Refused: ledger.Totals{MemoryMiBMs: 6},
			Bounds: ledger.BoundCores, Known: ledger.KnownAll, Quality: ledger.QualityCPUUnread, Final: true}},
		{Kind: ledger.EntryLeaseClosed, Fact: &ledger.LeaseClosed{ID: 12, Reason: ledger.CloseFunds}},
		{Kind: ledger.EntryRecordRefused, Fact: &ledger.RecordRefused{Host: 7, Status: ledger.RecordEquivocation,
			Record: sampleRecord(12, 5)}},
		{Kind: ledger.EntryCustomer, Fact: &ledger.CustomerCreated{ID: 1, Name: "acme", Namespace: "prod", PayIn: ledger.USD}},
		{Kind: ledger.EntrySupplier, Fact: &ledger.SupplierCreated{ID: 2, Name: "west-dc"}},
	}
	for i := range entries {
		entries[i].Seq = uint64(100 + i)
		entries[i].Time = 1_763_800_000_000
	}
	return entries
}

func sampleBlock() *wire.Block {
	b := &wire.Block{Seq: 3, Index: 17, Time: 1_763_800_000_000, Entries: sampleEntries()}
	for _, cmd := range sampleCommands() {
		env := ledger.Envelope{Command: cmd}
		res := ledger.Result{ID: 5}
		switch cmd.(type) {
		case *ledger.UsageBatch:
			res = ledger.Result{Records: []ledger.RecordResult{
				{Lease: 1, Seq: 1, Status: ledger.RecordAccepted, Stop: ledger.CloseFunds, Charged: 232_000},
				{Lease: 9, Seq: 40, Status: ledger.RecordUnknownLease},
			}}
		case *ledger.OpenLease:
			env.Key = "k-open"
			res.Lease = &ledger.LeaseGrant{Lease: 12, Prices: ledger.Prices{Base: 1, CPU: 2, GPU: 3, Memory: 4}, Epoch: 1, Hold: 77}
		case *ledger.Withdraw:
			env.Key = "k-withdraw"
			res = ledger.Result{Code: ledger.CodeInsufficient, Msg: `supplier "west-dc" has too little`}
		default:
			env.Key = "k"
		}
		b.Envelopes = append(b.Envelopes, env)
		b.Results = append(b.Results, res)
	}
	return b
}

func TestGoldenRecordAndBatch(t *testing.T) {
	r := sampleRecord(12, 3)
	b := wire.AppendRecord(nil, &r)
	if len(b) != wire.RecordSize {
		t.Errorf("record has %d bytes, want %d", len(b), wire.RecordSize)
	}
	golden(t, "record", b)
	got, err := wire.DecodeRecord(b)
	if err != nil || got != r {
		t.Errorf("decoded %+v, %v, want %+v", got, err, r)
	}

	ub := sampleBatch()
	enc := wire.AppendBatch(nil, ub.Host, ub.Boot, ub.Records)
	if len(enc) != wire.BatchSize(len(ub.Records)) {
		t.Errorf("batch has %d bytes, want %d", len(enc), wire.BatchSize(len(ub.Records)))
	}
	golden(t, "usage_batch", enc)
	back := ledger.UsageBatch{Signature: ub.Signature}
	if err := wire.DecodeBatch(enc, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ub, &back); diff != "" {
		t.Errorf("decoded batch differs (-want +got):\n%s", diff)
	}
}

func TestGoldenCommands(t *testing.T) {
	names := []string{"create_customer", "create_supplier", "enroll_host", "set_offer", "set_rate", "set_policy",
		"deposit", "mint", "withdraw", "open_lease", "top_up_lease", "close_lease", "usage_batch"}
	cmds := sampleCommands()
	for i, cmd := range cmds {
		if int(cmd.Kind()) != i+1 {
			t.Fatalf("sample %d has kind %d, want %d", i, cmd.Kind(), i+1)
		}
		in := &wire.CommandBatch{Time: 1_763_800_000_123, Envelopes: []ledger.Envelope{{Key: "k-" + names[i], Command: cmd}}}
		enc := wire.AppendCommandBatch(nil, in)
		golden(t, "command_"+names[i], enc)
		var out wire.CommandBatch
		if err := wire.DecodeCommandBatch(enc, &out); err != nil {
			t.Errorf("%s: %v", names[i], err)
			continue
		}
		if diff := cmp.Diff(in, &out); diff != "" {
			t.Errorf("%s: decoded differs (-want +got):\n%s", names[i], diff)
		}
	}
	in := &wire.CommandBatch{Time: -1}
	for i, cmd := range cmds {
		in.Envelopes = append(in.Envelopes, ledger.Envelope{Key: names[i], Command: cmd})
	}
	golden(t, "command_batch", wire.AppendCommandBatch(nil, in))
}

func TestGoldenEntriesAndBlock(t *testing.T) {
	for i, e := range sampleEntries() {
		if int(e.Kind) != i+1 {
			t.Fatalf("sample entry %d has kind %d, want %d", i, e.Kind, i+1)
		}
	}
	prev := ledger.Digest{0xd1, 31: 0xd2}
	b := sampleBlock()
	enc := wire.AppendBlock(nil, prev, b)
	golden(t, "block", enc)
	back, err := wire.DecodeBlock(enc)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b, back); diff != "" {
		t.Errorf("decoded block differs (-want +got):\n%s", diff)
	}
	got, err := wire.BlockDigest(prev, enc)
	if err != nil || got != b.Digest {
		t.Errorf("recomputed digest %x, %v, want %x", got, err, b.Digest)
	}
	if other, _ := wire.BlockDigest(ledger.Digest{}, enc); other == b.Digest {
		t.Error("the digest does not depend on the previous block")
	}
}

func TestGoldenSigningBytes(t *testing.T) {
	var all []byte
	all = append(all, wire.BatchSigningBytes([]byte{1, 2, 3})...)
	all = append(all, wire.HostRequestSigningBytes("OpenLease", "dc-1", 1_763_800_000_123, wire.OpenLeaseBody("alloc", "task", "inv"))...)
	all = append(all, wire.HostRequestSigningBytes("CloseLease", "dc-1", -5, wire.CloseLeaseBody(12))...)
	all = append(all, wire.SessionSigningBytes(bytes.Repeat([]byte{9}, 32), "dc-1", bytes.Repeat([]byte{8}, 16))...)
	golden(t, "signing", all)
	if a, b := wire.OpenLeaseBody("a", "b\n1:c", "d"), wire.OpenLeaseBody("a", "b", "c\n1:d"); a == b {
		t.Errorf("two requests share the canonical text %q", a)
	}
}

func TestUnknownVersions(t *testing.T) {
	r := sampleRecord(1, 1)
	ub := sampleBatch()
	batch := wire.AppendBatch(nil, ub.Host, ub.Boot, ub.Records)
	cmds := wire.AppendCommandBatch(nil, &wire.CommandBatch{Envelopes: []ledger.Envelope{{Key: "k", Command: sampleCommands()[1]}}})
	block := wire.AppendBlock(nil, ledger.Digest{}, &wire.Block{Entries: sampleEntries()[2:3]})
	into := new(wire.CommandBatch)
	for _, tt := range []struct {
		name   string
		b      []byte
		off    int // of the byte to change
		decode func([]byte) error
		want   string
	}{
		{"record", wire.AppendRecord(nil, &r), 0, func(b []byte) error { _, err := wire.DecodeRecord(b); return err },
			"decode usage record: version at offset 0: got 201, want 1"},
		{"batch", batch, 0, func(b []byte) error { return wire.DecodeBatch(b, new(ledger.UsageBatch)) },
			"decode usage batch: version at offset 0: got 201, want 1"},
		{"record in a batch", batch, wire.BatchSize(1), func(b []byte) error { return wire.DecodeBatch(b, new(ledger.UsageBatch)) },
			"decode usage batch: records[1].version at offset 148: got 201, want 1"},
		{"command batch", cmds, 0, func(b []byte) error { return wire.DecodeCommandBatch(b, into) },
			"decode command batch: version at offset 0: got 201, want 1"},
		{"command kind", cmds, 1 + 8 + 4 + 5, func(b []byte) error { return wire.DecodeCommandBatch(b, into) },
			"decode command batch: envelopes[0].kind at offset 18: got 201"},
		{"block", block, 0, func(b []byte) error { _, err := wire.DecodeBlock(b); return err },
			"decode block: version at offset 0: got 201, want 2"},
		{"entry kind", block, 1 + 3*8 + 3*4 + 1 + 16, func(b []byte) error { _, err := wire.DecodeBlock(b); return err },
			"decode block: entries[0].kind at offset 54: got 201"},
		{"block digest", block, 0, func(b []byte) error { _, err := wire.BlockDigest(ledger.Digest{}, b); return err },
			"decode block: version at offset 0: got 201, want 2"},
	} {
		b := bytes.Clone(tt.b)
		b[tt.off] = 201
		err := tt.decode(b)
		if !errors.Is(err, wire.ErrUnknownVersion) || err.Error() != tt.want {
			t.Errorf("%s: got %v, want ErrUnknownVersion %q", tt.name, err, tt.want)
		}
	}
}

func TestDecodeErrorsNameFieldAndOffset(t *testing.T) {
	ub := sampleBatch()
	batch := wire.AppendBatch(nil, ub.Host, ub.Boot, ub.Records)
	bent := func(off int, v byte) []byte {
		b := bytes.Clone(batch)
		b[off] = v
		return b
	}
	for _, tt := range []struct {
		name string
		b    []byte
		want string
	}{
		{"empty", nil, "decode usage batch: version at offset 0: needs 1 bytes, 0 left"},
		{"cut in the boot id", batch[:9], "decode usage batch: boot at offset 5: needs 16 bytes, 4 left"},
		{"cut in a record", batch[:len(batch)-1], "decode usage batch: records[2].record at offset 271: needs 123 bytes, 122 left"},
		{"trailing", append(bytes.Clone(batch), 0), "decode usage batch: end at offset 394: 1 trailing bytes"},
		{"flag", bent(25+38, 2), "decode usage batch: records[0].final at offset 63: must be 0 or 1, got 2"},
		{"more records than bytes", bent(22, 1), "decode usage batch: records[3].version at offset 394: needs 1 bytes, 0 left"},
		{"absurd count", bent(24, 255), "decode usage batch: records at offset 21: count 4278190083 of at least 1 bytes each, 369 bytes left"},
	} {
		err := wire.DecodeBatch(tt.b, new(ledger.UsageBatch))
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	many := wire.AppendBatch(nil, 1, [16]byte{}, make([]ledger.Record, ledger.BatchRecordsMax+1))
	if err := wire.DecodeBatch(many, new(ledger.UsageBatch)); err == nil || !strings.Contains(err.Error(), "at most 4096") {
		t.Errorf("oversized batch: got %v, want the limit named", err)
	}
}

// Whatever becomes of the bytes of a batch, decoding it fails or gives a value
// that encodes to the very same bytes.
func TestEveryTruncationAndBitFlipOfABatch(t *testing.T) {
	ub := sampleBatch()
	batch := wire.AppendBatch(nil, ub.Host, ub.Boot, ub.Records)
	var into ledger.UsageBatch
	// The quick check says what decoding says.
	checked := func(b []byte, want error) {
		t.Helper()
		host, n, err := wire.CheckBatch(b)
		switch {
		case want != nil && (err == nil || err.Error() != want.Error()):
			t.Errorf("checked: got %v, want %v", err, want)
		case want == nil && (err != nil || host != into.Host || n != len(into.Records)):
			t.Errorf("checked: got %d records of host %d, %v, want %d of %d", n, host, err, len(into.Records), into.Host)
		}
	}
	for n := range len(batch) {
		err := wire.DecodeBatch(batch[:n], &into)
		if err == nil {
			t.Errorf("a batch cut to %d bytes decoded", n)
		}
		checked(batch[:n], err)
	}
	for i := range len(batch) * 8 {
		b := bytes.Clone(batch)
		b[i/8] ^= 1 << (i % 8)
		err := wire.DecodeBatch(b, &into)
		checked(b, err)
		if err != nil {
			continue
		}
		if again := wire.AppendBatch(nil, into.Host, into.Boot, into.Records); !bytes.Equal(again, b) {
			t.Errorf("bit %d flipped: decoded value encodes differently", i)
		}
	}
}

func TestEveryTruncationAndBitFlipOfABlock(t *testing.T) {
	enc := wire.AppendBlock(nil, ledger.Digest{}, sampleBlock())
	for n := range len(enc) {
		if _, err := wire.DecodeBlock(enc[:n]); err == nil {
			t.Errorf("a block cut to %d bytes decoded", n)
		}
	}
	want, err := wire.BlockDigest(ledger.Digest{}, enc)
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(enc) * 8 {
		b := bytes.Clone(enc)
		b[i/8] ^= 1 << (i % 8)
		blk, err := wire.DecodeBlock(b)
		if err != nil {
			continue
		}
		if got, err := wire.BlockDigest(ledger.Digest{}, b); err == nil && got == blk.Digest && blk.Digest == want {
			t.Errorf("bit %d flipped: nothing noticed", i)
		}
	}
}

func TestDecodeReusesMemory(t *testing.T) {
	in := &wire.CommandBatch{Time: 5}
	for range 3 {
		in.Envelopes = append(in.Envelopes, ledger.Envelope{Command: sampleBatch()})
	}
	enc := wire.AppendCommandBatch(nil, in)
	var out wire.CommandBatch
	if got := testing.AllocsPerRun(100, func() {
		if err := wire.DecodeCommandBatch(enc, &out); err != nil {
			t.Fatal(err)
		}
	}); got != 0 {
		t.Errorf("decoding into the same value allocates %.1f times, want 0", got)
	}
	if diff := cmp.Diff(in, &out); diff != "" {
		t.Errorf("decoded differs (-want +got):\n%s", diff)
	}
	ub := sampleBatch()
	batch := wire.AppendBatch(nil, ub.Host, ub.Boot, ub.Records)
	var into ledger.UsageBatch
	if got := testing.AllocsPerRun(100, func() {
		if err := wire.DecodeBatch(batch, &into); err != nil {
			t.Fatal(err)
		}
	}); got != 0 {
		t.Errorf("decoding a batch into the same value allocates %.1f times, want 0", got)
	}
}

// A batch's signature is over its digest; one over the batch itself, as it was
// made at first, still counts. Neither counts for another batch or key.
func TestVerifyBatch(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	batch := []byte("a batch")
	first := ed25519.Sign(key, []byte("joule usage batch v1\x00a batch"))
	now := ed25519.Sign(key, wire.BatchSigningBytes(batch))
	for name, tc := range map[string]struct {
		key       ed25519.PrivateKey
		batch     string
		signature []byte
		want      bool
	}{
		"version 1":                {key, "a batch", first, true},
		"version 2":                {key, "a batch", now, true},
		"of another batch":         {key, "b batch", now, false},
		"of another, version 1":    {key, "b batch", first, false},
		"of another key":           {other, "a batch", now, false},
		"cut short":                {key, "a batch", now[:63], false},
		"none":                     {key, "a batch", nil, false},
		"over the batch, labelled": {key, "a batch", ed25519.Sign(key, []byte("joule usage batch v2\x00a batch")), false},
	} {
		if got := wire.VerifyBatch(tc.key.Public().(ed25519.PublicKey), []byte(tc.batch), tc.signature); got != tc.want {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
	}
}
