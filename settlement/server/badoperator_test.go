package server_test

import (
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
	"github.com/joulecloud/joule/settlement/client"
)

func (f *fixture) operators(token string) joulev1connect.OperatorServiceClient {
	f.t.Helper()
	c, err := client.DialOperator(f.url, "", client.WithToken(token))
	f.ok(err)
	return c
}

// Removing a server is refused to whom it is not for, and where it would take
// the cluster's majority; nothing else happens.
func TestBadRemovals(t *testing.T) {
	f := start(t)
	f.world()
	tokens := f.withTokens()
	f.srv.NoLimitOnRate()
	before := f.state(false)
	m := procedures(t)[joulev1connect.OperatorServiceRemovePeerProcedure]
	f.garbage(joulev1connect.OperatorServiceRemovePeerProcedure, tokens["alice"], true)
	hostile(&joulev1.RemovePeerRequest{Peer: "s1"}, func(field string, bad proto.Message) {
		if _, err := f.call(joulev1connect.OperatorServiceRemovePeerProcedure, m, bad, tokens["alice"]); !typed(err) {
			t.Errorf("a hostile %s: got %T %v, want a typed error", field, err, err)
		}
	})
	for _, tc := range []struct {
		token, peer string
		want        joulev1.ErrorReason
	}{
		{"", "s1", joulev1.ErrorReason_ERROR_REASON_UNAUTHENTICATED},
		{tokens["c1"], "s1", joulev1.ErrorReason_ERROR_REASON_FORBIDDEN},
		{tokens["s1"], "s1", joulev1.ErrorReason_ERROR_REASON_FORBIDDEN},
		{tokens["alice"], "", joulev1.ErrorReason_ERROR_REASON_INVALID},
		{tokens["alice"], strings.Repeat("x", 300), joulev1.ErrorReason_ERROR_REASON_INVALID},
		{tokens["alice"], "s9", joulev1.ErrorReason_ERROR_REASON_NOT_FOUND},
		{tokens["alice"], "s1", joulev1.ErrorReason_ERROR_REASON_CONFLICT}, // the only one
	} {
		if _, err := f.operators(tc.token).RemovePeer(t.Context(), &joulev1.RemovePeerRequest{Peer: tc.peer}); reason(err) != tc.want {
			t.Errorf("removing %.10q: got %v, want %v", tc.peer, err, tc.want)
		}
	}
	if now := f.state(false); now != before {
		t.Errorf("refused removals changed the ledger from %s to %s", before, now)
	}
}

// Backups are neither given to nor taken from whom they are not for; what is no
// backup, or comes where there is a history, is refused by its kind, leaves no
// file behind and changes nothing.
func TestBadOperatorStreams(t *testing.T) {
	f := start(t)
	f.world()
	tokens := f.withTokens()
	before := f.state(false)
	save := func(token string) (int, error) {
		s, err := f.operators(token).SaveSnapshot(t.Context(), &joulev1.SaveSnapshotRequest{})
		f.ok(err)
		n := 0
		for s.Receive() {
			n += len(s.Msg().Chunk)
		}
		return n, client.Rebuild(f.url, errors.Join(s.Err(), s.Close()))
	}
	restore := func(token string, chunks ...[]byte) error {
		s, err := f.operators(token).RestoreSnapshot(t.Context())
		f.ok(err)
		for _, c := range chunks {
			if s.Send(&joulev1.RestoreSnapshotRequest{Chunk: c}) != nil {
				break // the answer says why
			}
		}
		_, err = s.CloseAndReceive()
		return client.Rebuild(f.url, err)
	}
	for _, tc := range []struct {
		token string
		want  joulev1.ErrorReason
	}{
		{"", joulev1.ErrorReason_ERROR_REASON_UNAUTHENTICATED}, {"joule-wrong", joulev1.ErrorReason_ERROR_REASON_UNAUTHENTICATED},
		{tokens["c1"], joulev1.ErrorReason_ERROR_REASON_FORBIDDEN}, {tokens["s1"], joulev1.ErrorReason_ERROR_REASON_FORBIDDEN},
	} {
		if n, err := save(tc.token); n != 0 || reason(err) != tc.want {
			t.Errorf("a backup for %.8q: got %d bytes, %v, want %v", tc.token, n, err, tc.want)
		}
		if err := restore(tc.token, []byte("x")); reason(err) != tc.want {
			t.Errorf("a restore by %.8q: got %v, want %v", tc.token, err, tc.want)
		}
	}
	if n, err := save(tokens["alice"]); n == 0 || err != nil {
		t.Errorf("a backup for an operator: got %d bytes, %v", n, err)
	}
	if err := restore(tokens["alice"], []byte("x")); reason(err) != joulev1.ErrorReason_ERROR_REASON_EXISTS {
		t.Errorf("a restore where there is a history: got %v", err)
	}
	for _, body := range []string{"\xff", "\x00\x00\x00\x00\x02\xff\xff", "\x00\xff\xff\xff\xff", "\x00\x00\x10\x00\x00" + strings.Repeat("x", 1<<20)} {
		for _, p := range []string{joulev1connect.OperatorServiceSaveSnapshotProcedure, joulev1connect.OperatorServiceRestoreSnapshotProcedure} {
			status, answer := f.post(p, "application/connect+proto", body, tokens["alice"])
			if status != http.StatusOK || !strings.Contains(answer, `"joule.v1.Error"`) {
				t.Errorf("%s with %.10q: got HTTP status %d, %.200q, want a typed error at the stream's end", p, body, status, answer)
			}
		}
	}
	if now := f.state(false); now != before {
		t.Errorf("refused backups changed the ledger from %s to %s", before, now)
	}

	// A server without history takes a backup, and nothing that is none.
	f = start(t)
	before = f.state(false)
	for _, chunks := range [][][]byte{nil, {nil}, {[]byte("no backup")}, {make([]byte, 1<<20)}} {
		if err := restore("", chunks...); reason(err) != joulev1.ErrorReason_ERROR_REASON_INVALID {
			t.Errorf("%d chunks that are no backup: got %v", len(chunks), err)
		}
	}
	if now := f.state(false); now != before {
		t.Errorf("what is no backup changed the ledger from %s to %s", before, now)
	}
	left, err := filepath.Glob(filepath.Join(f.tmp, "*"))
	f.ok(err)
	if len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
