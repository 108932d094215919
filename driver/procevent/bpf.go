package procevent

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"golang.org/x/sys/unix"
)

// The classic BPF of a socket filter loads in network byte order, while netlink
// is in the host's: a field is compared with the constant as its bytes lie.
var hostLittle = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

func wire32(v uint32) uint32 {
	if hostLittle {
		return bits.ReverseBytes32(v)
	}
	return v
}

func wire16(v uint16) uint32 {
	if hostLittle {
		v = bits.ReverseBytes16(v)
	}
	return uint32(v)
}

const (
	bpfLoad32  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	bpfLoad16  = unix.BPF_LD | unix.BPF_H | unix.BPF_ABS
	bpfLoad8   = unix.BPF_LD | unix.BPF_B | unix.BPF_ABS
	bpfIfEqual = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	bpfIfBits  = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
	bpfReturn  = unix.BPF_RET | unix.BPF_K
	bpfAll     = 0xffffffff // as a return value: keep the whole message
)

// attachFilter gives the socket a filter: the kernel drops what it refuses
// before it is queued, so that nobody is woken for other processes' events. A
// load beyond the message's end refuses it.
func attachFilter(fd int, prog []unix.SockFilter) error {
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &fprog); err != nil {
		return fmt.Errorf("attach socket filter: %w", err)
	}
	return nil
}
