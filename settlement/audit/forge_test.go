package audit

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// Whoever forges a block can make checksums and digests right again. What the
// entries say is still found out, by the replay and apart from it.
func TestForgedBlocks(t *testing.T) {
	t.Parallel()
	// entry finds the n-th entry that is wanted.
	entry := func(blocks []*wire.Block, n int, want func(*ledger.Entry) bool) *ledger.Entry {
		for _, b := range blocks {
			for i := range b.Entries {
				if want(&b.Entries[i]) {
					if n--; n == 0 {
						return &b.Entries[i]
					}
				}
			}
		}
		return nil
	}
	reason := func(r ledger.Reason, lease ledger.LeaseID) func(*ledger.Entry) bool {
		return func(e *ledger.Entry) bool {
			return e.Kind == ledger.EntryTransfer && e.Transfer.Reason == r && (lease == 0 || e.Transfer.Lease == lease)
		}
	}
	for _, tt := range []struct {
		name  string
		forge func(blocks []*wire.Block)
		want  []string // checks that find it, besides others
	}{
		{"a deposit raised", func(bs []*wire.Block) { entry(bs, 1, reason(ledger.ReasonDeposit, 0)).Transfer.Amount++ },
			[]string{CheckReplay}},
		{"a withdrawal beyond the balance", func(bs []*wire.Block) { entry(bs, 1, reason(ledger.ReasonWithdraw, 0)).Transfer.Amount = 2000 * usd },
			[]string{CheckReplay, CheckBalances}},
		{"a transfer of nothing", func(bs []*wire.Block) { entry(bs, 1, reason(ledger.ReasonPay, 0)).Transfer.Amount = 0 },
			[]string{CheckReplay, CheckBalances}},
		{"a pay for another supplier", func(bs []*wire.Block) {
			entry(bs, 1, reason(ledger.ReasonPay, 1)).Transfer.Credit = entry(bs, 1, reason(ledger.ReasonPay, 2)).Transfer.Credit
		}, []string{CheckReplay, CheckRoutes}},
		{"a charge to another lease", func(bs []*wire.Block) { entry(bs, 2, reason(ledger.ReasonCharge, 1)).Transfer.Lease = 2 },
			[]string{CheckReplay, CheckCharges}},
		{"a charge 1 nUSD too high", func(bs []*wire.Block) { entry(bs, 3, reason(ledger.ReasonCharge, 1)).Transfer.Amount++ },
			[]string{CheckReplay, CheckCharges}},
		{"a charge 1 nUSD too low", func(bs []*wire.Block) { entry(bs, 3, reason(ledger.ReasonCharge, 1)).Transfer.Amount-- },
			[]string{CheckReplay, CheckCharges}},
		{"a charge in JOULE too high", func(bs []*wire.Block) { entry(bs, 2, reason(ledger.ReasonCharge, 3)).Transfer.Amount += 100 },
			[]string{CheckReplay, CheckCharges}},
		{"a pay 1 nJ too low", func(bs []*wire.Block) { entry(bs, 2, reason(ledger.ReasonPay, 2)).Transfer.Amount-- },
			[]string{CheckReplay, CheckConversions}},
		{"1 nJ of pay called a fee", func(bs []*wire.Block) {
			entry(bs, 2, reason(ledger.ReasonPay, 2)).Transfer.Amount--
			entry(bs, 2, reason(ledger.ReasonFee, 2)).Transfer.Amount++
		}, []string{CheckReplay, CheckConversions}},
		{"an old rate", func(bs []*wire.Block) { entry(bs, 4, reason(ledger.ReasonPay, 2)).Transfer.Rate = 1 },
			[]string{CheckReplay, CheckRoutes, CheckConversions}},
		{"usage raised", func(bs []*wire.Block) {
			entry(bs, 2, func(e *ledger.Entry) bool { return e.Kind == ledger.EntryUsage }).Usage.Billed.CPUMs += 500
		}, []string{CheckReplay, CheckCharges}},
		{"a price raised after the fact", func(bs []*wire.Block) {
			entry(bs, 1, func(e *ledger.Entry) bool { return e.Kind == ledger.EntryLeaseOpened }).Fact.(*ledger.LeaseOpened).Prices.Base += usd
		}, []string{CheckReplay, CheckCharges}},
		{"a release dropped", func(bs []*wire.Block) {
			e := entry(bs, 1, reason(ledger.ReasonRelease, 1))
			*e = ledger.Entry{Seq: e.Seq, Time: e.Time, Kind: ledger.EntryPolicy, Fact: &ledger.PolicySet{}}
		}, []string{CheckReplay, CheckCharges}},
		{"a hold for a lease that was never opened", func(bs []*wire.Block) { entry(bs, 1, reason(ledger.ReasonHold, 0)).Transfer.Lease = 99 },
			[]string{CheckReplay, CheckRoutes}},
		{"a result", func(bs []*wire.Block) { bs[0].Results[3].ID++ }, []string{CheckReplay}},
		{"a command", func(bs []*wire.Block) { bs[2].Envelopes[2].Command.(*ledger.Deposit).Amount++ }, []string{CheckReplay}},
		{"an entry dropped", func(bs []*wire.Block) { bs[2].Entries = bs[2].Entries[:len(bs[2].Entries)-1] }, []string{CheckReplay, CheckChain}},
		{"time going back", func(bs []*wire.Block) { bs[3].Time -= 5000 }, []string{CheckReplay, CheckChain}},
		{"an entry's time", func(bs []*wire.Block) { bs[3].Entries[0].Time++ }, []string{CheckReplay, CheckChain}},
		{"a mint beyond the cap", func(bs []*wire.Block) {
			entry(bs, 1, reason(ledger.ReasonMint, 0)).Transfer.Amount = int64(ledger.JouleSupplyMax) + 1
		}, []string{CheckReplay, CheckBalances}},
		{"a batch signature", func(bs []*wire.Block) { batchOf(bs, 1).Signature[63] ^= 1 }, []string{CheckSignatures}},
		{"a record in a signed batch", func(bs []*wire.Block) { batchOf(bs, 2).Records[0].GPUBusyMs++ }, []string{CheckSignatures}},
		{"a batch of another host's key", func(bs []*wire.Block) { sign(batchOf(bs, 1), "h2") }, []string{CheckSignatures}},
		{"a host's key", func(bs []*wire.Block) {
			entry(bs, 1, func(e *ledger.Entry) bool { return e.Kind == ledger.EntryHost }).Fact.(*ledger.HostEnrolled).PublicKey[0] ^= 1
		}, []string{CheckReplay, CheckSignatures}},
	} {
		blocks := script().blocks
		tt.forge(blocks)
		r := mustRun(t, write(t, blocks))
		if r.OK() {
			t.Errorf("%s: got no finding", tt.name)
		}
		for _, check := range tt.want {
			if !slices.Contains(found(r), check) {
				t.Errorf("%s: found by %q, want %q among them\n%v", tt.name, found(r), check, r.Findings)
			}
		}
		for _, f := range r.Findings {
			if f.Text == "" || f.BlockSeq == 0 && f.Check != CheckBalances {
				t.Errorf("%s: finding without a place or a text: %+v", tt.name, f)
			}
		}
	}
}

func batchOf(blocks []*wire.Block, n int) *ledger.UsageBatch {
	for _, b := range blocks {
		for i := range b.Envelopes {
			if u, ok := b.Envelopes[i].Command.(*ledger.UsageBatch); ok {
				if n--; n == 0 {
					return u
				}
			}
		}
	}
	return nil
}

// segment is the journal's only file.
func segment(tb testing.TB, dir string) (path string, content []byte) {
	tb.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.jl"))
	if err != nil || len(paths) != 1 {
		tb.Fatalf("got segments %q, %v, want one", paths, err)
	}
	content, err = os.ReadFile(paths[0])
	if err != nil {
		tb.Fatal(err)
	}
	return paths[0], content
}

func TestFlippedBits(t *testing.T) {
	t.Parallel()
	dir := write(t, script().blocks[:8])
	path, content := segment(t, dir)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at := 0; at < len(content); at += 7 {
		if _, err := f.WriteAt([]byte{content[at] ^ 1<<(at%8)}, int64(at)); err != nil {
			t.Fatal(err)
		}
		if r := mustRun(t, dir); r.OK() || !slices.Equal(found(r), []string{CheckFiles}) {
			t.Fatalf("byte %d: got findings %v, want one of files", at, r.Findings)
		}
		if _, err := f.WriteAt(content[at:at+1], int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	if r := mustRun(t, dir); !r.OK() {
		t.Errorf("unchanged: got %v", r.Findings)
	}
}

// frames splits a segment into its header and its frames.
func frames(content []byte) (header []byte, out [][]byte) {
	const headerSize = 16 + 8 + 32 + 4
	header, rest := content[:headerSize], content[headerSize:]
	for len(rest) > 0 {
		n := 8 + int(uint32(rest[0])|uint32(rest[1])<<8|uint32(rest[2])<<16|uint32(rest[3])<<24)
		out, rest = append(out, rest[:n]), rest[n:]
	}
	return header, out
}

func TestDroppedAndSwappedBlocks(t *testing.T) {
	t.Parallel()
	dir := write(t, script().blocks)
	path, content := segment(t, dir)
	header, fs := frames(content)
	for i := range fs {
		for name, change := range map[string]func([][]byte) [][]byte{
			"dropped":            func(fs [][]byte) [][]byte { return slices.Delete(fs, i, i+1) },
			"swapped with next":  func(fs [][]byte) [][]byte { fs[i], fs[(i+1)%len(fs)] = fs[(i+1)%len(fs)], fs[i]; return fs },
			"there twice":        func(fs [][]byte) [][]byte { return slices.Insert(fs, i, fs[i]) },
			"the last one there": func(fs [][]byte) [][]byte { return fs[:i] },
		} {
			changed := slices.Concat(append([][]byte{header}, change(slices.Clone(fs))...)...)
			if err := os.WriteFile(path, changed, 0o600); err != nil {
				t.Fatal(err)
			}
			if r := mustRun(t, dir); r.OK() || len(r.Findings) == 0 {
				t.Errorf("block %d %s: got no finding", i+1, name)
			}
		}
	}
}
