package bench

import (
	"io"
	"log"
	"log/slog"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/joulecloud/joule/driver/image"
)

const pullLayers = 5

// pull measures, in s, how long our pull of an image takes until it is unpacked,
// and how long `skopeo copy` takes to fetch the same from the same registry into
// a directory, which unpacks nothing; 0: there is no skopeo.
func pull(t *testing.T, mib int64) (ours, skopeo float64) {
	t.Helper()
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	img, err := random.Image(mib<<20/pullLayers, pullLayers)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err == nil {
		here := image.HostPlatform()
		cfg.OS, cfg.Architecture = here.OS, here.Architecture
		img, err = mutate.ConfigFile(img, cfg)
	}
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(addr + "/large:1")
	if err == nil {
		err = remote.Write(ref, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if path, err := exec.LookPath("skopeo"); err == nil {
		begin := mono()
		if out, err := exec.Command(path, "copy", "--insecure-policy", "--src-tls-verify=false", "docker://"+ref.String(), "dir:"+filepath.Join(dir, "skopeo")).CombinedOutput(); err != nil {
			t.Fatalf("skopeo: %v\n%s", err, out)
		}
		skopeo = float64(mono()-begin) / 1e9
	}
	store, err := image.Open(image.Config{Dir: filepath.Join(dir, "images"), RunDir: filepath.Join(dir, "run"), LimitBytes: 8 << 30,
		Registries: []string{addr}, Insecure: []string{addr}, Platform: image.HostPlatform()}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	r, err := image.ParseRef(ref.String())
	if err != nil {
		t.Fatal(err)
	}
	begin := mono()
	im, err := store.Pull(t.Context(), image.Request{Ref: r})
	if err != nil {
		t.Fatal(err)
	}
	ours = float64(mono()-begin) / 1e9
	store.Release(im)
	return ours, skopeo
}
