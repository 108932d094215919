package raftstore

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// mutualTLS is a config with a certificate for 127.0.0.1 of a new authority.
func mutualTLS(tb testing.TB) *tls.Config {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs:      pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}
}

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	cfg := mutualTLS(t)
	c := newCluster(t, func(rc *Config) { rc.TLS = cfg })
	c.converge(c.propose("over TLS"))

	stranger := mutualTLS(t)
	for _, tt := range []struct {
		name string
		cfg  *tls.Config
	}{
		{"no certificate", &tls.Config{RootCAs: cfg.RootCAs}},
		{"another authority's certificate", &tls.Config{RootCAs: cfg.RootCAs, Certificates: stranger.Certificates}},
	} {
		conn, err := tls.Dial("tcp", c.peers[0].Addr, tt.cfg)
		if err == nil { // TLS 1.3 tells a client of its refusal at its first read
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			_, err = conn.Read(make([]byte, 1))
			conn.Close()
		}
		var refused *net.OpError
		if !errors.As(err, &refused) || refused.Timeout() {
			t.Errorf("%s: got %v, want a refusal", tt.name, err)
		}
	}
}

func TestValidateTLS(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "s1", t.TempDir())
	cfg.TLS = mutualTLS(t)
	if err := cfg.Validate(); err != nil {
		t.Errorf("mutual TLS: %v", err)
	}
	for name, spoil := range map[string]func(*tls.Config){
		"one-sided":      func(c *tls.Config) { c.ClientAuth = tls.NoClientCert },
		"unverified":     func(c *tls.Config) { c.InsecureSkipVerify = true },
		"no certificate": func(c *tls.Config) { c.Certificates = nil },
	} {
		cfg.TLS = mutualTLS(t)
		spoil(cfg.TLS)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "raft.tls: must") {
			t.Errorf("%s: got %v, want a fault of raft.tls", name, err)
		}
	}
}

// Close ends accepted connections as well, so that no handler outlives it.
func TestCloseEndsConnections(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, testConfig(t, "s1", t.TempDir()), &list{})
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	mustLead(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	var timeout net.Error
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("read from a closed server's connection: got %v, want its end", err)
	}
}

func TestLogAdapter(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	h := slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	l := newHCLogger(slog.New(h), "raft").Named("net").With("peer", "s2")
	l.Debug("unseen")
	l.Warn("slow", "state", hclog.Fmt("%d/%d", 1, 2), "error", errors.New("boom"), "odd")
	l.StandardLogger(nil).Print("plain")
	want := "level=WARN msg=slow component=raft.net peer=s2 state=1/2 error=boom extra=odd\n" +
		"level=INFO msg=plain component=raft.net peer=s2\n"
	if got := out.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if l.IsDebug() || !l.IsInfo() || l.GetLevel() != hclog.Info {
		t.Errorf("level: got %v", l.GetLevel())
	}
}
