package sim

import (
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// callTimeout is how long a caller waits for an answer that doesn't come.
const callTimeout = 2 * time.Second

var errNet = errors.New("network: no answer")

// weather is how a network treats messages.
type weather struct {
	drop, repeat float64 // shares of messages
	delay        time.Duration
	late         time.Duration // the most that a repeated message comes later
}

var fair = weather{delay: 2 * time.Millisecond}

// network connects the servers of one cluster.
type network struct {
	mu      sync.Mutex
	rng     *rand.Rand
	ends    map[raft.ServerAddress]*endpoint
	cut     map[[2]raft.ServerAddress]bool // from, to
	weather weather
	given   map[raft.ServerAddress]int // how many of its lives ago a server was sent a snapshot
}

func newNetwork(rng *rand.Rand) *network {
	return &network{rng: rng, ends: map[raft.ServerAddress]*endpoint{}, cut: map[[2]raft.ServerAddress]bool{}, weather: fair, given: map[raft.ServerAddress]int{}}
}

// heal ends every fault.
func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
	n.weather = fair
}

// wasGiven reports whether a server was sent a snapshot in its life or the one
// before.
func (n *network) wasGiven(addr raft.ServerAddress) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	ago, ok := n.given[addr]
	return ok && ago <= 1
}

// newLife counts a server's lives.
func (n *network) newLife(addr raft.ServerAddress) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ago, ok := n.given[addr]; ok {
		n.given[addr] = ago + 1
	}
}

func (n *network) setCut(from, to raft.ServerAddress) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]raft.ServerAddress{from, to}] = true
}

func (n *network) setWeather(w weather) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.weather = w
}

// travel decides about one message: whether it arrives, after how long, and
// whether a second copy follows.
func (n *network) travel(from, to raft.ServerAddress) (arrives bool, after, again time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	w := n.weather
	after = time.Duration(n.rng.Int64N(int64(w.delay) + 1))
	if w.repeat > 0 && n.rng.Float64() < w.repeat {
		again = after + time.Duration(n.rng.Int64N(int64(w.late)+1))
	}
	return !n.cut[[2]raft.ServerAddress{from, to}] && n.rng.Float64() >= w.drop, after, again
}

func (n *network) end(addr raft.ServerAddress) *endpoint {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ends[addr]
}

// attach gives a server its place in the network, in place of an earlier one.
func (n *network) attach(addr raft.ServerAddress) *endpoint {
	e := &endpoint{net: n, addr: addr, consumer: make(chan raft.RPC), gone: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ends[addr] = e
	return e
}

// endpoint is one server's transport.
type endpoint struct {
	net      *network
	addr     raft.ServerAddress
	consumer chan raft.RPC
	gone     chan struct{}
	once     sync.Once
}

func (e *endpoint) Consumer() <-chan raft.RPC     { return e.consumer }
func (e *endpoint) LocalAddr() raft.ServerAddress { return e.addr }

func (e *endpoint) EncodePeer(_ raft.ServerID, addr raft.ServerAddress) []byte { return []byte(addr) }
func (e *endpoint) DecodePeer(b []byte) raft.ServerAddress                     { return raft.ServerAddress(b) }

// SetHeartbeatHandler takes the fast path that the library offers, as its own
// transport does; raftstore must keep the library from offering it.
func (e *endpoint) SetHeartbeatHandler(h func(raft.RPC)) {
	if h != nil {
		panic("sim: the heartbeat fast path is in use (hashicorp/raft#695)")
	}
}

// Close implements raft.WithClose. Nothing leaves or arrives afterwards.
func (e *endpoint) Close() error {
	e.once.Do(func() { close(e.gone) })
	return nil
}

// sleep waits; false: the endpoint is gone.
func (e *endpoint) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-e.gone:
		return false
	}
}

// call brings a command to a server and its answer back.
func (e *endpoint) call(to raft.ServerAddress, command any, data io.Reader) (any, error) {
	arrives, after, again := e.net.travel(e.addr, to)
	if again > 0 && data == nil {
		go func() { // the copy's answer goes nowhere
			if e.sleep(again) {
				e.deliver(to, command, nil)
			}
		}()
	}
	if !arrives {
		e.sleep(callTimeout)
		return nil, errNet
	}
	if !e.sleep(after) {
		return nil, errNet
	}
	answer, err := e.deliver(to, command, data)
	if err != nil {
		return nil, err
	}
	arrives, after, _ = e.net.travel(to, e.addr)
	if !arrives {
		e.sleep(callTimeout)
		return nil, errNet
	}
	if !e.sleep(after) {
		return nil, errNet
	}
	return answer.Response, answer.Error
}

// deliver hands a command to a server and waits for its answer.
func (e *endpoint) deliver(to raft.ServerAddress, command any, data io.Reader) (raft.RPCResponse, error) {
	target := e.net.end(to)
	if target == nil {
		return raft.RPCResponse{}, errNet
	}
	if data != nil {
		e.net.mu.Lock()
		e.net.given[to] = 0
		e.net.mu.Unlock()
	}
	answer := make(chan raft.RPCResponse, 1)
	timeout := time.NewTimer(10 * time.Second)
	defer timeout.Stop()
	select {
	case target.consumer <- raft.RPC{Command: command, Reader: data, RespChan: answer}:
	case <-target.gone:
		return raft.RPCResponse{}, errNet
	case <-e.gone:
		return raft.RPCResponse{}, errNet
	case <-timeout.C:
		return raft.RPCResponse{}, errNet
	}
	select {
	case a := <-answer:
		return a, nil
	case <-target.gone:
		return raft.RPCResponse{}, errNet
	case <-e.gone:
		return raft.RPCResponse{}, errNet
	case <-timeout.C:
		return raft.RPCResponse{}, errNet
	}
}

// send is call with the answer's type.
func send[T any](e *endpoint, to raft.ServerAddress, command any, data io.Reader, resp *T) error {
	answer, err := e.call(to, command, data)
	if err != nil {
		return err
	}
	got, ok := answer.(*T)
	if !ok {
		return errNet // the server is going down
	}
	*resp = *got
	return nil
}

// AppendEntries implements raft.Transport. The library reuses its request, so
// a copy travels.
func (e *endpoint) AppendEntries(_ raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	c := *args
	return send(e, to, &c, nil, resp)
}

// RequestVote implements raft.Transport.
func (e *endpoint) RequestVote(_ raft.ServerID, to raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	c := *args
	return send(e, to, &c, nil, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (e *endpoint) RequestPreVote(_ raft.ServerID, to raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	c := *args
	return send(e, to, &c, nil, resp)
}

// InstallSnapshot implements raft.Transport.
func (e *endpoint) InstallSnapshot(_ raft.ServerID, to raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	c := *args
	return send(e, to, &c, data, resp)
}

// TimeoutNow implements raft.Transport.
func (e *endpoint) TimeoutNow(_ raft.ServerID, to raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	c := *args
	return send(e, to, &c, nil, resp)
}

// AppendEntriesPipeline implements raft.Transport: requests leave one after
// another without waiting for answers, and arrive in that order.
func (e *endpoint) AppendEntriesPipeline(_ raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	p := &pipeline{e: e, to: to, calls: make(chan *pipelined, 16), done: make(chan raft.AppendFuture, 16), closed: make(chan struct{})}
	go p.run()
	return p, nil
}

type pipeline struct {
	e      *endpoint
	to     raft.ServerAddress
	calls  chan *pipelined
	done   chan raft.AppendFuture
	closed chan struct{}
	once   sync.Once
}

type pipelined struct {
	start time.Time
	args  *raft.AppendEntriesRequest
	resp  *raft.AppendEntriesResponse
	err   error
	ready chan struct{}
}

func (p *pipelined) Error() error                          { <-p.ready; return p.err }
func (p *pipelined) Start() time.Time                      { return p.start }
func (p *pipelined) Request() *raft.AppendEntriesRequest   { return p.args }
func (p *pipelined) Response() *raft.AppendEntriesResponse { return p.resp }

// run sends, and hands answers out in order. A lost message ends the pipeline,
// as a broken connection does.
func (p *pipeline) run() {
	broken := false
	for {
		select {
		case c := <-p.calls:
			if broken {
				c.err = errNet
			} else {
				sent := *c.args
				c.err = send(p.e, p.to, &sent, nil, c.resp)
				broken = c.err != nil
			}
			close(c.ready)
			select {
			case p.done <- c:
			case <-p.closed:
				return
			}
		case <-p.closed:
			return
		}
	}
}

func (p *pipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	c := &pipelined{start: time.Now(), args: args, resp: resp, ready: make(chan struct{})}
	select {
	case p.calls <- c:
		return c, nil
	case <-p.closed:
		return nil, raft.ErrPipelineShutdown
	case <-p.e.gone:
		return nil, raft.ErrPipelineShutdown
	}
}

func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.done }

func (p *pipeline) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}
