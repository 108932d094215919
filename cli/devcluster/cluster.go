// Package devcluster runs a whole Joule on one machine: settlement servers, a
// Nomad server and Nomad clients with our plugin, each a real process on
// loopback. `joule dev`, `joule demo` and the end-to-end tests use it.
package devcluster

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
	"github.com/joulecloud/joule/settlement/loopback"
)

// HostSpec is one supplier's host: a Nomad client with its hostd.
type HostSpec struct {
	Name     string
	Supplier string
	Class    string
	Offer    *joulev1.Prices // nil: no offer is made

	HostdExtra  string // lines for hostd.hcl
	AgentExtra  string // lines for the Nomad client's configuration
	ClientExtra string // lines for its client block
}

// Config says what to run and with which programs.
type Config struct {
	Dir      string // state; short, since unix sockets go below it
	LogDir   string // one log file per process
	Programs        // resolved

	Servers        int    // of settlement, which are one cluster; 0: one
	Tokens         bool   // settlement answers nobody without one
	SettlementAddr string // host:port; "" takes a free port
	NomadAddr      string // of the Nomad server's API; "" takes a free port
	Hosts          []HostSpec
	Registries     []string  // that images may come from; nil: hostd's default
	Out            io.Writer // progress
}

// TwoHosts are two suppliers' hosts, without offers.
func TwoHosts() []HostSpec {
	return []HostSpec{
		{Name: "crowd-1", Supplier: "home-lab", Class: "crowd"},
		{Name: "dc-1", Supplier: "west-dc", Class: "datacenter"},
	}
}

// Cluster is a running cluster.
type Cluster struct {
	cfg     Config
	Server  *Process // the first of Servers
	Nomad   *Process // the Nomad server
	Hosts   []*Host
	cgroups []string // parents that were there before us

	nomadHTTP, nomadRPC string

	Servers  []*Server
	API      joulev1connect.SettlementServiceClient // of the first server
	NomadAPI *api.Client
}

// Host is one supplier's host.
type Host struct {
	HostSpec
	Agent *Process // the Nomad client
	dir   string
	http  string
}

// SettlementURL is the address of the first server's API.
func (c *Cluster) SettlementURL() string { return c.Servers[0].URL }

// NomadURL is the address of the Nomad server's API.
func (c *Cluster) NomadURL() string { return "http://" + c.nomadHTTP }

// ServerDataDir is where the first settlement server keeps its data.
func (c *Cluster) ServerDataDir() string { return c.Servers[0].DataDir }

// Start starts everything, enrols the hosts and returns when every host's
// driver is healthy. On failure what was started is stopped again.
func Start(ctx context.Context, cfg Config) (c *Cluster, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("needs root: the hosts make containers and cgroups")
	}
	if err := errors.Join(claim(cfg.Dir), endAbandoned(cfg.Dir)); err != nil {
		return nil, fmt.Errorf("end what a killed cluster left: %w", err)
	}
	c = &Cluster{cfg: cfg, cgroups: existingCgroups()}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
			c = nil
		}
	}()
	if err := c.takePorts(); err != nil {
		return c, err
	}
	if err := os.MkdirAll(cfg.LogDir, 0o755); err != nil {
		return c, err
	}
	// The settlement servers and the Nomad server start side by side.
	for _, s := range c.Servers {
		say(cfg.Out, "starting settlement server  %s", s.URL)
	}
	if err := c.startServers(ctx); err != nil {
		return c, err
	}
	say(cfg.Out, "starting Nomad server       %s", c.NomadURL())
	if err := c.startNomad(); err != nil {
		return c, err
	}
	if err := c.waitServers(ctx); err != nil {
		return c, err
	}
	for _, spec := range cfg.Hosts {
		if err := c.enrol(ctx, spec); err != nil {
			return c, fmt.Errorf("enrol host %q: %w", spec.Name, err)
		}
	}
	if err := c.waitNomad(ctx); err != nil {
		return c, err
	}
	for _, h := range c.Hosts {
		say(cfg.Out, "starting Nomad client       %s (%s, supplier %s)", h.Name, h.Class, h.Supplier)
		if err := h.Agent.Start(); err != nil {
			return c, err
		}
	}
	for _, h := range c.Hosts {
		if err := c.WaitHost(ctx, h); err != nil {
			return c, err
		}
	}
	return c, nil
}

// takePorts fixes every address. Another program may snatch one before it is
// listened on, and then the start fails and says so.
func (c *Cluster) takePorts() error {
	for _, a := range []struct {
		into *string
		want string
	}{
		{&c.nomadHTTP, c.cfg.NomadAddr}, {&c.nomadRPC, ""},
	} {
		var err error
		if *a.into, err = address(a.want); err != nil {
			return err
		}
	}
	return c.takeServerPorts()
}

// address is want, which must be free, or a free one for "".
func address(want string) (string, error) {
	if want == "" {
		return loopback.Reserve()
	}
	ln, err := net.Listen("tcp", want)
	if err != nil {
		return "", fmt.Errorf("address %s: %w", want, err)
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

// freePort is a free port of 127.0.0.1.
func freePort() (string, error) {
	addr, err := loopback.Reserve()
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(addr)
	return port, err
}

func (c *Cluster) process(name string, args ...string) *Process {
	return &Process{Name: name, args: args, log: filepath.Join(c.cfg.LogDir, name+".log")}
}

// enrol makes the host's key and configuration, its supplier, and its offer.
func (c *Cluster) enrol(ctx context.Context, spec HostSpec) error {
	h := &Host{HostSpec: spec, dir: filepath.Join(c.cfg.Dir, spec.Name)}
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		return err
	}
	err := writeFile(h.ConfigFile(), "host            = %q\nclass           = %q\ndata_dir        = %q\nservers         = [%s]\n"+
		"runtimes        = [%q]\nallow_host_root = true\nshim            = %q\n%s",
		spec.Name, spec.Class, h.DataDir(), quoted(c.serverURLs()), c.cfg.Runtime, c.cfg.Shim, spec.HostdExtra)
	if err == nil && c.cfg.Registries != nil {
		err = appendFile(h.ConfigFile(), "images {\n  registries = [%s]\n}\n", quoted(c.cfg.Registries))
	}
	if err != nil {
		return err
	}
	out, err := run(ctx, nil, c.cfg.Joule, "host", "key", "--config", h.ConfigFile())
	if err != nil {
		return err
	}
	key, err := hex.DecodeString(string(trimSpace(out)))
	if err != nil {
		return fmt.Errorf("joule host key printed %q: %w", out, err)
	}
	if _, err := c.API.CreateSupplier(ctx, &joulev1.CreateSupplierRequest{Key: "dev-supplier-" + spec.Supplier, Name: spec.Supplier}); err != nil {
		return err
	}
	if _, err := c.API.EnrollHost(ctx, &joulev1.EnrollHostRequest{Key: "dev-host-" + spec.Name,
		Name: spec.Name, Supplier: spec.Supplier, Class: spec.Class, PublicKey: key}); err != nil {
		return err
	}
	if spec.Offer != nil {
		if _, err := c.API.SetOffer(ctx, &joulev1.SetOfferRequest{Key: "dev-offer-" + spec.Name, Host: spec.Name, Prices: spec.Offer}); err != nil {
			return err
		}
	}
	if err := c.configureClient(h); err != nil {
		return err
	}
	c.Hosts = append(c.Hosts, h)
	return nil
}

// WaitHost returns when Nomad can place tasks on the host and settlement hears
// it.
func (c *Cluster) WaitHost(ctx context.Context, h *Host) error {
	return h.Agent.until(ctx, "healthy joule driver", func(ctx context.Context) error {
		if err := c.driverHealthy(ctx, h.Name); err != nil {
			return err
		}
		r, err := c.API.ListHosts(ctx, &joulev1.ListHostsRequest{})
		if err != nil {
			return err
		}
		for _, v := range r.Hosts {
			if v.Name == h.Name && v.Connected {
				return nil
			}
		}
		return fmt.Errorf("host %s has no session with settlement", h.Name)
	})
}

// answers checks that an HTTP URL answers 200.
func answers(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return nil
}

func trimSpace(b []byte) []byte {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == ' ') {
		b = b[:len(b)-1]
	}
	return b
}

func appendFile(path, format string, args ...any) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, format, args...)
	return errors.Join(err, f.Close())
}

// quoted is a list of strings in HCL, without its brackets.
func quoted(list []string) string {
	var b strings.Builder
	for i, s := range list {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strconv.Quote(s))
	}
	return b.String()
}
