package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"hash/crc64"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/joulecloud/joule/raftstore"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// future is a batch with a command of a kind that no program has yet, as a
// newer server would put it into the log.
func future(t *testing.T) []byte {
	t.Helper()
	b := wire.AppendCommandBatch(nil, &wire.CommandBatch{Envelopes: []ledger.Envelope{{Key: "newer", Command: &ledger.CreateSupplier{Name: "lab"}}}})
	// The kind stands behind the version, the time and the count.
	for at := range len(b) - 1 {
		if b[at] == byte(ledger.KindCreateSupplier) && b[at+1] == 0 {
			changed := bytes.Clone(b)
			changed[at], changed[at+1] = 0xe7, 0x03
			var out wire.CommandBatch
			if errors.Is(wire.DecodeCommandBatch(changed, &out), wire.ErrUnknownVersion) {
				return changed
			}
		}
	}
	t.Fatal("the command's kind was not found in its batch")
	return nil
}

// A command that only a newer program knows stops an older server when it meets
// it in the log, in flight and at every start after; a follower that would have
// it done is told at once that nothing has happened.
func TestUnknownCommandHaltsTheServer(t *testing.T) {
	dir := t.TempDir()
	n, fatal := open(t, dir)
	if _, err := n.ProposeBatch(t.Context(), future(t)); !errors.Is(err, ErrNotUnderstood) || !strings.Contains(err.Error(), "upgrade it") {
		t.Errorf("proposed by a newer server: got %v, want %v", err, ErrNotUnderstood)
	}
	if res, err := n.Submit(t.Context(), ledger.Envelope{Key: "k1", Command: &ledger.CreateSupplier{Name: "goes-on"}}); err != nil || res.Code != ledger.CodeOK {
		t.Fatalf("after a proposal that it doesn't know: got %+v, %v", res, err)
	}
	if _, _, err := n.Store().Propose(t.Context(), future(t)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		select {
		case err := <-fatal:
			if !errors.Is(err, wire.ErrUnknownVersion) || !strings.Contains(err.Error(), "999") || !strings.Contains(err.Error(), "upgrade this node") {
				t.Errorf("got %v, want the kind 999 and the advice to upgrade", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the server goes on")
		}
		if err := n.Read(WithConsistency(t.Context(), Stale), func(*ledger.Ledger) error { return nil }); !errors.Is(err, ErrFailed) {
			t.Errorf("read: got %v, want %v", err, ErrFailed)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		n, fatal = open(t, dir)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

// A snapshot of a later version keeps a server from starting, with a word on
// what to do, and stays as it is.
func TestUnknownSnapshotHaltsTheServer(t *testing.T) {
	dir := t.TempDir()
	n, _ := open(t, dir)
	if res, err := n.Submit(t.Context(), ledger.Envelope{Key: "k1", Command: &ledger.CreateSupplier{Name: "lab"}}); err != nil || res.Code != ledger.CodeOK {
		t.Fatalf("got %+v, %v", res, err)
	}
	if err := n.Store().TakeSnapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "raft", "snapshots", "*", "meta.json"))
	if err != nil || len(found) != 1 {
		t.Fatalf("got snapshots %q, %v", found, err)
	}
	stateFile := filepath.Join(filepath.Dir(found[0]), "state.bin")
	state, err := os.ReadFile(stateFile)
	if err != nil {
		t.Fatal(err)
	}
	const magic = "JOULESNP"
	state[bytes.Index(state, []byte(magic))+len(magic)] = 0xee
	var meta map[string]any
	text, err := os.ReadFile(found[0])
	if err == nil {
		err = json.Unmarshal(text, &meta)
	}
	if err != nil {
		t.Fatal(err)
	}
	sum := crc64.New(crc64.MakeTable(crc64.ECMA))
	sum.Write(state)
	meta["CRC"] = sum.Sum(nil)
	if text, err = json.Marshal(meta); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(stateFile, state, 0o600), os.WriteFile(found[0], text, 0o600),
		os.Remove(filepath.Join(filepath.Dir(found[0]), "meta.sum"))); err != nil {
		t.Fatal(err)
	}
	rc := raftstore.Default()
	rc.ID, rc.BindAddr, rc.Fatal = "s1", "127.0.0.1:0", func(err error) { t.Logf("fatal: %v", err) }
	for range 2 {
		n, err := Open(Config{Raft: rc, DataDir: dir}, slog.New(slog.DiscardHandler))
		if err == nil {
			n.Close()
		}
		if !errors.Is(err, wire.ErrUnknownVersion) || !strings.Contains(err.Error(), "upgrade this node") {
			t.Errorf("got %v, want the advice to upgrade", err)
		}
	}
	if left, err := os.ReadFile(stateFile); err != nil || !bytes.Equal(left, state) {
		t.Errorf("the snapshot was changed: %v", err)
	}
}
