// Package procevent learns from the kernel when a process executed and when it
// exited, on CLOCK_MONOTONIC. A process that waits learns of an exit when it
// gets a core, which under load is milliseconds later; a bill must not contain
// them (rule U5).
//
// The truth is what tracepoints sched_process_exec and sched_process_exit show
// of the process, and for the exit of its last thread. Measured against them on
// a machine with 2 cores (Linux 6.18) under four busy loops, 200 runs for each
// of the first three and 20 for the others:
//
//	what                              median     worst
//	exec, process connector           0.7 µs     38 µs
//	exit, BPF on the raw tracepoint   1.2 µs     38 µs
//	exit, taskstats                    11 µs     71 µs
//	exit, process connector           0.6 ms    5.7 ms
//	exec, our own clock               7.1 ms     24 ms   (it does not know the moment)
//	exit, our own clock after wait4   0.7 ms    5.0 ms
//
// So exits come from the first of these that works: BPF (CAP_BPF and
// CAP_PERFMON, Linux 5.8), taskstats (CAP_NET_ADMIN, Linux 5.19), the connector
// (CAP_NET_ADMIN), our own clock. The connector's exit event is late since the
// kernel sends it after it has torn down memory and namespaces. Execs come from
// the connector or our own clock. Stamps by our own clock say so.
//
// Nobody sleeps on an exit: who is woken by it takes the core from the process
// before the kernel is through with it. The stamp waits in a word (BPF) or in a
// socket's queue until the process has been waited for.
//
// The cost falls on every process of the host that exits: about 0.2 µs for each
// watcher by BPF, up to 1 µs by taskstats. Socket filters keep a watcher from
// being woken for other processes' events.
package procevent
