package ledger

// ProposeRate is a price of a JOULE that a feed found. It enters the history
// at once, and is in force unless the guard finds it doubtful (rule M6).
// Result.ID is the rate's id.
type ProposeRate struct{ NUSDPerJoule NUSD }

// OverrideRate is an operator's word that conversion may go on at the newest
// rate, stale or doubtful as it is, for a time. A newer rate ends it.
type OverrideRate struct {
	Rate     RateID // the newest; another one is refused
	ForMs    uint64 // 1 to WindowMsMax
	Operator string
	Why      string
}

// SetRateGuard sets when a proposed rate may not convert (rule M6). Rates that
// an operator sets by hand are not judged.
type SetRateGuard struct{ RateGuard }

// RateGuard are the bounds of rule M6 on proposed rates.
type RateGuard struct {
	MaxAgeMs     uint64 // an older one is stale; 0: none ever is
	DeviationPPM uint32 // one further from the average is doubtful; 0: none ever is
	WindowMs     uint64 // the average is over this time before the rate, each rate weighed by how long it was the newest
}

// RequestWithdrawal is the first phase of taking money out: the party's
// balance → withdrawing. Result.ID is the withdrawal's id.
type RequestWithdrawal struct {
	Party    Party
	Name     string // "" for the treasury
	Currency Currency
	Amount   int64
	To       string // where it shall go, outside; required
}

// ConfirmWithdrawal is the second phase, once the money has left: withdrawing →
// external. The same again changes nothing; with another reference it is
// refused: an outside payment is confirmed once.
type ConfirmWithdrawal struct {
	Withdrawal WithdrawalID
	Ref        string // outside reference of the payment; required
}

// FailWithdrawal is the second phase of one that could not be paid out:
// withdrawing → the party's balance.
type FailWithdrawal struct {
	Withdrawal WithdrawalID
	Why        string
}

// Correct puts right what a lease was charged or paid, by new transfers that
// name what they correct; nothing is edited. All legs move or none. Result.ID
// is the correction's id.
type Correct struct {
	Lease    LeaseID
	Entry    uint64 // sequence of the entry of this lease that is corrected; whoever proposes looks it up, the audit checks it
	Legs     []CorrectionLeg
	Operator string
	Why      string
}

// CorrectionLeg is one transfer of a correction, between two different ones of
// the lease's customer, its supplier and the treasury. Over all corrections of
// a lease, its customer gets no more than it paid, and its supplier gives back
// no more than it got.
type CorrectionLeg struct {
	From, To Party
	Currency Currency // a supplier has JOULE only
	Amount   int64
}

// Kind implements Command.
func (*ProposeRate) Kind() CommandKind { return KindProposeRate }

// Kind implements Command.
func (*OverrideRate) Kind() CommandKind { return KindOverrideRate }

// Kind implements Command.
func (*SetRateGuard) Kind() CommandKind { return KindSetRateGuard }

// Kind implements Command.
func (*RequestWithdrawal) Kind() CommandKind { return KindRequestWithdrawal }

// Kind implements Command.
func (*ConfirmWithdrawal) Kind() CommandKind { return KindConfirmWithdrawal }

// Kind implements Command.
func (*FailWithdrawal) Kind() CommandKind { return KindFailWithdrawal }

// Kind implements Command.
func (*Correct) Kind() CommandKind { return KindCorrect }
