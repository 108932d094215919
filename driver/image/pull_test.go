package image

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// noise is content that doesn't compress.
func noise(seed uint64, n int) string {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b)
	return string(b)
}

func blobDigest(tb testing.TB, img v1.Image, layer int) string {
	tb.Helper()
	ls, err := img.Layers()
	if err != nil {
		tb.Fatal(err)
	}
	h, err := ls[layer].Digest()
	if err != nil {
		tb.Fatal(err)
	}
	return h.String()
}

func TestPullReadsTheConfiguration(t *testing.T) {
	srv := newServer(t)
	s := newStore(t, allow(srv))
	img := build(t, v1.Config{Entrypoint: []string{"/e"}, Cmd: []string{"c"}, Env: []string{"A=1"}, WorkingDir: "/w", User: "7:8", StopSignal: "SIGINT"},
		tarOf(t, entry{name: "f", body: "x"}))
	want, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	im := s.mustPull(t, srv.push(t, "app:1", img))
	if c := im.Config; im.ID != want.String() || c.User != "7:8" || c.WorkingDir != "/w" || c.Entrypoint[0] != "/e" || c.Cmd[0] != "c" || c.StopSignal != "SIGINT" {
		t.Errorf("got %+v", im)
	}
	if im.Fetched.LayersDone != 1 || im.Fetched.BytesDone != im.Fetched.Bytes || im.Fetched.Bytes == 0 {
		t.Errorf("got %+v fetched", im.Fetched)
	}
	srv.asked()
	again := s.mustPull(t, srv.host+"/app:1")
	if got := srv.asked(); again.Fetched.Layers != 0 || len(got) > 1 { // the configuration
		t.Errorf("a second pull asked for %q and fetched %+v", got, again.Fetched)
	}
}

// One pull serves everybody who asks meanwhile, and layers that images share are
// fetched once.
func TestConcurrentPullsFetchOnce(t *testing.T) {
	srv := newServer(t)
	s := newStore(t, allow(srv))
	shared := tarOf(t, entry{name: "shared", body: noise(1, 1<<20)})
	a := srv.push(t, "a:1", build(t, v1.Config{}, shared, tarOf(t, entry{name: "a", body: "a"})))
	b := srv.push(t, "b:1", build(t, v1.Config{}, shared, tarOf(t, entry{name: "b", body: "b"})))
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			im, err := s.Pull(t.Context(), Request{Ref: mustRef(t, []string{a, b}[i%2])})
			if err != nil {
				t.Error(err)
				return
			}
			if i < 8 {
				s.Release(im)
			}
		})
	}
	wg.Wait()
	count := map[string]int{}
	for _, g := range srv.asked() {
		count[g]++
	}
	for digest, n := range count {
		if n > 1 {
			t.Errorf("%s was asked for %d times", digest, n)
		}
	}
	if u := s.Usage(); u.Images != 2 || u.Layers != 3 {
		t.Errorf("got %+v", u)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	pins := 0
	for _, im := range s.images {
		pins += im.pins
	}
	for id, l := range s.layers {
		if l.pins != 0 {
			t.Errorf("layer %s is still held by %d pulls", id, l.pins)
		}
	}
	if pins != 8 {
		t.Errorf("got %d pins, want 8", pins)
	}
}

// The last caller that gives up ends the pull; one that waits on keeps it.
func TestPullEndsWithItsLastCaller(t *testing.T) {
	srv := newServer(t)
	s := newStore(t, allow(srv))
	img := build(t, v1.Config{}, tarOf(t, entry{name: "f", body: noise(2, 1<<20)}))
	ref := srv.push(t, "app:1", img)
	hung, ended := make(chan struct{}), make(chan struct{})
	var once sync.Once
	srv.wrap = func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, blobDigest(t, img, 0)) {
			once.Do(func() { close(hung) })
			<-r.Context().Done()
			close(ended)
			return
		}
		next.ServeHTTP(w, r)
	}
	first, cancelFirst := context.WithCancel(t.Context())
	second, cancelSecond := context.WithCancel(t.Context())
	errs := make(chan error, 2)
	for _, ctx := range []context.Context{first, second} {
		go func() { _, err := s.Pull(ctx, Request{Ref: mustRef(t, ref)}); errs <- err }()
	}
	<-hung
	cancelFirst()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	select {
	case <-ended:
		t.Error("the pull ended though somebody waits for it")
	default:
	}
	cancelSecond()
	<-ended
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A transfer that breaks off, again and again, goes on where it was; what a
// killed process left is used, too.
func TestBrokenTransfersResume(t *testing.T) {
	srv := newServer(t)
	s := newStore(t, allow(srv))
	img := build(t, v1.Config{}, tarOf(t, entry{name: "f", body: noise(3, 900<<10)}))
	ref := srv.push(t, "app:1", img)
	digest := blobDigest(t, img, 0)
	var mu sync.Mutex
	var ranges []string
	srv.wrap = func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, digest) {
			next.ServeHTTP(w, r)
			return
		}
		mu.Lock()
		ranges = append(ranges, r.Header.Get("Range"))
		cut := len(ranges) <= 3
		mu.Unlock()
		if !cut {
			next.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		b := rec.Body.Bytes()
		_, _ = w.Write(b[:min(len(b), 200<<10)])
		panic(http.ErrAbortHandler)
	}
	s.mustPull(t, ref)
	if len(ranges) != 4 || ranges[0] != "" || !strings.HasPrefix(ranges[3], fmt.Sprintf("bytes=%d-", 600<<10)) {
		t.Errorf("got ranges %q, want each to go on where the last one ended", ranges)
	}
	if left, _ := os.ReadDir(s.path(partialDir)); len(left) != 0 {
		t.Errorf("downloads left: %v", left)
	}

	// As if killed in the middle of another one.
	ls, _ := img.Layers()
	rc, err := ls[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	part, err := io.ReadAll(io.LimitReader(rc, 500<<10))
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.cfg
	cfg.Dir = filepath.Join(t.TempDir(), "other")
	if err := os.MkdirAll(filepath.Join(cfg.Dir, partialDir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.Dir, partialDir, strings.TrimPrefix(digest, "sha256:")), part, 0o600); err != nil {
		t.Fatal(err)
	}
	other := openStore(t, cfg)
	if u := other.Usage(); u.Bytes != int64(len(part)) {
		t.Errorf("got %+v, want the partial download counted", u)
	}
	other.mustPull(t, ref)
	if got := ranges[len(ranges)-1]; !strings.HasPrefix(got, fmt.Sprintf("bytes=%d-", 500<<10)) {
		t.Errorf("got range %q", got)
	}
}

// A registry without ranges sends the layer again from its start.
func TestRegistryWithoutRanges(t *testing.T) {
	srv := newServer(t)
	s := newStore(t, allow(srv))
	img := build(t, v1.Config{}, tarOf(t, entry{name: "f", body: noise(4, 300<<10)}))
	ref := srv.push(t, "app:1", img)
	cut := true
	srv.wrap = func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		r.Header.Del("Range")
		if cut && r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, blobDigest(t, img, 0)) {
			cut = false
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, r)
			w.Header().Set("Content-Length", rec.Header().Get("Content-Length"))
			_, _ = w.Write(rec.Body.Bytes()[:100<<10])
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, r)
	}
	if im := s.mustPull(t, ref); im.Fetched.Bytes != im.Fetched.BytesDone {
		t.Errorf("got %+v: bytes that came twice count once", im.Fetched)
	}
}

// Bytes that are not those of the digest never become a layer.
func TestTamperedLayersAreRefused(t *testing.T) {
	img := build(t, v1.Config{}, tarOf(t, entry{name: "f", body: noise(5, 300<<10)}))
	for name, tt := range map[string]struct {
		tamper func(b []byte) []byte
		want   string
	}{
		"flipped":   {func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, "other bytes"},
		"truncated": {func(b []byte) []byte { return b[:len(b)/2] }, "broke off"},
		"longer":    {func(b []byte) []byte { return append(b, "more"...) }, "more than"},
		"another":   {func(b []byte) []byte { return gzipped(t, tarOf(t, entry{name: "evil"})) }, ""},
		"empty":     {func([]byte) []byte { return nil }, "broke off"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := newServer(t)
			s := newStore(t, allow(srv))
			ref := srv.push(t, "app:1", img)
			srv.wrap = func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, blobDigest(t, img, 0)) {
					next.ServeHTTP(w, r)
					return
				}
				whole := r.Clone(r.Context())
				whole.Header.Del("Range")
				rec := httptest.NewRecorder()
				next.ServeHTTP(rec, whole)
				b := tt.tamper(rec.Body.Bytes())
				http.ServeContent(w, r, "", tarTime, bytes.NewReader(b))
			}
			_, err := s.Pull(t.Context(), Request{Ref: mustRef(t, ref)})
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), blobDigest(t, img, 0)) {
				t.Errorf("got %v, want %q and the layer's digest", err, tt.want)
			}
			t.Log(err)
			if u := s.Usage(); u.Layers != 0 || u.Images != 0 {
				t.Errorf("got %+v", u)
			}
			if left, _ := os.ReadDir(s.path(tmpDir)); len(left) != 0 {
				t.Errorf("left in tmp: %v", left)
			}
		})
	}
}

func TestMultiArchIndex(t *testing.T) {
	srv := newServer(t)
	s := newStore(t, allow(srv))
	other := v1.Platform{OS: "linux", Architecture: "s390x"}
	mine := build(t, v1.Config{}, tarOf(t, entry{name: "mine"}))
	foreign := buildFor(t, other, v1.Config{}, tarOf(t, entry{name: "foreign"}))
	p := HostPlatform()
	index := func(adds ...mutate.IndexAddendum) string {
		ref, err := name.ParseReference(fmt.Sprintf("%s/multi:%d", srv.host, len(adds)))
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.WriteIndex(ref, mutate.AppendManifests(empty.Index, adds...)); err != nil {
			t.Fatal(err)
		}
		return ref.String()
	}
	unknown := v1.Platform{OS: "unknown", Architecture: "unknown"}
	attestation := mutate.IndexAddendum{Add: foreign, Descriptor: v1.Descriptor{Platform: &unknown}}
	ref := index(mutate.IndexAddendum{Add: foreign, Descriptor: v1.Descriptor{Platform: &other}},
		mutate.IndexAddendum{Add: mine, Descriptor: v1.Descriptor{Platform: &p}}, attestation)
	im := s.mustPull(t, ref)
	if want, _ := mine.Digest(); im.ID != want.String() {
		t.Errorf("got %s, want this machine's %s", im.ID, want)
	}
	_, err := s.Pull(t.Context(), Request{Ref: mustRef(t, index(mutate.IndexAddendum{Add: foreign, Descriptor: v1.Descriptor{Platform: &other}}, attestation))})
	if err == nil || !strings.Contains(err.Error(), "s390x") || !strings.Contains(err.Error(), p.Architecture) {
		t.Errorf("an index without this platform: got %v", err)
	}
	_, err = s.Pull(t.Context(), Request{Ref: mustRef(t, srv.push(t, "foreign:1", foreign))})
	if err == nil || !strings.Contains(err.Error(), "s390x") {
		t.Errorf("an image for another machine: got %v", err)
	}
}

// A pinned image in the cache needs no registry; a tag is asked for each time,
// and what it last meant is used while the registry is away, and said to be.
func TestRegistryAway(t *testing.T) {
	srv := newServer(t)
	s := newStore(t, allow(srv))
	img := build(t, v1.Config{}, tarOf(t, entry{name: "f", body: "1"}))
	ref := srv.push(t, "app:1", img)
	d, _ := img.Digest()
	pinned := srv.host + "/app@" + d.String()
	s.mustPull(t, ref)
	s.mustPull(t, pinned)
	newer := build(t, v1.Config{}, tarOf(t, entry{name: "f", body: "2"}))
	srv.push(t, "app:1", newer)
	nd, _ := newer.Digest()
	if im := s.mustPull(t, ref); im.ID != nd.String() {
		t.Errorf("a moved tag: got %s, want %s", im.ID, nd)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, s.cfg) // the cache is remembered
	srv.Close()
	if im := s.mustPull(t, pinned); im.ID != d.String() || im.Stale != nil {
		t.Errorf("pinned: got %+v", im)
	}
	if im := s.mustPull(t, ref); im.ID != nd.String() || im.Stale == nil {
		t.Errorf("tag: got %+v, want the newer image, stale", im)
	}
	if _, err := s.Pull(t.Context(), Request{Ref: mustRef(t, srv.host+"/never:1")}); err == nil {
		t.Error("an image that was never pulled: got no error")
	}
}

func TestRegistryAuth(t *testing.T) {
	srv := newServer(t)
	img := build(t, v1.Config{}, tarOf(t, entry{name: "f", body: "x"}))
	ref := srv.push(t, "private:1", img)
	srv.wrap = func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if u, p, ok := r.BasicAuth(); !ok || u != "ada" || p != "s3cret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	}
	file := filepath.Join(t.TempDir(), "auth.json")
	s := newStore(t, allow(srv), func(c *Config) { c.AuthFile = file })
	write := func(user, password string, mode os.FileMode) {
		t.Helper()
		b := fmt.Sprintf(`{"auths":{"https://%s/v1/":{"auth":%q}}}`, srv.host, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
		if err := errors.Join(os.WriteFile(file, []byte(b), mode), os.Chmod(file, mode)); err != nil {
			t.Fatal(err)
		}
	}
	pull := func() error {
		_, err := s.Pull(t.Context(), Request{Ref: mustRef(t, ref)})
		return err
	}
	if err := pull(); err == nil || !strings.Contains(err.Error(), "auth_file") {
		t.Errorf("no file: got %v", err)
	}
	write("ada", "wrong", 0o600)
	if err := pull(); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("wrong password: got %v", err)
	}
	write("ada", "s3cret", 0o644)
	if err := pull(); err == nil || !strings.Contains(err.Error(), "0644") {
		t.Errorf("a file that others can read: got %v", err)
	}
	write("ada", "s3cret", 0o600)
	if err := pull(); err != nil {
		t.Errorf("right password: got %v", err)
	}
	// Whoever may not pull it now doesn't get it from the cache either.
	write("ada", "wrong", 0o600)
	if err := pull(); err == nil {
		t.Error("a password that isn't right any more: got no error")
	}
}

// Progress goes up, to the whole, and tells everybody who waits.
func TestProgress(t *testing.T) {
	srv := newServer(t)
	s := newStore(t, allow(srv))
	img := build(t, v1.Config{}, tarOf(t, entry{name: "f", body: noise(6, 400<<10)}))
	ref := srv.push(t, "app:1", img)
	told := make(chan Progress, 10_000)
	srv.wrap = func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, blobDigest(t, img, 0)) {
			<-told // not before somebody was told that it begins
		}
		next.ServeHTTP(w, r)
	}
	im, err := s.Pull(t.Context(), Request{Ref: mustRef(t, ref), Progress: func(p Progress) {
		select {
		case told <- p:
		default:
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	close(told)
	var last Progress
	for p := range told {
		if p.BytesDone < last.BytesDone || p.BytesDone > p.Bytes || p.Layers != 1 {
			t.Errorf("got %+v after %+v", p, last)
		}
		last = p
	}
	if p := im.Fetched; p.Bytes != p.BytesDone || p.LayersDone != 1 {
		t.Errorf("got %+v", p)
	}
}

func TestPermittedRegistries(t *testing.T) {
	any := Config{Registries: []string{"*"}}
	some := Config{Registries: []string{"docker.io", "127.0.0.1:5000"}}
	for _, tt := range []struct {
		ref       string
		any, some bool
	}{
		{"alpine", true, true}, {"docker.io/library/alpine:3", true, true}, {"ghcr.io/a/b", true, false}, {"registry.example:443/a", true, false},
		{"127.0.0.1:5000/a", false, true}, {"localhost:5000/a", false, false}, {"169.254.169.254/a", false, false},
		{"registry.example:8080/a", false, false}, {"[::1]:5000/a", false, false}, {"db.internal/a", false, false}, {"nas.local/a", false, false},
	} {
		r, err := ParseRef(tt.ref)
		if err != nil {
			continue // not a reference at all
		}
		reg := r.registry.Context().Registry
		if got := any.permitted(reg) == nil; got != tt.any {
			t.Errorf("%s with *: got %v, want %v", tt.ref, got, tt.any)
		}
		if got := some.permitted(reg) == nil; got != tt.some {
			t.Errorf("%s with a list: got %v, want %v", tt.ref, got, tt.some)
		}
	}
}

func TestParseRef(t *testing.T) {
	for _, good := range []string{"alpine", "a/b:1", "registry.example:5000/a@sha256:" + strings.Repeat("a", 64), "oci:/srv/x", "oci:local/x:1", "docker-archive:/x.tar", "docker-archive:local/x.tar:app:1"} {
		if r, err := ParseRef(good); err != nil || r.String() != good {
			t.Errorf("%q: got %q, %v", good, r, err)
		}
	}
	for _, bad := range []string{"", "UPPER", "a b", "a@sha256:12", "oci:", "oci:../x", "docker-archive:local/../../x", "oci:a\x00b", "http://x/y"} {
		if _, err := ParseRef(bad); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", bad)) {
			t.Errorf("%q: got %v, want an error with the value", bad, err)
		}
	}
}
