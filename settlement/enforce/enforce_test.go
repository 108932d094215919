package enforce

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/joulecloud/joule/raftstore"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/node"
	"github.com/joulecloud/joule/settlement/nomad"
)

// world is an enforcer on a real node, with witnesses and a Nomad that say what
// a test wants. Host 1 has lease 1, host 2 lease 2.
type world struct {
	t       *testing.T
	node    *node.Node
	log     bytes.Buffer
	silent  map[uint32]time.Duration   // here
	answers map[string][]time.Duration // of the other witnesses, by name: hosts 1 and 2
	lost    map[string]error           // allocations that Nomad has lost: nil
	leads   bool
	clock   time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, silent: map[uint32]time.Duration{}, answers: map[string][]time.Duration{}, lost: map[string]error{}, leads: true, clock: time.Unix(1000, 0)}
	rc := raftstore.Default()
	rc.ID, rc.BindAddr, rc.Bootstrap = "s1", "127.0.0.1:0", []raftstore.Peer{{ID: "s1"}}
	rc.Fatal = func(err error) { t.Error(err) }
	var err error
	if w.node, err = node.Open(node.Config{Raft: rc, DataDir: filepath.Join(t.TempDir(), "data")}, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.node.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := w.node.WaitLeader(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, c := range []ledger.Command{
		&ledger.CreateCustomer{Name: "acme", Namespace: "acme", PayIn: ledger.USD},
		&ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: 1e15, Ref: "p"},
		&ledger.Mint{Amount: 1e15, Ref: "g"}, &ledger.SetRate{NUSDPerJoule: 1e9},
		&ledger.CreateSupplier{Name: "lab"},
		&ledger.EnrollHost{Name: "h1", Supplier: "lab", Class: ledger.ClassCrowd, PublicKey: [32]byte{1}},
		&ledger.EnrollHost{Name: "h2", Supplier: "lab", Class: ledger.ClassCrowd, PublicKey: [32]byte{2}},
		&ledger.SetOffer{Host: "h1", Prices: ledger.Prices{Base: 360e9}}, &ledger.SetOffer{Host: "h2", Prices: ledger.Prices{Base: 360e9}},
		&ledger.OpenLease{Host: "h1", Namespace: "acme", Job: "j", Group: "g", Task: "main", Alloc: "a1", Invocation: "i", Resources: ledger.Resources{MilliCores: 1000}},
		&ledger.OpenLease{Host: "h2", Namespace: "acme", Job: "j", Group: "g", Task: "main", Alloc: "a2", Invocation: "i", Resources: ledger.Resources{MilliCores: 1000}},
		&ledger.SetStakePolicy{StakePolicy: ledger.StakePolicy{BasePerHost: 1e6, UnbondMs: 86_400_000}},
		&ledger.SetFineSchedule{FineSchedule: ledger.FineSchedule{AppealMs: 3_600_000, RepeatMs: 3_600_000, DayCapPPM: 1_000_000, Rules: []ledger.FineRule{
			{Reason: ledger.FineEquivocation, SharePPM: 100_000, RepeatPPM: 1_000_000},
			{Reason: ledger.FineHostLost, SharePPM: 500_000, RepeatPPM: 1_000_000}}}},
	} {
		w.do(fmt.Sprint("k", i), c)
	}
	return w
}

func (w *world) do(key string, c ledger.Command) ledger.Result {
	w.t.Helper()
	res, err := w.node.Submit(w.t.Context(), ledger.Envelope{Key: key, Command: c})
	if err == nil {
		err = res.Err()
	}
	if err != nil {
		w.t.Fatalf("%T: %v", c, err)
	}
	return res
}

// Heard implements Witnesses: this server and two more.
func (w *world) Heard(_ context.Context, hosts []uint32) ([][]time.Duration, int) {
	here := make([]time.Duration, len(hosts))
	for i, h := range hosts {
		here[i] = w.silent[h]
	}
	out := [][]time.Duration{here}
	for _, all := range w.answers {
		ages := make([]time.Duration, len(hosts))
		for i, h := range hosts {
			ages[i] = all[h-1]
		}
		out = append(out, ages)
	}
	return out, 3
}

// Lost implements Allocations.
func (w *world) Lost(_ context.Context, alloc string) (bool, error) {
	err, ok := w.lost[alloc]
	return ok && err == nil, err
}

func (w *world) enforcer(mode Mode) *Enforcer {
	cfg := Default()
	cfg.Mode, cfg.Rules.MassPPM = mode, 500_000
	e := New(cfg, Deps{Node: w.node, History: w.node.Journal(), Witnesses: w, Nomad: w, Leads: func() bool { return w.leads },
		Heard: func(h uint32) time.Duration { return w.silent[h] }}, slog.New(slog.NewTextHandler(&w.log, nil)))
	e.now = func() time.Time { return w.clock }
	return e
}

// ripe lets the enforcer lead for long enough.
func (w *world) ripe(mode Mode) *Enforcer {
	w.t.Helper()
	e := w.enforcer(mode)
	_ = e.look(w.t.Context())
	w.clock = w.clock.Add(e.cfg.Rules.LeaderAge)
	return e
}

// dead makes host 1 lost to every observer.
func (w *world) dead() {
	w.silent[1], w.answers["s2"], w.lost["a1"] = time.Hour, []time.Duration{time.Hour, 0}, nil
}

func (w *world) entries() uint64 { return w.node.Status().Entries }

func (w *world) read(fn func(*ledger.Ledger)) {
	w.t.Helper()
	if err := w.node.Read(w.t.Context(), func(l *ledger.Ledger) error { fn(l); return nil }); err != nil {
		w.t.Fatal(err)
	}
}

// A host that is lost to a majority of the servers and to Nomad has its leases
// closed, and its supplier is fined by the schedule with that entry as the
// evidence: once, whoever leads. The supplier's other host goes on.
func TestLostHostIsFined(t *testing.T) {
	w := newWorld(t)
	w.dead()
	for range 3 {
		if err := w.ripe(On).look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w.read(func(l *ledger.Ledger) {
		one, _ := l.Lease(1)
		two, _ := l.Lease(2)
		if one.Reason != ledger.CloseHostLost || two.Reason != ledger.CloseNone {
			t.Errorf("got leases closed for %v and %v, want host lost and none", one.Reason, two.Reason)
		}
		o, ok := l.Offence(1, ledger.FineHostLost)
		f, _ := l.Fine(1)
		if !ok || l.FineCount() != 1 || f.State != ledger.FineInEscrow || f.Plan.Lease != 1 || f.Proposed != "" ||
			len(f.Case.Evidence) != 1 || f.Case.Evidence[0] != o.Evidence || f.Plan.Schedule != 1e6 {
			t.Errorf("got %d fines, the first %+v, want one of half the required 2e6 nJ with evidence %+v", l.FineCount(), f, o)
		}
	})
	if n := strings.Count(w.log.String(), "is fined"); n != 1 {
		t.Errorf("the log says %d times that it is fined:\n%s", n, &w.log)
	}
}

// An equivocation needs no more than the ledger's own evidence.
func TestEquivocationIsFined(t *testing.T) {
	w := newWorld(t)
	for _, ms := range []uint64{1, 0} { // the second: another content under one sequence
		res, err := w.node.Submit(t.Context(), ledger.Envelope{Command: &ledger.UsageBatch{Host: 1, Records: []ledger.Record{{Lease: 1, Seq: 1, Epoch: 1,
			Known: ledger.KnownAll, Active: ledger.Totals{WallMs: ms}}}}})
		if err != nil || res.Code != ledger.CodeOK {
			t.Fatalf("got %+v, %v", res, err)
		}
	}
	e := w.enforcer(On)
	for range 2 {
		if err := e.look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w.read(func(l *ledger.Ledger) {
		if f, _ := l.Fine(1); l.FineCount() != 1 || f.Plan.Reason != ledger.FineEquivocation || f.Plan.Lease != 1 {
			t.Errorf("got %d fines, the first %+v", l.FineCount(), f)
		}
	})
}

// Nothing changes while it is simulated; the log says what would.
func TestSimulation(t *testing.T) {
	w := newWorld(t)
	w.dead()
	before := w.entries()
	e := w.ripe(Simulate)
	for range 3 {
		if err := e.look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if now := w.entries(); now != before {
		t.Errorf("a simulation made entries %d to %d", before+1, now)
	}
	if n := strings.Count(w.log.String(), "SIMULATED: a host is lost"); n != 1 || !strings.Contains(w.log.String(), "host=h1 lease=1") {
		t.Errorf("got the log\n%s", &w.log)
	}
	w.do("c", &ledger.CloseLease{Lease: 1, Reason: ledger.CloseHostLost})
	before = w.entries()
	if err := e.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(w.log.String(), "SIMULATED: an offence would be fined") || !strings.Contains(w.log.String(), "fine_nj=1000000") || w.entries() != before {
		t.Errorf("got the log\n%s", &w.log)
	}
}

// Rule T3: what may be the observers' own fault fines nobody.
func TestObserversFaultsFineNobody(t *testing.T) {
	for name, spoil := range map[string]func(*world, *Enforcer){
		"it does not lead":              func(w *world, _ *Enforcer) { w.leads = false },
		"it leads only now":             func(w *world, e *Enforcer) { e.led = w.clock },
		"one of three servers is there": func(w *world, _ *Enforcer) { clear(w.answers) },
		"another server hears the host": func(w *world, _ *Enforcer) { w.answers["s3"] = []time.Duration{time.Second, 0} },
		"every host is silent": func(w *world, _ *Enforcer) {
			w.silent[2] = time.Hour
		},
		"Nomad has not given it up": func(w *world, _ *Enforcer) { delete(w.lost, "a1") },
		"Nomad has forgotten it":    func(w *world, _ *Enforcer) { w.lost["a1"] = fmt.Errorf("%w: a1", nomad.ErrNoAllocation) },
		"Nomad does not answer":     func(w *world, _ *Enforcer) { w.lost["a1"] = fmt.Errorf("%w: refused", nomad.ErrUnreachable) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.dead()
			e := w.enforcer(On)
			e.led = w.clock.Add(-time.Hour)
			spoil(w, e)
			before := w.entries()
			for range 2 {
				if err := e.look(t.Context()); err != nil && !errors.Is(err, nomad.ErrUnreachable) {
					t.Fatal(err)
				}
			}
			if now := w.entries(); now != before {
				t.Errorf("it made entries %d to %d:\n%s", before+1, now, &w.log)
			}
		})
	}
}

// The share of hosts that may be silent is the operator's: exactly it is not
// too many.
func TestVerdict(t *testing.T) {
	r := Rules{Silence: time.Minute, MassPPM: 200_000, LeaderAge: time.Minute}
	good := facts{leading: time.Minute, voters: 3, answers: make([][]time.Duration, 2), hosts: 10, silent: 2}
	for name, tc := range map[string]struct {
		change func(*facts)
		want   string
	}{
		"as it should be":     {func(*facts) {}, ""},
		"a young leader":      {func(f *facts) { f.leading-- }, "too short"},
		"half of the servers": {func(f *facts) { f.voters = 4 }, "majority"},
		"too many":            {func(f *facts) { f.silent = 3 }, "too many"},
	} {
		f := good
		tc.change(&f)
		if got := r.verdict(&f); got != tc.want && (tc.want == "" || !strings.Contains(got, tc.want)) {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}
