package ledger

import (
	"fmt"
	"math"
)

// Ledger is the whole state. Make it with New or FromState.
type Ledger struct {
	now    Time
	policy Policy
	rates  []Rate // rates[i] has ID i+1

	inForce     RateID // the newest that ever was free to convert; 0: no rate yet
	pause       PauseReason
	pauseSince  Time
	override    override
	convertNext LeaseID // where the Tick goes on converting; 0: nowhere

	accounts     slab[account]
	accountNames []string // by id, from 1
	accountIndex map[accountKey]AccountID

	customers     []customer // by id, from 1
	customerNames map[string]CustomerID
	namespaces    map[string]CustomerID
	suppliers     []supplier // by id, from 1
	supplierNames map[string]SupplierID
	hosts         []host // by id, from 1
	hostNames     map[string]HostID
	hostKeys      map[[32]byte]HostID

	jobs     slab[job]
	jobIndex map[jobKey]int

	leases     slab[LeaseRow]
	leaseNames slab[LeaseNames]
	leaseIndex map[leaseKey]LeaseID
	pending    idSet // leases with Unconverted > 0 or Deferred
	deferred   int   // of them, leases with Deferred

	withdrawals slab[Withdrawal]
	corrections slab[Correction]
	corrected   map[LeaseID]corrected // what corrections sum up to

	unbondings   slab[Unbonding]
	fines        slab[Fine]
	offences     slab[Offence]
	offenceIndex map[offenceKey]int
	evidenceUsed map[uint64]FineID // by entry
	due          dueHeap
	marks        []Mark

	keys     slab[keyRow]
	keyIndex map[string]int

	touched    uint64 // what touch read: it must not be found needless
	entryCount uint64
	entries    []Entry
	records    []RecordResult
	taken      bool // entries and records were handed out: the next Apply starts them anew
}

type account struct {
	balance  int64
	currency Currency
	overdraw bool // may go below zero (rule M2)
}

type accountKey struct {
	name     string
	currency Currency
}

type customer struct {
	name, namespace string
	payIn           Currency
	usd, joule      AccountID
	holdUSD         AccountID
	holdJoule       AccountID
}

type supplier struct {
	name      string
	joule     AccountID
	stake     AccountID // 0: not opened yet
	unbonding AccountID // 0: not opened yet
	hosts     uint32
	exposure  NUSD          // an hour's value of its open leases
	open      []UnbondingID // that have not matured
	fines     []FineID      // that were issued
}

type host struct {
	name       string
	supplier   SupplierID
	class      Class
	publicKey  [32]byte
	offer      Prices
	hasOffer   bool
	openLeases uint32
}

// job sums a customer's leases of one Nomad job, for its budget.
type job struct {
	charged, held NUSD
}

type jobKey struct {
	customer CustomerID
	name     string
}

type leaseKey struct{ alloc, task, invocation string }

// The accounts that every ledger has, opened in this order.
const (
	externalUSD   AccountID = 1
	externalJoule AccountID = 2
	issuance      AccountID = 3
	treasuryUSD   AccountID = 4
	treasuryJoule AccountID = 5
	feesJoule     AccountID = 6
	accruedUSD    AccountID = 7
)

var systemAccounts = [...]AccountOpened{
	{ID: externalUSD, Name: "external", Currency: USD},
	{ID: externalJoule, Name: "external", Currency: JOULE},
	{ID: issuance, Name: "issuance", Currency: JOULE},
	{ID: treasuryUSD, Name: "treasury", Currency: USD},
	{ID: treasuryJoule, Name: "treasury", Currency: JOULE},
	{ID: feesJoule, Name: "fees", Currency: JOULE},
	{ID: accruedUSD, Name: "accrued", Currency: USD},
}

// mayOverdraw says which accounts carry the negative side (rule M2). JOULE
// comes in by issuance alone, so external has JOULE only of what was withdrawn.
func mayOverdraw(id AccountID) bool { return id == externalUSD || id == issuance }

// policyDefault is in force until the first SetPolicy.
var policyDefault = Policy{
	FeePPM: 0, SliceMs: 60_000,
	Guard: RateGuard{MaxAgeMs: 6 * 60_000, DeviationPPM: 15_000, WindowMs: 30 * 60_000},
	Stake: StakePolicy{UnbondMs: 21 * dayMs}, // no stake is asked
	Fines: FineSchedule{AppealMs: 7 * dayMs, RepeatMs: 30 * dayMs, DayCapPPM: 500_000, Rules: []FineRule{
		{Reason: FineEquivocation, SharePPM: 200_000, RepeatPPM: 2_000_000, RemedyMs: hourMs},
		{Reason: FineHostLost, SharePPM: 20_000, Grace: 2, RepeatPPM: 1_500_000, RemedyMs: hourMs},
		{Reason: FineBreach, SharePPM: 100_000, RepeatPPM: 2_000_000, RemedyMs: hourMs},
	}},
}

// New returns an empty ledger.
func New() *Ledger {
	l := empty()
	for i := range systemAccounts {
		l.addAccount(systemAccounts[i].Name, systemAccounts[i].Currency)
	}
	return l
}

func empty() *Ledger {
	return &Ledger{
		policy:        policyDefault,
		accountIndex:  make(map[accountKey]AccountID),
		customerNames: make(map[string]CustomerID),
		namespaces:    make(map[string]CustomerID),
		supplierNames: make(map[string]SupplierID),
		hostNames:     make(map[string]HostID),
		hostKeys:      make(map[[32]byte]HostID),
		jobIndex:      make(map[jobKey]int),
		leaseIndex:    make(map[leaseKey]LeaseID),
		corrected:     make(map[LeaseID]corrected),
		offenceIndex:  make(map[offenceKey]int),
		evidenceUsed:  make(map[uint64]FineID),
		keyIndex:      make(map[string]int),
	}
}

// Apply applies one command at the leader's time and returns its result. It
// never panics on input. Result.Records points into a buffer of the ledger and
// is valid, like the slice that TakeEntries returns, until the first Apply
// after TakeEntries; everything else in the result is the caller's.
func (l *Ledger) Apply(now Time, env *Envelope) Result {
	l.begin(now)
	switch c := env.Command.(type) {
	case *UsageBatch:
		return l.usageBatch(env.Key, c)
	case *Tick:
		return l.tick(env.Key)
	}
	return l.applyKeyed(env)
}

// begin moves the ledger's time on and starts the entries anew.
func (l *Ledger) begin(now Time) {
	l.now = max(l.now, now)
	if l.taken {
		l.entries, l.records, l.taken = l.entries[:0], l.records[:0], false
	}
	l.mark()
	if l.entryCount == 0 {
		for i := range systemAccounts {
			opened := systemAccounts[i]
			l.emit(EntryAccount).Fact = &opened
		}
	}
	l.judgeRate()
}

// TakeEntries returns the entries made since the last call. The slice is valid
// until the next Apply.
func (l *Ledger) TakeEntries() []Entry {
	if l.taken {
		return nil
	}
	l.taken = true
	return l.entries
}

func (l *Ledger) emit(kind EntryKind) *Entry {
	l.entryCount++
	l.entries = append(l.entries, Entry{Seq: l.entryCount, Time: l.now, Kind: kind})
	return &l.entries[len(l.entries)-1]
}

func (l *Ledger) addAccount(name string, cur Currency) AccountID {
	i, a := l.accounts.add()
	id := AccountID(i)
	*a = account{currency: cur, overdraw: mayOverdraw(id)}
	l.accountNames = append(l.accountNames, name)
	l.accountIndex[accountKey{name, cur}] = id
	return id
}

func (l *Ledger) openAccount(name string, cur Currency) AccountID {
	id := l.addAccount(name, cur)
	l.emit(EntryAccount).Fact = &AccountOpened{ID: id, Name: name, Currency: cur}
	return id
}

func (l *Ledger) balance(id AccountID) int64 { return l.accounts.get(int(id)).balance }

// transfer moves money. Callers have checked that it may be moved: a transfer
// that breaks rule M1 or M2 here is a broken invariant.
func (l *Ledger) transfer(t *Transfer) {
	from, to := l.accounts.edit(int(t.Debit)), l.accounts.edit(int(t.Credit))
	t.Currency = from.currency
	low := int64(0)
	if from.overdraw {
		low = -math.MaxInt64
	}
	// from.balance ≥ low, so the difference below cannot wrap.
	if t.Amount <= 0 || from.currency != to.currency || from.balance < low+t.Amount || to.balance > math.MaxInt64-max(t.Amount, 0) {
		panic(fmt.Sprintf("ledger: transfer %+v breaks an invariant: balances %d and %d", *t, from.balance, to.balance))
	}
	from.balance -= t.Amount
	to.balance += t.Amount
	l.emit(EntryTransfer).Transfer = *t
}
