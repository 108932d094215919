package cluster_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
	"github.com/joulecloud/joule/settlement/refusal"
)

// Whatever another server sends, it gets an error of the table; nothing gets
// into the log or the list of servers, and nobody stops.
func TestBadInputFromAnotherServer(t *testing.T) {
	t.Parallel()
	b := newBoxes(t, 3, nil)
	b.put(0, "lab")
	b.same()
	leader := b.leader()
	hc := &http.Client{Transport: &http.Transport{Protocols: new(http.Protocols), Dial: func(_, _ string) (net.Conn, error) {
		return b.all[leader].mux.DialPeer(t.Context(), b.all[leader].addr)
	}}}
	hc.Transport.(*http.Transport).Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(hc.CloseIdleConnections)
	url := "http://" + b.all[leader].addr
	peer := joulev1connect.NewPeerServiceClient(hc, url)
	state := func() string {
		block, digest := b.all[leader].node.Position()
		return fmt.Sprint(block, digest, b.all[leader].node.Store().Peers())
	}
	before := state()

	service := joulev1.File_joule_v1_peer_proto.Services().ByName("PeerService")
	for i := range service.Methods().Len() {
		m := service.Methods().Get(i)
		procedure := fmt.Sprintf("%s/%s/%s", url, service.FullName(), m.Name())
		for _, body := range []string{"\xff\xff\xff", "\x0a\x80", "\x0a" + strings.Repeat("\xff", 40), strings.Repeat("x", 3<<20)} {
			kind := "application/proto"
			if m.IsStreamingServer() || m.IsStreamingClient() {
				kind = "application/connect+proto"
			}
			resp, err := hc.Post(procedure, kind, strings.NewReader(body))
			if err != nil {
				t.Fatalf("%s: %v", m.Name(), err)
			}
			answer, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || !bytes.Contains(answer, []byte(`"joule.v1.Error"`)) || resp.StatusCode == http.StatusInternalServerError {
				t.Errorf("%s with %.10q: got HTTP status %d, %.200q, %v, want a typed error", m.Name(), body, resp.StatusCode, answer, err)
			}
		}
	}

	blocks := func(from, to uint64) error {
		s, err := peer.Blocks(t.Context(), &joulev1.BlocksRequest{From: from, To: to})
		if err != nil {
			return err
		}
		defer s.Close()
		for s.Receive() {
		}
		return s.Err()
	}
	propose := func(batch []byte) error {
		_, err := peer.Propose(t.Context(), &joulev1.ProposeRequest{Batch: batch})
		return err
	}
	join := func(id, name, addr string) error {
		_, err := peer.Join(t.Context(), &joulev1.JoinRequest{Id: id, Name: name, Address: addr})
		return err
	}
	remove := func(name string) error {
		_, err := peer.Remove(t.Context(), &joulev1.RemoveRequest{Peer: name})
		return err
	}
	restore := func() error {
		s, err := peer.Restore(t.Context())
		if err == nil {
			_, err = s.CloseAndReceive()
		}
		return err
	}
	malformed, invalid := joulev1.ErrorReason_ERROR_REASON_MALFORMED, joulev1.ErrorReason_ERROR_REASON_INVALID
	long := strings.Repeat("x", 300)
	for _, tc := range []struct {
		name string
		err  error
		want joulev1.ErrorReason
	}{
		{"no batch", propose(nil), malformed},
		{"a batch of zeros", propose(make([]byte, 100)), malformed},
		{"a batch of a later version", propose([]byte("\xff\xff\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00")), malformed},
		{"a batch that is too large for the node", propose(make([]byte, 1<<20+1)), malformed},
		{"blocks that are not there", blocks(1, 1<<60), invalid},
		{"a join without an id", join("", "x", "127.0.0.1:1"), invalid},
		{"a join with a long id", join(long, "x", "127.0.0.1:1"), invalid},
		{"a join with a long name", join("x", long, "127.0.0.1:1"), invalid},
		{"a join with a line in its name", join("x", "a\nb", "127.0.0.1:1"), invalid},
		{"a join without an address", join("x", "x", ""), invalid},
		{"a join of no address", join("x", "x", "nowhere"), invalid},
		{"nobody's removal", remove(""), invalid},
		{"the removal of a long name", remove(long), invalid},
		{"the removal of a stranger", remove("s9"), joulev1.ErrorReason_ERROR_REASON_NOT_FOUND},
		{"a backup where there is a history", restore(), joulev1.ErrorReason_ERROR_REASON_EXISTS},
		{"a join at another server's address", join("x", "x", b.all[(leader+1)%3].addr), joulev1.ErrorReason_ERROR_REASON_UNAVAILABLE},
	} {
		if d := refusal.Detail(tc.err); d.GetReason() != tc.want {
			t.Errorf("%s: got %v, want %v", tc.name, tc.err, tc.want)
		}
	}
	if r, err := peer.DigestAt(t.Context(), &joulev1.DigestAtRequest{Block: 1 << 60}); err != nil || len(r.Digest) > 0 {
		t.Errorf("the digest of a block that is not there: got %v, %v", r, err)
	}
	if err := blocks(1<<60, 0); err != nil {
		t.Errorf("blocks from after the last: got %v, want none of them", err)
	}
	if err := propose(make([]byte, 3<<20)); connect.CodeOf(err) != connect.CodeInvalidArgument || refusal.Detail(err) == nil {
		t.Errorf("a message beyond the limit: got %v", err)
	}
	if now := state(); now != before {
		t.Errorf("bad input changed %s to %s", before, now)
	}
	b.put((leader+1)%3, "goes-on")
	b.same()
	b.quiet(-1)
}
