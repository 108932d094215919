package ledger

import (
	"bytes"
	"strings"
	"testing"
)

func TestArenaKeepsItsTexts(t *testing.T) {
	var a arena
	type kept struct {
		at    textRef
		texts []string
	}
	var all []kept
	for i := range 5000 {
		texts := []string{strings.Repeat("x", i%300), "", strings.Repeat("y", i*7%65)}
		if i == 1000 {
			texts[1] = strings.Repeat("z", textMax) // a record beyond a chunk
		}
		var record []byte
		for _, s := range texts {
			record = appendText(record, s)
		}
		all = append(all, kept{a.add(record), texts})
		if !bytes.HasPrefix(a.from(all[i].at), record) {
			t.Fatalf("record %d is another", i)
		}
	}
	if len(a.chunks) < 3 {
		t.Fatalf("got %d chunks, want several", len(a.chunks))
	}
	for i, k := range all {
		for n, want := range k.texts {
			if got := a.text(k.at, n); string(got) != want || cap(got) != len(got) {
				t.Fatalf("record %d, text %d: got %d bytes (of %d), want %d", i, n, len(got), cap(got), len(want))
			}
		}
	}
}
