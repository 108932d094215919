// Package hostd is a host's daemon: it opens leases, has shims run their tasks,
// meters them, spools usage records and keeps the sessions to the settlement
// servers. The Nomad plugin and the CLI speak to it over hostapi.
//
// It outlives the plugin, and the tasks outlive it: they belong to their shims.
// A hostd that was killed finds everything again from three places, each
// written before it is acted on:
//
//   - <data_dir>/tasks/<hash>/task.json: what was asked for, and the lease;
//   - the files of the shim in the same directory: when the task started and
//     how it ended, by the kernel's own stamps;
//   - <data_dir>/spool.db: unacknowledged records and, in the same transaction
//     as each record, the meter that produced it. So sequence, hash chain and
//     totals always agree.
//
// One hostd runs per data directory: Run holds a lock on it.
package hostd
