package audit

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/joulecloud/joule/settlement/ledger"
)

// A digest that does not follow from the block and the one before is found,
// also where the frame's checksum was made right again.
func TestForgedDigest(t *testing.T) {
	dir := write(t, script().blocks)
	paths, err := filepath.Glob(filepath.Join(dir, "*.jl"))
	if err != nil || len(paths) != 1 {
		t.Fatalf("got files %q, %v, want one", paths, err)
	}
	b, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	const header = 16 + 8 + len(ledger.Digest{}) + 4
	size := int(binary.LittleEndian.Uint32(b[header:]))
	payload := b[header+8 : header+8+size]
	payload[size-1] ^= 1 // of the digest, which stands last
	table := crc32.MakeTable(crc32.Castagnoli)
	crc := crc32.Update(crc32.Checksum(b[header:header+4], table), table, payload)
	binary.LittleEndian.PutUint32(b[header+4:], crc)
	if err := os.WriteFile(paths[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := found(mustRun(t, dir)); !slices.Contains(got, CheckChain) {
		t.Errorf("got findings of %q, want one of %q", got, CheckChain)
	}
}
