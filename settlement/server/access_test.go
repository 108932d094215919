package server_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/joulecloud/joule/settlement/access"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/client"
	"github.com/joulecloud/joule/settlement/server"
)

// procedures are all procedures of the server's services, by name.
func procedures(t *testing.T) map[string]protoreflect.MethodDescriptor {
	t.Helper()
	out := map[string]protoreflect.MethodDescriptor{}
	for _, file := range []protoreflect.FileDescriptor{joulev1.File_joule_v1_settlement_proto, joulev1.File_joule_v1_host_proto,
		joulev1.File_joule_v1_operator_proto} {
		for i := range file.Services().Len() {
			s := file.Services().Get(i)
			for k := range s.Methods().Len() {
				m := s.Methods().Get(k)
				out[fmt.Sprintf("/%s/%s", s.FullName(), m.Name())] = m
			}
		}
	}
	if len(out) < 40 {
		t.Fatalf("got %d procedures, want all", len(out))
	}
	return out
}

func newMessage(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	typ, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return typ.New().Interface()
}

// call calls a unary procedure with any request, and an optional token.
func (f *fixture) call(procedure string, m protoreflect.MethodDescriptor, req proto.Message, token string) (proto.Message, error) {
	f.t.Helper()
	hc, err := client.HTTPClient(f.url, "")
	f.ok(err)
	defer hc.CloseIdleConnections()
	c := connect.NewClient[anyMessage, anyMessage](hc, f.url+procedure,
		connect.WithCodec(descriptorCodec{m}), connect.WithInterceptors(client.Errors(f.url)))
	r := connect.NewRequest(&anyMessage{req})
	if token != "" {
		r.Header().Set("Authorization", "Bearer "+token)
	}
	resp, err := c.CallUnary(f.t.Context(), r)
	if err != nil {
		return nil, err
	}
	return resp.Msg.m, nil
}

// anyMessage and descriptorCodec let one client call every procedure.
type anyMessage struct{ m proto.Message }

type descriptorCodec struct{ m protoreflect.MethodDescriptor }

func (descriptorCodec) Name() string { return "proto" }

func (descriptorCodec) Marshal(v any) ([]byte, error) { return proto.Marshal(v.(*anyMessage).m) }

func (c descriptorCodec) Unmarshal(b []byte, v any) error {
	typ, err := protoregistry.GlobalTypes.FindMessageByName(c.m.Output().FullName())
	if err != nil {
		return err
	}
	out := typ.New().Interface()
	v.(*anyMessage).m = out
	return proto.Unmarshal(b, out)
}

// withTokens makes the fixture one with tokens: an operator's, and those of
// customers and suppliers by "role/subject".
func (f *fixture) withTokens() map[string]string {
	f.t.Helper()
	path := filepath.Join(f.dir, "tokens.hcl")
	out := map[string]string{}
	for _, id := range []access.Identity{{Name: "alice", Role: access.Operator}, {Name: "bob", Role: access.Operator},
		{Name: "c1", Role: access.Customer, Subject: "acme"}, {Name: "c2", Role: access.Customer, Subject: "globex"},
		{Name: "s1", Role: access.Supplier, Subject: "lab"}, {Name: "s2", Role: access.Supplier, Subject: "other-lab"}} {
		secret, tok, err := access.New(id.Name, id.Role, id.Subject)
		f.ok(err)
		f.ok(access.Append(path, tok))
		out[id.Name] = secret
	}
	tokens, err := access.Load(path)
	f.ok(err)
	f.close()
	f.configure = func(c *server.Config) { c.Tokens = tokens }
	f.open()
	return out
}

// grants says who may call a procedure beside operators. Every procedure has a
// row; hosts' procedures ask for no token.
var grants = map[string][]string{ // "customer", "supplier", "host"
	"CreateCustomer": {}, "CreateSupplier": {}, "EnrollHost": {"supplier"}, "SetOffer": {"supplier"}, "RetireHost": {"supplier"}, "BuyStake": {}, "SetRate": {}, "SetPolicy": {},
	"Deposit": {}, "Mint": {}, "Withdraw": {}, "TopUpLease": {"customer"}, "CloseLease": {}, "RequestWithdrawal": {"customer", "supplier"},
	"ConfirmWithdrawal": {}, "FailWithdrawal": {}, "OverrideRate": {}, "SetRateGuard": {}, "CorrectLease": {}, "SetStakePolicy": {},
	"Bond": {"supplier"}, "Unbond": {"supplier"}, "SetFineSchedule": {}, "IssueFine": {}, "ProposeFine": {}, "ApproveFine": {},
	"AppealFine": {"supplier"}, "VoidFine": {},
	"ListAccounts": {"customer", "supplier"}, "ListHosts": {"supplier"}, "ListLeases": {"customer", "supplier"},
	"ExplainLease": {"customer", "supplier"}, "GetBill": {"customer"}, "GetStatement": {"customer", "supplier"},
	"GetStatus": {"customer", "supplier"}, "GetPolicy": {"customer", "supplier"}, "ListRates": {"customer", "supplier"},
	"ListWithdrawals": {"customer", "supplier"}, "ListCorrections": {"customer", "supplier"}, "GetBudget": {"customer"},
	"GetSupplier": {"supplier"}, "SimulateFine": {}, "GetFine": {"supplier"}, "ListFines": {"supplier"}, "ListOffences": {},
	"ListPeers": {}, "RemovePeer": {},
}

// Every procedure lets in just the roles that it is for, and nobody without a
// token; to the others it says why.
func TestEveryProcedureAndRole(t *testing.T) {
	f := start(t)
	f.world()
	tokens := f.withTokens()
	for procedure, m := range procedures(t) {
		name := string(m.Name())
		if m.Parent().Name() == "HostService" {
			continue // hosts sign their requests: see TestHostsNeedNoToken
		}
		if m.IsStreamingClient() || m.IsStreamingServer() {
			continue // see TestBadOperatorStreams
		}
		who, ok := grants[name]
		if !ok {
			t.Errorf("%s: has no row in grants: who may call it?", procedure)
			continue
		}
		for _, c := range []struct{ role, token string }{{"nobody", ""}, {"nobody", "joule-wrong"}, {"operator", tokens["alice"]},
			{"customer", tokens["c1"]}, {"supplier", tokens["s1"]}} {
			_, err := f.call(procedure, m, newMessage(t, m.Input()), c.token)
			forbidden := reason(err) == joulev1.ErrorReason_ERROR_REASON_FORBIDDEN && strings.Contains(err.Error(), name+" is not for")
			switch {
			case c.role == "nobody" && reason(err) != joulev1.ErrorReason_ERROR_REASON_UNAUTHENTICATED:
				t.Errorf("%s without a token that is known: got %v, want unauthenticated", name, err)
			case c.role != "nobody" && reason(err) == joulev1.ErrorReason_ERROR_REASON_UNAUTHENTICATED:
				t.Errorf("%s as %s: got %v, want to be known", name, c.role, err)
			case c.role == "operator" && reason(err) == joulev1.ErrorReason_ERROR_REASON_FORBIDDEN:
				t.Errorf("%s as operator: got %v", name, err)
			case (c.role == "customer" || c.role == "supplier") && forbidden == slices.Contains(who, c.role):
				t.Errorf("%s as %s: got %v, want it let in: %v", name, c.role, err, slices.Contains(who, c.role))
			}
		}
	}
}

// A customer and a supplier see their own and nothing of others.
func TestOthersAreNotSeen(t *testing.T) {
	f := start(t)
	f.world()
	lease := f.openLeases(1)[0]
	tokens := f.withTokens()
	by := procedures(t)
	call := func(who, name string, req proto.Message) (proto.Message, error) {
		procedure := "/joule.v1.SettlementService/" + name
		return f.call(procedure, by[procedure], req, tokens[who])
	}
	for _, who := range []string{"alice"} {
		for _, req := range []*joulev1.CreateCustomerRequest{{Key: "k1", Name: "globex", Namespace: "globex"}} {
			if _, err := call(who, "CreateCustomer", req); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := call(who, "CreateSupplier", &joulev1.CreateSupplierRequest{Key: "k2", Name: "other-lab"}); err != nil {
			t.Fatal(err)
		}
	}
	none, forbidden, missing := joulev1.ErrorReason(0), joulev1.ErrorReason_ERROR_REASON_FORBIDDEN, joulev1.ErrorReason_ERROR_REASON_NOT_FOUND
	for _, tc := range []struct {
		who, name string
		req       proto.Message
		want      joulev1.ErrorReason
	}{
		{"c1", "ExplainLease", &joulev1.ExplainLeaseRequest{LeaseId: lease}, none},
		{"c2", "ExplainLease", &joulev1.ExplainLeaseRequest{LeaseId: lease}, missing},
		{"s1", "ExplainLease", &joulev1.ExplainLeaseRequest{LeaseId: lease}, none},
		{"s2", "ExplainLease", &joulev1.ExplainLeaseRequest{LeaseId: lease}, missing},
		{"c2", "TopUpLease", &joulev1.TopUpLeaseRequest{Key: "t", LeaseId: lease, Slices: 1}, missing},
		{"c1", "GetBill", &joulev1.GetBillRequest{Customer: "acme"}, none},
		{"c2", "GetBill", &joulev1.GetBillRequest{Customer: "acme"}, forbidden},
		{"c1", "GetBudget", &joulev1.GetBudgetRequest{Customer: "acme", Job: "job-0"}, none},
		{"c2", "GetBudget", &joulev1.GetBudgetRequest{Customer: "acme", Job: "job-0"}, forbidden},
		{"c1", "GetStatement", &joulev1.GetStatementRequest{Account: "hold/acme"}, none},
		{"c1", "GetStatement", &joulev1.GetStatementRequest{Account: "treasury"}, forbidden},
		{"c2", "GetStatement", &joulev1.GetStatementRequest{Account: "customer/acme"}, forbidden},
		{"s1", "GetStatement", &joulev1.GetStatementRequest{Account: "supplier/lab"}, none},
		{"s1", "GetStatement", &joulev1.GetStatementRequest{Account: "customer/lab"}, forbidden},
		{"c2", "ListAccounts", &joulev1.ListAccountsRequest{Name: "acme"}, forbidden},
		{"c2", "ListAccounts", &joulev1.ListAccountsRequest{Name: "customer/acme"}, forbidden},
		{"c2", "ListLeases", &joulev1.ListLeasesRequest{Customer: "acme"}, forbidden},
		{"s2", "ListLeases", &joulev1.ListLeasesRequest{Supplier: "lab"}, forbidden},
		{"s2", "SetOffer", &joulev1.SetOfferRequest{Key: "o", Host: "h1", Prices: &joulev1.Prices{}}, missing},
		{"s1", "SetOffer", &joulev1.SetOfferRequest{Key: "o", Host: "h1", Prices: &joulev1.Prices{}}, none},
		{"s2", "EnrollHost", &joulev1.EnrollHostRequest{Key: "e", Name: "h9", Supplier: "lab", Class: "crowd", PublicKey: make([]byte, 32)}, forbidden},
		{"s2", "GetSupplier", &joulev1.GetSupplierRequest{Supplier: "lab"}, forbidden},
		{"s1", "GetSupplier", &joulev1.GetSupplierRequest{}, none},
		{"s2", "Unbond", &joulev1.UnbondRequest{Key: "u", Supplier: "lab", AmountNj: 1}, forbidden},
		{"s1", "Bond", &joulev1.BondRequest{Key: "b", Supplier: "lab", AmountNj: 1, From: "deposit", Ref: "r"}, forbidden},
		{"c2", "RequestWithdrawal", &joulev1.RequestWithdrawalRequest{Key: "w", Party: joulev1.Party_PARTY_CUSTOMER, Name: "acme",
			Currency: joulev1.Currency_CURRENCY_USD, Amount: 1, To: "x"}, forbidden},
		{"c1", "RequestWithdrawal", &joulev1.RequestWithdrawalRequest{Key: "w", Party: joulev1.Party_PARTY_TREASURY,
			Currency: joulev1.Currency_CURRENCY_USD, Amount: 1, To: "x"}, forbidden},
		{"c1", "RequestWithdrawal", &joulev1.RequestWithdrawalRequest{Key: "w", Currency: joulev1.Currency_CURRENCY_USD, Amount: 1, To: "x"}, none},
		{"c2", "ListWithdrawals", &joulev1.ListWithdrawalsRequest{Account: "acme"}, forbidden},
		{"s2", "ListFines", &joulev1.ListFinesRequest{Supplier: "lab"}, forbidden},
		{"s2", "GetFine", &joulev1.GetFineRequest{FineId: 1}, missing},
		{"s2", "AppealFine", &joulev1.AppealFineRequest{Key: "a", FineId: 1, Supplier: "lab", Why: "w"}, forbidden},
		{"s2", "ListHosts", &joulev1.ListHostsRequest{Supplier: "lab"}, forbidden},
	} {
		if _, err := call(tc.who, tc.name, tc.req); reason(err) != tc.want {
			t.Errorf("%s as %s with %v: got %v (%v), want %v", tc.name, tc.who, tc.req, err, reason(err), tc.want)
		}
	}
	// What a request leaves open is the caller's own.
	for _, tc := range []struct {
		who, name, want string
		req             proto.Message
		not             string
	}{
		{"c1", "ListAccounts", "customer/acme", &joulev1.ListAccountsRequest{}, "treasury"},
		{"c1", "ListAccounts", "hold/acme", &joulev1.ListAccountsRequest{}, "supplier"},
		{"s1", "ListAccounts", "supplier/lab", &joulev1.ListAccountsRequest{}, "customer"},
		{"c1", "ListLeases", "acme", &joulev1.ListLeasesRequest{}, "nothing"},
		{"c1", "ListWithdrawals", "customer/acme", &joulev1.ListWithdrawalsRequest{}, "nothing"},
		{"s1", "ListHosts", "h1", &joulev1.ListHostsRequest{}, "nothing"},
	} {
		resp, err := call(tc.who, tc.name, tc.req)
		if err != nil || !strings.Contains(fmt.Sprint(resp), tc.want) || strings.Contains(fmt.Sprint(resp), tc.not) {
			t.Errorf("%s as %s: got %v, %v, want %q and no %q", tc.name, tc.who, resp, err, tc.want, tc.not)
		}
	}
	resp, err := call("c2", "ListLeases", &joulev1.ListLeasesRequest{})
	if err != nil || len(resp.(*joulev1.ListLeasesResponse).Leases) != 0 {
		t.Errorf("leases of globex: got %v, %v, want none", resp, err)
	}
}

// Hosts come without a token: their signatures say who they are.
func TestHostsNeedNoToken(t *testing.T) {
	f := start(t)
	f.world()
	f.withTokens()
	lease := f.openLease()
	s, err := f.connect("h1", "crowd", f.key)
	f.ok(err)
	b := s.batch(record(lease.LeaseId, 1, 10))
	if ack := s.send(b, s.sign(b)); ack.Error != nil {
		t.Errorf("got %v, want the batch settled", ack.Error)
	}
}

// Rule F3: a manual fine needs two operators, whose names come from tokens.
func TestManualFinesNeedTwoTokens(t *testing.T) {
	f := start(t)
	f.world()
	tokens := f.withTokens()
	by := procedures(t)
	call := func(who, name string, req proto.Message) (proto.Message, error) {
		procedure := "/joule.v1.SettlementService/" + name
		return f.call(procedure, by[procedure], req, tokens[who])
	}
	must := func(m proto.Message, err error) proto.Message {
		t.Helper()
		f.ok(err)
		return m
	}
	must(call("alice", "SetStakePolicy", &joulev1.SetStakePolicyRequest{Key: "p1", Policy: &joulev1.StakePolicy{BasePerHostNj: 1_000_000_000, FactorPpm: 1_000_000, UnbondMs: 86_400_000}}))
	must(call("alice", "SetFineSchedule", &joulev1.SetFineScheduleRequest{Key: "p2", Schedule: &joulev1.FineSchedule{AppealMs: 3600_000, RepeatMs: 3600_000,
		DayCapPpm: 1_000_000, Rules: []*joulev1.FineRule{{Reason: "breach", SharePpm: 100_000, RepeatPpm: 1_000_000, RemedyMs: 0}}}}))
	entry := must(call("alice", "GetStatus", &joulev1.GetStatusRequest{})).(*joulev1.GetStatusResponse).Entries
	p := must(call("alice", "ProposeFine", &joulev1.ProposeFineRequest{Key: "f", Why: "sold the disks",
		Case: &joulev1.FineCase{Supplier: "lab", Reason: "breach", Evidence: []*joulev1.Evidence{{Entry: entry}}}})).(*joulev1.ProposeFineResponse)
	if p.Fine.State != "proposed" || p.Fine.ProposedBy != "alice" {
		t.Fatalf("got %v, want a proposal of alice's", p.Fine)
	}
	_, err := call("alice", "ApproveFine", &joulev1.ApproveFineRequest{Key: "a1", FineId: p.Fine.Id})
	if reason(err) != joulev1.ErrorReason_ERROR_REASON_SAME_OPERATOR {
		t.Errorf("approval by the same operator: got %v", err)
	}
	a := must(call("bob", "ApproveFine", &joulev1.ApproveFineRequest{Key: "a2", FineId: p.Fine.Id})).(*joulev1.ApproveFineResponse)
	if a.Fine.State != "in escrow" || a.Fine.ApprovedBy != "bob" || a.Fine.Plan.ScheduleNj == 0 {
		t.Errorf("got %v, want it in escrow, approved by bob", a.Fine)
	}
	must(call("s1", "AppealFine", &joulev1.AppealFineRequest{Key: "ap", FineId: p.Fine.Id, Why: "we did not"}))
	v := must(call("alice", "VoidFine", &joulev1.VoidFineRequest{Key: "v", FineId: p.Fine.Id, Why: "true"})).(*joulev1.VoidFineResponse)
	if v.Fine.State != "voided" || v.Fine.VoidedBy != "alice" {
		t.Errorf("got %v, want it voided by alice", v.Fine)
	}
}
