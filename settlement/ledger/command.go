package ledger

// Command is one of the pointer types below. The numbers given by Kind are
// replicated: append only, never reuse; an unknown one stops the server
// ("upgrade this node").
type Command interface{ Kind() CommandKind }

// CommandKind numbers the commands on the wire.
type CommandKind uint16

// The commands.
const (
	KindCreateCustomer CommandKind = 1
	KindCreateSupplier CommandKind = 2
	KindEnrollHost     CommandKind = 3
	KindSetOffer       CommandKind = 4
	KindSetRate        CommandKind = 5
	KindSetPolicy      CommandKind = 6
	KindDeposit        CommandKind = 7
	KindMint           CommandKind = 8
	KindWithdraw       CommandKind = 9
	KindOpenLease      CommandKind = 10
	KindTopUpLease     CommandKind = 11
	KindCloseLease     CommandKind = 12
	KindUsageBatch     CommandKind = 13

	KindProposeRate       CommandKind = 14
	KindOverrideRate      CommandKind = 15
	KindSetRateGuard      CommandKind = 16
	KindRequestWithdrawal CommandKind = 17
	KindConfirmWithdrawal CommandKind = 18
	KindFailWithdrawal    CommandKind = 19
	KindCorrect           CommandKind = 20
	KindSetStakePolicy    CommandKind = 21
	KindBond              CommandKind = 22
	KindUnbond            CommandKind = 23
	KindSetFineSchedule   CommandKind = 24
	KindIssueFine         CommandKind = 25
	KindProposeFine       CommandKind = 26
	KindApproveFine       CommandKind = 27
	KindAppealFine        CommandKind = 28
	KindVoidFine          CommandKind = 29
	KindTick              CommandKind = 30
	KindBuyStake          CommandKind = 31
	KindRetireHost        CommandKind = 32
)

// Envelope is a command with its idempotency key (rule M7). The key is 1 to
// KeyBytesMax bytes for every command but two that have none: UsageBatch, whose
// records carry their own sequence, and Tick, which does at any time only what
// is due then.
type Envelope struct {
	Key     string
	Command Command
}

// CreateCustomer opens a customer with its accounts. One Nomad namespace
// belongs to one customer.
type CreateCustomer struct {
	Name      string
	Namespace string
	PayIn     Currency // the balance its leases are paid from (rule M4)
}

// CreateSupplier opens a supplier with its accounts.
type CreateSupplier struct{ Name string }

// EnrollHost gives a supplier a host with its Ed25519 public key. The same
// host again with other values is a conflict.
type EnrollHost struct {
	Name      string
	Supplier  string
	Class     Class
	PublicKey [32]byte
}

// SetOffer sets the prices of a host's future leases.
type SetOffer struct {
	Host   string
	Prices Prices
}

// SetRate sets the price of one JOULE by an operator's own word: it is in force
// at once and until the next rate, however old it gets. What a feed found is
// proposed with ProposeRate instead. Result.ID is the rate's id.
type SetRate struct{ NUSDPerJoule NUSD }

// SetPolicy sets the operator's parameters, all at once; they apply to leases
// opened from then on.
type SetPolicy struct {
	FeePPM  uint32 // share of the gross JOULE kept as the fee, in 1/1,000,000
	SliceMs uint32 // the next slice that a hold must cover (rule M5)
}

// Deposit brings money in: external → customer. In JOULE, only what was
// withdrawn before can come back.
type Deposit struct {
	Customer string
	Currency Currency
	Amount   int64
	Ref      string // outside reference, such as a payment id; required
}

// Mint creates JOULE: issuance → treasury, within JouleSupplyMax.
type Mint struct {
	Amount NJ
	Ref    string
}

// Party is whose balance a withdrawal takes.
type Party uint8

// The parties. Replicated numbers.
const (
	PartyCustomer Party = 1
	PartySupplier Party = 2
	PartyTreasury Party = 3
)

// Withdraw takes money out that has left already, so that its outside reference
// is known: the party's balance → external. What has still to be paid out is
// withdrawn in two phases, with RequestWithdrawal.
type Withdraw struct {
	Party    Party
	Name     string // "" for the treasury
	Currency Currency
	Amount   int64
	Ref      string
}

// OpenLease opens a lease for one invocation of a Nomad task. Everything but
// the host's own name comes from Nomad through the server, never from the
// host. The natural key is (Alloc, Task, Invocation): the same again returns
// the first result.
type OpenLease struct {
	Host       string
	Namespace  string
	Job        string
	Group      string
	Task       string
	Alloc      string
	Invocation string
	Resources  Resources
	MaxPrices  Prices // 0 in a dimension: no limit there
	Budget     NUSD   // for the whole job; 0: none
}

// TopUpLease raises a lease's hold to cover Slices slices from its customer's
// balance, within the budget.
type TopUpLease struct {
	Lease  LeaseID
	Slices uint32
}

// CloseLease ends a lease at its last known usage and releases the rest of
// its hold.
type CloseLease struct {
	Lease  LeaseID
	Reason CloseReason
	Host   HostID // the host that asks; 0: the operator
}

// UsageBatch is a host's batch of usage records. Its signature was verified
// before it was proposed; it is carried so that an auditor can verify it again.
type UsageBatch struct {
	Host      HostID
	Boot      [16]byte
	Records   []Record
	Signature [64]byte
}

// CloseReason says why a lease ended (rule T4: every stop has a typed reason).
// Replicated numbers.
type CloseReason uint8

// The close reasons.
const (
	CloseNone     CloseReason = 0 // still open
	CloseFinished CloseReason = 1 // the task ended by itself or was stopped by Nomad
	CloseFunds    CloseReason = 2
	CloseNotRun   CloseReason = 3 // opened, but the task never started
	CloseOperator CloseReason = 4
	CloseHostLost CloseReason = 5
)

// Kind implements Command.
func (*CreateCustomer) Kind() CommandKind { return KindCreateCustomer }

// Kind implements Command.
func (*CreateSupplier) Kind() CommandKind { return KindCreateSupplier }

// Kind implements Command.
func (*EnrollHost) Kind() CommandKind { return KindEnrollHost }

// Kind implements Command.
func (*SetOffer) Kind() CommandKind { return KindSetOffer }

// Kind implements Command.
func (*SetRate) Kind() CommandKind { return KindSetRate }

// Kind implements Command.
func (*SetPolicy) Kind() CommandKind { return KindSetPolicy }

// Kind implements Command.
func (*Deposit) Kind() CommandKind { return KindDeposit }

// Kind implements Command.
func (*Mint) Kind() CommandKind { return KindMint }

// Kind implements Command.
func (*Withdraw) Kind() CommandKind { return KindWithdraw }

// Kind implements Command.
func (*OpenLease) Kind() CommandKind { return KindOpenLease }

// Kind implements Command.
func (*TopUpLease) Kind() CommandKind { return KindTopUpLease }

// Kind implements Command.
func (*CloseLease) Kind() CommandKind { return KindCloseLease }

// Kind implements Command.
func (*UsageBatch) Kind() CommandKind { return KindUsageBatch }
