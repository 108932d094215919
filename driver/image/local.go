package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// openLocal opens the directory that a reference's path may not leave, and the
// path below it. An absolute path must lie in one of the supplier's directories;
// a relative one is the customer's own, in the task's directory.
func (c *Config) openLocal(ref Ref, taskDir string) (*os.Root, string, error) {
	base, rel := taskDir, ref.path
	if path.IsAbs(ref.path) {
		base = ""
		for _, d := range c.LocalDirs {
			if r, err := filepath.Rel(d, ref.path); err == nil && filepath.IsLocal(r) {
				base, rel = d, r
			}
		}
		if base == "" {
			return nil, "", fmt.Errorf("image: this host's supplier allows no images from %q (images.local_dirs is %q)", ref.path, c.LocalDirs)
		}
	} else if taskDir == "" {
		return nil, "", fmt.Errorf("image: the path must be absolute (got %q)", ref.text)
	}
	root, err := os.OpenRoot(base)
	return root, rel, err
}

// fromFile reads what an image in a file is made of. The files that it opens
// stay open until ctx ends.
func (c *Config) fromFile(ctx context.Context, ref Ref, taskDir string) (*manifest, error) {
	root, rel, err := c.openLocal(ref, taskDir)
	if err != nil {
		return nil, err
	}
	var m *manifest
	if ref.scheme == layoutScheme {
		var sub *os.Root
		if sub, err = root.OpenRoot(rel); err == nil {
			context.AfterFunc(ctx, func() { _ = sub.Close() })
			m, err = fromLayout(sub, ref.tag, c.Platform)
		}
	} else {
		var f *os.File
		if f, err = openRegular(root, rel); err == nil {
			context.AfterFunc(ctx, func() { _ = f.Close() })
			m, err = fromArchive(f, ref.tag, c.Platform)
		}
	}
	return m, errors.Join(err, root.Close())
}

// openRegular opens a file that a customer may have put there: nothing that
// blocks, and no device.
func openRegular(root *os.Root, name string) (*os.File, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%q is not a regular file", name)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func readSmall(root *os.Root, name string, most int64) ([]byte, error) {
	f, err := openRegular(root, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%q has more than %d bytes", name, most)
	}
	return b, err
}

// refNameAnnotation is where an OCI layout says an image's tag.
const refNameAnnotation = "org.opencontainers.image.ref.name"

func fromLayout(root *os.Root, tag string, platform v1.Platform) (*manifest, error) {
	b, err := readSmall(root, "index.json", manifestBytesMax)
	if err != nil {
		return nil, fmt.Errorf("read OCI layout: %w", err)
	}
	idx, err := v1.ParseIndexManifest(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("read OCI layout: index.json: %w", err)
	}
	ds := idx.Manifests
	if tag != "" {
		ds = slices.DeleteFunc(ds, func(d v1.Descriptor) bool { return d.Annotations[refNameAnnotation] != tag })
		if len(ds) == 0 {
			return nil, fmt.Errorf("the OCI layout has no image with tag %q", tag)
		}
	}
	// An index of indexes is as deep as builders make it.
	for range 3 {
		d, err := pickPlatform(ds, platform)
		if err != nil {
			return nil, err
		}
		b, err := layoutBlob(root, d, manifestBytesMax)
		if err != nil {
			return nil, err
		}
		if d.MediaType.IsIndex() {
			if idx, err = v1.ParseIndexManifest(bytes.NewReader(b)); err != nil {
				return nil, fmt.Errorf("read OCI layout: index %s: %w", d.Digest, err)
			}
			ds = idx.Manifests
			continue
		}
		m, err := v1.ParseManifest(bytes.NewReader(b))
		if err != nil {
			return nil, fmt.Errorf("read OCI layout: manifest %s: %w", d.Digest, err)
		}
		cfg, err := layoutBlob(root, m.Config, configBytesMax)
		if err != nil {
			return nil, err
		}
		var layers []layerSource
		for _, l := range m.Layers {
			if err := checkHash(l.Digest); err != nil {
				return nil, err
			}
			layers = append(layers, layerSource{digest: l.Digest.Hex, size: l.Size,
				open: func(context.Context, int64) (io.ReadCloser, error) { return openRegular(root, blobName(l.Digest)) }})
		}
		return newManifest(d.Digest.Hex, cfg, layers, platform)
	}
	return nil, errors.New("the OCI layout's indexes lead to no image")
}

func blobName(h v1.Hash) string { return path.Join("blobs", h.Algorithm, h.Hex) }

func layoutBlob(root *os.Root, d v1.Descriptor, most int64) ([]byte, error) {
	if err := checkHash(d.Digest); err != nil {
		return nil, err
	}
	b, err := readSmall(root, blobName(d.Digest), most)
	if err != nil {
		return nil, fmt.Errorf("read OCI layout: %w", err)
	}
	if got, _, _ := v1.SHA256(bytes.NewReader(b)); got != d.Digest {
		return nil, fmt.Errorf("read OCI layout: blob %s has digest %s", d.Digest, got)
	}
	return b, nil
}

// archiveEntry is a file in a docker archive.
type archiveEntry struct {
	off, size int64
	link      string
}

func fromArchive(f *os.File, tag string, platform v1.Platform) (*manifest, error) {
	entries, err := scanArchive(f)
	if err != nil {
		return nil, err
	}
	b, err := archiveFile(f, entries, "manifest.json", manifestBytesMax)
	if err != nil {
		return nil, err
	}
	var all []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, fmt.Errorf("read docker archive: manifest.json: %w", err)
	}
	var tags []string
	found := -1
	for i, m := range all {
		tags = append(tags, m.RepoTags...)
		if tag == "" && len(all) == 1 || slices.Contains(m.RepoTags, tag) {
			found = i
		}
	}
	if found < 0 {
		return nil, fmt.Errorf("the docker archive holds %d images (%s): name one of them (got %q)", len(all), strings.Join(tags, ", "), tag)
	}
	cfg, err := archiveFile(f, entries, all[found].Config, configBytesMax)
	if err != nil {
		return nil, err
	}
	var layers []layerSource
	for _, name := range all[found].Layers {
		e, err := lookArchive(entries, name)
		if err != nil {
			return nil, err
		}
		layers = append(layers, layerSource{size: e.size,
			open: func(context.Context, int64) (io.ReadCloser, error) {
				return io.NopCloser(io.NewSectionReader(f, e.off, e.size)), nil
			}})
	}
	id, _, err := v1.SHA256(bytes.NewReader(cfg))
	if err != nil {
		return nil, err
	}
	return newManifest(id.Hex, cfg, layers, platform)
}

// scanArchive finds where each file of the archive lies, so that each can be
// read without reading those before it.
func scanArchive(f *os.File) (map[string]archiveEntry, error) {
	entries := map[string]archiveEntry{}
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read docker archive (it must not be compressed): %w", err)
		}
		if len(entries) > layerEntriesMax {
			return nil, fmt.Errorf("read docker archive: more than %d files", layerEntriesMax)
		}
		// A tar reader reads whole blocks from the file: it stands at the content.
		off, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, fmt.Errorf("read docker archive: %w", err)
		}
		switch h.Typeflag {
		case tar.TypeReg:
			entries[path.Clean(h.Name)] = archiveEntry{off: off, size: h.Size}
		case tar.TypeSymlink: // a layer that an earlier image of the archive has as well
			entries[path.Clean(h.Name)] = archiveEntry{link: path.Join(path.Dir(h.Name), h.Linkname)}
		}
	}
}

func lookArchive(entries map[string]archiveEntry, name string) (archiveEntry, error) {
	e, ok := entries[path.Clean(name)]
	if ok && e.link != "" {
		e, ok = entries[e.link]
	}
	if !ok || e.link != "" {
		return archiveEntry{}, fmt.Errorf("read docker archive: no file %q in it", name)
	}
	return e, nil
}

func archiveFile(f *os.File, entries map[string]archiveEntry, name string, most int64) ([]byte, error) {
	e, err := lookArchive(entries, name)
	if err != nil {
		return nil, err
	}
	if e.size > most {
		return nil, fmt.Errorf("read docker archive: %q has more than %d bytes", name, most)
	}
	b, err := io.ReadAll(io.NewSectionReader(f, e.off, e.size))
	if err != nil {
		return nil, fmt.Errorf("read docker archive: %w", err)
	}
	return b, nil
}

func parseConfig(raw []byte) (*v1.ConfigFile, error) {
	cfg, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("read the image's configuration: %w", err)
	}
	return cfg, nil
}
