package hostd

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/joulecloud/joule/driver/cgroup"
	"github.com/joulecloud/joule/driver/gpu/probe"
	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/session/sessiontest"
	"github.com/joulecloud/joule/driver/shim"
	"github.com/joulecloud/joule/settlement/wire"
)

const childEnv = "HOSTD_TEST_CONFIG"

// The test binary is also a hostd of its own and the shim.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "joule-shim" {
		os.Exit(shim.Main(os.Args[1]))
	}
	if filepath.Base(os.Args[0]) == "joule-gpu-probe" {
		os.Exit(probe.Main(os.Args[1:]))
	}
	if path := os.Getenv(childEnv); path != "" {
		unix.Umask(0o077) // as systemd starts hostd
		cfg, err := Load(path)
		if err == nil {
			cfg.setPaths()
			err = run(context.Background(), cfg, newShimRunner(cfg), surroundings{openWait: openWait, now: clockOf(path)},
				slog.New(slog.NewTextHandler(os.Stderr, nil)))
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// clockOf is the wall clock, off by the time that a file beside the
// configuration says at that moment.
func clockOf(config string) func() time.Time {
	return func() time.Time {
		b, _ := os.ReadFile(config + ".clock")
		off, _ := time.ParseDuration(string(b)) // none: no file
		return time.Now().Add(off)
	}
}

// stepClock puts the child's wall clock off.
func (r *realRig) stepClock(off time.Duration) {
	r.t.Helper()
	if err := os.WriteFile(r.config+".clock", []byte(off.String()), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// realRig is a hostd in a process of its own, with real shims and runc.
type realRig struct {
	*rig
	dir    string
	config string
	child  *exec.Cmd
	logs   *lockedBuffer
}

// newRealRig adds extra to hostd's configuration; RUNC in it is runc's path.
func newRealRig(t *testing.T, extra ...string) *realRig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		runc, err = filepath.Abs("../../build/bin/runc")
		if _, statErr := os.Stat(runc); err != nil || statErr != nil {
			t.Skip("needs runc")
		}
	}
	host, err := cgroup.Detect(cgroup.DefaultRoot)
	if err != nil {
		t.Skipf("needs cgroups: %v", err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := &realRig{dir: shortDir(t), logs: &lockedBuffer{}}
	if err := os.Chmod(r.dir, 0o755); err != nil { // tasks run as nobody
		t.Fatal(err)
	}
	shimPath := filepath.Join(r.dir, "joule-shim")
	if err := os.Symlink(self, shimPath); err != nil {
		t.Fatal(err)
	}
	r.rig = &rig{t: t, srv: sessiontest.New(t), logs: r.logs}
	r.cfg.DataDir = filepath.Join(r.dir, "data")
	r.cfg.setPaths()
	r.config = filepath.Join(r.dir, "hostd.hcl")
	more := strings.ReplaceAll(strings.Join(extra, ""), "RUNC", fmt.Sprintf("%q", runc))
	if !strings.Contains(more, "runtimes =") {
		more += fmt.Sprintf("runtimes = [%q]\n", runc)
	}
	text := fmt.Sprintf("data_dir = %q\nhost = \"h1\"\nservers = [%q]\nshim = %q\nallow_host_root = true\ncheckpoint = \"100ms\"\n%s",
		r.cfg.DataDir, r.srv.URL(), shimPath, more)
	if err := os.WriteFile(r.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	pub, err := PublicKey(r.cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	r.srv.Enroll("h1", pub)
	r.client = hostapi.NewClient(r.cfg.Socket)
	t.Cleanup(host.Tidy)
	t.Cleanup(func() {
		r.kill()
		if t.Failed() {
			t.Logf("hostd's log:\n%s", r.logs)
		}
	})
	r.launch()
	return r
}

// launch starts the child and waits for its answer.
func (r *realRig) launch() {
	r.t.Helper()
	r.child = exec.Command("/proc/self/exe")
	r.child.Env = append(os.Environ(), childEnv+"="+r.config)
	r.child.Stderr = r.logs
	if err := r.child.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.await("hostd's answer", func() bool {
		info, err := r.client.Host(r.t.Context())
		if err == nil && len(info.Problems) > 0 {
			r.t.Fatalf("hostd has problems: %q", info.Problems)
		}
		return err == nil && info.Pid == r.child.Process.Pid
	})
}

// kill is kill -9.
func (r *realRig) kill() {
	if r.child != nil {
		_ = r.child.Process.Kill()
		_ = r.child.Wait()
		r.child = nil
	}
}

// task is a request for a shell command, with everything that Nomad prepares.
func (r *realRig) task(n int, script string) *hostapi.StartRequest {
	r.t.Helper()
	req := request(n)
	req.Command, req.Args = "/bin/sh", []string{"-c", script}
	base := filepath.Join(r.dir, req.AllocID)
	for path, dst := range map[string]*string{"alloc": &req.AllocDir, "local": &req.LocalDir, "secrets": &req.SecretsDir} {
		*dst = filepath.Join(base, path)
		if err := os.MkdirAll(*dst, 0o777); err != nil {
			r.t.Fatal(err)
		}
		if err := os.Chmod(*dst, 0o777); err != nil { // past the umask
			r.t.Fatal(err)
		}
	}
	for path, dst := range map[string]*string{"stdout.fifo": &req.StdoutPath, "stderr.fifo": &req.StderrPath} {
		*dst = filepath.Join(base, path)
		if err := unix.Mkfifo(*dst, 0o600); err != nil {
			r.t.Fatal(err)
		}
		f, err := os.OpenFile(*dst, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() { f.Close() })
	}
	r.t.Cleanup(func() {
		if r.child == nil {
			r.launch()
		}
		if err := r.client.Destroy(context.Background(), req.ID, true); err != nil && !isCode(err, hostapi.ErrNotFound) {
			r.t.Errorf("Destroy %s: %v", req.ID, err)
		}
		left, _ := filepath.Glob("/sys/fs/cgroup/*/joule/" + hostapi.ContainerID(req.ID))
		more, _ := filepath.Glob("/sys/fs/cgroup/joule/" + hostapi.ContainerID(req.ID))
		if left = append(left, more...); len(left) > 0 {
			r.t.Errorf("cgroups left: %q", left)
		}
	})
	return req
}

// taskFile reads a file that the shim wrote.
func taskFileOf[T any](r *realRig, req *hostapi.StartRequest, name string) T {
	r.t.Helper()
	var v T
	b, err := os.ReadFile(filepath.Join(r.cfg.DataDir, tasksDir, hostapi.ContainerID(req.ID), name))
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

// wantStamped checks that the task was billed as the kernel's own stamps say.
func (r *realRig) wantStamped(req *hostapi.StartRequest) wire.Record {
	r.t.Helper()
	got := r.bill(req).Last()
	s, e := taskFileOf[shim.Started](r, req, shim.StartedFile), taskFileOf[shim.Exit](r, req, shim.ExitFile)
	wall := uint64(e.ExitMonoNs-s.ExecMonoNs+500_000) / 1_000_000
	want := wire.Totals{WallMs: wall, CPUMs: (*e.CPUUsec - s.CPUBaseUsec + 500) / 1000, MemoryMiBMs: 64 * wall}
	if got.Active != want {
		r.t.Errorf("billed: got %+v, want %+v", got.Active, want)
	}
	return got
}

func TestRealTask(t *testing.T) {
	r := newRealRig(t)
	req := r.task(1, "sleep 0.137; exit 4")
	st, err := r.client.Start(t.Context(), req)
	if err != nil || st.State == hostapi.StateStarting || st.Pid == 0 {
		t.Fatalf("Start: got %+v, %v", st, err)
	}
	if st, err = r.client.Wait(t.Context(), req.ID); err != nil || st.Exit.Code != 4 || st.Exit.Error != "" {
		t.Fatalf("Wait: got %+v, %v", st, err)
	}
	got := r.wantStamped(req)
	if got.Active.WallMs < 137 || got.Quality != 0 {
		t.Errorf("final record: got %+v", got)
	}
	t.Logf("billed %+v for sleep 0.137", got.Active)

	absent := r.task(2, "")
	absent.Command, absent.Args = "/no/such/program", nil
	st, err = r.client.Start(t.Context(), absent)
	if err != nil || st.State != hostapi.StateExited || st.Pid != 0 || !strings.Contains(st.Exit.Error, "no such file") {
		t.Errorf("absent program: got %+v, %v", st, err)
	}
	r.await("its lease to be closed", func() bool { return len(r.srv.Closed()) == 1 })

	polite := r.task(3, "trap 'exit 9' TERM; : > /local/ready; while :; do sleep 0.01; done")
	if _, err := r.client.Start(t.Context(), polite); err != nil {
		t.Fatal(err)
	}
	r.await("the task to be ready", func() bool { _, err := os.Stat(filepath.Join(polite.LocalDir, "ready")); return err == nil })
	stats, err := r.client.Stats(t.Context(), polite.ID)
	if err != nil || stats.CPUUsec == nil || *stats.CPUUsec == 0 {
		t.Errorf("Stats: got %+v, %v", stats, err)
	}
	if st, err = r.client.Stop(t.Context(), polite.ID, &hostapi.StopRequest{TimeoutMs: 20_000}); err != nil || st.Exit.Code != 9 {
		t.Errorf("Stop: got %+v, %v", st, err)
	}
	r.wantStamped(polite)
	r.emptySpool()
}

func TestRealKill9OfHostd(t *testing.T) {
	r := newRealRig(t)
	across := r.task(1, "i=0; while [ $i -lt 120 ]; do i=$((i+1)); sleep 0.01; done")
	alone := r.task(2, "sleep 0.4")
	for _, req := range []*hostapi.StartRequest{across, alone} {
		if _, err := r.client.Start(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	r.records(across, 1)
	r.kill()
	exit := filepath.Join(r.cfg.DataDir, tasksDir, hostapi.ContainerID(alone.ID), shim.ExitFile)
	r.await("a task to end without hostd", func() bool { _, err := os.Stat(exit); return err == nil })
	r.launch()
	n := len(r.records(across, 1).Accepted)
	r.records(across, n+1)
	r.kill() // again, in the middle of whatever it does
	r.launch()
	for _, req := range []*hostapi.StartRequest{across, alone} {
		st, err := r.client.Wait(t.Context(), req.ID)
		if err != nil || st.Exit.Code != 0 || st.Exit.Error != "" {
			t.Errorf("%s: got %+v, %v", req.ID, st, err)
		}
		if rec := r.wantStamped(req); rec.Quality != 0 {
			t.Errorf("%s: quality %b", req.ID, rec.Quality)
		}
	}
	r.emptySpool()
}

func TestRealKill9OfShim(t *testing.T) {
	r := newRealRig(t)
	req := r.task(1, "while :; do sleep 0.01; done")
	st, err := r.client.Start(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	r.records(req, 2)
	began := taskFileOf[shim.Started](r, req, shim.StartedFile).ExecMonoNs
	if err := unix.Kill(taskFileOf[shim.Process](r, req, shim.ProcessFile).Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	got, err := r.client.Wait(t.Context(), req.ID)
	if err != nil || got.Exit.Error == "" {
		t.Errorf("Wait: got %+v, %v", got, err)
	}
	most := uint64(monoNow()-began) / 1_000_000
	rec := r.bill(req).Last()
	if rec.Quality&wire.QualityExitEstimated == 0 || rec.Active.WallMs > most+1 {
		t.Errorf("final record: got %+v, want at most %d ms, estimated", rec, most)
	}
	r.await("the orphaned task's end", func() bool { return unix.Kill(st.Pid, 0) == unix.ESRCH })
	r.emptySpool()
}

func TestRealStartLatency(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a few seconds")
	}
	r := newRealRig(t)
	var exec, reply []time.Duration
	for i := range 4 {
		req := r.task(i, "exit 0")
		began := time.Now()
		st, err := r.client.Start(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		exec, reply = append(exec, st.StartedAt.Sub(began).Round(time.Millisecond)), append(reply, time.Since(st.StartedAt).Round(time.Millisecond))
		if _, err := r.client.Wait(t.Context(), req.ID); err != nil {
			t.Fatal(err)
		}
		r.wantStamped(req)
	}
	t.Logf("from request to exec: %v, from exec to answer: %v", exec, reply)
}
