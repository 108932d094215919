package journal

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// Whatever stands in a journal's files, reading them ends in blocks that follow
// one another or in an error that says where; opening them for writing serves
// nothing else and can be gone on from.
func FuzzSegment(f *testing.F) {
	c := new(chain).fill(5)
	whole := appendHeader(nil, 1, ledger.Digest{})
	for i := range c.blocks {
		whole = appendFrame(whole, c.encoded[i])
	}
	mark := func(seq byte) []byte {
		b := []byte{seq, 0, 0, 0, 0, 0, 0, 0}
		return append(b, 0, 0, 0, 0)
	}
	f.Add(whole, []byte(nil))
	f.Add(whole, mark(3))
	f.Add(whole[:len(whole)-9], mark(2))
	f.Add(whole[:headerSize-3], []byte(nil))
	f.Add(whole[:headerSize], []byte(nil))
	f.Add([]byte(magic), []byte("synced"))
	zeros := append([]byte(nil), whole[:len(whole)/2]...)
	f.Add(append(zeros, make([]byte, 100)...), mark(1))
	f.Fuzz(func(t *testing.T, segment, synced []byte) {
		dir := t.TempDir()
		if err := errors.Join(os.WriteFile(filepath.Join(dir, segmentName(1)), segment, 0o600),
			os.WriteFile(filepath.Join(dir, syncedName), synced, 0o600)); err != nil {
			t.Fatal(err)
		}
		var scanned []ledger.Digest
		for fr, err := range Scan(dir) {
			var corrupt *CorruptError
			var torn *TornError
			if err != nil {
				if !errors.As(err, &corrupt) && !errors.As(err, &torn) && !errors.Is(err, wire.ErrUnknownVersion) {
					t.Fatalf("scan: got %v, want an error that names the place", err)
				}
				break
			}
			scanned = append(scanned, fr.Block.Digest)
		}
		j, err := Open(dir)
		if err != nil {
			return
		}
		defer j.Close()
		last, digest := j.Last()
		if last > uint64(len(scanned)) || last > 0 && digest != scanned[last-1] {
			t.Fatalf("open serves block %d with digest %x, a scan gives %d blocks", last, digest, len(scanned))
		}
		for b, err := range j.Blocks(0) {
			if err != nil {
				t.Fatalf("block %d of %d: %v", b.Seq, last, err)
			}
		}
		if last < uint64(len(c.blocks)) && (last == 0 || digest == c.blocks[last-1].Digest) {
			mustAppend(t, j, c, int(last), len(c.blocks))
		}
	})
}
