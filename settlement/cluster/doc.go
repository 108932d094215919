// Package cluster makes several settlement servers one cluster: it finds the
// others at a first start and agrees with them on who begins, joins a cluster
// that is there, carries commands and read points to the leader, copies the
// journal, and watches the others: who lives, how far they are, and whether
// their history and state are the same as this server's.
//
// Servers speak PeerService over HTTP/2 on the port that Raft uses
// (raftstore.Mux), with the same certificates. Raft's own configuration says
// where the others are, so nothing else has to be announced: not even the
// leader's address for forwarded commands. At which URL clients reach a server
// is told in its description.
//
// It knows nothing of the ledger's rules and of the API.
package cluster
