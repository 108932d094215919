package ledger

// RateState is what may convert, and at which rate (rule M6).
type RateState struct {
	Newest        Rate // of the history
	InForce       Rate // the newest that may convert or could last: what holds in JOULE are valued at
	Paused        PauseReason
	Since         Time // of the pause, or of its end
	OverrideUntil Time // 0: no override
}

// WithdrawalState is where a withdrawal is. Replicated numbers.
type WithdrawalState uint8

// The states of a withdrawal.
const (
	WithdrawalOpen      WithdrawalState = 1
	WithdrawalConfirmed WithdrawalState = 2
	WithdrawalFailed    WithdrawalState = 3
)

// Withdrawal is a withdrawal in two phases.
type Withdrawal struct {
	ID        WithdrawalID
	Account   AccountID // that pays: "customer/…", "supplier/…" or "treasury"
	Currency  Currency
	Amount    int64
	To        string
	State     WithdrawalState
	Requested Time
	Ended     Time   // 0 while requested
	Text      string // the outside reference, or why it failed
}

// Correction is what was put right of a lease.
type Correction struct {
	ID            CorrectionID
	Lease         LeaseID
	Corrects      uint64 // sequence of the entry
	At            Time
	Legs          []CorrectionLeg
	Operator, Why string
}

// Stake is what a supplier has at stake and what is asked of it (rule F1).
type Stake struct {
	Supplier  SupplierID
	Bonded    NJ
	Unbonding NJ
	Required  NJ     // at the rate in force; for a lease more, what it adds comes on top
	Hosts     uint32 // enrolled
	Exposure  NUSD   // an hour's value of its open leases
}

// Unbonding is stake on its way back.
type Unbonding struct {
	ID       UnbondingID
	Supplier SupplierID
	Amount   NJ // what fines have left of it
	Started  Time
	Matures  Time
	Ended    bool
}

// FineState is where a fine is. Replicated numbers.
type FineState uint8

// The states of a fine.
const (
	FineProposedState FineState = 1
	FineInEscrow      FineState = 2
	FineAppealed      FineState = 3
	FineFinal         FineState = 4
	FineVoided        FineState = 5
	FineLapsed        FineState = 6 // proposed, never approved
)

// FinePlan is what a fine comes to, and why.
type FinePlan struct {
	Supplier SupplierID
	Lease    LeaseID    // 0: none
	Customer CustomerID // harmed; 0: none
	Reason   FineReason
	Required NJ     // stake, what the shares are of
	Prior    uint32 // offences for this reason within the window
	Schedule NJ     // what the schedule asks: share, grace, repeats
	Amount   NJ     // of it, within the cap of the day
	// What there is to take of it, in this order.
	FromEarnings, FromStake, FromUnbonding NJ
	Remedy                                 NJ // of what is taken, to the customer
	FinalAt                                Time
}

// Taken is what the fine takes; below Amount where the supplier has no more.
func (p *FinePlan) Taken() NJ { return p.FromEarnings + p.FromStake + p.FromUnbonding }

// Fine is a fine or a proposal of one.
type Fine struct {
	ID       FineID
	State    FineState
	Case     FineCase
	Plan     FinePlan // as issued; of a proposal only who and why
	Opened   Time     // proposed, or issued without a proposal
	Issued   Time
	Ends     Time   // when it becomes final, or a proposal lapses
	Proposed string // by this operator; "" for the ledger's own evidence
	Approved string
	Why      string
	Appeal   string // why it is appealed
	By       string // who voided it
	ByWhy    string
	Parts    []UnbondingPart // of Plan.FromUnbonding
}

// Offence is the ledger's own evidence for a fine.
type Offence struct {
	Lease    LeaseID
	Reason   FineReason
	Evidence Evidence
	At       Time
	Fine     FineID // that was issued for it; 0: none
}

// Job is what a customer's Nomad job has cost over all its leases.
type Job struct{ Charged, Held NUSD }

// JobByName returns a customer's job; false if it never had a lease.
func (l *Ledger) JobByName(customer CustomerID, name string) (Job, bool) {
	i, ok := jobNamed(l, customer, name)
	if !ok {
		return Job{}, false
	}
	j := l.jobs.get(i)
	return Job{Charged: j.charged, Held: j.held}, true
}
