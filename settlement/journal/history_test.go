package journal

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/joulecloud/joule/settlement/ledger"
)

// history makes n blocks like a ledger's: leases open for customers 1 to 3 on
// hosts 1 to 4, use, are charged at changing rates and close; two blocks in a
// row may have the same time, and blocks may be empty.
func history(seed uint64, n int) *chain {
	r := rand.New(rand.NewPCG(seed, 2))
	c := new(chain)
	open := []ledger.LeaseID{}
	leases := ledger.LeaseID(0)
	for range n {
		var entries []ledger.Entry
		transfer := func(lease ledger.LeaseID, reason ledger.Reason, rate ledger.RateID) {
			debit := ledger.AccountID(1 + r.IntN(12))
			entries = append(entries, ledger.Entry{Kind: ledger.EntryTransfer, Transfer: ledger.Transfer{
				Debit: debit, Credit: debit%12 + 1, Currency: ledger.USD, Amount: 1 + r.Int64N(1<<40),
				Reason: reason, Lease: lease, Rate: rate, Ref: fmt.Sprint("r", r.IntN(3))}})
		}
		switch r.IntN(6) {
		case 0:
			leases++
			open = append(open, leases)
			entries = append(entries, ledger.Entry{Kind: ledger.EntryLeaseOpened, Fact: &ledger.LeaseOpened{
				ID: leases, Customer: ledger.CustomerID(1 + r.IntN(3)), Host: ledger.HostID(1 + r.IntN(4)), Job: "j"}})
			transfer(leases, ledger.ReasonHold, 0)
		case 1:
			transfer(0, ledger.ReasonDeposit, 0)
		case 2:
		default:
			for range 1 + r.IntN(3) {
				if len(open) == 0 {
					break
				}
				k := r.IntN(min(len(open), 3))
				id := open[k]
				entries = append(entries, ledger.Entry{Kind: ledger.EntryUsage, Usage: ledger.Usage{Lease: id, Seq: c.entries,
					Billed: ledger.Totals{WallMs: r.Uint64N(1 << 30)}}})
				transfer(id, ledger.ReasonCharge, ledger.RateID(1+len(c.blocks)/50))
				transfer(id, ledger.ReasonFee, ledger.RateID(1+len(c.blocks)/50))
				if r.IntN(12) == 0 {
					entries = append(entries, ledger.Entry{Kind: ledger.EntryLeaseClosed, Fact: &ledger.LeaseClosed{ID: id, Reason: ledger.CloseFinished}})
					open = slices.Delete(open, k, k+1)
				}
			}
		}
		c.add(entries...)
	}
	return c
}

func (c *chain) balance(id ledger.AccountID, counts func(*ledger.Entry) bool) int64 {
	var sum int64
	for _, e := range c.entriesWhere(counts) {
		sum += moved(&e, id)
	}
	return sum
}

// condensed is what Condense should say of a lease's entries, without regard
// to order and to the times and sequences of transfers.
func condensed(entries []ledger.Entry) map[string]any {
	out := map[string]any{}
	for _, e := range entries {
		switch e.Kind {
		case ledger.EntryTransfer:
			t := e.Transfer
			key := fmt.Sprint(t.Reason, t.Debit, t.Credit, t.Currency, t.Rate, t.Lease)
			sum, _ := out[key].(int64)
			out[key] = sum + t.Amount
		default:
			out[fmt.Sprint("kind ", e.Kind)] = e
		}
	}
	return out
}

// Every question about the history gets the answer that a scan of all entries
// gives: with the segments' indexes in memory or on disk, after a restart, with
// index files gone or damaged.
func TestHistoryEqualsAFullScan(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		c := history(rapid.Uint64Range(1, 20).Draw(rt, "seed"), 150)
		n := rapid.IntRange(1, len(c.blocks)).Draw(rt, "blocks")
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		rotate := rapid.SampledFrom([]int64{1, 2000, 20_000, segmentBytes}).Draw(rt, "rotate")
		j, err := open(OS, dir, rotate)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { j.Close() }()
		mustAppendTo(rt, j, c, 0, n)
		switch rapid.SampledFrom([]string{"go on", "restart", "indexes gone", "indexes damaged", "index pages damaged"}).Draw(rt, "then") {
		case "restart":
			j.Close()
		case "indexes gone":
			j.Close()
			for _, p := range indexes(rt, dir) {
				os.Remove(p)
			}
		case "indexes damaged":
			j.Close()
			for _, p := range indexes(rt, dir) {
				damage(rt, p, rapid.Float64Range(0, 1).Draw(rt, "where"))
			}
		case "index pages damaged": // under the open journal
			j.sealing.Wait()
			for _, p := range indexes(rt, dir) {
				damage(rt, p, rapid.Float64Range(0, 1).Draw(rt, "where"))
			}
		}
		if j.err == ErrClosed {
			if j, err = open(OS, dir, rotate); err != nil {
				rt.Fatal(err)
			}
		}
		compareHistory(rt, j, &chain{blocks: c.blocks[:n], encoded: c.encoded[:n]})
	})
}

func indexes(rt *rapid.T, dir string) []string {
	paths, err := filepath.Glob(filepath.Join(dir, "*.jx"))
	if err != nil {
		rt.Fatal(err)
	}
	return paths
}

func damage(rt *rapid.T, path string, where float64) {
	b, err := os.ReadFile(path)
	if err != nil {
		rt.Fatal(err)
	}
	b[int(where*float64(len(b)-1))] ^= 0x10
	if err := os.WriteFile(path, b, 0o600); err != nil {
		rt.Fatal(err)
	}
}

func compareHistory(rt *rapid.T, j *Journal, c *chain) {
	all := c.entriesWhere(func(*ledger.Entry) bool { return true })
	total := uint64(len(all))
	if got := j.EntryCount(); got != total {
		rt.Fatalf("entry count: got %d, want %d", got, total)
	}
	same := func(what string, want, got any, err error) {
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			rt.Fatalf("%s: %v (-want +got):\n%s", what, err, diff)
		}
	}
	from := ledger.Time(rapid.Int64Range(990, 1160).Draw(rt, "from"))
	r := Range{After: rapid.Uint64Range(0, total+2).Draw(rt, "after"), Limit: rapid.IntRange(0, 20).Draw(rt, "limit"),
		From: from, To: from + ledger.Time(rapid.Int64Range(0, 100).Draw(rt, "to"))}
	if rapid.Bool().Draw(rt, "unbounded") {
		r.From, r.To = 0, 0
	}
	within := func(want func(*ledger.Entry) bool) []ledger.Entry {
		out := c.entriesWhere(func(e *ledger.Entry) bool {
			return e.Seq > r.After && (r.From == 0 || e.Time >= r.From) && (r.To == 0 || e.Time < r.To) && want(e)
		})
		if r.Limit > 0 && len(out) > r.Limit {
			out = out[:r.Limit]
		}
		return out
	}
	var ids []ledger.LeaseID
	for range 8 {
		id := ledger.LeaseID(rapid.IntRange(1, 30).Draw(rt, "lease"))
		if slices.Contains(ids, id) {
			continue
		}
		ids = append(ids, id)
		got, err := j.EntriesOfLease(id, r)
		same(fmt.Sprintf("lease %d in %+v", id, r), within(func(e *ledger.Entry) bool { return leaseOf(e) == id }), got, err)
	}
	con, err := j.Condense(ids)
	if err != nil || con.Entries != total || con.Digest != c.digest() {
		rt.Fatalf("condense: got %d entries with %x, %v, want %d with %x", con.Entries, con.Digest, err, total, c.digest())
	}
	for i, id := range ids {
		want := condensed(c.entriesWhere(func(e *ledger.Entry) bool { return leaseOf(e) == id }))
		same(fmt.Sprint("condensed lease ", id), want, condensed(con.Leases[i]), nil)
		if !slices.IsSortedFunc(con.Leases[i], func(a, b ledger.Entry) int { return int(a.Seq) - int(b.Seq) }) {
			rt.Fatalf("condensed lease %d is out of order", id)
		}
	}
	for range 4 {
		id := ledger.AccountID(rapid.IntRange(1, 13).Draw(rt, "account"))
		pair := []ledger.AccountID{id, id%12 + 1}
		got, err := j.EntriesOfAccounts(pair, r)
		same(fmt.Sprintf("accounts %v in %+v", pair, r), within(func(e *ledger.Entry) bool { return concerns(e, pair[0]) || concerns(e, pair[1]) }), got, err)
		at, err := j.BalanceAt(id, from)
		same(fmt.Sprintf("balance of %d at %d", id, from), c.balance(id, func(e *ledger.Entry) bool { return e.Time <= from }), at, err)
		after, err := j.BalanceAfter(id, r.After)
		same(fmt.Sprintf("balance of %d after %d", id, r.After), c.balance(id, func(e *ledger.Entry) bool { return e.Seq <= r.After }), after, err)
	}
	after := ledger.LeaseID(rapid.Uint64Range(0, 20).Draw(rt, "after lease"))
	for key := range 5 {
		var customers, hosts []ledger.LeaseID
		for _, e := range all {
			if l, ok := e.Fact.(*ledger.LeaseOpened); ok && l.ID > after {
				if int(l.Customer) == key {
					customers = append(customers, l.ID)
				}
				if int(l.Host) == key {
					hosts = append(hosts, l.ID)
				}
			}
		}
		got, err := j.LeasesOfCustomer(ledger.CustomerID(key), after, 0)
		same(fmt.Sprintf("leases of customer %d after %d", key, after), customers, got, err)
		got, err = j.LeasesOfHost(ledger.HostID(key), after, 2)
		same(fmt.Sprintf("leases of host %d after %d", key, after), hosts[:min(2, len(hosts))], got, err)
	}
}

// A start reads the last segment alone.
func TestOpenReadsOneSegment(t *testing.T) {
	t.Parallel()
	c := history(1, 120)
	dir := t.TempDir()
	j := mustOpen(t, dir, 4000)
	mustAppend(t, j, c, 0, 120)
	j.Close()
	j = mustOpen(t, dir, 4000)
	n := len(j.segs)
	if n < 5 {
		t.Fatalf("got %d segments, want some", n)
	}
	for i := range j.segs {
		if _, inMemory := j.segs[i].part.(*memPart); inMemory != (i == n-1) {
			t.Errorf("segment %d of %d: its index is in memory: %v", i+1, n, inMemory)
		}
	}
	if err := j.Verify(func(uint64, int) error { return nil }); err != nil {
		t.Error(err)
	}
}
