package server

import (
	"context"
	"fmt"
	"strings"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/journal"
	"github.com/joulecloud/joule/settlement/ledger"
)

// accountsAtMax bounds a page of balances at a moment: each is summed up from
// the journal's index.
const accountsAtMax = 100

var currencies = [...]ledger.Currency{ledger.USD, ledger.JOULE}

// accountsNamed returns the accounts of a full name, or those that a customer
// or supplier of this name owns (for a caller who is one: as such), of one
// currency or (0) all.
func accountsNamed(ctx context.Context, l *ledger.Ledger, name string, cur ledger.Currency) []ledger.Account {
	var out []ledger.Account
	add := func(full string) {
		for _, c := range currencies {
			if a, ok := l.AccountByName(full, c); ok && (cur == 0 || cur == c) {
				out = append(out, a)
			}
		}
	}
	add(name)
	if !strings.Contains(name, "/") {
		for _, prefix := range ownedPrefixes(callerOf(ctx).id.Role) {
			add(prefix + name)
		}
	}
	return out
}

// ListAccounts implements SettlementServiceHandler.
func (s *Server) ListAccounts(ctx context.Context, r *joulev1.ListAccountsRequest) (*joulev1.ListAccountsResponse, error) {
	limit, err := pageSize(r.PageSize)
	if err != nil {
		return nil, err
	}
	if r.AtUnixMs != 0 {
		if r.PageSize > accountsAtMax {
			return nil, invalid("page_size: at most %d with at_unix_ms, got %d", accountsAtMax, r.PageSize)
		}
		limit = min(limit, accountsAtMax)
	}
	var page []ledger.Account
	var more bool
	switch {
	case r.Name != "":
		err = s.node.Read(ctx, func(l *ledger.Ledger) error {
			for _, a := range accountsNamed(ctx, l, r.Name, 0) {
				if strings.HasPrefix(a.Name, r.Prefix) && a.ID > ledger.AccountID(r.AfterId) {
					page = append(page, a)
				}
			}
			if len(page) == 0 {
				return notFound("account %q", r.Name)
			}
			return checkMoment(l, "at_unix_ms", r.AtUnixMs)
		})
	default:
		page, more, err = s.accounts(ctx, r, limit)
	}
	if err != nil {
		return nil, err
	}
	out := &joulev1.ListAccountsResponse{More: more}
	for i := range page {
		a := &page[i]
		if r.AtUnixMs != 0 {
			there, err := s.balanceAt(a, ledger.Time(r.AtUnixMs))
			if err != nil {
				return nil, err
			}
			if !there {
				continue
			}
		}
		out.Accounts = append(out.Accounts, &joulev1.Account{
			Name: a.Name, Currency: joulev1.Currency(a.Currency), Balance: a.Balance, Id: uint32(a.ID)})
	}
	return out, nil
}

// checkMoment refuses a moment that the ledger has not reached: what it will
// hold then is not known.
func checkMoment(l *ledger.Ledger, field string, unixMs int64) error {
	if unixMs < 0 || ledger.Time(unixMs) > l.Now() {
		return invalid("%s: want a moment up to the ledger's time, %d, got %d", field, l.Now(), unixMs)
	}
	return nil
}

// accountsPerRead bounds how many accounts are looked at while commands wait.
const accountsPerRead = 32768

// accounts returns a page of the accounts with the prefix. The ledger is read
// a part at a time.
func (s *Server) accounts(ctx context.Context, r *joulev1.ListAccountsRequest, limit int) (page []ledger.Account, more bool, err error) {
	after := ledger.AccountID(r.AfterId)
	for done := false; !done && err == nil; {
		err = s.node.Read(ctx, func(l *ledger.Ledger) error {
			if err := checkMoment(l, "at_unix_ms", r.AtUnixMs); err != nil {
				return err
			}
			last := l.AccountCount()
			for n := 0; n < accountsPerRead && after < last; n++ {
				after++
				a, ok := l.Account(after)
				if !ok || !strings.HasPrefix(a.Name, r.Prefix) {
					continue
				}
				if len(page) == limit {
					more, done = true, true
					return nil
				}
				page = append(page, a)
			}
			done = after >= last
			return nil
		})
	}
	return page, more, err
}

// balanceAt sets a's balance to what it was; there is false if the account
// was not opened yet.
func (s *Server) balanceAt(a *ledger.Account, at ledger.Time) (there bool, err error) {
	opened, err := s.history.EntriesOfAccounts([]ledger.AccountID{a.ID}, journal.Range{To: at + 1, Limit: 1})
	if err != nil || len(opened) == 0 {
		return false, err
	}
	a.Balance, err = s.history.BalanceAt(a.ID, at)
	if err != nil {
		return false, fmt.Errorf("read the journal of account %q: %w", a.Name, err)
	}
	return true, nil
}

// GetStatement implements SettlementServiceHandler.
func (s *Server) GetStatement(ctx context.Context, r *joulev1.GetStatementRequest) (*joulev1.GetStatementResponse, error) {
	limit, err := pageSize(r.PageSize)
	if err != nil {
		return nil, err
	}
	if r.FromUnixMs < 0 || r.ToUnixMs < 0 || r.ToUnixMs != 0 && r.ToUnixMs <= r.FromUnixMs {
		return nil, invalid("from_unix_ms, to_unix_ms: want a time and a later one, got %d and %d", r.FromUnixMs, r.ToUnixMs)
	}
	var cur ledger.Currency
	if r.Currency != joulev1.Currency_CURRENCY_UNSPECIFIED {
		if cur, err = ledgerCurrency("currency", r.Currency); err != nil {
			return nil, err
		}
	}
	var accounts []ledger.Account
	err = s.node.Read(ctx, func(l *ledger.Ledger) error {
		if accounts = accountsNamed(ctx, l, r.Account, cur); len(accounts) > 0 {
			return nil
		}
		if r.Currency == joulev1.Currency_CURRENCY_UNSPECIFIED {
			return notFound("account %q", r.Account)
		}
		return notFound("account %q in %s", r.Account, currencyName(cur))
	})
	if err != nil {
		return nil, err
	}
	ids := make([]ledger.AccountID, len(accounts))
	for i := range accounts {
		ids[i] = accounts[i].ID
	}
	entries, err := s.history.EntriesOfAccounts(ids, journal.Range{After: r.AfterSeq, Limit: limit + 1,
		From: ledger.Time(r.FromUnixMs), To: ledger.Time(r.ToUnixMs)})
	if err != nil {
		return nil, fmt.Errorf("read the journal of account %q: %w", r.Account, err)
	}
	out := &joulev1.GetStatementResponse{}
	if len(entries) > limit {
		entries, out.More = entries[:limit], true
	}
	for i := range accounts {
		v, err := s.statementAccount(&accounts[i], entries, r)
		if err != nil {
			return nil, fmt.Errorf("read the journal of account %q: %w", accounts[i].Name, err)
		}
		out.Accounts = append(out.Accounts, v)
	}
	return out, s.node.Read(ctx, func(l *ledger.Ledger) error {
		for i := range entries {
			out.Entries = append(out.Entries, names{l}.entry(&entries[i]))
		}
		return nil
	})
}

// statementAccount finds from which balance to which the entries lead.
func (s *Server) statementAccount(a *ledger.Account, entries []ledger.Entry, r *joulev1.GetStatementRequest) (*joulev1.StatementAccount, error) {
	out := &joulev1.StatementAccount{Name: a.Name, Currency: joulev1.Currency(a.Currency), Balance: a.Balance}
	var err error
	switch {
	case len(entries) > 0:
		out.Closing, err = s.history.BalanceAfter(a.ID, entries[len(entries)-1].Seq)
	case r.ToUnixMs != 0:
		out.Closing, err = s.history.BalanceAt(a.ID, ledger.Time(r.ToUnixMs-1))
	default:
		out.Closing = a.Balance
	}
	out.Opening = out.Closing
	for i := range entries {
		if t := &entries[i].Transfer; entries[i].Kind == ledger.EntryTransfer {
			switch a.ID {
			case t.Debit:
				out.Opening += t.Amount
			case t.Credit:
				out.Opening -= t.Amount
			}
		}
	}
	return out, err
}
