package audit

import (
	"reflect"
	"slices"
	"testing"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// A forger changes bytes of one block and makes every checksum and digest from
// there on right again. Where that changes what happened, the audit finds it;
// it never panics and never gives up without a word.
func FuzzForgedBlock(f *testing.F) {
	blocks := script().blocks
	f.Add(uint8(0), uint16(0), []byte{1})
	f.Add(uint8(3), uint16(40), []byte{1, 0, 0, 0, 0, 0, 0, 0x80})
	f.Add(uint8(9), uint16(90), []byte{0xff})
	f.Add(uint8(200), uint16(300), []byte{7, 7, 7, 7})
	f.Fuzz(func(t *testing.T, which uint8, at uint16, xor []byte) {
		n := int(which) % len(blocks)
		original := *blocks[n]
		encoded := wire.AppendBlock(nil, ledger.Digest{}, &original)
		content := encoded[:len(encoded)-len(ledger.Digest{})]
		for i, x := range xor {
			content[(int(at)+i)%len(content)] ^= x
		}
		forged, err := wire.DecodeBlock(encoded)
		if err != nil {
			return // no block at all: a damaged file, which package journal finds
		}
		chain := slices.Clone(blocks)
		chain[n] = forged
		report, err := Run(t.Context(), write(t, chain))
		if err != nil {
			return // said so
		}
		again := *blocks[n]
		same := reflect.DeepEqual(forged.Entries, again.Entries) && reflect.DeepEqual(forged.Results, again.Results) &&
			reflect.DeepEqual(forged.Envelopes, again.Envelopes) && forged.Seq == again.Seq && forged.Time == again.Time
		if !same && report.OK() {
			t.Errorf("block %d was forged and the audit finds nothing", n+1)
		}
	})
}
