package wire

import (
	"crypto/ed25519"
	"crypto/sha256"
	"strconv"
)

// What hosts sign begins with a text of its own, so that a signature made for
// one purpose is worthless for another.
const (
	batchContext1  = "joule usage batch v1\x00" // followed by the whole batch
	batchContext   = "joule usage batch v2\x00" // followed by its SHA-256
	requestContext = "joule host request v1\x00"
	sessionContext = "joule session v1\x00"
)

// BatchSigningBytes is what the host key signs for an encoded batch. Ed25519
// goes over what it signs with SHA-512, twice when signing: of the batch itself
// that would be most of a signature's cost.
func BatchSigningBytes(batch []byte) []byte {
	sum := sha256.Sum256(batch)
	b := make([]byte, 0, len(batchContext)+len(sum))
	b = append(b, batchContext...)
	return append(b, sum[:]...)
}

// VerifyBatch reports whether the signature of an encoded batch is the key's.
// One of version 1, over the batch itself, counts too: journals hold them.
func VerifyBatch(key ed25519.PublicKey, batch, signature []byte) bool {
	if len(signature) != ed25519.SignatureSize {
		return false
	}
	return ed25519.Verify(key, BatchSigningBytes(batch), signature) ||
		ed25519.Verify(key, append([]byte(batchContext1), batch...), signature)
}

// OpenLeaseBody is the canonical text of an OpenLease request. Each part is
// preceded by its length, so that no two requests share a text.
func OpenLeaseBody(allocID, task, invocation string) string {
	var b []byte
	for _, s := range []string{allocID, task, invocation} {
		b = strconv.AppendInt(b, int64(len(s)), 10)
		b = append(b, ':')
		b = append(b, s...)
		b = append(b, '\n')
	}
	return string(b)
}

// CloseLeaseBody is the canonical text of a CloseLease request.
func CloseLeaseBody(leaseID uint64) string { return strconv.FormatUint(leaseID, 10) }

// HostRequestSigningBytes is what the host key signs for a unary request.
// Neither method nor host may contain a zero byte.
func HostRequestSigningBytes(method, host string, unixMs int64, body string) []byte {
	b := make([]byte, 0, len(requestContext)+len(method)+len(host)+len(body)+24)
	b = append(b, requestContext...)
	b = append(b, method...)
	b = append(b, 0)
	b = append(b, host...)
	b = append(b, 0)
	b = strconv.AppendInt(b, unixMs, 10)
	b = append(b, 0)
	return append(b, body...)
}

// SessionSigningBytes is what the host key signs to prove itself in a session.
// nonce is 32 bytes, incarnation 16; host may not contain a zero byte.
func SessionSigningBytes(nonce []byte, host string, incarnation []byte) []byte {
	b := make([]byte, 0, len(sessionContext)+len(nonce)+len(host)+1+len(incarnation))
	b = append(b, sessionContext...)
	b = append(b, nonce...)
	b = append(b, host...)
	b = append(b, 0)
	return append(b, incarnation...)
}
