package doctor

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"connectrpc.com/connect"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
	"github.com/joulecloud/joule/settlement/client"
	"github.com/joulecloud/joule/settlement/wire"

	"github.com/joulecloud/joule/driver/hostd"
)

const (
	certificateSoon = 14 * 24 * time.Hour
	skewWarn        = 5 * time.Second
	// noAllocation asks for a lease that can't exist: what the server makes of the
	// signature is the answer.
	noAllocation = "joule-doctor"
)

// checkServers asks every settlement server, side by side.
func checkServers(ctx context.Context, e *examination) {
	if e.needsConfig("all") {
		return
	}
	key, err := hostd.ReadKey(e.sys.path(e.cfg.DataDir))
	if err != nil {
		key = nil // reported with the host key
	}
	parts := make([]*examination, len(e.cfg.Servers))
	var wg sync.WaitGroup
	for i, s := range e.cfg.Servers {
		part := *e
		part.report = &Report{}
		parts[i] = &part
		wg.Go(func() { part.server(ctx, s, key) })
	}
	wg.Wait()
	for _, p := range parts {
		e.report.Findings = append(e.report.Findings, p.report.Findings...)
	}
}

// server checks one server: the network, TLS, the clock, and whether it knows
// the host.
func (e *examination) server(ctx context.Context, addr string, key ed25519.PrivateKey) {
	ctx, cancel := context.WithTimeout(ctx, e.opt.Timeout)
	defer cancel()
	u, err := url.Parse(addr)
	if err != nil {
		e.fail(addr, "correct servers in "+e.opt.Config, "%v", err) // can't be: the configuration was checked
		return
	}
	start := time.Now()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", hostPort(u))
	if err != nil {
		e.unreachable(addr, err)
		return
	}
	took := time.Since(start)
	if u.Scheme == "https" {
		conn = e.handshake(ctx, addr, u.Hostname(), conn)
		if conn == nil {
			return
		}
	} else if ip := net.ParseIP(u.Hostname()); u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		e.warn(addr+" TLS", "give the server a certificate and write https://", "none: anyone on the way can read what this host reports")
	}
	_ = conn.Close() // it was only to see
	e.ok(addr, "reachable in %.1f ms", float64(took.Microseconds())/1000)
	e.ask(ctx, addr, key)
}

func hostPort(u *url.URL) string {
	if u.Port() != "" {
		return u.Host
	}
	return net.JoinHostPort(u.Hostname(), u.Scheme) // a service's name
}

func (e *examination) unreachable(addr string, err error) {
	advice := "is the server up, and does a firewall let this host out?"
	var dns *net.DNSError
	if errors.As(err, &dns) {
		advice = "correct servers in " + e.opt.Config + ", or this host's name service"
	}
	e.fail(addr, advice, "not reachable: %v", err)
}

// handshake speaks TLS with a server as a session would, and looks at its
// certificate. nil: it failed, and was reported.
func (e *examination) handshake(ctx context.Context, addr, name string, conn net.Conn) net.Conn {
	check := addr + " TLS"
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: name, NextProtos: []string{"h2"}}
	if e.cfg.CAFile != "" {
		pem, err := os.ReadFile(e.sys.path(e.cfg.CAFile))
		if err == nil {
			cfg.RootCAs = x509.NewCertPool()
			if !cfg.RootCAs.AppendCertsFromPEM(pem) {
				err = fmt.Errorf("%s holds no PEM certificate", e.cfg.CAFile)
			}
		}
		if err != nil {
			_ = conn.Close()
			e.fail(check, "put the operator's CA certificate there, or correct ca_file in "+e.opt.Config, "ca_file: %v", err)
			return nil
		}
	}
	c := tls.Client(conn, cfg)
	if err := c.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		var unknown x509.UnknownAuthorityError
		var wrongName x509.HostnameError
		var invalid x509.CertificateInvalidError
		advice := "is this the port of a settlement server that speaks TLS?"
		switch {
		case errors.As(err, &unknown):
			advice = "set ca_file in " + e.opt.Config + " to the certificate of the CA that signed the server's"
		case errors.As(err, &wrongName):
			advice = "name the server in servers as its certificate does"
		case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
			advice = "tell the operator; or is this host's clock wrong?"
		}
		e.fail(check, advice, "%v", err)
		return nil
	}
	end := c.ConnectionState().PeerCertificates[0].NotAfter
	if left := time.Until(end); left < certificateSoon {
		e.warn(check, "tell the operator", "the certificate ends on %s", end.UTC().Format(time.DateOnly))
	} else {
		e.ok(check, "certificate good until %s", end.UTC().Format(time.DateOnly))
	}
	return c
}

// ask asks a server for the time, and for a lease of a task that isn't: it
// refuses both an unknown host and a known one, for different reasons.
func (e *examination) ask(ctx context.Context, addr string, key ed25519.PrivateKey) {
	caFile := e.cfg.CAFile
	if caFile != "" {
		caFile = e.sys.path(caFile)
	}
	hc, err := client.HTTPClient(addr, caFile)
	if err != nil {
		e.fail(addr+" API", "", "%v", err)
		return
	}
	defer hc.CloseIdleConnections()
	e.skew(ctx, addr, hc)
	check := addr + " enrolled"
	if key == nil {
		e.none(check, "not asked: there is no host key")
		return
	}
	now := time.Now().UnixMilli()
	_, err = joulev1connect.NewHostServiceClient(hc, addr, connect.WithInterceptors(client.Errors(addr))).
		OpenLease(ctx, &joulev1.OpenLeaseRequest{AllocId: noAllocation, Task: noAllocation, Invocation: noAllocation,
			Auth: &joulev1.HostAuth{Host: e.cfg.Host, UnixMs: now, Signature: ed25519.Sign(key,
				wire.HostRequestSigningBytes("OpenLease", e.cfg.Host, now, wire.OpenLeaseBody(noAllocation, noAllocation, noAllocation)))}})
	var refused *client.Error
	switch {
	case err == nil:
		e.fail(check, "tell the operator", "the server opened a lease for an allocation that doesn't exist")
	case !errors.As(err, &refused):
		e.fail(addr+" API", "is this a settlement server, of this version?", "%v", err)
	case refused.Reason == joulev1.ErrorReason_ERROR_REASON_UNAUTHENTICATED, refused.Reason == joulev1.ErrorReason_ERROR_REASON_BAD_SIGNATURE:
		e.fail(check, fmt.Sprintf("joule host enroll %s --supplier NAME --class %s --public-key %x", e.cfg.Host, e.cfg.Class, key.Public()),
			"no: %s", refused.Message)
	case refused.Reason == joulev1.ErrorReason_ERROR_REASON_NO_ALLOCATION:
		e.ok(check, "as host %s", e.cfg.Host)
	case refused.Reason == joulev1.ErrorReason_ERROR_REASON_NOT_LEADER, refused.Reason == joulev1.ErrorReason_ERROR_REASON_UNAVAILABLE:
		e.warn(check, "try again; `joule status` shows whether the cluster has a leader and reaches Nomad", "can't be told now: %s", refused.Message)
	default:
		e.ok(check, "as host %s (%s)", e.cfg.Host, refused.Message)
	}
}

// skew compares the clock with the server's, by the date in an answer.
func (e *examination) skew(ctx context.Context, addr string, hc *http.Client) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, addr, nil)
	if err != nil {
		return
	}
	before := time.Now()
	resp, err := hc.Do(req)
	if err != nil {
		return // the question that follows reports it
	}
	_ = resp.Body.Close()
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return // it doesn't say
	}
	// The date has whole seconds, and was taken between the two.
	middle := before.Add(time.Since(before) / 2)
	if off := middle.Sub(date.Add(500 * time.Millisecond)); off.Abs() > skewWarn {
		e.warn(addr+" clock", "put this host's clock right (timedatectl set-ntp true): beyond 5 minutes the server refuses its requests", "this host's clock is %v off the server's", off.Round(time.Second))
	}
}
