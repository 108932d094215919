package feed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/joulecloud/joule/settlement/rate"
)

// market is a ledger and a clock that tests move.
type market struct {
	mu       sync.Mutex
	now      time.Time
	inForce  *rate.Rate
	err      error
	proposed []int64
}

func (m *market) InForce(context.Context) (*rate.Rate, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.inForce, m.now.UnixMilli(), m.err
}

func (m *market) Propose(_ context.Context, nusd int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.proposed = append(m.proposed, nusd)
	m.inForce = &rate.Rate{NUSD: nusd, Set: m.now.UnixMilli()}
	return nil
}

func (m *market) clock() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

func (m *market) pass(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = m.now.Add(d)
}

// station is a source that answers what the test says.
type station struct {
	mu      sync.Mutex
	answer  http.HandlerFunc
	asked   int
	release chan struct{}
}

func (s *station) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked++
	answer := s.answer
	s.mu.Unlock()
	answer(w, r)
}

func (s *station) says(h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = h
}

func (s *station) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func text(format string, args ...any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, format, args...) }
}

func price(p string) http.HandlerFunc { return text(`{"data":[{"price":%q}]}`, p) }

// setup makes a feed of n stations that all say 0.05 USD.
func setup(t *testing.T, n int, change func(*Config)) (*Feed, *market, []*station) {
	t.Helper()
	m := &market{now: time.UnixMilli(1_793_534_400_000)}
	cfg := Default()
	cfg.Now = m.clock
	var stations []*station
	for i := range n {
		s := &station{answer: price("0.05"), release: make(chan struct{})}
		ts := httptest.NewServer(s)
		t.Cleanup(ts.Close)
		t.Cleanup(func() { close(s.release) })
		stations = append(stations, s)
		cfg.Sources = append(cfg.Sources, Source{Name: fmt.Sprintf("s%d", i), URL: ts.URL, Path: "data.0.price", Weight: 1, Timeout: 2 * time.Second})
	}
	if change != nil {
		change(&cfg)
	}
	f, err := New(cfg, m, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.http.CloseIdleConnections)
	return f, m, stations
}

func step(t *testing.T, f *Feed) rate.Decision {
	t.Helper()
	d, err := f.Step(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestProposesOnlyWhenItMovedOrIsGettingOld(t *testing.T) {
	f, m, s := setup(t, 2, nil)
	for i, c := range []struct {
		after time.Duration
		price string
		want  int64 // 0: no proposal
	}{
		{0, "0.05", 50_000_000},
		{15 * time.Second, "0.05", 0},
		{15 * time.Second, "0.05004", 0}, // 0.08 %
		{15 * time.Second, "0.05005", 50_050_000},
		{119 * time.Second, "0.05005", 0},
		{time.Second, "0.05005", 50_050_000},
	} {
		m.pass(c.after)
		s[0].says(price(c.price))
		s[1].says(price(c.price))
		d := step(t, f)
		if d.Propose != (c.want != 0) || d.Propose && d.NUSD != c.want {
			t.Errorf("step %d: got %+v, want %d", i, d, c.want)
		}
	}
	if want := []int64{50_000_000, 50_050_000, 50_050_000}; fmt.Sprint(m.proposed) != fmt.Sprint(want) {
		t.Errorf("got proposals %v, want %v", m.proposed, want)
	}
}

// One source of three misbehaves in every way; the other two carry on, and
// quickly, and nothing that it said is believed.
func TestOneBadSource(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(*station) http.HandlerFunc
		why    string // of the source's failure; "": it answered, but did not count
	}{
		{"lies", func(*station) http.HandlerFunc { return price("5") }, ""},
		{"lies by a factor of 10^9", func(*station) http.HandlerFunc { return price("9223372036") }, ""},
		{"says zero", func(*station) http.HandlerFunc { return price("0") }, "at least"},
		{"says a negative price", func(*station) http.HandlerFunc { return price("-0.05") }, "decimal number"},
		{"says a number that takes for ever", func(*station) http.HandlerFunc { return text(`{"data":[{"price":1e999999999}]}`) }, "decimal number"},
		{"says NaN", func(*station) http.HandlerFunc { return price("NaN") }, "decimal number"},
		{"stalls before the header", func(s *station) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { <-s.release }
		}, "deadline"},
		{"stalls in the body", func(s *station) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, `{"data":[`)
				w.(http.Flusher).Flush()
				<-s.release
			}
		}, "deadline"},
		{"answers garbage", func(*station) http.HandlerFunc { return text("\x00\xff{{{") }, "not JSON"},
		{"answers HTML", func(*station) http.HandlerFunc { return text("<html>0.05</html>") }, "not JSON"},
		{"answers nothing", func(*station) http.HandlerFunc { return text("") }, "not JSON"},
		{"goes on after the document", func(*station) http.HandlerFunc { return text(`{"data":[{"price":"0.05"}]} {"data":[]}`) }, "goes on"},
		{"answers a huge body", func(*station) http.HandlerFunc {
			return text(`{"data":[{"price":"0.05"}],"fill":%q}`, strings.Repeat("x", 100<<10))
		}, "more than"},
		{"answers without end", func(s *station) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				for {
					if _, err := io.WriteString(w, strings.Repeat(" ", 4096)); err != nil {
						return
					}
				}
			}
		}, "more than"},
		{"nests deeply", func(*station) http.HandlerFunc { return text("%s", strings.Repeat("[", 30_000)) }, "not JSON"},
		{"redirects for ever", func(*station) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/again", http.StatusFound) }
		}, "redirects"},
		{"redirects to plain http elsewhere", func(*station) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
			}
		}, "neither https"},
		{"redirects to a file", func(*station) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
			}
		}, "neither https"},
		{"refuses", func(*station) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { http.Error(w, "busy", http.StatusTooManyRequests) }
		}, "429"},
		{"cuts the connection", func(*station) http.HandlerFunc {
			return func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
		}, "EOF"},
		{"has another shape", func(*station) http.HandlerFunc { return text(`{"data":{"price":"0.05"}}`) }, "no such member"},
		{"says a word", func(*station) http.HandlerFunc { return text(`{"data":[{"price":true}]}`) }, "neither a number"},
		{"hands out an old answer of a cache", func(*station) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Age", "121")
				price("0.9")(w, r)
			}
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, m, s := setup(t, 3, func(cfg *Config) { cfg.Sources[2].Timeout = 300 * time.Millisecond })
			s[2].says(c.answer(s[2]))
			begun := time.Now()
			d := step(t, f)
			if took := time.Since(begun); took > 5*time.Second {
				t.Errorf("took %s", took)
			}
			if !d.Propose || d.NUSD != 50_000_000 || d.Counted != 2 || len(d.Rejected) != 1 || d.Rejected[0].Source != "s2" {
				t.Errorf("got %+v, want 50000000 by two, s2 set aside", d)
			}
			if !strings.Contains(f.failing[2], c.why) || (c.why == "") != (f.failing[2] == "") {
				t.Errorf("got failure %q, want %q", f.failing[2], c.why)
			}
			if len(m.proposed) != 1 {
				t.Errorf("got proposals %v", m.proposed)
			}
		})
	}
}

func TestDisagreementProposesNothing(t *testing.T) {
	f, m, s := setup(t, 2, nil)
	s[1].says(price("0.06"))
	if d := step(t, f); d.Propose || d.NUSD != 0 {
		t.Errorf("got %+v, want nothing", d)
	}
	s[1].says(price("0.0501"))
	if d := step(t, f); !d.Propose || d.NUSD != 50_050_000 {
		t.Errorf("got %+v, want 50050000", d)
	}
	if len(m.proposed) != 1 {
		t.Errorf("got %v", m.proposed)
	}
}

// A source that fails counts with its last price until that is too old.
func TestFailingSourceGrowsStale(t *testing.T) {
	f, m, s := setup(t, 2, nil)
	step(t, f)
	s[1].says(text("broken"))
	m.pass(119 * time.Second)
	if d := step(t, f); d.Counted != 2 {
		t.Errorf("got %+v, want both", d)
	}
	m.pass(2 * time.Second)
	if d := step(t, f); d.Counted != 1 || d.Propose {
		t.Errorf("got %+v, want one and no proposal", d)
	}
	s[1].says(price("0.05"))
	if d := step(t, f); d.Counted != 2 || !d.Propose {
		t.Errorf("got %+v, want both and a proposal", d)
	}
}

// A source that names its own time counts by it, however fresh the answer is.
func TestSourceTime(t *testing.T) {
	f, m, s := setup(t, 2, func(c *Config) { c.Sources[0].TimePath, c.Sources[1].TimePath = "at", "at" })
	at := func(v string) http.HandlerFunc { return text(`{"data":[{"price":0.05}],"at":%s}`, v) }
	unix := m.now.Unix()
	for _, c := range []struct {
		name    string
		at      string
		counted int
	}{
		{"seconds", fmt.Sprint(unix), 2},
		{"milliseconds", fmt.Sprint(unix * 1000), 2},
		{"text", `"` + m.now.UTC().Format(time.RFC3339) + `"`, 2},
		{"two minutes and a second old", fmt.Sprint(unix - 121), 1},
		{"from the future", fmt.Sprint(unix + 11), 1},
		{"of the year 5138 in seconds", fmt.Sprint(99_999_999_999), 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s[0].says(at(fmt.Sprint(unix)))
			s[1].says(at(c.at))
			if d := step(t, f); d.Counted != c.counted {
				t.Errorf("got %+v, want %d counted", d, c.counted)
			}
		})
	}
	s[1].says(at(`"yesterday"`))
	step(t, f)
	if !strings.Contains(f.failing[1], "RFC 3339") {
		t.Errorf("got %q", f.failing[1])
	}
}

func TestWeights(t *testing.T) {
	f, _, s := setup(t, 3, func(c *Config) {
		c.Sources[2].Weight = 3
		c.Rules.DeviationPPM = 100_000
	})
	s[0].says(price("0.0500"))
	s[1].says(price("0.0501"))
	s[2].says(price("0.0502"))
	if d := step(t, f); d.NUSD != 50_200_000 {
		t.Errorf("got %+v, want the heavy source's 50200000", d)
	}
}

// A server that does not lead asks nobody; it begins when it leads.
func TestOnlyTheLeaderAsks(t *testing.T) {
	f, m, s := setup(t, 2, nil)
	m.err = ErrNotLeading
	if _, err := f.Step(t.Context()); !errors.Is(err, ErrNotLeading) {
		t.Errorf("got %v", err)
	}
	if n := s[0].count(); n != 0 {
		t.Errorf("got %d requests, want none", n)
	}
	m.err = nil
	if d := step(t, f); !d.Propose {
		t.Errorf("got %+v", d)
	}
}

// The age of the rate in force is counted by the ledger's clock alone.
func TestAgeOfTheRateIsLedgerTime(t *testing.T) {
	f, m, _ := setup(t, 2, nil)
	step(t, f)
	m.mu.Lock()
	m.inForce.Set += 3_600_000 // the ledger's clock is an hour ahead of ours
	m.now = m.now.Add(0)
	m.mu.Unlock()
	if d := step(t, f); d.Propose {
		t.Errorf("got %+v, want no proposal", d)
	}
}

func TestValidateReportsEveryFault(t *testing.T) {
	cfg := Default()
	cfg.Interval, cfg.Rules.RefreshMs = time.Millisecond, 600_000
	cfg.Sources = []Source{
		{Name: "a", URL: "http://example.com/x", Path: "a..b", Weight: 0},
		{Name: "a", URL: "https://user:secret@example.com", Path: "a", Weight: 1, Timeout: time.Hour, BodyMax: 1 << 30},
	}
	err := cfg.Validate()
	if err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{"interval", "1ms", "refresh", "600000", "http://example.com/x", "a..b", "weight", `"0"`, "twice", "password", "timeout", "1h0m0s", "max_body", "1073741824"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s in it", err, want)
		}
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("got the password in %v", err)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return r(req) }

// Run keeps its interval and ends with its context.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &market{now: time.UnixMilli(1)}
		cfg := Default()
		asked := make(chan struct{}, 100)
		cfg.HTTP = roundTripper(func(*http.Request) (*http.Response, error) {
			asked <- struct{}{}
			return nil, errors.New("offline")
		})
		cfg.Sources = []Source{{Name: "a", URL: "https://a.example", Path: "p", Weight: 1}, {Name: "b", URL: "https://b.example", Path: "p", Weight: 1}}
		f, err := New(cfg, m, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { f.Run(ctx); close(done) }()
		time.Sleep(10*cfg.Interval + time.Second)
		synctest.Wait()
		if got := len(asked); got != 22 {
			t.Errorf("got %d requests, want 22", got)
		}
		cancel()
		<-done
	})
}
