package sim

import (
	"bytes"
	"context"
	"encoding/binary"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/joulecloud/joule/raftstore/faultfs"
)

// torment breaks things until ctx ends, then mends everything.
func (c *cluster) torment(ctx context.Context) {
	for c.pause(ctx, 200*time.Millisecond, 4*time.Second) {
		switch c.rng.n(13) {
		case 0, 1:
			c.partition()
		case 2, 3:
			c.net.heal()
		case 4:
			c.count("bad weather")
			c.net.setWeather(weather{drop: float64(c.rng.n(30)) / 100, repeat: float64(c.rng.n(30)) / 100,
				delay: c.rng.between(time.Millisecond, 700*time.Millisecond), late: 10 * time.Second})
		case 5, 6:
			s := c.servers[c.rng.n(len(c.servers))]
			c.count("crashes")
			s.crash(faultfs.Kept(c.rng.n(3)))
			if c.pause(ctx, 0, 8*time.Second) {
				s.bringUp()
			}
		case 7:
			c.count("crashes of all")
			for _, s := range c.servers {
				s.crash(faultfs.Kept(c.rng.n(3)))
			}
			c.bringUpAll(2 * time.Second)
		case 8, 9:
			c.breakDisk(c.servers[c.rng.n(len(c.servers))])
		case 10:
			if n, _ := c.servers[c.rng.n(len(c.servers))].live(); n != nil {
				c.count("snapshots")
				sctx, cancel := context.WithTimeout(ctx, 2*time.Second)
				n.Store().TakeSnapshot(sctx)
				cancel()
			}
		case 11:
			c.flip()
		case 12:
			if !c.steady {
				c.stepClock()
			}
		}
	}
	c.mend()
}

// mend ends every fault and brings every server up.
func (c *cluster) mend() {
	c.net.heal()
	for _, s := range c.servers {
		s.mu.Lock()
		disk := s.disk
		s.unflip()
		s.mu.Unlock()
		disk.SetFault(nil)
	}
	c.bringUpAll(0)
}

// bringUpAll starts every server, each within a while. One that needs another's
// journal may need the others to run first.
func (c *cluster) bringUpAll(within time.Duration) {
	var all sync.WaitGroup
	for _, s := range c.servers {
		late := c.rng.between(0, within)
		all.Go(func() {
			time.Sleep(late)
			s.bringUp()
		})
	}
	all.Wait()
}

// pause waits for a while; false: ctx ended.
func (c *cluster) pause(ctx context.Context, low, high time.Duration) bool {
	t := time.NewTimer(c.rng.between(low, high))
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// supervise starts servers again that ended by themselves.
func (c *cluster) supervise(ctx context.Context) {
	for {
		select {
		case s := <-c.failed:
			time.Sleep(c.rng.between(0, 3*time.Second))
			s.bringUp()
		case <-ctx.Done():
			return
		}
	}
}

// stepClock sets a server's clock: to the time, or up to an hour off it.
func (c *cluster) stepClock() {
	s := c.servers[c.rng.n(len(c.servers))]
	skew := []time.Duration{0, time.Second, time.Minute, time.Hour}[c.rng.n(4)]
	if c.rng.n(2) == 0 {
		skew = -skew
	}
	s.skew.Store(int64(skew))
	c.count("clocks set")
}

// partition cuts one link one way, or one server off one way or both.
func (c *cluster) partition() {
	a := c.servers[c.rng.n(len(c.servers))]
	kind := c.rng.n(4)
	for i, b := range c.servers {
		from, to := raft.ServerAddress(a.id), raft.ServerAddress(b.id)
		if a == b || kind == 3 && i != c.rng.n(len(c.servers)) {
			continue
		}
		if kind != 1 {
			c.net.setCut(from, to)
		}
		if kind == 1 || kind == 2 {
			c.net.setCut(to, from)
		}
	}
	c.count("partitions")
}

// breakDisk makes one of a server's next writes or fsyncs fail, or its power go
// at one.
func (c *cluster) breakDisk(s *server) {
	s.mu.Lock()
	disk := s.disk
	s.mu.Unlock()
	left := c.rng.n(40)
	err := []error{faultfs.ErrIO, faultfs.ErrFull, faultfs.ErrPower}[c.rng.n(3)]
	kind := []string{"sync", "write", ""}[c.rng.n(3)]
	c.count("disk faults set")
	disk.SetFault(func(op faultfs.Op) error {
		if !strings.HasPrefix(op.Kind, kind) {
			return nil
		}
		if left--; left == 0 {
			return err
		}
		return nil
	})
}

// flip changes a bit of a server's log or journal while it is down. The change
// must be found when the server starts or when the bit is read, or mean
// nothing; once found, the old bit comes back.
func (c *cluster) flip() {
	s := c.servers[c.rng.n(len(c.servers))]
	n, _ := s.live()
	if n == nil {
		return
	}
	s.crash(faultfs.KeptAll)
	s.mu.Lock()
	// Only a server that has written since it started knows how far its log
	// had got (raftstore's mark is not synced).
	if s.flipped == nil && s.markIsExact(n.Store().Stats().LastIndex) {
		paths := append(s.disk.Paths(logDir), s.disk.Paths(journalDir)...)
		path := paths[c.rng.n(len(paths))]
		if used := len(bytes.TrimRight(s.disk.Content(path), "\x00")); used > 0 {
			f := &flipped{path: path, bit: int64(c.rng.n(used * 8))}
			s.disk.Flip(path, f.bit)
			f.around = f.surroundings(s.disk)
			s.flipped = f
			s.hurt = s.hurt || strings.HasPrefix(path, journalDir)
			c.count("flipped bits")
		}
	}
	s.mu.Unlock()
	s.bringUp()
}

type flipped struct {
	path   string
	bit    int64
	around []byte
}

// surroundings tell whether the place was written anew meanwhile.
func (f *flipped) surroundings(d *faultfs.Disk) []byte {
	b := d.Content(f.path)
	return b[min(int64(len(b)), max(0, f.bit/8-100)):min(int64(len(b)), f.bit/8+100)]
}

// unflip puts the old bit back; s.mu is held.
func (s *server) unflip() {
	if s.flipped != nil && bytes.Equal(s.flipped.around, s.flipped.surroundings(s.disk)) {
		s.disk.Flip(s.flipped.path, s.flipped.bit)
	}
	s.flipped = nil
}

func (s *server) markIsExact(last uint64) bool {
	b := s.disk.Content(markPath)
	return len(b) >= 8 && binary.LittleEndian.Uint64(b) == last
}
