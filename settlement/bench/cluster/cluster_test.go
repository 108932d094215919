package cluster_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/joulecloud/joule/settlement/bench/cluster"
	"github.com/joulecloud/joule/settlement/bench/workload"
)

// part is how the test program knows that it is started as a server or as
// hosts.
const part = "benchmark-part"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == part {
		run := map[string]func() error{
			"server": func() error { return cluster.Server(context.Background(), os.Stdin, os.Stdout) },
			"client": func() error { return cluster.Client(context.Background(), os.Stdin, os.Stdout) },
		}[os.Args[2]]
		if err := run(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Three servers settle what the hosts send; Check compares lease by lease.
func TestCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("starts five processes")
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	n, each := 5000, 300*time.Millisecond
	if v, _ := strconv.Atoi(os.Getenv("BIG")); v > 0 {
		n, each = v, 6*time.Second
	}
	c, err := cluster.Start(t.Context(), cluster.Config{Program: []string{program, part}, Spec: workload.Sized(n), Servers: 3, Clients: 2, Profiles: os.Getenv("PROFILES")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	}()
	for _, batch := range []int{1024, 64} {
		load, err := c.Run(batch, 32, each, 200_000)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", *load)
		if err := c.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	p50, p99, err := c.Commands(t.Context(), 20)
	if err != nil {
		t.Fatal(err)
	}
	rss, _ := c.Resident()
	t.Log(p50, p99, rss)
}
