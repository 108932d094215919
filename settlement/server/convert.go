package server

import (
	"fmt"
	"strings"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/ledger"
)

func invalid(format string, args ...any) error {
	return refuse(joulev1.ErrorReason_ERROR_REASON_INVALID, format, args...)
}

func notFound(format string, args ...any) error {
	return refuse(joulev1.ErrorReason_ERROR_REASON_NOT_FOUND, format+" does not exist", args...)
}

func parseClass(s string) (ledger.Class, error) {
	switch s {
	case "crowd":
		return ledger.ClassCrowd, nil
	case "datacenter":
		return ledger.ClassDatacenter, nil
	}
	return 0, invalid("class: want crowd or datacenter, got %q", s)
}

func className(c ledger.Class) string {
	switch c {
	case ledger.ClassCrowd:
		return "crowd"
	case ledger.ClassDatacenter:
		return "datacenter"
	}
	return fmt.Sprintf("class %d", c)
}

// ledgerCurrency checks before it converts: the API's numbers are wider than
// the ledger's.
func ledgerCurrency(field string, c joulev1.Currency) (ledger.Currency, error) {
	switch c {
	case joulev1.Currency_CURRENCY_USD:
		return ledger.USD, nil
	case joulev1.Currency_CURRENCY_JOULE:
		return ledger.JOULE, nil
	}
	return 0, invalid("%s: want 1 (USD) or 2 (JOULE), got %d", field, c)
}

func ledgerParty(field string, p joulev1.Party) (ledger.Party, error) {
	switch p {
	case joulev1.Party_PARTY_CUSTOMER:
		return ledger.PartyCustomer, nil
	case joulev1.Party_PARTY_SUPPLIER:
		return ledger.PartySupplier, nil
	case joulev1.Party_PARTY_TREASURY:
		return ledger.PartyTreasury, nil
	}
	return 0, invalid("%s: want 1 (customer), 2 (supplier) or 3 (treasury), got %d", field, p)
}

func currencyName(c ledger.Currency) string {
	switch c {
	case ledger.USD:
		return "USD"
	case ledger.JOULE:
		return "JOULE"
	}
	return fmt.Sprintf("currency %d", c)
}

func ledgerPrices(p *joulev1.Prices) ledger.Prices {
	return ledger.Prices{
		Base: ledger.NUSD(p.BaseNusdPerHour), CPU: ledger.NUSD(p.CpuNusdPerHour),
		GPU: ledger.NUSD(p.GpuNusdPerHour), Memory: ledger.NUSD(p.MemoryNusdPerHour),
	}
}

func apiPrices(p ledger.Prices) *joulev1.Prices {
	return &joulev1.Prices{
		BaseNusdPerHour: int64(p.Base), CpuNusdPerHour: int64(p.CPU),
		GpuNusdPerHour: int64(p.GPU), MemoryNusdPerHour: int64(p.Memory),
	}
}

func apiResources(r ledger.Resources) *joulev1.Resources {
	return &joulev1.Resources{MilliCores: r.MilliCores, MemoryMib: r.MemoryMiB, Gpus: r.GPUs}
}

func apiTotals(t ledger.Totals) *joulev1.Totals {
	return &joulev1.Totals{WallMs: t.WallMs, CpuMs: t.CPUMs, GpuMs: t.GPUMs, MemoryMibMs: t.MemoryMiBMs}
}

// flagNames lists the names of the bits that are set, unknown ones as "bit N".
func flagNames(bits uint32, names ...string) []string {
	var out []string
	for i := range 32 {
		if bits&(1<<i) == 0 {
			continue
		}
		if i < len(names) {
			out = append(out, names[i])
		} else {
			out = append(out, fmt.Sprintf("bit %d", i))
		}
	}
	return out
}

func boundNames(b ledger.Bound) []string {
	return flagNames(uint32(b), "witnessed", "cores", "gpus", "memory")
}

func qualityNames(q ledger.Quality) []string {
	return flagNames(uint32(q), "start_unstamped", "exit_unstamped", "exit_estimated",
		"cpu_unread", "gpu_unread", "clock_stepped", "rebooted",
		"gpu_estimated", "gpu_lost", "gpu_audit", "gpu_energy_unread")
}

func closeReasonName(r ledger.CloseReason) string {
	names := [...]string{"", "finished", "funds", "not_run", "operator", "host_lost"}
	if int(r) < len(names) {
		return names[r]
	}
	return fmt.Sprintf("reason %d", r)
}

func transferReasonName(r ledger.Reason) string {
	names := [...]string{"", "deposit", "withdraw", "mint", "hold", "release", "charge", "pay", "fee", "accrue", "convert",
		"withdraw request", "withdraw return", "correct", "bond", "unbond", "unbonded", "fine", "fine return", "remedy", "forfeit", "buy stake"}
	if int(r) < len(names) {
		return names[r]
	}
	return fmt.Sprintf("reason %d", r)
}

func recordStatusName(s ledger.RecordStatus) string {
	return strings.ToLower(strings.TrimPrefix(joulev1.RecordStatus(s).String(), "RECORD_STATUS_"))
}

// names resolves the ledger's dense ids for answers, under one Read.
type names struct{ l *ledger.Ledger }

func (n names) account(id ledger.AccountID) string {
	if a, ok := n.l.Account(id); ok {
		return a.Name
	}
	return fmt.Sprintf("account %d", id)
}

func (n names) customer(id ledger.CustomerID) string {
	if c, ok := n.l.CustomerByID(id); ok {
		return c.Name
	}
	return fmt.Sprintf("customer %d", id)
}

func (n names) supplier(id ledger.SupplierID) string {
	if s, ok := n.l.SupplierByID(id); ok {
		return s.Name
	}
	return fmt.Sprintf("supplier %d", id)
}

func (n names) host(id ledger.HostID) string {
	if h, ok := n.l.HostByID(id); ok {
		return h.Name
	}
	return fmt.Sprintf("host %d", id)
}

func (n names) lease(v *ledger.Lease) *joulev1.Lease {
	out := &joulev1.Lease{
		Id: uint64(v.ID), Customer: n.customer(v.Customer), Supplier: n.supplier(v.Supplier),
		Host: n.host(v.Host), Class: className(v.Class),
		Job: v.Job, Group: v.Group, Task: v.Task, AllocId: v.Alloc, Invocation: v.Invocation,
		State: "open", Reason: closeReasonName(v.Reason),
		OpenedUnixMs: int64(v.Opened), ClosedUnixMs: int64(v.Closed),
		Prices: apiPrices(v.Prices), Resources: apiResources(v.Resources),
		Billed: apiTotals(v.Billed), Refused: apiTotals(v.Refused),
		Bounds: boundNames(v.Bounds), Quality: qualityNames(v.Quality),
		Hold: v.Hold, ChargedNusd: int64(v.ChargedNUSD), PaidNj: int64(v.PaidNJ), FeeNj: int64(v.FeeNJ),
		UnconvertedNusd: int64(v.UnconvertedNUSD), FeePpm: v.FeePPM, RateId: uint32(v.LastRate),
		PayIn: joulev1.Currency(v.PayIn), LastSeq: v.LastSeq, BudgetNusd: int64(v.Budget),
	}
	if v.Reason != ledger.CloseNone {
		out.State = "closed"
	}
	if r, ok := n.l.RateByID(v.LastRate); ok {
		out.RateNusdPerJoule = int64(r.NUSDPerJoule)
	}
	return out
}

// entry is a journal entry in words.
func (n names) entry(e *ledger.Entry) *joulev1.JournalEntry {
	out := &joulev1.JournalEntry{Seq: e.Seq, UnixMs: int64(e.Time)}
	switch e.Kind {
	case ledger.EntryTransfer:
		t := &e.Transfer
		out.Kind = "transfer"
		out.Debit, out.Credit = n.account(t.Debit), n.account(t.Credit)
		out.Currency, out.Amount = joulev1.Currency(t.Currency), t.Amount
		out.Reason, out.LeaseId, out.RateId, out.Ref = transferReasonName(t.Reason), uint64(t.Lease), uint32(t.Rate), t.Ref
		return out
	case ledger.EntryUsage:
		u := &e.Usage
		out.Kind, out.LeaseId = "usage", uint64(u.Lease)
		out.Text = fmt.Sprintf("record %d: wall %d ms, cpu %d ms, gpu %d ms, memory %d MiB·ms",
			u.Seq, u.Billed.WallMs, u.Billed.CPUMs, u.Billed.GPUMs, u.Billed.MemoryMiBMs)
		if u.Bounds != 0 {
			out.Text += fmt.Sprintf("; refused wall %d ms, cpu %d ms, gpu %d ms, memory %d MiB·ms (%s)",
				u.Refused.WallMs, u.Refused.CPUMs, u.Refused.GPUMs, u.Refused.MemoryMiBMs, strings.Join(boundNames(u.Bounds), ", "))
		}
		if u.Final {
			out.Text += "; final"
		}
		return out
	}
	switch f := e.Fact.(type) {
	case *ledger.LeaseOpened:
		out.Kind, out.LeaseId = "lease opened", uint64(f.ID)
		out.Text = fmt.Sprintf("%s/%s/%s on %s for %s", f.Job, f.Group, f.Task, n.host(f.Host), n.customer(f.Customer))
	case *ledger.LeaseClosed:
		out.Kind, out.LeaseId, out.Text = "lease closed", uint64(f.ID), closeReasonName(f.Reason)
	case *ledger.RecordRefused:
		out.Kind, out.LeaseId = "record refused", uint64(f.Record.Lease)
		out.Text = fmt.Sprintf("record %d from %s: %s", f.Record.Seq, n.host(f.Host), recordStatusName(f.Status))
	case *ledger.RateSet:
		out.Kind, out.RateId = "rate set", uint32(f.ID)
		out.Text = fmt.Sprintf("%d nUSD per JOULE", f.NUSDPerJoule)
	case *ledger.AccountOpened:
		out.Kind, out.Text = "account opened", f.Name
	default:
		n.laterFact(out, e.Fact)
	}
	return out
}
