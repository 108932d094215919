package daemon

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"slices"
	"time"

	"github.com/joulecloud/joule/settlement/tlsca"
)

// serversMax is the most servers that may begin a cluster: more voters make
// every command slower and nothing safer.
const serversMax = 7

// alone reports whether this server is to be no part of a cluster.
func (c *Config) alone() bool { return c.BootstrapExpect == 0 && len(c.RetryJoin) == 0 }

// validateCluster checks what concerns the other servers; raftHost is the host
// of raft_addr.
func (c *Config) validateCluster(fault func(format string, args ...any), raftHost string) {
	if n := c.BootstrapExpect; n < 0 || n > serversMax || n == 2 {
		fault("bootstrap_expect: want 1, 3, 5 or another number up to %d but 2 (two servers survive no loss), got %d", serversMax, n)
	}
	if c.BootstrapExpect > 1 && len(c.RetryJoin) == 0 {
		fault("retry_join: required with bootstrap_expect %d: the raft_addr of the other servers", c.BootstrapExpect)
	}
	for i, addr := range c.RetryJoin {
		if !isHostPort(addr) {
			fault("retry_join[%d]: want host:port, got %q", i, addr)
		}
		if slices.Index(c.RetryJoin, addr) != i {
			fault("retry_join[%d]: is there twice: %q", i, addr)
		}
	}
	if c.RaftAdvertise != "" && !isHostPort(c.RaftAdvertise) {
		fault("raft_advertise: want host:port that the other servers can dial, got %q", c.RaftAdvertise)
	}
	if ip := net.ParseIP(raftHost); (raftHost == "" || ip != nil && ip.IsUnspecified()) && c.RaftAdvertise == "" && !c.alone() {
		fault("raft_advertise: required, since the other servers can't dial raft_addr %q", c.RaftAddr)
	}
	switch set := c.raftTLS(); {
	case set && (c.RaftCAFile == "" || c.RaftCertFile == "" || c.RaftKeyFile == ""):
		fault("raft_ca_file, raft_cert_file, raft_key_file: set all or none, got %q, %q and %q", c.RaftCAFile, c.RaftCertFile, c.RaftKeyFile)
	case !set && !isLoopback(raftHost):
		fault("raft_ca_file: required unless raft_addr is a loopback address, raft_addr is %q", c.RaftAddr)
	}
	if c.API != "" {
		if u, err := url.Parse(c.API); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			fault("api_advertise: want http://host:port or https://host:port, got %q", c.API)
		}
	}
	if c.RemoveDeadAfter != "" {
		if d, err := time.ParseDuration(c.RemoveDeadAfter); err != nil || d < time.Minute {
			fault("remove_dead_after: want a duration of at least 1m such as 72h, got %q", c.RemoveDeadAfter)
		}
	}
}

func isHostPort(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	return err == nil && host != "" && port != "" && port != "0"
}

func (c *Config) raftTLS() bool {
	return c.RaftCAFile != "" || c.RaftCertFile != "" || c.RaftKeyFile != ""
}

// peerTLS is the configuration of connections to the other servers; nil: none.
func (c *Config) peerTLS() (*tls.Config, error) {
	if !c.raftTLS() {
		return nil, nil
	}
	return tlsca.PeerConfig("raft_", tlsca.Files{CA: c.RaftCAFile, Cert: c.RaftCertFile, Key: c.RaftKeyFile})
}

// apiTLS is the configuration of the API; nil: none.
func (c *Config) apiTLS() (*tls.Config, error) {
	if c.CertFile == "" {
		return nil, nil
	}
	pair, err := tlsca.LoadPair("", c.CertFile, c.KeyFile)
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: pair.GetCertificate, NextProtos: []string{"h2", "http/1.1"}}, nil
}

// apiURL is where clients reach this server, as the others are told.
func (c *Config) apiURL() string {
	if c.API != "" {
		return c.API
	}
	scheme := "http"
	if c.CertFile != "" {
		scheme = "https"
	}
	return fmt.Sprintf("%s://%s", scheme, c.Listen)
}

// certNotAfter is when the certificate between servers ends; zero: there is
// none, or it can't be read.
func (c *Config) certNotAfter() time.Time {
	if !c.raftTLS() {
		return time.Time{}
	}
	pair, err := tlsca.LoadPair("raft_", c.RaftCertFile, c.RaftKeyFile)
	if err != nil {
		return time.Time{}
	}
	return pair.NotAfter()
}
