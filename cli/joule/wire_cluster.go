package main

import (
	"github.com/joulecloud/joule/cli/command"
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
