package devcluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/hashicorp/nomad/api"

	"github.com/joulecloud/joule/driver/hostapi"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

// agentCommon is what both kinds of Nomad agent are told. The cloud
// fingerprinters are denied: they wait for metadata services that are not there.
const agentCommon = `
log_level            = "INFO"
bind_addr            = "127.0.0.1"
disable_update_check = true
# Without it Nomad v1.11 asks no driver for a task's resource use.
telemetry {
  publish_allocation_metrics = true
}
advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}
`

func (c *Cluster) startNomad() error {
	dir := filepath.Join(c.cfg.Dir, "nomad")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	serf, err := freePort()
	if err != nil {
		return err
	}
	_, httpPort, _ := net.SplitHostPort(c.nomadHTTP)
	_, rpcPort, _ := net.SplitHostPort(c.nomadRPC)
	file := filepath.Join(dir, "agent.hcl")
	err = writeFile(file, agentCommon+`
name     = "nomad-server"
data_dir = %q
ports {
  http = %s
  rpc  = %s
  serf = %s
}
server {
  enabled          = true
  bootstrap_expect = 1
  raft_multiplier  = 1
}
`, filepath.Join(dir, "data"), httpPort, rpcPort, serf)
	if err != nil {
		return err
	}
	cfg := api.DefaultConfig()
	cfg.Address = c.NomadURL()
	if c.NomadAPI, err = api.NewClient(cfg); err != nil {
		return err
	}
	c.Nomad = c.process("nomad-server", c.cfg.Nomad, "agent", "-config", file)
	return c.Nomad.Start()
}

// waitNomad returns when the Nomad server leads and its keyring is ready: a
// client that registers before would try again only after 16 s.
func (c *Cluster) waitNomad(ctx context.Context) error {
	return c.Nomad.until(ctx, "Nomad keyring", func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.NomadURL()+"/.well-known/jwks.json", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var set struct {
			Keys []json.RawMessage `json:"keys"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&set); err != nil {
			return err
		}
		if len(set.Keys) == 0 {
			return errors.New("the keyring is empty")
		}
		return answers(ctx, c.NomadURL()+"/v1/status/leader")
	})
}

// configureClient writes a Nomad client's configuration and prepares its
// process.
func (c *Cluster) configureClient(h *Host) error {
	httpPort, err := freePort()
	if err != nil {
		return err
	}
	rpcPort, err := freePort()
	if err != nil {
		return err
	}
	h.http = fmt.Sprintf("127.0.0.1:%s", httpPort)
	file := filepath.Join(h.dir, "agent.hcl")
	err = writeFile(file, agentCommon+`
name       = %q
data_dir   = %q
plugin_dir = %q
ports {
  http = %s
  rpc  = %s
}
client {
  enabled = true
  servers = [%q]
  options = {
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
    "driver.allowlist"     = "joule"
  }
  # Two clients share this machine's cores.
  cpu_total_compute = 16000
  gc_max_allocs     = 1000
%s}
plugin "nomad-driver-joule" {
  config {
    hostd_config = %q
    hostd_binary = %q
  }
}
%s`, h.Name, filepath.Join(h.dir, "nomad"), c.cfg.PluginDir, httpPort, rpcPort, c.nomadRPC, h.ClientExtra, h.ConfigFile(), c.cfg.Joule, h.AgentExtra)
	if err != nil {
		return err
	}
	h.Agent = c.process("nomad-client-"+h.Name, c.cfg.Nomad, "agent", "-config", file)
	return nil
}

// driverHealthy asks Nomad whether the node of that name can run joule tasks.
func (c *Cluster) driverHealthy(ctx context.Context, name string) error {
	nodes, _, err := c.NomadAPI.Nodes().List((&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if n.Name != name {
			continue
		}
		d := n.Drivers["joule"]
		switch {
		case n.Status != api.NodeStatusReady:
			return fmt.Errorf("node %s is %s", name, n.Status)
		case d == nil || !d.Detected:
			return fmt.Errorf("node %s has no joule driver", name)
		case !d.Healthy:
			return fmt.Errorf("node %s: joule driver: %s", name, d.HealthDescription)
		}
		return nil
	}
	return fmt.Errorf("node %s has not registered", name)
}

// ConfigFile is the host's hostd.hcl.
func (h *Host) ConfigFile() string { return filepath.Join(h.dir, "hostd.hcl") }

// DataDir is where the host's hostd keeps its state.
func (h *Host) DataDir() string { return filepath.Join(h.dir, "hostd") }

// Hostd speaks to the host's hostd.
func (h *Host) Hostd() *hostapi.Client {
	return hostapi.NewClient(filepath.Join(h.DataDir(), "hostd.sock"))
}

// CreateCustomer makes a customer, its Nomad namespace of the same name, and
// its first deposit, in nUSD; 0: none.
func (c *Cluster) CreateCustomer(ctx context.Context, name string, nusd int64) error {
	if _, err := c.NomadAPI.Namespaces().Register(&api.Namespace{Name: name}, (&api.WriteOptions{}).WithContext(ctx)); err != nil {
		return fmt.Errorf("make namespace %q: %w", name, err)
	}
	if _, err := c.API.CreateCustomer(ctx, &joulev1.CreateCustomerRequest{Key: "dev-customer-" + name, Name: name, Namespace: name}); err != nil {
		return fmt.Errorf("create customer %q: %w", name, err)
	}
	if nusd == 0 {
		return nil
	}
	_, err := c.API.Deposit(ctx, &joulev1.DepositRequest{Key: "dev-deposit-" + name, Customer: name,
		Currency: joulev1.Currency_CURRENCY_USD, Amount: nusd, Ref: "dev"})
	if err != nil {
		return fmt.Errorf("deposit for %q: %w", name, err)
	}
	return nil
}
