package tlsca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// ServerRole is the DNS name that every server's certificate carries.
const ServerRole = "server.joule.internal"

// The names of an authority's files.
const (
	CAFile    = "joule-ca.pem"
	CAKeyFile = "joule-ca-key.pem"
)

// Validities that are chosen where none is given.
const (
	CAValidity   = 10 * 365 * 24 * time.Hour
	CertValidity = 365 * 24 * time.Hour
)

// backdate lets a certificate be used at once by a server whose clock is late.
const backdate = 5 * time.Minute

// Created says what was made.
type Created struct {
	CertFile, KeyFile string
	NotAfter          time.Time
	DNS               []string
	IPs               []net.IP
}

// CreateCA makes an authority called name in dir, which must exist. It refuses
// to overwrite either file.
func CreateCA(dir, name string, validity time.Duration) (*Created, error) {
	if name == "" {
		return nil, errors.New("name: must not be empty")
	}
	if validity < time.Hour {
		return nil, fmt.Errorf("validity: must be at least an hour (got %s)", validity)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: name, Organization: []string{"Joule"}},
		NotBefore:             time.Now().Add(-backdate),
		NotAfter:              time.Now().Add(validity),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	out := &Created{CertFile: filepath.Join(dir, CAFile), KeyFile: filepath.Join(dir, CAKeyFile), NotAfter: template.NotAfter}
	return out, writePair(out, der, key)
}

// CertOptions say what a server's certificate is for.
type CertOptions struct {
	Name     string // of the server, and of the files
	DNS      []string
	IPs      []net.IP
	Validity time.Duration
}

// Validate reports every fault, each naming the field and the value.
func (o *CertOptions) Validate() error {
	var errs []error
	if o.Name == "" || strings.ContainsAny(o.Name, " \t\n/\\") || strings.HasPrefix(o.Name, ".") {
		errs = append(errs, fmt.Errorf("name: want a word without spaces and slashes (got %q)", o.Name))
	}
	for i, d := range o.DNS {
		if d == "" || strings.ContainsAny(d, " \t\n/:@") {
			errs = append(errs, fmt.Errorf("dns[%d]: want a host name (got %q)", i, d))
		}
	}
	for i, ip := range o.IPs {
		if ip == nil {
			errs = append(errs, fmt.Errorf("ip[%d]: want an IP address", i))
		}
	}
	if o.Validity < time.Hour {
		errs = append(errs, fmt.Errorf("validity: must be at least an hour (got %s)", o.Validity))
	}
	return errors.Join(errs...)
}

// CreateCert makes a server's certificate in dir, signed by the authority in
// caFile and caKeyFile. Loopback names are always in it, for the person at the
// server's own console. It refuses to overwrite either file.
func CreateCert(dir, caFile, caKeyFile string, o CertOptions) (*Created, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	ca, caKey, err := loadCA(caFile, caKeyFile)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	notAfter := time.Now().Add(o.Validity)
	if notAfter.After(ca.NotAfter) {
		notAfter = ca.NotAfter // it would end there anyway
	}
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: o.Name, Organization: []string{"Joule"}},
		NotBefore:    time.Now().Add(-backdate),
		NotAfter:     notAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:     append([]string{ServerRole, "localhost"}, o.DNS...),
		IPAddresses:  append([]net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, o.IPs...),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	out := &Created{
		CertFile: filepath.Join(dir, o.Name+".pem"), KeyFile: filepath.Join(dir, o.Name+"-key.pem"),
		NotAfter: notAfter, DNS: template.DNSNames, IPs: template.IPAddresses,
	}
	return out, writePair(out, der, key)
}

func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:])
	b[0] &= 0x7f // positive
	b[15] |= 1   // not zero
	return new(big.Int).SetBytes(b[:])
}

func loadCA(certFile, keyFile string) (*x509.Certificate, crypto.Signer, error) {
	certs, err := readCerts("ca", certFile)
	if err != nil {
		return nil, nil, err
	}
	ca := certs[0]
	if !ca.IsCA {
		return nil, nil, fmt.Errorf("ca: %s holds no authority's certificate", certFile)
	}
	if now := time.Now(); now.After(ca.NotAfter) {
		return nil, nil, fmt.Errorf("ca: the certificate in %s expired at %s", certFile, ca.NotAfter.UTC().Format(time.RFC3339))
	}
	if err := checkPrivate("ca_key", keyFile); err != nil {
		return nil, nil, err
	}
	text, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, nil, fmt.Errorf("ca_key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, nil, fmt.Errorf("ca_key: %s holds no PEM key", keyFile)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("ca_key: %s: %w", keyFile, err)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, nil, fmt.Errorf("ca_key: %s holds a key that can't sign", keyFile)
	}
	if pub, ok := ca.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(key.Public()) {
		return nil, nil, fmt.Errorf("ca_key: %s is not the key of the certificate in %s", keyFile, certFile)
	}
	return ca, key, nil
}

// writePair writes the key first: a certificate without a key is useless, the
// other way round a repeat would be refused over it.
func writePair(c *Created, der []byte, key *ecdsa.PrivateKey) error {
	for _, path := range []string{c.KeyFile, c.CertFile} {
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("%s: there already, and never overwritten", path)
		} else if !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode key: %w", err)
	}
	if err := writeFile(c.KeyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})); err != nil {
		return err
	}
	if err := writeFile(c.CertFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})); err != nil {
		return errors.Join(err, os.Remove(c.KeyFile))
	}
	return nil
}

func writeFile(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s: there already, and never overwritten", path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(path))
	}
	return nil
}
