package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/joulecloud/joule/raftstore"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
	"github.com/joulecloud/joule/settlement/journal"
	"github.com/joulecloud/joule/settlement/node"
	"github.com/joulecloud/joule/settlement/refusal"
)

// Limits of one question to another server.
const (
	describeTimeout = 2 * time.Second
	joinTimeout     = 10 * time.Second
	messageBytesMax = 64 << 20 // one block of the journal is far below
	// fetchTimeout bounds how long a server that has the blocks is looked for.
	fetchTimeout = 2 * time.Minute
)

func newHTTPClient(mux *raftstore.Mux) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{
		Protocols:   protocols,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return mux.DialPeer(ctx, addr) },
		// A server that went without a word is noticed.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 3 * time.Second, PingTimeout: 3 * time.Second},
	}}
}

func (a *Agent) at(addr string) joulev1connect.PeerServiceClient {
	return joulev1connect.NewPeerServiceClient(a.client, "http://"+addr, connect.WithReadMaxBytes(messageBytesMax))
}

func (a *Agent) ask(ctx context.Context, addr string) (*joulev1.DescribeResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	return a.at(addr).Describe(ctx, &joulev1.DescribeRequest{})
}

var _ node.Peers = (*Agent)(nil)

// Propose implements node.Peers.
func (a *Agent) Propose(ctx context.Context, addr string, batch []byte) ([]byte, error) {
	r, err := a.at(addr).Propose(ctx, &joulev1.ProposeRequest{Batch: batch})
	if err != nil {
		return nil, fromPeer(addr, err)
	}
	return r.Results, nil
}

// ReadIndex implements node.Peers.
func (a *Agent) ReadIndex(ctx context.Context, addr string, verify bool) (uint64, error) {
	r, err := a.at(addr).ReadIndex(ctx, &joulev1.ReadIndexRequest{Verify: verify})
	if err != nil {
		return 0, fromPeer(addr, err)
	}
	return r.Index, nil
}

// Blocks implements node.Peers. It goes on with another server where one fails
// in the middle.
func (a *Agent) Blocks(ctx context.Context, from, to uint64, take func([]byte) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 24*time.Hour, errors.New("it took a day"))
	defer cancel()
	deadline := time.Now().Add(fetchTimeout)
	var last error
	for {
		sources := a.sources(ctx, from, to)
		if len(sources) == 0 && last == nil {
			last = fmt.Errorf("no server that has block %d answers", max(to, from))
		}
		for _, addr := range sources {
			next, err := a.stream(ctx, addr, from, to, take)
			if next > from {
				from, deadline = next, time.Now().Add(fetchTimeout)
			}
			if err == nil {
				return nil
			}
			last = fmt.Errorf("server %s: %w", addr, err)
		}
		if time.Now().After(deadline) || journal.IsMismatch(last) {
			return last
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), last)
		case <-time.After(a.cfg.Interval):
		}
	}
}

// sources are the servers that have the blocks, those that are furthest first.
func (a *Agent) sources(ctx context.Context, from, to uint64) []string {
	type source struct {
		addr  string
		block uint64
	}
	var found []source
	for addr, d := range a.askAll(ctx, a.addresses()) {
		if d.Member && d.Block >= to && (to > 0 || d.Block+1 >= from) {
			found = append(found, source{addr, d.Block})
		}
	}
	slices.SortFunc(found, func(x, y source) int { return int(min(max(int64(y.block)-int64(x.block), -1), 1)) })
	var out []string
	for _, s := range found {
		out = append(out, s.addr)
	}
	return out
}

// stream takes blocks from one server and returns the one that is next.
func (a *Agent) stream(ctx context.Context, addr string, from, to uint64, take func([]byte) error) (next uint64, err error) {
	s, err := a.at(addr).Blocks(ctx, &joulev1.BlocksRequest{From: from, To: to})
	if err != nil {
		return from, err
	}
	defer s.Close()
	for s.Receive() {
		m := s.Msg()
		if m.Seq != from {
			return from, fmt.Errorf("block %d came where block %d was wanted", m.Seq, from)
		}
		if err := take(m.Block); err != nil {
			return from, err
		}
		from++
	}
	if err := s.Err(); err != nil {
		return from, err
	}
	if to > 0 && from <= to {
		return from, fmt.Errorf("its blocks end before block %d", from)
	}
	return from, nil
}

// fromPeer turns the answer of a server that does not lead, is too busy or was
// not reached at all, back into *node.NotLeaderError: what was asked has not
// happened.
func fromPeer(addr string, err error) error {
	switch d := refusal.Detail(err); d.GetReason() {
	case joulev1.ErrorReason_ERROR_REASON_NOT_LEADER, joulev1.ErrorReason_ERROR_REASON_OVERLOADED:
		return &node.NotLeaderError{}
	case joulev1.ErrorReason_ERROR_REASON_MALFORMED:
		return fmt.Errorf("server %s: %w: %s", addr, node.ErrNotUnderstood, d.Message)
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return &node.NotLeaderError{LeaderAddr: addr}
	}
	return fmt.Errorf("server %s: %w", addr, err)
}
