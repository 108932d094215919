package doctor

import (
	"context"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const pluginName = "nomad-driver-joule"

// nomadTested is the version that Joule is tested with, nomadLeast the oldest
// whose plugin protocol and API it uses.
const (
	nomadTested = "1.11"
	nomadLeast  = "1.7"
)

// pluginDirs are where packages have Nomad look for plugins.
var pluginDirs = []string{"/opt/nomad/data/plugins", "/opt/nomad/plugins", "/var/lib/nomad/plugins", "/usr/lib/nomad/plugins"}

// agentSelf is what is used of /v1/agent/self.
type agentSelf struct {
	Config struct {
		PluginDir string
		Version   struct{ Version string }
		Client    struct{ Enabled bool }
	} `json:"config"`
	Stats struct {
		Client struct {
			NodeID string `json:"node_id"`
		} `json:"client"`
	} `json:"stats"`
}

// node is what is used of /v1/node/ID.
type node struct {
	Drivers map[string]struct {
		Detected, Healthy bool
		HealthDescription string
	}
}

func checkNomad(ctx context.Context, e *examination) {
	ctx, cancel := context.WithTimeout(ctx, e.opt.Timeout)
	defer cancel()
	var self agentSelf
	status, err := e.getNomad(ctx, "/v1/agent/self", &self)
	switch {
	case status == http.StatusForbidden:
		e.warn("agent", "set NOMAD_TOKEN to a token with agent:read and node:read", "%s asks for a token", e.opt.NomadAddr)
		e.guessPlugin()
		return
	case err != nil:
		e.warn("agent", "systemctl start nomad; NOMAD_ADDR names an agent that listens elsewhere", "no Nomad agent: %v", err)
		e.guessPlugin()
		return
	}
	e.checkNomadVersion(self.Config.Version.Version)
	if !self.Config.Client.Enabled {
		e.fail("client", "set enabled = true in the client block of this agent's configuration", "this agent is no client: it runs no tasks")
		return
	}
	if self.Config.PluginDir == "" {
		e.fail("plugin", "set plugin_dir in the agent's configuration", "the agent has no plugin_dir")
		return
	}
	e.checkPlugin(self.Config.PluginDir)
	e.checkDriver(ctx, self.Stats.Client.NodeID)
}

func (e *examination) getNomad(ctx context.Context, path string, into any) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(e.opt.NomadAddr, "/")+path, nil)
	if err != nil {
		return 0, err
	}
	if e.opt.NomadToken != "" {
		req.Header.Set("X-Nomad-Token", e.opt.NomadToken)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode, fmt.Errorf("%s answers %s", e.opt.NomadAddr, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return resp.StatusCode, fmt.Errorf("%s%s: %w", e.opt.NomadAddr, path, err)
	}
	return resp.StatusCode, nil
}

func (e *examination) checkNomadVersion(version string) {
	switch {
	case version == "":
		e.warn("agent", "", "Nomad doesn't say its version")
	case older(version, nomadLeast):
		e.fail("agent", "upgrade Nomad to "+nomadTested, "Nomad %s: at least %s is needed", version, nomadLeast)
	case older(version, nomadTested):
		e.warn("agent", "upgrade Nomad to "+nomadTested, "Nomad %s: Joule is tested with %s", version, nomadTested)
	default:
		e.ok("agent", "Nomad %s at %s", version, e.opt.NomadAddr)
	}
}

// older compares versions such as "1.11.2" by their first two numbers.
func older(a, b string) bool {
	number := func(v string, i int) int {
		parts := strings.SplitN(v, ".", 3)
		if i >= len(parts) {
			return 0
		}
		n, _ := strconv.Atoi(parts[i]) // what is no number is old
		return n
	}
	if x, y := number(a, 0), number(b, 0); x != y {
		return x < y
	}
	return number(a, 1) < number(b, 1)
}

// guessPlugin looks for the plugin where the agent can't be asked.
func (e *examination) guessPlugin() {
	for _, dir := range pluginDirs {
		if _, err := os.Lstat(e.sys.path(filepath.Join(dir, pluginName))); err == nil {
			e.checkPlugin(dir)
			return
		}
	}
	e.none("plugin", "not found in %s; whether the agent has another plugin_dir isn't known", strings.Join(pluginDirs, ", "))
}

// checkPlugin looks at the plugin in the agent's plugin_dir.
func (e *examination) checkPlugin(dir string) {
	path := filepath.Join(dir, pluginName)
	info, err := e.sys.stat(path)
	if err != nil {
		advice := fmt.Sprintf("ln -s $(command -v %s) %s/, then restart the Nomad client", pluginName, dir)
		if _, lerr := os.Lstat(e.sys.path(path)); lerr == nil {
			e.fail("plugin", advice, "%s leads nowhere", path)
			return
		}
		e.fail("plugin", advice, "%s: not there", path)
		return
	}
	switch mode := info.Mode(); {
	case !mode.IsRegular() || mode&0o111 == 0:
		e.fail("plugin", "chmod 0755 "+path, "%s isn't executable (mode %v)", path, mode)
		return
	case mode.Perm()&0o022 != 0:
		e.fail("plugin", "chmod go-w "+path, "%s: others may write what runs as root (mode %04o)", path, mode.Perm())
		return
	}
	if parent, err := e.sys.stat(dir); err == nil && parent.Mode().Perm()&0o022 != 0 {
		e.fail("plugin", "chmod go-w "+dir, "%s: others may put programs there that run as root (mode %04o)", dir, parent.Mode().Perm())
		return
	}
	if built, err := buildinfo.ReadFile(e.sys.path(path)); err == nil && built.Main.Version != e.sys.Version {
		e.warn("plugin", "install both from one package, then restart the Nomad client", "%s is version %s, this program %s", path, built.Main.Version, e.sys.Version)
		return
	}
	e.ok("plugin", "%s", path)
}

// checkDriver asks what the agent's node says of the driver.
func (e *examination) checkDriver(ctx context.Context, nodeID string) {
	var n node
	if _, err := e.getNomad(ctx, "/v1/node/"+nodeID, &n); err != nil {
		e.warn("driver", "set NOMAD_TOKEN to a token with node:read", "can't be asked: %v", err)
		return
	}
	d, ok := n.Drivers["joule"]
	switch {
	case !ok || !d.Detected:
		e.fail("driver", "restart the Nomad client; its log says why it didn't load "+pluginName, "the node has no driver joule")
	case !d.Healthy:
		e.fail("driver", "see the findings above", "unhealthy: %s", d.HealthDescription)
	default:
		e.ok("driver", "healthy: Nomad places tasks on this host")
	}
}
