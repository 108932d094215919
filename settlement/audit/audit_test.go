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
		if k := c.Kind(); k != ledger.KindUsageBatch && k != ledger.KindTick {
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
	w := fullScript()
	reasons := map[ledger.Reason]bool{}
	for _, b := range w.blocks {
		for _, e := range b.Entries {
			if e.Kind == ledger.EntryTransfer {
				reasons[e.Transfer.Reason] = true
			}
		}
	}
	for r := ledger.ReasonDeposit; r <= ledger.ReasonForfeit; r++ {
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
	if r.Blocks != uint64(len(w.blocks)) || r.Entries != w.l.EntryCount() || r.Leases != uint64(w.l.LeaseCount()) || r.Batches == 0 || r.Records < r.Batches {
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
			switch rapid.IntRange(0, 20).Draw(rt, "step") {
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
				w.do(&ledger.CloseLease{Lease: lease, Reason: rapid.SampledFrom([]ledger.CloseReason{ledger.CloseOperator, ledger.CloseHostLost}).Draw(rt, "reason")})
			case 10, 11, 12, 13:
				w.later(rt, lease, amount)
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
