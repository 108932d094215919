package wire

import "github.com/joulecloud/joule/settlement/ledger"

// snapshotTables counts the rows of the tables that stand behind the hosts.
type snapshotTables struct {
	withdrawals, corrections, unbondings, fines, offences, marks uint64
}

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

// appendGuarded appends what the guard of the rate remembers, and the counts of
// the tables.
func appendGuarded(dst []byte, st *ledger.State) []byte {
	dst = appendU32(dst, uint32(st.InForce))
	dst = append(dst, byte(st.Paused))
	dst = appendI64(dst, int64(st.PausedSince))
	dst = appendU32(dst, uint32(st.OverrideRate))
	dst = appendI64(dst, int64(st.OverrideUntil))
	dst = appendU64(dst, uint64(st.ConvertNext))
	for _, n := range []int{len(st.Withdrawals), len(st.Corrections), len(st.Unbondings), len(st.Fines), len(st.Offences), len(st.Marks)} {
		dst = appendU64(dst, uint64(n))
	}
	return dst
}

func (d *decoder) guarded(st *ledger.State) (n snapshotTables) {
	st.InForce = ledger.RateID(d.u32("in_force"))
	st.Paused = ledger.PauseReason(d.u8("paused"))
	st.PausedSince = ledger.Time(d.i64("paused_since"))
	st.OverrideRate = ledger.RateID(d.u32("override_rate"))
	st.OverrideUntil = ledger.Time(d.i64("override_until"))
	st.ConvertNext = ledger.LeaseID(d.u64("convert_next"))
	n.withdrawals = d.u64("withdrawals")
	n.corrections = d.u64("corrections")
	n.unbondings = d.u64("unbondings")
	n.fines = d.u64("fines")
	n.offences = d.u64("offences")
	n.marks = d.u64("marks")
	return n
}

func (s *snapshotWriter) tables(st *ledger.State) {
	for i := range st.Withdrawals {
		s.frame(appendWithdrawal(s.buf[:0], &st.Withdrawals[i]))
	}
	for i := range st.Corrections {
		s.frame(appendCorrection(s.buf[:0], &st.Corrections[i]))
	}
	for i := range st.Unbondings {
		s.frame(appendUnbonding(s.buf[:0], &st.Unbondings[i]))
	}
	for i := range st.Fines {
		s.frame(appendFine(s.buf[:0], &st.Fines[i]))
	}
	for i := range st.Offences {
		s.frame(appendOffence(s.buf[:0], &st.Offences[i]))
	}
	for i := range st.Marks {
		s.frame(appendMark(s.buf[:0], &st.Marks[i]))
	}
}

func (s *snapshotReader) tables(n *snapshotTables, st *ledger.State) {
	readRows(s, "withdrawals", n.withdrawals, &st.Withdrawals, (*decoder).withdrawal)
	readRows(s, "corrections", n.corrections, &st.Corrections, (*decoder).correction)
	readRows(s, "unbondings", n.unbondings, &st.Unbondings, (*decoder).unbonding)
	readRows(s, "fines", n.fines, &st.Fines, (*decoder).fine)
	readRows(s, "offences", n.offences, &st.Offences, (*decoder).offence)
	readRows(s, "marks", n.marks, &st.Marks, (*decoder).mark)
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
