// Package cluster measures three settlement servers, each a process of its own
// with TLS and durable writes, under hosts that are other processes again.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
	"github.com/joulecloud/joule/settlement/bench/proc"
	"github.com/joulecloud/joule/settlement/bench/workload"
	"github.com/joulecloud/joule/settlement/client"

	"github.com/joulecloud/joule/raftstore"
	"github.com/joulecloud/joule/settlement/loopback"
)

// Config says what is started.
type Config struct {
	// Program starts this benchmark's own program; Server and Client are told
	// apart by one more argument, "server" or "client".
	Program  []string
	Spec     workload.Spec
	Servers  int
	Clients  int    // processes
	Profiles string // directory for CPU profiles of the servers; "": none
}

// Load is one measured run.
type Load struct {
	Batch       int     `json:"batch"`
	InFlight    int     `json:"in_flight"`
	PerS        float64 `json:"records_per_s"`
	MBPerS      float64 `json:"mb_per_s"` // of signed batches
	CPUUs       float64 `json:"cpu_us_per_record"`
	LeaderCPUUs float64 `json:"leader_cpu_us_per_record"`
	ClientCPUUs float64 `json:"client_cpu_us_per_record"`
	P50Ms       float64 `json:"ack_ms_p50"`
	P99Ms       float64 `json:"ack_ms_p99"`
	Records     int64   `json:"records"`
	Dry         bool    `json:"ran_dry,omitempty"` // the prepared batches did not last
}

// Cluster is a running cluster with connected hosts. Its methods are not safe
// for concurrent use.
type Cluster struct {
	cfg     Config
	dir     string
	servers []*peer
	urls    []string
	clients []*peer
	leader  int
	api     joulev1connect.SettlementServiceClient
}

// Start starts everything and makes the workload's leases. Stop ends it.
func Start(ctx context.Context, cfg Config) (_ *Cluster, err error) {
	c := &Cluster{cfg: cfg}
	if c.dir, err = os.MkdirTemp("", "joule-bench-cluster-*"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	if err := certify(c.dir); err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	if err := c.startServers(); err != nil {
		return nil, err
	}
	if c.leader, err = c.findLeader(); err != nil {
		return nil, err
	}
	if err := c.servers[c.leader].call("seed", cfg.Spec, nil); err != nil {
		return nil, err
	}
	return c, c.startClients()
}

func (c *Cluster) startServers() error {
	var addrs []string
	for range 2 * c.cfg.Servers {
		addr, err := loopback.Reserve()
		if err != nil {
			return err
		}
		addrs = append(addrs, addr)
	}
	var peers []raftstore.Peer
	for i := range c.cfg.Servers {
		peers = append(peers, raftstore.Peer{ID: fmt.Sprintf("s%d", i+1), Addr: addrs[2*i]})
	}
	for i, p := range peers {
		cfg := serverConfig{Name: p.ID, Dir: filepath.Join(c.dir, p.ID), TLSDir: c.dir, Listen: addrs[2*i+1], Peers: peers, Profiles: c.cfg.Profiles}
		s, err := spawn(p.ID, c.cfg.Program, "server", cfg)
		if err != nil {
			return err
		}
		c.servers = append(c.servers, s)
		c.urls = append(c.urls, "https://"+cfg.Listen)
	}
	return nil
}

func (c *Cluster) findLeader() (int, error) {
	at := -1
	for i, s := range c.servers {
		var leads bool
		if err := s.call("ready", nil, &leads); err != nil {
			return 0, err
		}
		if leads {
			at = i
		}
	}
	if at < 0 {
		return 0, errors.New("no server leads")
	}
	return at, nil
}

func (c *Cluster) startClients() error {
	url := c.urls[c.leader]
	for i := range c.cfg.Clients {
		p, err := spawn(fmt.Sprintf("hosts-%d", i+1), c.cfg.Program, "client",
			clientConfig{URL: url, TLSDir: c.dir, Spec: c.cfg.Spec, Share: i, Of: c.cfg.Clients})
		if err != nil {
			return err
		}
		c.clients = append(c.clients, p)
	}
	if err := c.all(c.clients, "connect", func(int) any { return nil }, nil); err != nil {
		return err
	}
	var err error
	c.api, err = client.Dial(url, filepath.Join(c.dir, caFile))
	return err
}

// all calls every peer at once.
func (c *Cluster) all(peers []*peer, op string, args func(i int) any, result func(i int) any) error {
	errs := make([]error, len(peers))
	var wg sync.WaitGroup
	for i, p := range peers {
		wg.Go(func() {
			var into any
			if result != nil {
				into = result(i)
			}
			errs[i] = p.call(op, args(i), into)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Stop ends every process and removes their files.
func (c *Cluster) Stop() error {
	var errs []error
	for _, p := range append(slices.Clone(c.clients), c.servers...) {
		errs = append(errs, p.stop())
	}
	return errors.Join(append(errs, os.RemoveAll(c.dir))...)
}

func pids(peers []*peer) (pids []int) {
	for _, p := range peers {
		pids = append(pids, p.pid())
	}
	return pids
}

// Run sends batches for a while, so many at once. expect is the rate that the
// prepared batches are to last for.
func (c *Cluster) Run(batch, inFlight int, each time.Duration, expect int) (*Load, error) {
	n := len(c.clients)
	warm := each / 2 // memory that was never touched costs more than the work itself
	need := int(float64(expect)*(each+warm).Seconds())/n + batch
	if err := c.all(c.clients, "prepare", func(int) any { return prepareArgs{Batch: batch, Records: need} }, nil); err != nil {
		return nil, err
	}
	run := func(d time.Duration) ([]clientLoad, error) {
		loads := make([]clientLoad, n)
		err := c.all(c.clients, "run", func(int) any {
			return runArgs{Ms: d.Milliseconds(), InFlight: max(1, inFlight/n)}
		}, func(i int) any { return &loads[i] })
		return loads, err
	}
	if _, err := run(warm); err != nil {
		return nil, err
	}
	if c.cfg.Profiles != "" {
		if err := c.all(c.servers, "profile", func(int) any { return fmt.Sprintf("batch%d", batch) }, nil); err != nil {
			return nil, err
		}
	}
	cpu := func() (all, leader, clients time.Duration, err error) {
		var errs [3]error
		all, errs[0] = proc.TreeCPU(pids(c.servers)...)
		leader, errs[1] = proc.TreeCPU(c.servers[c.leader].pid())
		clients, errs[2] = proc.TreeCPU(pids(c.clients)...)
		return all, leader, clients, errors.Join(errs[:]...)
	}
	a0, l0, c0, err := cpu()
	if err != nil {
		return nil, err
	}
	loads, err := run(each)
	if err != nil {
		return nil, err
	}
	a1, l1, c1, err := cpu()
	if err != nil {
		return nil, err
	}
	if c.cfg.Profiles != "" {
		if err := c.all(c.servers, "profile", func(int) any { return "" }, nil); err != nil {
			return nil, err
		}
	}
	out := &Load{Batch: batch, InFlight: inFlight}
	var ms []float64
	var bytes int64
	var elapsed float64
	for _, l := range loads {
		out.Records += l.Records
		bytes += l.Bytes
		ms = append(ms, l.Ms...)
		elapsed = max(elapsed, l.Elapsed)
		out.Dry = out.Dry || l.Ran
	}
	if out.Records == 0 {
		return nil, errors.New("nothing was acknowledged")
	}
	per := 1 / (float64(out.Records) * 1000)
	out.PerS, out.MBPerS = float64(out.Records)/elapsed, float64(bytes)/elapsed/1e6
	out.CPUUs, out.LeaderCPUUs, out.ClientCPUUs = float64(a1-a0)*per, float64(l1-l0)*per, float64(c1-c0)*per
	out.P50Ms, out.P99Ms = percentiles(ms)
	return out, nil
}

func percentiles(ms []float64) (p50, p99 float64) {
	slices.Sort(ms)
	return ms[len(ms)/2], ms[len(ms)*99/100]
}

// Commands runs small commands one after another and returns how long one
// took.
func (c *Cluster) Commands(ctx context.Context, n int) (p50, p99 float64, err error) {
	var ms []float64
	for i := range n {
		t0 := time.Now()
		_, err := c.api.Deposit(ctx, &joulev1.DepositRequest{Key: fmt.Sprintf("command-%d-%d", t0.UnixNano(), i), Customer: "customer-1",
			Currency: joulev1.Currency_CURRENCY_USD, Amount: 1, Ref: "benchmark"})
		if err != nil {
			return 0, 0, err
		}
		ms = append(ms, float64(time.Since(t0))/float64(time.Millisecond))
	}
	p50, p99 = percentiles(ms)
	return p50, p99, nil
}

// catchUpTimeout bounds how long followers may take to apply what is
// committed.
const catchUpTimeout = 2 * time.Minute

// Check compares what the hosts got acknowledged with every server's ledger,
// lease by lease, and those with the rules and with each other.
func (c *Cluster) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, catchUpTimeout)
	defer cancel()
	acked := make([]uint64, len(c.clients))
	if err := c.all(c.clients, "settled", func(int) any { return nil }, func(i int) any { return &acked[i] }); err != nil {
		return err
	}
	var want uint64
	for _, a := range acked {
		want += a
	}
	retry := time.NewTicker(100 * time.Millisecond)
	defer retry.Stop()
	for {
		have := make([]sums, len(c.servers))
		if err := c.all(c.servers, "sums", func(int) any { return c.cfg.Spec }, func(i int) any { return &have[i] }); err != nil {
			return err
		}
		lead := &have[c.leader]
		if lead.Settled != want || lead.Leases != c.cfg.Spec.Leases {
			return fmt.Errorf("the leader's ledger has %d leases with records %x, the hosts got %x acknowledged", lead.Leases, lead.Settled, want)
		}
		if !slices.ContainsFunc(have, func(s sums) bool { return !s.same(lead) }) {
			return nil
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return fmt.Errorf("servers differ: %+v", have)
		}
	}
}

// Resident is each server's resident memory in bytes.
func (c *Cluster) Resident() ([]int64, error) {
	var out []int64
	for _, s := range c.servers {
		n, err := proc.Resident(s.pid())
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}
