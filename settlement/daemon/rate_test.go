package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/client"
)

func TestRateBlock(t *testing.T) {
	cfg, err := load(t, `
data_dir = "/var/lib/joule"
rate {
  interval  = "30s"
  deviation = "2%"
  source "one" {
    url    = "https://one.example/price"
    path   = "data.0.price"
    weight = 3
  }
  source "two" {
    url       = "https://two.example/price"
    path      = "usd"
    time_path = "at"
    timeout   = "2s"
  }
}`)
	if err != nil {
		t.Fatal(err)
	}
	f, err := cfg.Rate.feed()
	if err != nil {
		t.Fatal(err)
	}
	if f.Interval != 30*time.Second || f.Rules.DeviationPPM != 20_000 || f.Rules.MinSources != 2 || f.Rules.MaxAgeMs != 120_000 ||
		len(f.Sources) != 2 || f.Sources[0].Weight != 3 || f.Sources[1].Weight != 1 || f.Sources[1].TimePath != "at" || f.Sources[1].Timeout != 2*time.Second {
		t.Errorf("got %+v", f)
	}
}

func TestRateBlockFaults(t *testing.T) {
	_, err := load(t, `
data_dir = "/var/lib/joule"
rate {
  interval    = "soon"
  min_sources = 0
  move        = "a bit"
  source "one" {
    url    = "http://one.example/price"
    path   = ""
    weight = 0
  }
}`)
	if err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{"rate:", "interval", "soon", "min_sources", "move", "a bit", "http://one.example/price", "path", "weight"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s in it", err, want)
		}
	}
}

// The leader asks its sources and sets the rate.
func TestRunSetsTheRate(t *testing.T) {
	var urls []string
	for range 2 {
		ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"usd":"0.0625"}`) }))
		defer ts.Close()
		urls = append(urls, ts.URL)
	}
	listen, raft := freeAddr(t), freeAddr(t)
	cfg, err := load(t, fmt.Sprintf(`
name      = "s1"
data_dir  = %q
listen    = %q
raft_addr = %q
rate {
  interval = "1s"
  source "a" {
    url  = %q
    path = "usd"
  }
  source "b" {
    url  = %q
    path = "usd"
  }
}`, t.TempDir(), listen, raft, urls[0], urls[1]))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg, "test", slog.New(slog.DiscardHandler), nil) }()
	api, err := client.Dial("http://"+listen, "")
	if err != nil {
		t.Fatal(err)
	}
	for ctx.Err() == nil {
		st, err := api.GetStatus(ctx, &joulev1.GetStatusRequest{})
		if err == nil && st.RateNusdPerJoule == 62_500_000 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if ctx.Err() != nil {
		t.Error("no rate after 30 s")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
