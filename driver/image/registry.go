package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// errNoRange is returned when a registry can only send a layer from its start.
var errNoRange = errors.New("the registry broke off, and doesn't send the rest of the layer")

// deniedError is a registry's answer that asking again doesn't change.
type deniedError struct{ err error }

func (e *deniedError) Error() string { return e.err.Error() }
func (e *deniedError) Unwrap() error { return e.err }

// permitted checks the supplier's list of registries.
func (c *Config) permitted(reg name.Registry) error {
	host := reg.RegistryStr()
	for _, p := range c.Registries {
		if p == host || p == "docker.io" && host == name.DefaultRegistry || p == anyRegistry && public(host) {
			return nil
		}
	}
	return fmt.Errorf("image: this host's supplier allows no images from registry %q (images.registries is %q)", host, c.Registries)
}

// anyRegistry in the list stands for every registry with a public name: an
// address, a port or a name of the local network has to be listed by itself, so
// that a customer can't make hostd ask a service of the supplier's own.
const anyRegistry = "*"

func public(host string) bool {
	if h, port, err := net.SplitHostPort(host); err == nil {
		if port != "443" {
			return false
		}
		host = h
	}
	return strings.Contains(host, ".") && net.ParseIP(host) == nil && !strings.HasSuffix(host, ".local") &&
		!strings.HasSuffix(host, ".internal") && !strings.HasSuffix(host, ".localhost")
}

// auth finds the credentials for a registry in a file of Docker's format. It is
// read each time, so that it may be changed.
func (c *Config) auth(reg name.Registry) (authn.Authenticator, error) {
	if c.AuthFile == "" {
		return authn.Anonymous, nil
	}
	info, err := os.Stat(c.AuthFile)
	if err != nil {
		return nil, fmt.Errorf("images.auth_file: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("images.auth_file: %q has mode %04o: others can read it, make it 0600", c.AuthFile, info.Mode().Perm())
	}
	b, err := os.ReadFile(c.AuthFile)
	if err != nil {
		return nil, fmt.Errorf("images.auth_file: %w", err)
	}
	var f struct {
		Auths map[string]authn.AuthConfig `json:"auths"`
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("images.auth_file: %q is not of Docker's format: %w", c.AuthFile, err)
	}
	for key, a := range f.Auths {
		host := strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
		host, _, _ = strings.Cut(host, "/")
		if host == reg.RegistryStr() || host == "docker.io" && reg.RegistryStr() == name.DefaultRegistry {
			return authn.FromConfig(a), nil
		}
	}
	return authn.Anonymous, nil
}

// fromRegistry asks a registry what an image is made of.
func (c *Config) fromRegistry(ctx context.Context, ref Ref) (*manifest, error) {
	opts := []name.Option{}
	for _, r := range c.Insecure {
		if r == ref.registry.Context().RegistryStr() {
			opts = append(opts, name.Insecure)
		}
	}
	r, err := name.ParseReference(ref.text, opts...)
	if err != nil {
		return nil, err
	}
	auth, err := c.auth(r.Context().Registry)
	if err != nil {
		return nil, &deniedError{err}
	}
	tr, err := transport.NewWithContext(ctx, r.Context().Registry, auth, newTransport(), []string{r.Context().Scope(transport.PullScope)})
	if err != nil {
		return nil, classify(err)
	}
	desc, err := remote.Get(r, remote.WithContext(ctx), remote.WithTransport(tr), remote.WithPlatform(c.Platform))
	if err != nil {
		return nil, classify(err)
	}
	id, rawManifest := desc.Digest, desc.Manifest
	if desc.MediaType.IsIndex() {
		idx, err := v1.ParseIndexManifest(strings.NewReader(string(desc.Manifest)))
		if err != nil {
			return nil, &deniedError{fmt.Errorf("read index: %w", err)}
		}
		child, err := pickPlatform(idx.Manifests, c.Platform)
		if err != nil {
			return nil, &deniedError{err}
		}
		id = child.Digest
		childDesc, err := remote.Get(r.Context().Digest(id.String()), remote.WithContext(ctx), remote.WithTransport(tr))
		if err != nil {
			return nil, classify(err)
		}
		rawManifest = childDesc.Manifest
	}
	m, err := v1.ParseManifest(strings.NewReader(string(rawManifest)))
	if err != nil {
		return nil, &deniedError{fmt.Errorf("read manifest: %w", err)}
	}
	if err := checkHash(id); err != nil {
		return nil, &deniedError{err}
	}
	blobs := &blobs{client: &http.Client{Transport: tr}, repo: r.Context()}
	layers, err := blobs.layers(m)
	if err != nil {
		return nil, &deniedError{err}
	}
	cfg, err := blobs.small(ctx, m.Config)
	if err != nil {
		return nil, err
	}
	out, err := newManifest(id.Hex, cfg, layers, c.Platform)
	if err != nil {
		return nil, &deniedError{err}
	}
	return out, nil
}

// classify tells a registry's refusal from one that can't be reached.
func classify(err error) error {
	var te *transport.Error
	if errors.As(err, &te) && te.StatusCode >= 400 && te.StatusCode < 500 &&
		te.StatusCode != http.StatusRequestTimeout && te.StatusCode != http.StatusTooManyRequests {
		return &deniedError{err}
	}
	return err
}

// newTransport is the standard one with a bound on silence and on what
// describes an image.
func newTransport() http.RoundTripper {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = 30 * time.Second
	t.IdleConnTimeout = 10 * time.Second
	return &bounded{t}
}

type bounded struct{ base http.RoundTripper }

func (b *bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.base.RoundTrip(req)
	if err == nil && !strings.Contains(req.URL.Path, "/blobs/") && req.Context().Value(blobKey{}) == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, manifestBytesMax), resp.Body}
	}
	return resp, err
}

// blobKey marks the context of requests for a blob, wherever redirects lead.
type blobKey struct{}

// blobs reads a repository's blobs.
type blobs struct {
	client *http.Client
	repo   name.Repository
}

func (b *blobs) layers(m *v1.Manifest) ([]layerSource, error) {
	out := make([]layerSource, 0, len(m.Layers))
	for i, d := range m.Layers {
		if !d.MediaType.IsDistributable() {
			return nil, fmt.Errorf("layer %d is of type %q, which registries don't hand out", i, d.MediaType)
		}
		if err := checkHash(d.Digest); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		if d.Size <= 0 {
			return nil, fmt.Errorf("layer %d: size must be positive (got %d)", i, d.Size)
		}
		out = append(out, layerSource{digest: d.Digest.Hex, size: d.Size, remote: true,
			open: func(ctx context.Context, from int64) (io.ReadCloser, error) { return b.open(ctx, d, from) }})
	}
	return out, nil
}

// open starts the transfer of a blob from a byte on.
func (b *blobs) open(ctx context.Context, d v1.Descriptor, from int64) (io.ReadCloser, error) {
	url := fmt.Sprintf("%s://%s/v2/%s/blobs/%s", b.repo.Registry.Scheme(), b.repo.RegistryStr(), b.repo.RepositoryStr(), d.Digest)
	req, err := http.NewRequestWithContext(context.WithValue(ctx, blobKey{}, true), http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "identity")
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, d.Size-1))
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return nil, classify(err)
	}
	switch {
	case from > 0 && resp.StatusCode == http.StatusPartialContent &&
		strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", from)),
		from == 0 && resp.StatusCode == http.StatusOK:
		return resp.Body, nil
	case from > 0 && (resp.StatusCode/100 == 2 || resp.StatusCode == http.StatusRequestedRangeNotSatisfiable):
		return nil, errors.Join(errNoRange, resp.Body.Close())
	}
	err = transport.CheckError(resp, http.StatusOK)
	return nil, errors.Join(classify(err), resp.Body.Close())
}

// small reads a blob that is kept in memory, and checks it.
func (b *blobs) small(ctx context.Context, d v1.Descriptor) ([]byte, error) {
	if d.Size <= 0 || d.Size > configBytesMax {
		return nil, &deniedError{fmt.Errorf("its configuration must have from 1 to %d bytes (got %d)", configBytesMax, d.Size)}
	}
	rc, err := b.open(ctx, d, 0)
	if err != nil {
		return nil, fmt.Errorf("read the image's configuration: %w", err)
	}
	defer rc.Close()
	raw, err := io.ReadAll(io.LimitReader(rc, d.Size+1))
	if err != nil {
		return nil, fmt.Errorf("read the image's configuration: %w", err)
	}
	if got, _, _ := v1.SHA256(strings.NewReader(string(raw))); got != d.Digest {
		return nil, &deniedError{fmt.Errorf("the registry sent a configuration with digest %s for %s", got, d.Digest)}
	}
	return raw, nil
}
