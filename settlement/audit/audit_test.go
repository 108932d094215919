package audit

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/joulecloud/joule/settlement/journal"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// world runs commands on a ledger and keeps the blocks as a server would.
type world struct {
	l       *ledger.Ledger
	now     ledger.Time
	blocks  []*wire.Block
	pending []ledger.Envelope
	keys    int
	last    []ledger.Result
	tasks   map[ledger.LeaseID]*ledger.Record // the last record of each
}

func newWorld() *world {
	return &world{l: ledger.New(), now: 1_800_000_000_000, tasks: map[ledger.LeaseID]*ledger.Record{}}
}

// do queues a command for the next block.
func (w *world) do(cmds ...ledger.Command) *world {
	for _, c := range cmds {
		env := ledger.Envelope{Command: c}
		if _, ok := c.(*ledger.UsageBatch); !ok {
			w.keys++
			env.Key = fmt.Sprint("key-", w.keys)
		}
		w.pending = append(w.pending, env)
	}
	return w
}

// commit applies what is queued as one block, ms after the last.
func (w *world) commit(ms int) []ledger.Result {
	w.now += ledger.Time(ms)
	b := &wire.Block{Seq: uint64(len(w.blocks) + 1), Index: uint64(len(w.blocks) + 5), Envelopes: w.pending}
	for i := range b.Envelopes {
		r := w.l.Apply(w.now, &b.Envelopes[i])
		r.Records = slices.Clone(r.Records)
		b.Results = append(b.Results, r)
	}
	b.Time, b.Entries = w.l.Now(), slices.Clone(w.l.TakeEntries())
	w.blocks, w.pending, w.last = append(w.blocks, b), nil, b.Results
	return b.Results
}

func hostKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

// use queues a signed batch that adds to each lease's totals.
func (w *world) use(host string, final bool, wall, cpu uint64, leases ...ledger.LeaseID) *world {
	h, _ := w.l.Host(host)
	b := &ledger.UsageBatch{Host: h.ID, Boot: [16]byte{7}}
	for _, id := range leases {
		r := w.tasks[id]
		if r == nil {
			r = &ledger.Record{Lease: id, Epoch: 1}
			w.tasks[id] = r
		}
		r.Seq++
		r.Prev, r.Known, r.Final = r.Hash, ledger.KnownAll, final
		r.Active.WallMs += wall
		r.Active.CPUMs += cpu
		r.Active.MemoryMiBMs += wall * 512
		r.Hash = wire.HashRecord(wire.AppendRecord(nil, r))
		b.Records = append(b.Records, *r)
	}
	sign(b, host)
	return w.do(b)
}

func sign(b *ledger.UsageBatch, host string) {
	copy(b.Signature[:], ed25519.Sign(hostKey(host), wire.BatchSigningBytes(wire.AppendBatch(nil, b.Host, b.Boot, b.Records))))
}

func (w *world) enroll(host, supplier string) *world {
	c := &ledger.EnrollHost{Name: host, Supplier: supplier, Class: ledger.ClassCrowd}
	copy(c.PublicKey[:], hostKey(host).Public().(ed25519.PublicKey))
	return w.do(c)
}

func openLease(host, namespace, alloc string) *ledger.OpenLease {
	return &ledger.OpenLease{Host: host, Namespace: namespace, Job: "job", Group: "g", Task: "t", Alloc: alloc, Invocation: "1",
		Resources: ledger.Resources{MilliCores: 2000, MemoryMiB: 512}}
}

const usd = 1_000_000_000

// setUp makes two suppliers, a customer who pays in USD and one who pays in
// JOULE.
func (w *world) setUp() *world {
	w.do(&ledger.SetPolicy{FeePPM: 25_000, SliceMs: 60_000}, &ledger.SetRate{NUSDPerJoule: 50_000_003}, &ledger.Mint{Amount: 1000 * usd, Ref: "m1"},
		&ledger.CreateCustomer{Name: "acme", Namespace: "acme", PayIn: ledger.USD}, &ledger.CreateCustomer{Name: "jou", Namespace: "jou", PayIn: ledger.JOULE},
		&ledger.CreateSupplier{Name: "west"}, &ledger.CreateSupplier{Name: "home"})
	w.commit(10)
	w.enroll("h1", "west").enroll("h2", "home")
	w.commit(10)
	prices := ledger.Prices{Base: usd / 7, CPU: usd / 3, Memory: usd / 11}
	w.do(&ledger.SetOffer{Host: "h1", Prices: prices}, &ledger.SetOffer{Host: "h2", Prices: ledger.Prices{CPU: 999_999_937}},
		&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: 5 * usd, Ref: "d1"},
		&ledger.Withdraw{Party: ledger.PartyTreasury, Currency: ledger.JOULE, Amount: 300 * usd, Ref: "w1"},
		&ledger.Deposit{Customer: "jou", Currency: ledger.JOULE, Amount: 200 * usd, Ref: "d2"})
	w.commit(10)
	return w
}

// script is a history with every kind of entry, transfers for every reason,
// and refusals.
func script() *world {
	w := newWorld().setUp()
	w.do(openLease("h1", "acme", "a1"), openLease("h2", "acme", "a2"), openLease("h1", "jou", "a3"), openLease("h1", "nobody", "a4"))
	w.commit(10)
	for i := range 6 {
		w.use("h1", false, 997, 1501, 1, 3).use("h2", false, 991, 333, 2)
		w.commit(1000)
		if i%2 == 1 {
			w.do(&ledger.SetRate{NUSDPerJoule: ledger.NUSD(50_000_003 - 7_000_019*i)})
			w.commit(10)
		}
	}
	// A repeat, a record of another host's lease, an unknown lease.
	repeat := *w.tasks[1]
	foreign, unknown := repeat, repeat
	foreign.Lease, unknown.Lease = 2, 77
	b := &ledger.UsageBatch{Host: 1, Records: []ledger.Record{repeat, foreign, unknown}}
	sign(b, "h1")
	w.do(b, &ledger.TopUpLease{Lease: 1, Slices: 3})
	w.commit(5)
	// The treasury runs out of JOULE: usage accrues, and converts later.
	t, _ := w.l.AccountByName("treasury", ledger.JOULE)
	w.do(&ledger.Withdraw{Party: ledger.PartyTreasury, Currency: ledger.JOULE, Amount: t.Balance, Ref: "w2"})
	w.use("h1", false, 1000, 1000, 1)
	w.commit(1000)
	w.use("h1", true, 250, 100, 1).use("h1", true, 100, 100, 3)
	w.commit(1000)
	w.do(&ledger.Mint{Amount: 10 * usd, Ref: "m2"})
	w.commit(10)
	// Funds run out for good.
	a, _ := w.l.AccountByName("customer/acme", ledger.USD)
	w.do(&ledger.Withdraw{Party: ledger.PartyCustomer, Name: "acme", Currency: ledger.USD, Amount: a.Balance, Ref: "w3"})
	w.commit(10)
	for range 4 {
		w.use("h2", false, 60_000, 110_000, 2)
		w.commit(60_000)
	}
	w.do(&ledger.CloseLease{Lease: 2, Reason: ledger.CloseFunds})
	w.commit(10)
	w.do(&ledger.Withdraw{Party: ledger.PartySupplier, Name: "west", Currency: ledger.JOULE, Amount: 1000, Ref: "w4"})
	w.commit(10)
	return w
}

// write chains the blocks anew and keeps them in a journal.
func write(tb testing.TB, blocks []*wire.Block) string {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "journal")
	j, err := journal.Open(dir)
	if err != nil {
		tb.Fatal(err)
	}
	var prev ledger.Digest
	for _, b := range blocks {
		encoded := wire.AppendBlock(nil, prev, b)
		if err := j.Append(encoded, b); err != nil {
			tb.Fatal(err)
		}
		prev = b.Digest
	}
	if err := j.Close(); err != nil {
		tb.Fatal(err)
	}
	return dir
}

func mustRun(tb testing.TB, dir string) *Report {
	tb.Helper()
	r, err := Run(tb.Context(), dir)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// found lists the checks that have findings.
func found(r *Report) []string {
	var out []string
	for _, v := range r.Verdicts {
		if v.Findings > 0 {
			out = append(out, v.Check)
		}
	}
	return out
}

func TestAuditOfARightJournal(t *testing.T) {
	t.Parallel()
	w := script()
	reasons := map[ledger.Reason]bool{}
	for _, b := range w.blocks {
		for _, e := range b.Entries {
			if e.Kind == ledger.EntryTransfer {
				reasons[e.Transfer.Reason] = true
			}
		}
	}
	for r := ledger.ReasonDeposit; r <= ledger.ReasonConvert; r++ {
		if !reasons[r] {
			t.Errorf("the script has no transfer for reason %d", r)
		}
	}
	if le, _ := w.l.Lease(2); le.ChargedNUSD >= le.CostNUSD {
		t.Errorf("the script's second lease lacks no funds: %+v", le)
	}

	r := mustRun(t, write(t, w.blocks))
	if !r.OK() || len(r.Findings) > 0 {
		t.Fatalf("got findings %v, verdicts %+v", r.Findings, r.Verdicts)
	}
	if r.Blocks != uint64(len(w.blocks)) || r.Entries != w.l.EntryCount() || r.Leases != 3 || r.Batches == 0 || r.Records < r.Batches {
		t.Errorf("counts: got %+v", r)
	}
	if r.Digest != w.blocks[len(w.blocks)-1].Digest || r.To != w.now {
		t.Errorf("end: got %x at %d", r.Digest, r.To)
	}
	for _, v := range r.Verdicts {
		if v.Checked == 0 {
			t.Errorf("check %s was made on nothing", v.Check)
		}
	}
	for _, b := range r.Accounts {
		if want, _ := w.l.Account(b.ID); want.Balance != b.Balance || want.Name != b.Name {
			t.Errorf("account %d: got %+v, want %+v", b.ID, b, want)
		}
	}
	if len(r.Sums) != 2 || r.Sums[0].Sum.Sign() != 0 || r.Sums[1].Sum.Sign() != 0 {
		t.Errorf("sums: got %v, want zeros", r.Sums)
	}
}

// Any history that the ledger makes passes: the audit raises no false alarm.
func TestAuditOfRandomJournals(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld().setUp()
		w.do(&ledger.SetPolicy{FeePPM: rapid.Uint32Range(0, 500_000).Draw(rt, "fee"), SliceMs: rapid.Uint32Range(1, 5000).Draw(rt, "slice")})
		for range rapid.IntRange(5, 40).Draw(rt, "steps") {
			lease := ledger.LeaseID(rapid.Uint64Range(1, max(1, uint64(w.l.LeaseCount()))).Draw(rt, "lease"))
			amount := rapid.Int64Range(1, 2*usd).Draw(rt, "amount")
			ref := fmt.Sprint("r", w.keys)
			switch rapid.IntRange(0, 11).Draw(rt, "step") {
			case 0:
				w.do(&ledger.SetRate{NUSDPerJoule: ledger.NUSD(rapid.Int64Range(1, 8*usd).Draw(rt, "rate"))})
			case 1:
				w.do(&ledger.Mint{Amount: ledger.NJ(amount), Ref: ref})
			case 2:
				w.do(&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: amount, Ref: ref})
			case 3:
				a, _ := w.l.AccountByName("treasury", ledger.JOULE)
				w.do(&ledger.Withdraw{Party: ledger.PartyTreasury, Currency: ledger.JOULE, Amount: max(1, a.Balance), Ref: ref})
			case 4:
				party := rapid.SampledFrom([]string{"acme", "jou"}).Draw(rt, "party")
				cur := map[string]ledger.Currency{"acme": ledger.USD, "jou": ledger.JOULE}[party]
				a, _ := w.l.AccountByName("customer/"+party, cur)
				w.do(&ledger.Withdraw{Party: ledger.PartyCustomer, Name: party, Currency: cur, Amount: max(1, a.Balance-amount/1000), Ref: ref})
			case 5:
				w.do(&ledger.Deposit{Customer: "jou", Currency: ledger.JOULE, Amount: amount, Ref: ref})
			case 6, 7:
				c := openLease(rapid.SampledFrom([]string{"h1", "h2"}).Draw(rt, "host"), rapid.SampledFrom([]string{"acme", "jou"}).Draw(rt, "namespace"), fmt.Sprint("x", w.keys))
				c.Job, c.Budget = c.Host, ledger.NUSD(rapid.SampledFrom([]int64{0, 0, usd / 100}).Draw(rt, "budget"))
				w.do(c)
			case 8:
				w.do(&ledger.TopUpLease{Lease: lease, Slices: rapid.Uint32Range(1, 5).Draw(rt, "slices")})
			case 9:
				w.do(&ledger.CloseLease{Lease: lease, Reason: ledger.CloseOperator})
			default:
				if le, ok := w.l.Lease(lease); ok {
					h, _ := w.l.HostByID(le.Host)
					wall := rapid.Uint64Range(0, 3000).Draw(rt, "wall")
					w.use(h.Name, rapid.IntRange(0, 7).Draw(rt, "final") == 0, wall, wall*rapid.Uint64Range(0, 2).Draw(rt, "cores"), lease)
				}
			}
			if rapid.Bool().Draw(rt, "commit") {
				w.commit(rapid.IntRange(0, 3000).Draw(rt, "ms"))
			}
		}
		w.commit(1)
		r, err := Run(t.Context(), write(t, w.blocks))
		if err != nil {
			rt.Fatal(err)
		}
		if !r.OK() {
			rt.Fatalf("findings: %v", r.Findings)
		}
	})
}

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

func TestUnfinishedBlockIsNoFault(t *testing.T) {
	t.Parallel()
	w := script()
	dir := write(t, w.blocks)
	path, content := segment(t, dir)
	os.WriteFile(path, append(slices.Clone(content), 200, 0, 0, 0, 1, 2), 0o600)
	r := mustRun(t, dir)
	if !r.OK() || !strings.Contains(r.Note, "unfinished block: 6 bytes") {
		t.Errorf("got %v and note %q, want no finding and a note", r.Findings, r.Note)
	}
	if r.Blocks != uint64(len(w.blocks)) {
		t.Errorf("blocks: got %d, want %d", r.Blocks, len(w.blocks))
	}
}

func TestWhatIsNoJournal(t *testing.T) {
	t.Parallel()
	if _, err := Run(t.Context(), filepath.Join(t.TempDir(), "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent directory: got %v, want %v", err, os.ErrNotExist)
	}
	if _, err := Run(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "holds no journal") {
		t.Errorf("empty directory: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, write(t, script().blocks)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v, want %v", err, context.Canceled)
	}
}
