package money_test

import (
	"errors"
	"math"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/joulecloud/joule/settlement/money"
)

func TestParse(t *testing.T) {
	tests := []struct {
		name string
		in   string
		want int64
		err  string
	}{
		{name: "a whole number", in: "5", want: 5_000_000_000},
		{name: "cents", in: "0.05", want: 50_000_000},
		{name: "underscores between digits", in: "1_000.25", want: 1_000_250_000_000},
		{name: "underscores in the fraction", in: "0.000_000_001", want: 1},
		{name: "nine decimals", in: "0.000000001", want: 1},
		{name: "zero", in: "0", want: 0},
		{name: "leading zeros", in: "007", want: 7_000_000_000},
		{name: "the largest", in: "9223372036.854775807", want: math.MaxInt64},
		{name: "one more than the largest", in: "9223372036.854775808", err: `amount: must be at most 9223372036.854775807 USD (got "9223372036.854775808")`},
		{name: "far more than the largest", in: "99999999999999999999999999", err: `amount: must be at most 9223372036.854775807 USD (got "99999999999999999999999999")`},
		{name: "ten decimals", in: "0.0000000001", err: `amount: must have at most 9 decimals (got "0.0000000001")`},
		{name: "negative", in: "-5", err: `amount: must not be negative (got "-5")`},
		{name: "a sign", in: "+5", err: `amount: must be a decimal number such as 5, 0.05 or 1_000.25 (got "+5")`},
		{name: "empty", in: "", err: `amount: must not be empty (got "")`},
		{name: "an exponent", in: "1e3", err: `amount: must be a decimal number such as 5, 0.05 or 1_000.25 (got "1e3")`},
		{name: "a unit", in: "5 USD", err: `amount: must be a decimal number such as 5, 0.05 or 1_000.25 (got "5 USD")`},
		{name: "a thousands separator", in: "1,000", err: `amount: must be a decimal number such as 5, 0.05 or 1_000.25 (got "1,000")`},
		{name: "no digit before the point", in: ".5", err: `amount: must be a decimal number such as 5, 0.05 or 1_000.25 (got ".5")`},
		{name: "no digit after the point", in: "5.", err: `amount: must be a decimal number such as 5, 0.05 or 1_000.25 (got "5.")`},
		{name: "two points", in: "1.2.3", err: `amount: must be a decimal number such as 5, 0.05 or 1_000.25 (got "1.2.3")`},
		{name: "a leading underscore", in: "_5", err: `amount: must be a decimal number such as 5, 0.05 or 1_000.25 (got "_5")`},
		{name: "a trailing underscore", in: "5_", err: `amount: must be a decimal number such as 5, 0.05 or 1_000.25 (got "5_")`},
		{name: "a double underscore", in: "1__0", err: `amount: must be a decimal number such as 5, 0.05 or 1_000.25 (got "1__0")`},
		{name: "not a number", in: "NaN", err: `amount: must be a decimal number such as 5, 0.05 or 1_000.25 (got "NaN")`},
		{name: "digits of another script", in: "٥", err: `amount: must be a decimal number such as 5, 0.05 or 1_000.25 (got "٥")`},
		{name: "a minus alone", in: "-", err: `amount: must be a decimal number such as 5, 0.05 or 1_000.25 (got "-")`},
		{name: "a very long value is cut in the error", in: strings.Repeat("x", 100), err: `amount: must be a decimal number such as 5, 0.05 or 1_000.25 (got "` + strings.Repeat("x", 40) + `…")`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := money.Parse(money.USD, "amount", tt.in)
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Fatalf("Parse(%q) error: got %v, want %s", tt.in, err, tt.err)
				}
				if e, ok := errors.AsType[*money.Error](err); !ok || e.Field != "amount" || e.Value != tt.in {
					t.Errorf("Parse(%q) error: got %#v, want a *money.Error with field and value", tt.in, err)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("Parse(%q): got %d, %v, want %d", tt.in, got, err, tt.want)
			}
		})
	}
}

func TestParsePositiveRefusesZero(t *testing.T) {
	for _, in := range []string{"0", "0.00", "0.000000000"} {
		if _, err := money.ParsePositive(money.Joule, "amount", in); err == nil {
			t.Errorf("ParsePositive(%q): got no error, want one", in)
		}
	}
	if n, err := money.ParsePositive(money.Joule, "amount", "0.000000001"); n != 1 || err != nil {
		t.Errorf("ParsePositive of the least amount: got %d, %v, want 1", n, err)
	}
}

func TestFormat(t *testing.T) {
	tests := []struct {
		c    money.Currency
		n    int64
		want string
	}{
		{money.USD, 0, "0.00 USD"},
		{money.USD, 5_000_000_000, "5.00 USD"},
		{money.USD, 500_000_000, "0.50 USD"},
		{money.USD, 232_000, "0.000232 USD"},
		{money.USD, 1, "0.000000001 USD"},
		{money.USD, -1_250_000_000, "-1.25 USD"},
		{money.USD, math.MaxInt64, "9223372036.854775807 USD"},
		{money.USD, math.MinInt64, "-9223372036.854775808 USD"},
		{money.Joule, 0, "0 JOULE"},
		{money.Joule, 12_000_000_000, "12 JOULE"},
		{money.Joule, 100, "0.0000001 JOULE"},
	}
	for _, tt := range tests {
		if got := money.Format(tt.c, tt.n); got != tt.want {
			t.Errorf("Format(%v, %d): got %q, want %q", tt.c, tt.n, got, tt.want)
		}
	}
}

// What is printed reads back to the same integer, and is the exact value.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := rapid.SampledFrom([]money.Currency{money.USD, money.Joule}).Draw(t, "currency")
		n := rapid.Int64Range(0, math.MaxInt64).Draw(t, "n")
		text := money.Number(c, n)
		got, err := money.Parse(c, "amount", text)
		if err != nil || got != n {
			t.Fatalf("Parse(Number(%d) = %q): got %d, %v", n, text, got, err)
		}
		exact, ok := new(big.Rat).SetString(text)
		if !ok || exact.Cmp(big.NewRat(n, 1_000_000_000)) != 0 {
			t.Fatalf("Number(%d): got %q, want the exact value", n, text)
		}
		if negative := money.Number(c, -n); n > 0 && negative != "-"+text {
			t.Fatalf("Number(%d): got %q, want %q", -n, negative, "-"+text)
		}
	})
}

// Any text is either refused or means what an exact rational says it means.
func TestParseAgreesWithRationals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[0-9_.+\-e]{0,14}|[0-9]{1,12}(\.[0-9]{1,11})?`).Draw(t, "text")
		n, err := money.Parse(money.USD, "amount", text)
		if err != nil {
			return
		}
		exact, ok := new(big.Rat).SetString(strings.ReplaceAll(text, "_", ""))
		if !ok || exact.Cmp(big.NewRat(n, 1_000_000_000)) != 0 {
			t.Fatalf("Parse(%q): got %d, want %v × 10⁹", text, n, exact)
		}
	})
}

func TestParsePPM(t *testing.T) {
	tests := []struct {
		in   string
		want uint32
		err  string
	}{
		{in: "2%", want: 20_000},
		{in: "0%", want: 0},
		{in: "0.25%", want: 2_500},
		{in: "0.0001%", want: 1},
		{in: "0.000100%", want: 1},
		{in: "100%", want: 1_000_000},
		{in: "100.0001%", err: `fee: must be at most 100% (got "100.0001%")`},
		{in: "99999999999999999999%", err: `fee: must be at most 100% (got "99999999999999999999%")`},
		{in: "0.00001%", err: `fee: must have at most 4 decimals (got "0.00001%")`},
		{in: "-2%", err: `fee: must be a percentage such as 2% or 0.25% (got "-2%")`},
		{in: "2", err: `fee: must be a percentage such as 2% or 0.25% (got "2")`},
		{in: "%", err: `fee: must be a percentage such as 2% or 0.25% (got "%")`},
		{in: "x%", err: `fee: must be a percentage such as 2% or 0.25% (got "x%")`},
	}
	for _, tt := range tests {
		got, err := money.ParsePPM("fee", tt.in)
		if text := errorText(err); got != tt.want || text != tt.err {
			t.Errorf("ParsePPM(%q): got %d, %q, want %d, %q", tt.in, got, text, tt.want, tt.err)
		}
	}
}

func TestPPMRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ppm := rapid.Uint32Range(0, 1_000_000).Draw(t, "ppm")
		if got, err := money.ParsePPM("fee", money.FormatPPM(ppm)); err != nil || got != ppm {
			t.Fatalf("ParsePPM(FormatPPM(%d)): got %d, %v", ppm, got, err)
		}
	})
}

func TestParseCurrency(t *testing.T) {
	for in, want := range map[string]money.Currency{"usd": money.USD, "USD": money.USD, "joule": money.Joule, "JOULE": money.Joule} {
		if got, err := money.ParseCurrency("currency", in); got != want || err != nil {
			t.Errorf("ParseCurrency(%q): got %v, %v, want %v", in, got, err, want)
		}
	}
	_, err := money.ParseCurrency("currency", "eur")
	if got, want := errorText(err), `currency: must be usd or joule (got "eur")`; got != want {
		t.Errorf("ParseCurrency of a third one: got %q, want %q", got, want)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
