package rate

import (
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func quotes(weighted ...int64) []Quote {
	var out []Quote
	for i := 0; i < len(weighted); i += 2 {
		out = append(out, Quote{Source: string(rune('a' + i/2)), NUSD: weighted[i], Weight: uint32(weighted[i+1]), At: 1000})
	}
	return out
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		name   string
		quotes []Quote
		want   int64
	}{
		{"one", quotes(5, 1), 5},
		{"middle of three", quotes(9, 1, 1, 1, 5, 1), 5},
		{"mean of two, rounded down", quotes(4, 1, 7, 1), 5},
		{"a heavy source decides", quotes(1, 1, 2, 1, 9, 5), 9},
		{"half of the weight on either side", quotes(1, 2, 3, 1, 5, 1), 2},
		{"no overflow of the mean", quotes(math.MaxInt64, 1, math.MaxInt64-2, 1), math.MaxInt64 - 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Median(c.quotes); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

// However wild fewer than half of the weight are, the median stays between the
// honest ones.
func TestMinorityCannotMoveTheMedian(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		honest := rapid.SliceOfN(rapid.Int64Range(900, 1100), 1, 10).Draw(t, "honest")
		liars := rapid.SliceOfN(rapid.Int64Range(1, math.MaxInt64), 0, len(honest)-1).Draw(t, "liars")
		var all []Quote
		for _, p := range append(honest, liars...) {
			all = append(all, Quote{NUSD: p, Weight: 1})
		}
		if m := Median(rapid.Permutation(all).Draw(t, "order")); m < 900 || m > 1100 {
			t.Fatalf("got %d, want 900 to 1100", m)
		}
	})
}

func rules() *Rules {
	return &Rules{MinSources: 2, MaxAgeMs: 120_000, MaxAheadMs: 5000, DeviationPPM: 15_000, MovePPM: 1000, RefreshMs: 120_000}
}

func TestDecide(t *testing.T) {
	const now = 1000
	old := func(q []Quote, i int, at int64) []Quote { q[i].At = at; return q }
	for _, c := range []struct {
		name    string
		quotes  []Quote
		inForce *Rate
		now     int64
		propose bool
		nusd    int64
		counted int
		why     string
	}{
		{"the first rate", quotes(100_000, 1, 100_200, 1), nil, now, true, 100_100, 2, "ever set"},
		{"moved by the threshold", quotes(100_100, 1, 100_100, 1), &Rate{100_000, now}, now, true, 100_100, 2, "moved"},
		{"moved by less", quotes(100_099, 1, 100_099, 1), &Rate{100_000, now}, now, false, 100_099, 2, "not moved"},
		{"the same, but getting old", quotes(100_000, 1, 100_000, 1), &Rate{100_000, 1000}, 121_000, true, 100_000, 2, "old"},
		{"too few sources", quotes(100_000, 1), nil, now, false, 0, 1, "fresh"},
		{"none at all", nil, nil, now, false, 0, 0, "fresh"},
		{"one of two is stale", old(quotes(100_000, 1, 100_000, 1), 1, -119_001), nil, now, false, 0, 1, "fresh"},
		{"exactly as old as allowed", old(quotes(100_000, 1, 100_000, 1), 1, -119_000), nil, now, true, 100_000, 2, "ever set"},
		{"one of two is from the future", old(quotes(100_000, 1, 100_000, 1), 0, 6001), nil, now, false, 0, 1, "fresh"},
		{"a liar among three is set aside", quotes(100_000, 1, 100_100, 1, 900_000, 1), nil, now, true, 100_050, 2, "ever set"},
		{"two that disagree", quotes(100_000, 1, 200_000, 1), nil, now, false, 0, 0, "agree"},
		{"two camps of the same weight", quotes(100_000, 1, 100_000, 1, 200_000, 1, 200_000, 1), nil, now, false, 0, 0, "agree"},
		{"a camp of half the weight", quotes(100_000, 1, 100_001, 1, 100_002, 2, 500_000, 4), nil, now, false, 0, 0, "agree"},
		{"scattered", quotes(50_000, 1, 100_000, 1, 100_000, 1, 200_000, 1, 300_000, 1), nil, now, false, 0, 2, "half of the weight"},
		{"a source that never answered", append(quotes(100_000, 1, 100_000, 1), Quote{Source: "z", Weight: 9}), nil, now, true, 100_000, 2, "ever set"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := Decide(rules(), c.quotes, c.inForce, c.now)
			if d.Propose != c.propose || d.NUSD != c.nusd || d.Counted != c.counted || !strings.Contains(d.Why, c.why) {
				t.Errorf("got %+v, want propose %t, %d nUSD, %d counted, %q", d, c.propose, c.nusd, c.counted, c.why)
			}
		})
	}
}

// A weight decides which camp is in the majority, but one heavy source alone is
// not enough where two are wanted.
func TestOneHeavySourceIsNotEnough(t *testing.T) {
	d := Decide(rules(), quotes(100_000, 1, 100_000, 1, 900_000, 10), nil, 1000)
	if d.Propose {
		t.Errorf("got %+v, want no proposal", d)
	}
}

func TestApartIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Int64Range(1, math.MaxInt64).Draw(t, "a"), rapid.Int64Range(1, math.MaxInt64).Draw(t, "b")
		ppm := rapid.Uint32Range(0, 1_000_000).Draw(t, "ppm")
		diff := new(big.Int).Sub(big.NewInt(a), big.NewInt(b))
		diff.Abs(diff).Mul(diff, big.NewInt(1_000_000))
		want := diff.Cmp(new(big.Int).Mul(big.NewInt(b), big.NewInt(int64(ppm)))) > 0
		if got := Apart(a, b, ppm); got != want {
			t.Fatalf("got %t, want %t", got, want)
		}
	})
}

func TestParsePrice(t *testing.T) {
	for text, want := range map[string]int64{
		"0.05": 50_000_000, "5e-2": 50_000_000, "5E-2": 50_000_000, "1.25e+1": 12_500_000_000, "12": 12_000_000_000,
		"0.0512345678999": 51_234_567, "0.000000001": 1, "9223372036.854775807": math.MaxInt64, "00.5": 500_000_000,
	} {
		if got, err := ParsePrice("price", text); err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", ".5", "5.", "-1", "+1", "0", "0.0000000009", "NaN", "Infinity", "1,5", "0x10", " 1", "1e", "1e99999999999",
		"1e65", "9223372036.854775808", strings.Repeat("9", 65), "1_000", "١"} {
		_, err := ParsePrice("price", text)
		var e *Error
		if !errors.As(err, &e) || e.Field != "price" || e.Value != text {
			t.Errorf("%q: got %v, want an error that names the field and the value", text, err)
		}
	}
}

// What a price prints as reads back to the same integer.
func TestPriceRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(1, math.MaxInt64).Draw(t, "n")
		s := strconv.FormatInt(n, 10) + "e-9"
		if got, err := ParsePrice("price", s); err != nil || got != n {
			t.Fatalf("got %d, %v, want %d", got, err, n)
		}
	})
}

func TestParseTime(t *testing.T) {
	for text, want := range map[string]int64{
		"1793534400": 1_793_534_400_000, "1793534400.123": 1_793_534_400_123, "1793534400123": 1_793_534_400_123, "1.7935344e9": 1_793_534_400_000,
	} {
		if got, err := ParseTime("time", text); err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "now", "-1", "1e60"} {
		if _, err := ParseTime("time", text); err == nil {
			t.Errorf("%q: got no error", text)
		}
	}
}

func TestPath(t *testing.T) {
	const document = `{"data": [{"price": "0.05", "deep": {"a.b": 7, "c\\d": 8, "0": 9}}, 1e-3], "null": null, "yes": true}`
	dec := json.NewDecoder(strings.NewReader(document))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"data.0.price": "0.05", "data.1": "1e-3", `data.0.deep.a\.b`: "7", `data.0.deep.c\\d`: "8", "data.0.deep.0": "9",
	} {
		p, err := ParsePath("path", path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.Find(v); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", path, got, err, want)
		}
	}
	for path, want := range map[string]string{
		"data.2": "2 elements", "data.x": "index", "data.+0": "index", "none": "no such member", "data.0.price.x": "nothing below",
		"null": "neither", "yes": "neither", "data": "neither", "data.99999999999": "index",
	} {
		p, err := ParsePath("path", path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.Find(v); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %q, %v, want %q", path, got, err, want)
		}
	}
	for _, path := range []string{"", ".", "a.", ".a", "a..b", `a\`, `a\b`, strings.Repeat("a.", 40) + "a"} {
		if _, err := ParsePath("path", path); err == nil {
			t.Errorf("%q: got no error", path)
		}
	}
}

func FuzzPathAndPrice(f *testing.F) {
	f.Add(`{"data":[{"price":"0.05"}]}`, "data.0.price")
	f.Add(`[1e9]`, "0")
	f.Fuzz(func(t *testing.T, document, path string) {
		p, err := ParsePath("path", path)
		if err != nil {
			return
		}
		dec := json.NewDecoder(strings.NewReader(document))
		dec.UseNumber()
		var v any
		if dec.Decode(&v) != nil {
			return
		}
		if text, err := p.Find(v); err == nil {
			if n, err := ParsePrice("price", text); err == nil && n <= 0 {
				t.Errorf("got %d from %q", n, text)
			}
			ParseTime("time", text)
		}
	})
}
