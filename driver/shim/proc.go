package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/joulecloud/joule/driver/cgroup"
	"github.com/joulecloud/joule/driver/oci"
)

// Errors of hostd's side.
var (
	// ErrNotLaunched is returned when there was never a shim in a directory.
	ErrNotLaunched = errors.New("no shim was launched there")
	// ErrNoExit is returned when the shim died without leaving an exit.
	ErrNoExit = errors.New("the shim died without saying how the task ended")
	// ErrRunning is returned when the task has not ended yet.
	ErrRunning = errors.New("the task has not ended")
	// ErrNotStarted is returned when the task does not run yet.
	ErrNotStarted = errors.New("the task has not started")
	// ErrEnding is returned when the task's first process is on its way out or
	// gone: what would be read lies behind the exit's stamp.
	ErrEnding = errors.New("the task is ending")
)

// StartError says why a task could not be started, in the runtime's words.
type StartError struct{ Message string }

// Error implements error.
func (e *StartError) Error() string { return e.Message }

// Proc is a shim and the task it holds. It is safe for concurrent use. A Proc
// that is forgotten costs one goroutine until its shim ends.
type Proc struct {
	dir   string
	spec  *Spec
	shim  Process
	group *cgroup.Group
	done  chan struct{}

	mu      sync.Mutex
	cpu     *cgroup.CPU // opened by the first Sample
	stat    *os.File    // of the task's first process, as well
	process *Process    // the task's first one, once it is known: it never changes
}

// Launch starts a shim, detached from the caller, for a new task in dir, which
// it makes. The shim and the task live on when the caller dies; ctx only keeps
// one from being started.
func Launch(ctx context.Context, shimPath, dir string, spec *Spec) (*Proc, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the task's directory: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, ProcessFile)); err == nil {
		return nil, fmt.Errorf("launch shim in %q: there was one already: %w", dir, os.ErrExist)
	}
	p, err := newProc(dir, spec)
	if err != nil {
		return nil, err
	}
	if err := writeJSON(dir, SpecFile, spec); err != nil {
		return nil, err
	}
	out, err := os.OpenFile(filepath.Join(dir, LogFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the shim's log: %w", err)
	}
	defer out.Close()
	pidfd := -1
	cmd := exec.Command(shimPath, dir)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start shim: %w", err)
	}
	// The shim writes the same itself, in case that we die now. Not reaped yet,
	// the pid is the shim's even if it has ended.
	p.shim, err = identify(cmd.Process.Pid)
	if err == nil {
		err = writeJSON(dir, ProcessFile, p.shim)
	}
	if err == nil && pidfd < 0 {
		pidfd, err = unix.PidfdOpen(cmd.Process.Pid, 0)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if pidfd >= 0 {
			_ = unix.Close(pidfd)
		}
		return nil, err
	}
	go func() {
		waitPidfd(pidfd)
		_ = cmd.Wait() // how the shim itself ended tells nothing that exit.json doesn't
		close(p.done)
	}()
	return p, nil
}

// Attach finds the shim of dir again. A shim that is gone, or of another boot,
// gives a Proc that is done already. ErrNotLaunched: there is no shim's mark.
func Attach(dir string) (*Proc, error) {
	mark, err := readJSON[Process](dir, ProcessFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("attach to %q: %w", dir, ErrNotLaunched)
	}
	if err != nil {
		return nil, err
	}
	spec, err := readJSON[Spec](dir, SpecFile)
	if err != nil {
		return nil, err
	}
	p, err := newProc(dir, spec)
	if err != nil {
		return nil, err
	}
	p.shim = *mark
	pidfd, err := openProcess(p.shim)
	if errors.Is(err, os.ErrProcessDone) {
		close(p.done)
		return p, nil
	}
	if err != nil {
		return nil, err
	}
	go func() {
		waitPidfd(pidfd)
		close(p.done)
	}()
	return p, nil
}

func newProc(dir string, spec *Spec) (*Proc, error) {
	host, err := cgroup.Detect(cgroup.DefaultRoot)
	if err != nil {
		return nil, err
	}
	group, err := host.Group(spec.ContainerID)
	if err != nil {
		return nil, err
	}
	return &Proc{dir: dir, spec: spec, group: group, done: make(chan struct{})}, nil
}

// openProcess returns a pidfd of exactly that process; os.ErrProcessDone where
// it is no more.
func openProcess(want Process) (int, error) {
	boot, err := bootID()
	if err != nil {
		return -1, err
	}
	if boot != want.BootID {
		return -1, fmt.Errorf("process %d was of another boot: %w", want.Pid, os.ErrProcessDone)
	}
	fd, err := unix.PidfdOpen(want.Pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return -1, fmt.Errorf("process %d: %w", want.Pid, os.ErrProcessDone)
	}
	if err != nil {
		return -1, fmt.Errorf("open pidfd of %d: %w", want.Pid, err)
	}
	// The start time is read after the pidfd is held: what it says of the pid
	// says it of the process behind the pidfd, or of one that came later.
	st, err := readStat(strconv.Itoa(want.Pid))
	if err != nil || st.startTime != want.StartTime {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("process %d: %w", want.Pid, os.ErrProcessDone)
	}
	return fd, nil
}

// waitPidfd waits for the process's end and closes the pidfd.
func waitPidfd(fd int) {
	defer unix.Close(fd)
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// Spec is what the task was launched with. It must not be changed.
func (p *Proc) Spec() *Spec { return p.spec }

// Group is the task's cgroups.
func (p *Proc) Group() *cgroup.Group { return p.group }

// Done is closed when the shim is gone.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Exit returns how the task ended: ErrRunning before the shim is gone or has
// said so, ErrNoExit when it is gone and has not.
func (p *Proc) Exit() (*Exit, error) {
	gone := false
	select {
	case <-p.done:
		gone = true
	default:
	}
	e, err := readJSON[Exit](p.dir, ExitFile)
	switch {
	case !errors.Is(err, os.ErrNotExist):
		return e, err
	case gone:
		return nil, ErrNoExit
	}
	return nil, ErrRunning
}

// Started waits until the task runs, or has run. A *StartError: it could not be
// started; ErrNoExit: the shim died before it said anything.
func (p *Proc) Started(ctx context.Context) (*Started, error) {
	w, err := watchDir(p.dir)
	if err != nil {
		return nil, err
	}
	defer w.close()
	for {
		gone := false
		select {
		case <-p.done:
			gone = true
		default:
		}
		s, err := readJSON[Started](p.dir, StartedFile)
		if !errors.Is(err, os.ErrNotExist) {
			return s, err
		}
		e, err := readJSON[Exit](p.dir, ExitFile)
		switch {
		case err == nil:
			return nil, &StartError{Message: e.Error}
		case !errors.Is(err, os.ErrNotExist):
			return nil, err
		case gone:
			return nil, ErrNoExit
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-p.done:
		case <-w.changed:
		}
	}
}

// first returns the identity of the task's first process.
func (p *Proc) first() (Process, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.process != nil {
		return *p.process, nil
	}
	s, err := readJSON[Started](p.dir, StartedFile)
	if errors.Is(err, os.ErrNotExist) {
		return Process{}, ErrNotStarted
	}
	if err != nil {
		return Process{}, err
	}
	p.process = &Process{Pid: s.Pid, StartTime: s.StartTime, BootID: s.BootID}
	return *p.process, nil
}

// Signal sends a signal to the task's first process, to it and no other:
// ErrNotStarted before it runs, os.ErrProcessDone once it is gone. As the first
// of its pid namespace it gets, but for SIGKILL and SIGSTOP, only signals that
// it has a handler for.
func (p *Proc) Signal(sig unix.Signal) error {
	id, err := p.first()
	if err != nil {
		return err
	}
	fd, err := openProcess(id)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.PidfdSendSignal(fd, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	if err != nil {
		return fmt.Errorf("signal process %d: %w", id.Pid, err)
	}
	return nil
}

// Kill kills every process of the task. It does not wait: Done does.
func (p *Proc) Kill() error { return p.group.Kill() }

// Sample is a reading of a running task's meters.
type Sample struct {
	MonoNs  int64   // CLOCK_MONOTONIC
	CPUUsec *uint64 // the cgroup's usage, the base not subtracted; nil: could not be read
}

// Sample reads the meters of the running task. What it returns lies before the
// task's exit for certain: ErrEnding where that can't be said any more.
func (p *Proc) Sample() (Sample, error) {
	id, err := p.first()
	if err != nil {
		return Sample{}, err
	}
	s := Sample{MonoNs: monoNow()}
	if c, err := p.meter(); err == nil {
		if use, err := c.Read(); err == nil {
			s.CPUUsec = &use.UsageUsec
		}
	}
	if !p.runs(id) {
		return Sample{}, ErrEnding
	}
	return s, nil
}

// runs reports whether the process has a thread that is not exiting. Its file of
// /proc stays open: it is of that process alone, whatever its pid becomes.
func (p *Proc) runs(id Process) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stat == nil {
		f, err := os.Open(filepath.Join("/proc", strconv.Itoa(id.Pid), "stat"))
		if err != nil || !runs(id) {
			if err == nil {
				_ = f.Close() // only read
			}
			return false
		}
		p.stat = f
	}
	var buf [1024]byte
	n, err := p.stat.ReadAt(buf[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return false // ESRCH: it is gone
	}
	st, err := parseStat(buf[:n])
	return err == nil && (st.flags&pfExiting == 0 || runs(id))
}

// meter is the CPU meter, held open.
func (p *Proc) meter() (*cgroup.CPU, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cpu == nil {
		c, err := cgroup.OpenCPU(p.spec.CgroupCPU)
		if err != nil {
			return nil, err
		}
		p.cpu = c
	}
	return p.cpu, nil
}

// runs reports whether the process has a thread that is not exiting. A leader
// may be gone before its process is.
func runs(id Process) bool {
	pid := strconv.Itoa(id.Pid)
	st, err := readStat(pid)
	if err != nil || st.startTime != id.StartTime {
		return false
	}
	if st.flags&pfExiting == 0 {
		return true
	}
	tasks, err := os.ReadDir(filepath.Join("/proc", pid, "task"))
	if err != nil {
		return false
	}
	for _, t := range tasks {
		if st, err := readStat(filepath.Join(pid, "task", t.Name())); err == nil && st.flags&pfExiting == 0 {
			return true
		}
	}
	return false
}

// Cleanup removes what the task left on the host: processes, the runtime's
// state, mounts, cgroups in every hierarchy, the bundle. The files of the task's
// directory stay. It is for a task whose shim is gone; calling it again is no
// error.
func (p *Proc) Cleanup(ctx context.Context) error {
	select {
	case <-p.done:
	default:
		return fmt.Errorf("clean up container %q: %w", p.spec.ContainerID, ErrRunning)
	}
	p.mu.Lock()
	if p.cpu != nil {
		_ = p.cpu.Close()
		p.cpu = nil
	}
	if p.stat != nil {
		_ = p.stat.Close()
		p.stat = nil
	}
	p.mu.Unlock()
	if err := p.group.Kill(); err != nil {
		return err
	}
	if err := p.group.WaitEmpty(ctx); err != nil {
		return err
	}
	err := oci.NewRunc(p.spec.Runtime, p.spec.RuntimeRoot).Delete(ctx, p.spec.ContainerID, true)
	return errors.Join(err, p.group.Remove(ctx), oci.RemoveBundle(p.spec.Bundle))
}
