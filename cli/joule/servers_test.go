package main

import (
	"bytes"
	"context"
	"fmt"
	"github.com/joulecloud/joule/settlement/loopback"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// servers are three processes with TLS between them.
type servers struct {
	t     *testing.T
	dir   string
	api   []string
	procs []*exec.Cmd // nil: not running
	logs  []*bytes.Buffer
}

// serversLimit bounds each wait of these tests.
const serversLimit = 60 * time.Second

func newServers(t *testing.T) *servers {
	t.Helper()
	s := &servers{t: t, dir: t.TempDir(), procs: make([]*exec.Cmd, 3)}
	var rafts []string
	for range 3 {
		for _, into := range []*[]string{&s.api, &rafts} {
			addr, err := loopback.Reserve()
			if err != nil {
				t.Fatal(err)
			}
			*into = append(*into, addr)
		}
		s.logs = append(s.logs, new(bytes.Buffer))
	}
	s.run(0, "tls", "ca", "create")
	for i := range 3 {
		name := fmt.Sprint("s", i+1)
		s.run(0, "tls", "cert", "create", name)
		text := fmt.Sprintf("name = %q\ndata_dir = %q\nlisten = %q\nraft_addr = %q\nbootstrap_expect = 3\nretry_join = [%q, %q, %q]\n"+
			"raft_ca_file = %q\nraft_cert_file = %q\nraft_key_file = %q\n", name, s.path(name), s.api[i], rafts[i], rafts[0], rafts[1], rafts[2],
			s.path("joule-ca.pem"), s.path(name+".pem"), s.path(name+"-key.pem"))
		if err := os.WriteFile(s.path(name+".hcl"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for i := range s.procs {
			s.end(i, syscall.SIGKILL)
		}
		if t.Failed() {
			for i, log := range s.logs {
				t.Logf("log of s%d:\n%s", i+1, log)
			}
		}
	})
	return s
}

func (s *servers) path(name string) string { return filepath.Join(s.dir, name) }

func (s *servers) start(i int) {
	s.t.Helper()
	cmd := exec.Command("joule", "server", "-config", s.path(fmt.Sprintf("s%d.hcl", i+1)))
	cmd.Stderr = s.logs[i]
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.procs[i] = cmd
}

// end ends a server and waits for it.
func (s *servers) end(i int, sig syscall.Signal) {
	if cmd := s.procs[i]; cmd != nil {
		_ = cmd.Process.Signal(sig)
		_ = cmd.Wait()
		s.procs[i] = nil
	}
}

// joule runs the program against a server.
func (s *servers) joule(i int, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), serversLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "joule", append([]string{"--addr", "http://" + s.api[i], "--timeout", "20s"}, args...)...)
	cmd.Dir = s.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("joule %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

func (s *servers) run(i int, args ...string) string {
	s.t.Helper()
	out, err := s.joule(i, args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *servers) eventually(what string, try func() error) {
	s.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(serversLimit); ; <-tick.C {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: %v", what, err)
		}
	}
}

func (s *servers) get(i int, path string) (int, string, error) {
	resp, err := http.Get("http://" + s.api[i] + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func (s *servers) ready(is ...int) {
	s.t.Helper()
	for _, i := range is {
		s.eventually(fmt.Sprintf("s%d ready", i+1), func() error {
			code, body, err := s.get(i, "/readyz")
			if err == nil && code != http.StatusOK {
				err = fmt.Errorf("%d %s", code, body)
			}
			return err
		})
	}
}

// leader is the server that leads by its own word.
func (s *servers) leader() int {
	s.t.Helper()
	leads := -1
	s.eventually("find the leader", func() error {
		for i, p := range s.procs {
			if p == nil {
				continue
			}
			if out, err := s.joule(i, "status"); err == nil && strings.Contains(out, "this server") {
				leads = i
				return nil
			}
		}
		return fmt.Errorf("none leads")
	})
	return leads
}

// deposit makes a deposit with a key of its own, as often as it takes.
func (s *servers) deposit(i int, key string) {
	s.t.Helper()
	s.eventually("deposit "+key, func() error {
		_, err := s.joule(i, "deposit", "acme", "1", "--ref", "r", "--key", key)
		return err
	})
}

func (s *servers) balance(i int, want string) {
	s.t.Helper()
	s.eventually("balance on s"+fmt.Sprint(i+1), func() error {
		out, err := s.joule(i, "balance", "acme")
		if err == nil && !regexp.MustCompile(`customer/acme +`+want+` +USD`).MatchString(out) {
			err = fmt.Errorf("got %s, want %s USD", out, want)
		}
		return err
	})
}

// Three processes: they begin together, take writes on a follower, survive the
// kill of their leader, come back, lose their majority and are recovered, and
// the whole comes back from a backup.
func TestThreeProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("starts servers")
	}
	s := newServers(t)
	for i := range 3 {
		s.start(i)
	}
	s.ready(0, 1, 2)
	leader := s.leader()
	follower, third := (leader+1)%3, (leader+2)%3
	s.run(follower, "customer", "create", "acme", "--namespace", "acme")
	s.deposit(follower, "k1")
	s.balance(third, "1.00")
	// The same key through another server is the same deposit.
	s.deposit(leader, "k1")
	s.balance(follower, "1.00")
	s.eventually("three healthy peers", func() error {
		out, err := s.joule(follower, "operator", "raft", "peers")
		if err == nil && strings.Count(out, " yes  ")+strings.Count(out, " yes\n") < 6 {
			err = fmt.Errorf("%s", out)
		}
		return err
	})
	for _, want := range []string{"joule_raft_leader 0", "joule_cluster_peer_healthy{", "joule_journal_blocks_total ", "joule_node_forwarded_batches_total "} {
		if code, body, err := s.get(follower, "/metrics"); err != nil || code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("metrics: %d, %v, without %q", code, err, want)
		}
	}

	s.end(leader, syscall.SIGKILL)
	s.deposit(follower, "k2")
	s.balance(third, "2.00")
	s.start(leader)
	s.ready(leader)
	s.balance(leader, "2.00")

	// A rolling restart loses nothing.
	for i := range 3 {
		s.end(i, syscall.SIGTERM)
		s.deposit((i+1)%3, fmt.Sprint("roll", i))
		s.start(i)
		s.ready(i)
	}
	for i := range 3 {
		s.balance(i, "5.00")
	}

	// A backup from any of them.
	s.run(1, "operator", "snapshot", "save", "joule.backup")
	if out := s.run(0, "operator", "snapshot", "verify", "joule.backup"); !strings.Contains(out, "balances are right") {
		t.Errorf("got %s", out)
	}

	// Two of three are lost for good: the last one goes on alone, and new ones
	// join it.
	s.end(1, syscall.SIGKILL)
	s.end(2, syscall.SIGKILL)
	s.eventually("no leader", func() error {
		if code, _, err := s.get(0, "/readyz"); err != nil || code == http.StatusOK {
			return fmt.Errorf("s1 answers %d, %v", code, err)
		}
		return nil
	})
	if code, body, err := s.get(0, "/livez"); err != nil || code != http.StatusOK {
		t.Errorf("livez without a leader: %d %s, %v", code, body, err)
	}
	s.run(0, "status") // which any server answers
	if _, err := s.joule(0, "operator", "raft", "recover", "--config", s.path("s1.hcl"), "--yes"); err == nil {
		t.Error("a recovery of a running server: got no error")
	}
	s.end(0, syscall.SIGTERM)
	s.run(0, "operator", "raft", "recover", "--config", s.path("s1.hcl"), "--yes")
	for _, name := range []string{"s2", "s3"} {
		if err := os.Rename(s.path(name), s.path(name+".lost")); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		s.start(i)
	}
	s.ready(0, 1, 2)
	for i := range 3 {
		s.balance(i, "5.00")
	}
	s.deposit(2, "after")
	s.balance(1, "6.00")
	s.eventually("the new ones have votes", func() error {
		out, err := s.joule(0, "operator", "raft", "peers")
		if err == nil && strings.Count(out, " yes  ")+strings.Count(out, " yes\n") < 6 {
			err = fmt.Errorf("%s", out)
		}
		return err
	})

	// The backup goes into a new cluster alone.
	if _, err := s.joule((s.leader()+1)%3, "operator", "snapshot", "restore", "joule.backup", "--yes"); err == nil || !strings.Contains(err.Error(), "has a history already") {
		t.Errorf("restore into a cluster with history: got %v", err)
	}
	for i := range 3 {
		s.end(i, syscall.SIGTERM)
		if err := os.Rename(s.path(fmt.Sprint("s", i+1)), s.path(fmt.Sprintf("s%d.old", i+1))); err != nil {
			t.Fatal(err)
		}
		s.start(i)
	}
	s.ready(0, 1, 2)
	s.run((s.leader()+1)%3, "operator", "snapshot", "restore", "joule.backup", "--yes")
	for i := range 3 {
		s.balance(i, "5.00")
	}
	for i := range 3 {
		s.end(i, syscall.SIGTERM)
		s.run(0, "audit", s.path(fmt.Sprintf("s%d/journal", i+1)))
	}
}
