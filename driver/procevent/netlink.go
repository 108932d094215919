package procevent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

var native = binary.NativeEndian

// monoNow reads CLOCK_MONOTONIC, the clock of every stamp here.
func monoNow() int64 {
	var ts unix.Timespec
	// The clock exists on every Linux; the call cannot fail.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// sockTimeout bounds every wait for the kernel's answer to a request: it
// answers within the system call, so that a silence means a refusal.
const sockTimeout = 200 * time.Millisecond

// netlinkSocket opens a netlink socket of the protocol and binds it to the
// multicast groups; the filter, where there is one, is in force before that.
func netlinkSocket(protocol int, groups uint32, filter []unix.SockFilter) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return -1, fmt.Errorf("open netlink socket: %w", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	if filter != nil {
		if err := attachFilter(fd, filter); err != nil {
			return -1, err
		}
	}
	tv := unix.NsecToTimeval(sockTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return -1, fmt.Errorf("bound the socket's wait: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return -1, fmt.Errorf("bind netlink socket: %w", err)
	}
	return fd, nil
}

// recv reads one message into buf; flags may be MSG_DONTWAIT. Only the kernel's
// own messages are taken.
func recv(fd int, buf []byte, flags int) ([]byte, error) {
	for {
		n, from, err := unix.Recvfrom(fd, buf, flags)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
			continue
		}
		return buf[:n], nil
	}
}

// message is one netlink message.
type message struct {
	typ  uint16
	seq  uint32
	body []byte // after the header
	raw  []byte // with it
}

// messages splits a datagram.
func messages(b []byte) []message {
	var out []message
	for len(b) >= unix.SizeofNlMsghdr {
		n := int(native.Uint32(b))
		if n < unix.SizeofNlMsghdr || n > len(b) {
			break
		}
		out = append(out, message{
			typ: native.Uint16(b[4:]), seq: native.Uint32(b[8:]),
			body: b[unix.SizeofNlMsghdr:n], raw: b[:n],
		})
		b = b[min(len(b), (n+3)&^3):]
	}
	return out
}

// errno is the error of an NLMSG_ERROR; nil for an acknowledgement.
func (m message) errno() error {
	if len(m.body) < 4 {
		return unix.EBADMSG
	}
	if e := int32(native.Uint32(m.body)); e != 0 {
		return unix.Errno(-e)
	}
	return nil
}

// genlRequest builds a generic netlink request with one attribute.
func genlRequest(family, flags uint16, seq uint32, cmd, version uint8, attr uint16, value []byte) []byte {
	n := unix.SizeofNlMsghdr + 4 + 4 + len(value)
	b := make([]byte, (n+3)&^3)
	native.PutUint32(b[0:], uint32(len(b)))
	native.PutUint16(b[4:], family)
	native.PutUint16(b[6:], unix.NLM_F_REQUEST|flags)
	native.PutUint32(b[8:], seq)
	b[16], b[17] = cmd, version
	native.PutUint16(b[20:], uint16(4+len(value)))
	native.PutUint16(b[22:], attr)
	copy(b[24:], value)
	return b
}

// attribute finds an attribute in a run of them and its offset there.
func attribute(b []byte, typ uint16) (value []byte, off int, ok bool) {
	for at := 0; at+4 <= len(b); {
		n := int(native.Uint16(b[at:]))
		if n < 4 || at+n > len(b) {
			return nil, 0, false
		}
		if native.Uint16(b[at+2:])&nlaTypeMask == typ {
			return b[at+4 : at+n], at + 4, true
		}
		at += (n + 3) &^ 3
	}
	return nil, 0, false
}

const nlaTypeMask = 0x3fff // NLA_TYPE_MASK: without the nested and byte order flags
