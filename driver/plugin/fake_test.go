package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/joulecloud/joule/driver/hostapi"
)

// fakeHostd keeps hostapi's contract. Its tasks are real local processes, or,
// with command "virtual", only a timer: args are its length and its exit code.
type fakeHostd struct {
	runtime string // path of the fake OCI runtime, for exec
	statef  string // virtual tasks are kept here, if set

	mu        sync.Mutex
	info      hostapi.HostInfo
	tasks     map[string]*fakeTask
	nextLease uint64
	waits     int      // that found their task
	calls     []string // "METHOD op body", in order
	// fault may take a request over: it returns true when it has answered. It
	// runs before the operation ("before") and after it ("after").
	fault func(when, op string, w http.ResponseWriter) bool
	stats func(id string) *hostapi.Stats
}

type fakeTask struct {
	st   hostapi.TaskStatus
	cmd  *exec.Cmd
	stop chan string // virtual: signals
	done chan struct{}
}

func newFake() *fakeHostd {
	return &fakeHostd{
		tasks:     map[string]*fakeTask{},
		nextLease: 12,
		info: hostapi.HostInfo{
			ProtocolVersion: hostapi.Version, Version: "0.1.0", Host: "crowd-1", Class: "crowd", Cgroup: "hybrid",
			Runtimes: map[string]string{"runc": "1.5.2"}, Pid: os.Getpid(),
		},
	}
}

// abort breaks the connection as a kill -9 of hostd does.
func abort(http.ResponseWriter) bool { panic(http.ErrAbortHandler) }

func refuse(w http.ResponseWriter, code hostapi.ErrorCode, msg string) bool {
	status := map[hostapi.ErrorCode]int{
		hostapi.ErrInvalid: 400, hostapi.ErrNotFound: 404, hostapi.ErrRunning: 409,
		hostapi.ErrRefused: 403, hostapi.ErrUnavailable: 503, hostapi.ErrInternal: 500,
	}[code]
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(hostapi.Error{Code: code, Message: msg})
	return true
}

func (f *fakeHostd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/v1/"), "/")
	op, id := r.Method+" "+parts[0], ""
	if len(parts) > 1 {
		id, _ = url.PathUnescape(parts[1])
	}
	if len(parts) > 2 {
		op += "/" + parts[2]
	}
	var body json.RawMessage
	_ = json.NewDecoder(r.Body).Decode(&body)
	f.mu.Lock()
	f.calls = append(f.calls, strings.TrimSpace(op+" "+string(body)))
	fault := f.fault
	f.mu.Unlock()
	if fault != nil && fault("before", op, w) {
		return
	}
	out, err := f.serve(r, op, id, body)
	if fault != nil && fault("after", op, w) {
		return
	}
	if err != nil {
		refuse(w, err.Code, err.Message)
		return
	}
	_ = json.NewEncoder(w).Encode(out)
}

func (f *fakeHostd) serve(r *http.Request, op, id string, body []byte) (any, *hostapi.Error) {
	switch op {
	case "GET host":
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.info, nil
	case "POST tasks":
		var req hostapi.StartRequest
		if err := json.Unmarshal(body, &req); err != nil {
			return nil, &hostapi.Error{Code: hostapi.ErrInvalid, Message: err.Error()}
		}
		return f.start(&req)
	}
	f.mu.Lock()
	t := f.tasks[id]
	f.mu.Unlock()
	if t == nil {
		return nil, &hostapi.Error{Code: hostapi.ErrNotFound, Message: "no task " + strconv.Quote(id)}
	}
	switch op {
	case "GET tasks/wait":
		f.set(func() { f.waits++ })
		select {
		case <-t.done:
		case <-r.Context().Done():
		}
	case "POST tasks/stop":
		var req hostapi.StopRequest
		_ = json.Unmarshal(body, &req)
		if err := f.signal(t, req.Signal); err != nil {
			return nil, err
		}
		select {
		case <-t.done:
		case <-time.After(time.Duration(req.TimeoutMs) * time.Millisecond):
			_ = f.signal(t, "SIGKILL")
			<-t.done
		case <-r.Context().Done():
		}
	case "POST tasks/signal":
		var req hostapi.SignalRequest
		_ = json.Unmarshal(body, &req)
		if err := f.signal(t, req.Signal); err != nil {
			return nil, err
		}
		return struct{}{}, nil
	case "GET tasks/stats":
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.stats == nil {
			return &hostapi.Stats{At: time.Now()}, nil
		}
		return f.stats(id), nil
	case "DELETE tasks":
		select {
		case <-t.done:
		default:
			if r.URL.Query().Get("force") != "true" {
				return nil, &hostapi.Error{Code: hostapi.ErrRunning, Message: "the task is running"}
			}
			_ = f.signal(t, "SIGKILL")
			<-t.done
		}
		f.mu.Lock()
		delete(f.tasks, id)
		f.mu.Unlock()
		return struct{}{}, nil
	}
	return f.status(t), nil
}

func (f *fakeHostd) status(t *fakeTask) hostapi.TaskStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	return t.st
}

func (f *fakeHostd) start(req *hostapi.StartRequest) (any, *hostapi.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t := f.tasks[req.ID]; t != nil {
		return t.st, nil
	}
	f.nextLease++
	t := &fakeTask{done: make(chan struct{}), stop: make(chan string, 8), st: hostapi.TaskStatus{
		ID: req.ID, LeaseID: f.nextLease, State: hostapi.StateRunning, StartedAt: time.Now(),
		Runtime: f.runtime, RuntimeRoot: "/run/joule-fake", ContainerID: "c-" + req.Invocation,
	}}
	if req.Command == "virtual" {
		t.st.Pid = 1
		f.tasks[req.ID] = t
		f.runVirtual(t, req.Args)
		f.save(req)
		return t.st, nil
	}
	t.cmd = exec.Command(req.Command, req.Args...)
	if _, err := os.Stat(req.LocalDir); err == nil {
		t.cmd.Dir = req.LocalDir
	}
	for k, v := range req.Env {
		t.cmd.Env = append(t.cmd.Env, k+"="+v)
	}
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var err error
	if t.cmd.Stdout, err = openOutput(req.StdoutPath); err == nil {
		t.cmd.Stderr, err = openOutput(req.StderrPath)
	}
	if err != nil {
		return nil, &hostapi.Error{Code: hostapi.ErrInternal, Message: err.Error()}
	}
	if err := t.cmd.Start(); err != nil {
		t.st.State, t.st.Exit = hostapi.StateExited, &hostapi.Exit{Error: err.Error()}
		close(t.done)
		f.tasks[req.ID] = t
		return t.st, nil
	}
	t.st.Pid = t.cmd.Process.Pid
	f.tasks[req.ID] = t
	go func() {
		_ = t.cmd.Wait()
		ws := t.cmd.ProcessState.Sys().(syscall.WaitStatus)
		exit := &hostapi.Exit{Code: max(ws.ExitStatus(), 0)}
		if ws.Signaled() {
			exit.Signal = int(ws.Signal())
		}
		f.exit(t, exit)
	}()
	return t.st, nil
}

func openOutput(path string) (io.Writer, error) {
	if path == "" {
		return nil, nil
	}
	return os.OpenFile(path, os.O_RDWR, 0) // closed with the test process: a FIFO's other end is Nomad's
}

func (f *fakeHostd) exit(t *fakeTask, x *hostapi.Exit) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t.st.State, t.st.Exit, t.st.CompletedAt = hostapi.StateExited, x, time.Now()
	close(t.done)
}

func (f *fakeHostd) runVirtual(t *fakeTask, args []string) {
	length, _ := time.ParseDuration(args[0])
	code, _ := strconv.Atoi(args[1])
	end := time.NewTimer(time.Until(t.st.StartedAt.Add(length)))
	go func() {
		defer end.Stop()
		select {
		case <-end.C:
			f.exit(t, &hostapi.Exit{Code: code})
		case sig := <-t.stop:
			n, _ := signals[strings.TrimPrefix(sig, "SIG")]
			f.exit(t, &hostapi.Exit{Signal: int(n)})
		}
	}()
}

var signals = map[string]syscall.Signal{
	"": syscall.SIGTERM, "TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "KILL": syscall.SIGKILL, "USR1": syscall.SIGUSR1,
}

func (f *fakeHostd) signal(t *fakeTask, name string) *hostapi.Error {
	n, ok := signals[strings.TrimPrefix(name, "SIG")]
	if !ok {
		return &hostapi.Error{Code: hostapi.ErrInvalid, Message: "signal: unknown " + strconv.Quote(name)}
	}
	if t.cmd == nil {
		t.stop <- name
		return nil
	}
	pid := t.cmd.Process.Pid
	if n == syscall.SIGKILL {
		pid = -pid
	}
	_ = syscall.Kill(pid, n)
	return nil
}

// save keeps a virtual task across a kill -9 of the fake.
func (f *fakeHostd) save(req *hostapi.StartRequest) {
	if f.statef == "" {
		return
	}
	kept := virtualTask{Req: req, St: f.tasks[req.ID].st}
	b, _ := json.Marshal(kept)
	out, err := os.OpenFile(f.statef, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, _ = out.Write(append(b, '\n'))
		out.Close()
	}
}

type virtualTask struct {
	Req *hostapi.StartRequest
	St  hostapi.TaskStatus
}

func (f *fakeHostd) load() {
	b, _ := os.ReadFile(f.statef)
	for line := range strings.Lines(string(b)) {
		var kept virtualTask
		if json.Unmarshal([]byte(line), &kept) != nil {
			continue
		}
		t := &fakeTask{st: kept.St, done: make(chan struct{}), stop: make(chan string, 8)}
		f.tasks[kept.Req.ID] = t
		f.nextLease = max(f.nextLease, kept.St.LeaseID)
		f.runVirtual(t, kept.Req.Args)
	}
}

// callsOf returns the recorded calls of one operation.
func (f *fakeHostd) callsOf(op string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, c := range f.calls {
		if c == op || strings.HasPrefix(c, op+" ") {
			out = append(out, c)
		}
	}
	return out
}

func (f *fakeHostd) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// listen serves the fake on socket until the returned function, which breaks
// every connection as a kill -9 does.
func (f *fakeHostd) listen(t *testing.T, socket string) (crash func()) {
	t.Helper()
	_ = os.Remove(socket)
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false) // kill -9 leaves the socket
	srv := &http.Server{Handler: f}
	go srv.Serve(ln)
	var once sync.Once
	crash = func() { once.Do(func() { srv.Close() }) }
	t.Cleanup(crash)
	return crash
}

// killAll ends what a test left running.
func (f *fakeHostd) killAll() {
	f.mu.Lock()
	var left []*fakeTask
	for _, t := range f.tasks {
		if t.cmd != nil && t.cmd.Process != nil {
			left = append(left, t)
		}
	}
	f.mu.Unlock()
	for _, t := range left {
		select {
		case <-t.done:
		default:
			_ = f.signal(t, "KILL")
			<-t.done
		}
	}
}

// runFakeHostd is the test binary as "joule hostd -config FILE".
func runFakeHostd(args []string) int {
	s := settings{hostdConfig: args[len(args)-1]}
	if err := s.readHostdConfig(); err != nil {
		os.Stderr.WriteString("fake hostd: " + err.Error() + "\n")
		return 1
	}
	if _, err := os.Stat(filepath.Join(s.dataDir, "broken")); err == nil {
		os.Stderr.WriteString("first words\nfake hostd: the spool is full\n")
		return 3
	}
	lock, err := os.OpenFile(filepath.Join(s.dataDir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil || syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		os.Stderr.WriteString("fake hostd: already running\n")
		return 1
	}
	starts, _ := os.OpenFile(filepath.Join(s.dataDir, "starts"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	_, _ = starts.WriteString(strconv.Itoa(os.Getpid()) + " " + strings.Join(os.Environ(), ",") + "\n")
	starts.Close()
	f := newFake()
	f.statef = filepath.Join(s.dataDir, "virtual.json")
	f.load()
	_ = os.Remove(s.socket)
	ln, err := net.Listen("unix", s.socket)
	if err != nil {
		os.Stderr.WriteString("fake hostd: " + err.Error() + "\n")
		return 1
	}
	err = http.Serve(ln, f)
	if err != nil && !errors.Is(err, context.Canceled) {
		return 1
	}
	return 0
}
