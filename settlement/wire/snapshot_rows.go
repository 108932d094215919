package wire

import "github.com/joulecloud/joule/settlement/ledger"

// snapshotHead counts the rows that follow.
type snapshotHead struct {
	rates, withdrawals, corrections, unbondings, fines, offences, marks, extra uint64
}

func appendHead(dst []byte, st *ledger.State, extra uint64) []byte {
	dst = appendI64(dst, int64(st.Now))
	dst = appendU64(dst, st.EntryCount)
	dst = appendPolicy(dst, &st.Policy)
	dst = appendU32(dst, uint32(st.InForce))
	dst = append(dst, byte(st.Paused))
	dst = appendI64(dst, int64(st.PausedSince))
	dst = appendU32(dst, uint32(st.OverrideRate))
	dst = appendI64(dst, int64(st.OverrideUntil))
	dst = appendU64(dst, uint64(st.ConvertNext))
	for _, id := range []ledger.AccountID{st.Withdrawing[0], st.Withdrawing[1], st.Escrow} {
		dst = appendU32(dst, uint32(id))
	}
	for _, n := range []uint64{uint64(len(st.Rates)), uint64(len(st.Withdrawals)), uint64(len(st.Corrections)), uint64(len(st.Unbondings)),
		uint64(len(st.Fines)), uint64(len(st.Offences)), uint64(len(st.Marks)), st.Balances.Count, st.Customers.Count, st.Suppliers.Count,
		st.Hosts.Count, st.Jobs.Count, st.Leases.Count, st.Keys.Count, extra} {
		dst = appendU64(dst, n)
	}
	return dst
}

func (d *decoder) head(st *ledger.State) (h snapshotHead) {
	st.Now = ledger.Time(d.i64("now"))
	st.EntryCount = d.u64("entry_count")
	st.Policy = d.policy()
	st.InForce = ledger.RateID(d.u32("in_force"))
	st.Paused = ledger.PauseReason(d.u8("paused"))
	st.PausedSince = ledger.Time(d.i64("paused_since"))
	st.OverrideRate = ledger.RateID(d.u32("override_rate"))
	st.OverrideUntil = ledger.Time(d.i64("override_until"))
	st.ConvertNext = ledger.LeaseID(d.u64("convert_next"))
	st.Withdrawing[0] = ledger.AccountID(d.u32("withdrawing_usd"))
	st.Withdrawing[1] = ledger.AccountID(d.u32("withdrawing_joule"))
	st.Escrow = ledger.AccountID(d.u32("escrow"))
	h.rates = d.u64("rates")
	h.withdrawals = d.u64("withdrawals")
	h.corrections = d.u64("corrections")
	h.unbondings = d.u64("unbondings")
	h.fines = d.u64("fines")
	h.offences = d.u64("offences")
	h.marks = d.u64("marks")
	st.Balances.Count = d.u64("accounts")
	st.Customers.Count = d.u64("customers")
	st.Suppliers.Count = d.u64("suppliers")
	st.Hosts.Count = d.u64("hosts")
	st.Jobs.Count = d.u64("jobs")
	st.Leases.Count = d.u64("leases")
	st.Keys.Count = d.u64("keys")
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

func appendBalance(dst []byte, balance *int64) []byte { return appendI64(dst, *balance) }

func (d *decoder) balance(balance *int64) { *balance = d.i64("balance") }

func appendCustomer(dst []byte, c *ledger.CustomerState) []byte {
	dst = appendBytes(dst, c.Name)
	dst = appendBytes(dst, c.Namespace)
	dst = append(dst, byte(c.PayIn))
	return appendU32(dst, uint32(c.First))
}

func (d *decoder) customer(c *ledger.CustomerState) {
	c.Name = d.bytes("name")
	c.Namespace = d.bytes("namespace")
	c.PayIn = ledger.Currency(d.u8("pay_in"))
	c.First = ledger.AccountID(d.u32("first"))
}

func appendSupplier(dst []byte, s *ledger.SupplierState) []byte {
	dst = appendBytes(dst, s.Name)
	dst = appendU32(dst, uint32(s.Joule))
	dst = appendU32(dst, uint32(s.Stake))
	return appendU32(dst, uint32(s.Unbonding))
}

func (d *decoder) supplier(s *ledger.SupplierState) {
	s.Name = d.bytes("name")
	s.Joule = ledger.AccountID(d.u32("joule"))
	s.Stake = ledger.AccountID(d.u32("stake"))
	s.Unbonding = ledger.AccountID(d.u32("unbonding"))
}

// The flags of a host.
const (
	hostHasOffer byte = 1 << 0
	hostRetired  byte = 1 << 1
)

func appendHost(dst []byte, h *ledger.HostState) []byte {
	dst = appendBytes(dst, h.Name)
	dst = appendU32(dst, uint32(h.Supplier))
	dst = append(dst, byte(h.Class))
	dst = append(dst, h.PublicKey[:]...)
	dst = appendPrices(dst, &h.Offer)
	flags := byte(0)
	if h.HasOffer {
		flags |= hostHasOffer
	}
	if h.Retired {
		flags |= hostRetired
	}
	return append(dst, flags)
}

func (d *decoder) host(h *ledger.HostState) {
	h.Name = d.bytes("name")
	h.Supplier = ledger.SupplierID(d.u32("supplier"))
	h.Class = ledger.Class(d.u8("class"))
	copy(h.PublicKey[:], d.take("public_key", len(h.PublicKey)))
	h.Offer = d.prices("offer")
	at := d.off
	flags := d.u8("flags")
	if flags&^(hostHasOffer|hostRetired) != 0 {
		d.fail("flags", at, nil, "has a flag that is not known: %#x", flags)
	}
	h.HasOffer, h.Retired = flags&hostHasOffer != 0, flags&hostRetired != 0
}

func appendJob(dst []byte, j *ledger.JobState) []byte {
	return appendBytes(appendU32(dst, uint32(j.Customer)), j.Name)
}

func (d *decoder) job(j *ledger.JobState) {
	j.Customer = ledger.CustomerID(d.u32("customer"))
	j.Name = d.bytes("name")
}

func appendLease(dst []byte, s *ledger.LeaseState) []byte {
	r := s.Row
	for _, b := range [...][]byte{s.Group, s.Task, s.Alloc, s.Invocation} {
		dst = appendBytes(dst, b)
	}
	for _, v := range [...]uint32{s.Key, r.Job, uint32(r.Host), uint32(r.Customer)} {
		dst = appendU32(dst, v)
	}
	dst = appendU64(dst, r.LastSeq)
	dst = append(dst, r.LastHash[:]...)
	dst = appendI64(dst, int64(r.Opened))
	dst = appendI64(dst, int64(s.Closed))
	dst = appendPrices(dst, &r.Prices)
	dst = appendResources(dst, &r.Resources)
	dst = appendU32(dst, r.FeePPM)
	dst = appendU32(dst, s.SliceMs)
	for _, v := range [...]int64{int64(r.Budget), s.FirstHold, r.Hold, int64(r.HeldNUSD), int64(r.Charged),
		int64(r.Unconverted), int64(r.Carry), int64(r.Paid), int64(r.Fee)} {
		dst = appendI64(dst, v)
	}
	for _, t := range [...]*ledger.Totals{&r.Claimed, &r.ClaimedStandby, &r.Billed, &r.Standby} {
		dst = appendTotals(dst, t)
	}
	dst = appendU32(dst, uint32(r.LastRate))
	dst = appendU32(dst, uint32(r.Quality))
	dst = append(dst, byte(r.PayIn), byte(r.Reason), byte(r.Stop), byte(r.Bounds), byte(r.Known))
	dst = appendBool(dst, r.ManyRates)
	return appendBool(dst, r.Deferred)
}

// lease decodes into s.Row, too.
func (d *decoder) lease(s *ledger.LeaseState) {
	r := s.Row
	s.Group = d.bytes("group")
	s.Task = d.bytes("task")
	s.Alloc = d.bytes("alloc")
	s.Invocation = d.bytes("invocation")
	s.Key = d.u32("key")
	r.Job = d.u32("job")
	r.Host = ledger.HostID(d.u32("host"))
	r.Customer = ledger.CustomerID(d.u32("customer"))
	r.LastSeq = d.u64("last_seq")
	copy(r.LastHash[:], d.take("last_hash", len(r.LastHash)))
	r.Opened = ledger.Time(d.i64("opened"))
	s.Closed = ledger.Time(d.i64("closed"))
	r.Prices = d.prices("prices")
	r.Resources = d.resources("resources")
	r.FeePPM = d.u32("fee_ppm")
	s.SliceMs = d.u32("slice_ms")
	r.Budget = ledger.NUSD(d.i64("budget"))
	s.FirstHold = d.i64("first_hold")
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
	dst = appendBytes(dst, k.Key)
	dst = append(dst, k.Input[:]...)
	dst = appendU16(dst, uint16(k.Code))
	dst = appendBytes(dst, k.Msg)
	dst = appendU64(dst, k.ID)
	dst = appendBool(dst, k.Granted)
	return appendI64(dst, k.Hold)
}

func (d *decoder) key(k *ledger.KeyState) {
	k.Key = d.bytes("key")
	copy(k.Input[:], d.take("input", len(k.Input)))
	k.Code = ledger.Code(d.u16("code"))
	k.Msg = d.bytes("msg")
	k.ID = d.u64("id")
	k.Granted = d.bool("granted")
	k.Hold = d.i64("hold")
}
