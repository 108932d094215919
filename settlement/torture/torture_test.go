package torture

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
	"github.com/joulecloud/joule/settlement/audit"
	"github.com/joulecloud/joule/settlement/journal"
	"github.com/joulecloud/joule/settlement/ledger"
)

const (
	serverCount   = 3
	hostsPerRound = 2
)

// patience bounds what must happen in the end after everything is healed.
const patience = 3 * time.Minute

func setting(t *testing.T, name string, otherwise uint64) uint64 {
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// fixture is a cluster that lives through all rounds.
type fixture struct {
	t      *testing.T
	lan    *lan
	s      *servers
	dir    string
	disk   *smallDisk // of the last server
	allocs *placements
	urls   []string // the servers, as the hosts reach them
	acked  map[string]bool
	done   map[string]int
}

func TestTorture(t *testing.T) {
	rounds, seed := setting(t, "ROUNDS", 3), setting(t, "TORTURE_SEED", uint64(time.Now().UnixNano())%1_000_000)
	if testing.Short() {
		t.Skip("starts servers")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	l, err := newLAN(serverCount)
	if err != nil {
		t.Skipf("needs network namespaces: %v", err)
	}
	t.Cleanup(l.remove)
	dir := t.TempDir()
	binary := filepath.Join(dir, "joule")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/joulecloud/joule/cli/joule").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	s, err := newServers(l, binary, dir)
	if err != nil {
		t.Fatal(err)
	}
	disk, err := mountSmallDisk(s.data(serverCount - 1))
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(disk.unmount)
	f := &fixture{t: t, lan: l, s: s, dir: dir, disk: disk, acked: map[string]bool{}, done: map[string]int{}}
	t.Cleanup(func() {
		for i := range serverCount {
			s.kill(i)
		}
	})
	for i := range serverCount {
		if err := s.start(i); err != nil {
			t.Fatal(err)
		}
	}
	f.world()
	t.Logf("TORTURE_SEED=%d", seed)
	for round := range int(rounds) {
		if f.round(round, seed+uint64(round)); t.Failed() {
			t.Fatalf("round %d failed; again: ROUNDS=1 TORTURE_SEED=%d make torture", round, seed+uint64(round))
		}
	}
	for i := range serverCount {
		s.kill(i)
	}
	f.audit()
	t.Logf("%d rounds, %d acknowledged commands, %v", rounds, len(f.acked), f.done)
}

// world is what the hosts need: a way to the servers, Nomad, a customer with
// money and JOULE to pay suppliers with.
func (f *fixture) world() {
	must := func(err error) {
		f.t.Helper()
		if err != nil {
			f.t.Fatal(err)
		}
	}
	var nomads []net.Listener
	for i := range serverCount {
		ln, err := f.lan.listen(i, nomadAddr)
		must(err)
		nomads = append(nomads, ln)
		addr, err := f.lan.forward(f.t.Context(), i, apiAddr)
		must(err)
		f.urls = append(f.urls, "http://"+addr)
	}
	f.allocs = servePlacements(nomads)
	f.t.Cleanup(f.allocs.close)
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	ld := f.newLoad(0)
	for _, do := range []call{
		func(ctx context.Context, api joulev1connect.SettlementServiceClient, key string) error {
			_, err := api.CreateCustomer(ctx, &joulev1.CreateCustomerRequest{Key: key + "-customer", Name: namespace, Namespace: namespace, PayIn: joulev1.Currency_CURRENCY_USD})
			return err
		},
		func(ctx context.Context, api joulev1connect.SettlementServiceClient, key string) error {
			_, err := api.Deposit(ctx, &joulev1.DepositRequest{Key: key + "-deposit", Customer: namespace, Currency: joulev1.Currency_CURRENCY_USD, Amount: 1_000_000 * dollar, Ref: key})
			return err
		},
		func(ctx context.Context, api joulev1connect.SettlementServiceClient, key string) error {
			_, err := api.SetRate(ctx, &joulev1.SetRateRequest{Key: key + "-rate", NusdPerJoule: 50_000_001})
			return err
		},
		func(ctx context.Context, api joulev1connect.SettlementServiceClient, key string) error {
			_, err := api.Mint(ctx, &joulev1.MintRequest{Key: key + "-mint", AmountNj: 1_000_000 * dollar, Ref: key})
			return err
		},
	} {
		if !ld.call(ctx, rand.New(rand.NewPCG(0, 0)), "world", do) {
			f.t.Fatalf("the cluster takes no commands: %v", ld.faults)
		}
	}
}

func (f *fixture) newLoad(round int) *load {
	ld := &load{round: round}
	for i := range serverCount {
		ld.apis = append(ld.apis, f.s.api(i))
	}
	return ld
}

// round is load, faults, healing, checks.
func (f *fixture) round(n int, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	ctx, cancel := context.WithTimeout(f.t.Context(), patience+time.Minute)
	defer cancel()
	ld := f.newLoad(n)
	var hosts []*host
	for i := range hostsPerRound {
		h, err := newHost(ctx, ld, f.dir, fmt.Sprintf("r%d-h%d", n, i), seed, f.allocs, f.urls)
		if err != nil {
			f.t.Errorf("%v: %v", err, ld.faults)
			return
		}
		hosts = append(hosts, h)
	}
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { ld.run(ctx, stop, seed) })
	for i, h := range hosts {
		running.Go(func() { h.run(ctx, stop, seed+uint64(i)) })
	}
	pause(ctx, time.Duration(200+r.IntN(800))*time.Millisecond)
	for range 1 + r.IntN(2) {
		f.fault(ctx, r)
	}
	f.heal(ctx)
	pause(ctx, time.Duration(300+r.IntN(500))*time.Millisecond)
	close(stop)
	running.Wait()
	for _, err := range ld.faults {
		f.t.Error(err)
	}
	for i := range serverCount {
		if err := f.s.died(i); err != nil {
			f.t.Error(err)
		}
	}
	if f.t.Failed() {
		return
	}
	maps.Copy(f.acked, ld.acked)
	f.done["calls"] += ld.calls
	for account, history := range ld.history {
		switch res, _ := porcupine.CheckOperationsVerbose(model, history, 20*time.Second); res {
		case porcupine.Illegal:
			f.t.Errorf("account %s: the history of %d calls is not linearizable: %+v", account, len(history), history)
		case porcupine.Unknown:
			f.done["histories too long to check"]++
		default:
			f.done["histories checked"]++
		}
	}
	f.same(ctx, ld)
	for _, h := range hosts {
		f.leases(ctx, h)
	}
	if n%5 == 4 {
		f.audit()
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// fault breaks something for a while.
func (f *fixture) fault(ctx context.Context, r *rand.Rand) {
	i := r.IntN(serverCount)
	if leader := f.leader(ctx); leader >= 0 && r.IntN(2) == 0 {
		i = leader
	}
	other := (i + 1 + r.IntN(serverCount-1)) % serverCount
	span := time.Duration(500+r.IntN(3500)) * time.Millisecond
	must := func(err error) {
		if err != nil {
			f.t.Error(err)
		}
	}
	switch r.IntN(8) {
	case 0:
		f.done["kill -9 of one"]++
		f.s.kill(i)
		pause(ctx, span/2)
		must(f.s.start(i))
	case 1:
		f.done["kill -9 of all"]++
		for i := range serverCount {
			f.s.kill(i)
		}
		for i := range serverCount {
			must(f.s.start(i))
		}
	case 2, 3:
		if r.IntN(12) == 0 {
			span = time.Duration(10+r.IntN(20)) * time.Second
		} else if r.IntN(2) == 0 {
			span = time.Duration(100+r.IntN(900)) * time.Millisecond
		}
		f.done["SIGSTOP"]++
		f.s.signal(i, syscall.SIGSTOP)
		pause(ctx, span)
		f.s.signal(i, syscall.SIGCONT)
	case 4:
		f.done["one link cut one way"]++
		must(f.lan.cut(i, other))
		pause(ctx, span)
	case 5:
		f.done["server cut off one way"]++
		for j := range serverCount {
			if j == i {
				continue
			}
			if span%2 == 0 {
				must(f.lan.cut(i, j))
			} else {
				must(f.lan.cut(j, i))
			}
		}
		pause(ctx, span)
	case 6:
		f.done["stopped, cut off and killed"]++
		f.s.signal(i, syscall.SIGSTOP)
		must(f.lan.cut(other, i))
		pause(ctx, span)
		f.s.signal(i, syscall.SIGCONT)
		f.s.kill(other)
		pause(ctx, span/3)
	case 7:
		f.done["disk full"]++
		must(f.disk.fill())
		pause(ctx, span)
		must(f.disk.free())
		pause(ctx, time.Second)
		full, err := f.s.endedFull(serverCount - 1)
		must(err)
		if full {
			f.done["ended by a full disk"]++
		}
	}
}

// heal ends every fault.
func (f *fixture) heal(ctx context.Context) {
	for i := range serverCount {
		if err := f.lan.heal(i); err != nil {
			f.t.Error(err)
		}
		f.s.signal(i, syscall.SIGCONT)
		if err := f.s.start(i); err != nil {
			f.t.Error(err)
		}
	}
}

func (f *fixture) leader(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	for i := range serverCount {
		if st, err := f.s.api(i).GetStatus(ctx, &joulev1.GetStatusRequest{}); err == nil && st.Leader {
			return i
		}
	}
	return -1
}

// same waits until every server has the same state, and compares it with what
// the clients were told.
func (f *fixture) same(ctx context.Context, ld *load) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		var seen []string
		for i := range serverCount {
			st, err := f.s.api(i).GetStatus(ctx, &joulev1.GetStatusRequest{})
			if err != nil {
				seen = append(seen, err.Error())
				continue
			}
			if st.UsdSum != 0 || st.JouleSum != 0 {
				f.t.Errorf("%s: the balances sum to %d nUSD and %d nJ", f.s.name(i), st.UsdSum, st.JouleSum)
				return
			}
			seen = append(seen, fmt.Sprint(st.Entries, " entries, digest ", st.Digest))
		}
		if seen[0] == seen[1] && seen[1] == seen[2] {
			break
		}
		if pause(ctx, 50*time.Millisecond); ctx.Err() != nil {
			f.t.Errorf("the servers differ: %q", seen)
			return
		}
	}
	for account, want := range ld.sum {
		var got int64 = -1
		for ctx.Err() == nil && got < 0 {
			for i := range serverCount {
				resp, err := f.s.api(i).ListAccounts(ctx, &joulev1.ListAccountsRequest{Prefix: "customer/" + account})
				if err == nil && len(resp.Accounts) > 0 {
					got = resp.Accounts[0].Balance
				}
			}
		}
		if got != want {
			f.t.Errorf("account %s: got %d, the acknowledged calls give %d", account, got, want)
		}
	}
}

// leases compares every server's leases of a host with the host's records.
func (f *fixture) leases(ctx context.Context, h *host) {
	for i := range serverCount {
		resp, err := f.s.api(i).ListLeases(ctx, &joulev1.ListLeasesRequest{Host: h.name, PageSize: 10000})
		if err == nil {
			err = h.check(resp.Leases)
		}
		if err != nil {
			f.t.Errorf("%s: %v", f.s.name(i), err)
			return
		}
	}
	f.done["leases"] += len(h.runs.last)
	for _, r := range h.runs.last {
		f.done["usage records"] += int(r.Seq)
	}
}

// audit audits every server's journal and looks every acknowledged command up
// in it.
func (f *fixture) audit() {
	for i := range serverCount {
		dir := filepath.Join(f.s.data(i), "journal")
		report, err := audit.Run(f.t.Context(), dir)
		if err != nil {
			f.t.Errorf("%s: audit: %v", f.s.name(i), err)
			return
		}
		for _, finding := range report.Findings {
			f.t.Errorf("%s: audit: %+v", f.s.name(i), finding)
		}
		ok := map[string]bool{}
		moved := map[string]int{}
		for frame, err := range journal.Scan(dir) {
			if err != nil { // a torn tail of a server that runs or was killed
				break
			}
			for k := range frame.Block.Envelopes {
				if key := frame.Block.Envelopes[k].Key; key != "" {
					ok[key] = frame.Block.Results[k].Code == ledger.CodeOK
				}
			}
			for k := range frame.Block.Entries {
				if e := &frame.Block.Entries[k]; e.Kind == ledger.EntryTransfer {
					moved[e.Transfer.Ref]++
				}
			}
		}
		missing := 0
		for key, want := range f.acked {
			got, there := ok[key]
			switch {
			case !there:
				missing++
				f.t.Errorf("%s: acknowledged command %s is not in the journal", f.s.name(i), key)
			case got != want, want && moved[key] != 1, !want && moved[key] != 0:
				f.t.Errorf("%s: command %s: done %t with %d transfers, it was acknowledged as done %t", f.s.name(i), key, got, moved[key], want)
			}
			if missing > 20 {
				return
			}
		}
		f.done["audits"]++
	}
}
