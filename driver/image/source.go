package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// The schemes of images in files.
const (
	layoutScheme  = "oci:"
	archiveScheme = "docker-archive:"
)

// Bounds of what describes an image.
const (
	manifestBytesMax = 4 << 20
	configBytesMax   = 8 << 20
	layersMax        = 256
)

// Ref is where an image comes from.
type Ref struct {
	text     string
	registry name.Reference // nil: a file
	scheme   string         // of a file
	path     string         // of a file
	tag      string         // which image of the file; "": the only one
}

// ParseRef reads a reference: "name[:tag][@sha256:digest]" of a registry,
// "oci:path[:tag]" of an OCI layout directory, or "docker-archive:path[:tag]" of
// a file that `docker save` wrote.
func ParseRef(text string) (Ref, error) {
	r := Ref{text: text}
	for _, scheme := range []string{layoutScheme, archiveScheme} {
		rest, ok := strings.CutPrefix(text, scheme)
		if !ok {
			continue
		}
		r.scheme = scheme
		r.path, r.tag, _ = strings.Cut(rest, ":")
		if r.path == "" || strings.ContainsRune(text, 0) {
			return Ref{}, fmt.Errorf("image: no path behind %q (got %q)", scheme, text)
		}
		r.path = path.Clean(r.path)
		if !path.IsAbs(r.path) && !filepath.IsLocal(r.path) {
			return Ref{}, fmt.Errorf("image: a relative path may not lead out of the task's directory (got %q)", text)
		}
		return r, nil
	}
	var err error
	if r.registry, err = name.ParseReference(text); err != nil {
		return Ref{}, fmt.Errorf("image: not a reference such as \"registry.example/app:1\" or \"app@sha256:…\" (got %q)", text)
	}
	return r, nil
}

// String is the reference as it was given.
func (r Ref) String() string { return r.text }

// pinned says whether the reference can only ever mean the same bytes.
func (r Ref) pinned() bool {
	_, ok := r.registry.(name.Digest)
	return ok
}

// key names what the reference stands for on this host. A relative path means
// another file for each task directory.
func (r Ref) key(taskDir string) string {
	if r.registry != nil {
		return r.registry.Name()
	}
	if path.IsAbs(r.path) {
		return r.text
	}
	return r.text + "\x00" + taskDir
}

// A manifest says what an image is made of.
type manifest struct {
	id     string // hex SHA-256 of the manifest, of a docker archive that of its configuration
	config *v1.ConfigFile
	layers []layerSource // bottom first
}

// layerSource is a layer that is not here yet.
type layerSource struct {
	diffID string // hex
	digest string // hex, of the bytes that open gives; "": only the diff id is known
	size   int64  // of those bytes
	// open reads the layer from a byte on. errNoRange: only from 0.
	open func(ctx context.Context, from int64) (io.ReadCloser, error)
	// remote: the bytes are kept while they come, to resume.
	remote bool
}

// newManifest puts together what a source found, and checks it.
func newManifest(id string, raw []byte, layers []layerSource, platform v1.Platform) (*manifest, error) {
	cfg, err := parseConfig(raw)
	if err != nil {
		return nil, err
	}
	switch {
	case len(layers) == 0:
		return nil, errors.New("it has no layers")
	case len(layers) > layersMax:
		return nil, fmt.Errorf("it has %d layers: at most %d can be mounted", len(layers), layersMax)
	case len(cfg.RootFS.DiffIDs) != len(layers):
		return nil, fmt.Errorf("its manifest has %d layers, its configuration %d", len(layers), len(cfg.RootFS.DiffIDs))
	case cfg.OS != platform.OS || cfg.Architecture != platform.Architecture:
		return nil, fmt.Errorf("it is for %s/%s, this host is %s/%s", cfg.OS, cfg.Architecture, platform.OS, platform.Architecture)
	}
	for i, d := range cfg.RootFS.DiffIDs {
		if err := checkHash(d); err != nil {
			return nil, err
		}
		layers[i].diffID = d.Hex
	}
	return &manifest{id: id, config: cfg, layers: layers}, nil
}

func checkHash(h v1.Hash) error {
	if h.Algorithm != "sha256" || len(h.Hex) != 64 || strings.Trim(h.Hex, "0123456789abcdef") != "" {
		return fmt.Errorf("digest %q is not a SHA-256", h.String())
	}
	return nil
}

// pickPlatform finds the one manifest of an index that this host can run.
func pickPlatform(ds []v1.Descriptor, want v1.Platform) (v1.Descriptor, error) {
	var fits []v1.Descriptor
	var have []string
	for _, d := range ds {
		switch {
		case d.Platform == nil:
			fits = append(fits, d) // its configuration says more
		case d.Platform.Satisfies(want):
			// The best of several: without a variant, or the first.
			return d, nil
		case !slices.Contains(have, d.Platform.String()):
			have = append(have, d.Platform.String())
		}
	}
	switch {
	case len(fits) == 1:
		return fits[0], nil
	case len(fits) > 1:
		return v1.Descriptor{}, fmt.Errorf("it holds %d images: name one by its tag", len(fits))
	}
	return v1.Descriptor{}, fmt.Errorf("it is for %s, this host is %s", strings.Join(have, ", "), want.String())
}
