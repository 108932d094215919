package ledger_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

var update = flag.Bool("update", false, "rewrite the output of the scripts; review the diff")

// Each file in testdata is a script: commands, one a line, then "----", then
// what must come of them: results, entries, and the final balances and leases.
// Amounts are written as decimals of USD or JOULE.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 12 {
		t.Fatalf("got %d scripts, %v, want at least 12", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			script, want, _ := strings.Cut(string(text), "----\n")
			got := newScript(t).run(script)
			if *update {
				if err := os.WriteFile(file, []byte(script+"----\n"+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("output differs (-want +got):\n%s", diff)
			}
		})
	}
}

type script struct {
	t     *testing.T
	l     *ledger.Ledger
	now   ledger.Time
	keys  int
	prevs map[recordKey]ledger.Hash
	out   strings.Builder
}

type recordKey struct {
	lease ledger.LeaseID
	seq   uint64
}

func newScript(t *testing.T) *script {
	return &script{t: t, l: ledger.New(), prevs: make(map[recordKey]ledger.Hash)}
}

func (s *script) run(text string) string {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fmt.Fprintf(&s.out, "> %s\n", line)
		s.line(line)
		if err := s.l.Verify(); err != nil {
			s.t.Fatalf("%s: %v", line, err)
		}
	}
	s.final()
	return s.out.String()
}

// args are a line's words: those with "=" by name, the others by position.
type args struct {
	t     *testing.T
	pos   []string
	named map[string]string
}

func (s *script) args(words []string) args {
	a := args{t: s.t, named: make(map[string]string)}
	for _, w := range words {
		if k, v, ok := strings.Cut(w, "="); ok {
			a.named[k] = v
		} else {
			a.pos = append(a.pos, w)
		}
	}
	return a
}

func (a args) at(i int) string {
	if i < len(a.pos) {
		return strings.ReplaceAll(a.pos[i], "~", " ")
	}
	return ""
}

func (a args) str(name, def string) string {
	if v, ok := a.named[name]; ok {
		return v
	}
	return def
}

func (a args) num(name string, def int64) int64 { return atoi(a.t, a.str(name, fmt.Sprint(def))) }

func (a args) money(name string) int64 { return decimal(a.t, a.str(name, "0")) }

func (a args) has(flag string) bool { return slices.Contains(a.pos, flag) }

func atoi(t *testing.T, s string) int64 {
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// decimal reads an amount with up to nine decimals, or raw with "n" behind it.
func decimal(t *testing.T, s string) int64 {
	if raw, ok := strings.CutSuffix(s, "n"); ok {
		return atoi(t, raw)
	}
	whole, frac, _ := strings.Cut(s, ".")
	return atoi(t, whole+(frac + "000000000")[:9])
}

func currency(s string) ledger.Currency {
	switch strings.ToLower(s) {
	case "usd":
		return ledger.USD
	case "joule":
		return ledger.JOULE
	}
	return 0
}

func prices(a args, prefix string) ledger.Prices {
	return ledger.Prices{Base: ledger.NUSD(a.money(prefix + "base")), CPU: ledger.NUSD(a.money(prefix + "cpu")),
		GPU: ledger.NUSD(a.money(prefix + "gpu")), Memory: ledger.NUSD(a.money(prefix + "memory"))}
}

func (s *script) line(line string) {
	words := strings.Fields(line)
	a := s.args(words[1:])
	var cmd ledger.Command
	switch words[0] {
	case "at":
		s.now = ledger.Time(atoi(s.t, a.at(0)))
		return
	case "after":
		s.now += ledger.Time(atoi(s.t, a.at(0)))
		return
	case "usage":
		s.usage(strings.TrimPrefix(line, "usage "))
		return
	case "snapshot":
		s.snapshot()
		return
	case "customer":
		cmd = &ledger.CreateCustomer{Name: a.at(0), Namespace: a.str("ns", a.at(0)), PayIn: currency(a.str("pay", "usd"))}
	case "supplier":
		cmd = &ledger.CreateSupplier{Name: a.at(0)}
	case "host":
		class := map[string]ledger.Class{"crowd": ledger.ClassCrowd, "datacenter": ledger.ClassDatacenter}[a.str("class", "crowd")]
		cmd = &ledger.EnrollHost{Name: a.at(0), Supplier: a.str("supplier", ""), Class: class, PublicKey: [32]byte{byte(a.num("pub", 1))}}
	case "offer":
		cmd = &ledger.SetOffer{Host: a.at(0), Prices: prices(a, "")}
	case "rate":
		cmd = &ledger.SetRate{NUSDPerJoule: ledger.NUSD(decimal(s.t, a.at(0)))}
	case "policy":
		cmd = &ledger.SetPolicy{FeePPM: uint32(a.num("fee", 0)), SliceMs: uint32(a.num("slice", 60_000))}
	case "deposit":
		cmd = &ledger.Deposit{Customer: a.at(0), Amount: decimal(s.t, a.at(1)), Currency: currency(a.at(2)), Ref: a.str("ref", "pay")}
	case "mint":
		cmd = &ledger.Mint{Amount: ledger.NJ(decimal(s.t, a.at(0))), Ref: a.str("ref", "mint")}
	case "withdraw":
		party := map[string]ledger.Party{"customer": ledger.PartyCustomer, "supplier": ledger.PartySupplier, "treasury": ledger.PartyTreasury}[a.at(0)]
		cmd = &ledger.Withdraw{Party: party, Name: a.str("name", ""), Amount: decimal(s.t, a.at(1)), Currency: currency(a.at(2)), Ref: a.str("ref", "out")}
	case "open":
		cmd = &ledger.OpenLease{Host: a.str("host", ""), Namespace: a.str("ns", "acme"), Job: a.str("job", "job"), Group: a.str("group", "g"),
			Task: a.str("task", "t"), Alloc: a.str("alloc", ""), Invocation: a.str("inv", "i1"),
			Resources: ledger.Resources{MilliCores: uint32(a.num("cores", 1000)), MemoryMiB: uint32(a.num("mem", 0)), GPUs: uint32(a.num("gpus", 0))},
			MaxPrices: prices(a, "max."), Budget: ledger.NUSD(a.money("budget"))}
	case "topup":
		cmd = &ledger.TopUpLease{Lease: ledger.LeaseID(atoi(s.t, a.at(0))), Slices: uint32(a.num("slices", 1))}
	case "close":
		cmd = &ledger.CloseLease{Lease: ledger.LeaseID(atoi(s.t, a.at(0))), Reason: ledger.CloseReason(a.num("reason", 1)), Host: ledger.HostID(a.num("host", 0))}
	case "tick":
		s.tick()
		return
	case "simulate":
		s.simulate(a)
		return
	case "due":
		s.printDue()
		return
	default:
		cmd = s.later(words[0], a)
	}
	s.keys++
	res := s.l.Apply(s.now, &ledger.Envelope{Key: a.str("key", fmt.Sprintf("k%d", s.keys)), Command: cmd})
	s.print(&res)
}

// usage reads "HOST record | record …".
func (s *script) usage(text string) {
	name, rest, _ := strings.Cut(text, " ")
	h, _ := s.l.Host(name)
	if h.ID == 0 {
		h.ID = 999
	}
	batch := &ledger.UsageBatch{Host: h.ID}
	chain := make(map[ledger.LeaseID]ledger.Hash)
	for rec := range strings.SplitSeq(rest, "|") {
		a := s.args(strings.Fields(rec))
		r := ledger.Record{Lease: ledger.LeaseID(a.num("lease", 1)), Seq: uint64(a.num("seq", 1)), Epoch: uint32(a.num("epoch", 1)),
			Known: ledger.Known(a.num("known", int64(ledger.KnownAll))), Final: a.has("final"), Quality: ledger.Quality(a.num("quality", 0)),
			Active: ledger.Totals{WallMs: uint64(a.num("wall", 0)), CPUMs: uint64(a.num("cpu", 0)),
				GPUMs: uint64(a.num("gpu", 0)), MemoryMiBMs: uint64(a.num("mem", 0))},
			Standby: ledger.Totals{WallMs: uint64(a.num("swall", 0)), CPUMs: uint64(a.num("scpu", 0))}}
		// A sequence sent again keeps its chain; a new one follows on the last.
		key := recordKey{r.Lease, r.Seq}
		prev, again := s.prevs[key]
		if !again {
			lease, _ := s.l.Lease(r.Lease)
			if prev = lease.LastHash; chain[r.Lease] != (ledger.Hash{}) {
				prev = chain[r.Lease]
			}
			s.prevs[key] = prev
		}
		if r.Prev = prev; a.has("unchained") {
			r.Prev = ledger.Hash{0xff}
		}
		r.Hash = wire.HashRecord(wire.AppendRecord(nil, &r))
		chain[r.Lease] = r.Hash
		batch.Records = append(batch.Records, r)
	}
	res := s.l.Apply(s.now, &ledger.Envelope{Command: batch})
	s.print(&res)
}

// snapshot goes on with a ledger that went through its bytes.
func (s *script) snapshot() {
	s.l.TakeEntries()
	s.l = throughSnapshot(s.t, s.l)
}

func (s *script) print(res *ledger.Result) {
	fmt.Fprintf(&s.out, "%s", res.Code)
	if res.Msg != "" {
		fmt.Fprintf(&s.out, ": %s", res.Msg)
	}
	if res.ID != 0 {
		fmt.Fprintf(&s.out, " id %d", res.ID)
	}
	if g := res.Lease; g != nil {
		fmt.Fprintf(&s.out, " lease %d epoch %d hold %d", g.Lease, g.Epoch, g.Hold)
	}
	s.out.WriteByte('\n')
	for _, r := range res.Records {
		fmt.Fprintf(&s.out, "  record %d/%d: %s", r.Lease, r.Seq, statusNames[r.Status])
		if r.Stop != 0 {
			fmt.Fprintf(&s.out, ", stop: %s", reasonNames[r.Stop])
		}
		if r.Charged != 0 {
			fmt.Fprintf(&s.out, ", charged %d nUSD", r.Charged)
		}
		s.out.WriteByte('\n')
	}
	for _, e := range s.l.TakeEntries() {
		fmt.Fprintf(&s.out, "  %d %s\n", e.Seq, s.entry(&e))
	}
}

var (
	statusNames = []string{"?", "accepted", "repeat", "old", "equivocation", "unknown lease", "wrong host", "lease closed", "decreasing", "invalid"}
	reasonNames = []string{"none", "finished", "funds", "not run", "operator", "host lost"}
	moves       = []string{"?", "deposit", "withdraw", "mint", "hold", "release", "charge", "pay", "fee", "accrue", "convert",
		"request", "return", "correct", "bond", "unbond", "unbonded", "fine", "fine-return", "remedy", "forfeit", "buy-stake"}
	units = []string{"?", "nUSD", "nJ"}
)

func totals(t ledger.Totals) string {
	return fmt.Sprintf("%d/%d/%d/%d", t.WallMs, t.CPUMs, t.GPUMs, t.MemoryMiBMs)
}

func (s *script) account(id ledger.AccountID) string {
	a, _ := s.l.Account(id)
	return a.Name
}

func (s *script) entry(e *ledger.Entry) string {
	switch e.Kind {
	case ledger.EntryTransfer:
		t := &e.Transfer
		text := fmt.Sprintf("%s: %s -> %s %d %s", moves[t.Reason], s.account(t.Debit), s.account(t.Credit), t.Amount, units[t.Currency])
		if t.Lease != 0 {
			text += fmt.Sprintf(" lease %d", t.Lease)
		}
		if t.Rate != 0 {
			text += fmt.Sprintf(" rate %d", t.Rate)
		}
		if t.Ref != "" {
			text += " ref " + t.Ref
		}
		return text
	case ledger.EntryUsage:
		u := &e.Usage
		text := fmt.Sprintf("usage %d/%d: billed %s", u.Lease, u.Seq, totals(u.Billed))
		if u.Standby != (ledger.Totals{}) {
			text += " standby " + totals(u.Standby)
		}
		if u.Refused != (ledger.Totals{}) {
			text += fmt.Sprintf(" refused %s by bounds %04b", totals(u.Refused), u.Bounds)
		}
		if u.Known != ledger.KnownAll {
			text += fmt.Sprintf(" known %04b", u.Known)
		}
		if u.Quality != 0 {
			text += fmt.Sprintf(" quality %b", u.Quality)
		}
		if u.Final {
			text += " final"
		}
		return text
	}
	if text, ok := s.fineFact(e.Fact); ok {
		return text
	}
	switch f := e.Fact.(type) {
	case *ledger.RecordRefused:
		return fmt.Sprintf("refused record %d/%d: %s", f.Record.Lease, f.Record.Seq, statusNames[f.Status])
	case *ledger.LeaseClosed:
		return fmt.Sprintf("closed lease %d: %s", f.ID, reasonNames[f.Reason])
	case *ledger.HostEnrolled:
		return fmt.Sprintf("host %d %s supplier %d class %d", f.ID, f.Name, f.Supplier, f.Class)
	}
	return strings.TrimPrefix(fmt.Sprintf("%T%+v", e.Fact, e.Fact), "*ledger.")
}

func (s *script) final() {
	s.out.WriteString("balances\n")
	for id := ledger.AccountID(1); id <= s.l.AccountCount(); id++ {
		if a, _ := s.l.Account(id); a.Balance != 0 {
			fmt.Fprintf(&s.out, "  %s %d %s\n", a.Name, a.Balance, units[a.Currency])
		}
	}
	usd, joule := s.l.Sums()
	fmt.Fprintf(&s.out, "  sums %d nUSD %d nJ\n", usd, joule)
	for id := ledger.LeaseID(1); id <= s.l.LeaseCount(); id++ {
		le, _ := s.l.Lease(id)
		fmt.Fprintf(&s.out, "lease %d %s seq %d billed %s cost %d charged %d unconverted %d paid %d fee %d carry %d hold %d\n", id,
			map[bool]string{true: "open", false: reasonNames[le.Reason]}[le.Reason == 0], le.LastSeq, totals(le.Billed),
			le.CostNUSD, le.ChargedNUSD, le.UnconvertedNUSD, le.PaidNJ, le.FeeNJ, le.Carry, le.Hold)
	}
	s.finalTables()
}
