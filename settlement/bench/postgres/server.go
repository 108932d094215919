// Package postgres is the baseline that settlement is measured against: a
// PostgreSQL 15 with durable commits that makes the same postings from the same
// batches, as well as it can be written. It starts servers of its own in a
// temporary directory and stops them.
package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrAbsent says how to get PostgreSQL.
var ErrAbsent = errors.New("PostgreSQL 15 is not installed: apt-get install postgresql-15 postgresql-client-15")

// bin is where Debian's package puts the programs.
const bin = "/usr/lib/postgresql/15/bin"

// Installed is nil if this machine has PostgreSQL 15.
func Installed() error {
	for _, p := range []string{"initdb", "postgres", "pg_basebackup"} {
		if _, err := os.Stat(filepath.Join(bin, p)); err != nil {
			return ErrAbsent
		}
	}
	return nil
}

// startTimeout bounds how long a server may take until it answers.
const startTimeout = 60 * time.Second

// Server is a running PostgreSQL, and the standbys that Replicate added.
type Server struct {
	dir      string // of all of them; removed by Stop
	cred     *syscall.SysProcAttr
	port     int
	main     *process
	standbys []*process
}

// process is one postmaster.
type process struct {
	cmd  *exec.Cmd
	out  *bytes.Buffer
	done chan error
}

// settings are those of a machine that is the database's alone, as far as they
// matter here. Every commit is durable before it is acknowledged. The one
// statement is planned once, for lookups: by itself PostgreSQL plans it anew for
// each batch, and reads all suppliers for the few that a batch names. Nothing is
// vacuumed during a run of seconds.
var settings = []string{
	"listen_addresses=", "fsync=on", "synchronous_commit=on", "full_page_writes=on",
	"shared_buffers=1GB", "max_wal_size=16GB", "min_wal_size=2GB", "wal_buffers=64MB", "checkpoint_timeout=30min",
	"checkpoint_completion_target=0.9", "jit=off", "max_connections=20", "max_wal_senders=4", "wal_level=replica",
	"wal_keep_size=8GB", "plan_cache_mode=force_generic_plan", "enable_seqscan=off", "enable_hashjoin=off", "enable_mergejoin=off",
	"autovacuum=off", "bgwriter_lru_maxpages=0", "backend_flush_after=0", "checkpoint_flush_after=0", "track_counts=off", "track_activities=off", "update_process_title=off", "logging_collector=off", "log_min_messages=warning",
}

// Start makes a database cluster in a temporary directory and starts it, as an
// unprivileged user where this process is root. Stop ends and removes it.
func Start(ctx context.Context) (_ *Server, err error) {
	if err := Installed(); err != nil {
		return nil, err
	}
	s := &Server{port: 7432}
	if s.dir, err = os.MkdirTemp("", "joule-bench-pg-*"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop())
		}
	}()
	if err := s.drop(); err != nil {
		return nil, err
	}
	data := filepath.Join(s.dir, "main")
	if err := s.tool(ctx, "initdb", "--pgdata", data, "--username=joule", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"); err != nil {
		return nil, err
	}
	if s.main, err = s.start(ctx, data, s.port); err != nil {
		return nil, err
	}
	return s, nil
}

// drop arranges for PostgreSQL, which refuses to run as root, to run as
// somebody else.
func (s *Server) drop() error {
	// A server is ended with us, should we be killed.
	s.cred = &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return fmt.Errorf("find an unprivileged user: %w", err)
		}
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	s.cred.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return os.Chown(s.dir, int(uid), int(gid))
}

func (s *Server) command(ctx context.Context, name string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.CommandContext(ctx, filepath.Join(bin, name), args...)
	cmd.Dir, cmd.SysProcAttr = s.dir, s.cred
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "TMPDIR=" + s.dir}
	out := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out
}

func (s *Server) tool(ctx context.Context, name string, args ...string) error {
	cmd, out := s.command(ctx, name, args...)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

func (s *Server) start(ctx context.Context, data string, port int) (*process, error) {
	args := []string{"-D", data, "-k", s.dir, "-p", strconv.Itoa(port)}
	for _, set := range settings {
		args = append(args, "-c", set)
	}
	p := &process{done: make(chan error, 1)}
	p.cmd, p.out = s.command(context.WithoutCancel(ctx), "postgres", args...)
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	go func() { p.done <- p.cmd.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	for {
		c, err := pgx.Connect(ctx, s.url(port))
		if err == nil {
			return p, c.Close(ctx)
		}
		select {
		case <-retry.C:
		case werr := <-p.done:
			return nil, fmt.Errorf("postgres ended: %w\n%s", werr, p.out)
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("postgres does not answer: %w", err), p.stop())
		}
	}
}

func (s *Server) url(port int) string {
	return fmt.Sprintf("host=%s port=%d user=joule dbname=postgres sslmode=disable", s.dir, port)
}

// stopTimeout bounds an orderly shutdown.
const stopTimeout = 60 * time.Second

func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGINT) // fast shutdown
	select {
	case err := <-p.done:
		p.done <- nil
		return err
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT)
		return errors.Join(errors.New("postgres did not stop: told it to quit"), <-p.done)
	}
}

// Stop ends every server and removes their directory.
func (s *Server) Stop() error {
	var errs []error
	for _, p := range append(slices.Clone(s.standbys), s.main) {
		if p != nil {
			errs = append(errs, p.stop())
		}
	}
	s.standbys, s.main = nil, nil
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// PIDs are the running postmasters.
func (s *Server) PIDs() []int {
	pids := []int{s.main.cmd.Process.Pid}
	for _, p := range s.standbys {
		pids = append(pids, p.cmd.Process.Pid)
	}
	return pids
}

// Connect opens a connection. The caller closes it.
func (s *Server) Connect(ctx context.Context) (*pgx.Conn, error) {
	return pgx.Connect(ctx, s.url(s.port))
}

// Replicate adds two streaming standbys, of which one must have each commit on
// its disk before it is acknowledged.
func (s *Server) Replicate(ctx context.Context) error {
	for i, name := range []string{"s1", "s2"} {
		data := filepath.Join(s.dir, name)
		if err := s.tool(ctx, "pg_basebackup", "--pgdata", data, "--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf",
			"--no-sync", "--dbname="+s.url(s.port)+" application_name="+name); err != nil {
			return err
		}
		p, err := s.start(ctx, data, s.port+1+i)
		if err != nil {
			return fmt.Errorf("standby %s: %w", name, err)
		}
		s.standbys = append(s.standbys, p)
	}
	c, err := s.Connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	for _, q := range []string{"ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (s1, s2)'", "SELECT pg_reload_conf()"} {
		if _, err := c.Exec(ctx, q); err != nil {
			return err
		}
	}
	if err := s.awaitSync(ctx, c); err != nil {
		return err
	}
	for i := range s.standbys {
		if err := s.warmStandby(ctx, s.port+1+i); err != nil {
			return err
		}
	}
	return nil
}

// warmStandby has a standby read the tables into its memory.
func (s *Server) warmStandby(ctx context.Context, port int) error {
	c, err := pgx.Connect(ctx, s.url(port))
	if err != nil {
		return fmt.Errorf("connect to the standby: %w", err)
	}
	return errors.Join(touch(ctx, c), c.Close(ctx))
}

// awaitSync returns once both standbys count.
func (s *Server) awaitSync(ctx context.Context, c *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	for {
		var states []string
		rows, err := c.Query(ctx, "SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'")
		if err == nil {
			states, err = pgx.CollectRows(rows, pgx.RowTo[string])
		}
		if err != nil {
			return err
		}
		if strings.Join(states, " ") == "quorum quorum" {
			return nil
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return fmt.Errorf("standbys are %q, want both in the quorum: %w", states, ctx.Err())
		}
	}
}
