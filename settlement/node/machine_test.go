package node

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/joulecloud/joule/raftstore"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// open opens a lone node on dir; what it calls fatal goes to the channel.
func open(t *testing.T, dir string) (*Node, chan error) {
	t.Helper()
	fatal := make(chan error, 8)
	rc := raftstore.Default()
	rc.ID, rc.BindAddr = "s1", "127.0.0.1:0"
	rc.Bootstrap = []raftstore.Peer{{ID: "s1"}}
	rc.Fatal = func(err error) { fatal <- err }
	n, err := Open(Config{Raft: rc, DataDir: dir}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.WaitLeader(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n, fatal
}

// A log entry of a version that this server does not know stops it, with a word
// on what to do; nothing after it is applied, also after a restart.
func TestUnknownVersionHaltsTheServer(t *testing.T) {
	dir := t.TempDir()
	n, fatal := open(t, dir)
	env := ledger.Envelope{Key: "k1", Command: &ledger.CreateSupplier{Name: "lab"}}
	if res, err := n.Submit(t.Context(), env); err != nil || res.Code != ledger.CodeOK {
		t.Fatalf("got %+v, %v", res, err)
	}
	future := wire.AppendCommandBatch(nil, &wire.CommandBatch{})
	future[0] = 0xff
	if _, _, err := n.Store().Propose(t.Context(), future); err != nil {
		t.Fatal(err)
	}
	check := func(n *Node, fatal chan error) {
		t.Helper()
		select {
		case err := <-fatal:
			if !strings.Contains(err.Error(), "upgrade this node") || !errors.Is(err, wire.ErrUnknownVersion) {
				t.Errorf("got %v, want the advice to upgrade", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the server goes on")
		}
		env := ledger.Envelope{Key: "k2", Command: &ledger.CreateSupplier{Name: "other"}}
		if _, err := n.Submit(t.Context(), env); !errors.Is(err, ErrFailed) {
			t.Errorf("submit: got %v, want %v", err, ErrFailed)
		}
		if err := n.Read(t.Context(), func(*ledger.Ledger) error { return nil }); !errors.Is(err, ErrFailed) {
			t.Errorf("read: got %v, want %v", err, ErrFailed)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
	check(n, fatal)
	check(open(t, dir))
}
