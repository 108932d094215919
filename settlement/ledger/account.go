package ledger

import (
	"fmt"
	"iter"
	"math"
	"strings"
)

// account is one balance. Its name follows from its kind and the party that it
// belongs to.
type account struct {
	balance  int64
	party    uint32 // the customer or supplier; 0: none
	kind     accountKind
	currency Currency
}

type accountKind uint8

const (
	accountNone        accountKind = iota // of a state that is being restored: not claimed by anyone yet
	accountSystem                         // named by systemAccounts
	accountWithdrawing                    // what was withdrawn and has not left yet
	accountEscrow                         // fines until they are final (rule F4)
	accountCustomer
	accountHold
	accountSupplier
	accountStake
	accountUnbonding
)

// accountPrefixes begin the names of the kinds; the party's name follows.
var accountPrefixes = [...]string{accountWithdrawing: "withdrawing", accountEscrow: "escrow", accountCustomer: "customer/",
	accountHold: "hold/", accountSupplier: "supplier/", accountStake: "stake/", accountUnbonding: "unbonding/"}

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

// claim says whose an account is.
type claim struct {
	id       AccountID
	kind     accountKind
	party    uint32
	currency Currency
}

// claims yields whose each account is, by what the ledger and the parties say
// themselves.
func (l *Ledger) claims() iter.Seq[claim] {
	return func(yield func(claim) bool) {
		for i := range systemAccounts {
			if a := &systemAccounts[i]; !yield(claim{a.ID, accountSystem, 0, a.Currency}) {
				return
			}
		}
		for _, c := range []claim{{l.withdrawing[0], accountWithdrawing, 0, USD}, {l.withdrawing[1], accountWithdrawing, 0, JOULE},
			{l.escrow, accountEscrow, 0, JOULE}} {
			if c.id != 0 && !yield(c) {
				return
			}
		}
		for i, c := range l.customers.all() {
			for n, a := range customerAccounts {
				if !yield(claim{c.first + AccountID(n), a.kind, uint32(i), a.currency}) {
					return
				}
			}
		}
		for i, s := range l.suppliers.all() {
			if !yield(claim{s.joule, accountSupplier, uint32(i), JOULE}) ||
				s.stake != 0 && !yield(claim{s.stake, accountStake, uint32(i), JOULE}) ||
				s.unbonding != 0 && !yield(claim{s.unbonding, accountUnbonding, uint32(i), JOULE}) {
				return
			}
		}
	}
}

func (l *Ledger) addAccount(kind accountKind, party uint32, cur Currency) AccountID {
	i, a := l.accounts.add()
	*a = account{kind: kind, party: party, currency: cur}
	return AccountID(i)
}

// openAccount opens an account of a kind; name is the party's, or "".
func (l *Ledger) openAccount(kind accountKind, party uint32, name string, cur Currency) AccountID {
	id := l.addAccount(kind, party, cur)
	l.emit(EntryAccount).Fact = &AccountOpened{ID: id, Name: accountPrefixes[kind] + name, Currency: cur}
	return id
}

// withdrawingAccount returns the account of what is being withdrawn, which it
// opens if need be.
func (l *Ledger) withdrawingAccount(cur Currency) AccountID {
	id := &l.withdrawing[cur-1]
	if *id == 0 {
		*id = l.openAccount(accountWithdrawing, 0, "", cur)
	}
	return *id
}

// escrowAccount is the same for fines.
func (l *Ledger) escrowAccount() AccountID {
	if l.escrow == 0 {
		l.escrow = l.openAccount(accountEscrow, 0, "", JOULE)
	}
	return l.escrow
}

func (l *Ledger) accountName(id AccountID) string {
	switch a := l.accounts.get(int(id)); a.kind {
	case accountSystem:
		return systemAccounts[id-1].Name
	case accountCustomer, accountHold:
		return accountPrefixes[a.kind] + l.customerName(CustomerID(a.party))
	case accountSupplier, accountStake, accountUnbonding:
		return accountPrefixes[a.kind] + l.supplierName(SupplierID(a.party))
	default:
		return accountPrefixes[a.kind]
	}
}

// AccountByName returns an account; see AccountOpened for the names.
func (l *Ledger) AccountByName(name string, cur Currency) (Account, bool) {
	if cur != USD && cur != JOULE {
		return Account{}, false
	}
	id := AccountID(0)
	prefix, party, isParty := strings.Cut(name, "/")
	if isParty {
		id = l.partyAccount(prefix+"/", party, cur)
	} else if name == accountPrefixes[accountWithdrawing] {
		id = l.withdrawing[cur-1]
	} else if name == accountPrefixes[accountEscrow] && cur == JOULE {
		id = l.escrow
	} else {
		for _, a := range systemAccounts {
			if a.Name == name && a.Currency == cur {
				id = a.ID
			}
		}
	}
	return l.Account(id)
}

// partyAccount is the account of a customer or supplier; 0: there is none.
func (l *Ledger) partyAccount(prefix, name string, cur Currency) AccountID {
	switch prefix {
	case accountPrefixes[accountCustomer], accountPrefixes[accountHold]:
		c, ok := customerNamed(l, name)
		switch {
		case !ok:
			return 0
		case prefix == accountPrefixes[accountHold]:
			return l.customers.get(int(c)).hold(cur)
		}
		return l.customers.get(int(c)).account(cur)
	case accountPrefixes[accountSupplier], accountPrefixes[accountStake], accountPrefixes[accountUnbonding]:
		id, ok := supplierNamed(l, name)
		if !ok || cur != JOULE {
			return 0
		}
		s := l.suppliers.get(int(id))
		switch prefix {
		case accountPrefixes[accountStake]:
			return s.stake
		case accountPrefixes[accountUnbonding]:
			return s.unbonding
		}
		return s.joule
	}
	return 0
}

func (l *Ledger) balance(id AccountID) int64 { return l.accounts.get(int(id)).balance }

// transfer moves money. Callers have checked that it may be moved: a transfer
// that breaks rule M1 or M2 here is a broken invariant.
func (l *Ledger) transfer(t *Transfer) {
	from, to := l.accounts.edit(int(t.Debit)), l.accounts.edit(int(t.Credit))
	t.Currency = from.currency
	low := int64(0)
	if mayOverdraw(t.Debit) {
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
