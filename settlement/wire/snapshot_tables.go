package wire

import "github.com/joulecloud/joule/settlement/ledger"

func appendPolicy(dst []byte, p *ledger.Policy) []byte {
	dst = appendU32(dst, p.FeePPM)
	dst = appendU32(dst, p.SliceMs)
	dst = appendGuard(dst, &p.Guard)
	dst = appendStakePolicy(dst, &p.Stake)
	return appendSchedule(dst, &p.Fines)
}

func (d *decoder) policy() ledger.Policy {
	return ledger.Policy{FeePPM: d.u32("fee_ppm"), SliceMs: d.u32("slice_ms"), Guard: d.guard(), Stake: d.stakePolicy(), Fines: d.schedule()}
}

func appendWithdrawal(dst []byte, w *ledger.Withdrawal) []byte {
	dst = appendU32(dst, uint32(w.ID))
	dst = appendU32(dst, uint32(w.Account))
	dst = append(dst, byte(w.Currency))
	dst = appendI64(dst, w.Amount)
	dst = appendStr(dst, w.To)
	dst = append(dst, byte(w.State))
	dst = appendI64(dst, int64(w.Requested))
	dst = appendI64(dst, int64(w.Ended))
	return appendStr(dst, w.Text)
}

func (d *decoder) withdrawal(w *ledger.Withdrawal) {
	*w = ledger.Withdrawal{ID: ledger.WithdrawalID(d.u32("id")), Account: ledger.AccountID(d.u32("account")),
		Currency: ledger.Currency(d.u8("currency")), Amount: d.i64("amount"), To: d.str("to"),
		State: ledger.WithdrawalState(d.u8("state")), Requested: ledger.Time(d.i64("requested")),
		Ended: ledger.Time(d.i64("ended")), Text: d.str("text")}
}

func appendCorrection(dst []byte, c *ledger.Correction) []byte {
	dst = appendU32(dst, uint32(c.ID))
	dst = appendU64(dst, uint64(c.Lease))
	dst = appendU64(dst, c.Corrects)
	dst = appendI64(dst, int64(c.At))
	dst = appendLegs(dst, c.Legs)
	dst = appendStr(dst, c.Operator)
	return appendStr(dst, c.Why)
}

func (d *decoder) correction(c *ledger.Correction) {
	*c = ledger.Correction{ID: ledger.CorrectionID(d.u32("id")), Lease: ledger.LeaseID(d.u64("lease")), Corrects: d.u64("corrects"),
		At: ledger.Time(d.i64("at")), Legs: d.legs(), Operator: d.str("operator"), Why: d.str("why")}
}

func appendUnbonding(dst []byte, u *ledger.Unbonding) []byte {
	dst = appendU32(dst, uint32(u.ID))
	dst = appendU32(dst, uint32(u.Supplier))
	dst = appendI64(dst, int64(u.Amount))
	dst = appendI64(dst, int64(u.Started))
	dst = appendI64(dst, int64(u.Matures))
	return appendBool(dst, u.Ended)
}

func (d *decoder) unbonding(u *ledger.Unbonding) {
	*u = ledger.Unbonding{ID: ledger.UnbondingID(d.u32("id")), Supplier: ledger.SupplierID(d.u32("supplier")),
		Amount: ledger.NJ(d.i64("amount")), Started: ledger.Time(d.i64("started")), Matures: ledger.Time(d.i64("matures")), Ended: d.bool("ended")}
}

const partSize = 4 + 8

func appendFine(dst []byte, f *ledger.Fine) []byte {
	dst = appendU32(dst, uint32(f.ID))
	dst = append(dst, byte(f.State))
	dst = appendCase(dst, &f.Case)
	dst = appendPlan(dst, &f.Plan)
	for _, t := range []ledger.Time{f.Opened, f.Issued, f.Ends} {
		dst = appendI64(dst, int64(t))
	}
	for _, s := range []string{f.Proposed, f.Approved, f.Why, f.Appeal, f.By, f.ByWhy} {
		dst = appendStr(dst, s)
	}
	dst = appendU32(dst, uint32(len(f.Parts)))
	for _, p := range f.Parts {
		dst = appendU32(dst, uint32(p.Unbonding))
		dst = appendI64(dst, int64(p.Amount))
	}
	return dst
}

func (d *decoder) fine(f *ledger.Fine) {
	*f = ledger.Fine{ID: ledger.FineID(d.u32("id")), State: ledger.FineState(d.u8("state")), Case: d.fineCase(), Plan: d.plan(),
		Opened: ledger.Time(d.i64("opened")), Issued: ledger.Time(d.i64("issued")), Ends: ledger.Time(d.i64("ends")),
		Proposed: d.str("proposed"), Approved: d.str("approved"), Why: d.str("why"), Appeal: d.str("appeal"), By: d.str("by"), ByWhy: d.str("by_why"),
		Parts: decodeList(d, "parts", partSize, func(p *ledger.UnbondingPart) {
			*p = ledger.UnbondingPart{Unbonding: ledger.UnbondingID(d.u32("unbonding")), Amount: ledger.NJ(d.i64("amount"))}
		})}
}

func appendOffence(dst []byte, o *ledger.Offence) []byte {
	dst = appendU64(dst, uint64(o.Lease))
	dst = append(dst, byte(o.Reason))
	dst = appendU64(dst, o.Evidence.Entry)
	dst = append(dst, o.Evidence.Hash[:]...)
	return appendI64(dst, int64(o.At))
}

func (d *decoder) offence(o *ledger.Offence) {
	*o = ledger.Offence{Lease: ledger.LeaseID(d.u64("lease")), Reason: ledger.FineReason(d.u8("reason"))}
	o.Evidence.Entry = d.u64("entry")
	copy(o.Evidence.Hash[:], d.take("hash", len(o.Evidence.Hash)))
	o.At = ledger.Time(d.i64("at"))
}

func appendMark(dst []byte, m *ledger.Mark) []byte {
	return appendU64(appendI64(dst, int64(m.At)), m.Entries)
}

func (d *decoder) mark(m *ledger.Mark) {
	*m = ledger.Mark{At: ledger.Time(d.i64("at")), Entries: d.u64("entries")}
}
