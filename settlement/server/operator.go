package server

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"os"

	"connectrpc.com/connect"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/backup"
	"github.com/joulecloud/joule/settlement/cluster"
	"github.com/joulecloud/joule/settlement/node"
)

// Cluster is this server among the others.
type Cluster interface {
	Peers() []cluster.Peer
	// Remove takes a server, by id, name or address, out of the cluster and
	// returns it with the number of voters left.
	Remove(ctx context.Context, ref string, force bool) (cluster.Peer, int, error)
	// Restore brings a verified backup into a cluster without history.
	Restore(ctx context.Context, path string) (index uint64, err error)
	// LeaderAPI is the URL of the leader's API; "": not known.
	LeaderAPI() string
}

// Backups saves everything that the cluster knows.
type Backups interface {
	Backup(ctx context.Context, w io.Writer, m backup.Meta) error
}

// peerBytesMax bounds how a server is named.
const peerBytesMax = 256

// chunkBytes is the size of a piece of a backup on its way.
const chunkBytes = 64 << 10

// operatorService implements OperatorServiceHandler.
type operatorService struct{ *Server }

func (o operatorService) cluster() (Cluster, error) {
	if o.cfg.Cluster == nil {
		return nil, refuse(joulev1.ErrorReason_ERROR_REASON_UNAVAILABLE, "this server is no part of a cluster")
	}
	return o.cfg.Cluster, nil
}

func (o operatorService) backups() (Backups, error) {
	b, ok := o.node.(Backups)
	if !ok {
		return nil, refuse(joulev1.ErrorReason_ERROR_REASON_UNAVAILABLE, "this server makes no backups")
	}
	return b, nil
}

// ListPeers implements OperatorServiceHandler.
func (o operatorService) ListPeers(context.Context, *joulev1.ListPeersRequest) (*joulev1.ListPeersResponse, error) {
	c, err := o.cluster()
	if err != nil {
		return nil, err
	}
	out := &joulev1.ListPeersResponse{Server: o.cfg.Name}
	for _, p := range c.Peers() {
		contact := int64(-1)
		if p.LastContact >= 0 {
			contact = p.LastContact.Milliseconds()
		}
		out.Peers = append(out.Peers, &joulev1.Peer{
			Id: p.ID, Name: p.Name, Address: p.Address, Api: p.API, Version: p.Version, State: p.State, Voter: p.Voter,
			CommitIndex: p.Commit, AppliedIndex: p.Applied, Lag: p.Lag, LastContactMs: contact, Healthy: p.Healthy,
			Block: p.Block, Digest: hex.EncodeToString(p.Digest), Problem: p.Problem,
		})
	}
	return out, nil
}

// RemovePeer implements OperatorServiceHandler.
func (o operatorService) RemovePeer(ctx context.Context, r *joulev1.RemovePeerRequest) (*joulev1.RemovePeerResponse, error) {
	c, err := o.cluster()
	if err != nil {
		return nil, err
	}
	if r.Peer == "" || len(r.Peer) > peerBytesMax {
		return nil, invalid("peer: want an id, a name or an address of at most %d bytes, got %.64q", peerBytesMax, r.Peer)
	}
	p, voters, err := c.Remove(ctx, r.Peer, r.Force)
	switch {
	case errors.Is(err, cluster.ErrNoSuchPeer):
		return nil, refuse(joulev1.ErrorReason_ERROR_REASON_NOT_FOUND, "peer %v", err)
	case errors.Is(err, cluster.ErrQuorum):
		return nil, refuse(joulev1.ErrorReason_ERROR_REASON_CONFLICT, "%v", err)
	case err != nil:
		return nil, err
	}
	return &joulev1.RemovePeerResponse{Id: p.ID, Name: p.Name, Voters: uint32(voters)}, nil
}

// SaveSnapshot implements OperatorServiceHandler.
func (o operatorService) SaveSnapshot(ctx context.Context, _ *joulev1.SaveSnapshotRequest, out *connect.ServerStream[joulev1.SaveSnapshotResponse]) error {
	b, err := o.backups()
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(chunks{out}, chunkBytes)
	if err := b.Backup(ctx, w, backup.Meta{Server: o.cfg.Name, Program: o.cfg.Version}); err != nil {
		return err
	}
	return w.Flush()
}

type chunks struct {
	out *connect.ServerStream[joulev1.SaveSnapshotResponse]
}

func (c chunks) Write(p []byte) (int, error) {
	return len(p), c.out.Send(&joulev1.SaveSnapshotResponse{Chunk: p})
}

// RestoreSnapshot implements OperatorServiceHandler.
func (o operatorService) RestoreSnapshot(ctx context.Context, in *connect.ClientStream[joulev1.RestoreSnapshotRequest]) (_ *joulev1.RestoreSnapshotResponse, err error) {
	c, err := o.cluster()
	if err != nil {
		return nil, err
	}
	if o.node.Status().Block > 0 { // before anything is sent
		return nil, refuse(joulev1.ErrorReason_ERROR_REASON_EXISTS, "%v", node.ErrHistory)
	}
	f, err := os.CreateTemp(o.cfg.TempDir, "restore-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	for in.Receive() {
		if _, err := f.Write(in.Msg().Chunk); err != nil {
			return nil, err
		}
	}
	if err := in.Err(); err != nil {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	meta, err := backup.Verify(f)
	if err != nil {
		return nil, invalid("snapshot: %v", err)
	}
	o.log.LogAttrs(ctx, slog.LevelWarn, "an operator restores a backup", slog.Uint64("block", meta.Block), slog.String("digest", meta.Digest),
		slog.String("created", meta.Created), slog.String("by", meta.Server))
	index, err := c.Restore(ctx, f.Name())
	switch {
	case errors.Is(err, node.ErrHistory), errors.Is(err, node.ErrRestoring):
		return nil, refuse(joulev1.ErrorReason_ERROR_REASON_EXISTS, "%v", err)
	case err != nil:
		return nil, err
	}
	return &joulev1.RestoreSnapshotResponse{Block: meta.Block, Digest: meta.Digest, Index: index}, nil
}
