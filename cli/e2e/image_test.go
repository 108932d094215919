package e2e

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/hashicorp/nomad/api"
)

// pushImage puts an image into the cluster's registry whose only program is the
// driver tests' own.
func (f *fixture) pushImage(t *testing.T, tag string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "escape")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "../../driver/hostd/testdata/escape")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the image's program: %v\n%s", err, out)
	}
	body, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err = errors.Join(w.WriteHeader(&tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755}),
		w.WriteHeader(&tar.Header{Name: "bin/escape", Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(body))}))
	if err == nil {
		_, err = w.Write(body)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, Config: v1.Config{Entrypoint: []string{"/bin/escape"}}})
	if err == nil {
		img, err = mutate.AppendLayers(img, layer)
	}
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(f.registry.Listener.Addr().String() + "/" + tag)
	if err == nil {
		err = remote.Write(ref, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ref.String()
}

// A job with an image runs on a host that never had it, and is billed to the
// millisecond; want of memory is told as such.
func TestImage(t *testing.T) {
	f := cluster(t)
	ref := f.pushImage(t, "app:1")
	ended := func(alloc, status string) string {
		t.Helper()
		var a *api.Allocation
		eventually(t, 40*time.Second, status+" allocation", func() (err error) {
			if a, _, err = f.cluster.NomadAPI.Allocations().Info(alloc, nil); err == nil && a.ClientStatus != status {
				err = fmt.Errorf("it is %s: %s", a.ClientStatus, taskEvents(a))
			}
			return err
		})
		return taskEvents(a)
	}
	for _, event := range []string{"pulled in", "in the host's cache"} {
		_, alloc := f.submit(t, task{args: []string{"burn", "700ms"}, config: map[string]any{"image": ref, "readonly_rootfs": true}})
		lease := f.closed(t, alloc, 40*time.Second)
		f.exact(t, lease, "escape")
		if events := ended(alloc, api.AllocClientStatusComplete); !strings.Contains(events, event) {
			t.Errorf("got events %q, want %q", events, event)
		}
	}

	_, alloc := f.submit(t, task{args: []string{"memorybomb"}, config: map[string]any{"image": ref}})
	lease := f.closed(t, alloc, 60*time.Second)
	f.exact(t, lease, "escape")
	if events := ended(alloc, api.AllocClientStatusFailed); !strings.Contains(strings.ToLower(events), "oom") {
		t.Errorf("got events %q, want to be told of want of memory", events)
	}

	_, alloc = f.submit(t, task{args: []string{"burn", "1s"}, config: map[string]any{"image": f.registry.Listener.Addr().String() + "/none:1"}})
	failsWith(t, f, alloc, "none:1")

	job, alloc := f.submit(t, task{args: []string{"sleep"}, config: map[string]any{"image": ref}})
	f.running(t, alloc)
	f.nomad(t, "alloc", "exec", "-i=false", "-t=false", alloc, "/bin/escape", "show", "by", "exec")
	if out := f.nomad(t, "alloc", "fs", alloc, "main/local/out"); !strings.Contains(out, "args by exec") {
		t.Errorf("exec in the image: got %q", out)
	}
	f.nomad(t, "job", "stop", "-detach", job)
	f.closed(t, alloc, 20*time.Second)
	for _, h := range f.cluster.Hosts {
		eventually(t, 20*time.Second, "roots removed on "+h.Name, func() error {
			left, err := filepath.Glob(filepath.Join(h.DataDir(), "images", "roots", "*"))
			if err == nil && h.Name == "crowd-1" && len(left) > 0 {
				err = fmt.Errorf("%d left", len(left))
			}
			return err
		})
	}
}
