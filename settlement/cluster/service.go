package cluster

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"

	"connectrpc.com/connect"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
	"github.com/joulecloud/joule/settlement/node"
)

// service answers the other servers.
type service struct{ a *Agent }

var _ joulev1connect.PeerServiceHandler = (*service)(nil)

var errStarting = errors.New("this server is starting")

func (s *service) node() (*node.Node, error) {
	if n := s.a.attached(); n != nil {
		return n, nil
	}
	return nil, errStarting
}

// Describe implements PeerServiceHandler.
func (s *service) Describe(context.Context, *joulev1.DescribeRequest) (*joulev1.DescribeResponse, error) {
	return s.a.describe(), nil
}

// Propose implements PeerServiceHandler.
func (s *service) Propose(ctx context.Context, r *joulev1.ProposeRequest) (*joulev1.ProposeResponse, error) {
	n, err := s.node()
	if err != nil {
		return nil, err
	}
	results, err := n.ProposeBatch(ctx, r.Batch)
	if err != nil {
		return nil, err
	}
	return &joulev1.ProposeResponse{Results: results}, nil
}

// ReadIndex implements PeerServiceHandler.
func (s *service) ReadIndex(ctx context.Context, r *joulev1.ReadIndexRequest) (*joulev1.ReadIndexResponse, error) {
	n, err := s.node()
	if err != nil {
		return nil, err
	}
	index, err := n.ReadIndex(ctx, r.Verify)
	if err != nil {
		return nil, err
	}
	return &joulev1.ReadIndexResponse{Index: index}, nil
}

// DigestAt implements PeerServiceHandler.
func (s *service) DigestAt(_ context.Context, r *joulev1.DigestAtRequest) (*joulev1.DigestAtResponse, error) {
	n, err := s.node()
	if err != nil {
		return nil, err
	}
	digest, ok, err := n.DigestAt(r.Block)
	if err != nil {
		return nil, err
	}
	if !ok {
		return &joulev1.DigestAtResponse{}, nil
	}
	return &joulev1.DigestAtResponse{Digest: digest[:]}, nil
}

// Blocks implements PeerServiceHandler.
func (s *service) Blocks(ctx context.Context, r *joulev1.BlocksRequest, out *connect.ServerStream[joulev1.BlocksResponse]) error {
	n, err := s.node()
	if err != nil {
		return err
	}
	// Only what is applied is handed out: a journal may be ahead of it.
	last, _ := n.Position()
	to := r.To
	if to == 0 {
		to = last
	}
	if to > last {
		return invalid("to: block %d was asked for, the last one here is %d", to, last)
	}
	seq := max(r.From, 1)
	if seq > to {
		return nil
	}
	for encoded, err := range n.Journal().Encoded(seq) {
		if err != nil {
			s.a.log.LogAttrs(ctx, slog.LevelError, "a block can't be read for another server",
				slog.Uint64("block", seq), slog.Any("error", err))
			return err
		}
		if err := out.Send(&joulev1.BlocksResponse{Seq: seq, Block: encoded}); err != nil {
			return err
		}
		if seq++; seq > to {
			return nil
		}
	}
	return nil
}

// Join implements PeerServiceHandler.
func (s *service) Join(ctx context.Context, r *joulev1.JoinRequest) (*joulev1.JoinResponse, error) {
	n, err := s.node()
	if err != nil {
		return nil, err
	}
	err = s.a.admit(ctx, n, r)
	var notLeader *node.NotLeaderError
	if errors.As(err, &notLeader) && notLeader.LeaderAddr != "" && !r.Forwarded {
		return s.a.at(notLeader.LeaderAddr).Join(ctx, &joulev1.JoinRequest{Id: r.Id, Name: r.Name, Address: r.Address, Forwarded: true})
	}
	if err != nil {
		s.a.log.LogAttrs(ctx, slog.LevelWarn, "a server could not be added", slog.String("peer", r.Name),
			slog.String("address", r.Address), slog.Any("error", err))
		return nil, err
	}
	return &joulev1.JoinResponse{Servers: entries(n.Store().Peers())}, nil
}

// Remove implements PeerServiceHandler.
func (s *service) Remove(ctx context.Context, r *joulev1.RemoveRequest) (*joulev1.RemoveResponse, error) {
	n, err := s.node()
	if err != nil {
		return nil, err
	}
	if r.Peer == "" || len(r.Peer) > nameBytesMax {
		return nil, invalid("peer: want an id, a name or an address of at most %d bytes, got %.64q", nameBytesMax, r.Peer)
	}
	p, voters, err := s.a.remove(ctx, n, r.Peer, r.Force)
	if err != nil {
		return nil, err
	}
	return &joulev1.RemoveResponse{Id: p.ID, Name: p.Name, Voters: uint32(voters)}, nil
}

// Restore implements PeerServiceHandler.
func (s *service) Restore(ctx context.Context, in *connect.ClientStream[joulev1.RestoreRequest]) (*joulev1.RestoreResponse, error) {
	n, err := s.node()
	if err != nil {
		return nil, err
	}
	if !n.Store().IsLeader() { // before all of it is sent
		return nil, &node.NotLeaderError{}
	}
	if block, _ := n.Position(); block > 0 {
		return nil, node.ErrHistory
	}
	index, err := s.a.receiveBackup(ctx, n, func() ([]byte, error) {
		if in.Receive() {
			return in.Msg().Chunk, nil
		}
		return nil, cmp.Or(in.Err(), io.EOF)
	})
	if err != nil {
		return nil, err
	}
	return &joulev1.RestoreResponse{Index: index}, nil
}
