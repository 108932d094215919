package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/joulecloud/joule/cli/command"
	"github.com/joulecloud/joule/settlement/backup"
	"github.com/joulecloud/joule/settlement/daemon"
	"github.com/joulecloud/joule/settlement/tlsca"
)

func createCA(o command.CertificateOptions) (*command.Certificate, error) {
	made, err := tlsca.CreateCA(o.Dir, o.Name, o.Validity)
	return certificate(made), err
}

func createCert(o command.CertificateOptions) (*command.Certificate, error) {
	made, err := tlsca.CreateCert(o.Dir, o.CA, o.CAKey, tlsca.CertOptions{Name: o.Name, DNS: o.DNS, IPs: o.IPs, Validity: o.Validity})
	return certificate(made), err
}

func certificate(c *tlsca.Created) *command.Certificate {
	if c == nil {
		return nil
	}
	out := &command.Certificate{CertFile: c.CertFile, KeyFile: c.KeyFile, NotAfter: c.NotAfter, DNS: c.DNS}
	for _, ip := range c.IPs {
		out.IPs = append(out.IPs, ip.String())
	}
	return out
}

func recoverCluster(configPath, peersFile string) (*command.Recovery, error) {
	cfg, err := daemon.Load(configPath)
	if err != nil {
		return nil, command.Invalid(err)
	}
	r, err := daemon.Recover(cfg, peersFile, logger(slog.LevelWarn))
	if err != nil {
		return nil, command.Invalid(err)
	}
	out := &command.Recovery{Server: r.Server, Block: r.Block, Digest: r.Digest}
	for _, p := range r.Peers {
		out.Peers = append(out.Peers, fmt.Sprintf("%s at %s", p.ID, p.Address))
	}
	return out, nil
}

func readBackup(path string, verify bool) (_ *command.Backup, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	read := func(r io.Reader) (*backup.Meta, error) { return backup.Inspect(r) }
	if verify {
		read = backup.Verify
	}
	m, err := read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &command.Backup{Created: m.Created, Server: m.Server, Program: m.Program, Block: m.Block, Digest: m.Digest, Entries: m.Entries,
		LedgerUnixMs: m.LedgerUnixMs, Accounts: m.Accounts, Leases: m.Leases, Verified: verify}, nil
}
