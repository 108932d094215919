// Package shim is the process that holds one task: it outlives the plugin and
// hostd, has the OCI runtime create the container, learns from the kernel when
// the task's first process executed and exited, and leaves the wait status and
// the last counters on disk before anything acts on them.
//
// Main is the process; Launch and Attach are hostd's side of it. The two share
// only the files of the task's directory (contract.go): there is no socket, so
// neither has to be alive for the other to be right.
package shim
