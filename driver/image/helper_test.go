package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"
)

// entry is a tar entry; a name with a trailing slash is a directory.
type entry struct {
	name, body, link string
	kind             byte
	mode             int64
	uid, gid         int
	pax              map[string]string
}

var tarTime = time.Unix(1_600_000_000, 0)

func tarOf(tb testing.TB, entries ...entry) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Linkname: e.link, Typeflag: e.kind, Mode: e.mode, Uid: e.uid, Gid: e.gid,
			Size: int64(len(e.body)), ModTime: tarTime, PAXRecords: e.pax, Format: tar.FormatPAX}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
			if strings.HasSuffix(e.name, "/") {
				h.Typeflag = tar.TypeDir
			}
		}
		if h.Mode == 0 {
			h.Mode = 0o644
			if h.Typeflag == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		if err := w.WriteHeader(h); err != nil {
			tb.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(tb testing.TB, b []byte) []byte {
	tb.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// build makes an image of layers for this machine.
func build(tb testing.TB, cfg v1.Config, layers ...[]byte) v1.Image {
	tb.Helper()
	return buildFor(tb, HostPlatform(), cfg, layers...)
}

func buildFor(tb testing.TB, p v1.Platform, cfg v1.Config, layers ...[]byte) v1.Image {
	tb.Helper()
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: p.OS, Architecture: p.Architecture, Config: cfg})
	if err != nil {
		tb.Fatal(err)
	}
	for _, b := range layers {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
		if err != nil {
			tb.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			tb.Fatal(err)
		}
	}
	return img
}

// server is a registry on loopback whose blobs a test may tamper with.
type server struct {
	*httptest.Server
	host string
	wrap func(w http.ResponseWriter, r *http.Request, next http.Handler) // nil: as it is
	mu   sync.Mutex
	gets []string // blobs that were asked for
}

func newServer(tb testing.TB) *server {
	tb.Helper()
	s := &server{}
	reg := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			s.mu.Lock()
			s.gets = append(s.gets, filepath.Base(r.URL.Path)+" "+r.Header.Get("Range"))
			s.mu.Unlock()
		}
		if s.wrap != nil {
			s.wrap(w, r, reg)
			return
		}
		reg.ServeHTTP(w, r)
	}))
	tb.Cleanup(s.Close)
	s.host = strings.TrimPrefix(s.URL, "http://")
	return s
}

// asked drains what was asked for.
func (s *server) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.gets
	s.gets = nil
	return out
}

func (s *server) push(tb testing.TB, repo string, img v1.Image) string {
	tb.Helper()
	ref, err := name.ParseReference(s.host + "/" + repo)
	if err != nil {
		tb.Fatal(err)
	}
	wrap := s.wrap
	s.wrap = nil
	if err := remote.Write(ref, img); err != nil {
		tb.Fatal(err)
	}
	s.wrap = wrap
	s.asked()
	return ref.String()
}

type storeOption func(*Config)

func newStore(tb testing.TB, opts ...storeOption) *Store {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root")
	}
	dir := passableDir(tb)
	cfg := Config{Dir: filepath.Join(dir, "cache"), RunDir: filepath.Join(dir, "run", "x"), LimitBytes: 256 << 20, Registries: []string{"*"}}
	for _, o := range opts {
		o(&cfg)
	}
	return openStore(tb, cfg)
}

// passableDir is a directory that every user may pass through.
func passableDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "joule-image-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func openStore(tb testing.TB, cfg Config) *Store {
	tb.Helper()
	s, err := Open(cfg, slog.New(slog.NewTextHandler(testWriter{tb}, nil)))
	if err != nil {
		tb.Fatal(err)
	}
	s.retry, s.tells = time.Millisecond, time.Millisecond
	tb.Cleanup(func() {
		if err := s.Sweep(func(string) bool { return false }); err != nil {
			tb.Error(err)
		}
		if err := s.Close(); err != nil && !strings.Contains(err.Error(), "closed") {
			tb.Error(err)
		}
	})
	return s
}

func allow(s *server) storeOption {
	return func(c *Config) { c.Registries = []string{s.host} }
}

type testWriter struct{ tb testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.tb.Logf("%s", bytes.TrimSpace(b))
	return len(b), nil
}

func mustRef(tb testing.TB, text string) Ref {
	tb.Helper()
	r, err := ParseRef(text)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func (s *Store) mustPull(tb testing.TB, ref string) *Image {
	tb.Helper()
	im, err := s.Pull(tb.Context(), Request{Ref: mustRef(tb, ref)})
	if err != nil {
		tb.Fatal(err)
	}
	return im
}

func mustMount(tb testing.TB, s *Store, im *Image, id string, opt RootOptions) *Root {
	tb.Helper()
	r, err := s.Mount(im, id, opt)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Unmount(id); err != nil {
			tb.Error(err)
		}
	})
	return r
}

func statOf(tb testing.TB, path string) unix.Stat_t {
	tb.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		tb.Fatalf("%s: %v", path, err)
	}
	return st
}

func wantFile(tb testing.TB, path, want string) {
	tb.Helper()
	if b, err := os.ReadFile(path); err != nil || string(b) != want {
		tb.Errorf("%s: got %q, %v, want %q", path, b, err, want)
	}
}

func wantNone(tb testing.TB, path string) {
	tb.Helper()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		tb.Errorf("%s: got %v, want none", path, err)
	}
}
