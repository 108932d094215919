package torture

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// lan is a bridge with one namespace per server on it.
type lan struct {
	name string
	n    int
}

func run(args ...string) error {
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// newLAN makes the namespaces. Everything it makes carries this process's id.
func newLAN(n int) (*lan, error) {
	l := &lan{name: fmt.Sprintf("jt%d", os.Getpid()), n: n}
	steps := [][]string{{"ip", "netns", "add", l.ns(n)}, l.in(n, "ip", "link", "add", "br0", "type", "bridge"), l.in(n, "ip", "link", "set", "br0", "up")}
	for i := range n {
		port := fmt.Sprint("p", i)
		steps = append(steps,
			[]string{"ip", "netns", "add", l.ns(i)},
			l.in(i, "ip", "link", "set", "lo", "up"),
			l.in(n, "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", l.ns(i)),
			l.in(n, "ip", "link", "set", port, "master", "br0", "up"),
			l.in(i, "ip", "link", "set", "eth0", "address", mac(i), "up"),
			l.in(i, "ip", "addr", "add", l.ip(i)+"/24", "dev", "eth0"),
		)
	}
	for _, s := range steps {
		if err := run(s...); err != nil {
			l.remove()
			return nil, err
		}
	}
	for i := range n {
		if err := l.heal(i); err != nil {
			l.remove()
			return nil, err
		}
	}
	return l, nil
}

// ns is a server's namespace; that of the bridge has the number behind the last.
func (l *lan) ns(i int) string { return fmt.Sprintf("%s-%d", l.name, i) }
func (l *lan) ip(i int) string { return fmt.Sprintf("10.213.77.%d", i+1) }
func mac(i int) string         { return fmt.Sprintf("02:00:00:00:77:%02x", i+1) }

func (l *lan) in(i int, args ...string) []string {
	return append([]string{"ip", "netns", "exec", l.ns(i)}, args...)
}

func (l *lan) remove() {
	for i := range l.n + 1 {
		run("ip", "netns", "delete", l.ns(i))
	}
}

// cut loses everything that a server sends to another: it goes to an address
// that nobody has. What the other sends arrives.
func (l *lan) cut(from, to int) error {
	return run(l.in(from, "ip", "neigh", "replace", l.ip(to), "lladdr", "02:00:00:00:77:ff", "nud", "permanent", "dev", "eth0")...)
}

// heal ends every cut of what a server sends.
func (l *lan) heal(from int) error {
	for to := range l.n {
		if to == from {
			continue
		}
		if err := run(l.in(from, "ip", "neigh", "replace", l.ip(to), "lladdr", mac(to), "nud", "permanent", "dev", "eth0")...); err != nil {
			return err
		}
	}
	return nil
}

// inside runs f on a thread that is in a namespace.
func inside[T any](l *lan, i int, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		// The thread is not used for anything else: it ends with this goroutine.
		runtime.LockOSThread()
		var r result
		ns, err := os.Open("/run/netns/" + l.ns(i))
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
			ns.Close()
		}
		if r.err = err; err == nil {
			r.value, r.err = f()
		}
		done <- r
	}()
	r := <-done
	return r.value, r.err
}

// dial connects to an address of a server's own loopback.
func (l *lan) dial(i int) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		return inside(l, i, func() (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, addr)
		})
	}
}

// listen listens in a namespace.
func (l *lan) listen(i int, addr string) (net.Listener, error) {
	return inside(l, i, func() (net.Listener, error) { return net.Listen("tcp", addr) })
}

// forward carries connections from an address of this namespace, which it
// returns, to one of a server's loopback, until ctx ends.
func (l *lan) forward(ctx context.Context, i int, to string) (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	context.AfterFunc(ctx, func() { ln.Close() })
	go func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer near.Close()
				far, err := l.dial(i)(ctx, "tcp", to)
				if err != nil {
					return
				}
				defer far.Close()
				end := context.AfterFunc(ctx, func() { near.Close(); far.Close() })
				defer end()
				back := make(chan struct{})
				go func() {
					defer close(back)
					io.Copy(near, far)
					near.Close()
				}()
				io.Copy(far, near)
				far.Close()
				<-back
			}()
		}
	}()
	return ln.Addr().String(), nil
}
