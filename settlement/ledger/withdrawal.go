package ledger

import "fmt"

// ref is how a transfer names what it belongs to.
func ref[N ~uint32](what string, id N) string { return fmt.Sprintf("%s/%d", what, id) }

// external is the outside's account in a currency.
func external(cur Currency) AccountID {
	if cur == JOULE {
		return externalJoule
	}
	return externalUSD
}

// treasury is the treasury's account in a currency.
func treasury(cur Currency) AccountID {
	if cur == JOULE {
		return treasuryJoule
	}
	return treasuryUSD
}

// party checks the fields of who pays.
func (c *check) party(party Party, name string, cur Currency) {
	switch party {
	case PartyCustomer, PartySupplier:
		c.name("name", name)
	case PartyTreasury:
		if name != "" {
			c.failf("name must be empty for the treasury, got %s", quote(name))
		}
	default:
		c.failf("party must be 1 (customer), 2 (supplier) or 3 (treasury), got %d", party)
	}
	c.currency("currency", cur)
	if party == PartySupplier && cur == USD {
		c.failf("currency must be JOULE for a supplier, got USD")
	}
}

// payer returns the account of a party, if it has amount.
func (l *Ledger) payer(party Party, name string, cur Currency, amount int64) (AccountID, Result) {
	from := treasury(cur)
	switch party {
	case PartyCustomer:
		id, ok := customerNamed(l, name)
		if !ok {
			return 0, refuse(CodeNotFound, "customer %q not found", name)
		}
		from = l.customers.get(int(id)).account(cur)
	case PartySupplier:
		id, ok := supplierNamed(l, name)
		if !ok {
			return 0, refuse(CodeNotFound, "supplier %q not found", name)
		}
		from = l.suppliers.get(int(id)).joule
	}
	if have := l.balance(from); have < amount {
		return 0, refuse(CodeInsufficient, "account %q has %s, amount is %s",
			l.accountName(from), money(have, cur), money(amount, cur))
	}
	return from, Result{}
}

func (l *Ledger) withdraw(c *Withdraw) Result {
	var ck check
	ck.party(c.Party, c.Name, c.Currency)
	ck.amount("amount", c.Amount)
	ck.text("ref", c.Ref, RefBytesMax)
	if res, ok := ck.result(); !ok {
		return res
	}
	from, res := l.payer(c.Party, c.Name, c.Currency, c.Amount)
	if res.Code != CodeOK {
		return res
	}
	l.transfer(&Transfer{Debit: from, Credit: external(c.Currency), Amount: c.Amount, Reason: ReasonWithdraw, Ref: c.Ref})
	return Result{}
}

func (l *Ledger) requestWithdrawal(c *RequestWithdrawal) Result {
	var ck check
	ck.party(c.Party, c.Name, c.Currency)
	ck.amount("amount", c.Amount)
	ck.text("to", c.To, RefBytesMax)
	if res, ok := ck.result(); !ok {
		return res
	}
	from, res := l.payer(c.Party, c.Name, c.Currency, c.Amount)
	if res.Code != CodeOK {
		return res
	}
	to := l.withdrawingAccount(c.Currency)
	i, row := l.withdrawals.add()
	id := WithdrawalID(i)
	*row = Withdrawal{ID: id, Account: from, Currency: c.Currency, Amount: c.Amount, To: c.To, State: WithdrawalOpen, Requested: l.now}
	l.emit(EntryWithdrawal).Fact = &WithdrawalRequested{ID: id, Account: from, Currency: c.Currency, Amount: c.Amount, To: c.To}
	l.transfer(&Transfer{Debit: from, Credit: to, Amount: c.Amount, Reason: ReasonWithdrawRequest, Ref: ref("withdrawal", id)})
	return Result{ID: uint64(id)}
}

func (l *Ledger) confirmWithdrawal(c *ConfirmWithdrawal) Result {
	var ck check
	ck.text("ref", c.Ref, RefBytesMax)
	if res, ok := ck.result(); !ok {
		return res
	}
	return l.endWithdrawal(c.Withdrawal, WithdrawalConfirmed, c.Ref)
}

func (l *Ledger) failWithdrawal(c *FailWithdrawal) Result {
	var ck check
	ck.text("why", c.Why, WhyBytesMax)
	if res, ok := ck.result(); !ok {
		return res
	}
	return l.endWithdrawal(c.Withdrawal, WithdrawalFailed, c.Why)
}

// endWithdrawal is the second phase. An outside payment is confirmed once, so
// ending an ended one is a conflict unless it says just the same.
func (l *Ledger) endWithdrawal(id WithdrawalID, state WithdrawalState, text string) Result {
	if id == 0 || int(id) > l.withdrawals.len() {
		return refuse(CodeNotFound, "withdrawal %d not found", id)
	}
	w := l.withdrawals.edit(int(id))
	switch {
	case w.State == WithdrawalOpen:
	case w.State == state && w.Text == text:
		return Result{ID: uint64(id)}
	case w.State == WithdrawalConfirmed:
		return refuse(CodeClosed, "withdrawal %d was confirmed with reference %s", id, quote(w.Text))
	default:
		return refuse(CodeClosed, "withdrawal %d failed and was given back: %s", id, quote(w.Text))
	}
	w.State, w.Ended, w.Text = state, l.now, text
	l.emit(EntryWithdrawalEnded).Fact = &WithdrawalEnded{ID: id, Confirmed: state == WithdrawalConfirmed, Text: text}
	t := Transfer{Debit: l.withdrawingAccount(w.Currency), Credit: w.Account, Amount: w.Amount,
		Reason: ReasonWithdrawReturn, Ref: ref("withdrawal", id)}
	if state == WithdrawalConfirmed {
		t.Credit, t.Reason, t.Ref = external(w.Currency), ReasonWithdraw, text
	}
	l.transfer(&t)
	return Result{ID: uint64(id)}
}

// WithdrawalCount returns how many withdrawals were ever requested; ids run
// from 1 to it.
func (l *Ledger) WithdrawalCount() WithdrawalID { return WithdrawalID(l.withdrawals.len()) }

// Withdrawal returns a withdrawal.
func (l *Ledger) Withdrawal(id WithdrawalID) (Withdrawal, bool) { return rowOf(&l.withdrawals, id) }

// rowOf returns a copy of a slab's row.
func rowOf[ID ~uint32, T any, P page[T]](s *slab[T, P], id ID) (row T, ok bool) {
	if id == 0 || int64(id) > int64(s.len()) {
		return row, false
	}
	return *s.get(int(id)), true
}
