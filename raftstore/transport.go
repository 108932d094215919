package raftstore

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// safeTransport keeps the library from handling heartbeats beside its main
// loop; they arrive through Consumer like every other call.
type safeTransport struct{ Transport }

func (safeTransport) SetHeartbeatHandler(func(raft.RPC)) {}

// handshakeTimeout bounds how long a dialled-in connection may take to show
// its certificate.
const handshakeTimeout = 10 * time.Second

// stream is raft's stream layer over TCP, with TLS on both sides where a
// config is given. Unlike the library's own it closes accepted connections
// with the listener, so that no handler outlives the store.
type stream struct {
	net.Listener
	advertise net.Addr
	tls       *tls.Config

	mu     sync.Mutex
	conns  map[*acceptedConn]struct{}
	closed bool
}

func newStream(l net.Listener, advertise string, cfg *tls.Config) *stream {
	s := &stream{Listener: l, advertise: l.Addr(), tls: cfg, conns: map[*acceptedConn]struct{}{}}
	if advertise != "" {
		s.advertise = hostPort(advertise)
	}
	return s
}

// hostPort is an advertised address, which may be a name.
type hostPort string

func (hostPort) Network() string  { return "tcp" }
func (a hostPort) String() string { return string(a) }

// Addr is the advertised address.
func (s *stream) Addr() net.Addr { return s.advertise }

// Dial implements raft.StreamLayer.
func (s *stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if s.tls == nil {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", string(address))
	}
	d := tls.Dialer{Config: s.tls} // takes the server's name from the address where the config has none
	return d.DialContext(ctx, "tcp", string(address))
}

// Accept implements net.Listener.
func (s *stream) Accept() (net.Conn, error) {
	conn, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	a := &acceptedConn{Conn: conn, tcp: conn, s: s}
	if s.tls != nil {
		a.server = tls.Server(conn, s.tls)
		a.Conn = a.server
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		conn.Close()
		return nil, net.ErrClosed
	}
	s.conns[a] = struct{}{}
	return a, nil
}

// Close implements net.Listener.
func (s *stream) Close() error {
	err := s.Listener.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.conns {
		c.tcp.Close() // without TLS's goodbye, which may block
	}
	clear(s.conns)
	return err
}

// acceptedConn does its handshake on the first read, that is on the goroutine
// that serves it, so that a silent client can't hold up Accept.
type acceptedConn struct {
	net.Conn
	tcp       net.Conn // under Conn
	s         *stream
	server    *tls.Conn // nil: plain TCP
	handshake sync.Once
	err       error
}

func (c *acceptedConn) Read(p []byte) (int, error) {
	if c.server != nil {
		c.handshake.Do(func() {
			ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
			defer cancel()
			c.err = c.server.HandshakeContext(ctx)
		})
		if c.err != nil {
			return 0, c.err
		}
	}
	return c.Conn.Read(p)
}

func (c *acceptedConn) Close() error {
	c.s.mu.Lock()
	delete(c.s.conns, c)
	c.s.mu.Unlock()
	return c.Conn.Close()
}
