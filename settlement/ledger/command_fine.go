package ledger

// SetStakePolicy sets what suppliers must have at stake (rules F1, F2), all at
// once. It holds for leases that open and for unbondings that begin from then
// on.
type SetStakePolicy struct{ StakePolicy }

// StakePolicy are the parameters of stakes. The required stake is BasePerHost
// for each of the supplier's hosts and FactorPPM of the hourly value of its
// open leases, in JOULE at the rate in force.
type StakePolicy struct {
	BasePerHost NJ
	FactorPPM   uint32 // 1,000,000: an hour's value
	UnbondMs    uint64 // how long an unbonding takes; evidence that old is void
}

// BondSource is where a bond's JOULE comes from. Replicated numbers.
type BondSource uint8

// The sources of a bond.
const (
	BondEarnings BondSource = 1 // the supplier's balance
	BondDeposit  BondSource = 2 // outside: only what was withdrawn before can come back
)

// Bond adds to a supplier's stake.
type Bond struct {
	Supplier string
	Amount   NJ
	From     BondSource
	Ref      string // outside reference of a deposit; "" for earnings
}

// Unbond begins to take stake back: stake → unbonding, and after the policy's
// delay, by a Tick, to the supplier's balance. Until then it can be fined
// (rule F2). Result.ID is the unbonding's id.
type Unbond struct {
	Supplier string
	Amount   NJ
}

// FineReason is what a fine is for. Replicated numbers: append only.
type FineReason uint8

// The fine reasons. Those whose side is not the supplier's are there to be
// refused by name (rule T4).
const (
	FineEquivocation FineReason = 1 // two contents under one record sequence (rule U3); the ledger's own evidence
	FineHostLost     FineReason = 2 // the host fell silent with the lease running; the ledger's own evidence
	FineBreach       FineReason = 3 // what only people can judge: two operators
	FineNetwork      FineReason = 4
	FineWorkload     FineReason = 5
	FineFunds        FineReason = 6
	FinePlatform     FineReason = 7
)

// FaultSide is whose fault a stop or an offence is (rule T4).
type FaultSide uint8

// The sides.
const (
	SideNone     FaultSide = 0 // nobody's
	SideSupplier FaultSide = 1
	SideWorkload FaultSide = 2
	SideFunds    FaultSide = 3
	SideNetwork  FaultSide = 4
	SidePlatform FaultSide = 5
)

// SetFineSchedule publishes the schedule of fines (rule F3), all at once. It
// holds for fines from then on.
type SetFineSchedule struct{ FineSchedule }

// FineSchedule says what a fine comes to. Shares are of the required stake at
// the moment of the fine.
type FineSchedule struct {
	AppealMs  uint64     // a fine is final after it (rule F4); a proposal lapses after it
	RepeatMs  uint64     // offences of one reason within it count as repeats
	DayCapPPM uint32     // the most of the required stake that is fined within 24 hours
	Rules     []FineRule // by reason, ascending; a reason without one can't be fined
}

// FineRule is the line of the schedule for one reason.
type FineRule struct {
	Reason    FineReason
	SharePPM  uint32 // of the required stake
	Grace     uint32 // so many offences within RepeatMs are recorded and cost nothing
	RepeatPPM uint32 // each further one costs this share of the one before; 1,000,000: the same
	RemedyMs  uint64 // the harmed customer gets what this much of the lease is worth, at most the fine
}

// FineCase is an offence: who, what, and how that is known.
type FineCase struct {
	Supplier string  // "": the lease's
	Lease    LeaseID // whose customer was harmed; 0: none, for a breach alone
	Reason   FineReason
	Evidence []Evidence // 1 to EvidenceMax; each serves one fine only
}

// Evidence points at a journal entry.
type Evidence struct {
	Entry uint64 // its sequence
	Hash  Hash   // of the usage record in it; zero where there is none
}

// IssueFine fines for what the ledger itself has seen: equivocation and lost
// hosts. The evidence must be the ledger's own (see Ledger.Offence). Result.ID
// is the fine's id.
type IssueFine struct{ FineCase }

// ProposeFine asks for a fine that a second operator must approve. Result.ID
// is the fine's id.
type ProposeFine struct {
	FineCase
	Operator string
	Why      string
}

// ApproveFine issues a proposed fine. Operator is another one than who proposed
// it.
type ApproveFine struct {
	Fine     FineID
	Operator string
}

// AppealFine contests a fine within its window. Operators then have a whole
// window from here to void it, before it is final.
type AppealFine struct {
	Fine     FineID
	Supplier string // the fined one
	Why      string
}

// VoidFine takes back a fine that is not final, or a proposal: what was taken
// goes back where it came from.
type VoidFine struct {
	Fine     FineID
	Operator string
	Why      string
}

// Tick does what is due by ledger time (rule F5): unbondings that mature,
// fines that become final, proposals that lapse, in the order of (expiry,
// kind, id), and conversions that wait for nothing any more; a bounded number
// of them. It has no key. The leader proposes it when Ledger.NextDue says so.
type Tick struct{}

// Kind implements Command.
func (*SetStakePolicy) Kind() CommandKind { return KindSetStakePolicy }

// Kind implements Command.
func (*Bond) Kind() CommandKind { return KindBond }

// Kind implements Command.
func (*Unbond) Kind() CommandKind { return KindUnbond }

// Kind implements Command.
func (*SetFineSchedule) Kind() CommandKind { return KindSetFineSchedule }

// Kind implements Command.
func (*IssueFine) Kind() CommandKind { return KindIssueFine }

// Kind implements Command.
func (*ProposeFine) Kind() CommandKind { return KindProposeFine }

// Kind implements Command.
func (*ApproveFine) Kind() CommandKind { return KindApproveFine }

// Kind implements Command.
func (*AppealFine) Kind() CommandKind { return KindAppealFine }

// Kind implements Command.
func (*VoidFine) Kind() CommandKind { return KindVoidFine }

// Kind implements Command.
func (*Tick) Kind() CommandKind { return KindTick }
