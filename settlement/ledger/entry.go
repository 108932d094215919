package ledger

// EntryKind numbers the kinds of journal entries. Replicated: append only.
type EntryKind uint8

// The kinds of entries: a transfer moves money, everything else is a fact that
// readers of the journal need beside the transfers.
const (
	EntryTransfer      EntryKind = 1
	EntryAccount       EntryKind = 2
	EntryRate          EntryKind = 3
	EntryPolicy        EntryKind = 4
	EntryOffer         EntryKind = 5
	EntryHost          EntryKind = 6
	EntryLeaseOpened   EntryKind = 7
	EntryUsage         EntryKind = 8
	EntryLeaseClosed   EntryKind = 9
	EntryRecordRefused EntryKind = 10
	EntryCustomer      EntryKind = 11
	EntrySupplier      EntryKind = 12

	EntryRateProposed    EntryKind = 13
	EntryRateOverridden  EntryKind = 14
	EntryConversion      EntryKind = 15
	EntryRateGuard       EntryKind = 16
	EntryWithdrawal      EntryKind = 17
	EntryWithdrawalEnded EntryKind = 18
	EntryCorrection      EntryKind = 19
	EntryStakePolicy     EntryKind = 20
	EntryUnbonding       EntryKind = 21
	EntryUnbondingEnded  EntryKind = 22
	EntryFineSchedule    EntryKind = 23
	EntryFineProposed    EntryKind = 24
	EntryFineIssued      EntryKind = 25
	EntryFineChanged     EntryKind = 26
	EntryStakeBought     EntryKind = 27
	EntryHostRetired     EntryKind = 28
)

// Reason is why a transfer was made. Replicated: append only.
type Reason uint8

// The reasons.
const (
	ReasonDeposit  Reason = 1  // external → customer
	ReasonWithdraw Reason = 2  // party → external
	ReasonMint     Reason = 3  // issuance → treasury
	ReasonHold     Reason = 4  // customer → hold
	ReasonRelease  Reason = 5  // hold → customer
	ReasonCharge   Reason = 6  // hold → treasury (USD), or hold → supplier (JOULE payers)
	ReasonPay      Reason = 7  // treasury → supplier (JOULE)
	ReasonFee      Reason = 8  // treasury → fees (JOULE), or hold → fees (JOULE payers)
	ReasonAccrue   Reason = 9  // hold → accrued (USD): charged while conversion is paused (rule M6)
	ReasonConvert  Reason = 10 // accrued → treasury (USD): the accrued amount converts

	ReasonWithdrawRequest Reason = 11 // party → withdrawing; when it is confirmed, ReasonWithdraw from there to external
	ReasonWithdrawReturn  Reason = 12 // withdrawing → party
	ReasonCorrect         Reason = 13 // between customer, supplier, treasury
	ReasonBond            Reason = 14 // supplier or external → stake
	ReasonUnbond          Reason = 15 // stake → unbonding
	ReasonUnbonded        Reason = 16 // unbonding → supplier
	ReasonFine            Reason = 17 // supplier, stake or unbonding → escrow
	ReasonFineReturn      Reason = 18 // escrow → where ReasonFine took it
	ReasonRemedy          Reason = 19 // escrow → customer
	ReasonForfeit         Reason = 20 // escrow → treasury
	ReasonBuyStake        Reason = 21 // external → treasury (USD), then treasury → stake (JOULE)
)

// Entry is one line of the journal. Seq is dense from 1 over the whole ledger.
// Exactly the member named by Kind is set.
type Entry struct {
	Seq      uint64
	Time     Time
	Kind     EntryKind
	Transfer Transfer
	Usage    Usage
	Fact     Fact
}

// Transfer is one movement of money (rule M2).
type Transfer struct {
	Debit    AccountID // pays
	Credit   AccountID // receives
	Currency Currency
	Amount   int64 // > 0
	Reason   Reason
	Lease    LeaseID // 0: none
	Rate     RateID  // of a conversion; 0: none
	Ref      string  // outside reference, or "withdrawal/1", "correction/1", "unbonding/1", "fine/1"
}

// Usage says what an accepted record brought: cumulative totals of the lease
// after it, what was refused by a bound so far (rule U6), the quality flags.
// The lease's cost is computed from Billed alone.
type Usage struct {
	Lease   LeaseID
	Seq     uint64
	Billed  Totals // active, over all epochs, after bounds
	Standby Totals // standby, after bounds: recorded, not charged
	Refused Totals // cumulative: claimed (active plus standby) − Billed − Standby
	Bounds  Bound  // the bounds that cut the claim, ever
	Known   Known
	Quality Quality // flags so far
	Final   bool
}

// Bound names a bound of rule U6 that cut a claim. Replicated bits.
type Bound uint8

// The bounds.
const (
	BoundWitnessed Bound = 1 << 0 // wall ≤ ledger time since the lease opened
	BoundCores     Bound = 1 << 1 // cpu ≤ cores × wall
	BoundGPUs      Bound = 1 << 2 // gpu ≤ devices × wall
	BoundMemory    Bound = 1 << 3 // memory ≤ reserved × wall
)

// Fact is one of the pointer types below.
type Fact interface{ entryKind() EntryKind }

// AccountOpened names a new account.
type AccountOpened struct {
	ID       AccountID
	Name     string // "customer/acme", "hold/acme", "supplier/west-dc", "treasury", "fees", "accrued", "external", "issuance", "withdrawing", "stake/west-dc", "unbonding/west-dc", "escrow"
	Currency Currency
}

// CustomerCreated names a customer.
type CustomerCreated struct {
	ID              CustomerID
	Name, Namespace string
	PayIn           Currency
}

// SupplierCreated names a supplier.
type SupplierCreated struct {
	ID   SupplierID
	Name string
}

// HostEnrolled names a host.
type HostEnrolled struct {
	ID        HostID
	Name      string
	Supplier  SupplierID
	Class     Class
	PublicKey [32]byte
}

// OfferSet records a host's new prices.
type OfferSet struct {
	Host   HostID
	Prices Prices
}

// RateSet records a new rate set by hand.
type RateSet struct {
	ID           RateID
	NUSDPerJoule NUSD
}

// PolicySet records new operator parameters.
type PolicySet struct{ FeePPM, SliceMs uint32 }

// LeaseOpened records a lease's terms.
type LeaseOpened struct {
	ID                                  LeaseID
	Customer                            CustomerID
	Host                                HostID
	Job, Group, Task, Alloc, Invocation string
	Prices                              Prices
	Resources                           Resources
	FeePPM                              uint32
	SliceMs                             uint32
	PayIn                               Currency
	Budget                              NUSD
}

// LeaseClosed records a lease's end.
type LeaseClosed struct {
	ID     LeaseID
	Reason CloseReason
}

// RecordRefused keeps the evidence of a refused record.
type RecordRefused struct {
	Host   HostID
	Status RecordStatus
	Record Record
}

func (*AccountOpened) entryKind() EntryKind   { return EntryAccount }
func (*CustomerCreated) entryKind() EntryKind { return EntryCustomer }
func (*SupplierCreated) entryKind() EntryKind { return EntrySupplier }
func (*HostEnrolled) entryKind() EntryKind    { return EntryHost }
func (*OfferSet) entryKind() EntryKind        { return EntryOffer }
func (*RateSet) entryKind() EntryKind         { return EntryRate }
func (*PolicySet) entryKind() EntryKind       { return EntryPolicy }
func (*LeaseOpened) entryKind() EntryKind     { return EntryLeaseOpened }
func (*LeaseClosed) entryKind() EntryKind     { return EntryLeaseClosed }
func (*RecordRefused) entryKind() EntryKind   { return EntryRecordRefused }
