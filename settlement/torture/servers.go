package torture

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
	"github.com/joulecloud/joule/settlement/tlsca"
)

// apiAddr is where each server listens, in its own namespace.
const apiAddr = "127.0.0.1:7433"

// servers are processes of the joule binary.
type servers struct {
	lan    *lan
	binary string
	dir    string

	starts chan start

	mu    sync.Mutex
	procs []*process // nil: down
	lives []int
}

// start asks the one thread that starts processes: the kernel ends them when the
// thread ends that started them, and so with this process, however it ends.
type start struct {
	cmd  *exec.Cmd
	done chan error
}

func (s *servers) starter() {
	runtime.LockOSThread()
	for st := range s.starts {
		st.done <- st.cmd.Start()
	}
}

type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // once done
}

func newServers(l *lan, binary, dir string) (*servers, error) {
	s := &servers{lan: l, binary: binary, dir: dir, procs: make([]*process, l.n), lives: make([]int, l.n), starts: make(chan start)}
	go s.starter()
	if _, err := tlsca.CreateCA(dir, "torture", tlsca.CAValidity); err != nil {
		return nil, err
	}
	var join []string
	for i := range l.n {
		join = append(join, fmt.Sprintf("%q", l.ip(i)+":7434"))
	}
	for i := range l.n {
		made, err := tlsca.CreateCert(dir, filepath.Join(dir, tlsca.CAFile), filepath.Join(dir, tlsca.CAKeyFile),
			tlsca.CertOptions{Name: s.name(i), Validity: tlsca.CertValidity, IPs: []net.IP{net.ParseIP(l.ip(i))}})
		if err != nil {
			return nil, err
		}
		conf := fmt.Sprintf(`name = %q
data_dir = %q
listen = %q
nomad = "http://%s"
raft_addr = "%s:7434"
bootstrap_expect = %d
retry_join = [%s]
raft_ca_file = %q
raft_cert_file = %q
raft_key_file = %q
log_level = "warn"
`, s.name(i), s.data(i), apiAddr, nomadAddr, l.ip(i), l.n, strings.Join(join, ", "), filepath.Join(dir, tlsca.CAFile), made.CertFile, made.KeyFile)
		if err := os.WriteFile(s.conf(i), []byte(conf), 0o600); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *servers) name(i int) string { return fmt.Sprint("s", i+1) }
func (s *servers) data(i int) string { return filepath.Join(s.dir, s.name(i)) }
func (s *servers) conf(i int) string { return filepath.Join(s.dir, s.name(i)+".hcl") }
func (s *servers) log(i int) string  { return filepath.Join(s.dir, s.name(i)+".log") }

// start starts a server that is down.
func (s *servers) start(i int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.procs[i] != nil {
		return nil
	}
	log, err := os.OpenFile(s.log(i), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	args := s.lan.in(i, s.binary, "server", "-config", s.conf(i))
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	st := start{cmd, make(chan error, 1)}
	s.starts <- st
	if err := <-st.done; err != nil {
		return err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	s.procs[i] = p
	s.lives[i]++
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return nil
}

// signal sends a server a signal; false: it is down.
func (s *servers) signal(i int, sig syscall.Signal) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.procs[i] != nil && s.procs[i].cmd.Process.Signal(sig) == nil
}

// kill ends a server at once and waits until it has ended.
func (s *servers) kill(i int) {
	s.mu.Lock()
	p := s.procs[i]
	s.procs[i] = nil
	s.mu.Unlock()
	if p != nil {
		p.cmd.Process.Kill()
		<-p.done
	}
}

// died reports a server that ended by itself.
func (s *servers) died(i int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.procs[i]
	if p == nil {
		return nil
	}
	select {
	case <-p.done:
		tail, _ := os.ReadFile(s.log(i))
		return fmt.Errorf("server %s ended by itself: %v\n%s", s.name(i), p.err, tail[max(0, len(tail)-2000):])
	default:
		return nil
	}
}

// endedFull reports whether a server ended by itself because its disk was full;
// it is down then.
func (s *servers) endedFull(i int) (bool, error) {
	err := s.died(i)
	if err == nil {
		return false, nil
	}
	if !strings.Contains(err.Error(), syscall.ENOSPC.Error()) {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.procs[i] = nil
	return true, nil
}

// api is a client of one server that waits for no answer longer than it says.
func (s *servers) api(i int) joulev1connect.SettlementServiceClient {
	hc := &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{DialContext: s.lan.dial(i), MaxIdleConnsPerHost: 16}}
	return joulev1connect.NewSettlementServiceClient(hc, "http://"+apiAddr)
}
