// Package loopback gives out loopback addresses for servers whose addresses
// must be known before they listen: of a development cluster, a benchmark and
// the tests.
//
// Listening on port 0 and closing again is not enough: the kernel soon gives
// such a port to the outgoing end of somebody's connection, and the server then
// finds its address in use. The ports given here lie outside of the range that
// the kernel draws from, and below the one that Nomad gives its tasks.
package loopback

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
)

const (
	lowest, highest = 10000, 19999 // Nomad's tasks have 20000 to 32000
	attempts        = 1000
)

// reservations are abstract sockets: nothing stays in the file system, and the
// kernel closes them with the process. Kept here, they are not collected.
var (
	mu           sync.Mutex
	reservations []net.Listener
)

// Reserve returns an address of 127.0.0.1, "host:port", that nobody listens on
// and that no other call gives away, in any process of this network namespace,
// until this process ends. It is safe for concurrent use.
func Reserve() (string, error) {
	drawn, err := drawnByKernel()
	if err != nil {
		return "", err
	}
	for range attempts {
		port := lowest + rand.IntN(highest-lowest+1)
		if drawn.has(port) && !drawn.covers() {
			continue
		}
		held, err := net.Listen("unix", fmt.Sprintf("@joule-loopback-%d", port))
		if err != nil {
			continue // another process has it
		}
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			held.Close()
			continue
		}
		if err := ln.Close(); err != nil {
			return "", err
		}
		mu.Lock()
		reservations = append(reservations, held)
		mu.Unlock()
		return addr, nil
	}
	return "", errors.New("no free port of 127.0.0.1 between 10000 and 19999")
}

// ports is a range, both ends in it.
type ports struct{ first, last int }

func (p ports) has(port int) bool { return p.first <= port && port <= p.last }

// covers reports whether no port is left that the kernel doesn't draw.
func (p ports) covers() bool { return p.has(lowest) && p.has(highest) }

// drawnByKernel is the range of ports of outgoing connections.
func drawnByKernel() (ports, error) {
	const file = "/proc/sys/net/ipv4/ip_local_port_range"
	text, err := os.ReadFile(file)
	if err != nil {
		return ports{}, err
	}
	var p ports
	if _, err := fmt.Sscan(string(text), &p.first, &p.last); err != nil {
		return ports{}, fmt.Errorf("%s has %q: %w", file, text, err)
	}
	return p, nil
}
