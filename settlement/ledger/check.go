package ledger

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

func refuse(code Code, format string, args ...any) Result {
	return Result{Code: code, Msg: fmt.Sprintf(format, args...)}
}

// check collects the first fault of a command's fields, in the order in which
// they are checked.
type check struct{ msg string }

func (c *check) failf(format string, args ...any) {
	if c.msg == "" {
		c.msg = fmt.Sprintf(format, args...)
	}
}

// result is the refusal; ok is true if there was no fault.
func (c *check) result() (_ Result, ok bool) {
	if c.msg == "" {
		return Result{}, true
	}
	return Result{Code: CodeInvalid, Msg: c.msg}, false
}

// quote is %q of a value that may be far beyond its limit.
func quote(s string) string {
	const most = 80
	if len(s) <= most {
		return strconv.Quote(s)
	}
	return strconv.Quote(s[:most]) + "…"
}

// name checks a name that people give: it becomes part of account names.
func (c *check) name(field, s string) {
	ok := s != "" && len(s) <= NameBytesMax
	for i := 0; ok && i < len(s); i++ {
		b := s[i]
		ok = 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || i > 0 && strings.IndexByte("._-", b) >= 0
	}
	if !ok {
		c.failf("%s must be 1 to %d letters, digits, dots, underscores or dashes and begin with a letter or digit, got %s",
			field, NameBytesMax, quote(s))
	}
}

// text checks a string that others gave: printable UTF-8 within a length.
func (c *check) text(field, s string, most int) {
	if s == "" || len(s) > most || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		c.failf("%s must be 1 to %d bytes of UTF-8 without control characters, got %s", field, most, quote(s))
	}
}

func (c *check) amount(field string, v int64) {
	if v <= 0 {
		c.failf("%s must be above 0, got %d", field, v)
	}
}

func (c *check) within(field string, v, least, most uint64) {
	if v < least || v > most {
		c.failf("%s must be %d to %d, got %d", field, least, most, v)
	}
}

func (c *check) currency(field string, v Currency) {
	if v != USD && v != JOULE {
		c.failf("%s must be 1 (USD) or 2 (JOULE), got %d", field, v)
	}
}

func (c *check) prices(field string, p *Prices) {
	for _, d := range p.dimensions() {
		if d.price < 0 || d.price > PriceMax {
			c.failf("%s.%s must be 0 to %d nUSD per hour, got %d", field, d.name, PriceMax, d.price)
		}
	}
}

type dimension struct {
	name  string
	price NUSD
}

func (p *Prices) dimensions() [4]dimension {
	return [4]dimension{{"base", p.Base}, {"cpu", p.CPU}, {"gpu", p.GPU}, {"memory", p.Memory}}
}

func (c *check) resources(r *Resources) {
	c.within("resources.milli_cores", uint64(r.MilliCores), 0, LeaseMilliCoresMax)
	c.within("resources.memory_mib", uint64(r.MemoryMiB), 0, LeaseMemoryMiBMax)
	c.within("resources.gpus", uint64(r.GPUs), 0, LeaseGPUsMax)
}

// money prints an amount of either currency exactly, with at least two
// decimals and its unit.
func money(v int64, cur Currency) string {
	sign, u := "", uint64(v)
	if v < 0 {
		sign, u = "-", -u
	}
	frac := fmt.Sprintf("%09d", u%nano)
	end := len(frac)
	for end > 2 && frac[end-1] == '0' {
		end--
	}
	return sign + strconv.FormatUint(u/nano, 10) + "." + frac[:end] + " " + unit(cur)
}

func unit(cur Currency) string {
	if cur == JOULE {
		return "JOULE"
	}
	return "USD"
}

// span prints the length of a slice.
func span(ms uint32) string {
	if ms%1000 == 0 {
		return strconv.FormatUint(uint64(ms/1000), 10) + " s"
	}
	return strconv.FormatUint(uint64(ms), 10) + " ms"
}
