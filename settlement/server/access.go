package server

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"connectrpc.com/connect"

	"github.com/joulecloud/joule/settlement/access"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
	"github.com/joulecloud/joule/settlement/ledger"
)

// Tokens says whose token a secret is.
type Tokens interface {
	Identify(secret string) (id access.Identity, ok bool, err error)
}

// local is who asks on loopback of a server without tokens: whoever has an
// account on the machine, as with `joule dev`.
var local = access.Identity{Name: "local", Role: access.Operator}

// caller is who made a request, as the HTTP handler found out.
type caller struct {
	id      access.Identity // Nobody: see refused
	refused string          // why nobody
	key     string          // whose share of the server it uses
	exempt  bool            // from the limit on its rate
}

type callerKey struct{}

// callerOf returns who asks. Without one (a handler called past Handler) it is
// nobody.
func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// operator is the name under which an operator acts.
func operator(ctx context.Context) string { return callerOf(ctx).id.Name }

// identify finds out who makes a request, by its bearer token or, on a server
// without tokens, by its address.
func (s *Server) identify(r *http.Request) caller {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	c := caller{key: "address " + host}
	if s.tokens == nil {
		addr, err := netip.ParseAddr(host)
		if err == nil && addr.Unmap().IsLoopback() {
			c.id, c.exempt = local, true
		} else {
			c.refused = "this server has no tokens and answers on its own machine alone: set tokens_file"
		}
		return c
	}
	header := r.Header.Get("Authorization")
	secret, bearer := strings.CutPrefix(header, "Bearer ")
	switch {
	case header == "":
		c.refused = "a token is needed: --token-file, or the header \"Authorization: Bearer TOKEN\""
	case !bearer:
		c.refused = "authorization: want \"Bearer TOKEN\""
	default:
		id, ok, err := s.tokens.Identify(secret)
		if err != nil {
			s.log.WarnContext(r.Context(), "the tokens stay as they were", "error", err)
		}
		if !ok {
			c.refused = "the token is not known to this server"
			break
		}
		c.id, c.key = id, "token "+id.Name
	}
	return c
}

// scope checks a request against its caller's subject (a customer's or a
// supplier's name), and fills the subject in where the request leaves it open.
type scope func(ctx context.Context, s *Server, req any, subject string) error

// rule says who may call a procedure. Operators may call every one.
type rule struct {
	customer scope // nil: not for customers
	supplier scope // nil: not for suppliers
	reads    bool  // changes nothing, and may take a while
	host     bool  // for hosts, who sign their requests: no token is asked for
}

const settlementPrefix = "/" + joulev1connect.SettlementServiceName + "/"

// rules has every procedure; one that is not here is for operators alone.
var rules = map[string]rule{
	settlementPrefix + "CreateCustomer":    {},
	settlementPrefix + "CreateSupplier":    {},
	settlementPrefix + "EnrollHost":        {supplier: own(func(r *joulev1.EnrollHostRequest) *string { return &r.Supplier })},
	settlementPrefix + "SetOffer":          {supplier: ownHost(func(r *joulev1.SetOfferRequest) string { return r.Host })},
	settlementPrefix + "RetireHost":        {supplier: ownHost(func(r *joulev1.RetireHostRequest) string { return r.Host })},
	settlementPrefix + "BuyStake":          {},
	settlementPrefix + "SetRate":           {},
	settlementPrefix + "SetPolicy":         {},
	settlementPrefix + "Deposit":           {},
	settlementPrefix + "Mint":              {},
	settlementPrefix + "Withdraw":          {},
	settlementPrefix + "TopUpLease":        {customer: ownLease(func(r *joulev1.TopUpLeaseRequest) uint64 { return r.LeaseId })},
	settlementPrefix + "CloseLease":        {},
	settlementPrefix + "RequestWithdrawal": {customer: ownParty(joulev1.Party_PARTY_CUSTOMER), supplier: ownParty(joulev1.Party_PARTY_SUPPLIER)},
	settlementPrefix + "ConfirmWithdrawal": {},
	settlementPrefix + "FailWithdrawal":    {},
	settlementPrefix + "OverrideRate":      {},
	settlementPrefix + "SetRateGuard":      {},
	settlementPrefix + "CorrectLease":      {},
	settlementPrefix + "SetStakePolicy":    {},
	settlementPrefix + "Bond":              {supplier: ownBond},
	settlementPrefix + "Unbond":            {supplier: own(func(r *joulev1.UnbondRequest) *string { return &r.Supplier })},
	settlementPrefix + "SetFineSchedule":   {},
	settlementPrefix + "IssueFine":         {},
	settlementPrefix + "ProposeFine":       {},
	settlementPrefix + "ApproveFine":       {},
	settlementPrefix + "AppealFine":        {supplier: own(func(r *joulev1.AppealFineRequest) *string { return &r.Supplier })},
	settlementPrefix + "VoidFine":          {},

	settlementPrefix + "ListAccounts": {reads: true, customer: ownAccounts, supplier: ownAccounts},
	settlementPrefix + "ListHosts":    {reads: true, supplier: own(func(r *joulev1.ListHostsRequest) *string { return &r.Supplier })},
	settlementPrefix + "ListLeases": {reads: true, customer: own(func(r *joulev1.ListLeasesRequest) *string { return &r.Customer }),
		supplier: own(func(r *joulev1.ListLeasesRequest) *string { return &r.Supplier })},
	settlementPrefix + "ExplainLease": {reads: true, customer: ownLease(func(r *joulev1.ExplainLeaseRequest) uint64 { return r.LeaseId }),
		supplier: ownSuppliersLease(func(r *joulev1.ExplainLeaseRequest) uint64 { return r.LeaseId })},
	settlementPrefix + "GetBill":         {reads: true, customer: own(func(r *joulev1.GetBillRequest) *string { return &r.Customer })},
	settlementPrefix + "GetStatement":    {reads: true, customer: ownStatement, supplier: ownStatement},
	settlementPrefix + "GetStatus":       {reads: true, customer: anyone, supplier: anyone},
	settlementPrefix + "GetPolicy":       {reads: true, customer: anyone, supplier: anyone},
	settlementPrefix + "ListRates":       {reads: true, customer: anyone, supplier: anyone},
	settlementPrefix + "ListWithdrawals": {reads: true, customer: ownWithdrawals, supplier: ownWithdrawals},
	settlementPrefix + "ListCorrections": {reads: true, customer: ownLease(func(r *joulev1.ListCorrectionsRequest) uint64 { return r.LeaseId }),
		supplier: ownSuppliersLease(func(r *joulev1.ListCorrectionsRequest) uint64 { return r.LeaseId })},
	settlementPrefix + "GetBudget":    {reads: true, customer: own(func(r *joulev1.GetBudgetRequest) *string { return &r.Customer })},
	settlementPrefix + "GetSupplier":  {reads: true, supplier: own(func(r *joulev1.GetSupplierRequest) *string { return &r.Supplier })},
	settlementPrefix + "SimulateFine": {reads: true},
	settlementPrefix + "GetFine":      {reads: true, supplier: ownFine},
	settlementPrefix + "ListFines":    {reads: true, supplier: own(func(r *joulev1.ListFinesRequest) *string { return &r.Supplier })},
	settlementPrefix + "ListOffences": {reads: true},

	joulev1connect.OperatorServiceListPeersProcedure:       {reads: true},
	joulev1connect.OperatorServiceRemovePeerProcedure:      {},
	joulev1connect.OperatorServiceSaveSnapshotProcedure:    {reads: true},
	joulev1connect.OperatorServiceRestoreSnapshotProcedure: {},

	joulev1connect.HostServiceOpenLeaseProcedure:  {host: true},
	joulev1connect.HostServiceCloseLeaseProcedure: {host: true},
	joulev1connect.HostServiceSessionProcedure:    {host: true},
}

func forbidden(format string, args ...any) error {
	return refuse(joulev1.ErrorReason_ERROR_REASON_FORBIDDEN, format, args...)
}

func anyone(context.Context, *Server, any, string) error { return nil }

// own restricts a request to the caller by the field that names a party.
func own[Req any](field func(*Req) *string) scope {
	return func(_ context.Context, _ *Server, req any, subject string) error {
		return restrict(field(req.(*Req)), subject)
	}
}

// restrict makes name the subject's where it is open.
func restrict(name *string, subject string) error {
	if *name == "" {
		*name = subject
	}
	if *name != subject {
		return forbidden("%q is not yours: this token is %q's", *name, subject)
	}
	return nil
}

func ownParty(party joulev1.Party) scope {
	return func(_ context.Context, _ *Server, req any, subject string) error {
		r := req.(*joulev1.RequestWithdrawalRequest)
		if r.Party == joulev1.Party_PARTY_UNSPECIFIED {
			r.Party = party
		}
		if r.Party != party {
			return forbidden("party: this token withdraws its own balance alone")
		}
		return restrict(&r.Name, subject)
	}
}

// ownBond lets a supplier bond its earnings. That a deposit has come is for an
// operator to say.
func ownBond(_ context.Context, _ *Server, req any, subject string) error {
	r := req.(*joulev1.BondRequest)
	if r.From != "earnings" {
		return forbidden("from: this token bonds earnings alone; an operator books deposits")
	}
	return restrict(&r.Supplier, subject)
}

// ownHost restricts a request to the calling supplier's hosts.
func ownHost[Req any](name func(*Req) string) scope {
	return func(ctx context.Context, s *Server, req any, subject string) error {
		host := name(req.(*Req))
		return s.node.Read(ctx, func(l *ledger.Ledger) error {
			if h, ok := l.Host(host); !ok || (names{l}).supplier(h.Supplier) != subject {
				return notFound("host %q of supplier %q", host, subject)
			}
			return nil
		})
	}
}

// ownLease restricts a request to leases that the calling customer pays for.
// Others' are as good as not there.
func ownLease[Req any](id func(*Req) uint64) scope {
	return leaseOf(id, func(n names, v *ledger.Lease) string { return n.customer(v.Customer) })
}

// ownSuppliersLease is ownLease for suppliers.
func ownSuppliersLease[Req any](id func(*Req) uint64) scope {
	return leaseOf(id, func(n names, v *ledger.Lease) string { return n.supplier(v.Supplier) })
}

func leaseOf[Req any](id func(*Req) uint64, owner func(names, *ledger.Lease) string) scope {
	return func(ctx context.Context, s *Server, req any, subject string) error {
		lease := ledger.LeaseID(id(req.(*Req)))
		return s.node.Read(ctx, func(l *ledger.Ledger) error {
			if v, ok := l.Lease(lease); !ok || owner(names{l}, &v) != subject {
				return notFound("lease L%d", lease)
			}
			return nil
		})
	}
}

func ownFine(ctx context.Context, s *Server, req any, subject string) error {
	r := req.(*joulev1.GetFineRequest)
	return s.node.Read(ctx, func(l *ledger.Ledger) error {
		if f, ok := l.Fine(ledger.FineID(r.FineId)); !ok || (names{l}).supplier(f.Plan.Supplier) != subject {
			return notFound("fine %d", r.FineId)
		}
		return nil
	})
}

// ownedPrefixes begin the names of the accounts that a party of this role owns;
// for an operator, of all that either owns.
func ownedPrefixes(r access.Role) []string {
	switch r {
	case access.Customer:
		return []string{"customer/", "hold/"}
	case access.Supplier:
		return []string{"supplier/", "stake/", "unbonding/"}
	}
	return append(ownedPrefixes(access.Customer), ownedPrefixes(access.Supplier)...)
}

// restrictAccount makes account all of the subject's where it is open.
func restrictAccount(ctx context.Context, account *string, subject string) error {
	if *account == "" || *account == subject {
		*account = subject
		return nil
	}
	prefixes := ownedPrefixes(callerOf(ctx).id.Role)
	for _, p := range prefixes {
		if *account == p+subject {
			return nil
		}
	}
	return forbidden("account %q is not yours: yours are %s", *account, strings.Join(prefixed(prefixes, subject), ", "))
}

func prefixed(prefixes []string, subject string) []string {
	out := make([]string, len(prefixes))
	for i, p := range prefixes {
		out[i] = p + subject
	}
	return out
}

func ownAccounts(ctx context.Context, _ *Server, req any, subject string) error {
	return restrictAccount(ctx, &req.(*joulev1.ListAccountsRequest).Name, subject)
}

func ownStatement(ctx context.Context, _ *Server, req any, subject string) error {
	return restrictAccount(ctx, &req.(*joulev1.GetStatementRequest).Account, subject)
}

func ownWithdrawals(ctx context.Context, _ *Server, req any, subject string) error {
	return restrictAccount(ctx, &req.(*joulev1.ListWithdrawalsRequest).Account, subject)
}

// accessInterceptor lets those through whom the rules let.
type accessInterceptor struct{ s *Server }

func (i accessInterceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if err := i.s.allow(ctx, req.Spec().Procedure, req.Any()); err != nil {
			return nil, err
		}
		return next(ctx, req)
	}
}

func (i accessInterceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (i accessInterceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		if err := i.s.allow(ctx, conn.Spec().Procedure, nil); err != nil {
			return err
		}
		return next(ctx, conn)
	}
}

// allow checks a request against the rules; it may fill in whose it is.
func (s *Server) allow(ctx context.Context, procedure string, req any) error {
	c, r := callerOf(ctx), rules[procedure]
	if r.host {
		return nil
	}
	var sc scope
	switch c.id.Role {
	case access.Nobody:
		return unauthenticated("%s", c.refused)
	case access.Operator:
		return nil
	case access.Customer:
		sc = r.customer
	case access.Supplier:
		sc = r.supplier
	}
	if sc == nil {
		return forbidden("%s is not for %ss", procedure[strings.LastIndexByte(procedure, '/')+1:], c.id.Role)
	}
	return sc(ctx, s, req, c.id.Subject)
}
