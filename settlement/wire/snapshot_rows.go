package wire

import "github.com/joulecloud/joule/settlement/ledger"

// snapshotHead counts the rows that follow.
type snapshotHead struct {
	rates, accounts, customers, suppliers, hosts, extra uint64
	tables                                              snapshotTables
}

func appendHead(dst []byte, st *ledger.State, extra uint64) []byte {
	dst = appendI64(dst, int64(st.Now))
	dst = appendU64(dst, st.EntryCount)
	dst = appendPolicy(dst, &st.Policy)
	dst = appendGuarded(dst, st)
	for _, n := range []uint64{uint64(len(st.Rates)), uint64(len(st.Accounts)), uint64(len(st.Customers)),
		uint64(len(st.Suppliers)), uint64(len(st.Hosts)), st.LeaseCount, st.KeyCount, extra} {
		dst = appendU64(dst, n)
	}
	return dst
}

func (d *decoder) head(st *ledger.State) (h snapshotHead) {
	st.Now = ledger.Time(d.i64("now"))
	st.EntryCount = d.u64("entry_count")
	st.Policy = d.policy()
	h.tables = d.guarded(st)
	h.rates = d.u64("rates")
	h.accounts = d.u64("accounts")
	h.customers = d.u64("customers")
	h.suppliers = d.u64("suppliers")
	h.hosts = d.u64("hosts")
	st.LeaseCount = d.u64("leases")
	st.KeyCount = d.u64("keys")
	h.extra = d.u64("extra")
	return h
}

func appendRate(dst []byte, r *ledger.Rate) []byte {
	dst = appendU32(dst, uint32(r.ID))
	dst = appendI64(dst, int64(r.NUSDPerJoule))
	dst = appendI64(dst, int64(r.Set))
	dst = appendBool(dst, r.Proposed)
	dst = appendBool(dst, r.Doubtful)
	return appendI64(dst, int64(r.Average))
}

func (d *decoder) rate(r *ledger.Rate) {
	r.ID = ledger.RateID(d.u32("id"))
	r.NUSDPerJoule = ledger.NUSD(d.i64("nusd_per_joule"))
	r.Set = ledger.Time(d.i64("set"))
	r.Proposed = d.bool("proposed")
	r.Doubtful = d.bool("doubtful")
	r.Average = ledger.NUSD(d.i64("average"))
}

func appendAccount(dst []byte, a *ledger.Account) []byte {
	dst = appendU32(dst, uint32(a.ID))
	dst = appendStr(dst, a.Name)
	dst = append(dst, byte(a.Currency))
	return appendI64(dst, a.Balance)
}

func (d *decoder) account(a *ledger.Account) {
	a.ID = ledger.AccountID(d.u32("id"))
	a.Name = d.str("name")
	a.Currency = ledger.Currency(d.u8("currency"))
	a.Balance = d.i64("balance")
}

func appendCustomer(dst []byte, c *ledger.Customer) []byte {
	dst = appendU32(dst, uint32(c.ID))
	dst = appendStr(dst, c.Name)
	dst = appendStr(dst, c.Namespace)
	return append(dst, byte(c.PayIn))
}

func (d *decoder) customer(c *ledger.Customer) {
	c.ID = ledger.CustomerID(d.u32("id"))
	c.Name = d.str("name")
	c.Namespace = d.str("namespace")
	c.PayIn = ledger.Currency(d.u8("pay_in"))
}

func appendSupplier(dst []byte, s *ledger.Supplier) []byte {
	return appendStr(appendU32(dst, uint32(s.ID)), s.Name)
}

func (d *decoder) supplier(s *ledger.Supplier) {
	s.ID = ledger.SupplierID(d.u32("id"))
	s.Name = d.str("name")
}

func appendHost(dst []byte, h *ledger.Host) []byte {
	dst = appendU32(dst, uint32(h.ID))
	dst = appendStr(dst, h.Name)
	dst = appendU32(dst, uint32(h.Supplier))
	dst = append(dst, byte(h.Class))
	dst = append(dst, h.PublicKey[:]...)
	dst = appendPrices(dst, &h.Offer)
	return appendBool(dst, h.HasOffer)
}

func (d *decoder) host(h *ledger.Host) {
	h.ID = ledger.HostID(d.u32("id"))
	h.Name = d.str("name")
	h.Supplier = ledger.SupplierID(d.u32("supplier"))
	h.Class = ledger.Class(d.u8("class"))
	copy(h.PublicKey[:], d.take("public_key", len(h.PublicKey)))
	h.Offer = d.prices("offer")
	h.HasOffer = d.bool("has_offer")
}

func appendLease(dst []byte, r *ledger.LeaseRow, n *ledger.LeaseNames) []byte {
	for _, s := range []string{n.Job, n.Group, n.Task, n.Alloc, n.Invocation} {
		dst = appendStr(dst, s)
	}
	dst = append(dst, n.Input[:]...)
	dst = appendU32(dst, uint32(r.Host))
	dst = appendU32(dst, uint32(r.Customer))
	dst = appendU64(dst, r.LastSeq)
	dst = append(dst, r.LastHash[:]...)
	dst = appendI64(dst, int64(r.Opened))
	dst = appendI64(dst, int64(r.Closed))
	dst = appendPrices(dst, &r.Prices)
	dst = appendResources(dst, &r.Resources)
	dst = appendU32(dst, r.FeePPM)
	dst = appendU32(dst, r.SliceMs)
	for _, v := range []int64{int64(r.Budget), r.FirstHold, r.Hold, int64(r.HeldNUSD), int64(r.Charged),
		int64(r.Unconverted), int64(r.Carry), int64(r.Paid), int64(r.Fee)} {
		dst = appendI64(dst, v)
	}
	for _, t := range []*ledger.Totals{&r.Claimed, &r.ClaimedStandby, &r.Billed, &r.Standby} {
		dst = appendTotals(dst, t)
	}
	dst = appendU32(dst, uint32(r.LastRate))
	dst = appendU32(dst, uint32(r.Quality))
	dst = append(dst, byte(r.PayIn), byte(r.Reason), byte(r.Stop), byte(r.Bounds), byte(r.Known))
	dst = appendBool(dst, r.ManyRates)
	return appendBool(dst, r.Deferred)
}

func (d *decoder) lease(r *ledger.LeaseRow, n *ledger.LeaseNames) {
	n.Job = d.str("job")
	n.Group = d.str("group")
	n.Task = d.str("task")
	n.Alloc = d.str("alloc")
	n.Invocation = d.str("invocation")
	copy(n.Input[:], d.take("input", len(n.Input)))
	r.Host = ledger.HostID(d.u32("host"))
	r.Customer = ledger.CustomerID(d.u32("customer"))
	r.LastSeq = d.u64("last_seq")
	copy(r.LastHash[:], d.take("last_hash", len(r.LastHash)))
	r.Opened = ledger.Time(d.i64("opened"))
	r.Closed = ledger.Time(d.i64("closed"))
	r.Prices = d.prices("prices")
	r.Resources = d.resources("resources")
	r.FeePPM = d.u32("fee_ppm")
	r.SliceMs = d.u32("slice_ms")
	r.Budget = ledger.NUSD(d.i64("budget"))
	r.FirstHold = d.i64("first_hold")
	r.Hold = d.i64("hold")
	r.HeldNUSD = ledger.NUSD(d.i64("held_nusd"))
	r.Charged = ledger.NUSD(d.i64("charged"))
	r.Unconverted = ledger.NUSD(d.i64("unconverted"))
	r.Carry = d.u64("carry")
	r.Paid = ledger.NJ(d.i64("paid"))
	r.Fee = ledger.NJ(d.i64("fee"))
	r.Claimed = d.totals("claimed")
	r.ClaimedStandby = d.totals("claimed_standby")
	r.Billed = d.totals("billed")
	r.Standby = d.totals("standby")
	r.LastRate = ledger.RateID(d.u32("last_rate"))
	r.Quality = ledger.Quality(d.u32("quality"))
	r.PayIn = ledger.Currency(d.u8("pay_in"))
	r.Reason = ledger.CloseReason(d.u8("reason"))
	r.Stop = ledger.CloseReason(d.u8("stop"))
	r.Bounds = ledger.Bound(d.u8("bounds"))
	r.Known = ledger.Known(d.u8("known"))
	r.ManyRates = d.bool("many_rates")
	r.Deferred = d.bool("deferred")
}

func appendKey(dst []byte, k *ledger.KeyState) []byte {
	dst = appendStr(dst, k.Key)
	dst = append(dst, k.Input[:]...)
	return appendResult(dst, &k.Result)
}

func (d *decoder) key(k *ledger.KeyState) {
	k.Key = d.str("key")
	copy(k.Input[:], d.take("input", len(k.Input)))
	d.result(&k.Result)
}
