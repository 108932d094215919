package devcluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
	"github.com/joulecloud/joule/settlement/client"
	"github.com/joulecloud/joule/settlement/loopback"
)

// Server is one settlement server.
type Server struct {
	*Process
	URL     string // of its API
	DataDir string

	API joulev1connect.SettlementServiceClient

	name, listen, raft string
}

// TokenFile holds an operator's token; "": the servers have no tokens.
func (c *Cluster) TokenFile() string {
	if !c.cfg.Tokens {
		return ""
	}
	return filepath.Join(c.cfg.Dir, "operator.token")
}

// takeServerPorts fixes the servers' addresses; the first one's API is at
// SettlementAddr.
func (c *Cluster) takeServerPorts() error {
	for i := range max(c.cfg.Servers, 1) {
		s := &Server{name: fmt.Sprint("s", i+1)}
		want := ""
		if i == 0 {
			want = c.cfg.SettlementAddr
		}
		var err error
		if s.listen, err = address(want); err != nil {
			return err
		}
		if s.raft, err = loopback.Reserve(); err != nil {
			return err
		}
		s.URL, s.DataDir = "http://"+s.listen, filepath.Join(c.cfg.Dir, s.name, "data")
		c.Servers = append(c.Servers, s)
	}
	return nil
}

// startServers starts the settlement servers, which find each other.
func (c *Cluster) startServers(ctx context.Context) error {
	secret := ""
	if c.cfg.Tokens {
		var err error
		if secret, err = c.makeToken(ctx); err != nil {
			return err
		}
	}
	for _, s := range c.Servers {
		dir := filepath.Dir(s.DataDir)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		file := filepath.Join(dir, "server.hcl")
		if err := writeFile(file, "name      = %q\ndata_dir  = %q\nlisten    = %q\nraft_addr = %q\nnomad     = %q\n%s",
			s.name, s.DataDir, s.listen, s.raft, c.NomadURL(), c.together()); err != nil {
			return err
		}
		var err error
		if s.API, err = client.Dial(s.URL, "", client.WithToken(secret)); err != nil {
			return err
		}
		log := "settlement"
		if len(c.Servers) > 1 {
			log += "-" + s.name
		}
		s.Process = c.process(log, c.cfg.Joule, "server", "-config", file)
		if err := s.Start(); err != nil {
			return err
		}
	}
	c.Server, c.API = c.Servers[0].Process, c.Servers[0].API
	return nil
}

// together are the lines of server.hcl that make several servers one cluster,
// and that give them tokens.
func (c *Cluster) together() string {
	var b strings.Builder
	if len(c.Servers) > 1 {
		var rafts []string
		for _, s := range c.Servers {
			rafts = append(rafts, s.raft)
		}
		fmt.Fprintf(&b, "bootstrap_expect = %d\nretry_join = [%s]\n", len(rafts), quoted(rafts))
	}
	if c.cfg.Tokens {
		fmt.Fprintf(&b, "tokens_file = %q\n", filepath.Join(c.cfg.Dir, "tokens.hcl"))
	}
	return b.String()
}

// makeToken makes an operator's token and returns its secret.
func (c *Cluster) makeToken(ctx context.Context) (string, error) {
	out, err := run(ctx, nil, c.cfg.Joule, "token", "create", "--role", "operator", "--file", filepath.Join(c.cfg.Dir, "tokens.hcl"), "dev")
	if err != nil {
		return "", err
	}
	return string(trimSpace(out)), os.WriteFile(c.TokenFile(), out, 0o600)
}

// waitServers waits until every server answers.
func (c *Cluster) waitServers(ctx context.Context) error {
	for _, s := range c.Servers {
		if err := s.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) wait(ctx context.Context) error {
	return s.until(ctx, "settlement API", func(ctx context.Context) error {
		_, err := s.API.ListAccounts(ctx, &joulev1.ListAccountsRequest{})
		return err
	})
}

// Restart starts the server again after its end and waits until it answers.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.Start(); err != nil {
		return err
	}
	return s.wait(ctx)
}

// RestartServer is Restart of the first server.
func (c *Cluster) RestartServer(ctx context.Context) error { return c.Servers[0].Restart(ctx) }

// serverURLs are the servers as a host is told of them.
func (c *Cluster) serverURLs() []string {
	var urls []string
	for _, s := range c.Servers {
		urls = append(urls, s.URL)
	}
	return urls
}
