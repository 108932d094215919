package doctor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"

	"github.com/joulecloud/joule/driver/hostd"
	"github.com/joulecloud/joule/settlement/loopback"
)

// hostService refuses every lease, for one reason.
type hostService struct {
	joulev1connect.UnimplementedHostServiceHandler
	reason  joulev1.ErrorReason
	message string
	date    time.Time // zero: now
}

func (h hostService) OpenLease(_ context.Context, r *joulev1.OpenLeaseRequest) (*joulev1.OpenLeaseResponse, error) {
	if r.Auth.GetHost() != "dc-1" || len(r.Auth.GetSignature()) != 64 {
		return nil, fmt.Errorf("got host %q and %d bytes of signature", r.Auth.GetHost(), len(r.Auth.GetSignature()))
	}
	err := connect.NewError(connect.CodeFailedPrecondition, errors.New(h.message))
	d, detailErr := connect.NewErrorDetail(&joulev1.Error{Reason: h.reason, Message: h.message})
	if detailErr != nil {
		return nil, detailErr
	}
	err.AddDetail(d)
	return nil, err
}

// serve runs the service with HTTP/2, with TLS where a certificate is given.
func (h hostService) serve(t *testing.T, cert *tls.Certificate) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(joulev1connect.NewHostServiceHandler(h))
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !h.date.IsZero() {
			w.Header().Set("Date", h.date.UTC().Format(http.TimeFormat))
		}
		mux.ServeHTTP(w, r)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes fail on purpose
	s.Config.Protocols = new(http.Protocols)
	if cert != nil {
		s.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
		s.EnableHTTP2 = true
		s.Config.Protocols.SetHTTP2(true)
		s.StartTLS()
	} else {
		s.Config.Protocols.SetUnencryptedHTTP2(true)
		s.Start()
	}
	t.Cleanup(s.Close)
	return s.URL
}

// certificate is signed by itself; file holds it in PEM.
func certificate(t *testing.T, name string, until time.Time) (cert *tls.Certificate, file string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: until.Add(-365 * 24 * time.Hour), NotAfter: until, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

// examineServer checks one server with a host that has a key.
func examineServer(t *testing.T, addr, caFile string) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := hostd.PublicKey(dir); err != nil {
		t.Fatal(err)
	}
	cfg := hostd.Default()
	cfg.Host, cfg.DataDir, cfg.Servers, cfg.CAFile = "dc-1", dir, []string{addr}, caFile
	e := &examination{sys: Machine("v"), opt: Options{Config: "hostd.hcl", Timeout: 10 * time.Second}, cfg: cfg, have: true, area: "servers", report: &Report{}}
	checkServers(t.Context(), e)
	return strings.ReplaceAll(render(e.report, dir), somePort.ReplaceAllString(addr, "127.0.0.1:PORT"), "S")
}

func TestServers(t *testing.T) {
	known := hostService{reason: joulev1.ErrorReason_ERROR_REASON_NO_ALLOCATION, message: "no allocation joule-doctor"}
	year := time.Now().Add(200 * 24 * time.Hour)
	good, goodCA := certificate(t, "127.0.0.1", year)
	_, otherCA := certificate(t, "127.0.0.1", year)
	soon, soonCA := certificate(t, "127.0.0.1", time.Now().Add(3*24*time.Hour))
	over, overCA := certificate(t, "127.0.0.1", time.Now().Add(-time.Hour))
	wrong, wrongCA := certificate(t, "s1.example", year)
	noPEM := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(noPEM, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	foreign := httptest.NewServer(http.NotFoundHandler())
	defer foreign.Close()
	for _, tc := range []struct {
		name, addr, ca string
		want           []string
		not            string
	}{
		{"known host, plain on loopback", known.serve(t, nil), "", []string{"ok servers / S: reachable", "ok servers / S enrolled: as host dc-1"}, "warn"},
		{"known host, TLS", known.serve(t, good), goodCA, []string{"ok servers / S TLS: certificate good until ", "ok servers / S enrolled"}, "fail"},
		{"certificate ends soon", known.serve(t, soon), soonCA, []string{"warn servers / S TLS: the certificate ends on ", "ok servers / S enrolled"}, "fail"},
		{"certificate of another CA", known.serve(t, good), otherCA, []string{"fail servers / S TLS: ", "set ca_file in hostd.hcl to the certificate of the CA"}, "enrolled"},
		{"certificate of the system's CAs", known.serve(t, good), "", []string{"fail servers / S TLS: ", "set ca_file in hostd.hcl"}, "enrolled"},
		{"certificate is over", known.serve(t, over), overCA, []string{"fail servers / S TLS: ", "tell the operator; or is this host's clock wrong?"}, "enrolled"},
		{"certificate of another server", known.serve(t, wrong), wrongCA, []string{"fail servers / S TLS: ", "name the server in servers as its certificate does"}, "enrolled"},
		{"no CA file", known.serve(t, good), "/nonexistent/ca.pem", []string{"fail servers / S TLS: ca_file: open /nonexistent/ca.pem"}, "enrolled"},
		{"CA file without a certificate", known.serve(t, good), noPEM, []string{"holds no PEM certificate"}, "enrolled"},
		{"TLS where there is none", strings.Replace(known.serve(t, nil), "http:", "https:", 1), goodCA, []string{"fail servers / S TLS: ", "is this the port of a settlement server that speaks TLS?"}, "enrolled"},
		{"unknown host", hostService{reason: joulev1.ErrorReason_ERROR_REASON_UNAUTHENTICATED, message: `host "dc-1" is not enrolled`}.serve(t, nil), "",
			[]string{`fail servers / S enrolled: no: host "dc-1" is not enrolled`, "joule host enroll dc-1 --supplier NAME --class crowd --public-key "}, "ok servers / S enrolled"},
		{"no leader", hostService{reason: joulev1.ErrorReason_ERROR_REASON_NOT_LEADER, message: "no leader"}.serve(t, nil), "", []string{"warn servers / S enrolled: can't be told now: no leader"}, "fail"},
		{"another clock", hostService{reason: known.reason, date: time.Now().Add(-time.Hour)}.serve(t, nil), "", []string{"warn servers / S clock: this host's clock is 1h0m", "off the server's"}, "fail"},
		{"nobody there", "http://" + quietAddr(t), "", []string{"fail servers / S: not reachable: ", "connection refused"}, "enrolled"},
		{"no such name", "https://no-such-server.invalid", "", []string{"fail servers / S: not reachable: ", "correct servers in hostd.hcl, or this host's name service"}, "enrolled"},
		{"not a settlement server", foreign.URL, "", []string{"fail servers / S API: ", "is this a settlement server, of this version?"}, "ok servers / S enrolled"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := examineServer(t, tc.addr, tc.ca)
			for _, w := range tc.want {
				if !strings.Contains(got, w) {
					t.Errorf("got no %q in:\n%s", w, got)
				}
			}
			if tc.not != "" && strings.Contains(got, tc.not) {
				t.Errorf("got %q in:\n%s", tc.not, got)
			}
		})
	}
}

// quietAddr is an address that nobody listens on.
func quietAddr(t *testing.T) string {
	t.Helper()
	addr, err := loopback.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}
