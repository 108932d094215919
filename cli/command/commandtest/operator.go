package commandtest

import (
	"context"

	"connectrpc.com/connect"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
)

// operator is the fake's OperatorService: three servers, of which s3 is down.
type operator struct{ s *Server }

var _ joulev1connect.OperatorServiceHandler = operator{}

// ListPeers implements the API.
func (o operator) ListPeers(ctx context.Context, req *joulev1.ListPeersRequest) (*joulev1.ListPeersResponse, error) {
	defer o.s.mu.Unlock()
	if err := o.s.enter(ctx, "ListPeers", req); err != nil {
		return nil, err
	}
	return &joulev1.ListPeersResponse{Server: "s1", Peers: []*joulev1.Peer{
		{Id: "id-1", Name: "s1", Address: "10.0.0.1:7434", Api: "https://s1:7433", Version: "devel", State: "leader", Voter: true,
			CommitIndex: 57, AppliedIndex: 57, Healthy: true, Block: 40, Digest: Digest},
		{Id: "id-2", Name: "s2", Address: "10.0.0.2:7434", Api: "https://s2:7433", Version: "devel", State: "follower",
			CommitIndex: 56, AppliedIndex: 55, Lag: 2, LastContactMs: 40, Healthy: true, Block: 38, Digest: Digest},
		{Id: "id-3", Name: "", Address: "10.0.0.3:7434", State: "unreachable", Voter: true, LastContactMs: -1, Problem: "connection refused"},
	}}, nil
}

// RemovePeer implements the API.
func (o operator) RemovePeer(ctx context.Context, req *joulev1.RemovePeerRequest) (*joulev1.RemovePeerResponse, error) {
	defer o.s.mu.Unlock()
	if err := o.s.enter(ctx, "RemovePeer", req); err != nil {
		return nil, err
	}
	if req.Peer != "id-3" {
		return nil, refuse(joulev1.ErrorReason_ERROR_REASON_NOT_FOUND, "peer \""+req.Peer+"\": no such server in the cluster")
	}
	return &joulev1.RemovePeerResponse{Id: "id-3", Name: "s3", Voters: 2}, nil
}

// SaveSnapshot implements the API.
func (o operator) SaveSnapshot(ctx context.Context, req *joulev1.SaveSnapshotRequest, out *connect.ServerStream[joulev1.SaveSnapshotResponse]) error {
	err := o.s.enter(ctx, "SaveSnapshot", req)
	o.s.mu.Unlock()
	if err != nil {
		return err
	}
	for _, part := range []string{"a back", "up"} {
		if err := out.Send(&joulev1.SaveSnapshotResponse{Chunk: []byte(part)}); err != nil {
			return err
		}
	}
	return nil
}

// RestoreSnapshot implements the API.
func (o operator) RestoreSnapshot(ctx context.Context, in *connect.ClientStream[joulev1.RestoreSnapshotRequest]) (*joulev1.RestoreSnapshotResponse, error) {
	whole := &joulev1.RestoreSnapshotRequest{}
	for in.Receive() {
		whole.Chunk = append(whole.Chunk, in.Msg().Chunk...)
	}
	defer o.s.mu.Unlock()
	if err := o.s.enter(ctx, "RestoreSnapshot", whole); err != nil {
		return nil, err
	}
	return &joulev1.RestoreSnapshotResponse{Block: 40, Digest: Digest, Index: 1 << 16}, in.Err()
}
