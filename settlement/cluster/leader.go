package cluster

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/backup"
	"github.com/joulecloud/joule/settlement/node"
	"github.com/joulecloud/joule/settlement/refusal"
)

// leaderTimeout bounds how long a leader is looked for.
const leaderTimeout = 15 * time.Second

// chunkBytes is the size of a piece of a backup on its way.
const chunkBytes = 32 << 10

// onLeader does something on the leader: here, where this server leads, or
// there, at the leader's address. Where neither leads after all, nothing has
// happened, and it is tried again until leaderTimeout.
func (a *Agent) onLeader(ctx context.Context, n *node.Node, here func() error, there func(addr string) error) error {
	deadline := time.Now().Add(leaderTimeout)
	tick := time.NewTicker(a.cfg.Interval)
	defer tick.Stop()
	for {
		err := here()
		var notLeader *node.NotLeaderError
		if errors.As(err, &notLeader) {
			if _, addr := n.Store().Leader(); addr != "" && addr != a.mux.Addr() {
				err = there(addr)
			}
		}
		if !errors.As(err, &notLeader) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// Remove takes a server, by id, name or address, out of the cluster and returns
// it with the number of voters left; the leader does it. Without force it
// refuses to leave less than a majority of healthy voters.
func (a *Agent) Remove(ctx context.Context, ref string, force bool) (p Peer, voters int, err error) {
	n := a.attached()
	if n == nil {
		return p, 0, errStarting
	}
	err = a.onLeader(ctx, n, func() (err error) {
		p, voters, err = a.remove(ctx, n, ref, force)
		return err
	}, func(addr string) error {
		r, err := a.at(addr).Remove(ctx, &joulev1.RemoveRequest{Peer: ref, Force: force})
		if err != nil {
			return fromLeader(addr, err)
		}
		p, voters = Peer{ID: r.Id, Name: r.Name}, int(r.Voters)
		return nil
	})
	return p, voters, err
}

// Restore brings the backup in a file, which was verified, into a cluster that
// has no history yet; the leader does it.
func (a *Agent) Restore(ctx context.Context, path string) (index uint64, err error) {
	n := a.attached()
	if n == nil {
		return 0, errStarting
	}
	err = a.onLeader(ctx, n, func() (err error) {
		index, err = n.RestoreBackup(ctx, path)
		return err
	}, func(addr string) (err error) {
		index, err = a.sendBackup(ctx, addr, path)
		return err
	})
	return index, err
}

func (a *Agent) sendBackup(ctx context.Context, addr, path string) (index uint64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	s, err := a.at(addr).Restore(ctx)
	if err != nil {
		return 0, fromLeader(addr, err)
	}
	buf := make([]byte, chunkBytes)
	for {
		n, rerr := f.Read(buf)
		if n > 0 {
			if err := s.Send(&joulev1.RestoreRequest{Chunk: buf[:n]}); err != nil {
				break // the answer says why
			}
		}
		if errors.Is(rerr, io.EOF) {
			break
		}
		if rerr != nil {
			_, err := s.CloseAndReceive()
			return 0, errors.Join(rerr, err)
		}
	}
	r, err := s.CloseAndReceive()
	if err != nil {
		return 0, fromLeader(addr, err)
	}
	return r.Index, nil
}

// receiveBackup restores what another server sends, on this one, which must
// lead.
func (a *Agent) receiveBackup(ctx context.Context, n *node.Node, next func() ([]byte, error)) (index uint64, err error) {
	f, err := os.CreateTemp(a.cfg.TempDir, "restore-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	for {
		chunk, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			_, err = f.Write(chunk)
		}
		if err != nil {
			return 0, err
		}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	if _, err := backup.Verify(f); err != nil {
		return 0, invalid("snapshot: %v", err)
	}
	return n.RestoreBackup(ctx, f.Name())
}

// leaderErrors are the errors of an operator's call that keep their identity on
// the way from the leader, with their reasons there.
var leaderErrors = []struct {
	err    error
	reason joulev1.ErrorReason
}{
	{ErrNoSuchPeer, joulev1.ErrorReason_ERROR_REASON_NOT_FOUND},
	{ErrQuorum, joulev1.ErrorReason_ERROR_REASON_CONFLICT},
	{node.ErrHistory, joulev1.ErrorReason_ERROR_REASON_EXISTS},
}

// leaderError is one of leaderErrors in another server's words.
type leaderError struct {
	text string
	is   error
}

func (e *leaderError) Error() string { return e.text }
func (e *leaderError) Unwrap() error { return e.is }

// fromLeader is fromPeer for operators' calls.
func fromLeader(addr string, err error) error {
	d := refusal.Detail(err)
	for _, k := range leaderErrors {
		if d.GetReason() == k.reason {
			return &leaderError{d.Message, k.err}
		}
	}
	return fromPeer(addr, err)
}

func reasonOf(err error) (joulev1.ErrorReason, bool) {
	for _, k := range leaderErrors {
		if errors.Is(err, k.err) {
			return k.reason, true
		}
	}
	return 0, false
}
