package server_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/client"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/refusal"
	"github.com/joulecloud/joule/settlement/wire"
)

// good is a request that the server of world takes, for every unary procedure,
// in an order in which they all can be made: one that is not here fails the
// tests below.
func (f *fixture) good() []goodRequest {
	usd, joule := joulev1.Currency_CURRENCY_USD, joulev1.Currency_CURRENCY_JOULE
	supplier := joulev1.Party_PARTY_SUPPLIER
	breach := &joulev1.FineCase{Supplier: "lab", Reason: "breach", Evidence: []*joulev1.Evidence{{Entry: 3}}}
	return []goodRequest{
		{"CreateCustomer", &joulev1.CreateCustomerRequest{Key: "g1", Name: "globex", Namespace: "globex", PayIn: usd}},
		{"CreateSupplier", &joulev1.CreateSupplierRequest{Key: "g2", Name: "other-lab"}},
		{"EnrollHost", &joulev1.EnrollHostRequest{Key: "g3", Name: "h3", Supplier: "other-lab", Class: "crowd", PublicKey: bytes.Repeat([]byte{7}, 32)}},
		{"SetOffer", &joulev1.SetOfferRequest{Key: "g4", Host: "h1", Prices: &joulev1.Prices{BaseNusdPerHour: 360_000_000}}},
		{"SetPolicy", &joulev1.SetPolicyRequest{Key: "g6", FeePpm: 10_000, SliceMs: 60_000}},
		{"Deposit", &joulev1.DepositRequest{Key: "g7", Customer: "acme", Currency: usd, Amount: 5_000_000_000, Ref: "p"}},
		{"Mint", &joulev1.MintRequest{Key: "g8", AmountNj: 1_000, Ref: "m"}},
		{"HostService/OpenLease", &joulev1.OpenLeaseRequest{Auth: signed(f.key, "h1", "OpenLease", wire.OpenLeaseBody("a1", "main", "g"), time.Now()),
			AllocId: "a1", Task: "main", Invocation: "g"}},
		{"TopUpLease", &joulev1.TopUpLeaseRequest{Key: "g9", LeaseId: 1, Slices: 2}},
		{"Withdraw", &joulev1.WithdrawRequest{Key: "g10", Party: supplier, Name: "lab", Currency: joule, Amount: 1, Ref: "w"}},
		{"RequestWithdrawal", &joulev1.RequestWithdrawalRequest{Key: "g11", Party: supplier, Name: "lab", Currency: joule, Amount: 1, To: "bank"}},
		{"ConfirmWithdrawal", &joulev1.ConfirmWithdrawalRequest{Key: "g12", WithdrawalId: 1, Ref: "w"}},
		{"RequestWithdrawal", &joulev1.RequestWithdrawalRequest{Key: "g13", Party: supplier, Name: "lab", Currency: joule, Amount: 1, To: "bank"}},
		{"FailWithdrawal", &joulev1.FailWithdrawalRequest{Key: "g14", WithdrawalId: 2, Why: "closed"}},
		{"SetRateGuard", &joulev1.SetRateGuardRequest{Key: "g15", Guard: &joulev1.RateGuard{MaxAgeMs: 360_000, DeviationPpm: 15_000, WindowMs: 1_080_000}}},
		{"OverrideRate", &joulev1.OverrideRateRequest{Key: "g16", RateId: 2, ForMs: 1000, Why: "checked"}},
		{"SetRate", &joulev1.SetRateRequest{Key: "g5", NusdPerJoule: 50_000_000}},
		{"CorrectLease", &joulev1.CorrectLeaseRequest{Key: "g17", LeaseId: 1, Entry: f.chargeEntry, Why: "slow disk", Legs: []*joulev1.CorrectionLeg{
			{From: joulev1.Party_PARTY_TREASURY, To: joulev1.Party_PARTY_CUSTOMER, Currency: usd, Amount: 1}}}},
		{"SetStakePolicy", &joulev1.SetStakePolicyRequest{Key: "g18", Policy: &joulev1.StakePolicy{BasePerHostNj: 1000, FactorPpm: 1_000_000, UnbondMs: 86_400_000}}},
		{"Bond", &joulev1.BondRequest{Key: "g19", Supplier: "lab", AmountNj: 100, From: "earnings"}},
		{"BuyStake", &joulev1.BuyStakeRequest{Key: "g28", Supplier: "lab", PaidNusd: 1_000_000, Ref: "pay"}},
		{"RetireHost", &joulev1.RetireHostRequest{Key: "g29", Host: "h3"}},
		{"Unbond", &joulev1.UnbondRequest{Key: "g20", Supplier: "lab", AmountNj: 10}},
		{"SetFineSchedule", &joulev1.SetFineScheduleRequest{Key: "g21", Schedule: &joulev1.FineSchedule{AppealMs: 3_600_000, RepeatMs: 3_600_000, DayCapPpm: 1_000_000,
			Rules: []*joulev1.FineRule{{Reason: "breach", SharePpm: 10_000, RepeatPpm: 1_000_000}, {Reason: "equivocation", SharePpm: 10_000, RepeatPpm: 1_000_000}}}}},
		{"IssueFine", &joulev1.IssueFineRequest{Key: "g22", Case: &joulev1.FineCase{LeaseId: 1, Reason: "equivocation", Evidence: []*joulev1.Evidence{f.offence}}}},
		{"SimulateFine", &joulev1.SimulateFineRequest{Case: breach, Manual: true}},
		{"ProposeFine", &joulev1.ProposeFineRequest{Key: "g23", Case: breach, Why: "sold the disks"}},
		{"ApproveFine", &joulev1.ApproveFineRequest{Key: "g24", FineId: 2}},
		{"AppealFine", &joulev1.AppealFineRequest{Key: "g25", FineId: 2, Supplier: "lab", Why: "we did not"}},
		{"VoidFine", &joulev1.VoidFineRequest{Key: "g26", FineId: 2, Why: "true"}},
		{"ListAccounts", &joulev1.ListAccountsRequest{}}, {"ListHosts", &joulev1.ListHostsRequest{}}, {"ListLeases", &joulev1.ListLeasesRequest{}},
		{"ExplainLease", &joulev1.ExplainLeaseRequest{LeaseId: 1}}, {"GetBill", &joulev1.GetBillRequest{Customer: "acme"}},
		{"GetStatement", &joulev1.GetStatementRequest{Account: "acme"}}, {"GetStatus", &joulev1.GetStatusRequest{}}, {"GetPolicy", &joulev1.GetPolicyRequest{}},
		{"ListRates", &joulev1.ListRatesRequest{}}, {"ListWithdrawals", &joulev1.ListWithdrawalsRequest{}}, {"ListCorrections", &joulev1.ListCorrectionsRequest{}},
		{"GetBudget", &joulev1.GetBudgetRequest{Customer: "acme", Job: "job"}}, {"GetSupplier", &joulev1.GetSupplierRequest{Supplier: "lab"}},
		{"GetFine", &joulev1.GetFineRequest{FineId: 2}}, {"ListFines", &joulev1.ListFinesRequest{}}, {"ListOffences", &joulev1.ListOffencesRequest{}},
		{"OperatorService/ListPeers", &joulev1.ListPeersRequest{}},
		{"CloseLease", &joulev1.CloseLeaseRequest{Key: "g27", LeaseId: 1}},
		{"HostService/CloseLease", &joulev1.HostCloseLeaseRequest{Auth: signed(f.key, "h1", "CloseLease", wire.CloseLeaseBody(2), time.Now()), LeaseId: 2}},
	}
}

type goodRequest struct {
	name string // of the procedure; SettlementService's unless it says of which
	req  proto.Message
}

func (g goodRequest) procedure() string {
	if strings.Contains(g.name, "/") {
		return "/joule.v1." + g.name
	}
	return "/joule.v1.SettlementService/" + g.name
}

// evidenced fills the world with a lease that was charged and one piece of the
// ledger's own evidence against its host.
func (f *fixture) evidenced() {
	f.t.Helper()
	f.world()
	lease := f.openLease()
	s, err := f.connect("h1", "crowd", f.key)
	f.ok(err)
	for _, r := range []ledger.Record{record(lease.LeaseId, 1, 100), record(lease.LeaseId, 1, 50)} { // the second: equivocation
		b := s.batch(r)
		s.send(b, s.sign(b))
	}
	_, err = f.node.Submit(f.t.Context(), ledger.Envelope{Key: "feed", Command: &ledger.ProposeRate{NUSDPerJoule: 50_000_000}})
	f.ok(err)
	offences, err := f.api.ListOffences(f.t.Context(), &joulev1.ListOffencesRequest{})
	f.ok(err)
	if len(offences.Offences) != 1 {
		f.t.Fatalf("got offences %v, want one", offences.Offences)
	}
	f.offence = offences.Offences[0].Evidence
	e, err := f.api.ExplainLease(f.t.Context(), &joulev1.ExplainLeaseRequest{LeaseId: lease.LeaseId})
	f.ok(err)
	for _, entry := range e.Entries {
		if entry.Reason == "charge" {
			f.chargeEntry = entry.Seq
		}
	}
}

// state is what the ledger and its journal are at; entries alone, for what has
// reached the log and was refused there.
func (f *fixture) state(entriesAlone bool) string {
	f.t.Helper()
	f.ok(f.node.Read(f.t.Context(), func(*ledger.Ledger) error { return nil })) // everything is applied
	st := f.node.Status()
	if entriesAlone {
		return fmt.Sprint("entries ", st.Entries)
	}
	return fmt.Sprintf("entries %d, index %d, digest %x", st.Entries, st.AppliedIndex, st.Digest)
}

// typed reports whether an error says its kind: a reason of the table, or the
// protocol's own refusal of what does not decode or is too large.
func typed(err error) bool {
	if e, ok := err.(*client.Error); ok {
		_, known := refusal.Of(e.Reason)
		return known
	}
	return false
}

// Bad input to any procedure gets a typed error, changes nothing and does not
// stop the server: garbage, what is too large, callers that are not known, keys
// used before, every field with hostile values. A new procedure needs a row in
// good.
func TestBadInputToEveryProcedure(t *testing.T) {
	f := start(t)
	f.evidenced()
	tokens := f.withTokens()
	f.srv.NoLimitOnRate()
	good := f.good()
	by := procedures(t)
	for procedure, m := range by {
		if !m.IsStreamingClient() && !m.IsStreamingServer() && m.Name() != "RemovePeer" && !slices.ContainsFunc(good, func(g goodRequest) bool { return g.procedure() == procedure }) {
			t.Errorf("%s: has no good request in the table", procedure)
		}
	}
	token := func(g goodRequest) string { // two operators take turns, for manual fines
		if g.name == "ApproveFine" {
			return tokens["bob"]
		}
		return tokens["alice"]
	}
	for _, g := range good {
		m := by[g.procedure()]
		call := func(req proto.Message, token string) (proto.Message, error) {
			return f.call(g.procedure(), m, req, token)
		}
		keyed, changes := g.req.(interface{ GetKey() string })
		host := strings.HasPrefix(g.name, "HostService/")

		before := f.state(false)
		f.garbage(g.procedure(), token(g), m.Input().Fields().Len() > 0)
		if !host {
			if _, err := call(g.req, ""); reason(err) != joulev1.ErrorReason_ERROR_REASON_UNAUTHENTICATED {
				t.Errorf("%s without a token: got %v", g.name, err)
			}
		}
		if now := f.state(false); now != before {
			t.Errorf("%s: what never should have reached the log changed it from %s to %s", g.name, before, now)
		}

		before = f.state(true)
		hostile(g.req, func(field string, bad proto.Message) {
			_, err := call(bad, token(g))
			switch {
			case err == nil && changes && f.state(true) != before:
				t.Errorf("%s with a hostile %s: it was taken: %.200v", g.name, field, bad)
				before = f.state(true)
			case err != nil && !typed(err):
				t.Errorf("%s with a hostile %s: got %T %v, want a typed error", g.name, field, err, err)
			}
		})
		if changes && keyed.GetKey() != "" {
			used := proto.Clone(g.req)
			used.ProtoReflect().Set(used.ProtoReflect().Descriptor().Fields().ByName("key"), protoreflect.ValueOfString("1"))
			if _, err := call(used, token(g)); reason(err) != joulev1.ErrorReason_ERROR_REASON_CONFLICT {
				t.Errorf("%s with a key of another command: got %v, want a conflict", g.name, err)
			}
		}
		if now := f.state(true); now != before {
			t.Errorf("%s: bad input took the journal from %s to %s", g.name, before, now)
		}

		// The good one is taken; the same again is the same, and moves nothing.
		first, err := call(g.req, token(g))
		if err != nil {
			t.Errorf("%s: the good request: %v", g.name, err)
			continue
		}
		before = f.state(true)
		again, err := call(g.req, token(g))
		if err != nil || changes && !proto.Equal(first, again) {
			t.Errorf("%s again: got %v, %v, want %v", g.name, again, err, first)
		}
		if now := f.state(true); now != before {
			t.Errorf("%s again: it took the journal from %s to %s", g.name, before, now)
		}
	}
}

// garbage sends what no client of ours would to a unary procedure. fields: it
// takes any.
func (f *fixture) garbage(procedure, token string, fields bool) {
	f.t.Helper()
	for _, body := range []struct{ kind, content string }{
		{"application/proto", "\xff\xff\xff\xff"}, {"application/proto", strings.Repeat("\x0a\x80", 40)},
		{"application/json", "{"}, {"application/json", "[]"}, {"application/json", "\xff"},
		{"application/proto", "\x0a\xa0\x8d\x06" + strings.Repeat("k", 100_000)},
		{"application/json", `{"key": "` + strings.Repeat("k", 200_000) + `"}`},
		{"text/plain", "x"}, {"application/json; charset=utf-16", "{}"},
	} {
		status, answer := f.post(procedure, body.kind, body.content, token)
		switch {
		case status == http.StatusOK && fields || status == http.StatusInternalServerError:
			f.t.Errorf("%s with %s %.20q: got HTTP status %d, %.200s", procedure, body.kind, body.content, status, answer)
		case status != http.StatusOK && status != http.StatusUnsupportedMediaType:
			f.typedAnswer(procedure, status, answer)
		}
	}
}

// typedAnswer checks that an error has the table's form: a detail with a
// reason, and the HTTP status that the reason's row says.
func (f *fixture) typedAnswer(procedure string, status int, answer string) {
	f.t.Helper()
	var e struct {
		Details []struct{ Type, Value string }
	}
	var detail joulev1.Error
	if err := json.Unmarshal([]byte(answer), &e); err != nil || len(e.Details) != 1 || e.Details[0].Type != "joule.v1.Error" {
		f.t.Errorf("%s: HTTP status %d with %.300s, want a joule.v1.Error", procedure, status, answer)
		return
	}
	b, err := base64.RawStdEncoding.DecodeString(e.Details[0].Value)
	f.ok(err)
	f.ok(proto.Unmarshal(b, &detail))
	if row, ok := refusal.Of(detail.Reason); !ok || row.HTTP() != status || detail.Message == "" {
		f.t.Errorf("%s: HTTP status %d with %v, the table says %d", procedure, status, &detail, row.HTTP())
	}
}

// post makes a raw call.
func (f *fixture) post(procedure, contentType, body, token string) (status int, answer string) {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodPost, f.url+procedure, strings.NewReader(body))
	f.ok(err)
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	f.ok(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	f.ok(err)
	return resp.StatusCode, string(b)
}

// hostile calls fn with copies of a message, each with one field (of it or of
// the messages in it) set to what no caller should send.
func hostile(m proto.Message, fn func(field string, bad proto.Message)) {
	n := 0
	var walk func(path string, at func(proto.Message) protoreflect.Message, d protoreflect.MessageDescriptor)
	walk = func(path string, at func(proto.Message) protoreflect.Message, d protoreflect.MessageDescriptor) {
		for i := range d.Fields().Len() {
			fd := d.Fields().Get(i)
			name := path + string(fd.Name())
			clone := func() proto.Message {
				bad := proto.Clone(m)
				if key := bad.ProtoReflect().Descriptor().Fields().ByName("key"); key != nil && name != "key" {
					n++ // a refusal is remembered under its key
					bad.ProtoReflect().Set(key, protoreflect.ValueOfString(fmt.Sprint("bad-", n)))
				}
				return bad
			}
			set := func(what string, v protoreflect.Value) {
				bad := clone()
				at(bad).Set(fd, v)
				fn(name+" "+what, bad)
			}
			switch {
			case fd.IsList():
				bad := clone()
				list := at(bad).Mutable(fd).List()
				for range 1000 {
					list.Append(list.NewElement())
				}
				fn(name+" of 1000", bad)
			case fd.Kind() == protoreflect.MessageKind:
				bad := clone()
				at(bad).Clear(fd)
				fn(name+" absent", bad)
				if at(m).Has(fd) {
					walk(name+".", func(p proto.Message) protoreflect.Message { return at(p).Mutable(fd).Message() }, fd.Message())
				}
			case fd.Kind() == protoreflect.StringKind:
				for _, s := range []string{"", strings.Repeat("x", 2000), "a\x00b", "../../etc/passwd\n", "🐘" + strings.Repeat("é", 300)} {
					if name == "key" && s != "" && len(s) <= ledger.KeyBytesMax {
						continue // a key may be any bytes
					}
					set(fmt.Sprintf("%.10q of %d bytes", s, len(s)), protoreflect.ValueOfString(s))
				}
			case fd.Kind() == protoreflect.BytesKind:
				for _, n := range []int{1, 31, 33, 5000} {
					set(fmt.Sprint("of ", n), protoreflect.ValueOfBytes(bytes.Repeat([]byte{1}, n)))
				}
			case fd.Kind() == protoreflect.EnumKind:
				for _, n := range []int32{99, -1, 256 + 1, 256 + 2, math.MaxInt32} {
					set(fmt.Sprint(n), protoreflect.ValueOfEnum(protoreflect.EnumNumber(n)))
				}
			case fd.Kind() == protoreflect.Int64Kind:
				for _, n := range []int64{-1, math.MinInt64, math.MaxInt64} {
					set(fmt.Sprint(n), protoreflect.ValueOfInt64(n))
				}
			case fd.Kind() == protoreflect.Uint64Kind:
				set("max", protoreflect.ValueOfUint64(math.MaxUint64))
			case fd.Kind() == protoreflect.Uint32Kind:
				set("max", protoreflect.ValueOfUint32(math.MaxUint32))
			}
		}
	}
	walk("", func(p proto.Message) protoreflect.Message { return p.ProtoReflect() }, m.ProtoReflect().Descriptor())
}

// A session that does not keep to the protocol ends with a typed error, and
// neither changes anything nor disturbs another.
func TestBadSessions(t *testing.T) {
	f := start(t)
	f.world()
	lease := f.openLease()
	good, err := f.connect("h2", "crowd", f.other)
	f.ok(err)
	before := f.state(false)
	for name, m := range map[string]*joulev1.SessionUp{
		"nothing":                     {},
		"a heartbeat first":           {Message: &joulev1.SessionUp_Heartbeat{Heartbeat: &joulev1.Heartbeat{Number: 1}}},
		"a batch first":               {Message: &joulev1.SessionUp_UsageBatch{UsageBatch: &joulev1.UsageBatch{Number: 1, Batch: []byte("x")}}},
		"a proof first":               {Message: &joulev1.SessionUp_Proof{Proof: &joulev1.Proof{Signature: make([]byte, 64)}}},
		"an unknown host":             {Message: &joulev1.SessionUp_Hello{Hello: &joulev1.Hello{Host: "nobody", Class: "crowd"}}},
		"another class":               {Message: &joulev1.SessionUp_Hello{Hello: &joulev1.Hello{Host: "h1", Class: "datacenter"}}},
		"a short incarnation":         {Message: &joulev1.SessionUp_Hello{Hello: &joulev1.Hello{Host: "h1", Class: "crowd", Incarnation: []byte{1}}}},
		"a hello beyond the limit":    {Message: &joulev1.SessionUp_Hello{Hello: &joulev1.Hello{Host: strings.Repeat("h", 2<<20)}}},
		"a host with a control code":  {Message: &joulev1.SessionUp_Hello{Hello: &joulev1.Hello{Host: "h1\x00"}}},
		"a name of the wrong letters": {Message: &joulev1.SessionUp_Hello{Hello: &joulev1.Hello{Host: "H1", Class: "crowd"}}},
	} {
		s, err := f.hosts().Session(t.Context())
		f.ok(err)
		s.Send(m) // a server that has ended the stream already makes it fail: Receive says why
		_, err = s.Receive()
		if err = client.Rebuild(f.url, err); err == nil || strings.Contains(err.Error(), "internal error") {
			t.Errorf("%s: got %v, want a typed error", name, err)
		}
		s.CloseRequest()
		s.CloseResponse()
	}
	if _, err := f.connect("h1", "crowd", f.other); reason(err) != joulev1.ErrorReason_ERROR_REASON_UNAUTHENTICATED {
		t.Errorf("a session signed by another host: got %v", err)
	}
	if now := f.state(false); now != before {
		t.Errorf("bad sessions changed the ledger from %s to %s", before, now)
	}
	b := good.batch(record(lease.LeaseId, 1, 10))
	if ack := good.send(b, f.signBy(b)); ack.Statuses[0] != joulev1.RecordStatus_RECORD_STATUS_WRONG_HOST {
		t.Errorf("the other host's session: got %v, want it served still", ack)
	}
}
