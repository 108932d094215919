package audit

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/joulecloud/joule/settlement/journal"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

var update = flag.Bool("update", false, "write the data of this version anew; a released version's data never changes")

// The data that each version wrote is kept: a journal with every kind of
// command and entry, the snapshot at its end, and its digest. Every later
// version must read it, audit it and come to the same state.
func TestDataOfEveryVersion(t *testing.T) {
	if *update {
		writeFixture(t, filepath.Join("testdata", "version-1"))
	}
	dirs, err := filepath.Glob(filepath.Join("testdata", "version-*"))
	if err != nil || len(dirs) == 0 {
		t.Fatalf("got %q, %v, want the data of at least one version", dirs, err)
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			want, err := os.ReadFile(filepath.Join(dir, "digest.txt"))
			if err != nil {
				t.Fatal(err)
			}
			r := mustRun(t, filepath.Join(dir, "journal"))
			if !r.OK() || r.Note != "" {
				t.Errorf("got findings %v, verdicts %+v, note %q", r.Findings, r.Verdicts, r.Note)
			}
			if got := hex.EncodeToString(r.Digest[:]); got != strings.TrimSpace(string(want)) {
				t.Errorf("digest %s, want %s", got, want)
			}
			kept, err := os.ReadFile(filepath.Join(dir, "snapshot.bin"))
			if err != nil {
				t.Fatal(err)
			}
			restored, extra, err := wire.ReadSnapshot(bytes.NewReader(kept))
			if err != nil {
				t.Fatal(err)
			}
			if err := restored.Verify(); err != nil {
				t.Error(err)
			}
			replayed, kinds := replay(t, filepath.Join(dir, "journal"))
			for kind := ledger.KindCreateCustomer; kind <= ledger.KindTick; kind++ {
				if !kinds[kind] {
					t.Errorf("the journal has no command of kind %d", kind)
				}
			}
			// What this version writes of both is the same, whatever that looks like.
			if !bytes.Equal(snapshotOf(t, replayed, extra), snapshotOf(t, restored, extra)) {
				t.Error("the snapshot and the journal's commands give different states")
			}
		})
	}
}

func snapshotOf(t *testing.T, l *ledger.Ledger, extra []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := wire.WriteSnapshot(&b, l, extra); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// replay applies a journal's commands to a fresh ledger.
func replay(t *testing.T, dir string) (*ledger.Ledger, map[ledger.CommandKind]bool) {
	t.Helper()
	l, kinds := ledger.New(), map[ledger.CommandKind]bool{}
	for f, err := range journal.Scan(dir) {
		if err != nil {
			t.Fatal(err)
		}
		for i := range f.Block.Envelopes {
			kinds[f.Block.Envelopes[i].Command.Kind()] = true
			l.Apply(f.Block.Time, &f.Block.Envelopes[i])
		}
		l.TakeEntries()
	}
	return l, kinds
}

func writeFixture(t *testing.T, dir string) {
	t.Helper()
	w := fullScript()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(dir, "journal"), os.DirFS(write(t, w.blocks))); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "journal", "LOCK")); err != nil {
		t.Fatal(err)
	}
	digest := w.blocks[len(w.blocks)-1].Digest
	for name, content := range map[string][]byte{
		"snapshot.bin": snapshotOf(t, w.l, []byte("extra")),
		"digest.txt":   []byte(hex.EncodeToString(digest[:]) + "\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
