package server_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/journal"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/node"
	"github.com/joulecloud/joule/settlement/nomad"
	"github.com/joulecloud/joule/settlement/server"
	"github.com/joulecloud/joule/settlement/wire"
)

// plainNode is the real ledger and the real journal without a replicated log
// between, so that a fuzzer gets through many calls.
type plainNode struct {
	mu      sync.Mutex
	ledger  *ledger.Ledger
	journal *journal.Journal
	block   uint64
	digest  ledger.Digest
	clock   ledger.Time
}

func newPlainNode(dir string) (*plainNode, error) {
	j, err := journal.Open(filepath.Join(dir, "journal"))
	return &plainNode{ledger: ledger.New(), journal: j, clock: 1_800_000_000_000}, err
}

func (n *plainNode) Submit(_ context.Context, env ledger.Envelope) (ledger.Result, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.clock++
	if batch, ok := env.Command.(*wire.SignedBatch); ok {
		cmd := &ledger.UsageBatch{Signature: batch.Signature}
		if err := wire.DecodeBatch(batch.Batch, cmd); err != nil {
			return ledger.Result{}, err
		}
		env.Command = cmd
	}
	res := n.ledger.Apply(n.clock, &env)
	res.Records = slices.Clone(res.Records)
	n.block++
	b := wire.Block{Seq: n.block, Index: n.block, Time: n.ledger.Now(), Envelopes: []ledger.Envelope{env},
		Results: []ledger.Result{res}, Entries: n.ledger.TakeEntries()}
	encoded := wire.AppendBlock(nil, n.digest, &b)
	n.digest = b.Digest
	return res, n.journal.Append(encoded, &b)
}

func (n *plainNode) Read(ctx context.Context, fn func(*ledger.Ledger) error) error {
	return n.ReadDigest(ctx, func(l *ledger.Ledger, _ ledger.Digest) error { return fn(l) })
}

func (n *plainNode) ReadDigest(_ context.Context, fn func(*ledger.Ledger, ledger.Digest) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return fn(n.ledger, n.digest)
}

func (n *plainNode) Status() node.Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	return node.Status{Leader: true, AppliedIndex: n.block, Entries: n.ledger.EntryCount(), Digest: n.digest, LedgerTime: n.ledger.Now(), Policy: n.ledger.Policy()}
}

func (n *plainNode) Sums() (usd, joule int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ledger.Sums()
}

// Whatever bytes come to whatever procedure, in either encoding, the answer is
// none of "internal error"; an answer that is an error has changed nothing; and
// the ledger's books still balance.
func FuzzAPI(f *testing.F) {
	fix := &fixture{offence: &joulev1.Evidence{Entry: 30, Hash: make([]byte, 16)}, chargeEntry: 20, key: make([]byte, 64)}
	good := fix.good()
	for i, g := range good {
		b, err := proto.Marshal(g.req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), false, b)
		if b, err = protojson.Marshal(g.req); err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), true, b)
	}
	n, err := newPlainNode(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { n.journal.Close() })
	cfg := server.Default()
	cfg.Name = "s1"
	allocs := &allocations{tasks: map[string]*nomad.Task{"a1": {Namespace: "acme", Job: "job", Group: "group", Name: "main", Host: "h1", MilliCores: 2000, MemoryMiB: 64}}}
	handler := server.New(cfg, n, n.journal, allocs, slog.New(slog.DiscardHandler)).Handler()
	post := func(procedure, kind string, body []byte) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodPost, procedure, strings.NewReader(string(body)))
		r.RemoteAddr = "127.0.0.1:1"
		r.Header.Set("Content-Type", kind)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w
	}
	for _, g := range good { // a world in which most things exist
		b, err := proto.Marshal(g.req)
		if err != nil {
			f.Fatal(err)
		}
		post(g.procedure(), "application/proto", b)
	}
	f.Fuzz(func(t *testing.T, which byte, inJSON bool, body []byte) {
		g := good[int(which)%len(good)]
		kind := "application/proto"
		if inJSON {
			kind = "application/json"
		}
		before := n.Status().Entries
		w := post(g.procedure(), kind, body)
		if w.Code == http.StatusInternalServerError {
			t.Errorf("%s with %q: HTTP status %d, %s", g.name, body, w.Code, w.Body)
		}
		if after := n.Status().Entries; w.Code != http.StatusOK && after != before {
			t.Errorf("%s with %q: it was refused (%s) and made entries %d to %d", g.name, body, w.Body, before+1, after)
		}
		if usd, joule := n.ledger.Sums(); usd != 0 || joule != 0 {
			t.Errorf("%s with %q: the balances sum to %d and %d", g.name, body, usd, joule)
		}
	})
}
