package oci

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"
)

// Runtime is an OCI runtime. Its methods block until the runtime's own process
// has ended, or ctx, which kills it.
type Runtime interface {
	// Create makes the container and leaves its first process waiting.
	Create(ctx context.Context, opt CreateOptions) error
	// Start lets the first process execute the command.
	Start(ctx context.Context, id string) error
	// Kill sends a signal to the first process.
	Kill(ctx context.Context, id string, sig unix.Signal) error
	// Delete removes what the runtime keeps of the container and its cgroups.
	// With force it is killed first, and that there is none is no error.
	Delete(ctx context.Context, id string, force bool) error
	State(ctx context.Context, id string) (*State, error)
	// Version is the runtime's own word for its version: "1.5.2".
	Version(ctx context.Context) (string, error)
	// ExecArgs are the arguments of a process that runs a command in a running
	// container, the runtime's path first.
	ExecArgs(id string, opt ExecOptions) []string
}

// CreateOptions are a container's.
type CreateOptions struct {
	ID      string
	Bundle  string
	PidFile string // written by the runtime: the first process's pid
	LogFile string // the runtime's own messages
	// The container's stdio; nil is /dev/null.
	Stdin, Stdout, Stderr *os.File
}

// State is what a runtime knows of a container.
type State struct {
	Status string // "created", "running", "stopped"
	Pid    int
}

// ExecOptions are those of a command run beside a task's own.
type ExecOptions struct {
	Args    []string
	TTY     bool
	Env     []string // K=V
	WorkDir string
	User    string // uid[:gid]; "": the task's
}

// Runc drives runc, and runtimes with its command line, through its binary.
type Runc struct {
	path, root string
}

// NewRunc returns the runtime at path, which keeps its state below root.
func NewRunc(path, root string) *Runc { return &Runc{path: path, root: root} }

func (r *Runc) client(logFile string) *runc.Runc {
	c := &runc.Runc{Command: r.path, Root: r.root}
	if logFile != "" {
		c.Log, c.LogFormat = logFile, runc.JSON
	}
	return c
}

// stdio hands files to the runtime, which gives them to the container.
type stdio struct{ in, out, err *os.File }

func (s stdio) Close() error          { return nil }
func (s stdio) Stdin() io.WriteCloser { return nil }
func (s stdio) Stdout() io.ReadCloser { return nil }
func (s stdio) Stderr() io.ReadCloser { return nil }
func (s stdio) Set(cmd *exec.Cmd) {
	// A nil *os.File in an interface is not nil.
	if s.in != nil {
		cmd.Stdin = s.in
	}
	if s.out != nil {
		cmd.Stdout = s.out
	}
	if s.err != nil {
		cmd.Stderr = s.err
	}
}

// Create implements Runtime. Its error holds the runtime's own message.
func (r *Runc) Create(ctx context.Context, opt CreateOptions) error {
	// Were both nil, go-runc would read from a pipe that the container keeps open.
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("create container: %w", err)
	}
	defer null.Close()
	if opt.Stdout == nil {
		opt.Stdout = null
	}
	if opt.Stderr == nil {
		opt.Stderr = null
	}
	err = r.client(opt.LogFile).Create(ctx, opt.ID, opt.Bundle, &runc.CreateOpts{
		IO:      stdio{opt.Stdin, opt.Stdout, opt.Stderr},
		PidFile: opt.PidFile,
	})
	if err == nil {
		return nil
	}
	if msg := lastError(opt.LogFile); msg != "" {
		return errors.New(plain(msg))
	}
	return fmt.Errorf("create container: %w", err)
}

// lastError is the last error in a runtime's JSON log.
func lastError(logFile string) string {
	f, err := os.Open(logFile)
	if err != nil {
		return ""
	}
	defer f.Close()
	last := ""
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var l struct{ Level, Msg string }
		if json.Unmarshal(sc.Bytes(), &l) == nil && (l.Level == "error" || l.Level == "fatal") {
			last = l.Msg
		}
	}
	return last
}

// plain strips the layers that say where in the runtime an error arose from
// what a person can act on.
func plain(msg string) string {
	for _, layer := range []string{
		"runc create failed: ", "unable to start container process: ", "error during container init: ",
		"starting container process caused: ",
	} {
		if _, rest, ok := strings.Cut(msg, layer); ok {
			msg = rest
		}
	}
	return strings.TrimSpace(msg)
}

// Start implements Runtime.
func (r *Runc) Start(ctx context.Context, id string) error {
	if err := r.client("").Start(ctx, id); err != nil {
		return fmt.Errorf("start container: %w", err)
	}
	return nil
}

// Kill implements Runtime.
func (r *Runc) Kill(ctx context.Context, id string, sig unix.Signal) error {
	if err := r.client("").Kill(ctx, id, int(sig), nil); err != nil {
		return fmt.Errorf("signal container: %w", err)
	}
	return nil
}

// Delete implements Runtime.
func (r *Runc) Delete(ctx context.Context, id string, force bool) error {
	if _, err := os.Stat(filepath.Join(r.root, id)); force && errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := r.client("").Delete(ctx, id, &runc.DeleteOpts{Force: force}); err != nil {
		return fmt.Errorf("delete container: %w", err)
	}
	return nil
}

// State implements Runtime.
func (r *Runc) State(ctx context.Context, id string) (*State, error) {
	c, err := r.client("").State(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read container's state: %w", err)
	}
	return &State{Status: c.Status, Pid: c.Pid}, nil
}

// Version implements Runtime.
func (r *Runc) Version(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, r.path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", r.path, err)
	}
	v := parseVersion(out)
	if v == "" {
		return "", fmt.Errorf("ask %s for its version: got %q", r.path, bytes.TrimSpace(out))
	}
	return v, nil
}

// parseVersion finds the last word of the line that has the word version.
func parseVersion(out []byte) string {
	for line := range bytes.Lines(out) {
		f := strings.Fields(string(line))
		if len(f) >= 2 && f[len(f)-2] == "version" {
			return f[len(f)-1]
		}
	}
	return ""
}

// ExecArgs implements Runtime.
func (r *Runc) ExecArgs(id string, opt ExecOptions) []string {
	args := []string{r.path, "--root", r.root, "exec"}
	if opt.TTY {
		args = append(args, "--tty")
	}
	for _, e := range opt.Env {
		args = append(args, "--env", e)
	}
	if opt.WorkDir != "" {
		args = append(args, "--cwd", opt.WorkDir)
	}
	if opt.User != "" {
		args = append(args, "--user", opt.User)
	}
	return append(append(args, id), opt.Args...)
}

// execFIFO is where runc's first process waits for the start.
const execFIFO = "exec.fifo"

// ErrNoExecFIFO is returned by OpenExecFIFO where the runtime has none.
var ErrNoExecFIFO = errors.New("the runtime keeps no exec.fifo")

// OpenExecFIFO lets the container's first process go, as `runc start` does, but
// without the time that a process of its own takes: the kernel wakes the first
// process when the FIFO's reader is there. pid is the first process.
func (r *Runc) OpenExecFIFO(id string, pid int) error {
	path := filepath.Join(r.root, id, execFIFO)
	// The writer may not be there yet: runc's first process opens it after
	// `runc create` has returned. A reader that doesn't wait for it is enough to
	// let it in; poll then says when it has written.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		return ErrNoExecFIFO
	}
	if err != nil {
		return fmt.Errorf("open %s of container %q: %w", execFIFO, id, err)
	}
	defer unix.Close(fd)
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("open pidfd of %d: %w", pid, err)
	}
	defer unix.Close(pidfd)
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, int(execFIFOTimeout.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("wait for the first process of container %q: %w", id, err)
		}
		if n == 0 {
			return fmt.Errorf("wait for the first process of container %q: not there after %s", id, execFIFOTimeout)
		}
		if fds[0].Revents == 0 {
			return fmt.Errorf("wait for the first process of container %q: it died", id)
		}
		break
	}
	// While the FIFO is there, runc takes the container for one not started.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove %s of container %q: %w", execFIFO, id, err)
	}
	return nil
}

// execFIFOTimeout bounds the wait for a first process to come to its FIFO.
const execFIFOTimeout = 10 * time.Second

// ReadPid reads a runtime's pid file.
func ReadPid(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read pid file: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("read pid file: got %q", b)
	}
	return pid, nil
}

var _ Runtime = (*Runc)(nil)
