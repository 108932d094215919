package procevent

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bpfExit learns a process's exit from a small eBPF program on the raw
// tracepoint sched_process_exit. Each thread of the process that exits writes
// the clock into a word that is shared with us: what stands there after the
// wait is the last thread's exit. Nothing is sent and nobody is woken.
type bpfExit struct {
	mapFd, progFd, linkFd int
	page                  []byte
}

// The instructions and helpers of linux/bpf.h that the program uses.
const (
	insnCall      = 0x85
	insnExit      = 0x95
	insnMov64Imm  = 0xb7
	insnMov64Reg  = 0xbf
	insnAdd64Imm  = 0x07
	insnRsh64Imm  = 0x77
	insnJneReg    = 0x5d
	insnJeqImm    = 0x15
	insnLdImm64   = 0x18
	insnStore32   = 0x62 // *(u32 *)(dst + off) = imm
	insnStoreReg  = 0x7b // *(u64 *)(dst + off) = src
	pseudoMapFd   = 1
	helperLookup  = 1
	helperKtime   = 5
	helperPidTgid = 14
)

type insn struct {
	code     uint8
	dst, src uint8
	off      int16
	imm      int32
}

func assemble(prog []insn) []byte {
	b := make([]byte, 0, 8*len(prog))
	for _, i := range prog {
		regs := i.dst | i.src<<4
		if !hostLittle {
			regs = i.src | i.dst<<4
		}
		b = append(b, i.code, regs)
		b = native.AppendUint16(b, uint16(i.off))
		b = native.AppendUint32(b, uint32(i.imm))
	}
	return b
}

// exitProgram stores CLOCK_MONOTONIC in element 0 of the map when a thread of
// process pid exits.
func exitProgram(pid uint32, mapFd int) []byte {
	return assemble([]insn{
		{code: insnCall, imm: helperPidTgid},
		{code: insnRsh64Imm, imm: 32},                 // r0 >>= 32: the thread group
		{code: insnMov64Imm, dst: 1, imm: int32(pid)}, // pids are at most 2^22
		{code: insnJneReg, dst: 0, src: 1, off: 10},   // if r0 != r1 goto out
		{code: insnCall, imm: helperKtime},
		{code: insnMov64Reg, dst: 6, src: 0},
		{code: insnStore32, dst: 10, off: -4, imm: 0}, // key 0 on the stack
		{code: insnLdImm64, dst: 1, src: pseudoMapFd, imm: int32(mapFd)},
		{}, // second half of the 64-bit immediate
		{code: insnMov64Reg, dst: 2, src: 10},
		{code: insnAdd64Imm, dst: 2, imm: -4},
		{code: insnCall, imm: helperLookup},
		{code: insnJeqImm, dst: 0, imm: 0, off: 1}, // if r0 == 0 goto out
		{code: insnStoreReg, dst: 0, src: 6},
		{code: insnMov64Imm, dst: 0, imm: 0}, // out:
		{code: insnExit},
	})
}

// The attributes of bpf(2), as far as they are used.
type (
	bpfMapCreate struct {
		mapType, keySize, valueSize, maxEntries, flags uint32
	}
	bpfProgLoad struct {
		progType, insnCount uint32
		insns, license      uint64
		logLevel, logSize   uint32
		logBuf              uint64
		kernVersion, flags  uint32
	}
	bpfRawTracepoint struct {
		name   uint64
		progFd uint32
		_      uint32
	}
)

func bpf[T any](cmd int, attr *T) (int, error) {
	fd, _, e := unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
	if e != 0 {
		return -1, e
	}
	return int(fd), nil // the kernel makes these close on exec
}

func address(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&b[0]))) }

// openBPFExit attaches the program; it needs CAP_BPF and CAP_PERFMON.
func openBPFExit(pid int) (_ *bpfExit, err error) {
	x := &bpfExit{mapFd: -1, progFd: -1, linkFd: -1}
	defer func() {
		if err != nil {
			x.close()
		}
	}()
	x.mapFd, err = bpf(unix.BPF_MAP_CREATE, &bpfMapCreate{
		mapType: unix.BPF_MAP_TYPE_ARRAY, keySize: 4, valueSize: 8, maxEntries: 1, flags: unix.BPF_F_MMAPABLE,
	})
	if err != nil {
		return nil, fmt.Errorf("create bpf map: %w", err)
	}
	insns, license := exitProgram(uint32(pid), x.mapFd), []byte("Apache-2.0\x00")
	x.progFd, err = bpf(unix.BPF_PROG_LOAD, &bpfProgLoad{
		progType: unix.BPF_PROG_TYPE_RAW_TRACEPOINT, insnCount: uint32(len(insns) / 8),
		insns: address(insns), license: address(license),
	})
	runtime.KeepAlive(insns)
	runtime.KeepAlive(license)
	if err != nil {
		return nil, fmt.Errorf("load bpf program: %w", err)
	}
	x.page, err = unix.Mmap(x.mapFd, 0, unix.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map bpf map: %w", err)
	}
	name := []byte("sched_process_exit\x00")
	x.linkFd, err = bpf(unix.BPF_RAW_TRACEPOINT_OPEN, &bpfRawTracepoint{name: address(name), progFd: uint32(x.progFd)})
	runtime.KeepAlive(name)
	if err != nil {
		return nil, fmt.Errorf("attach bpf program: %w", err)
	}
	return x, nil
}

// stamp returns the last thread's exit; the process has been waited for.
func (x *bpfExit) stamp() (int64, bool) {
	ns := int64(native.Uint64(x.page))
	return ns, ns != 0
}

func (x *bpfExit) source() Source { return SourceBPF }

func (x *bpfExit) close() {
	for _, fd := range []int{x.linkFd, x.progFd, x.mapFd} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	if x.page != nil {
		_ = unix.Munmap(x.page)
	}
}
