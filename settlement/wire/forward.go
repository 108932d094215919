package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/joulecloud/joule/settlement/ledger"
)

const resultsVersion = 1

// AppendResults appends the results of a command batch, for the server that
// handed the batch to the leader.
func AppendResults(dst []byte, results []ledger.Result) []byte {
	dst = append(dst, resultsVersion)
	dst = appendU32(dst, uint32(len(results)))
	for i := range results {
		dst = appendResult(dst, &results[i])
	}
	return dst
}

// DecodeResults is the inverse of AppendResults.
func DecodeResults(b []byte) ([]ledger.Result, error) {
	d := decoder{what: "results", b: b}
	d.version("version", resultsVersion)
	n := d.count("results", resultSizeMin)
	if d.err != nil {
		return nil, d.err
	}
	results := make([]ledger.Result, n)
	d.push("results")
	for i := 0; i < n && d.err == nil; i++ {
		d.at(i)
		d.result(&results[i])
	}
	d.pop()
	if err := d.end(); err != nil {
		return nil, err
	}
	return results, nil
}

// StampCommandBatch sets the time of an encoded command batch in place.
func StampCommandBatch(encoded []byte, t ledger.Time) error {
	if len(encoded) < 1+8 || encoded[0] != commandBatchVersion {
		return fmt.Errorf("stamp command batch of %d bytes: %w", len(encoded), ErrUnknownVersion)
	}
	binary.LittleEndian.PutUint64(encoded[1:], uint64(t))
	return nil
}
