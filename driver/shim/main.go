package shim

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/joulecloud/joule/driver/cgroup"
	"github.com/joulecloud/joule/driver/oci"
	"github.com/joulecloud/joule/driver/procevent"
)

// Times that bound what the shim waits for before a task runs.
const (
	createTimeout  = 2 * time.Minute
	execTimeout    = 10 * time.Second
	cleanupTimeout = 30 * time.Second
)

// The shim's own files besides those of the contract.
const (
	pidFile        = "init.pid"
	runtimeLogFile = "runtime.log"
)

// Main is the shim: it runs the task that dir describes, to its end. It returns
// the process's exit code: 0 once exit.json is on disk, whatever became of the
// task.
func Main(dir string) int {
	logger := log.New(os.Stderr, "", log.LstdFlags|log.Lmicroseconds|log.LUTC)
	// Caught and dropped: whoever ends the agent's processes doesn't mean the
	// task. Ignored they must not be, since the task would inherit that.
	dropped := make(chan os.Signal, 1)
	signal.Notify(dropped, unix.SIGTERM, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGPIPE)

	// The runtime makes mount points in the task's root, which the task must be
	// able to reach; systemd starts hostd with a umask of 077.
	unix.Umask(0o022)

	s, err := open(dir, logger)
	if err != nil {
		logger.Printf("open: %v", err)
		if err := writeJSON(dir, ExitFile, &Exit{Error: err.Error()}); err != nil {
			logger.Printf("%v", err)
		}
		return 1
	}
	exit := s.run()
	s.close()
	if err := writeJSON(dir, ExitFile, exit); err != nil {
		logger.Printf("%v", err)
		return 1
	}
	// The first process's end has taken its pid namespace with it. What a
	// runtime without one left is killed here.
	if err := s.group.Kill(); err != nil {
		logger.Printf("kill what is left: %v", err)
	}
	return 0
}

// shim is the state of one run.
type shim struct {
	dir     string
	log     *log.Logger
	spec    *Spec
	runtime *oci.Runc
	group   *cgroup.Group
	files   []*os.File // stdio: what is kept open while the task runs
}

// open reads the spec and says who we are.
func open(dir string, logger *log.Logger) (*shim, error) {
	self, err := identify(os.Getpid())
	if err != nil {
		return nil, err
	}
	if err := writeJSON(dir, ProcessFile, self); err != nil {
		return nil, err
	}
	spec, err := readJSON[Spec](dir, SpecFile)
	if err != nil {
		return nil, err
	}
	host, err := cgroup.Detect(cgroup.DefaultRoot)
	if err != nil {
		return nil, err
	}
	group, err := host.Group(spec.ContainerID)
	if err != nil {
		return nil, err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become subreaper: %w", err)
	}
	// Better a task than its shim; only a privileged shim may ask for that.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-900"), 0)
	return &shim{dir: dir, log: logger, spec: spec, group: group, runtime: oci.NewRunc(spec.Runtime, spec.RuntimeRoot)}, nil
}

func (s *shim) close() {
	for _, f := range s.files {
		_ = f.Close()
	}
}

// run runs the task. What keeps it from running is in the Exit's Error.
func (s *shim) run() *Exit {
	pid, err := s.create()
	if err != nil {
		s.log.Printf("create: %v", err)
		s.undo()
		return &Exit{Error: err.Error()}
	}
	s.log.Printf("container %s is created, its first process is %d", s.spec.ContainerID, pid)
	exit, err := s.execute(pid)
	if err != nil {
		s.log.Printf("run: %v", err)
		s.undo()
		return &Exit{Error: err.Error()}
	}
	return exit
}

// undo removes what a failed start left behind.
func (s *shim) undo() {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	if err := errors.Join(s.group.Kill(), s.runtime.Delete(ctx, s.spec.ContainerID, true), s.group.Remove(ctx)); err != nil {
		s.log.Printf("undo: %v", err)
	}
}

// create has the runtime create the container and returns its first process,
// which waits for the start.
func (s *shim) create() (pid int, err error) {
	if err := os.MkdirAll(s.spec.CgroupCPU, 0o755); err != nil {
		return 0, fmt.Errorf("make the task's cgroup: %w", err)
	}
	opt := oci.CreateOptions{
		ID: s.spec.ContainerID, Bundle: s.spec.Bundle,
		PidFile: filepath.Join(s.dir, pidFile), LogFile: filepath.Join(s.dir, runtimeLogFile),
	}
	for _, o := range []struct {
		path string
		file **os.File
	}{{s.spec.StdoutPath, &opt.Stdout}, {s.spec.StderrPath, &opt.Stderr}} {
		if o.path == "" {
			continue
		}
		task, keep, err := openFIFO(o.path)
		if err != nil {
			return 0, err
		}
		defer task.Close()
		s.files = append(s.files, keep)
		*o.file = task
	}
	ctx, cancel := context.WithTimeout(context.Background(), createTimeout)
	defer cancel()
	if err := s.runtime.Create(ctx, opt); err != nil {
		return 0, err
	}
	if pid, err = oci.ReadPid(opt.PidFile); err != nil {
		return 0, err
	}
	if err := cgroup.Add(s.spec.CgroupCPU, pid); err != nil {
		return 0, err
	}
	return pid, nil
}

// execute starts the created container and waits for its first process.
func (s *shim) execute(pid int) (*Exit, error) {
	id, err := identify(pid)
	if err != nil {
		return nil, err
	}
	watcher, err := procevent.Watch(pid, procevent.Options{})
	if err != nil {
		return nil, err
	}
	defer watcher.Close()
	if err := watcher.Missing(); err != nil {
		s.log.Printf("stamps: %v", err)
	}
	cpu, err := cgroup.OpenCPU(s.spec.CgroupCPU)
	if err != nil {
		return nil, err
	}
	defer cpu.Close()
	settle(pid)
	base, err := cpu.Read()
	if err != nil {
		return nil, err
	}
	stamp, err := s.start(pid)
	if err == nil && stamp.MonoNs == 0 {
		stamp, err = watcher.Exec(execTimeout)
	} else if err != nil {
		return nil, err
	}
	switch {
	case errors.Is(err, procevent.ErrDied):
		return nil, s.whyDied(pid)
	case err != nil:
		s.log.Printf("exec's stamp: %v", err)
		stamp = procevent.Stamp{MonoNs: monoNow(), Source: procevent.SourceClock}
	}
	started := &Started{
		Pid: pid, StartTime: id.StartTime, BootID: id.BootID,
		ExecMonoNs: stamp.MonoNs, ExecWallNs: wallOf(stamp.MonoNs), ExecStamped: stamp.Kernel(),
		CPUBaseUsec: base.UsageUsec,
	}
	if err := writeJSON(s.dir, StartedFile, started); err != nil {
		// Nobody would know of the task: it must not run.
		return nil, errors.Join(err, s.group.Kill())
	}

	status, rusage, err := reap(pid)
	if err != nil {
		return nil, errors.Join(err, s.group.Kill())
	}
	end := watcher.Exit()
	exit := &Exit{
		ExitMonoNs: end.MonoNs, ExitWallNs: wallOf(end.MonoNs), ExitStamped: end.Kernel(),
		MaxRSSKiB: rusage.Maxrss,
	}
	if status.Signaled() {
		exit.Signal = int(status.Signal())
		exit.Code = 128 + exit.Signal
	} else {
		exit.Code = status.ExitStatus()
	}
	if use, err := cpu.Read(); err != nil {
		s.log.Printf("final CPU reading: %v", err)
	} else {
		exit.CPUUsec = &use.UsageUsec
	}
	if n := s.group.Stats().OOMKills; n != nil && *n > 0 && exit.Code != 0 {
		exit.OOMKilled = true
	}
	s.log.Printf("the task ended with code %d signal %d; stamps by %s and %s; its first process used %v CPU by rusage",
		exit.Code, exit.Signal, stamp.Source, end.Source, time.Duration(rusage.Utime.Nano()+rusage.Stime.Nano()))
	return exit, nil
}

// Bounds of settle.
const (
	settleEvery = 200 * time.Microsecond
	settleMax   = 50 * time.Millisecond
)

// settle waits until the first process has come to the point where it waits for
// the start, since what it uses until then is the runtime's and not the task's.
// Nothing tells when it sleeps there: it is looked at. In vain, at worst the
// task is billed for a fraction of a ms of the runtime's.
func settle(pid int) {
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	for deadline := time.Now().Add(settleMax); time.Now().Before(deadline) && !asleep(pid); {
		<-tick.C
	}
}

// asleep reports whether every thread of a process sleeps.
func asleep(pid int) bool {
	dir := filepath.Join(strconv.Itoa(pid), "task")
	tasks, err := os.ReadDir(filepath.Join("/proc", dir))
	if err != nil {
		return true // gone: nothing to wait for
	}
	for _, t := range tasks {
		if st, err := readStat(filepath.Join(dir, t.Name())); err == nil && st.state != 'S' {
			return false
		}
	}
	return true
}

// start lets the first process execute the command. A runtime with a kernel of
// its own (gVisor) has no exec.fifo, and its first process is that kernel, which
// executes nothing more: the command runs by the time that the runtime's start
// has returned, which is the stamp then.
func (s *shim) start(pid int) (procevent.Stamp, error) {
	err := s.runtime.OpenExecFIFO(s.spec.ContainerID, pid)
	if !errors.Is(err, oci.ErrNoExecFIFO) {
		return procevent.Stamp{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), createTimeout)
	defer cancel()
	if err := s.runtime.Start(ctx, s.spec.ContainerID); err != nil {
		return procevent.Stamp{}, err
	}
	return procevent.Stamp{MonoNs: monoNow(), Source: procevent.SourceClock}, nil
}

// whyDied says why the first process died before it executed the command.
func (s *shim) whyDied(pid int) error {
	status, _, err := reap(pid)
	if err != nil {
		return err
	}
	if status.Signaled() {
		return fmt.Errorf("the task was killed by signal %d before its command ran", int(status.Signal()))
	}
	return errors.New("the kernel refused to execute the command: not a program for this machine, or a script without an interpreter line; the task's stderr may say more")
}

// reap waits for the first process, and for every other orphan that comes to us
// meanwhile.
func reap(pid int) (unix.WaitStatus, unix.Rusage, error) {
	for {
		var status unix.WaitStatus
		var rusage unix.Rusage
		got, err := unix.Wait4(-1, &status, 0, &rusage)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, rusage, fmt.Errorf("wait for the task's first process %d: %w", pid, err)
		case got == pid:
			return status, rusage, nil
		}
	}
}

// monoNow reads CLOCK_MONOTONIC.
func monoNow() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // the clock exists on every Linux
	return ts.Nano()
}

// wallOf is the Unix time, as the clock stands now, of a monotonic stamp.
func wallOf(monoNs int64) int64 { return time.Now().UnixNano() - (monoNow() - monoNs) }
