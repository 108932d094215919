package session

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/joulecloud/joule/settlement/wire"
)

// Config is who the host is and whom it speaks to.
type Config struct {
	Host    string
	Class   string
	Version string
	Key     ed25519.PrivateKey

	Incarnation [16]byte // new for each process
	BootID      [16]byte

	Servers []string // http:// (HTTP/2 without TLS) or https://
	CAFile  string   // PEM; "": the system's certificate authorities

	BackoffMin time.Duration // first pause before connecting again
	BackoffMax time.Duration // longest pause
	// Silence is how long a server may say nothing, or leave a batch without
	// an answer, before its session is cut.
	Silence time.Duration
	// Attempt bounds one try of OpenLease or CloseLease at one server.
	Attempt time.Duration

	Now func() time.Time // the wall clock
}

// Default returns a Config with every time set.
func Default() Config {
	return Config{
		BackoffMin: 50 * time.Millisecond,
		BackoffMax: 2 * time.Second,
		Silence:    5 * time.Second,
		Attempt:    4 * time.Second,
		Now:        time.Now,
	}
}

// Limits on one batch.
const (
	batchRecordsMax = 1024
	batchBytesMax   = 128 << 10
)

// batchLimit is the most records whose batch is within both limits.
func batchLimit() int {
	n := batchRecordsMax
	for wire.BatchSize(n) > batchBytesMax {
		n--
	}
	return n
}

// Validate reports every fault of the configuration.
func (c *Config) Validate() error {
	var errs []error
	if c.Host == "" {
		errs = append(errs, errors.New("host: must not be empty"))
	}
	if len(c.Key) != ed25519.PrivateKeySize {
		errs = append(errs, fmt.Errorf("key: must be an Ed25519 private key of %d bytes (got %d)", ed25519.PrivateKeySize, len(c.Key)))
	}
	if c.Now == nil {
		errs = append(errs, errors.New("now: must not be nil"))
	}
	if len(c.Servers) == 0 {
		errs = append(errs, errors.New("servers: must name at least one settlement server"))
	}
	for i, s := range c.Servers {
		if err := ValidateURL(s); err != nil {
			errs = append(errs, fmt.Errorf("servers[%d]: %w", i, err))
		}
	}
	for _, d := range []struct {
		name string
		v    time.Duration
	}{{"backoff_min", c.BackoffMin}, {"backoff_max", c.BackoffMax}, {"silence", c.Silence}, {"attempt", c.Attempt}} {
		if d.v <= 0 {
			errs = append(errs, fmt.Errorf("%s: must be above 0 (got %v)", d.name, d.v))
		}
	}
	if c.BackoffMax < c.BackoffMin {
		errs = append(errs, fmt.Errorf("backoff_max: must not be below backoff_min %v (got %v)", c.BackoffMin, c.BackoffMax))
	}
	return errors.Join(errs...)
}

// ValidateURL says what is wrong with a server's URL.
func ValidateURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return fmt.Errorf("must be a URL such as \"https://s1:7433\" (got %q)", s)
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("must begin with http:// or https:// (got %q)", s)
	case u.Hostname() == "":
		return fmt.Errorf("must name a server (got %q)", s)
	case !validPort(u.Port()):
		return fmt.Errorf("port must be from 1 to 65535 (got %q)", s)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		return fmt.Errorf("must be no more than scheme, server and port (got %q)", u.Redacted())
	}
	return nil
}

// validPort takes none for the scheme's own.
func validPort(p string) bool {
	if p == "" {
		return true
	}
	n, err := strconv.ParseUint(p, 10, 16)
	return err == nil && n > 0
}

// newTransport returns an HTTP/2 transport: TLS for https://, prior knowledge
// for http://.
func newTransport(caFile string) (*http.Transport, error) {
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS13}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		tlsConfig.RootCAs = x509.NewCertPool()
		if !tlsConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: %q holds no PEM certificate", caFile)
		}
	}
	return &http.Transport{
		Protocols:           &protocols,
		TLSClientConfig:     tlsConfig,
		TLSHandshakeTimeout: 5 * time.Second,
	}, nil
}
