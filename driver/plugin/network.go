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

// networkFiles writes the task's own /etc/hosts and /etc/resolv.conf where the
// group's network asks for them, and returns their mounts.
func networkFiles(cfg *drivers.TaskConfig) ([]hostapi.Mount, error) {
	var mounts []hostapi.Mount
	taskDir := cfg.TaskDir().Dir
	hosts, err := hostnames.GenerateEtcHostsMount(taskDir, cfg.NetworkIsolation, nil)
	if err != nil {
		return nil, fmt.Errorf("write the task's hosts file: %w", err)
	}
	if hosts != nil {
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
