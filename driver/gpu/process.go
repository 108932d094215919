package gpu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// probeName is the probe's executable.
	probeName      = "joule-gpu-probe"
	answerBytesMax = 8 << 20
	stderrBytesMax = 1 << 10
	endWait        = 2 * time.Second // for a killed probe to be gone when we end
)

// FindProbe finds the probe: as configured, or beside our executable, or on PATH.
func FindProbe(configured string) (string, error) {
	if configured != "" {
		if _, err := exec.LookPath(configured); err != nil {
			return "", fmt.Errorf("GPU probe %q: %w", configured, errors.Unwrap(err))
		}
		return configured, nil
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), probeName)
		if _, err := exec.LookPath(beside); err == nil {
			return beside, nil
		}
	}
	path, err := exec.LookPath(probeName)
	if err != nil {
		return "", fmt.Errorf("%s is neither beside hostd's executable nor on PATH", probeName)
	}
	return filepath.Abs(path)
}

// probe is one probe process and what was asked of it.
type probe struct {
	cmd      *exec.Cmd
	conn     net.Conn
	hang     time.Duration
	stderr   head
	answered atomic.Bool
	ended    chan struct{} // closed once err is set

	mu        sync.Mutex
	last      uint64
	questions map[uint64]*question
	err       error // why it ended
	kill      bool  // we ended it ourselves
}

type question struct {
	answer chan *Response
	hang   *time.Timer
}

// startProbe starts a probe with a socket to us.
func startProbe(cfg Config) (*probe, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make its socket: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "gpu-probe"), os.NewFile(uintptr(fds[1]), "gpu-probe")
	defer theirs.Close()
	defer ours.Close() // FileConn has its own
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, fmt.Errorf("make its socket: %w", err)
	}
	p := &probe{conn: conn, hang: cfg.Hang, ended: make(chan struct{}), questions: map[uint64]*question{}}
	p.cmd = exec.Command(cfg.Probe)
	if cfg.Library != "" {
		p.cmd.Args = append(p.cmd.Args, "-library", cfg.Library)
	}
	p.cmd.Dir = "/"
	// Nothing of our environment: LD_BIND_NOW alone would keep it from starting.
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "GOTRACEBACK=none"}
	p.cmd.Stderr = &p.stderr
	p.cmd.WaitDelay = time.Second
	p.cmd.ExtraFiles = []*os.File{theirs} // ProbeFD
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start it: %w", err), conn.Close())
	}
	return p, nil
}

// fail ends the probe for a reason of ours.
func (p *probe) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.failLocked(err)
}

func (p *probe) failLocked(err error) error {
	p.kill = p.kill || p.err == nil
	p.endLocked(err)
	return p.err
}

// end notes why the probe is of no use any more, and kills what is left of it.
func (p *probe) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endLocked(err)
}

func (p *probe) endLocked(err error) {
	if p.err != nil {
		return
	}
	p.err = err
	for _, q := range p.questions {
		q.hang.Stop()
	}
	close(p.ended)
	_ = p.conn.Close()
	if p.kill {
		_ = p.cmd.Process.Kill() // it may be gone already
	}
}

func (p *probe) cause() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// killed says whether we ended it.
func (p *probe) killed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.kill
}

// wait waits for the process's end and says what it died of. With its socket
// closed a probe ends by itself; one that doesn't is killed.
func (p *probe) wait(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- p.cmd.Wait() }()
	timer := time.NewTimer(endWait)
	defer timer.Stop()
	var err error
	select {
	case err = <-done:
	case <-timer.C:
		_ = p.cmd.Process.Kill()
		select {
		case err = <-done:
		case <-ctx.Done(): // it hangs in the kernel; nothing of ours waits for it
			return nil
		}
	}
	if err == nil {
		return nil
	}
	if line := p.stderr.line(); line != "" {
		return fmt.Errorf("it died (%v): %s", p.cmd.ProcessState, line)
	}
	return fmt.Errorf("it died (%v)", p.cmd.ProcessState)
}

// head keeps the first bytes written to it.
type head struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (h *head) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.b.Write(b[:min(len(b), stderrBytesMax-h.b.Len())])
	return len(b), nil
}

func (h *head) line() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	line, _, _ := bytes.Cut(bytes.TrimSpace(h.b.Bytes()), []byte("\n"))
	return string(line)
}
