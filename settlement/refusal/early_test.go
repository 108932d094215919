package refusal

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
)

type peers struct {
	joulev1connect.UnimplementedPeerServiceHandler
}

func (peers) Describe(context.Context, *joulev1.DescribeRequest) (*joulev1.DescribeResponse, error) {
	return &joulev1.DescribeResponse{Name: "s1"}, nil
}

func (peers) Propose(_ context.Context, r *joulev1.ProposeRequest) (*joulev1.ProposeResponse, error) {
	if len(r.Batch) > 0 {
		return nil, Error(&joulev1.Error{Reason: joulev1.ErrorReason_ERROR_REASON_STAKE, Message: "of its own"})
	}
	return &joulev1.ProposeResponse{}, nil
}

func (peers) Blocks(_ context.Context, _ *joulev1.BlocksRequest, out *connect.ServerStream[joulev1.BlocksResponse]) error {
	for n := range uint64(3) {
		if err := out.Send(&joulev1.BlocksResponse{Seq: n}); err != nil {
			return err
		}
	}
	return nil
}

// rawCodec sends what a test wants to be sent.
type rawCodec struct{ body []byte }

func (rawCodec) Name() string                    { return "proto" }
func (c rawCodec) Marshal(any) ([]byte, error)   { return c.body, nil }
func (rawCodec) Unmarshal(b []byte, m any) error { return proto.Unmarshal(b, m.(proto.Message)) }

// What Connect refuses before an interceptor sees it is answered with the
// table's detail in each protocol; everything else passes as it was.
func TestEarlyRefusals(t *testing.T) {
	mux := http.NewServeMux()
	mux.Handle(joulev1connect.NewPeerServiceHandler(peers{}, connect.WithReadMaxBytes(1000), connect.WithInterceptors(Seen())))
	ts := httptest.NewUnstartedServer(Handler(mux))
	ts.Config.Protocols = new(http.Protocols)
	ts.Config.Protocols.SetHTTP1(true)
	ts.Config.Protocols.SetUnencryptedHTTP2(true)
	ts.Start()
	t.Cleanup(ts.Close)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	hc := &http.Client{Transport: &http.Transport{Protocols: protocols}}
	t.Cleanup(hc.CloseIdleConnections)

	for name, opts := range map[string][]connect.ClientOption{"connect": nil, "grpc": {connect.WithGRPC()}, "grpc-web": {connect.WithGRPCWeb()}} {
		t.Run(name, func(t *testing.T) {
			client := func(more ...connect.ClientOption) joulev1connect.PeerServiceClient {
				return joulev1connect.NewPeerServiceClient(hc, ts.URL, append(more, opts...)...)
			}
			for what, tc := range map[string]struct {
				body   []byte
				opts   []connect.ClientOption
				reason joulev1.ErrorReason
				text   string
			}{
				"malformed":            {[]byte("\xff\xff\xff"), nil, joulev1.ErrorReason_ERROR_REASON_MALFORMED, "unmarshal"},
				"too large":            {bytes.Repeat([]byte{1}, 1001), nil, joulev1.ErrorReason_ERROR_REASON_INVALID, "1000"},
				"too large, unpacked":  {bytes.Repeat([]byte{1}, 1<<20), []connect.ClientOption{connect.WithSendGzip()}, joulev1.ErrorReason_ERROR_REASON_INVALID, "1000"},
				"an error of its own":  {[]byte("\x0a\x01x"), nil, joulev1.ErrorReason_ERROR_REASON_STAKE, "of its own"},
				"nothing, which is ok": {nil, nil, 0, ""},
			} {
				_, err := client(append(tc.opts, connect.WithCodec(rawCodec{tc.body}))...).Propose(t.Context(), &joulev1.ProposeRequest{})
				d := Detail(err)
				if d.GetReason() != tc.reason || !strings.Contains(d.GetMessage(), tc.text) || (err == nil) != (tc.reason == 0) {
					t.Errorf("%s: got %v, detail %v, want %v", what, err, d, tc.reason)
				}
				if row, ok := Of(tc.reason); ok && connect.CodeOf(err) != row.Connect {
					t.Errorf("%s: got code %v, the table says %v", what, connect.CodeOf(err), row.Connect)
				}
			}
			if r, err := client().Describe(t.Context(), &joulev1.DescribeRequest{}); err != nil || r.Name != "s1" {
				t.Errorf("a good call: got %v, %v", r, err)
			}
			s, err := client().Blocks(t.Context(), &joulev1.BlocksRequest{})
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for s.Receive() {
				n++
			}
			if err := errors.Join(s.Err(), s.Close()); err != nil || n != 3 {
				t.Errorf("a stream: got %d messages, %v, want 3", n, err)
			}
		})
	}
	for _, tc := range []struct{ method, kind string }{{http.MethodGet, "application/proto"}, {http.MethodPost, "text/plain"}} {
		r, err := http.NewRequestWithContext(t.Context(), tc.method, ts.URL+joulev1connect.PeerServiceDescribeProcedure, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", tc.kind)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusMethodNotAllowed && resp.StatusCode != http.StatusUnsupportedMediaType {
			t.Errorf("%s %s: got HTTP status %d", tc.method, tc.kind, resp.StatusCode)
		}
	}
}
