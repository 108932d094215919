package command

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/money"
)

// usd and joule are the API's currencies.
const (
	usd   = joulev1.Currency_CURRENCY_USD
	joule = joulev1.Currency_CURRENCY_JOULE
)

// units names the fields of results in JSON: the API's names, with the unit
// where an amount's unit depends on a currency. asked is the currency of
// amounts whose message names none.
func units(asked joulev1.Currency) namer {
	return func(parent protoreflect.Message, field protoreflect.FieldDescriptor) string {
		name := string(field.Name())
		beside := field.ContainingMessage().Fields().ByName("currency")
		if beside != nil && slices.Contains(inCurrency, name) {
			return withUnit(name, joulev1.Currency(parent.Get(beside).Enum()))
		}
		switch field.FullName() {
		case "joule.v1.Lease.hold":
			return withUnit(name, payIn(parent.Interface().(*joulev1.Lease)))
		case "joule.v1.DepositResponse.balance", "joule.v1.WithdrawResponse.balance", "joule.v1.TopUpLeaseResponse.hold":
			return withUnit(name, asked)
		case "joule.v1.GetBillResponse.Proof.usd_sum", "joule.v1.GetStatusResponse.usd_sum":
			return withUnit(name, usd)
		case "joule.v1.GetBillResponse.Proof.joule_sum", "joule.v1.GetStatusResponse.joule_sum":
			return withUnit(name, joule)
		}
		return name
	}
}

// inCurrency are the fields that hold an amount of the currency beside them.
var inCurrency = []string{"amount", "balance", "opening", "closing"}

// withUnit appends the unit to a name; without a currency there is no amount.
func withUnit(name string, c joulev1.Currency) string {
	switch c {
	case usd:
		return name + "_" + money.USD.Suffix()
	case joule:
		return name + "_" + money.Joule.Suffix()
	}
	return ""
}

// payIn is the currency of a lease's hold.
func payIn(l *joulev1.Lease) joulev1.Currency {
	if l.GetPayIn() == joule {
		return joule
	}
	return usd
}

// amount prints n in a currency of the API, with its unit.
func amount(c joulev1.Currency, n int64) string {
	switch c {
	case usd:
		return money.Format(money.USD, n)
	case joule:
		return money.Format(money.Joule, n)
	}
	return fmt.Sprintf("%d of currency %d", n, c)
}

func usdNumber(n int64) string   { return money.Number(money.USD, n) }
func jouleNumber(n int64) string { return money.Number(money.Joule, n) }

// moment prints Unix milliseconds, "-" for none.
func moment(unixMs int64) string {
	if unixMs == 0 {
		return "-"
	}
	return time.UnixMilli(unixMs).UTC().Format("2006-01-02T15:04:05.000Z")
}

// count prints n things: "1 lease", "2 leases".
func count[N int | uint64](n N, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// leaseName is a lease's id as people write it.
func leaseName(id uint64) string { return fmt.Sprintf("L%d", id) }

// rateName is a rate's id, "-" for none.
func rateName(id uint32) string {
	if id == 0 {
		return "-"
	}
	return fmt.Sprintf("%d", id)
}

// prices prints the dimensions that cost something, USD per hour.
func prices(p *joulev1.Prices) string {
	if p == nil {
		return "-"
	}
	var parts []string
	for _, d := range dimensions(p) {
		if d.nusd != 0 {
			parts = append(parts, d.name+" "+usdNumber(d.nusd))
		}
	}
	if len(parts) == 0 {
		return "free"
	}
	return strings.Join(parts, ", ")
}

type dimension struct {
	name, per string
	nusd      int64
}

func dimensions(p *joulev1.Prices) []dimension {
	return []dimension{
		{"base", "task", p.GetBaseNusdPerHour()},
		{"cpu", "core used", p.GetCpuNusdPerHour()},
		{"gpu", "device held", p.GetGpuNusdPerHour()},
		{"memory", "GiB reserved", p.GetMemoryNusdPerHour()},
	}
}
