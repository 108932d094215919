// Package money reads and prints amounts of money as people write them:
// decimal text to and from integers of nano-dollars and nanojoules (10⁻⁹ of a
// dollar and of a JOULE). Nothing passes through a float, so what is printed
// reads back to the same integer.
package money

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
)

// Decimals is how many digits may follow the point: one unit is 10⁻⁹.
const Decimals = 9

// shownBytesMax bounds how much of a bad value an error repeats.
const shownBytesMax = 40

// Currency is what an amount is counted in.
type Currency uint8

// The currencies.
const (
	USD   Currency = 1 // integers are nUSD
	Joule Currency = 2 // integers are nJ
)

// String returns the currency's name as printed after amounts.
func (c Currency) String() string {
	switch c {
	case USD:
		return "USD"
	case Joule:
		return "JOULE"
	}
	return fmt.Sprintf("currency %d", uint8(c))
}

// Suffix is the unit of the currency's integers as the API's field names end:
// "nusd" or "nj".
func (c Currency) Suffix() string {
	switch c {
	case USD:
		return "nusd"
	case Joule:
		return "nj"
	}
	return "unknown"
}

// ParseCurrency reads "usd" or "joule", in any case. The error names field.
func ParseCurrency(field, text string) (Currency, error) {
	switch strings.ToLower(text) {
	case "usd":
		return USD, nil
	case "joule":
		return Joule, nil
	}
	return 0, &Error{Field: field, Value: text, Rule: "must be usd or joule"}
}

// Error is a value that can't be read.
type Error struct {
	Field string // what the value was given for
	Value string
	Rule  string // what it breaks, in words
}

// Error implements error.
func (e *Error) Error() string {
	v := e.Value
	if len(v) > shownBytesMax {
		v = v[:shownBytesMax] + "…"
	}
	return fmt.Sprintf("%s: %s (got %q)", e.Field, e.Rule, v)
}

// Parse reads an amount of c that may be zero but not negative, such as "5",
// "0.05" or "1_000.25", into 10⁻⁹ units. Underscores may stand between digits.
// A sign, an exponent, a unit, more than nine decimals or more than an account
// can hold is an *Error that names field.
func Parse(c Currency, field, text string) (int64, error) {
	whole, fraction, rule := split(text)
	if rule != "" {
		return 0, &Error{Field: field, Value: text, Rule: rule}
	}
	n, ok := scale(whole, fraction, Decimals)
	if !ok {
		return 0, &Error{Field: field, Value: text,
			Rule: "must be at most " + Format(c, math.MaxInt64)}
	}
	return n, nil
}

// ParsePositive is Parse for amounts that must be more than zero.
func ParsePositive(c Currency, field, text string) (int64, error) {
	n, err := Parse(c, field, text)
	if err == nil && n == 0 {
		return 0, &Error{Field: field, Value: text, Rule: "must be more than 0"}
	}
	return n, err
}

// ParsePPM reads a share written in per cent, such as "2%" or "0.25%", as
// parts per million; at most 100%. The error names field.
func ParsePPM(field, text string) (uint32, error) {
	return parsePercent(field, text, 1_000_000, "must be at most 100%")
}

// ParseFactor is ParsePPM for what may be more than the whole: at most 10000%.
func ParseFactor(field, text string) (uint32, error) {
	return parsePercent(field, text, 100_000_000, "must be at most 10000%")
}

func parsePercent(field, text string, most int64, mostRule string) (uint32, error) {
	const percentDecimals = 4 // 0.0001% is one part per million
	number, found := strings.CutSuffix(text, "%")
	whole, fraction, rule := split(number)
	if !found || rule != "" {
		return 0, &Error{Field: field, Value: text, Rule: "must be a percentage such as 2% or 0.25%"}
	}
	if len(strings.TrimRight(fraction, "0")) > percentDecimals {
		return 0, &Error{Field: field, Value: text, Rule: "must have at most 4 decimals"}
	}
	fraction = fraction[:min(len(fraction), percentDecimals)]
	n, ok := scale(whole, fraction, percentDecimals)
	if !ok || n > most {
		return 0, &Error{Field: field, Value: text, Rule: mostRule}
	}
	return uint32(n), nil
}

// FormatPPM prints parts per million as per cent: 20000 is "2%".
func FormatPPM(ppm uint32) string { return decimal(uint64(ppm), 4, 0) + "%" }

// Format prints n with its unit: "5.00 USD", "0.000232 USD", "12 JOULE".
func Format(c Currency, n int64) string { return Number(c, n) + " " + c.String() }

// Number prints n without its unit: as many decimals as it needs, at least two
// for dollars.
func Number(c Currency, n int64) string {
	least := 0
	if c == USD {
		least = 2
	}
	if n < 0 {
		return "-" + decimal(-uint64(n), Decimals, least) // two's complement: right for MinInt64 too
	}
	return decimal(uint64(n), Decimals, least)
}

// split takes a decimal number apart into its digits before and after the
// point, underscores removed. rule says what is wrong with it, "" for nothing.
func split(text string) (whole, fraction, rule string) {
	const shape = "must be a decimal number such as 5, 0.05 or 1_000.25"
	switch {
	case text == "":
		return "", "", "must not be empty"
	case strings.HasPrefix(text, "-") && len(text) > 1:
		return "", "", "must not be negative"
	}
	whole, fraction, point := strings.Cut(text, ".")
	whole, ok := digits(whole)
	if !ok {
		return "", "", shape
	}
	if point {
		if fraction, ok = digits(fraction); !ok {
			return "", "", shape
		}
	}
	if len(fraction) > Decimals {
		return "", "", "must have at most 9 decimals"
	}
	return whole, fraction, ""
}

// digits removes underscores between digits. It is false for anything else
// than at least one digit.
func digits(s string) (string, bool) {
	if s == "" || s[0] == '_' || s[len(s)-1] == '_' || strings.Contains(s, "__") {
		return "", false
	}
	s = strings.ReplaceAll(s, "_", "")
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return "", false
		}
	}
	return s, true
}

// scale is whole.fraction × 10^places; fraction has at most places digits. It
// is false where the result leaves int64.
func scale(whole, fraction string, places int) (int64, bool) {
	var n uint64
	for _, text := range []string{whole, fraction, strings.Repeat("0", places-len(fraction))} {
		for i := range len(text) {
			hi, lo := bits.Mul64(n, 10)
			sum, carry := bits.Add64(lo, uint64(text[i]-'0'), 0)
			if hi != 0 || carry != 0 || sum > math.MaxInt64 {
				return 0, false
			}
			n = sum
		}
	}
	return int64(n), true
}

// decimal prints n ÷ 10^places with at least least decimals.
func decimal(n uint64, places, least int) string {
	s := strconv.FormatUint(n, 10)
	if len(s) <= places {
		s = strings.Repeat("0", places+1-len(s)) + s
	}
	whole, fraction := s[:len(s)-places], s[len(s)-places:]
	end := len(fraction)
	for end > least && fraction[end-1] == '0' {
		end--
	}
	if end == 0 {
		return whole
	}
	return whole + "." + fraction[:end]
}
