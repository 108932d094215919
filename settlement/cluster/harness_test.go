package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/joulecloud/joule/raftstore"
	"github.com/joulecloud/joule/settlement/cluster"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/node"
)

// limit bounds each wait of these tests.
const limit = 60 * time.Second

// box is one server in this process: mux, agent and node, without an API.
type box struct {
	id    string
	addr  string // of the mux, fixed at the first start
	dir   string
	logs  *raft.InmemStore // lets go of what is behind a snapshot at once, unlike raft-wal
	mux   *raftstore.Mux
	agent *cluster.Agent
	node  *node.Node
	fatal chan error // what Fatal and Diverged were told
	stop  context.CancelFunc
	done  chan struct{}
}

type boxes struct {
	t      *testing.T
	expect int
	all    []*box
	change func(*cluster.Config, *node.Config)
}

// newBoxes makes n servers that begin together and starts them.
func newBoxes(t *testing.T, n int, change func(*cluster.Config, *node.Config)) *boxes {
	t.Helper()
	b := &boxes{t: t, expect: n, change: change}
	for i := range n {
		b.add(fmt.Sprint("s", i+1))
	}
	for i := range n {
		b.listen(i)
	}
	done := make(chan error, n)
	for i := range n {
		go func() { done <- b.open(i, true) }()
	}
	for range n {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func (b *boxes) add(id string) int {
	b.all = append(b.all, &box{id: id, addr: "127.0.0.1:0", dir: filepath.Join(b.t.TempDir(), id), logs: raft.NewInmemStore(), fatal: make(chan error, 16)})
	i := len(b.all) - 1
	b.t.Cleanup(func() { b.close(i) })
	return i
}

func (b *boxes) log(i int) *slog.Logger {
	if !testing.Verbose() {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(b.t.Output(), nil)).With("on", b.all[i].id)
}

// listen opens the port; until then the others find nobody.
func (b *boxes) listen(i int) {
	b.t.Helper()
	x := b.all[i]
	var err error
	if x.mux, err = raftstore.ListenMux(x.addr, "", nil); err != nil {
		b.t.Fatal(err)
	}
	x.addr = x.mux.Addr()
}

// open starts a server whose port is open. first: with the others, as a server
// without state that begins a cluster.
func (b *boxes) open(i int, first bool) error {
	x := b.all[i]
	cc := cluster.Default()
	cc.ID, cc.Name, cc.API, cc.Version = x.id, x.id, "http://"+x.id, "test"
	cc.Interval, cc.PromoteAfter = 50*time.Millisecond, 100*time.Millisecond
	cc.MembersFile = filepath.Join(x.dir+"-members", "..", x.id+".members")
	cc.BootstrapExpect = b.expect
	for _, o := range b.all {
		if o.mux != nil {
			cc.RetryJoin = append(cc.RetryJoin, o.addr)
		}
	}
	cc.Fatal = func(err error) { x.fatal <- err }
	cc.Diverged = func(err error) { x.fatal <- fmt.Errorf("diverged: %w", err) }
	rc := raftstore.Default()
	rc.ID, rc.Mux, rc.LogStore, rc.Fatal = x.id, x.mux, x.logs, cc.Fatal
	rc.HeartbeatTimeout, rc.ElectionTimeout, rc.LeaderLeaseTimeout = 500*time.Millisecond, 500*time.Millisecond, 300*time.Millisecond
	rc.CommitTimeout, rc.TrailingLogs = 10*time.Millisecond, 1
	nc := node.Config{Raft: rc, DataDir: x.dir}
	if b.change != nil {
		b.change(&cc, &nc)
	}
	x.agent = cluster.Start(cc, x.mux, b.log(i))
	nc.Peers = x.agent
	had := !first
	if first {
		ctx, cancel := context.WithTimeout(b.t.Context(), limit)
		defer cancel()
		peers, err := x.agent.Discover(ctx)
		if err != nil {
			return err
		}
		if nc.Raft.Bootstrap = peers; len(peers) == 0 {
			if err := node.FetchJournal(ctx, x.dir, x.agent, b.log(i)); err != nil {
				return err
			}
		}
	}
	var err error
	if x.node, err = node.Open(nc, b.log(i)); err != nil {
		return err
	}
	x.agent.Attach(x.node)
	ctx, stop := context.WithCancel(context.Background())
	x.stop, x.done = stop, make(chan struct{})
	join := len(nc.Raft.Bootstrap) == 0 && x.agent.MustJoin(had)
	go func() {
		defer close(x.done)
		if join {
			_ = x.agent.Join(ctx, x.node)
		}
		x.agent.Run(ctx)
	}()
	return nil
}

func (b *boxes) start(i int, first bool) {
	b.t.Helper()
	b.listen(i)
	if err := b.open(i, first); err != nil {
		b.t.Fatalf("open %s: %v", b.all[i].id, err)
	}
}

func (b *boxes) close(i int) {
	x := b.all[i]
	if x.stop != nil {
		x.stop()
		<-x.done
		x.stop = nil
	}
	if x.node != nil {
		if err := x.node.Close(); err != nil {
			b.t.Errorf("close %s: %v", x.id, err)
		}
		x.node = nil
	}
	if x.agent != nil {
		x.agent.Close()
		x.agent = nil
	}
	if x.mux != nil {
		x.mux.Close()
		x.mux = nil
	}
}

func (b *boxes) eventually(what string, try func() error) {
	b.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); ; <-tick.C {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("%s: %v", what, err)
		}
	}
}

func (b *boxes) leader() int {
	b.t.Helper()
	leads := -1
	b.eventually("find a leader", func() error {
		for i, x := range b.all {
			if x.node != nil && x.node.Store().VerifyRead(b.t.Context()) == nil {
				leads = i
				return nil
			}
		}
		return errors.New("none leads")
	})
	return leads
}

// put creates a supplier through a server.
func (b *boxes) put(i int, name string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), limit)
	defer cancel()
	b.eventually("create "+name, func() error {
		res, err := b.all[i].node.Submit(ctx, ledger.Envelope{Key: "k-" + name, Command: &ledger.CreateSupplier{Name: name}})
		if err != nil {
			return err
		}
		return res.Err()
	})
}

// has checks a read of a server.
func (b *boxes) has(i int, name string) error {
	ctx, cancel := context.WithTimeout(b.t.Context(), limit)
	defer cancel()
	return b.all[i].node.Read(ctx, func(l *ledger.Ledger) error {
		if _, ok := l.Supplier(name); !ok {
			return fmt.Errorf("server %s does not have supplier %s", b.all[i].id, name)
		}
		return nil
	})
}

func (b *boxes) mustHave(i int, name string) {
	b.t.Helper()
	if err := b.has(i, name); err != nil {
		b.t.Error(err)
	}
}

// same waits until all running servers are at one block with one digest.
func (b *boxes) same() {
	b.t.Helper()
	b.eventually("reach one block", func() error {
		var block uint64
		var digest ledger.Digest
		first := true
		for _, x := range b.all {
			if x.node == nil {
				continue
			}
			n, d := x.node.Position()
			if first {
				block, digest, first = n, d, false
			}
			if n != block || d != digest {
				return fmt.Errorf("%s is at block %d with %x, another at %d with %x", x.id, n, d[:4], block, digest[:4])
			}
		}
		return nil
	})
}

func (b *boxes) peer(i int, id string) cluster.Peer {
	for _, p := range b.all[i].agent.Peers() {
		if p.ID == id {
			return p
		}
	}
	return cluster.Peer{}
}

// told waits for what a server's Fatal or Diverged is told.
func (b *boxes) told(i int) error {
	b.t.Helper()
	select {
	case err := <-b.all[i].fatal:
		return err
	case <-time.After(limit):
		b.t.Fatalf("%s goes on", b.all[i].id)
		return nil
	}
}

func (b *boxes) quiet(except int) {
	b.t.Helper()
	for i, x := range b.all {
		if i == except {
			continue
		}
		select {
		case err := <-x.fatal:
			b.t.Errorf("%s was stopped: %v", x.id, err)
		default:
		}
	}
}
