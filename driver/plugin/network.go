package plugin

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/nomad/drivers/shared/hostnames"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/joulecloud/joule/driver/hostapi"
)

// hostResolvConf is what a task's resolv.conf takes what the job leaves open from.
const hostResolvConf = "/etc/resolv.conf"

// inGroup says whether the task is in a network namespace that Nomad made for
// its group.
func inGroup(cfg *drivers.TaskConfig) bool {
	return cfg.NetworkIsolation != nil && cfg.NetworkIsolation.Mode == drivers.NetIsolationModeGroup
}

// hostsConfig is the name of a task that isn't on the host's network, and its
// address. Nomad gives both only to drivers that make the network themselves;
// the name is the allocation's then, and leads, as Debian has it, to the
// loopback.
func hostsConfig(cfg *drivers.TaskConfig) *drivers.HostsConfig {
	if ni := cfg.NetworkIsolation; ni != nil && ni.HostsConfig != nil && ni.HostsConfig.Hostname != "" && ni.HostsConfig.Address != "" {
		return ni.HostsConfig
	}
	alloc, _, _ := strings.Cut(cfg.ID, "/")
	return &drivers.HostsConfig{Hostname: alloc[:min(len(alloc), 8)], Address: "127.0.1.1"}
}

// networkFiles writes the task's own /etc/hosts, where it isn't on the host's
// network, and /etc/resolv.conf, where the job has one, and returns their mounts.
func networkFiles(cfg *drivers.TaskConfig, none bool) ([]hostapi.Mount, error) {
	var mounts []hostapi.Mount
	taskDir := cfg.TaskDir().Dir
	if none || inGroup(cfg) {
		hosts, err := hostnames.GenerateEtcHostsMount(taskDir,
			&drivers.NetworkIsolationSpec{Mode: drivers.NetIsolationModeGroup, HostsConfig: hostsConfig(cfg)}, nil)
		if err != nil {
			return nil, fmt.Errorf("write the task's hosts file: %w", err)
		}
		mounts = append(mounts, hostapi.Mount{HostPath: hosts.HostPath, TaskPath: hosts.TaskPath, ReadOnly: hosts.Readonly})
	}
	if cfg.DNS == nil {
		return mounts, nil
	}
	host, err := os.ReadFile(hostResolvConf)
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("read the host's DNS settings: %w", err)
	}
	path := filepath.Join(taskDir, "resolv.conf")
	if err := os.WriteFile(path, []byte(resolvConf(string(host), cfg.DNS)), 0o644); err != nil {
		return nil, fmt.Errorf("write the task's DNS settings: %w", err)
	}
	return append(mounts, hostapi.Mount{HostPath: path, TaskPath: hostResolvConf, ReadOnly: true}), nil
}

// resolvConf is the job's DNS block as a resolv.conf; what the block leaves out
// comes from the host's.
func resolvConf(host string, dns *drivers.DNSConfig) string {
	var servers, searches, options []string
	for line := range strings.Lines(host) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			servers = append(servers, f[1])
		case "search", "domain": // the last one counts
			searches = f[1:]
		case "options":
			options = append(options, f[1:]...)
		}
	}
	if len(dns.Servers) > 0 {
		servers = dns.Servers
	}
	if len(dns.Searches) > 0 {
		searches = dns.Searches
	}
	if len(dns.Options) > 0 {
		options = dns.Options
	}
	var b strings.Builder
	if len(searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(searches, " "))
	}
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(options, " "))
	}
	return b.String()
}
