package rate

import (
	"math"
	"math/big"
	"strconv"
	"strings"
)

// Bounds of a number that a source may give. Its digits are counted before
// anything is computed, so that a short text such as 1e999999999 costs nothing.
const (
	numberBytesMax = 64
	exponentMax    = 64
)

// ParsePrice reads what a source says one JOULE costs, USD as a decimal number
// such as "0.05", "5e-2" or "1.25E+1", into nUSD. Nothing passes through a
// float; digits beyond a nano-dollar are cut off. A sign, a price that is less
// than 1 nUSD and one beyond int64 are an *Error.
func ParsePrice(field, text string) (int64, error) {
	fault := func(rule string) (int64, error) {
		return 0, &Error{Field: field, Value: text, Rule: rule}
	}
	n, ok := scaled(text, 9)
	if !ok {
		return fault("must be a decimal number of USD such as 0.05 or 5e-2")
	}
	if n.Sign() == 0 {
		return fault("must be at least 0.000000001 USD")
	}
	if !n.IsInt64() {
		return fault("must be at most 9223372036.854775807 USD")
	}
	return n.Int64(), nil
}

// ParseTime reads the time that a source gives with its price into Unix
// milliseconds: a number of seconds or, from 10¹¹ on, of milliseconds.
func ParseTime(field, text string) (ms int64, err error) {
	const msFrom = 100_000_000_000 // as seconds: the year 5138; as milliseconds: 1973
	n, ok := scaled(text, 3)
	if !ok {
		return 0, &Error{Field: field, Value: text, Rule: "must be Unix seconds, Unix milliseconds or a time as in RFC 3339"}
	}
	if n.Cmp(big.NewInt(msFrom*1000)) >= 0 {
		n.Quo(n, big.NewInt(1000))
	}
	if !n.IsInt64() || n.Int64() > math.MaxInt64/2 {
		return 0, &Error{Field: field, Value: text, Rule: "must be a time that is near"}
	}
	return n.Int64(), nil
}

// scaled is the decimal number in text × 10^places, rounded down; false where
// text is no such number, has a sign, or is too long.
func scaled(text string, places int) (*big.Int, bool) {
	if len(text) > numberBytesMax {
		return nil, false
	}
	mantissa, exponent := text, 0
	if at := strings.IndexAny(text, "eE"); at >= 0 {
		e, err := strconv.Atoi(text[at+1:])
		if err != nil || e < -exponentMax || e > exponentMax {
			return nil, false
		}
		mantissa, exponent = text[:at], e
	}
	whole, fraction, point := strings.Cut(mantissa, ".")
	if whole == "" || point && fraction == "" || !onlyDigits(whole) || !onlyDigits(fraction) {
		return nil, false
	}
	n, ok := new(big.Int).SetString(whole+fraction, 10)
	if !ok {
		return nil, false
	}
	shift := exponent + places - len(fraction)
	power := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(shift, -shift))), nil)
	if shift < 0 {
		return n.Quo(n, power), true
	}
	return n.Mul(n, power), true
}

func onlyDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}
