package procevent

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The process connector (linux/connector.h, linux/cn_proc.h). A message is a
// netlink header, a cn_msg of 20 bytes and a proc_event.
const (
	cnIdxProc      = 1
	cnValProc      = 1
	cnListen       = 1
	cnMsgLen       = 20
	procEventNone  = 0
	procEventExec  = 0x00000002
	procEventExit  = 0x80000000
	offAck         = unix.SizeofNlMsghdr + 12 // cn_msg.ack
	offWhat        = unix.SizeofNlMsghdr + cnMsgLen
	offStamp       = offWhat + 8 // CLOCK_MONOTONIC in ns
	offPid         = offWhat + 16
	offTgid        = offWhat + 20
	connectorBytes = offWhat + 40 // what a message has at least
)

// connector hears of one process's exec and of its threads' exits.
type connector struct {
	fd   int
	pid  uint32
	exec int64 // the first exec's stamp; 0: none yet
	exit int64 // the last exit's stamp; 0: none yet
	buf  [4096]byte
}

// openConnector subscribes; the kernel keeps silent towards a process that
// lacks CAP_NET_ADMIN or is not in the initial namespaces.
func openConnector(pid int) (_ *connector, err error) {
	fd, err := netlinkSocket(unix.NETLINK_CONNECTOR, cnIdxProc, connectorFilter(uint32(pid)))
	if err != nil {
		return nil, err
	}
	c := &connector{fd: fd, pid: uint32(pid)}
	defer func() {
		if err != nil {
			c.close()
		}
	}()

	token := uint32(os.Getpid())
	req := make([]byte, unix.SizeofNlMsghdr+cnMsgLen+4)
	native.PutUint32(req[0:], uint32(len(req)))
	native.PutUint16(req[4:], unix.NLMSG_DONE)
	native.PutUint32(req[12:], uint32(os.Getpid()))
	native.PutUint32(req[16:], cnIdxProc)
	native.PutUint32(req[20:], cnValProc)
	native.PutUint32(req[28:], token)
	native.PutUint16(req[32:], 4)
	native.PutUint32(req[36:], cnListen)
	if err := unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("subscribe to process events: %w", err)
	}
	for deadline := time.Now().Add(sockTimeout); time.Now().Before(deadline); {
		b, err := recv(fd, c.buf[:], 0)
		if errors.Is(err, unix.ENOBUFS) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("subscribe to process events: no answer from the kernel: %w", err)
		}
		if len(b) >= connectorBytes && native.Uint32(b[offWhat:]) == procEventNone && native.Uint32(b[offAck:]) == token+1 {
			if e := native.Uint32(b[offPid:]); e != 0 {
				return nil, fmt.Errorf("subscribe to process events: %w", unix.Errno(e))
			}
			return c, nil
		}
		c.take(b)
	}
	return nil, errors.New("subscribe to process events: no answer from the kernel")
}

// connectorFilter passes acknowledgements and the process's execs and exits.
func connectorFilter(pid uint32) []unix.SockFilter {
	return []unix.SockFilter{
		{Code: bpfLoad32, K: offWhat},
		{Code: bpfIfEqual, K: wire32(procEventNone), Jt: 4},
		{Code: bpfIfEqual, K: wire32(procEventExec), Jt: 1},
		{Code: bpfIfEqual, K: wire32(procEventExit), Jf: 3},
		{Code: bpfLoad32, K: offTgid},
		{Code: bpfIfEqual, K: wire32(pid), Jf: 1},
		{Code: bpfReturn, K: bpfAll},
		{Code: bpfReturn, K: 0},
	}
}

// take notes what a message says.
func (c *connector) take(b []byte) {
	if len(b) < connectorBytes || native.Uint32(b[offTgid:]) != c.pid {
		return
	}
	stamp := int64(native.Uint64(b[offStamp:]))
	switch native.Uint32(b[offWhat:]) {
	case procEventExec:
		if c.exec == 0 {
			c.exec = stamp
		}
	case procEventExit:
		c.exit = max(c.exit, stamp)
	}
}

// drain takes what is queued, without waiting.
func (c *connector) drain() {
	for {
		b, err := recv(c.fd, c.buf[:], unix.MSG_DONTWAIT)
		if errors.Is(err, unix.ENOBUFS) {
			continue
		}
		if err != nil {
			return
		}
		c.take(b)
	}
}

func (c *connector) close() { _ = unix.Close(c.fd) }
