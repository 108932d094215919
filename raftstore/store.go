package raftstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Store is one server's part in the cluster. All methods are safe for
// concurrent use.
type Store struct {
	cfg   Config
	alone bool // opened with the timeouts of a lone server
	log   *slog.Logger

	fsm      *fsm
	logs     *failStop
	failure  *failure
	raft     *raft.Raft
	trans    Transport
	net      *raft.NetworkTransport // trans without its wrapping; nil: an injected one
	addr     string                 // of trans
	shutdown func() raft.Future     // once

	lock     *os.File
	wal      io.Closer // nil: an injected log store
	markFile io.Closer // nil: an injected one

	leadership leadership

	inflight inflight      // goroutines that wait for the library
	down     chan struct{} // closed when nothing more is answered
	downOnce sync.Once
	closing  chan struct{} // closed when Close begins
	close    func() error  // once

	readSlot chan struct{} // one barrier at a time
	readTerm atomic.Uint64 // the Raft term in which a barrier was applied here
}

// Open starts this server: it restores the newest snapshot into sm, takes up
// the log in cfg.Dir and joins the cluster; entries behind the snapshot are
// applied once a leader is known. It returns every fault of cfg at once,
// ErrLocked when another process has the directory, and an error when a
// snapshot or the log can't be read.
func Open(cfg Config, sm StateMachine, log *slog.Logger) (*Store, error) {
	return open(cfg, sm, log, func(t Transport) Transport { return safeTransport{t} })
}

func open(cfg Config, sm StateMachine, log *slog.Logger, wrap func(Transport) Transport) (_ *Store, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Store{
		log:      log.With("server", cfg.ID),
		failure:  newFailure(cfg.Fatal),
		down:     make(chan struct{}),
		closing:  make(chan struct{}),
		readSlot: make(chan struct{}, 1),
	}
	s.cfg, s.alone = cfg.withTimeouts()
	s.fsm = newFSM(sm, s.failure.fail)
	s.inflight.init()
	defer func() {
		if err != nil {
			err = errors.Join(err, s.release())
		}
	}()

	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create raft directory: %w", err)
	}
	if s.lock, err = lockDir(cfg.Dir); err != nil {
		return nil, err
	}
	store, err := s.openLog()
	if err != nil {
		return nil, err
	}
	snaps, err := s.openSnapshots()
	if err != nil {
		return nil, err
	}
	if summed, ok := snaps.(*summedSnapshots); ok {
		defer func() {
			if err != nil && summed.damage != nil { // what is left may not do
				err = fmt.Errorf("%w: %w", err, summed.damage)
			}
		}()
	}
	inner, err := s.openTransport()
	if err != nil {
		return nil, err
	}
	s.trans = wrap(inner)
	s.addr = string(s.trans.LocalAddr())

	rc := s.cfg.raftConfig()
	rc.Logger = newHCLogger(s.log, "raft")
	if err := s.bootstrap(rc, store, snaps); err != nil {
		return nil, err
	}
	s.logs = store
	if err := dropCoveredLog(store, snaps); err != nil {
		return nil, err
	}
	if snaps, err = newCoveringSnapshots(reachingSnapshots{snaps, store}, &store.covered); err != nil {
		return nil, err
	}
	s.fsm.restored = store.covered.restored
	cache, err := raft.NewLogCache(s.cfg.LogCacheEntries, store)
	if err != nil {
		return nil, err
	}
	if s.raft, err = newRaft(rc, s.fsm, cache, store, snaps, s.trans); err != nil {
		if s.fsm.refused != nil { // the library only says that there is no good snapshot
			err = fmt.Errorf("%w: %w", err, s.fsm.refused)
		}
		return nil, err
	}
	s.shutdown = sync.OnceValue(s.raft.Shutdown)
	s.close = sync.OnceValue(s.closeNow)
	s.leadership.watch(s.raft)
	go s.stopOnFailure()

	if n := len(s.Peers()); s.alone && n > 1 {
		err := fmt.Errorf("raft.bootstrap: names this server alone but the configuration in %q has %d servers: name them all, or set the timeouts: %w", cfg.Dir, n, ErrNotAlone)
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// beginning learns from the library when it is through with what it restores by
// itself and is about to run: it sets a heartbeat handler then, just before it
// starts its goroutines (TestRunsFromTheStart). A snapshot that is installed
// from then on is one that another server sent.
type beginning struct {
	Transport
	f *fsm
}

func (b beginning) SetHeartbeatHandler(h func(raft.RPC)) {
	b.f.running.Store(true)
	b.Transport.SetHeartbeatHandler(h)
}

// newRaft turns the library's panic over a log that does not reach back to the
// restored snapshot into an error.
func newRaft(rc *raft.Config, f *fsm, logs raft.LogStore, stable raft.StableStore, snaps raft.SnapshotStore, t Transport) (r *raft.Raft, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("start raft: %v", p)
		}
	}()
	if r, err = raft.NewRaft(rc, f, logs, stable, snaps, beginning{t, f}); err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	return r, nil
}

func (s *Store) openLog() (*failStop, error) {
	if s.cfg.LogStore != nil {
		return s.sealLog(s.cfg.LogStore, mark{})
	}
	dir := filepath.Join(s.cfg.Dir, "log")
	if d := s.cfg.LogDisk; d != nil {
		s.markFile = d.Mark
		w, err := openWALIn(dir, d.SegmentBytes, d.Meta, d.VFS, newHCLogger(s.log, "raft.log"))
		if err != nil {
			return nil, fmt.Errorf("open raft log: %w", err)
		}
		s.wal = w
		return s.sealLog(w, mark{d.Mark})
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create raft log directory: %w", err)
	}
	w, err := openWAL(dir, s.cfg.segmentBytes, newHCLogger(s.log, "raft.log"))
	if err != nil {
		return nil, fmt.Errorf("open raft log in %q: %w", dir, err)
	}
	s.wal = w
	m, err := openMark(filepath.Join(s.cfg.Dir, "log.mark"))
	if err != nil {
		return nil, err
	}
	s.markFile = m.f
	return s.sealLog(w, m)
}

func (s *Store) sealLog(l LogStore, m mark) (*failStop, error) {
	if m.f != nil {
		if err := m.check(l); err != nil {
			return nil, fmt.Errorf("open raft log: %w", err)
		}
	}
	return &failStop{store: l, mark: m, f: s.failure}, nil
}

func (s *Store) openSnapshots() (raft.SnapshotStore, error) {
	if s.cfg.Snapshots != nil {
		return s.cfg.Snapshots, nil
	}
	return s.openSnapshotDir()
}

func (s *Store) openTransport() (Transport, error) {
	if s.cfg.Transport != nil {
		return s.cfg.Transport, nil
	}
	if s.cfg.Mux != nil {
		return s.networkTransport(newMuxStream(s.cfg.Mux)), nil
	}
	l := s.cfg.Listener
	if l == nil {
		var err error
		if l, err = net.Listen("tcp", s.cfg.BindAddr); err != nil {
			return nil, fmt.Errorf("listen for raft: %w", err)
		}
	}
	advertise := s.cfg.AdvertiseAddr
	for _, p := range s.cfg.Bootstrap {
		if advertise == "" && p.ID == s.cfg.ID {
			advertise = p.Addr
		}
	}
	if a, ok := l.Addr().(*net.TCPAddr); ok && advertise == "" && a.IP.IsUnspecified() && !s.alone {
		l.Close()
		return nil, fmt.Errorf("raft.advertise_addr: must be set, since others can't dial bind_addr %q", s.cfg.BindAddr)
	}
	return s.networkTransport(newStream(l, advertise, s.cfg.TLS)), nil
}

func (s *Store) networkTransport(layer raft.StreamLayer) Transport {
	s.net = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:  layer,
		MaxPool: 3,
		Timeout: s.cfg.RPCTimeout,
		Logger:  newHCLogger(s.log, "raft.net"),
	})
	return s.net
}

func (s *Store) bootstrap(rc *raft.Config, store *failStop, snaps raft.SnapshotStore) error {
	if len(s.cfg.Bootstrap) == 0 {
		return nil
	}
	exists, err := raft.HasExistingState(store, store, snaps)
	if err != nil {
		return fmt.Errorf("look for raft state: %w", err)
	}
	if exists {
		return nil
	}
	var servers []raft.Server
	for _, p := range s.cfg.Bootstrap {
		srv := raft.Server{ID: raft.ServerID(p.ID), Address: raft.ServerAddress(p.Addr)}
		if p.ID == s.cfg.ID {
			srv.Address = s.trans.LocalAddr()
		}
		if p.Nonvoter {
			srv.Suffrage = raft.Nonvoter
		}
		servers = append(servers, srv)
	}
	if err := raft.BootstrapCluster(rc, store, store, snaps, s.trans, raft.Configuration{Servers: servers}); err != nil {
		return fmt.Errorf("bootstrap raft: %w", err)
	}
	return nil
}

// stopOnFailure ends the library's work after a failure whose Fatal returned.
func (s *Store) stopOnFailure() {
	select {
	case <-s.failure.done:
		s.markDown()
		s.shutdown()
	case <-s.down:
	}
}

func (s *Store) markDown() { s.downOnce.Do(func() { close(s.down) }) }

// downErr says why the store answers nothing more.
func (s *Store) downErr() error {
	if err := s.failure.cause(); err != nil {
		return fmt.Errorf("%w: %w", ErrFailed, err)
	}
	return ErrShutdown
}

// Close stops this server and waits: new proposals are refused, those in
// flight get Config.CloseGrace to finish, then everything stops and the
// directory is let go. Further calls wait for the first and return its error.
func (s *Store) Close() error { return s.close() }

func (s *Store) closeNow() error {
	close(s.closing)
	s.inflight.seal()
	grace := time.NewTimer(s.cfg.CloseGrace)
	defer grace.Stop()
	select {
	case <-s.inflight.idle:
	case <-s.down:
	case <-grace.C:
	}
	err := s.shutdown().Error()
	s.markDown()
	return errors.Join(err, s.release())
}

// release gives back what open took before the library owned it, and what the
// library does not close.
func (s *Store) release() error {
	var errs []error
	if s.trans != nil {
		errs = append(errs, s.trans.Close())
		if s.net != nil {
			s.net.CloseStreams() // the library leaves its pooled connections open
		}
		s.trans = nil
	}
	if s.wal != nil {
		errs = append(errs, s.wal.Close())
		s.wal = nil
	}
	if s.markFile != nil {
		errs = append(errs, s.markFile.Close())
		s.markFile = nil
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
		s.lock = nil
	}
	return errors.Join(errs...)
}

// TakeSnapshot writes a snapshot now and lets go of the log behind it, but for
// the trailing entries. Without a new entry since the last one it may still
// write one. It blocks until the snapshot is on disk.
func (s *Store) TakeSnapshot(ctx context.Context) error {
	err := s.await(ctx, func() error { return s.raft.Snapshot().Error() })
	if err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return s.opError("take snapshot", err)
	}
	return nil
}

// restoreGap is how far behind the log's end a restored state is put. What is
// still on its way into the log is overtaken by it.
const restoreGap = 1 << 16

// Restore replaces the state on every server by the one in r, which has size
// bytes and is as a Snapshot of the state machine writes it, and returns its
// place in the log. Only the leader can; it returns when a majority has it.
// Entries that are proposed meanwhile may be lost. A state that the state
// machine refuses stops this server: it is to be checked before.
func (s *Store) Restore(ctx context.Context, r io.Reader, size int64) (index uint64, err error) {
	if !s.IsLeader() {
		return 0, s.notLeader()
	}
	meta := &raft.SnapshotMeta{Version: raft.SnapshotVersionMax, Index: s.raft.LastIndex() + restoreGap, Size: size + int64(len(snapshotMagic)) + 8}
	index = meta.Index + 1 // the library's choice, see its restoreUserSnapshot
	header := binary.LittleEndian.AppendUint64(bytes.Clone(snapshotMagic), index)
	err = s.await(ctx, func() error {
		timeout := time.Duration(0)
		if d, ok := ctx.Deadline(); ok {
			timeout = max(time.Until(d), time.Nanosecond)
		}
		return s.raft.Restore(meta, io.MultiReader(bytes.NewReader(header), r), timeout)
	})
	if err != nil {
		return 0, s.opError("restore", err)
	}
	return index, nil
}
