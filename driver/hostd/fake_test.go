package hostd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/session/sessiontest"
	"github.com/joulecloud/joule/driver/shim"
	"github.com/joulecloud/joule/settlement/wire"
)

// fakeRunner runs tasks that exist in the test only. Like shims, they outlive
// a hostd: a new one attaches to them by directory.
type fakeRunner struct {
	mu        sync.Mutex
	procs     map[string]*fakeProc
	launched  int
	check     error         // Check's answer
	launch    error         // Launch's
	failStart string        // the runtime's words
	hang      chan struct{} // no start before it is closed
	discards  int
}

func newFakeRunner() *fakeRunner { return &fakeRunner{procs: map[string]*fakeProc{}} }

// cpuShare is how much of a core a fake task uses.
const cpuShare = 4 // a quarter

type fakeProc struct {
	id      string
	started *shim.Started
	failed  string
	hang    <-chan struct{}
	done    chan struct{}

	mu       sync.Mutex
	exit     *shim.Exit
	signals  []unix.Signal
	onSignal func(unix.Signal) // by default SIGTERM ends it
	kills    int
	cleanups int
	sampleAt int64 // 0: now
	noCPU    bool
	stops    []int64 // moments of freezes and thaws, in turn
}

func (r *fakeRunner) Open(*slog.Logger) error       { return nil }
func (r *fakeRunner) Sweep(func(string) bool) error { return nil }
func (r *fakeRunner) Close() error                  { return nil }

func (r *fakeRunner) Check(*hostapi.StartRequest, string) error { return r.check }

func (r *fakeRunner) Launch(_ context.Context, dir, id string, _ *hostapi.StartRequest, _ func(string)) (proc, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.launch != nil {
		return nil, r.launch
	}
	r.launched++
	p := &fakeProc{id: id, failed: r.failStart, hang: r.hang, done: make(chan struct{})}
	p.started = &shim.Started{Pid: 1000 + r.launched, ExecMonoNs: monoNow(), ExecWallNs: time.Now().UnixNano(), ExecStamped: true, CPUBaseUsec: 5000}
	if p.failed != "" {
		close(p.done)
	}
	r.procs[dir] = p
	return p, nil
}

func (r *fakeRunner) Attach(dir string) (proc, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.procs[dir]; p != nil {
		return p, nil
	}
	return nil, shim.ErrNotLaunched
}

func (r *fakeRunner) Discard(string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.discards++
	return nil
}

func (r *fakeRunner) Info(context.Context) runnerInfo {
	return runnerInfo{Cgroup: "hybrid", Runtimes: map[string]string{"fake": "1.0"}}
}

func (p *fakeProc) Started(ctx context.Context) (*shim.Started, error) {
	if p.hang != nil {
		select {
		case <-p.hang:
		case <-p.done:
			return nil, shim.ErrNoExit
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if p.failed != "" {
		return nil, &shim.StartError{Message: p.failed}
	}
	return p.started, nil
}

func (p *fakeProc) Done() <-chan struct{} { return p.done }

func (p *fakeProc) Exit() (*shim.Exit, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.failed != "":
		return &shim.Exit{Error: p.failed}, nil
	case p.exit != nil:
		return p.exit, nil
	case p.gone():
		return nil, shim.ErrNoExit
	}
	return nil, shim.ErrRunning
}

func (p *fakeProc) gone() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// frozenUntil is how long the task had been frozen at a moment. The caller holds
// mu.
func (p *fakeProc) frozenUntil(mono int64) (total int64) {
	for i := 0; i < len(p.stops); i += 2 {
		end := mono
		if i+1 < len(p.stops) {
			end = min(end, p.stops[i+1])
		}
		total += max(0, end-p.stops[i])
	}
	return total
}

// cpuAt is the cgroup's counter at a moment. The caller holds mu.
func (p *fakeProc) cpuAt(mono int64) uint64 {
	return p.started.CPUBaseUsec + uint64(mono-p.started.ExecMonoNs-p.frozenUntil(mono))/1000/cpuShare
}

func (p *fakeProc) turn(frozen bool) (int64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone() {
		return 0, os.ErrProcessDone
	}
	if (len(p.stops)%2 == 1) == frozen {
		return 0, errors.New("turned twice")
	}
	at := monoNow()
	p.stops = append(p.stops, at)
	return at, nil
}

func (p *fakeProc) Freeze(context.Context) (int64, error) { return p.turn(true) }
func (p *fakeProc) Thaw() (int64, error)                  { return p.turn(false) }

func (p *fakeProc) Frozen() (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.stops)%2 == 1, nil
}

func (p *fakeProc) FrozenFor() *time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := time.Duration(p.frozenUntil(monoNow())) // as the kernel: after the end, too
	return &d
}

// end ends the task, now.
func (p *fakeProc) end(code int, sig unix.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone() {
		return
	}
	at := monoNow()
	cpu := p.cpuAt(at)
	p.exit = &shim.Exit{Code: code, Signal: int(sig), ExitMonoNs: at, ExitWallNs: time.Now().UnixNano(), ExitStamped: true, CPUUsec: &cpu}
	close(p.done)
}

// die is the shim's death without a word.
func (p *fakeProc) die() { close(p.done) }

func (p *fakeProc) Signal(sig unix.Signal) error {
	p.mu.Lock()
	p.signals = append(p.signals, sig)
	on := p.onSignal
	p.mu.Unlock()
	if p.gone() {
		return os.ErrProcessDone
	}
	if on != nil {
		on(sig)
	} else if sig == unix.SIGTERM {
		p.end(0, sig)
	}
	return nil
}

func (p *fakeProc) Kill() error {
	p.mu.Lock()
	p.kills++
	p.mu.Unlock()
	p.end(0, unix.SIGKILL)
	return nil
}

func (p *fakeProc) Sample() (shim.Sample, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone() && p.sampleAt == 0 {
		return shim.Sample{}, shim.ErrEnding
	}
	s := shim.Sample{MonoNs: monoNow()}
	if p.sampleAt != 0 {
		s.MonoNs = p.sampleAt
	}
	if cpu := p.cpuAt(s.MonoNs); !p.noCPU {
		s.CPUUsec = &cpu
	}
	return s, nil
}

func (p *fakeProc) Cleanup(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cleanups++
	if !p.gone() {
		return shim.ErrRunning
	}
	return nil
}

func (p *fakeProc) Stats() hostapi.Stats {
	cpu := uint64(7)
	return hostapi.Stats{At: time.Now(), CPUUsec: &cpu}
}

func (p *fakeProc) Spec() *shim.Spec {
	return &shim.Spec{ContainerID: p.id, Runtime: "/usr/bin/fake", RuntimeRoot: "/run/fake"}
}

// rig is a hostd, what it runs on, and a settlement server.
type rig struct {
	t        *testing.T
	cfg      Config
	runner   *fakeRunner
	openWait time.Duration
	clock    stepped
	srv      *sessiontest.Server
	client   *hostapi.Client
	logs     *lockedBuffer
	stop     func() error // ends hostd; its tasks run on
}

// stepped is a wall clock that is off.
type stepped struct{ ns atomic.Int64 }

func (c *stepped) now() time.Time        { return time.Now().Add(time.Duration(c.ns.Load())) }
func (c *stepped) step(by time.Duration) { c.ns.Add(int64(by)) }

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// shortDir is a directory whose name leaves room for a socket's.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hostd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, runner: newFakeRunner(), openWait: openWait, srv: sessiontest.New(t), logs: &lockedBuffer{}}
	r.cfg = Default()
	r.cfg.DataDir = filepath.Join(shortDir(t), "data")
	r.cfg.Host = "h1"
	r.cfg.Servers = []string{r.srv.URL()}
	r.cfg.AllowHostRoot = true
	r.cfg.Checkpoint = 30 * time.Millisecond
	r.cfg.setPaths()
	pub, err := PublicKey(r.cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	r.srv.Enroll("h1", pub)
	r.client = hostapi.NewClient(r.cfg.Socket)
	return r
}

// start runs hostd until stop, or the test's end.
func (r *rig) start() *rig {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	log := slog.New(slog.NewTextHandler(r.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	go func() { ended <- run(ctx, r.cfg, r.runner, surroundings{openWait: r.openWait, now: r.clock.now}, log) }()
	var once sync.Once
	var err error
	r.stop = func() error {
		once.Do(func() {
			cancel()
			select {
			case err = <-ended:
			case <-time.After(10 * time.Second):
				err = errors.New("hostd doesn't stop")
			}
		})
		return err
	}
	stop := r.stop
	r.t.Cleanup(func() {
		if err := stop(); err != nil {
			r.t.Errorf("hostd: %v", err)
		}
		if r.t.Failed() {
			r.t.Logf("hostd's log:\n%s", r.logs)
		}
	})
	r.await("hostd's answer", func() bool {
		_, err := r.client.Host(r.t.Context())
		return err == nil
	})
	return r
}

func (r *rig) await(what string, ok func() bool) {
	r.t.Helper()
	r.srv.Await(r.t, what, ok)
}

func request(n int) *hostapi.StartRequest {
	alloc := fmt.Sprintf("alloc%d", n)
	return &hostapi.StartRequest{
		ID: alloc + "/web/inv1", AllocID: alloc, Task: "web", Invocation: "inv1",
		Command: "/bin/true", MemoryMiB: 64,
	}
}

func (r *rig) run(req *hostapi.StartRequest) (*hostapi.TaskStatus, *fakeProc) {
	r.t.Helper()
	st, err := r.client.Start(r.t.Context(), req)
	if err != nil {
		r.t.Fatalf("Start: %v", err)
	}
	return st, r.proc(req.ID)
}

func (r *rig) proc(id string) *fakeProc {
	r.runner.mu.Lock()
	defer r.runner.mu.Unlock()
	return r.runner.procs[filepath.Join(r.cfg.DataDir, tasksDir, hostapi.ContainerID(id))]
}

// bill waits for the final record of the task at the server.
func (r *rig) bill(req *hostapi.StartRequest) sessiontest.Lease {
	r.t.Helper()
	var l sessiontest.Lease
	r.await("the final record of "+req.ID, func() bool {
		l, _ = r.srv.Lease(req.ID)
		return l.Last().Final
	})
	return l
}

// wantExact checks that the task was billed exactly as its stamps say.
func (r *rig) wantExact(l sessiontest.Lease, p *fakeProc) {
	r.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	r.wantTotals(l, p.exit.ExitMonoNs)
}

// wantTotals checks that the task was billed exactly up to that moment.
func (r *rig) wantTotals(l sessiontest.Lease, mono int64) {
	r.t.Helper()
	p := r.proc(l.Key)
	wall := mono - p.started.ExecMonoNs
	ms := uint64(wall+500_000) / 1_000_000
	want := wire.Totals{WallMs: ms, CPUMs: (uint64(wall)/1000/cpuShare + 500) / 1000, MemoryMiBMs: 64 * ms}
	if got := l.Last().Active; got != want {
		r.t.Errorf("billed: got %+v, want %+v", got, want)
	}
}

func (r *rig) emptySpool() {
	r.t.Helper()
	r.await("an empty spool", func() bool {
		info, err := r.client.Host(r.t.Context())
		return err == nil && info.SpoolRecords == 0
	})
}
