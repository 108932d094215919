package tlsca_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/joulecloud/joule/raftstore"
	"github.com/joulecloud/joule/settlement/tlsca"
)

type authority struct{ dir string }

func newAuthority(t *testing.T) authority {
	t.Helper()
	a := authority{t.TempDir()}
	if _, err := tlsca.CreateCA(a.dir, "test", tlsca.CAValidity); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a authority) ca() string { return filepath.Join(a.dir, tlsca.CAFile) }

func (a authority) server(t *testing.T, name string) tlsca.Files {
	t.Helper()
	c, err := tlsca.CreateCert(a.dir, a.ca(), filepath.Join(a.dir, tlsca.CAKeyFile), tlsca.CertOptions{Name: name, Validity: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return tlsca.Files{CA: a.ca(), Cert: c.CertFile, Key: c.KeyFile}
}

// other makes a certificate that the authority signed for something else.
func (a authority) other(t *testing.T, name string, dns []string, notAfter time.Time) tlsca.Files {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(a.ca(), filepath.Join(a.dir, tlsca.CAKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name}, DNSNames: dns,
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: notAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	f := tlsca.Files{CA: a.ca(), Cert: filepath.Join(a.dir, name+".pem"), Key: filepath.Join(a.dir, name+"-key.pem")}
	for path, block := range map[string]*pem.Block{f.Cert: {Type: "CERTIFICATE", Bytes: der}, f.Key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// Only a certificate of the cluster's own authority, for a server, and not
// expired gets through to the other servers' port, in either direction.
func TestWhoGetsThrough(t *testing.T) {
	t.Parallel()
	a, foreign := newAuthority(t), newAuthority(t)
	conf, err := tlsca.PeerConfig("raft_", a.server(t, "s1"))
	if err != nil {
		t.Fatal(err)
	}
	mux, err := raftstore.ListenMux("127.0.0.1:0", "", conf)
	if err != nil {
		t.Fatal(err)
	}
	defer mux.Close()
	go func() { // echoes one byte to whoever gets through
		for {
			c, err := mux.Peer().Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.CopyN(c, c, 1) }()
		}
	}()
	// hello dials as a client that checks nothing, so that it is the server
	// that refuses.
	hello := func(certs ...tls.Certificate) error {
		d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, Certificates: certs}}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c, err := d.DialContext(ctx, "tcp", mux.Addr())
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Write([]byte("Px")); err != nil {
			return err
		}
		var b [1]byte
		_, err = io.ReadFull(c, b[:])
		return err
	}
	load := func(f tlsca.Files) tls.Certificate {
		c, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if err := hello(load(a.server(t, "s2"))); err != nil {
		t.Errorf("a server of the cluster: got %v, want to get through", err)
	}
	for name, certs := range map[string][]tls.Certificate{
		"no certificate":       nil,
		"a foreign authority":  {load(foreign.server(t, "s2"))},
		"not a server's":       {load(a.other(t, "host", []string{"host.example"}, time.Now().Add(time.Hour)))},
		"expired":              {load(a.other(t, "old", []string{tlsca.ServerRole}, time.Now().Add(-time.Hour)))},
		"the authority itself": {load(tlsca.Files{Cert: a.ca(), Key: filepath.Join(a.dir, tlsca.CAKeyFile)})},
	} {
		if err := hello(certs...); err == nil {
			t.Errorf("%s: got through", name)
		}
	}
	// The other way round a server refuses to speak to a stranger.
	theirs, err := tlsca.PeerConfig("raft_", foreign.server(t, "s3"))
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := raftstore.ListenMux("127.0.0.1:0", "", theirs)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if c, err := mux.DialPeer(t.Context(), stranger.Addr()); err == nil {
		c.Close()
		t.Error("a server spoke to a stranger")
	}
	// A plain connection, and garbage after a good handshake, open nothing.
	plain, err := net.Dial("tcp", mux.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	plain.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := plain.Write([]byte("PRI * HTTP/2.0\r\n\r\n")); err == nil {
		if b, err := io.ReadAll(plain); err == nil && len(b) > 16 {
			t.Errorf("a plain connection was answered %q", b)
		}
	}
}

// A server with a certificate that the others would refuse says so when it
// starts, with the field and the file.
func TestBadCertificateIsFoundAtTheStart(t *testing.T) {
	t.Parallel()
	a, foreign := newAuthority(t), newAuthority(t)
	good := a.server(t, "s1")
	open := a.server(t, "open")
	if err := os.Chmod(open.Key, 0o640); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(a.dir, "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		files tlsca.Files
		want  []string
	}{
		{"expired", a.other(t, "old", []string{tlsca.ServerRole}, time.Now().Add(-time.Hour)), []string{"raft_cert_file", "old.pem", "is valid from"}},
		{"foreign", tlsca.Files{CA: foreign.ca(), Cert: good.Cert, Key: good.Key}, []string{"raft_cert_file", "not of the authority"}},
		{"not a server's", a.other(t, "host", []string{"host.example"}, time.Now().Add(time.Hour)), []string{"raft_cert_file", tlsca.ServerRole}},
		{"open key", open, []string{"raft_key_file", "0640", "chmod 600"}},
		{"another's key", tlsca.Files{CA: a.ca(), Cert: good.Cert, Key: a.server(t, "s2").Key}, []string{"raft_cert_file, raft_key_file"}},
		{"no CA", tlsca.Files{CA: empty, Cert: good.Cert, Key: good.Key}, []string{"raft_ca_file", "no PEM certificate"}},
		{"absent", tlsca.Files{CA: a.ca(), Cert: filepath.Join(a.dir, "none"), Key: good.Key}, []string{"raft_cert_file", "none"}},
	} {
		_, err := tlsca.PeerConfig("raft_", tt.files)
		if err == nil {
			t.Errorf("%s: got no error", tt.name)
			continue
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q in it", tt.name, err, want)
			}
		}
	}
	if _, err := tlsca.PeerConfig("raft_", good); err != nil {
		t.Error(err)
	}
}

// A renewed certificate is used without a restart, and a broken one never.
func TestRenewal(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	f := a.server(t, "s1")
	pair, err := tlsca.LoadPair("", f.Cert, f.Key)
	if err != nil {
		t.Fatal(err)
	}
	first, err := pair.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.Cert, []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := pair.GetCertificate(nil); err != nil || got != first {
		t.Errorf("with a broken file: got another certificate or %v", err)
	}
	next := a.server(t, "s2")
	for from, to := range map[string]string{next.Key: f.Key, next.Cert: f.Cert} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := pair.GetCertificate(nil); err != nil || got == first {
		t.Errorf("after the renewal: got the old certificate or %v", err)
	}
}
