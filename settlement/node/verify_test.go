package node

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/joulecloud/joule/raftstore"
	"github.com/joulecloud/joule/settlement/journal"
	"github.com/joulecloud/joule/settlement/ledger"
)

// fullFS has every file that is opened for appending seem full, so that the
// next block begins another.
type fullFS struct{ journal.FS }

type fullFile struct{ journal.File }

func (fullFile) Size() (int64, error) { return 1 << 30, nil }

func (f fullFS) Append(path string) (journal.File, error) {
	file, err := f.FS.Append(path)
	return fullFile{file}, err
}

// A bit of the history that flipped where a start doesn't read is found while
// the server runs: it stops, says which file, and goes no further. An unharmed
// history is read to its end.
func TestHistoryIsVerifiedAfterTheStart(t *testing.T) {
	dir := t.TempDir()
	fatal := make(chan error, 1)
	open := func(fs journal.FS, after time.Duration) *Node {
		t.Helper()
		rc := raftstore.Default()
		rc.ID, rc.BindAddr = "s1", "127.0.0.1:0"
		rc.Bootstrap = []raftstore.Peer{{ID: "s1"}}
		rc.Fatal = func(err error) { fatal <- err }
		n, err := Open(Config{Raft: rc, DataDir: dir, JournalFS: fs, VerifyAfter: after}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	closed := func(n *Node) {
		t.Helper()
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	create := func(n *Node, name string) {
		t.Helper()
		if err := n.WaitLeader(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := n.Submit(t.Context(), ledger.Envelope{Key: name, Command: &ledger.CreateSupplier{Name: name}}); err != nil {
			t.Fatal(err)
		}
	}
	n := open(journal.OS, -1)
	create(n, "first")
	closed(n)
	n = open(fullFS{journal.OS}, -1)
	create(n, "second")
	closed(n)
	n = open(journal.OS, time.Nanosecond) // which also makes the first file's index
	for deadline := time.Now().Add(20 * time.Second); n.Counts().Verified == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing was verified")
		}
	}
	closed(n)

	files, err := filepath.Glob(filepath.Join(dir, "journal", "*.jl"))
	if err != nil || len(files) < 2 {
		t.Fatalf("got files %q, %v, want two", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-40] ^= 1
	if err := os.WriteFile(files[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	n = open(journal.OS, time.Nanosecond)
	select {
	case err := <-fatal:
		var corrupt *journal.CorruptError
		if !errors.As(err, &corrupt) || corrupt.File != files[0] || !strings.Contains(err.Error(), "no longer what was written") {
			t.Errorf("got %v, want damage in %s", err, files[0])
		}
	case <-time.After(20 * time.Second):
		t.Error("the server goes on")
	}
	if _, err := n.Submit(t.Context(), ledger.Envelope{Key: "third", Command: &ledger.CreateSupplier{Name: "third"}}); err == nil {
		t.Error("a command was taken")
	}
	closed(n)
}
