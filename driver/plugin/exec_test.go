package plugin

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/proto"
	dtestutil "github.com/hashicorp/nomad/plugins/drivers/testutils"

	"github.com/joulecloud/joule/driver/hostapi"
)

// fakeRuntime is an OCI runtime as far as exec goes: it checks its arguments and
// runs the command on this machine.
const fakeRuntime = `#!/bin/sh
[ "$1" = --root ] && [ "$2" = /run/joule-fake ] && [ "$3" = exec ] && [ "$4" = --pid-file ] || { echo "fake runtime: $*" >&2; exit 99; }
echo $$ > "$5"
shift 5
[ "$1" = --tty ] && shift && stty sane
case "$1" in c-*) shift ;; *) echo "no container $1" >&2; exit 98 ;; esac
exec "$@"
`

func execRig(t *testing.T) (*rig, *drivers.TaskConfig) {
	r := newRig(t)
	r.fake.runtime = filepath.Join(t.TempDir(), "runtime")
	if err := os.WriteFile(r.fake.runtime, []byte(fakeRuntime), 0o700); err != nil {
		t.Fatal(err)
	}
	cfg, _ := r.start(t, "/bin/sleep", "60")
	return r, cfg
}

// Nomad's own conformance test, but for the part that wants Nomad's cgroups.
func TestExecConformance(t *testing.T) {
	r := newRig(t)
	id := runContainer(t, r)
	h := r.harness(t, task(t, TaskConfig{Command: "true"}), false)
	dtestutil.TestExecTaskStreamingBasicResponses(t, h, id)
	t.Run("in the container", func(t *testing.T) {
		code, out, stderr := dtestutil.ExecTask(t, h, id, "echo $GREETING; pwd; ls -d /marker; exit 3", false, "")
		if code != 3 || out != "hello\n/tmp\n/marker\n" {
			t.Errorf("got %d %q %q", code, out, stderr)
		}
	})
	t.Run("killed with its context", func(t *testing.T) {
		_, err := r.ExecTask(id, []string{"/bin/sh", "-c", "exec sleep 4242"}, 500*time.Millisecond)
		if err == nil || !strings.Contains(err.Error(), "context deadline exceeded") {
			t.Errorf("got %v, want a timeout", err)
		}
		eventually(t, "the command is gone from the container", func() bool { return !anyCommandLine(t, "sleep\x004242\x00") })
	})
	t.Run("unknown command", func(t *testing.T) {
		res, err := r.ExecTask(id, []string{"/nonexistent"}, 10*time.Second)
		if err != nil || res.ExitResult.ExitCode == 0 || !strings.Contains(string(res.Stderr), "/nonexistent") {
			t.Errorf("got %+v, %v, want runc's own words", res, err)
		}
	})
}

func TestExecTask(t *testing.T) {
	r, cfg := execRig(t)
	res, err := r.ExecTask(cfg.ID, []string{"/bin/sh", "-c", "echo out; echo err >&2; cat; exit 4"}, 10*time.Second)
	if err != nil || string(res.Stdout) != "out\n" || string(res.Stderr) != "err\n" || res.ExitResult.ExitCode != 4 {
		t.Errorf("got %+v, %v", res, err)
	}
	res, err = r.ExecTask(cfg.ID, []string{"/bin/sh", "-c", "kill -9 $$"}, 10*time.Second)
	if err != nil || res.ExitResult.ExitCode != 137 {
		t.Errorf("got %+v, %v, want exit code 137", res, err)
	}
	// The end of a long output is kept.
	res, err = r.ExecTask(cfg.ID, []string{"/bin/sh", "-c", "yes abc | head -c 300000; echo; echo last"}, 10*time.Second)
	if err != nil || len(res.Stdout) != execOutputMost || !strings.HasSuffix(string(res.Stdout), "last\n") {
		t.Errorf("got %d bytes, %v, want the last %d", len(res.Stdout), err, execOutputMost)
	}
	began := time.Now()
	_, err = r.ExecTask(cfg.ID, []string{"/bin/sleep", "4343"}, 200*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "context deadline exceeded") || time.Since(began) > 5*time.Second {
		t.Errorf("got %v after %v, want a timeout after 200 ms", err, time.Since(began))
	}
	if anyCommandLine(t, "/bin/sleep\x004343\x00") {
		t.Error("the command runs on")
	}
	// A child that keeps the output open does not keep the result back.
	began = time.Now()
	res, err = r.ExecTask(cfg.ID, []string{"/bin/sh", "-c", "sleep 5 & echo done"}, 10*time.Second)
	if err != nil || string(res.Stdout) != "done\n" || time.Since(began) > 3*time.Second {
		t.Errorf("got %+v, %v after %v", res, err, time.Since(began))
	}
	if _, err := r.ExecTask(cfg.ID, nil, time.Second); err == nil || !strings.Contains(err.Error(), "no command") {
		t.Errorf("got %v, want a refusal", err)
	}
	if err := r.StopTask(cfg.ID, time.Second, "SIGKILL"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ExecTask(cfg.ID, []string{"true"}, time.Second); err == nil || !strings.Contains(err.Error(), "it is not running (exited)") {
		t.Errorf("got %v, want a refusal", err)
	}
	if _, err := r.d.ExecTask("a/b/c", []string{"true"}, time.Second); err != drivers.ErrTaskNotFound {
		t.Errorf("got %v, want %v", err, drivers.ErrTaskNotFound)
	}
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "joule-exec-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("got %v, %v left behind, want none", left, err)
	}
}

// chanStream is a stream whose user types what is sent to in.
type chanStream struct {
	ctx context.Context
	in  chan *drivers.ExecTaskStreamingRequestMsg
	mu  sync.Mutex
	out strings.Builder
	end *proto.ExitResult
}

func (s *chanStream) Recv() (*drivers.ExecTaskStreamingRequestMsg, error) {
	select {
	case m, ok := <-s.in:
		if !ok {
			return nil, io.EOF
		}
		return m, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

func (s *chanStream) Send(m *drivers.ExecTaskStreamingResponseMsg) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.Stdout != nil {
		s.out.Write(m.Stdout.Data)
	}
	if m.Exited {
		s.end = m.Result
	}
	return nil
}

func (s *chanStream) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.String()
}

func TestExecTerminal(t *testing.T) {
	r, cfg := execRig(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s := &chanStream{ctx: ctx, in: make(chan *drivers.ExecTaskStreamingRequestMsg)}
	done := make(chan error, 1)
	go func() {
		done <- r.d.ExecTaskStreamingRaw(ctx, cfg.ID, []string{"/bin/sh", "-c", "stty size; while read x; do echo got $x; stty size; done; echo bye"}, true, s)
	}()
	size := func(rows, cols int32) {
		s.in <- &drivers.ExecTaskStreamingRequestMsg{TtySize: &proto.ExecTaskStreamingRequest_TerminalSize{Height: rows, Width: cols}}
	}
	typed := func(text string, end bool) {
		s.in <- &drivers.ExecTaskStreamingRequestMsg{Stdin: &proto.ExecTaskStreamingIOOperation{Data: []byte(text), Close: end}}
	}
	shown := func(text string) {
		t.Helper()
		eventually(t, strconv.Quote(text)+" is shown", func() bool { return strings.Contains(s.text(), text) })
	}
	shown("0 0\r\n")
	size(40, 120)
	typed("a\n", false)
	shown("got a\r\n")
	shown("40 120\r\n")
	s.in <- &drivers.ExecTaskStreamingRequestMsg{} // Nomad's heartbeat
	size(-1, 1<<20)                                // nonsense is cut to what a terminal can have
	typed("b\n", false)
	shown("got b\r\n")
	shown("0 65535\r\n")
	typed("", true) // a terminal's input ends with Ctrl-D
	if err := within(t, 5*time.Second, done, "end"); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(s.text(), "bye\r\n") || s.end.ExitCode != 0 {
		t.Errorf("got %q and %+v, want bye and 0", s.text(), s.end)
	}
}

func TestExecEndsWithItsContext(t *testing.T) {
	r, cfg := execRig(t)
	before := runtime.NumGoroutine()
	for _, tty := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		s := &chanStream{ctx: ctx, in: make(chan *drivers.ExecTaskStreamingRequestMsg)}
		done := make(chan error, 1)
		go func() {
			done <- r.d.ExecTaskStreamingRaw(ctx, cfg.ID, []string{"/bin/sh", "-c", "echo ready; exec sleep 4444"}, tty, s)
		}()
		eventually(t, "ready", func() bool { return strings.Contains(s.text(), "ready") })
		cancel() // the user's connection is gone
		if err := within(t, 5*time.Second, done, "end"); !errors.Is(err, context.Canceled) {
			t.Errorf("tty %t: got %v, want %v", tty, err, context.Canceled)
		}
		if anyCommandLine(t, "sleep\x004444\x00") {
			t.Errorf("tty %t: the command runs on", tty)
		}
	}
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
}

func anyCommandLine(t *testing.T, want string) bool {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && string(b) == want {
			return true
		}
	}
	return false
}

// runContainer runs sleep in a real container and tells the fake of it.
func runContainer(t *testing.T, r *rig) (taskID string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		if runc, err = filepath.Abs("../../build/bin/runc"); err != nil || executable(runc) != nil {
			t.Skip("needs runc, on PATH or in build/bin")
		}
	}
	dir, err := os.MkdirTemp("", "jr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	name := "joule-plugin-test-" + strconv.Itoa(os.Getpid())
	root, bundle := filepath.Join(dir, "root"), filepath.Join(dir, "bundle")
	if err := os.MkdirAll(filepath.Join(bundle, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	marker := filepath.Join(dir, "marker")
	if err := os.Mkdir(marker, 0o755); err != nil {
		t.Fatal(err)
	}
	mount := func(dest, kind, source, options string) string {
		return `{"destination":"` + dest + `","type":"` + kind + `","source":"` + source + `","options":[` + options + `]}`
	}
	mounts := []string{
		mount("/proc", "proc", "proc", ""), mount("/dev", "tmpfs", "tmpfs", ""), mount("/tmp", "tmpfs", "tmpfs", ""),
		mount("/dev/pts", "devpts", "devpts", `"newinstance","ptmxmode=0666","mode=0620"`), mount("/marker", "bind", marker, `"bind","ro"`),
	}
	for _, d := range []string{"/bin", "/lib", "/lib64", "/usr", "/etc"} {
		if _, err := os.Stat(d); err == nil {
			mounts = append(mounts, mount(d, "bind", d, `"rbind","ro"`))
		}
	}
	config := `{"ociVersion":"1.0.2","root":{"path":"rootfs"},"hostname":"x",
	"process":{"terminal":false,"user":{"uid":0,"gid":0},"args":["/bin/sleep","120"],"cwd":"/tmp","noNewPrivileges":true,
	"env":["PATH=/usr/bin:/bin","GREETING=hello","TERM=xterm"]},
	"mounts":[` + strings.Join(mounts, ",") + `],
	"linux":{"cgroupsPath":"/` + name + `","namespaces":[{"type":"pid"},{"type":"mount"},{"type":"ipc"},{"type":"uts"}]}}`
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	create := exec.Command(runc, "--root", root, "run", "--detach", "--bundle", bundle, name)
	// Not a pipe: the container would keep it open.
	out, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	create.Stdout, create.Stderr = out, out
	if err := create.Run(); err != nil {
		b, _ := os.ReadFile(out.Name())
		t.Skipf("needs a working runc: %v: %s", err, b)
	}
	t.Cleanup(func() {
		if b, err := exec.Command(runc, "--root", root, "delete", "--force", name).CombinedOutput(); err != nil {
			t.Errorf("delete container: %v: %s", err, b)
		}
	})
	id := "alloc/sleep/inv"
	r.fake.set(func() {
		r.fake.tasks[id] = &fakeTask{done: make(chan struct{}), stop: make(chan string, 8), st: hostapi.TaskStatus{
			ID: id, LeaseID: 1, State: hostapi.StateRunning, Pid: 1, StartedAt: time.Now(),
			Runtime: runc, RuntimeRoot: root, ContainerID: name,
		}}
	})
	return id
}
