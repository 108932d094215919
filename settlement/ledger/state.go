package ledger

import "iter"

// State is everything that a Ledger knows, as a snapshot carries it, without
// what follows from the rest (indexes, sums, names of accounts). Its order is
// the order of ids, so equal ledgers have equal states.
//
// The tables are read once, in this order, after all else: a snapshot streams
// them.
type State struct {
	Now        Time
	EntryCount uint64
	Policy     Policy
	Rates      []Rate

	InForce       RateID
	Paused        PauseReason
	PausedSince   Time
	OverrideRate  RateID // 0: none
	OverrideUntil Time
	ConvertNext   LeaseID      // where a Tick goes on converting; 0: nowhere
	Withdrawing   [2]AccountID // of USD and JOULE that are being withdrawn; 0: not opened yet
	Escrow        AccountID    // 0: not opened yet
	Withdrawals   []Withdrawal
	Corrections   []Correction
	Unbondings    []Unbonding
	Fines         []Fine
	Offences      []Offence // without Fine
	Marks         []Mark

	Balances  Table[int64] // by account
	Customers Table[CustomerState]
	Suppliers Table[SupplierState]
	Hosts     Table[HostState]
	Jobs      Table[JobState] // in the order of their first leases
	Leases    Table[LeaseState]
	Keys      Table[KeyState]
}

// Table is a table of a State. A row is good until the next one, and so is what
// it points to.
type Table[T any] struct {
	Count uint64
	Rows  iter.Seq[*T]
}

// CustomerState is a customer. Its accounts are four in a row, from First on:
// its USD and JOULE, and what is held of each.
type CustomerState struct {
	Name, Namespace []byte
	PayIn           Currency
	First           AccountID
}

// SupplierState is a supplier with its accounts; 0: not opened yet.
type SupplierState struct {
	Name                    []byte
	Joule, Stake, Unbonding AccountID
}

// HostState is a host.
type HostState struct {
	Name      []byte
	Supplier  SupplierID
	Class     Class
	PublicKey [32]byte
	Offer     Prices
	HasOffer  bool
	Retired   bool
}

// JobState is a customer's job.
type JobState struct {
	Customer CustomerID
	Name     []byte
}

// LeaseState is a lease: its row and what stands beside that. Row.Slice is not
// part of it.
type LeaseState struct {
	Row                            *LeaseRow
	Group, Task, Alloc, Invocation []byte
	Closed                         Time
	FirstHold                      int64
	SliceMs                        uint32
	Key                            uint32 // number of the key that it was opened under
}

// KeyState is an idempotency key with what it was used for and what came of
// that (rule M7).
type KeyState struct {
	Key     []byte
	Input   InputHash
	Code    Code
	Msg     []byte
	ID      uint64
	Granted bool  // the result was a grant of lease ID
	Hold    int64 // of the grant
}

// State returns the ledger's state. Its tables read the ledger while they are
// iterated, so it may not change until then.
func (l *Ledger) State() *State {
	st := &State{Now: l.now, EntryCount: l.entryCount, Policy: l.policy, Rates: append([]Rate(nil), l.rates...)}
	l.stateOfTables(st)
	st.Balances = tableOf(&l.accounts, func(_ int, a *account, balance *int64) { *balance = a.balance })
	st.Customers = tableOf(&l.customers, func(_ int, c *customer, out *CustomerState) {
		*out = CustomerState{Name: l.texts.text(c.texts, 0), Namespace: l.texts.text(c.texts, 1), PayIn: c.payIn, First: c.first}
	})
	st.Suppliers = tableOf(&l.suppliers, func(_ int, s *supplier, out *SupplierState) {
		*out = SupplierState{Name: l.texts.text(s.texts, 0), Joule: s.joule, Stake: s.stake, Unbonding: s.unbonding}
	})
	st.Hosts = tableOf(&l.hosts, func(_ int, h *host, out *HostState) {
		*out = HostState{Name: l.texts.text(h.texts, 0), Supplier: h.supplier, Class: h.class, PublicKey: h.publicKey, Offer: h.offer, HasOffer: h.hasOffer, Retired: h.retired}
	})
	st.Jobs = tableOf(&l.jobNames, func(_ int, n *jobName, out *JobState) {
		*out = JobState{Customer: n.customer, Name: l.texts.text(n.texts, 0)}
	})
	st.Leases = tableOf(&l.leases, func(id int, le *LeaseRow, out *LeaseState) {
		t := l.leaseTerms.get(id)
		text := func(i int) []byte { return l.texts.text(t.texts, i) }
		*out = LeaseState{Row: le, Group: text(leaseGroup), Task: text(leaseTask), Alloc: text(leaseAlloc), Invocation: text(leaseInvocation),
			Closed: t.closed, FirstHold: t.firstHold, SliceMs: t.sliceMs, Key: t.key}
	})
	st.Keys = tableOf(&l.keys, func(_ int, k *keyRow, out *KeyState) {
		*out = KeyState{Key: l.texts.text(k.texts, 0), Input: k.input, Code: k.code, Msg: l.texts.text(k.texts, 1), ID: k.id, Granted: k.granted, Hold: k.hold}
	})
	return st
}

// tableOf is a slab as a table of what fill makes of its rows.
func tableOf[R, T any, P page[R]](s *slab[R, P], fill func(id int, row *R, out *T)) Table[T] {
	return Table[T]{Count: uint64(s.len()), Rows: func(yield func(*T) bool) {
		var out T
		for id, row := range s.all() {
			if fill(id, row, &out); !yield(&out) {
				return
			}
		}
	}}
}
