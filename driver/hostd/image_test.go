package hostd

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/image"
	"github.com/joulecloud/joule/driver/shim"
)

// imageRig is a real hostd that gets images from a registry of the test's own.
type imageRig struct {
	*realRig
	registry string
	program  []byte // testdata/escape, a static program
}

func newImageRig(t *testing.T, extra string) *imageRig {
	t.Helper()
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(srv.Close)
	host := strings.TrimPrefix(srv.URL, "http://")
	r := &imageRig{registry: host}
	program := filepath.Join(t.TempDir(), "escape")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./testdata/escape")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the test's program: %v\n%s", err, out)
	}
	var err error
	if r.program, err = os.ReadFile(program); err != nil {
		t.Fatal(err)
	}
	r.realRig = newRealRig(t, fmt.Sprintf("images {\n  registries = [%q]\n}\n%s", host, extra))
	return r
}

// push makes an image of the program and further files, and names it.
func (r *imageRig) push(tag string, cfg v1.Config, files map[string]string) string {
	r.t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h *tar.Header, body []byte) {
		h.Size = int64(len(body))
		if err := w.WriteHeader(h); err != nil {
			r.t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			r.t.Fatal(err)
		}
	}
	for _, d := range []string{"bin/", "etc/", "work/"} {
		add(&tar.Header{Name: d, Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	add(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, nil)
	add(&tar.Header{Name: "bin/escape", Typeflag: tar.TypeReg, Mode: 0o4755}, r.program)
	add(&tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:0::/root:/bin/x\nada:x:1000:1000::/work:/bin/x\n"))
	add(&tar.Header{Name: "etc/group", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:\nada:x:1000:\nteam:x:2000:ada\n"))
	for name, body := range files {
		add(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, []byte(body))
	}
	if err := w.Close(); err != nil {
		r.t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		r.t.Fatal(err)
	}
	p := image.HostPlatform()
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: p.OS, Architecture: p.Architecture, Config: cfg})
	if err == nil {
		img, err = mutate.AppendLayers(img, layer)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	ref, err := name.ParseReference(r.registry + "/" + tag)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		r.t.Fatal(err)
	}
	return ref.String()
}

// imageTask is a request for an image's command.
func (r *imageRig) imageTask(n int, ref string, args ...string) *hostapi.StartRequest {
	r.t.Helper()
	req := r.task(n, "")
	req.Image, req.Command, req.Args = ref, "", args
	return req
}

// run runs a task to its end and returns what it wrote to /local/out.
func (r *imageRig) run(req *hostapi.StartRequest) (*hostapi.TaskStatus, string) {
	r.t.Helper()
	st, err := r.client.Start(r.t.Context(), req)
	if err != nil {
		r.t.Fatal(err)
	}
	if st, err = r.client.Wait(r.t.Context(), req.ID); err != nil {
		r.t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(req.LocalDir, "out"))
	if err != nil && st.Exit.Error == "" {
		r.t.Errorf("no output: %v, exit %+v", err, st.Exit)
	}
	return st, string(b)
}

func want(t *testing.T, out string, lines ...string) {
	t.Helper()
	have := strings.Split(strings.TrimSpace(out), "\n")
	for _, l := range lines {
		if !slices.Contains(have, l) {
			t.Errorf("got no %q in:\n%s", l, out)
		}
	}
}

// An image's own command, environment, directory and user count where the job
// says nothing, and what the job says counts over them.
func TestRealImage(t *testing.T) {
	r := newImageRig(t, "")
	ref := r.push("app:1", v1.Config{Entrypoint: []string{"/bin/escape", "show"}, Cmd: []string{"from", "image"}, Env: []string{"A=image", "B=image"},
		WorkingDir: "/work", User: "ada"}, map[string]string{"etc/mark": "layer"})
	req := r.imageTask(1, ref)
	req.Env = map[string]string{"B": "job"}
	st, out := r.run(req)
	if st.Exit.Code != 0 || st.Exit.Error != "" {
		t.Fatalf("got %+v", st.Exit)
	}
	want(t, out, "args from image", "A=image", "B=job", "cwd /work", "uid 1000 1000 groups [2000]", "mark layer", "no_new_privs 1", "secrets writable")
	if rec := r.wantStamped(req); rec.Quality != 0 {
		t.Errorf("quality %b", rec.Quality)
	}
	// A pull that is over at once is told of once.
	if n := len(st.Notes); n == 0 || n > 2 || !strings.Contains(st.Notes[n-1], "pulled in") || !strings.Contains(st.Notes[n-1], "sha256:") {
		t.Errorf("got notes %q", st.Notes)
	}
	info, err := r.client.Host(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("isolation: %+v", info.Isolation)
	if info.Isolation.UserNamespace {
		want(t, out, "mapped yes")
	}

	other := r.imageTask(2, ref, "a", "b")
	other.Entrypoint, other.WorkDir, other.User, other.ReadOnlyRoot = []string{"/bin/escape", "show", "e"}, "/tmp", "0:team", true
	st, out = r.run(other)
	if st.Exit.Code != 0 {
		t.Fatalf("got %+v", st.Exit)
	}
	want(t, out, "args e a b", "cwd /tmp", "uid 0 2000 groups []", "root read-only")
	if len(st.Notes) != 1 || !strings.Contains(st.Notes[0], "cache") {
		t.Errorf("got notes %q", st.Notes)
	}

	for i, tt := range []struct {
		change func(*hostapi.StartRequest)
		want   string
	}{
		{func(q *hostapi.StartRequest) { q.Image = r.registry + "/none:1" }, "none:1"},
		{func(q *hostapi.StartRequest) { q.User = "eve" }, `no user "eve"`},
		{func(q *hostapi.StartRequest) { q.Entrypoint = []string{"/none"} }, "/none"},
	} {
		q := r.imageTask(10+i, ref)
		tt.change(q)
		if st, err := r.client.Start(t.Context(), q); err != nil || st.Exit == nil || !strings.Contains(st.Exit.Error, tt.want) {
			t.Errorf("got %+v, %v, want %q", st, err, tt.want)
		}
	}
	for i, tt := range []struct {
		change func(*hostapi.StartRequest)
		want   string
	}{
		{func(q *hostapi.StartRequest) { q.Image = "registry.example/app:1" }, "registry.example"},
		{func(q *hostapi.StartRequest) { q.Image = "NOT A REF" }, "NOT A REF"},
		{func(q *hostapi.StartRequest) { q.CapAdd = []string{"sys_admin"} }, "sys_admin"},
		{func(q *hostapi.StartRequest) { q.CapDrop = []string{"flying"} }, "flying"},
		{func(q *hostapi.StartRequest) { q.Ulimits = map[string]string{"nofile": "unlimited"} }, "nofile"},
		{func(q *hostapi.StartRequest) { q.PidsLimit = 1 << 20 }, "pids_limit"},
		{func(q *hostapi.StartRequest) { q.Runtime = "lunar" }, "lunar"},
		{func(q *hostapi.StartRequest) { q.Mounts = []hostapi.Mount{{HostPath: "/tmp", TaskPath: "/proc/x"}} }, "/proc/x"},
	} {
		q := r.imageTask(20+i, ref)
		tt.change(q)
		if st, err := r.client.Start(t.Context(), q); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %+v, %v, want a refusal with %q", st, err, tt.want)
		}
	}
	r.noRoots()
}

// noRoots checks that no task's root is left.
func (r *imageRig) noRoots() {
	r.t.Helper()
	r.await("roots to be removed", func() bool {
		left, _ := filepath.Glob(filepath.Join(r.cfg.DataDir, "images", "roots", "*"))
		more, _ := filepath.Glob(filepath.Join(r.cfg.runDir(), "roots", "*"))
		return len(left)+len(more) == 0
	})
	if b, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(b), r.cfg.runDir()) {
		r.t.Errorf("mounts left below %s: %v", r.cfg.runDir(), err)
	}
}

// What a hostile image tries, it fails at.
func TestRealEscapes(t *testing.T) {
	r := newImageRig(t, "")
	info, err := r.client.Host(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ref := r.push("evil:1", v1.Config{Entrypoint: []string{"/bin/escape"}}, nil)
	for _, user := range []string{"0", "1000"} {
		req := r.imageTask(len(user), ref, "escape", fmt.Sprint(os.Getpid()))
		req.User, req.MemoryMiB = user, 128
		_, out := r.run(req)
		t.Logf("as uid %s:\n%s", user, out)
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, "ESCAPED") {
				name := strings.Fields(line)[1]
				if !info.Isolation.Seccomp && slices.Contains([]string{"add", "keyring:", "new"}, name) {
					t.Logf("without seccomp in this runc: %s", line)
					continue
				}
				t.Errorf("as uid %s: %s", user, line)
			}
		}
		want(t, out, "done")
	}

	fork := r.imageTask(20, ref, "forkbomb")
	fork.PidsLimit = 50
	st, out := r.run(fork)
	want(t, out, "refused after less than 50")
	if st.Exit.Code != 0 {
		t.Errorf("fork bomb: got %+v", st.Exit)
	}

	memory := r.imageTask(21, ref, "memorybomb")
	memory.MemoryMiB = 64
	st, _ = r.run(memory)
	if !st.Exit.OOMKilled || st.Exit.Signal != 9 {
		t.Errorf("memory bomb: got %+v, want it killed for want of memory", st.Exit)
	}
	r.wantStamped(memory)

	cpu := r.imageTask(22, ref, "burn", "1s")
	cpu.CPUHardLimit, cpu.CPUMilli = true, 200
	r.run(cpu)
	s, e := taskFileOf[shim.Started](r.realRig, cpu, shim.StartedFile), taskFileOf[shim.Exit](r.realRig, cpu, shim.ExitFile)
	share := float64(*e.CPUUsec-s.CPUBaseUsec) * 1000 / float64(e.ExitMonoNs-s.ExecMonoNs)
	if share > 0.35 {
		t.Errorf("with 0.2 of a core it used %.2f", share)
	}
	r.noRoots()
}

// A task's root outlives hostd, and is removed with the task.
func TestRealImageAcrossKill9OfHostd(t *testing.T) {
	r := newImageRig(t, "")
	ref := r.push("app:1", v1.Config{Entrypoint: []string{"/bin/escape"}}, nil)
	req := r.imageTask(1, ref, "until", "/local/go")
	if _, err := r.client.Start(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	r.kill()
	r.launch()
	if err := os.WriteFile(filepath.Join(req.LocalDir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	st, err := r.client.Wait(t.Context(), req.ID)
	if err != nil || st.Exit.Code != 0 || st.Exit.Error != "" {
		t.Errorf("got %+v, %v", st, err)
	}
	r.wantStamped(req)
	r.noRoots()
	r.emptySpool()
}

// A runtime that is not there, or refuses this host, is known before a task asks
// for it; what the supplier requires and the runtime lacks is a fault, too.
func TestRuntimeFaults(t *testing.T) {
	dir := t.TempDir()
	liar := filepath.Join(dir, "liar")
	script := "#!/bin/sh\nfor a; do case $a in --version) echo liar version 1; exit 0;; esac; done\necho no cgroups for me >&2; exit 1\n"
	if err := os.WriteFile(liar, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	r := newRealRig(t, fmt.Sprintf("runtimes = [RUNC, \"absent-runtime\", %q]\n", liar))
	info, err := r.client.Host(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Runtimes) != 1 || info.Runtimes["runc"] == "" || len(info.RuntimeFaults) != 2 ||
		!strings.Contains(info.RuntimeFaults["absent-runtime"], "not found") || !strings.Contains(info.RuntimeFaults["liar"], "refuses this host") {
		t.Errorf("got %v, faults %q", info.Runtimes, info.RuntimeFaults)
	}
	req := r.task(1, "exit 0")
	req.Runtime = "liar"
	began := time.Now()
	if _, err := r.client.Start(t.Context(), req); err == nil || !strings.Contains(err.Error(), "refuses this host") {
		t.Errorf("got %v after %v", err, time.Since(began))
	}
	req.Runtime = "runc"
	if st, err := r.client.Start(t.Context(), req); err != nil {
		t.Errorf("got %+v, %v", st, err)
	}
}
