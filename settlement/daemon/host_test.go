package daemon

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
	"github.com/joulecloud/joule/settlement/client"
	"github.com/joulecloud/joule/settlement/enforce"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// fakeNomad answers what settlement asks of one allocation, a1 on host h1, whose
// node goes down when down is called.
func fakeNomad(t *testing.T) (url string, down func()) {
	t.Helper()
	answers := map[string]any{
		"/v1/allocation/a1": map[string]any{"ID": "a1", "NodeID": "n1", "Namespace": "acme", "JobID": "job", "TaskGroup": "group",
			"DesiredStatus": "run", "ClientStatus": "running",
			"Job":                map[string]any{"TaskGroups": []any{map[string]any{"Name": "group", "Tasks": []any{map[string]any{"Name": "main", "Driver": "joule"}}}}},
			"AllocatedResources": map[string]any{"Tasks": map[string]any{"main": map[string]any{"Memory": map[string]any{"MemoryMB": 64}}}}},
		"/v1/node/n1": map[string]any{"ID": "n1", "Attributes": map[string]string{"driver.joule.host": "h1", "cpu.numcores": "2"}},
	}
	var isDown atomic.Bool
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/node/n1" && isDown.Load() {
			_ = json.NewEncoder(w).Encode(map[string]any{"ID": "n1", "Status": "down"})
			return
		}
		if a, ok := answers[r.URL.Path]; ok {
			_ = json.NewEncoder(w).Encode(a)
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(ts.Close)
	return ts.URL, func() { isDown.Store(true) }
}

// hostSession is a host's session with one server.
type hostSession struct {
	t      *testing.T
	stream *connect.BidiStreamForClientSimple[joulev1.SessionUp, joulev1.SessionDown]
	key    ed25519.PrivateKey
	id     uint32
	number uint64
}

func (s *servers) hosts(i int) joulev1connect.HostServiceClient {
	s.t.Helper()
	url := "http://" + s.cfgs[i].Listen
	hc, err := client.HTTPClient(url, "")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(hc.CloseIdleConnections)
	return joulev1connect.NewHostServiceClient(hc, url, connect.WithInterceptors(client.Errors(url)))
}

func (s *servers) session(i int, key ed25519.PrivateKey) *hostSession {
	s.t.Helper()
	h := &hostSession{t: s.t, key: key}
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
	s.t.Cleanup(cancel)
	var err error
	if h.stream, err = s.hosts(i).Session(ctx); err != nil {
		s.t.Fatal(err)
	}
	incarnation := make([]byte, 16)
	h.up(&joulev1.SessionUp{Message: &joulev1.SessionUp_Hello{Hello: &joulev1.Hello{Host: "h1", Class: "crowd", Incarnation: incarnation, BootId: make([]byte, 16)}}})
	nonce := h.down().GetChallenge().GetNonce()
	h.up(&joulev1.SessionUp{Message: &joulev1.SessionUp_Proof{Proof: &joulev1.Proof{
		Signature: ed25519.Sign(key, wire.SessionSigningBytes(nonce, "h1", incarnation))}}})
	h.id = h.down().GetWelcome().GetHostId()
	return h
}

func (h *hostSession) up(m *joulev1.SessionUp) {
	h.t.Helper()
	if err := h.stream.Send(m); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hostSession) down() *joulev1.SessionDown {
	h.t.Helper()
	m, err := h.stream.Receive()
	if err != nil {
		h.t.Fatal(err)
	}
	return m
}

// settle sends a batch of one record until it is acknowledged with a known
// outcome, as hosts do, and returns the record's status.
func (h *hostSession) settle(r ledger.Record) joulev1.RecordStatus {
	h.t.Helper()
	b := wire.AppendBatch(nil, ledger.HostID(h.id), [16]byte{}, []ledger.Record{r})
	for deadline := time.Now().Add(limit); ; {
		h.number++
		h.up(&joulev1.SessionUp{Message: &joulev1.SessionUp_UsageBatch{UsageBatch: &joulev1.UsageBatch{
			Number: h.number, Batch: b, Signature: ed25519.Sign(h.key, wire.BatchSigningBytes(b))}}})
		ack := h.down().GetBatchAck()
		if ack.GetError() == nil && len(ack.GetStatuses()) == 1 {
			return ack.Statuses[0]
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("record %d: got %v", r.Seq, ack)
		}
	}
}

// world makes customer acme, supplier lab and its host h1, whose key is
// returned, through a server.
func (s *servers) world(i int) ed25519.PrivateKey {
	s.t.Helper()
	ctx, api := s.t.Context(), s.api(i)
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, call := range []func() error{
		func() error {
			_, err := api.CreateCustomer(ctx, &joulev1.CreateCustomerRequest{Key: "1", Name: "acme", Namespace: "acme"})
			return err
		},
		func() error {
			_, err := api.Deposit(ctx, &joulev1.DepositRequest{Key: "2", Customer: "acme", Currency: joulev1.Currency_CURRENCY_USD, Amount: 5e9, Ref: "p"})
			return err
		},
		func() error {
			_, err := api.Mint(ctx, &joulev1.MintRequest{Key: "3", AmountNj: 1e12, Ref: "g"})
			return err
		},
		func() error {
			_, err := api.SetRate(ctx, &joulev1.SetRateRequest{Key: "4", NusdPerJoule: 50_000_000})
			return err
		},
		func() error {
			_, err := api.CreateSupplier(ctx, &joulev1.CreateSupplierRequest{Key: "5", Name: "lab"})
			return err
		},
		func() error {
			_, err := api.EnrollHost(ctx, &joulev1.EnrollHostRequest{Key: "6", Name: "h1", Supplier: "lab", Class: "crowd", PublicKey: public})
			return err
		},
		func() error {
			_, err := api.SetOffer(ctx, &joulev1.SetOfferRequest{Key: "7", Host: "h1", Prices: &joulev1.Prices{BaseNusdPerHour: 360_000_000}})
			return err
		},
	} {
		if err := call(); err != nil {
			s.t.Fatal(err)
		}
	}
	return key
}

func openRequest(key ed25519.PrivateKey) *joulev1.OpenLeaseRequest {
	now := time.Now().UnixMilli()
	return &joulev1.OpenLeaseRequest{AllocId: "a1", Task: "main", Invocation: "i1", Auth: &joulev1.HostAuth{Host: "h1", UnixMs: now,
		Signature: ed25519.Sign(key, wire.HostRequestSigningBytes("OpenLease", "h1", now, wire.OpenLeaseBody("a1", "main", "i1")))}}
}

// A host needs no leader of its own: leases, sessions and usage go through any
// server, the same record through two of them counts once, and a session on a
// follower outlives the leader.
func TestHostOnFollowers(t *testing.T) {
	t.Parallel()
	s := newServers(t, 3, 3)
	nomad, _ := fakeNomad(t)
	for i := range s.cfgs {
		s.cfgs[i].Nomad = nomad
	}
	s.start(0, 1, 2)
	s.wait(0, 1, 2)
	leader := s.leader()
	a, b := (leader+1)%3, (leader+2)%3
	ctx := t.Context()
	key := s.world(a)
	open := openRequest(key)
	lease, err := s.hosts(a).OpenLease(ctx, open)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.hosts(b).OpenLease(ctx, open); err != nil || again.LeaseId != lease.LeaseId {
		t.Errorf("the lease again through another server: got %v, %v, want %v", again, err, lease)
	}

	var prev ledger.Hash
	record := func(seq, ms uint64) ledger.Record {
		r := ledger.Record{Lease: ledger.LeaseID(lease.LeaseId), Seq: seq, Epoch: 1, Prev: prev, Known: ledger.KnownAll, Active: ledger.Totals{WallMs: ms}}
		prev = wire.HashRecord(wire.AppendRecord(nil, &r))
		return r
	}
	onA, onB := s.session(a, key), s.session(b, key)
	accepted, duplicate := joulev1.RecordStatus_RECORD_STATUS_ACCEPTED, joulev1.RecordStatus_RECORD_STATUS_REPEAT
	first := record(1, 100)
	if got := onA.settle(first); got != accepted {
		t.Errorf("a record through a follower: got %v", got)
	}
	if got := onB.settle(first); got != duplicate {
		t.Errorf("the same through another: got %v", got)
	}
	if err := s.stop(leader); err != nil {
		t.Errorf("the leader ended: %v", err)
	}
	// Sent while nobody leads, or soon after: it waits for the new leader.
	if got := onA.settle(record(2, 200)); got != accepted && got != duplicate {
		t.Errorf("a record after the leader's end: got %v", got)
	}
	for _, i := range []int{a, b} {
		s.eventually("see the charge", func() error {
			r, err := s.api(i).ExplainLease(ctx, &joulev1.ExplainLeaseRequest{LeaseId: lease.LeaseId})
			if err != nil {
				return err
			}
			if want := int64(360_000_000 * 200 / 3_600_000); r.Lease.ChargedNusd != want || r.Lease.LastSeq != 2 {
				return fmt.Errorf("got %v, want %d nUSD at record 2", r.Lease, want)
			}
			return nil
		})
	}
	onB.up(&joulev1.SessionUp{Message: &joulev1.SessionUp_Heartbeat{Heartbeat: &joulev1.Heartbeat{Number: 7, Leases: []*joulev1.LeaseTotals{{LeaseId: 99}}}}})
	if m := onB.down(); !strings.Contains(fmt.Sprint(m), "UNKNOWN_LEASE") {
		t.Errorf("a heartbeat of a lease that is not there: got %v", m)
	}
	if m := onB.down(); m.GetHeartbeatAck().GetNumber() != 7 {
		t.Errorf("a heartbeat on a follower: got %v", m)
	}
}

// A host that dies with a lease open, which every server and Nomad notice, is
// fined by the leader, once, with its evidence; what it reports later is not
// paid.
func TestDeadHostIsFined(t *testing.T) {
	t.Parallel()
	s := newServers(t, 3, 3)
	nomad, down := fakeNomad(t)
	for i := range s.cfgs {
		s.cfgs[i].Nomad = nomad
		s.cfgs[i].enforce = &enforce.Config{Mode: enforce.On, Interval: 100 * time.Millisecond,
			Rules: enforce.Rules{Silence: 2 * time.Second, LeaderAge: time.Second, MassPPM: 1_000_000}}
	}
	s.start(0, 1, 2)
	s.wait(0, 1, 2)
	key := s.world(0)
	ctx := t.Context()
	api := s.api(0)
	lease, err := s.hosts(1).OpenLease(ctx, openRequest(key))
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range []func() error{
		func() error {
			_, err := api.SetFineSchedule(ctx, &joulev1.SetFineScheduleRequest{Key: "8", Schedule: &joulev1.FineSchedule{AppealMs: 3_600_000, RepeatMs: 3_600_000,
				DayCapPpm: 1_000_000, Rules: []*joulev1.FineRule{{Reason: "host lost", SharePpm: 500_000, RepeatPpm: 1_000_000}}}})
			return err
		},
		func() error {
			_, err := api.SetStakePolicy(ctx, &joulev1.SetStakePolicyRequest{Key: "9", Policy: &joulev1.StakePolicy{BasePerHostNj: 1000, UnbondMs: 86_400_000}})
			return err
		},
	} {
		if err := call(); err != nil {
			t.Fatal(err)
		}
	}
	onOne := s.session(1, key)
	first := ledger.Record{Lease: ledger.LeaseID(lease.LeaseId), Seq: 1, Epoch: 1, Known: ledger.KnownAll, Active: ledger.Totals{WallMs: 100}}
	if got := onOne.settle(first); got != joulev1.RecordStatus_RECORD_STATUS_ACCEPTED {
		t.Fatalf("a record: got %v", got)
	}
	if err := onOne.stream.CloseRequest(); err != nil {
		t.Fatal(err)
	}
	down()
	for i := range s.cfgs {
		s.eventually("see the fine on "+s.cfgs[i].Name, func() error {
			r, err := s.api(i).ListFines(ctx, &joulev1.ListFinesRequest{})
			if err != nil || len(r.Fines) == 0 {
				return fmt.Errorf("got %v, %v", r, err)
			}
			f := r.Fines[0]
			if len(r.Fines) != 1 || f.Plan.Reason != "host lost" || f.Plan.LeaseId != lease.LeaseId || f.Plan.Supplier != "lab" || f.State != "in escrow" ||
				f.Plan.TakenNj != 500 || len(f.Case.Evidence) != 1 {
				t.Errorf("got %v, want one fine of 500 nJ for the lease", r.Fines)
			}
			return nil
		})
	}
	second := first
	second.Seq, second.Prev, second.Active.WallMs = 2, wire.HashRecord(wire.AppendRecord(nil, &first)), 200
	if got := s.session(2, key).settle(second); got != joulev1.RecordStatus_RECORD_STATUS_LEASE_CLOSED {
		t.Errorf("a record of the lost lease: got %v", got)
	}
}

func TestFinesBlock(t *testing.T) {
	for text, want := range map[string]*enforce.Config{
		"":                            {Mode: enforce.Simulate, Rules: enforce.Default().Rules, Interval: enforce.Default().Interval},
		`fines { mode = "simulate" }`: {Mode: enforce.Simulate, Rules: enforce.Default().Rules, Interval: enforce.Default().Interval},
		`fines { mode = "off" }`:      nil,
		"fines {\n mode = \"on\"\n silence = \"2m\"\n mass_share = \"50%\"\n}": {Mode: enforce.On,
			Rules: enforce.Rules{Silence: 2 * time.Minute, LeaderAge: 2 * time.Minute, MassPPM: 500_000}, Interval: enforce.Default().Interval},
	} {
		cfg, err := load(t, "data_dir = \"/x\"\n"+text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := cfg.Fines.enforcer(); err != nil || (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("%s: got %+v, %v, want %+v", text, got, err, want)
		}
	}
	_, err := load(t, "data_dir = \"/x\"\nfines {\n mode = \"loud\"\n silence = \"5s\"\n mass_share = \"many\"\n}")
	for _, want := range []string{"fines: mode", `"loud"`, "silence", `"5s"`, "mass_share", "many"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}
