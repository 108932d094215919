package sim

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/joulecloud/joule/raftstore"
	"github.com/joulecloud/joule/raftstore/faultfs"
	"github.com/joulecloud/joule/settlement/journal"
	"github.com/joulecloud/joule/settlement/node"
)

// cluster is some servers in one bubble.
type cluster struct {
	tb      testing.TB
	rng     *dice
	net     *network
	log     *slog.Logger
	dir     string
	peers   []raftstore.Peer
	servers []*server
	failed  chan *server // one whose process ended by itself
	steady  bool         // no clock is ever set
	closing sync.WaitGroup

	mu     sync.Mutex
	counts map[string]int // what happened, for the report
}

// dice is a seeded source for several goroutines.
type dice struct {
	mu sync.Mutex
	r  *rand.Rand
}

func (d *dice) n(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.IntN(n)
}

func (d *dice) between(low, high time.Duration) time.Duration {
	return low + time.Duration(d.n(int(high-low)+1))
}

func newCluster(tb testing.TB, seed uint64, servers int, log *slog.Logger) *cluster {
	c := &cluster{tb: tb, rng: &dice{r: rand.New(rand.NewPCG(seed, 1))}, net: newNetwork(rand.New(rand.NewPCG(seed, 2))), log: log,
		dir: tb.TempDir(), failed: make(chan *server, 64), counts: map[string]int{}}
	for i := range servers {
		id := fmt.Sprint("s", i+1)
		c.peers = append(c.peers, raftstore.Peer{ID: id, Addr: id})
		s := &server{c: c, id: id, disk: faultfs.New(), starting: make(chan struct{}, 1)}
		s.disk.StrictNames = true
		s.meta = faultfs.NewMeta(s.disk)
		c.servers = append(c.servers, s)
	}
	return c
}

func (c *cluster) count(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[what]++
}

// server is one machine, up or down.
type server struct {
	c  *cluster
	id string

	// starting is held by whoever brings the server up. It is a channel, since
	// virtual time stands still while anybody waits for a mutex.
	starting chan struct{}

	mu       sync.Mutex
	disk     *faultfs.Disk
	meta     *faultfs.Meta
	node     *node.Node // nil: down
	end      *endpoint
	life     int      // counts starts and crashes
	flipped  *flipped // a bit that is not as it was written
	refusals []error  // of the last starts
	behind   bool     // its journal ends before its snapshot
	hurt     bool     // a bit of its journal was flipped once
	ran      bool     // its last start went well

	skew atomic.Int64 // ns that its clock is ahead
}

// live returns the running node and which life it is in.
func (s *server) live() (*node.Node, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node, s.life
}

// start brings a server up from its disk. It reports whether it runs.
func (s *server) start() bool {
	s.mu.Lock()
	if s.node != nil {
		s.mu.Unlock()
		return true
	}
	s.life++
	life, disk := s.life, s.disk
	if s.ran {
		s.ran = false
		s.c.net.newLife(raft.ServerAddress(s.id))
	}
	s.end = s.c.net.attach(raft.ServerAddress(s.id))
	mark, err := openMark(disk)
	if err != nil { // broken, as everything is then
		s.down(faultfs.KeptSome)
		s.mu.Unlock()
		return false
	}
	rc := raftstore.Default()
	rc.ID, rc.Transport, rc.Snapshots = s.id, s.end, snapshots{disk}
	rc.LogDisk = &raftstore.LogDisk{VFS: logVFS{disk.VFS()}, Meta: s.meta, Mark: mark, SegmentBytes: 64 << 10}
	rc.Bootstrap = s.c.peers
	rc.SnapshotInterval, rc.SnapshotThreshold, rc.TrailingLogs = 10*time.Second, 60, 30
	// The process ends at a fatal error: so does the goroutine that met it, and
	// soon everything else.
	rc.Fatal = func(err error) {
		s.died(life, err)
		runtime.Goexit()
	}
	cfg := node.Config{Raft: rc, DataDir: filepath.Join(s.c.dir, fmt.Sprintf("%s-%d", s.id, life)), JournalFS: journalFS{disk},
		WallClock:   func() time.Time { return time.Now().Add(time.Duration(s.skew.Load())) },
		VerifyAfter: -1} // the simulation looks for flipped bits itself
	s.mu.Unlock()

	var n *node.Node
	err = errGone
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		n, err = node.Open(cfg, s.c.log.With("life", life))
	}()
	<-opened
	if err != nil {
		s.crash(faultfs.KeptSome)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.refusals = append(s.refusals[max(0, len(s.refusals)-2):], err)
		switch {
		case broken(err) || errors.Is(err, errGone):
		case s.flipped != nil && damaged(err):
			s.c.count("flips found")
			s.unflip()
		case journalBehind(err):
			s.fellBehind(err)
		default:
			s.c.tb.Errorf("%s: start: %v\n%s", s.id, err, s.describe())
		}
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life != life { // crashed meanwhile
		s.c.reap(n)
		return false
	}
	s.node = n
	s.ran = true
	return true
}

var errGone = errors.New("the process ended while it started")

// broken reports whether an error is one of those that were injected.
func broken(err error) bool {
	return errors.Is(err, faultfs.ErrIO) || errors.Is(err, faultfs.ErrFull) || errors.Is(err, faultfs.ErrPower)
}

// describe says what is on a server's disk; s.mu is held.
func (s *server) describe() string {
	out := fmt.Sprintf("on disk: %+v\n", s.meta)
	metas, _ := snapshots{s.disk}.List()
	for _, m := range metas {
		out += fmt.Sprintf("snapshot to %d\n", m.Index)
	}
	for _, dir := range []string{logDir, journalDir, snapDir} {
		out += fmt.Sprintln(s.disk.Paths(dir))
	}
	return out
}

// damaged reports whether an error says that the disk changed something.
func damaged(err error) bool {
	var corrupt *journal.CorruptError
	return errors.Is(err, raftstore.ErrDamaged) || errors.As(err, &corrupt)
}

// journalBehind reports whether a server got a snapshot of what its journal
// doesn't have.
func journalBehind(err error) bool {
	return strings.Contains(err.Error(), "copy the journal directory")
}

// fellBehind takes note of a snapshot of what the server's journal doesn't have.
// It may have got that from another server, but can't have made it, unless a
// flipped bit was taken for the journal's torn end.
func (s *server) fellBehind(err error) {
	s.c.count("journals behind a snapshot")
	s.behind = true
	if !s.hurt && !s.c.net.wasGiven(raft.ServerAddress(s.id)) {
		s.c.tb.Errorf("%s: its own snapshot has more than its journal: %v\n%s", s.id, err, s.describe())
	}
}

// died takes note of a process that ended by a fatal error.
func (s *server) died(life int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life != life {
		return // it was dead already
	}
	switch {
	case broken(err):
		s.c.count("fatal disk faults")
	case s.flipped != nil && damaged(err):
		s.c.count("flips found")
	case journalBehind(err):
		s.fellBehind(err)
	default:
		s.c.tb.Errorf("%s: fatal: %v", s.id, err)
	}
	found := damaged(err)
	s.down(faultfs.KeptSome)
	if found {
		s.unflip()
	}
	select {
	case s.c.failed <- s:
	default:
	}
}

// crash ends a server's process, or its power, at this instant.
func (s *server) crash(kept faultfs.Kept) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down(kept)
}

func (s *server) down(kept faultfs.Kept) {
	s.life++
	if s.end != nil {
		s.end.Close()
	}
	s.c.rng.mu.Lock()
	next := s.disk.Restart(s.c.rng.r, kept)
	s.c.rng.mu.Unlock()
	s.meta = s.meta.On(next)
	s.disk = next
	if s.node != nil {
		s.c.reap(s.node)
		s.node = nil
	}
}

// reap waits for what is left of a dead process.
func (c *cluster) reap(n *node.Node) {
	c.closing.Go(func() { n.Close() })
}

// bringUp starts a server until it runs, and does an operator's part: a server
// whose journal is behind its snapshot gets another's.
func (s *server) bringUp() {
	s.starting <- struct{}{}
	defer func() { <-s.starting }()
	for range 20 {
		s.mu.Lock()
		behind := s.behind && s.node == nil
		s.behind = false
		s.mu.Unlock()
		if behind {
			s.copyJournal()
		}
		if s.start() {
			return
		}
		time.Sleep(time.Second)
	}
	s.c.tb.Errorf("%s: can't be brought up: %v", s.id, s.refusals)
}

// copyJournal puts the longest other journal in place of a server's own.
func (s *server) copyJournal() {
	var best map[string][]byte
	size, hurt := 0, false
	for _, other := range s.c.servers {
		if other == s {
			continue
		}
		files, n := map[string][]byte{}, 0
		other.mu.Lock()
		for _, path := range other.disk.Paths(journalDir) {
			if strings.HasSuffix(path, ".jl") {
				files[path] = other.disk.Content(path)
				n += len(files[path])
			}
		}
		otherHurt := other.hurt || other.flipped != nil
		other.mu.Unlock()
		if n > size {
			best, size, hurt = files, n, otherHurt
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hurt = hurt // a flipped bit came along
	for path, b := range best {
		s.disk.SetContent(path, b)
	}
}
