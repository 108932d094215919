package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
	"github.com/joulecloud/joule/settlement/client"
	"github.com/joulecloud/joule/settlement/tlsca"
)

// servers are settlement servers in this process, with TLS between them.
type servers struct {
	t     *testing.T
	dir   string
	cfgs  []Config
	runs  []*running // nil: stopped
	first int        // how many begin
}

type running struct {
	cancel context.CancelFunc
	done   chan error
	ready  chan string
	ended  bool
	err    error
}

// limit bounds each wait of these tests.
const limit = 60 * time.Second

// newServers configures n servers, of which the first begin together. It starts
// none.
func newServers(t *testing.T, n, first int) *servers {
	t.Helper()
	s := &servers{t: t, dir: t.TempDir(), first: first}
	if _, err := tlsca.CreateCA(s.dir, "test", tlsca.CAValidity); err != nil {
		t.Fatal(err)
	}
	var addrs []string
	for range n {
		addrs = append(addrs, freeAddr(t))
	}
	for i := range n {
		cfg := Default()
		cfg.Name = fmt.Sprint("s", i+1)
		cfg.DataDir = filepath.Join(s.dir, cfg.Name)
		cfg.Listen, cfg.RaftAddr = freeAddr(t), addrs[i]
		cfg.BootstrapExpect, cfg.RetryJoin = first, addrs[:first]
		if i >= first {
			cfg.BootstrapExpect = 0
		}
		s.secure(&cfg)
		if err := cfg.Validate(); err != nil {
			t.Fatal(err)
		}
		s.cfgs = append(s.cfgs, cfg)
	}
	s.runs = make([]*running, n)
	t.Cleanup(func() {
		for i := range s.runs {
			s.stop(i)
		}
	})
	return s
}

// secure gives a server a certificate of the cluster's authority.
func (s *servers) secure(cfg *Config) {
	s.t.Helper()
	made, err := tlsca.CreateCert(s.dir, filepath.Join(s.dir, tlsca.CAFile), filepath.Join(s.dir, tlsca.CAKeyFile),
		tlsca.CertOptions{Name: cfg.Name, Validity: tlsca.CertValidity, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}})
	if err != nil {
		s.t.Fatal(err)
	}
	cfg.RaftCAFile, cfg.RaftCertFile, cfg.RaftKeyFile = filepath.Join(s.dir, tlsca.CAFile), made.CertFile, made.KeyFile
}

func testLogger(t *testing.T, name string) *slog.Logger {
	if !testing.Verbose() {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), nil)).With("on", name)
}

func (s *servers) start(is ...int) {
	for _, i := range is {
		ctx, cancel := context.WithCancel(context.Background())
		r := &running{cancel: cancel, done: make(chan error, 1), ready: make(chan string, 1)}
		s.runs[i] = r
		cfg, log := s.cfgs[i], testLogger(s.t, s.cfgs[i].Name)
		go func() { r.done <- Run(ctx, cfg, "test", log, func(addr string) { r.ready <- addr }) }()
	}
}

// wait waits until the servers are ready.
func (s *servers) wait(is ...int) {
	s.t.Helper()
	for _, i := range is {
		select {
		case <-s.runs[i].ready:
		case err := <-s.runs[i].done:
			s.runs[i].ended, s.runs[i].err = true, err
			s.t.Fatalf("server %s ended: %v", s.cfgs[i].Name, err)
		case <-time.After(limit):
			s.t.Fatalf("server %s is not ready", s.cfgs[i].Name)
		}
	}
}

// stop stops a server and returns how it ended.
func (s *servers) stop(i int) error {
	r := s.runs[i]
	if r == nil {
		return nil
	}
	s.runs[i] = nil
	r.cancel()
	if !r.ended {
		r.err = <-r.done
	}
	return r.err
}

// mustStop stops a server that must end in order.
func (s *servers) mustStop(i int) {
	s.t.Helper()
	if err := s.stop(i); err != nil {
		s.t.Errorf("server %s ended: %v", s.cfgs[i].Name, err)
	}
}

// end waits until a server ends by itself and returns how.
func (s *servers) end(i int) error {
	s.t.Helper()
	r := s.runs[i]
	select {
	case r.err = <-r.done:
		s.runs[i] = nil
		return r.err
	case <-time.After(limit):
		s.t.Fatalf("server %s goes on", s.cfgs[i].Name)
		return nil
	}
}

func (s *servers) api(i int) joulev1connect.SettlementServiceClient {
	s.t.Helper()
	c, err := client.Dial("http://"+s.cfgs[i].Listen, "")
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// supplier creates a supplier through a server, however long that takes.
func (s *servers) supplier(i int, name string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), limit)
	defer cancel()
	api := s.api(i)
	s.eventually("create supplier "+name, func() error {
		_, err := api.CreateSupplier(ctx, &joulev1.CreateSupplierRequest{Key: "supplier-" + name, Name: name})
		return err
	})
}

// sees checks that a server reads a supplier's account.
func (s *servers) sees(i int, name string) {
	s.t.Helper()
	api := s.api(i)
	s.eventually("see supplier "+name, func() error {
		ctx, cancel := context.WithTimeout(s.t.Context(), limit)
		defer cancel()
		r, err := api.ListAccounts(ctx, &joulev1.ListAccountsRequest{Prefix: "supplier/" + name})
		if err == nil && len(r.Accounts) == 0 {
			s.t.Fatalf("server %s does not see supplier %s, which was acknowledged", s.cfgs[i].Name, name)
		}
		return err
	})
}

// eventually repeats try until it succeeds.
func (s *servers) eventually(what string, try func() error) {
	s.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(limit)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: %v", what, err)
		}
		<-tick.C
	}
}

// leader returns which of the running servers leads.
func (s *servers) leader() int {
	s.t.Helper()
	leads := -1
	s.eventually("find the leader", func() error {
		for i, r := range s.runs {
			if r == nil {
				continue
			}
			st, err := s.api(i).GetStatus(s.t.Context(), &joulev1.GetStatusRequest{})
			if err == nil && st.Leader {
				leads = i
				return nil
			}
		}
		return errors.New("none leads")
	})
	return leads
}

// Three servers begin together, take writes on any of them and read what was
// acknowledged on any of them; the leader goes and comes back.
func TestThreeServers(t *testing.T) {
	t.Parallel()
	s := newServers(t, 3, 3)
	s.start(0, 1, 2)
	s.wait(0, 1, 2)
	for i := range 3 {
		s.supplier(i, fmt.Sprint("first-", i))
	}
	for i := range 3 {
		for j := range 3 {
			s.sees(i, fmt.Sprint("first-", j))
		}
	}
	leader := s.leader()
	s.mustStop(leader)
	other := (leader + 1) % 3
	s.supplier(other, "second")
	s.sees((leader+2)%3, "second")
	s.start(leader)
	s.wait(leader)
	s.sees(leader, "second")
	s.supplier(leader, "third")
	s.sees(other, "third")
}
