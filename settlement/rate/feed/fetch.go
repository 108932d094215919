package feed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/joulecloud/joule/settlement/rate"
)

// Bounds of what a source may ask of us.
const (
	redirectsMax   = 3
	timeoutDefault = 5 * time.Second
	timeoutMax     = time.Minute
	bodyDefault    = 64 << 10
	bodyMax        = 1 << 20
	answerAgeMax   = 24 * time.Hour // of the Age header; more is taken for this
)

// Source is one place that says what a JOULE costs, in USD.
type Source struct {
	Name     string
	URL      string // https; http only to this machine
	Path     string // to the price: see rate.Path
	TimePath string // to the time of the price; "": when the answer came, less its Age
	Weight   uint32
	Timeout  time.Duration // of a whole answer
	BodyMax  int           // bytes
}

// source is a Source that has been checked.
type source struct {
	Source
	path, timePath rate.Path
}

// check fills defaults in and reports every fault at once.
func (s Source) check() (source, error) {
	var errs []error
	fault := func(field, value, rule string) {
		errs = append(errs, fmt.Errorf("source %q: %w", s.Name, &rate.Error{Field: field, Value: value, Rule: rule}))
	}
	if s.Timeout == 0 {
		s.Timeout = timeoutDefault
	}
	if s.BodyMax == 0 {
		s.BodyMax = bodyDefault
	}
	out := source{Source: s}
	if s.Name == "" || len(s.Name) > 64 {
		fault("name", s.Name, "must be 1 to 64 bytes")
	}
	if u, err := url.Parse(s.URL); err != nil || u.Host == "" || checkTarget(u) != nil {
		fault("url", s.URL, "must be https://…, or http:// to a loopback address")
	} else if u.User != nil {
		fault("url", u.Redacted(), "must not carry a password")
	}
	if s.Weight < 1 || s.Weight > rate.WeightMax {
		fault("weight", strconv.FormatUint(uint64(s.Weight), 10), fmt.Sprintf("must be 1 to %d", rate.WeightMax))
	}
	if s.Timeout < time.Millisecond || s.Timeout > timeoutMax {
		fault("timeout", s.Timeout.String(), "must be 1ms to "+timeoutMax.String())
	}
	if s.BodyMax < 1 || s.BodyMax > bodyMax {
		fault("max_body", strconv.Itoa(s.BodyMax), fmt.Sprintf("must be 1 to %d", bodyMax))
	}
	var err error
	if out.path, err = rate.ParsePath("path", s.Path); err != nil {
		errs = append(errs, fmt.Errorf("source %q: %w", s.Name, err))
	}
	if s.TimePath != "" {
		if out.timePath, err = rate.ParsePath("time_path", s.TimePath); err != nil {
			errs = append(errs, fmt.Errorf("source %q: %w", s.Name, err))
		}
	}
	return out, errors.Join(errs...)
}

// checkTarget refuses what anyone on the way could have written.
func checkTarget(u *url.URL) error {
	ip := net.ParseIP(u.Hostname())
	local := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	if u.Scheme == "https" || u.Scheme == "http" && local {
		return nil
	}
	return fmt.Errorf("neither https nor this machine: %s", u.Redacted())
}

// newHTTP returns a client that keeps no cookies and follows few redirects,
// none of them to an address that a source may not have.
func newHTTP(transport http.RoundTripper) *http.Client {
	return &http.Client{
		Transport: transport,
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > redirectsMax {
				return fmt.Errorf("more than %d redirects", redirectsMax)
			}
			// An outside source must not make us ask our own machine.
			if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
				return fmt.Errorf("redirected from https to %s", req.URL.Redacted())
			}
			return checkTarget(req.URL)
		},
	}
}

// fetch asks a source once.
func (f *Feed) fetch(ctx context.Context, s *source) (rate.Quote, error) {
	q := rate.Quote{Source: s.Name, Weight: s.Weight}
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
	if err != nil {
		return q, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "joule")
	resp, err := f.http.Do(req)
	if err != nil {
		return q, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return q, fmt.Errorf("answered %q", resp.Status)
	}
	document, err := decode(resp.Body, s.BodyMax)
	if err != nil {
		return q, err
	}
	text, err := s.path.Find(document)
	if err != nil {
		return q, err
	}
	if q.NUSD, err = rate.ParsePrice("answer at "+s.Path, text); err != nil {
		return q, err
	}
	q.At = f.cfg.Now().Add(-answerAge(resp.Header)).UnixMilli()
	if s.TimePath == "" {
		return q, nil
	}
	if text, err = s.timePath.Find(document); err != nil {
		return q, err
	}
	if t, terr := time.Parse(time.RFC3339Nano, text); terr == nil {
		q.At = t.UnixMilli()
	} else if q.At, err = rate.ParseTime("answer at "+s.TimePath, text); err != nil {
		return q, err
	}
	return q, nil
}

// decode reads one JSON document of at most most bytes and nothing after it.
func decode(r io.Reader, most int) (any, error) {
	b, err := io.ReadAll(io.LimitReader(r, int64(most)+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if len(b) > most {
		return nil, fmt.Errorf("the answer has more than %d bytes", most)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var document any
	if err := dec.Decode(&document); err != nil {
		return nil, fmt.Errorf("the answer is not JSON: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("the answer goes on after its JSON document")
	}
	return document, nil
}

// answerAge is how long a cache on the way has held the answer.
func answerAge(h http.Header) time.Duration {
	n, err := strconv.ParseUint(h.Get("Age"), 10, 31)
	if err != nil {
		return 0
	}
	return min(time.Duration(n)*time.Second, answerAgeMax)
}
