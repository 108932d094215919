// Package torture runs three real settlement servers under load, each in a
// network namespace of its own, and breaks them: kill -9 of one or all, SIGSTOP
// for up to half a minute, links that lose everything one way, restarts. After
// each round everything is healed and checked:
//
//   - every call is answered in the end, and each account's history of deposits,
//     withdrawals and reads is linearizable (porcupine);
//   - every server has the same digest at the same entry;
//   - every server's journal passes the audit and holds every acknowledged
//     command once, with its money moved once.
//
// ROUNDS says how many rounds (make torture: 200), TORTURE_SEED which ones.
// It needs root, for the namespaces; they are removed with everything else.
package torture
