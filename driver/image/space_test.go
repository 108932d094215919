package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func (s *server) pushNoise(tb testing.TB, repo string, seed uint64, n int) string {
	return s.push(tb, repo, build(tb, v1.Config{}, tarOf(tb, entry{name: fmt.Sprintf("f%d", seed), body: noise(seed, n)})))
}

// The cache stays within its limit; what was not used for longest goes, what a
// task uses never does.
func TestLimitAndLeastRecentUse(t *testing.T) {
	srv := newServer(t)
	s := newStore(t, allow(srv), func(c *Config) { c.LimitBytes = 24 << 20 }) // three of 5 MiB, and a fourth twice: downloaded and unpacked
	refs := map[string]string{}
	pull := func(n string, seed uint64) *Image {
		t.Helper()
		if refs[n] == "" {
			refs[n] = srv.pushNoise(t, n+":1", seed, 5<<20)
		}
		im := s.mustPull(t, refs[n])
		s.Release(im)
		if u := s.Usage(); u.Bytes > u.LimitBytes {
			t.Fatalf("got %d bytes in a cache of %d", u.Bytes, u.LimitBytes)
		}
		return im
	}
	a := pull("a", 1)
	mustMount(t, s, a, "task", RootOptions{})
	b, c := pull("b", 2), pull("c", 3)
	pull("b", 2) // used again: c is now the oldest that no task uses
	d := pull("d", 4)
	has := strings.Join(s.leastRecent(), " ")
	for im, want := range map[*Image]bool{a: true, b: true, c: false, d: true} {
		if strings.Contains(has, im.id) != want {
			t.Errorf("image %s in the cache: got %v, want %v", im.Ref, !want, want)
		}
	}
	wantFile(t, filepath.Join(s.runDir("task"), mergedDir, "f1"), noise(1, 5<<20))
	if got := diskBytes(t, s.path(layersDir)); got > 20<<20 {
		t.Errorf("%d bytes on the disk: layers of removed images are left", got)
	}
}

func diskBytes(tb testing.TB, dir string) (n int64) {
	tb.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		n += info.Size()
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

func TestTooLargeForTheCache(t *testing.T) {
	srv := newServer(t)
	s := newStore(t, allow(srv), func(c *Config) { c.LimitBytes = 8 << 20 })
	small := s.mustPull(t, srv.pushNoise(t, "small:1", 1, 1<<20))
	s.Release(small)
	// Known from the manifest: nothing is removed for it, nothing fetched.
	_, err := s.Pull(t.Context(), Request{Ref: mustRef(t, srv.pushNoise(t, "large:1", 2, 9<<20))})
	if err == nil || !strings.Contains(err.Error(), "8 MiB") {
		t.Errorf("got %v", err)
	}
	if u := s.Usage(); u.Images != 1 {
		t.Errorf("got %+v, want the small one kept", u)
	}
	// Known only once it is unpacked.
	bomb := srv.push(t, "bomb:1", build(t, v1.Config{}, tarOf(t, entry{name: "zeros", body: strings.Repeat("\x00", 40<<20)})))
	if _, err = s.Pull(t.Context(), Request{Ref: mustRef(t, bomb)}); !errors.Is(err, ErrFull) {
		t.Errorf("got %v, want ErrFull", err)
	}
	if left, _ := os.ReadDir(s.path(tmpDir)); len(left) != 0 {
		t.Errorf("left in tmp: %v", left)
	}
	// In use, it makes no room.
	again := s.mustPull(t, srv.host+"/small:1")
	mustMount(t, s, again, "task", RootOptions{})
	if _, err := s.Pull(t.Context(), Request{Ref: mustRef(t, srv.pushNoise(t, "other:1", 3, 4<<20))}); !errors.Is(err, ErrFull) {
		t.Errorf("got %v, want ErrFull", err)
	}
}

// What a killed process left half-made is removed when the cache is opened.
func TestOpenSweeps(t *testing.T) {
	srv := newServer(t)
	s := newStore(t, allow(srv))
	im := s.mustPull(t, srv.push(t, "app:1", layered(t)))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var damaged []string
	for _, path := range []string{"tmp/layer-1/fs/x", "tmp/gone-2/y", "layers/" + strings.Repeat("1", 64) + "/fs/z", "images/" + strings.Repeat("2", 64) + ".json"} {
		at := s.path(path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o700), os.WriteFile(at, []byte("x"), 0o600)); err != nil {
			t.Fatal(err)
		}
		damaged = append(damaged, at)
	}
	next := openStore(t, s.cfg)
	for _, at := range damaged {
		wantNone(t, at)
	}
	if u := next.Usage(); u.Images != 1 || u.Layers != 2 {
		t.Errorf("got %+v", u)
	}
	// An image one of whose layers is lost is none.
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(s.path(layersDir, next.images[im.id].rec.Layers[1])); err != nil {
		t.Fatal(err)
	}
	last := openStore(t, s.cfg)
	if u := last.Usage(); u.Images != 0 || u.Layers != 1 {
		t.Errorf("got %+v", u)
	}
	if again := last.mustPull(t, srv.host+"/app:1"); again.Fetched.Layers != 1 {
		t.Errorf("fetched %+v, want the one layer that is missing", again.Fetched)
	}
}

func TestImagesInFiles(t *testing.T) {
	task, srv := t.TempDir(), t.TempDir()
	s := newStore(t, func(c *Config) { c.LocalDirs = []string{srv} })
	img := layered(t)
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	cfgName, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{task, srv} {
		p, err := layout.Write(filepath.Join(dir, "layout"), empty.Index)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.AppendImage(img, layout.WithAnnotations(map[string]string{refNameAnnotation: "1"})); err != nil {
			t.Fatal(err)
		}
		tag, err := name.NewTag("app:1")
		if err != nil {
			t.Fatal(err)
		}
		if err := tarball.WriteToFile(filepath.Join(dir, "app.tar"), tag, img); err != nil {
			t.Fatal(err)
		}
	}
	pull := func(ref string) (*Image, error) {
		return s.Pull(t.Context(), Request{Ref: mustRef(t, ref), TaskDir: task})
	}
	for ref, want := range map[string]string{
		"oci:layout": d.String(), "oci:layout:1": d.String(), "oci:" + srv + "/layout": d.String(),
		"docker-archive:app.tar": cfgName.String(), "docker-archive:" + srv + "/app.tar:app:1": cfgName.String(),
	} {
		im, err := pull(ref)
		if err != nil || im.ID != want {
			t.Errorf("%s: got %+v, %v, want %s", ref, im, err, want)
			continue
		}
		r := mustMount(t, s, im, "task", RootOptions{})
		wantFile(t, filepath.Join(r.Dir, "keep"), "above")
		if err := s.Unmount("task"); err != nil {
			t.Error(err)
		}
		s.Release(im)
	}
	if u := s.Usage(); u.Layers != 2 {
		t.Errorf("got %+v: every form of the image has the same layers", u)
	}
	outside := t.TempDir()
	link := func(to, at string) {
		if err := os.Symlink(to, filepath.Join(task, at)); err != nil {
			t.Fatal(err)
		}
	}
	link(outside, "out")
	link("/etc/passwd", "passwd.tar")
	for ref, want := range map[string]string{
		"oci:layout:2": "tag", "docker-archive:app.tar:other:1": "other:1", "oci:" + outside + "/x": "local_dirs",
		"oci:" + srv + "-not/x": "local_dirs", "oci:out": "escapes", "docker-archive:passwd.tar": "escapes",
		"docker-archive:layout": "regular file", "docker-archive:layout/index.json": "docker archive", "oci:none": "no such file",
	} {
		if im, err := pull(ref); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %+v, %v, want %q", ref, im, err, want)
		}
	}
	// A flipped blob of a layout.
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	h, _ := layers[0].Digest()
	blob := filepath.Join(task, "layout", "blobs", "sha256", h.Hex)
	for s.evictAll() {
	}
	if err := os.WriteFile(blob, gzipped(t, tarOf(t, entry{name: "evil"})), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pull("oci:layout"); err == nil || !strings.Contains(err.Error(), "has digest") {
		t.Errorf("a changed layer: got %v", err)
	}
}
