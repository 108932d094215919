package wire

import (
	"fmt"

	"github.com/joulecloud/joule/settlement/ledger"
)

// AppendEntry appends one journal entry: its sequence, time, kind and the
// fields of the member that the kind names. A kind that does not match the
// member is the caller's fault and panics.
func AppendEntry(dst []byte, e *ledger.Entry) []byte {
	dst = appendU64(dst, e.Seq)
	dst = appendI64(dst, int64(e.Time))
	return appendEntryBody(dst, e)
}

// appendEntryBody appends the kind and what it names.
func appendEntryBody(dst []byte, e *ledger.Entry) []byte {
	dst = append(dst, byte(e.Kind))
	switch e.Kind {
	case ledger.EntryTransfer:
		return appendTransfer(dst, &e.Transfer)
	case ledger.EntryUsage:
		return appendUsage(dst, &e.Usage)
	}
	return appendFact(dst, e)
}

// DecodeEntry is the inverse of AppendEntry.
func DecodeEntry(b []byte) (ledger.Entry, error) {
	d := decoder{what: "entry", b: b}
	var e ledger.Entry
	d.entry(&e)
	return e, d.end()
}

func appendTransfer(dst []byte, t *ledger.Transfer) []byte {
	dst = appendU32(dst, uint32(t.Debit))
	dst = appendU32(dst, uint32(t.Credit))
	dst = append(dst, byte(t.Currency))
	dst = appendI64(dst, t.Amount)
	dst = append(dst, byte(t.Reason))
	dst = appendU64(dst, uint64(t.Lease))
	dst = appendU32(dst, uint32(t.Rate))
	return appendStr(dst, t.Ref)
}

func appendUsage(dst []byte, u *ledger.Usage) []byte {
	dst = appendU64(dst, uint64(u.Lease))
	dst = appendU64(dst, u.Seq)
	dst = appendTotals(dst, &u.Billed)
	dst = appendTotals(dst, &u.Standby)
	dst = appendTotals(dst, &u.Refused)
	dst = append(dst, byte(u.Bounds), byte(u.Known))
	dst = appendU32(dst, uint32(u.Quality))
	return appendBool(dst, u.Final)
}

func appendFact(dst []byte, e *ledger.Entry) []byte {
	switch f := e.Fact.(type) {
	case *ledger.AccountOpened:
		dst = appendU32(dst, uint32(f.ID))
		dst = appendStr(dst, f.Name)
		dst = append(dst, byte(f.Currency))
		return factOf(e, ledger.EntryAccount, dst)
	case *ledger.CustomerCreated:
		dst = appendU32(dst, uint32(f.ID))
		dst = appendStr(dst, f.Name)
		dst = appendStr(dst, f.Namespace)
		dst = append(dst, byte(f.PayIn))
		return factOf(e, ledger.EntryCustomer, dst)
	case *ledger.SupplierCreated:
		dst = appendU32(dst, uint32(f.ID))
		dst = appendStr(dst, f.Name)
		return factOf(e, ledger.EntrySupplier, dst)
	case *ledger.HostEnrolled:
		dst = appendU32(dst, uint32(f.ID))
		dst = appendStr(dst, f.Name)
		dst = appendU32(dst, uint32(f.Supplier))
		dst = append(dst, byte(f.Class))
		dst = append(dst, f.PublicKey[:]...)
		return factOf(e, ledger.EntryHost, dst)
	case *ledger.OfferSet:
		dst = appendU32(dst, uint32(f.Host))
		dst = appendPrices(dst, &f.Prices)
		return factOf(e, ledger.EntryOffer, dst)
	case *ledger.RateSet:
		dst = appendU32(dst, uint32(f.ID))
		dst = appendI64(dst, int64(f.NUSDPerJoule))
		return factOf(e, ledger.EntryRate, dst)
	case *ledger.PolicySet:
		dst = appendU32(dst, f.FeePPM)
		dst = appendU32(dst, f.SliceMs)
		return factOf(e, ledger.EntryPolicy, dst)
	case *ledger.LeaseOpened:
		dst = appendU64(dst, uint64(f.ID))
		dst = appendU32(dst, uint32(f.Customer))
		dst = appendU32(dst, uint32(f.Host))
		for _, s := range []string{f.Job, f.Group, f.Task, f.Alloc, f.Invocation} {
			dst = appendStr(dst, s)
		}
		dst = appendPrices(dst, &f.Prices)
		dst = appendResources(dst, &f.Resources)
		dst = appendU32(dst, f.FeePPM)
		dst = appendU32(dst, f.SliceMs)
		dst = append(dst, byte(f.PayIn))
		dst = appendI64(dst, int64(f.Budget))
		return factOf(e, ledger.EntryLeaseOpened, dst)
	case *ledger.LeaseClosed:
		dst = appendU64(dst, uint64(f.ID))
		dst = append(dst, byte(f.Reason))
		return factOf(e, ledger.EntryLeaseClosed, dst)
	case *ledger.RecordRefused:
		dst = appendU32(dst, uint32(f.Host))
		dst = append(dst, byte(f.Status))
		dst = AppendRecord(dst, &f.Record)
		return factOf(e, ledger.EntryRecordRefused, dst)
	}
	if dst, kind := appendLaterFact(dst, e.Fact); kind != 0 {
		return factOf(e, kind, dst)
	}
	panic(fmt.Sprintf("wire: encode entry %d: kind %d with fact %T", e.Seq, e.Kind, e.Fact))
}

func factOf(e *ledger.Entry, kind ledger.EntryKind, dst []byte) []byte {
	if e.Kind != kind {
		panic(fmt.Sprintf("wire: encode entry %d: kind %d with fact %T", e.Seq, e.Kind, e.Fact))
	}
	return dst
}

func (d *decoder) entry(e *ledger.Entry) {
	e.Seq = d.u64("seq")
	e.Time = ledger.Time(d.i64("time"))
	d.entryBody(e)
}

func (d *decoder) entryBody(e *ledger.Entry) {
	at := d.off
	e.Kind = ledger.EntryKind(d.u8("kind"))
	if d.err != nil {
		return
	}
	switch e.Kind {
	case ledger.EntryTransfer:
		e.Transfer = ledger.Transfer{Debit: ledger.AccountID(d.u32("debit")), Credit: ledger.AccountID(d.u32("credit")),
			Currency: ledger.Currency(d.u8("currency")), Amount: d.i64("amount"), Reason: ledger.Reason(d.u8("reason")),
			Lease: ledger.LeaseID(d.u64("lease")), Rate: ledger.RateID(d.u32("rate")), Ref: d.str("ref")}
	case ledger.EntryUsage:
		e.Usage = ledger.Usage{Lease: ledger.LeaseID(d.u64("lease")), Seq: d.u64("usage_seq"),
			Billed: d.totals("billed"), Standby: d.totals("standby"), Refused: d.totals("refused"),
			Bounds: ledger.Bound(d.u8("bounds")), Known: ledger.Known(d.u8("known")),
			Quality: ledger.Quality(d.u32("quality")), Final: d.bool("final")}
	case ledger.EntryAccount:
		e.Fact = &ledger.AccountOpened{ID: ledger.AccountID(d.u32("id")), Name: d.str("name"),
			Currency: ledger.Currency(d.u8("currency"))}
	case ledger.EntryCustomer:
		e.Fact = &ledger.CustomerCreated{ID: ledger.CustomerID(d.u32("id")), Name: d.str("name"),
			Namespace: d.str("namespace"), PayIn: ledger.Currency(d.u8("pay_in"))}
	case ledger.EntrySupplier:
		e.Fact = &ledger.SupplierCreated{ID: ledger.SupplierID(d.u32("id")), Name: d.str("name")}
	case ledger.EntryHost:
		f := &ledger.HostEnrolled{ID: ledger.HostID(d.u32("id")), Name: d.str("name"),
			Supplier: ledger.SupplierID(d.u32("supplier")), Class: ledger.Class(d.u8("class"))}
		copy(f.PublicKey[:], d.take("public_key", len(f.PublicKey)))
		e.Fact = f
	case ledger.EntryOffer:
		e.Fact = &ledger.OfferSet{Host: ledger.HostID(d.u32("host")), Prices: d.prices("prices")}
	case ledger.EntryRate:
		e.Fact = &ledger.RateSet{ID: ledger.RateID(d.u32("id")), NUSDPerJoule: ledger.NUSD(d.i64("nusd_per_joule"))}
	case ledger.EntryPolicy:
		e.Fact = &ledger.PolicySet{FeePPM: d.u32("fee_ppm"), SliceMs: d.u32("slice_ms")}
	case ledger.EntryLeaseOpened:
		e.Fact = &ledger.LeaseOpened{ID: ledger.LeaseID(d.u64("id")), Customer: ledger.CustomerID(d.u32("customer")),
			Host: ledger.HostID(d.u32("host")), Job: d.str("job"), Group: d.str("group"), Task: d.str("task"),
			Alloc: d.str("alloc"), Invocation: d.str("invocation"), Prices: d.prices("prices"),
			Resources: d.resources("resources"), FeePPM: d.u32("fee_ppm"), SliceMs: d.u32("slice_ms"),
			PayIn: ledger.Currency(d.u8("pay_in")), Budget: ledger.NUSD(d.i64("budget"))}
	case ledger.EntryLeaseClosed:
		e.Fact = &ledger.LeaseClosed{ID: ledger.LeaseID(d.u64("id")), Reason: ledger.CloseReason(d.u8("reason"))}
	case ledger.EntryRecordRefused:
		f := &ledger.RecordRefused{Host: ledger.HostID(d.u32("host")), Status: ledger.RecordStatus(d.u8("status"))}
		d.push("record")
		d.record(&f.Record)
		d.pop()
		e.Fact = f
	default:
		if e.Fact = d.laterFact(e.Kind); e.Fact == nil {
			d.fail("kind", at, ErrUnknownVersion, "got %d", e.Kind)
		}
	}
}
