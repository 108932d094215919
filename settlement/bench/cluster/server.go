package cluster

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/pprof"
	"time"

	"github.com/joulecloud/joule/raftstore"
	"github.com/joulecloud/joule/settlement/bench/workload"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/node"
	"github.com/joulecloud/joule/settlement/nomad"
	"github.com/joulecloud/joule/settlement/server"
	"github.com/joulecloud/joule/settlement/wire"
)

// serverConfig is one settlement server of the benchmark.
type serverConfig struct {
	Name     string           `json:"name"`
	Dir      string           `json:"dir"`
	TLSDir   string           `json:"tls_dir"`
	Listen   string           `json:"listen"`
	Peers    []raftstore.Peer `json:"peers"`
	Profiles string           `json:"profiles,omitempty"` // directory for CPU profiles
}

// Server is the part of this program that is one settlement server: the
// packages that `joule server` is wired of, with two additions. It makes the
// workload's leases itself, since there is no Nomad to take them from, and at
// the end it says what its ledger holds.
func Server(ctx context.Context, in io.Reader, out io.Writer) (err error) {
	dec := json.NewDecoder(in)
	var cfg serverConfig
	if err := dec.Decode(&cfg); err != nil {
		return err
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError + 1}))
	rc := raftstore.Default()
	rc.ID, rc.Bootstrap = cfg.Name, cfg.Peers
	for _, p := range cfg.Peers {
		if p.ID == cfg.Name {
			rc.BindAddr = p.Addr
		}
	}
	rc.Fatal = func(err error) { fail(err) }
	if rc.TLS, err = mutual(cfg.TLSDir); err != nil {
		return err
	}
	n, err := node.Open(node.Config{Raft: rc, DataDir: cfg.Dir}, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	allocs, err := nomad.NewClient("http://127.0.0.1:1", "")
	if err != nil {
		return err
	}
	sc := server.Default()
	sc.Name = cfg.Name
	srv := server.New(sc, n, n.Journal(), allocs, log)
	defer srv.Close()
	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return err
	}
	hs := &http.Server{Handler: srv.Handler(), Protocols: new(http.Protocols), ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError)}
	hs.Protocols.SetHTTP2(true)
	go func() {
		err := hs.ServeTLS(ln, filepath.Join(cfg.TLSDir, certFile), filepath.Join(cfg.TLSDir, keyFile))
		if !errors.Is(err, http.ErrServerClosed) {
			fail(err)
		}
	}()
	defer hs.Close()
	stopProfile := func() {}
	defer func() { stopProfile() }()
	type args = json.RawMessage
	return serve(ctx, io.MultiReader(dec.Buffered(), in), out, map[string]func(context.Context, args) (any, error){
		"ready": func(ctx context.Context, _ args) (any, error) {
			if err := n.WaitLeader(ctx); err != nil {
				return nil, err
			}
			return n.Status().Leader, nil
		},
		"seed": func(ctx context.Context, a args) (any, error) {
			var spec workload.Spec
			if err := json.Unmarshal(a, &spec); err != nil {
				return nil, err
			}
			return nil, seed(ctx, n, spec)
		},
		"sums": func(ctx context.Context, a args) (any, error) {
			var spec workload.Spec
			if err := json.Unmarshal(a, &spec); err != nil {
				return nil, err
			}
			return sumsOf(n, spec)
		},
		"snapshot": func(ctx context.Context, _ args) (any, error) {
			t0 := time.Now()
			err := n.Store().TakeSnapshot(ctx)
			return time.Since(t0).Seconds(), err
		},
		"profile": func(ctx context.Context, a args) (any, error) {
			stopProfile()
			stopProfile = func() {}
			var name string // "": no more
			if err := json.Unmarshal(a, &name); err != nil || name == "" || cfg.Profiles == "" {
				return nil, err
			}
			f, err := os.Create(filepath.Join(cfg.Profiles, name+"-"+cfg.Name+".pprof"))
			if err != nil {
				return nil, err
			}
			stopProfile = func() { pprof.StopCPUProfile(); f.Close() }
			return nil, pprof.StartCPUProfile(f)
		},
	})
}

// seedCommands is how many commands go into one log entry while seeding.
const seedCommands = 1024

// seed puts the workload's commands and each lease's first record into the
// log, in order, so that ids are as the workload says.
func seed(ctx context.Context, n *node.Node, spec workload.Spec) error {
	var envs []ledger.Envelope
	flush := func() error {
		if len(envs) == 0 {
			return nil
		}
		b := wire.CommandBatch{Time: ledger.Time(time.Now().UnixMilli()), Envelopes: envs}
		_, _, err := n.Store().Propose(ctx, wire.AppendCommandBatch(nil, &b))
		envs = envs[:0]
		return err
	}
	for env := range spec.Setup() {
		if envs = append(envs, env); len(envs) == seedCommands {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	for _, f := range spec.Feeds(hash) {
		for f.Round() == 1 {
			b := &ledger.UsageBatch{Host: f.Host(), Records: make([]ledger.Record, min(1024, f.Rest()))}
			f.Fill(b.Records)
			envs = append(envs, ledger.Envelope{Command: b})
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

func hash(r *ledger.Record) ledger.Hash {
	var b [wire.RecordSize]byte
	return wire.HashRecord(wire.AppendRecord(b[:0], r))
}

// sums is what a server's ledger holds.
type sums struct {
	Digest  ledger.Digest `json:"digest"` // over the whole history
	Entries uint64        `json:"entries"`
	Leases  int           `json:"leases"`
	Settled uint64        `json:"settled"` // over each lease and its last record: see settled
	Charged int64         `json:"charged"`
}

// settled adds a lease's last settled record to a sum that does not depend on
// the order.
func settled(sum uint64, lease ledger.LeaseID, seq uint64) uint64 {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], uint64(lease))
	binary.LittleEndian.PutUint64(b[8:], seq)
	h := wire.HashRecord(b[:])
	return sum + binary.LittleEndian.Uint64(h[:])
}

// sumsOf checks every lease of this server's ledger against the rules and adds
// them up.
func sumsOf(n *node.Node, spec workload.Spec) (s sums, err error) {
	err = n.Inspect(func(l *ledger.Ledger, digest ledger.Digest) error {
		s.Digest, s.Entries = digest, l.EntryCount()
		for id := ledger.LeaseID(1); id <= l.LeaseCount(); id++ {
			le, _ := l.Lease(id)
			charged, paid, fee := spec.Charged(le.LastSeq)
			if le.ChargedNUSD != charged || le.PaidNJ != paid || le.FeeNJ != fee {
				return fmt.Errorf("lease %d at record %d: charged %d, paid %d, fee %d, want %d, %d, %d",
					id, le.LastSeq, le.ChargedNUSD, le.PaidNJ, le.FeeNJ, charged, paid, fee)
			}
			s.Leases++
			s.Settled = settled(s.Settled, id, le.LastSeq)
			s.Charged += int64(charged)
		}
		return nil
	})
	return s, err
}

// same reports whether two servers hold the same.
func (s *sums) same(o *sums) bool { return bytes.Equal(s.Digest[:], o.Digest[:]) && *s == *o }
