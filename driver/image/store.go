package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// The directories of a cache.
const (
	partialDir = "partial"
	layersDir  = "layers"
	imagesDir  = "images"
	rootsDir   = "roots"
	tmpDir     = "tmp"
	lockFile   = "lock"
	layerFile  = "layer.json"
	rootFile   = "root.json"
	fsDir      = "fs"
)

// Config is a cache's.
type Config struct {
	Dir        string   // absolute; on a disk that overlayfs takes for an upper layer
	RunDir     string   // absolute; where roots are mounted. Every user may pass through it
	LimitBytes int64    // of layers and downloads together; task's own files not counted
	AuthFile   string   // credentials in Docker's format, mode 0600; "": none
	Registries []string // that images may come from: host[:port], "docker.io", or "*" for every public one
	Insecure   []string // registries that are spoken to without TLS
	LocalDirs  []string // absolute directories that oci: and docker-archive: images may lie in
	Platform   v1.Platform
}

// HostPlatform is this machine's.
func HostPlatform() v1.Platform {
	return v1.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}
}

// Store is a cache of images and the roots that are made of them. It is safe
// for concurrent use; one process at a time has it open.
type Store struct {
	cfg  Config
	log  *slog.Logger
	lock *os.File

	slots chan struct{} // layers being fetched and unpacked at once
	retry time.Duration // see retryWait
	tells time.Duration // between reports of progress

	mu      sync.Mutex
	used    int64 // bytes of layers, of partial downloads, and of what is being unpacked
	images  map[string]*imageState
	layers  map[string]*layerState
	partial map[string]int64         // downloads that nobody is at: digest → bytes
	making  map[string]chan struct{} // layers being made: closed when they are, or failed
	flights map[string]*flight
	roots   map[string]*rootRecord
}

// imageState is an image in the cache.
type imageState struct {
	rec  imageRecord
	at   time.Time // last used
	pins int       // by pulls that are about to use it
}

// layerState is an unpacked layer.
type layerState struct {
	rec  layerRecord
	at   time.Time
	pins int // by pulls
}

// imageRecord is an image's file.
type imageRecord struct {
	Version int                  `json:"version"`
	ID      string               `json:"id"`
	Layers  []string             `json:"layers"` // diff ids, bottom first
	Config  v1.Config            `json:"config"`
	Refs    map[string]time.Time `json:"refs"` // what it was last found under, and when
}

// layerRecord is a layer's file.
type layerRecord struct {
	Version int      `json:"version"`
	Bytes   int64    `json:"bytes"`
	Entries int      `json:"entries"`
	Implied []string `json:"implied,omitempty"`
	Opaque  bool     `json:"opaque,omitempty"`
	Devices int      `json:"devices,omitempty"` // left out
}

const cacheVersion = 1

// ErrInUse is returned by Open when another process has the cache open.
var ErrInUse = errors.New("the image cache is in use by another process")

// Open opens the cache in cfg.Dir, makes it where it isn't, and sweeps what an
// earlier process left half-made. Roots stay: see Sweep.
func Open(cfg Config, log *slog.Logger) (*Store, error) {
	if cfg.Platform.OS == "" {
		cfg.Platform = HostPlatform()
	}
	s := &Store{
		cfg: cfg, log: log, slots: make(chan struct{}, 3), retry: retryWait, tells: time.Second,
		images: map[string]*imageState{}, layers: map[string]*layerState{}, partial: map[string]int64{},
		making: map[string]chan struct{}{}, flights: map[string]*flight{}, roots: map[string]*rootRecord{},
	}
	for _, d := range []string{"", partialDir, layersDir, imagesDir, rootsDir, tmpDir} {
		if err := os.MkdirAll(filepath.Join(cfg.Dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("make image cache: %w", err)
		}
	}
	var err error
	if s.lock, err = os.OpenFile(s.path(lockFile), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("open image cache: %w", err)
	}
	if err = unix.Flock(int(s.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrInUse
		}
		return nil, errors.Join(fmt.Errorf("lock image cache %q: %w", cfg.Dir, err), s.lock.Close())
	}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open image cache: %w", err), s.lock.Close())
	}
	return s, nil
}

// Close lets go of the cache. Roots stay mounted.
func (s *Store) Close() error { return s.lock.Close() }

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.cfg.Dir}, elem...)...)
}

// load takes in what is there and removes what is of no use.
func (s *Store) load() error {
	if err := emptyDir(s.path(tmpDir)); err != nil {
		return err
	}
	if err := s.loadLayers(); err != nil {
		return err
	}
	if err := s.loadImages(); err != nil {
		return err
	}
	partials, err := os.ReadDir(s.path(partialDir))
	if err != nil {
		return err
	}
	for _, e := range partials {
		if info, err := e.Info(); err == nil {
			s.partial[e.Name()] = info.Size()
			s.used += info.Size()
		}
	}
	return s.loadRoots()
}

func (s *Store) loadLayers() error {
	entries, err := os.ReadDir(s.path(layersDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		st := &layerState{}
		path := s.path(layersDir, e.Name(), layerFile)
		if err := readJSON(path, &st.rec); err != nil || st.rec.Version != cacheVersion {
			// Renamed into place whole: only a damaged disk, or another version,
			// brings this about.
			s.log.Warn("layer in the image cache can't be used, removed", "layer", e.Name(), "error", err)
			if err := os.RemoveAll(s.path(layersDir, e.Name())); err != nil {
				return err
			}
			continue
		}
		if info, err := os.Stat(path); err == nil {
			st.at = info.ModTime()
		}
		s.layers[e.Name()] = st
		s.used += st.rec.Bytes
	}
	return nil
}

func (s *Store) loadImages() error {
	entries, err := os.ReadDir(s.path(imagesDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := s.path(imagesDir, e.Name())
		st := &imageState{}
		err := readJSON(path, &st.rec)
		if err == nil && (st.rec.Version != cacheVersion || st.rec.ID+".json" != e.Name() || !s.complete(st.rec.Layers)) {
			err = errors.New("its layers are not all there, or it is of another version")
		}
		if err != nil {
			s.log.Warn("image in the cache can't be used, removed", "file", e.Name(), "error", err)
			if err := os.Remove(path); err != nil {
				return err
			}
			continue
		}
		if info, err := os.Stat(path); err == nil {
			st.at = info.ModTime()
		}
		s.images[st.rec.ID] = st
	}
	return nil
}

// complete says whether every layer is there.
func (s *Store) complete(layers []string) bool {
	for _, l := range layers {
		if s.layers[l] == nil {
			return false
		}
	}
	return len(layers) > 0
}

func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode %q: %w", path, err)
	}
	return nil
}

// writeJSON puts a whole file in its place, on disk when it returns.
func (s *Store) writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %q: %w", path, err)
	}
	f, err := os.CreateTemp(s.path(tmpDir), "json-")
	if err != nil {
		return fmt.Errorf("write %q: %w", path, err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %q: %w", path, err), os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Validate tells bad of every fault: "field: what is wrong (got value)".
func (c *Config) Validate(bad func(format string, args ...any)) {
	if !filepath.IsAbs(c.Dir) {
		bad("images.cache_dir: must be an absolute path (got %q)", c.Dir)
	}
	if c.LimitBytes < limitMin {
		bad("images.cache_limit: must be at least %d MiB (got %d bytes)", limitMin>>20, c.LimitBytes)
	}
	if c.AuthFile != "" && !filepath.IsAbs(c.AuthFile) {
		bad("images.auth_file: must be an absolute path (got %q)", c.AuthFile)
	}
	for field, hosts := range map[string][]string{"registries": c.Registries, "insecure_registries": c.Insecure} {
		for i, h := range hosts {
			if h == anyRegistry && field == "registries" {
				continue
			}
			if h == "" || strings.ContainsAny(h, "/* \t\x00") {
				bad("images.%s[%d]: must be a registry's host[:port] (got %q)", field, i, h)
			}
		}
	}
	for i, d := range c.LocalDirs {
		if !filepath.IsAbs(d) {
			bad("images.local_dirs[%d]: must be an absolute path (got %q)", i, d)
		}
	}
}

const limitMin = 64 << 20
