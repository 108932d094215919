package tlsca

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// Files are a certificate, its key and the authority that the other side's
// must be of.
type Files struct {
	CA, Cert, Key string
}

// PeerConfig returns the configuration of connections between servers, good
// for both directions: each side shows a certificate of the authority with the
// name ServerRole. Certificate and key are read again when their files change,
// so that they can be renewed under a running server. prefix names the fields
// in errors, such as "raft_".
func PeerConfig(prefix string, f Files) (*tls.Config, error) {
	certs, err := readCerts(prefix+"ca_file", f.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	pair, err := LoadPair(prefix, f.Cert, f.Key)
	if err != nil {
		return nil, err
	}
	leaf, err := pair.leaf()
	if err != nil {
		return nil, err
	}
	if err := checkLeaf(leaf, pool); err != nil {
		return nil, fmt.Errorf("%scert_file: %s: %w", prefix, f.Cert, err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    pool,
		ClientCAs:  pool,
		ClientAuth: tls.RequireAndVerifyClientCert,
		ServerName: ServerRole,
		// A resumed session would not be checked against the clock again.
		SessionTicketsDisabled: true,
		GetCertificate:         pair.GetCertificate,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return pair.GetCertificate(nil)
		},
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return errors.New("no certificate")
			}
			return cs.PeerCertificates[0].VerifyHostname(ServerRole)
		},
	}, nil
}

// checkLeaf says why the other servers would refuse this server's certificate:
// better at the start than at the first connection.
func checkLeaf(leaf *x509.Certificate, pool *x509.CertPool) error {
	_, err := leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: ServerRole,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if err == nil {
		_, err = leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	}
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("is valid from %s to %s: make a new one with `joule tls cert create`",
			leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339))
	case errors.As(err, &unknown):
		return fmt.Errorf("is not of the authority in the CA file: %w", err)
	case errors.As(err, &name):
		return fmt.Errorf("is no server's, for it lacks the name %s: make one with `joule tls cert create`", ServerRole)
	}
	return err
}

// Pair is a certificate with its key, read again when a file changes. It is
// safe for concurrent use.
type Pair struct {
	prefix            string
	certFile, keyFile string

	mu     sync.Mutex
	cert   *tls.Certificate
	stamps [2]stamp
}

type stamp struct {
	mod  time.Time
	size int64
}

// LoadPair reads a certificate and its key, which must be private to its owner.
func LoadPair(prefix, certFile, keyFile string) (*Pair, error) {
	p := &Pair{prefix: prefix, certFile: certFile, keyFile: keyFile}
	stamps, err := p.stat()
	if err != nil {
		return nil, err
	}
	return p, p.load(stamps)
}

// GetCertificate is for tls.Config. While new files can't be read, the old
// certificate serves on.
func (p *Pair) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if stamps, err := p.stat(); err == nil && stamps != p.stamps {
		_ = p.load(stamps) // half-written files: the next handshake tries again
	}
	return p.cert, nil
}

// NotAfter is when the certificate in use ends.
func (p *Pair) NotAfter() time.Time {
	leaf, err := p.leaf()
	if err != nil {
		return time.Time{}
	}
	return leaf.NotAfter
}

func (p *Pair) leaf() (*x509.Certificate, error) {
	c, err := p.GetCertificate(nil)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(c.Certificate[0])
}

func (p *Pair) stat() (out [2]stamp, err error) {
	for i, f := range []struct{ field, path string }{{"cert_file", p.certFile}, {"key_file", p.keyFile}} {
		info, err := os.Stat(f.path)
		if err != nil {
			return out, fmt.Errorf("%s%s: %w", p.prefix, f.field, err)
		}
		out[i] = stamp{info.ModTime(), info.Size()}
	}
	return out, nil
}

func (p *Pair) load(stamps [2]stamp) error {
	if err := checkPrivate(p.prefix+"key_file", p.keyFile); err != nil {
		return err
	}
	cert, err := tls.LoadX509KeyPair(p.certFile, p.keyFile)
	if err != nil {
		return fmt.Errorf("%scert_file, %skey_file: %w", p.prefix, p.prefix, err)
	}
	p.cert, p.stamps = &cert, stamps
	return nil
}

// checkPrivate refuses a secret that others can read.
func checkPrivate(field, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s: %s is readable by others (mode %04o): chmod 600 it", field, path, info.Mode().Perm())
	}
	return nil
}

func readCerts(field, path string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	var out []*x509.Certificate
	for len(text) > 0 {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", field, path, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: %s holds no PEM certificate", field, path)
	}
	return out, nil
}
