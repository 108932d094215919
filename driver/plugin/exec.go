package plugin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/joulecloud/joule/driver/hostapi"
)

const (
	// execLinger is for what a command's leftover children still hold open after
	// its end, and for a runtime to return after its command was killed.
	execLinger = 500 * time.Millisecond
	// execOutputMost is how much of a script check's output is kept, its end.
	execOutputMost = 64 << 10
)

// execCommand is the runtime's own exec: same namespaces, user, environment and
// cgroup as the task. Killing the runtime alone would leave the command running
// in the container, so the runtime writes down its pid.
type execCommand struct {
	cmd     *exec.Cmd
	pidFile string
	tmp     string
}

func (d *Driver) newExec(id string, command []string, tty bool) (*execCommand, error) {
	if len(command) == 0 {
		return nil, errors.New("exec: no command")
	}
	st, err := d.status(id)
	if err != nil {
		return nil, err
	}
	if st.State != hostapi.StateRunning {
		return nil, fmt.Errorf("exec in task %q: it is not running (%s)", taskName(id), st.State)
	}
	if st.Runtime == "" || st.ContainerID == "" {
		return nil, fmt.Errorf("exec in task %q: hostd does not say how to reach its container", taskName(id))
	}
	tmp, err := os.MkdirTemp("", "joule-exec-")
	if err != nil {
		return nil, fmt.Errorf("exec in task %q: %w", taskName(id), err)
	}
	x := &execCommand{tmp: tmp, pidFile: filepath.Join(tmp, "pid")}
	args := []string{"--root", st.RuntimeRoot, "exec", "--pid-file", x.pidFile}
	if tty {
		args = append(args, "--tty")
	}
	x.cmd = exec.Command(st.Runtime, append(append(args, st.ContainerID), command...)...)
	x.cmd.Env = []string{"PATH=" + defaultPath}
	x.cmd.WaitDelay = execLinger
	return x, nil
}

// wait returns the command's exit code; when ctx ends first, the command is
// killed and the error is ctx's.
func (x *execCommand) wait(ctx context.Context) (int, error) {
	defer os.RemoveAll(x.tmp)
	ended := make(chan error, 1)
	go func() { ended <- x.cmd.Wait() }()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		x.kill(ended)
		return -1, fmt.Errorf("exec %q: %w", x.name(), ctx.Err())
	}
	// Children that outlived the command held its output open; they may.
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return -1, fmt.Errorf("exec %q: %w", x.name(), err)
	}
	if ws, ok := x.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return x.cmd.ProcessState.ExitCode(), nil
}

// kill ends the command in its container, and the runtime if it doesn't follow.
func (x *execCommand) kill(ended <-chan error) {
	if pidfd, ok := x.openCommand(); ok {
		_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		unix.Close(pidfd)
		t := time.NewTimer(execLinger)
		defer t.Stop()
		select {
		case <-ended:
			return
		case <-t.C:
		}
	}
	_ = x.cmd.Process.Kill()
	<-ended
}

// openCommand returns a pidfd of the command in the container. The pid is only
// believed while it is the runtime's child: it may have been given away since.
func (x *execCommand) openCommand() (int, bool) {
	b, err := os.ReadFile(x.pidFile)
	if err != nil {
		return -1, false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return -1, false
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, false
	}
	if pid != x.cmd.Process.Pid && parentOf(pid) != x.cmd.Process.Pid {
		unix.Close(pidfd)
		return -1, false
	}
	return pidfd, true
}

// parentOf reads the parent from /proc/<pid>/stat; 0 where it can't.
func parentOf(pid int) int {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:]) // the name before it may hold anything
	if len(f) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(string(f[1]))
	return ppid
}

func (x *execCommand) name() string { return filepath.Base(x.cmd.Args[0]) + " exec" }

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - execOutputMost; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

var _ io.Writer = (*tail)(nil)
