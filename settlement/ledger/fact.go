package ledger

// RateProposed records what a feed proposed, and what the guard made of it
// (rule M6).
type RateProposed struct {
	ID           RateID
	NUSDPerJoule NUSD
	Average      NUSD // that it was compared with; 0: there was none
	Doubtful     bool // too far from it: not in force
}

// RateOverridden records an operator's word for a rate.
type RateOverridden struct {
	Rate          RateID
	Until         Time
	Operator, Why string
}

// ConversionChanged says that conversion pauses, or goes on at a rate: what
// accrued meanwhile converts at it (rule M6).
type ConversionChanged struct {
	Paused PauseReason // PauseNone: goes on
	Rate   RateID      // the newest
}

// PauseReason is why nothing converts. Replicated numbers.
type PauseReason uint8

// The reasons for a pause. That the treasury is short of JOULE is none: that
// is found lease by lease.
const (
	PauseNone     PauseReason = 0
	PauseStale    PauseReason = 1
	PauseDoubtful PauseReason = 2
)

// RateGuardSet records new bounds on proposed rates.
type RateGuardSet struct{ RateGuard }

// WithdrawalRequested records the first phase of a withdrawal; the transfer
// follows it.
type WithdrawalRequested struct {
	ID       WithdrawalID
	Account  AccountID // that pays
	Currency Currency
	Amount   int64
	To       string
}

// WithdrawalEnded records the second phase; the transfer follows it.
type WithdrawalEnded struct {
	ID        WithdrawalID
	Confirmed bool
	Text      string // the outside reference, or why it failed
}

// CorrectionMade links the transfers that follow it, one a leg, to the entry
// that they correct.
type CorrectionMade struct {
	ID            CorrectionID
	Lease         LeaseID
	Corrects      uint64 // sequence of the entry
	Legs          uint32 // transfers that follow
	Operator, Why string
}

// StakePolicySet records new parameters of stakes.
type StakePolicySet struct{ StakePolicy }

// UnbondingStarted records an unbonding; the transfer follows it.
type UnbondingStarted struct {
	ID       UnbondingID
	Supplier SupplierID
	Amount   NJ
	Matures  Time
}

// UnbondingEnded records that an unbonding has matured; the transfer of what
// fines have left of it follows, if there is any.
type UnbondingEnded struct {
	ID     UnbondingID
	Amount NJ
}

// FineScheduleSet records a new schedule.
type FineScheduleSet struct{ FineSchedule }

// FineProposed records a proposed fine.
type FineProposed struct {
	ID            FineID
	Supplier      SupplierID
	Lease         LeaseID
	Reason        FineReason
	Evidence      []Evidence
	Operator, Why string
	LapsesAt      Time
}

// FineIssued records a fine with all that its amount follows from; the
// transfers to escrow follow it, in the order of their sources.
type FineIssued struct {
	ID       FineID
	Plan     FinePlan
	Evidence []Evidence
	Approved string // the second operator of a manual fine; "" for the ledger's own evidence
}

// FineChanged records a step of a fine. The transfers out of escrow follow it.
type FineChanged struct {
	ID      FineID
	State   FineState
	By, Why string // who appealed or voided, and why
	FinalAt Time   // from now on
}

func (*RateProposed) entryKind() EntryKind        { return EntryRateProposed }
func (*RateOverridden) entryKind() EntryKind      { return EntryRateOverridden }
func (*ConversionChanged) entryKind() EntryKind   { return EntryConversion }
func (*RateGuardSet) entryKind() EntryKind        { return EntryRateGuard }
func (*WithdrawalRequested) entryKind() EntryKind { return EntryWithdrawal }
func (*WithdrawalEnded) entryKind() EntryKind     { return EntryWithdrawalEnded }
func (*CorrectionMade) entryKind() EntryKind      { return EntryCorrection }
func (*StakePolicySet) entryKind() EntryKind      { return EntryStakePolicy }
func (*UnbondingStarted) entryKind() EntryKind    { return EntryUnbonding }
func (*UnbondingEnded) entryKind() EntryKind      { return EntryUnbondingEnded }
func (*FineScheduleSet) entryKind() EntryKind     { return EntryFineSchedule }
func (*FineProposed) entryKind() EntryKind        { return EntryFineProposed }
func (*FineIssued) entryKind() EntryKind          { return EntryFineIssued }
func (*FineChanged) entryKind() EntryKind         { return EntryFineChanged }
