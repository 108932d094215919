// Package daemon wires one settlement server together: configuration, node,
// API, Nomad. It holds no logic of its own.
package daemon

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/hcl/v2/hclsimple"

	"github.com/joulecloud/joule/settlement/enforce"
)

// Config is server.hcl.
type Config struct {
	Name           string `hcl:"name,optional"`             // of this server; default: the machine's host name
	DataDir        string `hcl:"data_dir"`                  // absolute
	Listen         string `hcl:"listen,optional"`           // host:port of the API
	RaftAddr       string `hcl:"raft_addr,optional"`        // host:port at which the other servers reach this one
	Nomad          string `hcl:"nomad,optional"`            // URL of a Nomad API
	NomadTokenFile string `hcl:"nomad_token_file,optional"` // an ACL token; mode 0600
	CertFile       string `hcl:"cert_file,optional"`        // TLS of the API; required unless listen is loopback
	KeyFile        string `hcl:"key_file,optional"`
	TokensFile     string `hcl:"tokens_file,optional"`    // who may call the API; mode 0600. None: loopback alone
	LogLevel       string `hcl:"log_level,optional"`      // debug, info, warn, error
	LogFormat      string `hcl:"log_format,optional"`     // text or json
	MetricsPublic  bool   `hcl:"metrics_public,optional"` // /metrics without an operator's token

	// Several servers are one cluster. Without these a server is alone.
	BootstrapExpect int      `hcl:"bootstrap_expect,optional"`  // servers that begin a new cluster together; 0 with retry_join: join one
	RetryJoin       []string `hcl:"retry_join,optional"`        // raft_addr of the others; this server's own may be among them
	RaftAdvertise   string   `hcl:"raft_advertise,optional"`    // host:port that the others dial; default: raft_addr
	RaftCAFile      string   `hcl:"raft_ca_file,optional"`      // TLS between servers; required unless raft_addr is loopback
	RaftCertFile    string   `hcl:"raft_cert_file,optional"`    // of this server, with the server's name of `joule tls cert create`
	RaftKeyFile     string   `hcl:"raft_key_file,optional"`     // mode 0600
	API             string   `hcl:"api_advertise,optional"`     // URL at which clients reach this server; default: from listen
	RemoveDeadAfter string   `hcl:"remove_dead_after,optional"` // such as 72h: a silent server leaves the cluster; default: never

	Rate   *RateConfig   `hcl:"rate,block"`
	Limits *LimitsConfig `hcl:"limits,block"`
	Fines  *FinesConfig  `hcl:"fines,block"`

	enforce *enforce.Config // of tests, instead of Fines
}

// Default returns every default in one place.
func Default() Config {
	name, err := os.Hostname()
	if err != nil {
		name = "joule"
	}
	return Config{
		Name:      name,
		Listen:    "127.0.0.1:7433",
		RaftAddr:  "127.0.0.1:7434",
		Nomad:     "http://127.0.0.1:4646",
		LogLevel:  "info",
		LogFormat: "text",
	}
}

// Load reads a file over the defaults and validates the result.
func Load(path string) (Config, error) {
	cfg := Default()
	if err := hclsimple.DecodeFile(path, nil, &cfg); err != nil {
		return cfg, fmt.Errorf("read configuration: %w", err)
	}
	if err := cfg.Validate(); err != nil {
		return cfg, fmt.Errorf("configuration %s:\n%w", path, err)
	}
	return cfg, nil
}

// Validate reports every fault at once, each naming the field and the value.
func (c *Config) Validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Name == "" || strings.ContainsAny(c.Name, " \t\n/") {
		fault("name: want a word without spaces and slashes, got %q", c.Name)
	}
	if !filepath.IsAbs(c.DataDir) {
		fault("data_dir: want an absolute path, got %q", c.DataDir)
	}
	checkAddr := func(field, addr string) (host string) {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			fault("%s: want host:port, got %q", field, addr)
		}
		return host
	}
	host := checkAddr("listen", c.Listen)
	c.validateCluster(fault, checkAddr("raft_addr", c.RaftAddr))
	if u, err := url.Parse(c.Nomad); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		fault("nomad: want http://host:port or https://host:port, got %q", c.Nomad)
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		fault("cert_file, key_file: set both or neither, got %q and %q", c.CertFile, c.KeyFile)
	}
	if c.CertFile == "" && !isLoopback(host) {
		fault("cert_file: required unless listen is a loopback address, listen is %q", c.Listen)
	}
	switch c.LogLevel {
	case "debug", "info", "warn", "error":
	default:
		fault("log_level: want debug, info, warn or error, got %q", c.LogLevel)
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		fault("log_format: want text or json, got %q", c.LogFormat)
	}
	_, err := c.Limits.limits()
	_, finesErr := c.Fines.enforcer()
	errs = append(errs, c.Rate.validate(), err, finesErr)
	return errors.Join(errs...)
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// token reads the Nomad token; "" when none is configured.
func (c *Config) token() (string, error) {
	if c.NomadTokenFile == "" {
		return "", nil
	}
	info, err := os.Stat(c.NomadTokenFile)
	if err != nil {
		return "", fmt.Errorf("nomad_token_file: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("nomad_token_file: %s is readable by others (mode %04o): chmod 600 it", c.NomadTokenFile, info.Mode().Perm())
	}
	b, err := os.ReadFile(c.NomadTokenFile)
	if err != nil {
		return "", fmt.Errorf("nomad_token_file: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
