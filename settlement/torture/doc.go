// Package torture runs three real settlement servers under load, each in a
// network namespace of its own, and breaks them: kill -9 of one or all, SIGSTOP
// for up to half a minute, links that lose everything one way, a full disk,
// restarts. After each round everything is healed and checked:
//
//   - every call is answered in the end, and each account's history of deposits,
//     withdrawals and reads is linearizable (porcupine);
//   - every usage record that the hosts put in their spools is settled, while their
//     daemons, too, die and come back; every server's leases have what each host
//     recorded last, no more and no less, and no host is told to stop a task;
//   - every server has the same digest at the same entry;
//   - every server's journal passes the audit and holds every acknowledged
//     command once, with its money moved once.
//
// ROUNDS says how many rounds (make torture: 200), TORTURE_SEED which ones.
// The hosts' side is the real spool and the real sessions; Nomad's answers come
// from a stand-in, since its agents are tried in cli/e2e. It needs root, for the
// namespaces and the disk; they are removed with everything else.
package torture
