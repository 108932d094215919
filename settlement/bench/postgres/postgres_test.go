package postgres_test

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/joulecloud/joule/settlement/bench/postgres"
	"github.com/joulecloud/joule/settlement/bench/workload"
)

// The baseline charges exactly what our rules say, lone and replicated, and
// leaves nothing behind.
func TestBaselineChargesWhatTheRulesSay(t *testing.T) {
	if err := postgres.Installed(); err != nil {
		t.Skip(err)
	}
	if testing.Short() {
		t.Skip("starts three database servers")
	}
	n, each := 5000, 300*time.Millisecond
	if v, _ := strconv.Atoi(os.Getenv("BIG")); v > 0 {
		n, each = v, 8*time.Second
	}
	srv, err := postgres.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := srv.Stop(); err != nil {
			t.Error(err)
		}
	}()
	for _, spread := range []bool{false, true} {
		b, err := srv.Load(t.Context(), workload.Sized(n), spread)
		if err != nil {
			t.Fatal(err)
		}
		for _, batch := range []int{64, 1024} {
			load, err := b.Run(t.Context(), batch, each)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("spread %v: %+v", spread, *load)
			if load.Records == 0 {
				t.Error("no records were posted")
			}
		}
		if err := b.Check(t.Context()); err != nil {
			t.Error(err)
		}
		if err := b.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	b, err := srv.Load(t.Context(), workload.Sized(n), false)
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Replicate(t.Context()); err != nil {
		t.Fatal(err)
	}
	load, err := b.Run(t.Context(), 1024, each)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("replicated: %+v", *load)
	if err := b.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := b.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
