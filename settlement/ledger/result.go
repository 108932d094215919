package ledger

import "fmt"

// Code is the outcome of a command. Replicated numbers: append only. Messages
// are for people; programs test the code.
type Code uint16

// The codes.
const (
	CodeOK           Code = 0
	CodeInvalid      Code = 1 // malformed or out of range: never right, whatever the state
	CodeNotFound     Code = 2
	CodeExists       Code = 3  // the name is taken
	CodeConflict     Code = 4  // the idempotency key was used with another input (rule M7)
	CodeInsufficient Code = 5  // a balance, a budget or the supply cap does not allow it
	CodeForbidden    Code = 6  // not this host's lease
	CodeTooDear      Code = 7  // the offer is above the job's max_price
	CodeNoOffer      Code = 8  // the host has no offer
	CodeNoRate       Code = 9  // no rate was ever set
	CodeClosed       Code = 10 // the lease, withdrawal, fine has ended
	CodeOverflow     Code = 11 // the amount would leave int64 (rule M1)
	CodeStake        Code = 12 // the supplier's stake is below what its leases ask (rule F1)
	CodeNotFinable   Code = 13 // the fault is not the supplier's, or the schedule has no fine for it (rules T4, F3)
	CodeEvidence     Code = 14 // missing, not the ledger's own, too old, or used before (rules F2, F3)
	CodeSameOperator Code = 15 // a manual fine needs two different operators (rule F3)
)

// Error is a refused command.
type Error struct {
	Code Code
	Msg  string
}

// Error implements error.
func (e *Error) Error() string { return e.Msg }

// Result is the outcome of one command. Its encoding is part of the digest.
type Result struct {
	Code    Code
	Msg     string         // on failure: what was wrong, naming the field and the value
	ID      uint64         // the new customer, supplier, host, rate, lease, withdrawal, correction, unbonding or fine id
	Lease   *LeaseGrant    // OpenLease, TopUpLease
	Records []RecordResult // UsageBatch, one per record, in order; see Ledger.Apply for how long it is valid
}

// Err is nil for CodeOK and an *Error otherwise.
func (r *Result) Err() error {
	if r.Code == CodeOK {
		return nil
	}
	return &Error{Code: r.Code, Msg: r.Msg}
}

// LeaseGrant is what a host learns when its lease opens.
type LeaseGrant struct {
	Lease  LeaseID
	Prices Prices
	Epoch  uint32
	Hold   int64 // in the customer's PayIn currency
}

// RecordStatus is the outcome of one usage record. Replicated numbers. Every
// one of them is final: the host may forget the record.
type RecordStatus uint8

// The record outcomes.
const (
	RecordAccepted     RecordStatus = 1
	RecordRepeat       RecordStatus = 2 // same sequence, same content: nothing changes (rule U3)
	RecordOld          RecordStatus = 3 // an earlier sequence than the last accepted: ignored
	RecordEquivocation RecordStatus = 4 // same sequence or chain, other content: refused, kept as evidence
	RecordUnknownLease RecordStatus = 5
	RecordWrongHost    RecordStatus = 6
	RecordLeaseClosed  RecordStatus = 7
	RecordDecreasing   RecordStatus = 8 // a cumulative total went backwards: refused
	RecordInvalid      RecordStatus = 9 // malformed: unknown total not 0, epoch 0, seq 0
)

// RecordResult tells the host what became of one record and whether its lease
// may go on (rule M5).
type RecordResult struct {
	Lease   LeaseID
	Seq     uint64
	Status  RecordStatus
	Stop    CloseReason // CloseNone: go on; else stop the task now: CloseFunds, or why the lease was closed before
	Charged NUSD        // this record's charge
}

// String returns the code's name.
func (c Code) String() string {
	names := [...]string{"ok", "invalid", "not found", "exists", "conflict", "insufficient",
		"forbidden", "too dear", "no offer", "no rate", "closed", "overflow",
		"stake", "not finable", "evidence", "same operator"}
	if int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprintf("code %d", c)
}

// nameOf is the name of number n, from 1.
func nameOf[N ~uint8](n N, names ...string) string {
	if n >= 1 && int(n) <= len(names) {
		return names[n-1]
	}
	return fmt.Sprintf("number %d", n)
}
