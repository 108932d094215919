package cluster_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/joulecloud/joule/settlement/cluster"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/node"
	"github.com/joulecloud/joule/settlement/wire"
)

// forge gives a stopped server's newest snapshot 100 USD more on acme's
// account, with all checksums right, as a fault in memory would have left it.
func forge(t *testing.T, dir string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "raft", "snapshots", "*", "meta.json"))
	if err != nil || len(found) == 0 {
		t.Fatalf("find the snapshot: %v, %v", found, err)
	}
	snap := filepath.Dir(found[len(found)-1])
	state, err := os.ReadFile(filepath.Join(snap, "state.bin"))
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(state, []byte("JOULESNP"))
	l, extra, err := wire.ReadSnapshot(bytes.NewReader(state[at:]))
	if err != nil {
		t.Fatal(err)
	}
	st := l.State()
	acme, ok := l.AccountByName("customer/acme", ledger.USD)
	external, ok2 := l.AccountByName("external", ledger.USD)
	if !ok || !ok2 {
		t.Fatal("an account is not there")
	}
	balances := st.Balances.Rows
	st.Balances.Rows = func(yield func(*int64) bool) {
		id := ledger.AccountID(0)
		for balance := range balances {
			id++
			forged := *balance
			switch id {
			case acme.ID:
				forged += 100e9
			case external.ID:
				forged -= 100e9
			}
			if !yield(&forged) {
				return
			}
		}
	}
	out := bytes.NewBuffer(bytes.Clone(state[:at]))
	if err := wire.WriteState(out, st, extra); err != nil {
		t.Fatal(err)
	}
	var meta map[string]any
	text, err := os.ReadFile(filepath.Join(snap, "meta.json"))
	if err == nil {
		err = json.Unmarshal(text, &meta)
	}
	if err != nil {
		t.Fatal(err)
	}
	sum := crc64.Checksum(out.Bytes(), crc64.MakeTable(crc64.ECMA))
	meta["CRC"], meta["Size"] = []byte{byte(sum >> 56), byte(sum >> 48), byte(sum >> 40), byte(sum >> 32), byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)}, out.Len()
	if text, err = json.Marshal(meta); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(snap, "state.bin"), out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(snap, "meta.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(snap, "meta.sum")); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
}

func (b *boxes) submit(i int, key string, cmd ledger.Command) ledger.Result {
	b.t.Helper()
	var res ledger.Result
	b.eventually(key, func() (err error) {
		res, err = b.all[i].node.Submit(b.t.Context(), ledger.Envelope{Key: key, Command: cmd})
		return err
	})
	return res
}

// A server whose memory is not the others' stops and says what differs: by the
// next hash over the whole state, or by the first command that it answers
// differently, whichever comes first; where no command comes at all, by the
// time that passes. The others go on.
func TestDivergedServerStops(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		every uint64 // blocks between hashes of the state
		idle  time.Duration
		want  string
	}{
		{"by a hash of the state", 4, time.Hour, "the state of this server at block"},
		{"by an answer", 1 << 40, time.Hour, "the history of this server at block"},
		{"by time", 1 << 40, 100 * time.Millisecond, "the state of this server at block"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBoxes(t, 3, func(_ *cluster.Config, n *node.Config) { n.StateHashEvery, n.StateHashInterval = c.every, c.idle })
			b.submit(0, "c", &ledger.CreateCustomer{Name: "acme", Namespace: "acme", PayIn: ledger.USD})
			b.submit(0, "d", &ledger.Deposit{Customer: "acme", Currency: ledger.USD, Amount: 5e9, Ref: "r"})
			b.same()
			bad := (b.leader() + 1) % 3
			if err := b.all[bad].node.Store().TakeSnapshot(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.close(bad)
			forge(t, b.all[bad].dir)
			b.start(bad, false)
			good := (bad + 1) % 3
			b.eventually("lead or follow", func() error { return b.all[bad].node.Read(t.Context(), func(*ledger.Ledger) error { return nil }) })
			if c.idle < time.Hour {
				err := b.told(bad)
				if !strings.Contains(err.Error(), "diverged") || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want %q", err, c.want)
				}
				b.quiet(bad)
				b.put(good, "goes-on")
				return
			}
			res := b.submit(good, "w", &ledger.Withdraw{Party: ledger.PartyCustomer, Name: "acme", Currency: ledger.USD, Amount: 50e9, Ref: "r"})
			if res.Code != ledger.CodeInsufficient {
				t.Fatalf("got %+v, want a refusal", res)
			}
			for _, name := range []string{"p", "q", "r", "s"} {
				b.put(good, name)
			}
			err := b.told(bad)
			if !strings.Contains(err.Error(), "diverged") || !strings.Contains(err.Error(), "of this server at block") {
				t.Errorf("got %v", err)
			}
			if c.every == 1<<40 && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			b.quiet(bad)
			b.put(good, "goes-on")
			b.eventually("see it as apart", func() error {
				p := b.peer(b.leader(), b.all[bad].id)
				if p.Healthy || !strings.Contains(p.Problem, "is not this server's") {
					return fmt.Errorf("%+v", p)
				}
				return nil
			})
		})
	}
}
