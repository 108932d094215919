package raftstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// The first byte of a connection, inside TLS where there is TLS, says what it
// carries.
const (
	muxRaft byte = 'R'
	muxPeer byte = 'P'
)

// muxPending is how many connections may be in their handshake at once; more
// are closed.
const muxPending = 512

// Mux shares one address between Raft and a second protocol of the same
// servers, so that one port and one pair of certificates serve both. It is
// made before the store, for what servers must tell each other before there is
// a log, and outlives it: whoever made it closes it after the store. It is
// safe for concurrent use.
type Mux struct {
	listener  net.Listener
	advertise net.Addr
	tls       *tls.Config // nil: plain TCP
	raft      muxSide
	peer      muxSide
	pending   chan struct{}
	closing   chan struct{}
	once      sync.Once
	done      sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{} // accepted and not closed yet
}

// ListenMux listens on bind (host:port). Others dial advertise; "" is the bound
// address. tlsConf as in Config.TLS; nil: plain TCP, which trusts the network.
func ListenMux(bind, advertise string, tlsConf *tls.Config) (*Mux, error) {
	if tlsConf != nil {
		var errs []error
		validateTLS(tlsConf, func(field, format string, args ...any) {
			errs = append(errs, fmt.Errorf("raft."+field+": "+format, args...))
		})
		if err := errors.Join(errs...); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("tcp", bind)
	if err != nil {
		return nil, fmt.Errorf("listen for the other servers: %w", err)
	}
	m := &Mux{
		listener: l, advertise: l.Addr(), tls: tlsConf,
		pending: make(chan struct{}, muxPending), closing: make(chan struct{}),
		conns: map[net.Conn]struct{}{},
	}
	if advertise != "" {
		m.advertise = hostPort(advertise)
	} else if a, ok := l.Addr().(*net.TCPAddr); ok && a.IP.IsUnspecified() {
		l.Close()
		return nil, fmt.Errorf("listen for the other servers: they can't dial %q, so an address to advertise must be set", bind)
	}
	m.raft, m.peer = muxSide{m: m, conns: make(chan net.Conn), down: make(chan struct{})}, muxSide{m: m, conns: make(chan net.Conn), down: make(chan struct{})}
	m.done.Go(m.accept)
	return m, nil
}

// Addr is the address that the others dial.
func (m *Mux) Addr() string { return m.advertise.String() }

// Peer gives the connections that the other servers opened with DialPeer.
func (m *Mux) Peer() net.Listener { return &m.peer }

// DialPeer connects to the Peer listener of the server at addr.
func (m *Mux) DialPeer(ctx context.Context, addr string) (net.Conn, error) {
	return m.dial(ctx, addr, muxPeer)
}

// Close stops listening and ends every connection that came in.
func (m *Mux) Close() error {
	var err error
	m.once.Do(func() {
		close(m.closing)
		err = m.listener.Close()
		m.mu.Lock()
		for c := range m.conns {
			c.Close()
		}
		m.mu.Unlock()
	})
	m.done.Wait()
	return err
}

func (m *Mux) dial(ctx context.Context, addr string, kind byte) (net.Conn, error) {
	var conn net.Conn
	var err error
	if m.tls == nil {
		var d net.Dialer
		conn, err = d.DialContext(ctx, "tcp", addr)
	} else {
		d := tls.Dialer{Config: m.tls}
		conn, err = d.DialContext(ctx, "tcp", addr)
	}
	if err != nil {
		return nil, err
	}
	if d, ok := ctx.Deadline(); ok {
		conn.SetWriteDeadline(d)
	}
	if _, err := conn.Write([]byte{kind}); err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetWriteDeadline(time.Time{})
	return conn, nil
}

func (m *Mux) accept() {
	for {
		conn, err := m.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // such as too many open files: it passes, or the process ends
			select {
			case <-m.closing:
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		select {
		case m.pending <- struct{}{}:
			m.done.Go(func() {
				defer func() { <-m.pending }()
				m.sort(conn)
			})
		default:
			conn.Close()
		}
	}
}

// sort does the handshake and hands the connection to its side.
func (m *Mux) sort(tcp net.Conn) {
	if !m.add(tcp) {
		return
	}
	conn := &muxConn{Conn: tcp, tcp: tcp, m: m}
	tcp.SetDeadline(time.Now().Add(handshakeTimeout))
	if m.tls != nil {
		server := tls.Server(tcp, m.tls)
		if err := server.Handshake(); err != nil {
			conn.Close()
			return
		}
		conn.Conn = server
	}
	var kind [1]byte
	if _, err := io.ReadFull(conn, kind[:]); err != nil {
		conn.Close()
		return
	}
	tcp.SetDeadline(time.Time{})
	var side *muxSide
	switch kind[0] {
	case muxRaft:
		side = &m.raft
	case muxPeer:
		side = &m.peer
	default:
		conn.Close()
		return
	}
	// Nobody may be there to take it: the store is not open yet, or no more.
	wait := time.NewTimer(handshakeTimeout)
	defer wait.Stop()
	select {
	case side.conns <- conn:
	case <-side.down:
		conn.Close()
	case <-m.closing:
		conn.Close()
	case <-wait.C:
		conn.Close()
	}
}

func (m *Mux) add(c net.Conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.closing:
		c.Close()
		return false
	default:
	}
	m.conns[c] = struct{}{}
	return true
}

// muxSide is one protocol's part of a Mux. Its Close ends the part alone.
type muxSide struct {
	m     *Mux
	conns chan net.Conn
	once  sync.Once
	down  chan struct{}
}

// Accept implements net.Listener.
func (s *muxSide) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.down:
		return nil, net.ErrClosed
	case <-s.m.closing:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (s *muxSide) Close() error {
	s.once.Do(func() { close(s.down) })
	return nil
}

// Addr implements net.Listener.
func (s *muxSide) Addr() net.Addr { return s.m.advertise }

// muxConn is an accepted connection.
type muxConn struct {
	net.Conn
	tcp net.Conn // under Conn
	m   *Mux
}

// Close leaves TLS's goodbye out, which may block.
func (c *muxConn) Close() error {
	c.m.mu.Lock()
	delete(c.m.conns, c.tcp)
	c.m.mu.Unlock()
	return c.tcp.Close()
}

// muxStream is raft's stream layer over a Mux. Like stream it closes what it
// accepted when it is closed, so that no handler outlives the store.
type muxStream struct {
	m *Mux

	mu     sync.Mutex
	conns  map[*muxStreamConn]struct{}
	closed chan struct{}
	once   sync.Once
}

func newMuxStream(m *Mux) *muxStream {
	return &muxStream{m: m, conns: map[*muxStreamConn]struct{}{}, closed: make(chan struct{})}
}

type muxStreamConn struct {
	net.Conn
	s *muxStream
}

func (c *muxStreamConn) Close() error {
	c.s.mu.Lock()
	delete(c.s.conns, c)
	c.s.mu.Unlock()
	return c.Conn.Close()
}

// Dial implements raft.StreamLayer.
func (s *muxStream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return s.m.dial(ctx, string(address), muxRaft)
}

// Accept implements net.Listener.
func (s *muxStream) Accept() (net.Conn, error) {
	select {
	case c := <-s.m.raft.conns:
		conn := &muxStreamConn{Conn: c, s: s}
		s.mu.Lock()
		defer s.mu.Unlock()
		select {
		case <-s.closed:
			c.Close()
			return nil, net.ErrClosed
		default:
		}
		s.conns[conn] = struct{}{}
		return conn, nil
	case <-s.closed:
		return nil, net.ErrClosed
	case <-s.m.closing:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. The Mux goes on.
func (s *muxStream) Close() error {
	s.once.Do(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		close(s.closed)
		for c := range s.conns {
			c.Conn.Close()
		}
		clear(s.conns)
	})
	return nil
}

// Addr implements net.Listener.
func (s *muxStream) Addr() net.Addr { return s.m.advertise }
