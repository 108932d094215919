package ledger

import "hash/maphash"

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

	texts arena // of all tables below up to keys
	seed  maphash.Seed

	accounts    narrow[account]
	withdrawing [2]AccountID // by currency; 0: not opened yet
	escrow      AccountID    // 0: not opened yet

	customers     narrow[customer]
	customerNames index
	namespaces    index
	suppliers     narrow[supplier]
	supplierNames index
	hosts         wide[host]
	hostNames     index
	hostKeys      index

	jobs     narrow[job]
	jobNames narrow[jobName] // beside jobs, whose every row changes all the time
	jobIndex index

	leases     wide[LeaseRow]
	leaseTerms narrow[leaseTerms]
	leaseIndex index
	pending    idSet // leases with Unconverted > 0 or Deferred
	deferred   int   // of them, leases with Deferred

	withdrawals wide[Withdrawal]
	corrections wide[Correction]
	corrected   map[LeaseID]corrected // what corrections sum up to

	unbondings   wide[Unbonding]
	unbondingsOf map[SupplierID][]UnbondingID // that have not matured; never ranged over
	fines        wide[Fine]
	finesOf      map[SupplierID][]FineID // that were issued; never ranged over
	offences     wide[Offence]
	offenceIndex map[offenceKey]int
	evidenceUsed map[uint64]FineID // by entry
	due          dueHeap
	marks        []Mark

	keys     narrow[keyRow]
	keyIndex index

	scratch    []byte // of newRecord
	touched    uint64 // what touch read: it must not be found needless
	entryCount uint64
	entries    []Entry
	records    []RecordResult
	taken      bool // entries and records were handed out: the next Apply starts them anew
}

// The rows of the large tables hold no pointers: a collector that had to look
// into ten million leases would take as long as they do.

type customer struct {
	texts textRef // name, namespace
	first AccountID
	payIn Currency
}

type supplier struct {
	texts     textRef // name
	exposure  NUSD    // an hour's value of its open leases
	joule     AccountID
	stake     AccountID // 0: not opened yet
	unbonding AccountID // 0: not opened yet
	hosts     uint32
}

type host struct {
	texts      textRef // name
	offer      Prices
	publicKey  [32]byte
	supplier   SupplierID
	openLeases uint32
	class      Class
	hasOffer   bool
	retired    bool // gets no more leases
}

// job sums a customer's leases of one Nomad job, for its budget.
type job struct {
	charged, held NUSD
}

type jobName struct {
	texts    textRef // name
	customer CustomerID
}

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
		l.addAccount(accountSystem, 0, systemAccounts[i].Currency)
	}
	return l
}

func empty() *Ledger {
	return &Ledger{
		policy:       policyDefault,
		seed:         maphash.MakeSeed(),
		corrected:    make(map[LeaseID]corrected),
		unbondingsOf: make(map[SupplierID][]UnbondingID),
		finesOf:      make(map[SupplierID][]FineID),
		offenceIndex: make(map[offenceKey]int),
		evidenceUsed: make(map[uint64]FineID),
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
