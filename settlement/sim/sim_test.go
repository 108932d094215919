package sim

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/joulecloud/joule/settlement/ledger"
)

// TestSimulation runs clusters one after another for SIM_TIME (default: a
// few), each with the next seed from SIM_SEED on (default: the time).
func TestSimulation(t *testing.T) {
	seed := uint64(time.Now().UnixNano()) % 1_000_000_000
	if s := os.Getenv("SIM_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("SIM_SEED: %v", err)
		}
	}
	budget := 10 * time.Second
	if testing.Short() {
		budget = 2 * time.Second
	}
	if s := os.Getenv("SIM_TIME"); s != "" {
		var err error
		if budget, err = time.ParseDuration(s); err != nil {
			t.Fatalf("SIM_TIME: %v", err)
		}
	}
	total, runs := map[string]int{}, 0
	for start := time.Now(); runs == 0 || time.Since(start) < budget; runs++ {
		ok := t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			for what, n := range run(t, seed) {
				total[what] += n
			}
		})
		if !ok {
			t.Fatalf("again: SIM_SEED=%d SIM_TIME=1s go test -v -run TestSimulation ./settlement/sim", seed)
		}
		seed++
	}
	t.Logf("%d runs, last seed %d: %v", runs, seed-1, total)
}

// run is one cluster's life.
func run(t *testing.T, seed uint64) (counts map[string]int) {
	defer func() {
		// The library never answers some proposals that were queued when it shut
		// down: those goroutines are all that may be left.
		if p := recover(); p != nil {
			if !strings.Contains(fmt.Sprint(p), "main bubble goroutine has exited but blocked goroutines remain") {
				panic(p)
			}
			counts["bubbles with leftovers"]++
		}
	}()
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("SIM_LOG") != "" {
		log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	synctest.Test(t, func(t *testing.T) {
		servers := 3
		if seed%4 == 0 {
			servers = 5
		}
		c := newCluster(t, seed, servers, log)
		c.steady = seed%3 != 0
		counts = c.counts
		h := new(history)
		for _, s := range c.servers {
			s.bringUp()
		}
		keys := make([]ed25519.PrivateKey, hosts)
		r := rand.New(rand.NewPCG(seed, 3))
		for i := range keys {
			var b [ed25519.SeedSize]byte
			for j := range b {
				b[j] = byte(r.Uint32())
			}
			keys[i] = ed25519.NewKeyFromSeed(b[:])
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		(&client{c: c, h: h, name: "operator"}).world(ctx, keys)

		bad, end := context.WithTimeout(ctx, time.Duration(60+r.IntN(60))*time.Second)
		defer end()
		var clients, others sync.WaitGroup
		superCtx, stop := context.WithCancel(ctx)
		others.Go(func() { c.supervise(superCtx) })
		for i, k := range keys {
			clients.Go(func() {
				(&client{c: c, h: h, name: fmt.Sprint("host", i+1)}).host(bad, ledger.HostID(i+1), k)
			})
		}
		for i := range 2 {
			clients.Go(func() { (&client{c: c, h: h, name: fmt.Sprint("bank", i)}).banker(bad) })
			clients.Go(func() { (&client{c: c, h: h, name: fmt.Sprint("reader", i)}).reader(bad) })
		}
		c.torment(bad)
		clients.Wait()
		c.mend()
		c.check(h)
		stop()
		others.Wait()
		for _, s := range c.servers {
			if n, _ := s.live(); n != nil {
				if err := n.Close(); err != nil {
					t.Errorf("%s: close: %v", s.id, err)
				}
			}
		}
		c.closing.Wait()
	})
	return counts
}
