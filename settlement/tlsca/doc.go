// Package tlsca makes and loads the certificates of a settlement cluster: a
// certificate authority of its own, one certificate per server.
//
// A server's certificate carries the name ServerRole beside the names and
// addresses at which clients reach it. Between servers it is the role that is
// checked, on both sides, and not the address: a server may move, and a
// certificate that the same authority made for something else opens nothing.
//
// Private keys are files of mode 0600; existing files are never overwritten.
package tlsca
