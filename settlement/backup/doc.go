// Package backup is the file that `joule operator snapshot save` makes: a
// gzipped tar archive with everything a cluster knows at one block.
//
//	meta.json            what it is, see Meta
//	state                the ledger's snapshot, as package wire writes it
//	journal/00000001 …   the blocks from the first to the last, each with its
//	                     length (uint32, little-endian) before it
//	SHA256SUMS           the sums of all the others, as sha256sum(1) reads them
//
// The journal is in it because bills, statements and audits are made from it: a
// cluster that came back with balances alone could prove none of them.
//
// Reading checks everything: the sums, that the blocks follow from one another
// from the first on, that the last one's digest is the state's, and that the
// state's money adds up.
package backup
