package procevent

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// startBracketNs is how exactly the start of the process is to be known before
// the exit's stamp can be derived from it: half of it bounds the error.
const startBracketNs = 50_000

// startQueries bounds the attempts to get there.
const startQueries = 500

// aGroup says in ac_flag that the thread was the last one of its process
// (AGROUP of linux/acct.h).
const aGroup = 0x20

// taskstatsExit learns a process's exit from taskstats. The kernel sends a
// thread's statistics when it exits; the last thread's carry the age of the
// whole process in µs. When the process was born follows from asking its age
// while it lives, between two readings of the clock.
type taskstatsExit struct {
	fd      int
	at      statsLayout
	startNs int64 // CLOCK_MONOTONIC of the process's birth, within startBracketNs/2
}

// statsLayout says where the fields that are read here lie in struct taskstats.
// It grew in its middle once: Linux 6.14 put one word, later two, into each of
// six groups of fields, and a later release moved them to the end again without
// another version number that tells. So the layout is found by what is known:
// the pid asked for and that a leader's age is its process's.
type statsLayout struct {
	flag, pid, etime, tgid, tgetime int
}

func layoutShifted(by int) statsLayout {
	return statsLayout{flag: 8, pid: 128 + 3*by, etime: 144 + 3*by, tgid: 368 + 6*by, tgetime: 376 + 6*by}
}

// findLayout finds the layout in the statistics of the leader of process pid.
func findLayout(stats []byte, pid uint32) (statsLayout, error) {
	for _, by := range []int{0, 8, 16} {
		l := layoutShifted(by)
		if len(stats) < l.tgetime+8 {
			continue
		}
		if native.Uint32(stats[l.pid:]) == pid && native.Uint32(stats[l.tgid:]) == pid &&
			native.Uint64(stats[l.etime:]) == native.Uint64(stats[l.tgetime:]) {
			return l, nil
		}
	}
	return statsLayout{}, fmt.Errorf("read taskstats of %d bytes: no known layout with a process's age in it (Linux 5.19 or later)", len(stats))
}

// parseStats finds the statistics of one thread in a TASKSTATS_CMD_NEW message
// and their offset from the message's start.
func parseStats(raw []byte) (stats []byte, off int, err error) {
	const head = unix.SizeofNlMsghdr + 4
	if len(raw) >= head {
		if agg, o1, ok := attribute(raw[head:], unix.TASKSTATS_TYPE_AGGR_PID); ok {
			if st, o2, ok := attribute(agg, unix.TASKSTATS_TYPE_STATS); ok {
				return st, head + o1 + o2, nil
			}
		}
	}
	return nil, 0, errors.New("parse taskstats: no statistics in the message")
}

// genl is a socket for requests, each answered before the next.
type genl struct {
	fd  int
	seq uint32
	buf [8192]byte
}

// ask sends a request and returns its answer.
func (g *genl) ask(family uint16, cmd, version uint8, attr uint16, value []byte) (message, error) {
	g.seq++
	req := genlRequest(family, 0, g.seq, cmd, version, attr, value)
	if err := unix.Sendto(g.fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return message{}, fmt.Errorf("send netlink request: %w", err)
	}
	for {
		b, err := recv(g.fd, g.buf[:], 0)
		if err != nil {
			return message{}, fmt.Errorf("read netlink answer: %w", err)
		}
		for _, m := range messages(b) {
			if m.seq != g.seq {
				continue
			}
			if m.typ == unix.NLMSG_ERROR {
				if err := m.errno(); err != nil {
					return message{}, err
				}
			}
			return m, nil
		}
	}
}

// openTaskstatsExit begins to listen for the exit of process pid, which lives.
func openTaskstatsExit(pid int) (_ *taskstatsExit, err error) {
	fd, err := netlinkSocket(unix.NETLINK_GENERIC, 0, nil)
	if err != nil {
		return nil, err
	}
	q := &genl{fd: fd}
	defer func() { _ = unix.Close(q.fd) }()

	m, err := q.ask(unix.GENL_ID_CTRL, unix.CTRL_CMD_GETFAMILY, 1,
		unix.CTRL_ATTR_FAMILY_NAME, []byte(unix.TASKSTATS_GENL_NAME+"\x00"))
	if err != nil {
		return nil, fmt.Errorf("look up taskstats: %w", err)
	}
	if len(m.body) < 4 {
		return nil, errors.New("look up taskstats: short answer")
	}
	id, _, ok := attribute(m.body[4:], unix.CTRL_ATTR_FAMILY_ID)
	if !ok || len(id) < 2 {
		return nil, errors.New("look up taskstats: no family id in the answer")
	}
	family := native.Uint16(id)

	x := &taskstatsExit{fd: -1}
	off, err := x.findStart(q, family, uint32(pid))
	if err != nil {
		return nil, err
	}
	x.fd, err = netlinkSocket(unix.NETLINK_GENERIC, 0, exitFilter(uint32(pid), off, x.at))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			x.close()
		}
	}()
	return x, x.register(family)
}

// findStart learns the layout and when the process was born.
func (x *taskstatsExit) findStart(q *genl, family uint16, pid uint32) (off int, err error) {
	var lo, hi int64
	arg := native.AppendUint32(nil, pid)
	for i := range startQueries {
		before := monoNow()
		m, err := q.ask(family, unix.TASKSTATS_CMD_GET, unix.TASKSTATS_GENL_VERSION, unix.TASKSTATS_CMD_ATTR_PID, arg)
		after := monoNow()
		if err != nil {
			return 0, fmt.Errorf("ask taskstats of pid %d: %w", pid, err)
		}
		var stats []byte
		stats, off, err = parseStats(m.raw)
		if err != nil {
			return 0, err
		}
		if i == 0 {
			if x.at, err = findLayout(stats, pid); err != nil {
				return 0, err
			}
			lo, hi = 0, after
		}
		if len(stats) < x.at.tgetime+8 {
			return 0, errors.New("parse taskstats: short statistics")
		}
		// The age is rounded down to a whole µs.
		age := int64(native.Uint64(stats[x.at.tgetime:])) * 1000
		lo, hi = max(lo, before-age-1000), min(hi, after-age)
		if hi-lo < startBracketNs && i >= 2 {
			x.startNs = lo + (hi-lo)/2
			return off, nil
		}
	}
	return 0, fmt.Errorf("bracket the start of pid %d: %d ns wide after %d queries", pid, hi-lo, startQueries)
}

// exitFilter passes answers to requests and the statistics of the last thread
// of process pid; off is where statistics begin in a message.
func exitFilter(pid uint32, off int, at statsLayout) []unix.SockFilter {
	return []unix.SockFilter{
		{Code: bpfLoad16, K: 4}, // nlmsg_type
		{Code: bpfIfEqual, K: wire16(unix.NLMSG_ERROR), Jt: 4},
		{Code: bpfLoad32, K: uint32(off + at.tgid)},
		{Code: bpfIfEqual, K: wire32(pid), Jf: 3},
		{Code: bpfLoad8, K: uint32(off + at.flag)},
		{Code: bpfIfBits, K: aGroup, Jf: 1},
		{Code: bpfReturn, K: bpfAll},
		{Code: bpfReturn, K: 0},
	}
}

// register subscribes to the exits on every CPU.
func (x *taskstatsExit) register(family uint16) error {
	cpus, err := os.ReadFile("/sys/devices/system/cpu/possible")
	if err != nil {
		return fmt.Errorf("read possible cpus: %w", err)
	}
	mask := strings.TrimSpace(string(cpus)) + "\x00"
	req := genlRequest(family, unix.NLM_F_ACK, 1, unix.TASKSTATS_CMD_GET, unix.TASKSTATS_GENL_VERSION,
		unix.TASKSTATS_CMD_ATTR_REGISTER_CPUMASK, []byte(mask))
	if err := unix.Sendto(x.fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("register for exits: %w", err)
	}
	var buf [8192]byte
	b, err := recv(x.fd, buf[:], 0)
	if err != nil {
		return fmt.Errorf("register for exits: %w", err)
	}
	for _, m := range messages(b) {
		if m.typ == unix.NLMSG_ERROR {
			if err := m.errno(); err != nil {
				return fmt.Errorf("register for exits on cpus %q: %w", strings.TrimSpace(string(cpus)), err)
			}
			return nil
		}
	}
	return errors.New("register for exits: no acknowledgement")
}

// stamp returns when the process exited; it has been waited for, so that the
// kernel's message is here or was lost.
func (x *taskstatsExit) stamp() (int64, bool) {
	var buf [8192]byte
	for {
		b, err := recv(x.fd, buf[:], unix.MSG_DONTWAIT)
		if errors.Is(err, unix.ENOBUFS) {
			continue
		}
		if err != nil {
			return 0, false
		}
		stats, _, err := parseStats(b)
		if err != nil || len(stats) < x.at.tgetime+8 {
			continue
		}
		age := int64(native.Uint64(stats[x.at.tgetime:])) * 1000
		return x.startNs + age + 500, true // rounded down to a whole µs: its middle
	}
}

func (x *taskstatsExit) source() Source { return SourceTaskstats }

func (x *taskstatsExit) close() { _ = unix.Close(x.fd) }
