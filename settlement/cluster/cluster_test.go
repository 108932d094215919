package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/joulecloud/joule/settlement/audit"
	"github.com/joulecloud/joule/settlement/backup"
	"github.com/joulecloud/joule/settlement/cluster"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/node"
)

// Five servers begin together; whatever was acknowledged on any of them is
// read on any of them, through the loss of two.
func TestFiveServers(t *testing.T) {
	t.Parallel()
	b := newBoxes(t, 5, nil)
	for i := range 5 {
		b.put(i, fmt.Sprint("a", i))
	}
	for i := range 5 {
		for j := range 5 {
			b.mustHave(i, fmt.Sprint("a", j))
		}
	}
	leader := b.leader()
	b.close(leader)
	b.close((leader + 1) % 5)
	b.put((leader+2)%5, "later")
	b.mustHave((leader+3)%5, "later")
	b.start(leader, false)
	b.mustHave(leader, "later")
	b.same()
	b.quiet(-1)
}

// No acknowledged command is lost, and none happens twice, while writers use
// every server and the servers are restarted one by one.
func TestRollingRestartUnderWrites(t *testing.T) {
	t.Parallel()
	b := newBoxes(t, 3, nil)
	b.leader()
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.RWMutex // held to use the nodes; for writing to change them
	var acked [3][]string
	var writers sync.WaitGroup
	for w := range 3 {
		writers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				name := fmt.Sprintf("w%d-%d", w, n)
				for ctx.Err() == nil {
					mu.RLock()
					x := b.all[(w+n)%3].node
					var err error = errors.New("restarting")
					var res ledger.Result
					if x != nil {
						callCtx, stop := context.WithTimeout(ctx, 10*time.Second)
						res, err = x.Submit(callCtx, ledger.Envelope{Key: name, Command: &ledger.CreateSupplier{Name: name}})
						stop()
					}
					mu.RUnlock()
					if err != nil {
						select {
						case <-ctx.Done():
						case <-time.After(5 * time.Millisecond):
						}
						continue
					}
					if res.Code != ledger.CodeOK {
						t.Errorf("create %s with its own key: got %+v", name, res)
					}
					acked[w] = append(acked[w], name)
					break
				}
			}
		})
	}
	for i := range 3 {
		mu.Lock()
		b.close(i)
		mu.Unlock()
		mu.Lock()
		b.start(i, false)
		mu.Unlock()
		b.eventually("catch up", func() error { return b.has(i, "w0-0") })
	}
	cancel()
	writers.Wait()
	b.same()
	total := 0
	for i := range 3 {
		for _, names := range acked {
			total += len(names)
			for _, name := range names {
				b.mustHave(i, name)
			}
		}
	}
	if total < 30 {
		t.Errorf("only %d commands were acknowledged: too few to show anything", total)
	}
	b.quiet(-1)
}

// A server that joins late, when the log begins behind a snapshot, gets the
// state from the snapshot and the history from another server's journal, and
// then a vote.
func TestLateJoinWithHistory(t *testing.T) {
	t.Parallel()
	b := newBoxes(t, 3, nil)
	for i := range 40 {
		b.put(i%3, fmt.Sprint("early-", i))
	}
	b.same()
	for _, x := range b.all {
		if err := x.node.Store().TakeSnapshot(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	b.put(0, "behind-it")
	if first, err := b.all[b.leader()].logs.FirstIndex(); err != nil || first < 30 {
		t.Fatalf("the leader's log begins at %d, %v: the test shows nothing", first, err)
	}
	late := b.add("s4")
	b.start(late, true)
	b.eventually("read on the late server", func() error { return b.has(late, "behind-it") })
	b.mustHave(late, "early-0")
	leader := b.leader()
	b.eventually("get a vote", func() error {
		if p := b.peer(leader, "s4"); !p.Voter || !p.Healthy {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	b.same()
	// Its history is whole and re-derives.
	block, digest := b.all[late].node.Position()
	b.close(late)
	r, err := audit.Run(t.Context(), filepath.Join(b.all[late].dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Findings) > 0 || r.Blocks != block || r.Digest != digest {
		t.Errorf("audit of the late server's journal: %d blocks, digest %x, findings %v; want %d, %x", r.Blocks, r.Digest, r.Findings, block, digest)
	}
	b.quiet(-1)
}

// A member whose log ends far behind the others' snapshots gets state and
// history the same way.
func TestLaggardGetsTheMissingBlocks(t *testing.T) {
	t.Parallel()
	b := newBoxes(t, 3, nil)
	b.put(0, "start")
	b.same()
	lag := (b.leader() + 1) % 3
	b.close(lag)
	for i := range 20 {
		b.put((lag+1)%3, fmt.Sprint("missed-", i))
	}
	for i, x := range b.all {
		if i != lag {
			if err := x.node.Store().TakeSnapshot(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.put((lag+2)%3, "after")
	b.start(lag, false)
	b.eventually("read on the laggard", func() error { return b.has(lag, "after") })
	b.same()
	if last, _ := b.all[lag].node.Journal().Last(); last < 22 {
		t.Errorf("the laggard's journal ends at block %d, want all 22", last)
	}
	// It restarts on what it has.
	b.close(lag)
	b.start(lag, false)
	b.eventually("read after a restart", func() error { return b.has(lag, "missed-19") })
	b.quiet(-1)
}

// An operator removes a dead server; it stops when it comes back, and a new one
// at its address takes its place.
func TestRemovedServer(t *testing.T) {
	t.Parallel()
	b := newBoxes(t, 3, nil)
	b.put(0, "a")
	leader := b.leader()
	dead, other := (leader+1)%3, (leader+2)%3
	b.close(dead)
	for _, on := range []int{leader, other} {
		if _, _, err := b.all[on].agent.Remove(t.Context(), "nobody", false); !errors.Is(err, cluster.ErrNoSuchPeer) {
			t.Errorf("on %s: got %v, want %v", b.all[on].id, err, cluster.ErrNoSuchPeer)
		}
	}
	b.eventually("see the dead server as dead", func() error {
		if p := b.peer(leader, b.all[dead].id); p.Healthy || p.State != "unreachable" || p.Problem == "" {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	// Without the other one there would be no majority.
	for _, on := range []int{leader, other} {
		if _, _, err := b.all[on].agent.Remove(t.Context(), b.all[other].id, false); !errors.Is(err, cluster.ErrQuorum) {
			t.Errorf("on %s: got %v, want %v", b.all[on].id, err, cluster.ErrQuorum)
		}
	}
	// The follower hands it to the leader.
	if p, voters, err := b.all[other].agent.Remove(t.Context(), b.all[dead].id, false); err != nil || voters != 2 || p.ID != b.all[dead].id {
		t.Fatalf("got %+v, %d, %v", p, voters, err)
	}
	b.put(other, "b")
	b.start(dead, false)
	if err := b.told(dead); !strings.Contains(err.Error(), "removed from the cluster") {
		t.Errorf("got %v", err)
	}
	b.close(dead)
	fresh := b.add("s4")
	b.all[fresh].addr = b.all[dead].addr
	b.start(fresh, true)
	b.eventually("read on the new server", func() error { return b.has(fresh, "b") })
	b.quiet(dead)
}

// The leader removes a server that is dead for long, once there are enough
// others, and no sooner.
func TestDeadServerIsRemoved(t *testing.T) {
	t.Parallel()
	b := newBoxes(t, 3, func(c *cluster.Config, _ *node.Config) { c.RemoveDeadAfter = 300 * time.Millisecond })
	b.put(0, "a")
	dead := (b.leader() + 1) % 3
	b.close(dead)
	late := b.add("s4")
	b.start(late, true)
	b.eventually("read on the new server", func() error { return b.has(late, "a") })
	b.eventually("lose the dead server", func() error {
		for _, p := range b.all[b.leader()].agent.Peers() {
			if p.ID == b.all[dead].id {
				return fmt.Errorf("%s is still there", p.ID)
			}
		}
		return nil
	})
	leader := b.leader()
	if got := len(b.all[leader].agent.Peers()); got != 3 {
		t.Errorf("servers left: got %d, want 3", got)
	}
	// Two of three is too few to lose another from the list.
	next := (leader + 1) % 4
	for next == dead || next == leader {
		next = (next + 1) % 4
	}
	b.close(next)
	b.eventually("see it as dead", func() error {
		if p := b.peer(leader, b.all[next].id); p.ID == "" || p.Healthy {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	b.put(leader, "b")
	if b.peer(leader, b.all[next].id).ID == "" {
		t.Error("a server was removed though only two healthy ones were left")
	}
}

// A server moves to another address and says so itself.
func TestServerMoves(t *testing.T) {
	t.Parallel()
	b := newBoxes(t, 3, nil)
	b.put(0, "a")
	mover := (b.leader() + 1) % 3
	b.close(mover)
	b.all[mover].addr = "127.0.0.1:0"
	b.start(mover, false)
	b.put((mover+1)%3, "b")
	b.eventually("read on the server that moved", func() error { return b.has(mover, "b") })
	leader := b.leader()
	b.eventually("know its address", func() error {
		if p := b.peer(leader, b.all[mover].id); p.Address != b.all[mover].addr || !p.Healthy || !p.Voter {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	b.quiet(-1)
}

// Servers that don't agree on how many they are don't begin.
func TestNoAgreementNoCluster(t *testing.T) {
	t.Parallel()
	b := &boxes{t: t, expect: 3}
	b.change = func(c *cluster.Config, _ *node.Config) {
		if c.ID == "s3" {
			c.BootstrapExpect = 2
		}
	}
	for _, id := range []string{"s1", "s2", "s3"} {
		b.listen(b.add(id))
	}
	errs := make(chan error, 3)
	for i := range 3 {
		x := b.all[i]
		cc := cluster.Default()
		cc.ID, cc.Name, cc.Interval, cc.BootstrapExpect = x.id, x.id, 10*time.Millisecond, 3
		for _, o := range b.all {
			cc.RetryJoin = append(cc.RetryJoin, o.addr)
		}
		b.change(&cc, nil)
		x.agent = cluster.Start(cc, x.mux, b.log(i))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for _, x := range b.all {
		go func() {
			_, err := x.agent.Discover(ctx)
			errs <- err
		}()
	}
	for range 3 {
		if err := <-errs; err == nil {
			t.Error("a server began")
		} else if !strings.Contains(err.Error(), "bootstrap_expect is") {
			t.Errorf("got %v, want the values of bootstrap_expect", err)
		}
	}
}

// A backup of one cluster, with its whole history, becomes the state of
// another, on every server of it.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	from := newBoxes(t, 3, nil)
	for i := range 20 {
		from.put(i%3, fmt.Sprint("kept-", i))
	}
	var file bytes.Buffer
	if err := from.all[1].node.Backup(t.Context(), &file, backup.Meta{Server: "s2"}); err != nil {
		t.Fatal(err)
	}
	meta, err := backup.Verify(bytes.NewReader(file.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if meta.Block < 20 || meta.Server != "s2" || meta.Accounts == 0 {
		t.Errorf("got %+v", meta)
	}
	path := filepath.Join(t.TempDir(), "backup")
	if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := from.all[from.leader()].node.RestoreBackup(t.Context(), path); !errors.Is(err, node.ErrHistory) {
		t.Errorf("restore into a cluster with history: got %v, want %v", err, node.ErrHistory)
	}
	from.put(0, "goes-on")

	// With short leases a busy machine lets the leader lose its place half-way.
	to := newBoxes(t, 3, func(_ *cluster.Config, n *node.Config) {
		n.Raft.HeartbeatTimeout, n.Raft.ElectionTimeout, n.Raft.LeaderLeaseTimeout = 0, 0, 0
	})
	// A follower hands it to the leader.
	if _, err := to.all[(to.leader()+1)%3].agent.Restore(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	if _, err := to.all[(to.leader()+1)%3].agent.Restore(t.Context(), path); !errors.Is(err, node.ErrHistory) {
		t.Errorf("restore again: got %v, want %v", err, node.ErrHistory)
	}
	for i := range 3 {
		to.eventually("read what was restored", func() error { return to.has(i, "kept-19") })
		to.put(i, fmt.Sprint("new-", i))
	}
	to.same()
	// All of them restart on it, and its history is whole.
	for i := range 3 {
		to.close(i)
	}
	for i := range 3 {
		to.start(i, false)
	}
	for i := range 3 {
		to.eventually("read after a restart", func() error { return errors.Join(to.has(i, "kept-0"), to.has(i, "new-2")) })
	}
	to.close(0)
	r, err := audit.Run(t.Context(), filepath.Join(to.all[0].dir, "journal"))
	if err != nil || len(r.Findings) > 0 {
		t.Errorf("audit of the restored history: %v, %v", err, r)
	}
	to.quiet(-1)
}
