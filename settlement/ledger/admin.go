package ledger

import "math"

// Each command checks in this order: its fields as they are declared, then
// what they refer to, then whether a name is taken, then money. Nothing is
// changed before the last check.

func (l *Ledger) createCustomer(c *CreateCustomer) Result {
	var ck check
	ck.name("name", c.Name)
	ck.text("namespace", c.Namespace, NomadNameBytesMax)
	ck.currency("pay_in", c.PayIn)
	if res, ok := ck.result(); !ok {
		return res
	}
	if _, ok := customerNamed(l, c.Name); ok {
		return refuse(CodeExists, "customer %q exists", c.Name)
	}
	if id, ok := customerOf(l, c.Namespace); ok {
		return refuse(CodeExists, "namespace %q belongs to customer %q", c.Namespace, l.customerName(id))
	}
	party := uint32(l.CustomerCount() + 1)
	row := customer{payIn: c.PayIn}
	for i, a := range customerAccounts {
		if opened := l.openAccount(a.kind, party, c.Name, a.currency); i == 0 {
			row.first = opened
		}
	}
	id := addCustomer(l, row, c.Name, c.Namespace)
	l.emit(EntryCustomer).Fact = &CustomerCreated{ID: id, Name: c.Name, Namespace: c.Namespace, PayIn: c.PayIn}
	return Result{ID: uint64(id)}
}

func (l *Ledger) createSupplier(c *CreateSupplier) Result {
	var ck check
	ck.name("name", c.Name)
	if res, ok := ck.result(); !ok {
		return res
	}
	if _, ok := supplierNamed(l, c.Name); ok {
		return refuse(CodeExists, "supplier %q exists", c.Name)
	}
	party := uint32(l.SupplierCount() + 1)
	id := addSupplier(l, supplier{joule: l.openAccount(accountSupplier, party, c.Name, JOULE)}, c.Name)
	l.emit(EntrySupplier).Fact = &SupplierCreated{ID: id, Name: c.Name}
	return Result{ID: uint64(id)}
}

func (l *Ledger) enrollHost(c *EnrollHost) Result {
	var ck check
	ck.name("name", c.Name)
	ck.name("supplier", c.Supplier)
	if c.Class != ClassCrowd && c.Class != ClassDatacenter {
		ck.failf("class must be 1 (crowd) or 2 (datacenter), got %d", c.Class)
	}
	if c.PublicKey == [32]byte{} {
		ck.failf("public_key must not be all zero")
	}
	if res, ok := ck.result(); !ok {
		return res
	}
	sup, ok := supplierNamed(l, c.Supplier)
	if !ok {
		return refuse(CodeNotFound, "supplier %q not found", c.Supplier)
	}
	if _, ok := hostNamed(l, c.Name); ok {
		return refuse(CodeExists, "host %q is enrolled", c.Name)
	}
	if other, ok := l.hostOf(&c.PublicKey); ok {
		return refuse(CodeExists, "public_key %x belongs to host %q", c.PublicKey, l.hostName(other))
	}
	id := addHost(l, host{supplier: sup, class: c.Class, publicKey: c.PublicKey}, c.Name)
	l.emit(EntryHost).Fact = &HostEnrolled{ID: id, Name: c.Name, Supplier: sup, Class: c.Class, PublicKey: c.PublicKey}
	return Result{ID: uint64(id)}
}

func (l *Ledger) setOffer(c *SetOffer) Result {
	var ck check
	ck.name("host", c.Host)
	ck.prices("prices", &c.Prices)
	if res, ok := ck.result(); !ok {
		return res
	}
	id, ok := hostNamed(l, c.Host)
	if !ok {
		return refuse(CodeNotFound, "host %q not found", c.Host)
	}
	h := l.hosts.edit(int(id))
	if h.retired {
		return refuse(CodeClosed, "host %q is retired", c.Host)
	}
	h.offer, h.hasOffer = c.Prices, true
	l.emit(EntryOffer).Fact = &OfferSet{Host: id, Prices: c.Prices}
	return Result{}
}

func (l *Ledger) setPolicy(c *SetPolicy) Result {
	var ck check
	ck.within("fee_ppm", uint64(c.FeePPM), 0, FeePPMMax)
	ck.within("slice_ms", uint64(c.SliceMs), 1, SliceMsMax)
	if res, ok := ck.result(); !ok {
		return res
	}
	l.policy.FeePPM, l.policy.SliceMs = c.FeePPM, c.SliceMs
	l.emit(EntryPolicy).Fact = &PolicySet{FeePPM: c.FeePPM, SliceMs: c.SliceMs}
	return Result{}
}

func (l *Ledger) deposit(c *Deposit) Result {
	var ck check
	ck.name("customer", c.Customer)
	ck.currency("currency", c.Currency)
	ck.amount("amount", c.Amount)
	ck.text("ref", c.Ref, RefBytesMax)
	if res, ok := ck.result(); !ok {
		return res
	}
	id, ok := customerNamed(l, c.Customer)
	if !ok {
		return refuse(CodeNotFound, "customer %q not found", c.Customer)
	}
	t := Transfer{Debit: externalUSD, Credit: l.customers.get(int(id)).account(USD), Amount: c.Amount, Reason: ReasonDeposit, Ref: c.Ref}
	if c.Currency == JOULE {
		t.Debit, t.Credit = externalJoule, l.customers.get(int(id)).account(JOULE)
		if out := l.balance(externalJoule); c.Amount > out {
			return refuse(CodeInsufficient, "amount is %s, but only %s that was withdrawn can come back",
				money(c.Amount, JOULE), money(out, JOULE))
		}
	} else if l.balance(externalUSD) < -math.MaxInt64+c.Amount {
		// All other USD balances together are what external is short of, so
		// this one check keeps every one of them within int64.
		return refuse(CodeOverflow, "amount %s would take all deposits beyond %s",
			money(c.Amount, USD), money(math.MaxInt64, USD))
	}
	l.transfer(&t)
	return Result{}
}

func (l *Ledger) mint(c *Mint) Result {
	var ck check
	ck.amount("amount", int64(c.Amount))
	ck.text("ref", c.Ref, RefBytesMax)
	if res, ok := ck.result(); !ok {
		return res
	}
	if left := JouleSupplyMax + NJ(l.balance(issuance)); c.Amount > left {
		return refuse(CodeInsufficient, "amount is %s, but only %s is left of the supply cap of %s",
			money(int64(c.Amount), JOULE), money(int64(left), JOULE), money(int64(JouleSupplyMax), JOULE))
	}
	l.transfer(&Transfer{Debit: issuance, Credit: treasuryJoule, Amount: int64(c.Amount), Reason: ReasonMint, Ref: c.Ref})
	l.convertPending()
	return Result{}
}

// customerAccounts are opened with a customer, one after another.
var customerAccounts = [...]struct {
	kind     accountKind
	currency Currency
}{{accountCustomer, USD}, {accountCustomer, JOULE}, {accountHold, USD}, {accountHold, JOULE}}

func (c *customer) account(cur Currency) AccountID { return c.first + AccountID(cur-USD) }

func (c *customer) hold(cur Currency) AccountID { return c.first + 2 + AccountID(cur-USD) }
