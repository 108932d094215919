package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/joulecloud/joule/cli/output"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
	"github.com/joulecloud/joule/settlement/client"
)

// Backup is what a backup says of itself.
type Backup struct {
	Created      string `json:"created"`
	Server       string `json:"server"`
	Program      string `json:"program"`
	Block        uint64 `json:"block"`
	Digest       string `json:"digest"`
	Entries      uint64 `json:"entries"`
	LedgerUnixMs int64  `json:"ledger_unix_ms"`
	Accounts     uint32 `json:"accounts"`
	Leases       uint64 `json:"leases"`
	Verified     bool   `json:"verified"`
}

// Recovery is what a recovery from the loss of a majority did.
type Recovery struct {
	Server string   `json:"server"`
	Peers  []string `json:"peers"`
	Block  uint64   `json:"block"`
	Digest string   `json:"digest"`
}

// The hints that more than one command gives.
const (
	hintPeers = "`joule operator raft peers` lists the servers"
	hintYes   = "--yes says that you mean it"
)

// chunkBytes is the size of a piece of a backup on its way.
const chunkBytes = 32 << 10

func (b *builder) operator() *cli.Command {
	raft := []*cli.Command{
		b.command(leaf{name: "peers", usage: "list the servers of the cluster", run: listPeers}),
		b.command(leaf{
			name: "remove-peer", usage: "take a server out of the cluster", args: []string{"SERVER"}, notFound: hintPeers,
			description: "SERVER is a name, an id or an address. Any server may be asked, best one that stays. Example: joule operator raft remove-peer s3 --yes",
			flags: []cli.Flag{
				&cli.BoolFlag{Name: "yes", Usage: "do it", DisableDefaultText: true},
				&cli.BoolFlag{Name: "force", Usage: "even if the rest has no majority of healthy servers", DisableDefaultText: true},
			},
			run: removePeer,
		}),
	}
	if b.deps.Recover != nil {
		raft = append(raft, b.command(leaf{
			name: "recover", usage: "make the servers that are left the whole cluster, after the loss of a majority",
			description: "The server must be stopped. What only the lost servers had is lost. With --peers the same file is given on each server " +
				"in it; without it the server is alone from now on, and the others join it with empty data directories. " +
				"Example: joule operator raft recover --config server.hcl --yes",
			flags: []cli.Flag{
				&cli.StringFlag{Name: "config", Usage: "`FILE` that configures the server (required)"},
				&cli.StringFlag{Name: "peers", Usage: "`FILE` with the servers of the cluster from now on: [{\"id\": \"…\", \"address\": \"HOST:PORT\"}]"},
				&cli.BoolFlag{Name: "yes", Usage: "do it", DisableDefaultText: true},
			},
			run: recoverCluster,
		}))
	}
	snapshot := []*cli.Command{
		b.command(leaf{
			name: "save", usage: "save the ledger and its whole history to a file", args: []string{"FILE"},
			description: "FILE is never overwritten. Any server may be asked. Example: joule operator snapshot save joule.backup",
			run:         saveSnapshot,
		}),
	}
	if b.deps.Backup != nil {
		snapshot = append(snapshot,
			b.command(leaf{name: "inspect", usage: "show what a file says of itself", args: []string{"FILE"},
				run: func(in *invocation) error { return showBackup(in, false) }}),
			b.command(leaf{name: "verify", usage: "check a file: sums, chain of blocks, digest, balances", args: []string{"FILE"},
				run: func(in *invocation) error { return showBackup(in, true) }}))
	}
	snapshot = append(snapshot, b.command(leaf{
		name: "restore", usage: "bring a file into a cluster that has no history yet", args: []string{"FILE"},
		description: "Any server may be asked. Example: joule operator snapshot restore joule.backup --yes --timeout 10m",
		flags:       []cli.Flag{&cli.BoolFlag{Name: "yes", Usage: "do it", DisableDefaultText: true}},
		run:         restoreSnapshot,
	}))
	return group("operator", "run the settlement servers",
		group2("operator", "raft", "the servers of the cluster", raft...),
		group2("operator", "snapshot", "backups", snapshot...))
}

// operatorCall makes one call of the operators' service within --timeout.
func operatorCall[Req, Resp any](in *invocation, method func(joulev1connect.OperatorServiceClient, context.Context, *Req) (*Resp, error), req *Req) (*Resp, error) {
	c, err := in.operatorClient()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(in.c.Context, in.timeout)
	defer cancel()
	resp, err := method(c, ctx, req)
	if err != nil {
		return nil, in.explain(err)
	}
	return resp, nil
}

func (in *invocation) operatorClient() (joulev1connect.OperatorServiceClient, error) {
	token, err := in.token()
	if err != nil {
		return nil, err
	}
	c, err := in.deps.DialOperator(in.c.String("addr"), in.c.String("ca-file"), token)
	if err != nil {
		return nil, &fault{code: exitInvalid, cause: err,
			hints: []string{"--addr names the server, such as " + DefaultAddr + "; --ca-file the certificates to trust"}}
	}
	return c, nil
}

// irreversible refuses what can't be undone unless --yes was given.
func (in *invocation) irreversible(what string) error {
	if in.c.Bool("yes") {
		return nil
	}
	return invalid(hintYes, "%s can't be undone", what)
}

func listPeers(in *invocation) error {
	r, err := operatorCall(in, joulev1connect.OperatorServiceClient.ListPeers, &joulev1.ListPeersRequest{})
	if err != nil {
		return err
	}
	return in.result(r, 0, func(w io.Writer) error {
		t := output.NewTable(output.Column{Title: "NAME"}, output.Column{Title: "ID"}, output.Column{Title: "ADDRESS"},
			output.Column{Title: "STATE"}, output.Column{Title: "VOTER"}, output.Column{Title: "COMMITTED", Align: output.Right},
			output.Column{Title: "APPLIED", Align: output.Right}, output.Column{Title: "LAG", Align: output.Right},
			output.Column{Title: "CONTACT", Align: output.Right}, output.Column{Title: "HEALTHY"}, output.Column{Title: "PROBLEM"})
		for _, p := range r.GetPeers() {
			contact := "never"
			if p.GetLastContactMs() >= 0 {
				contact = (time.Duration(p.GetLastContactMs()) * time.Millisecond).String()
			}
			t.Row(p.GetName(), p.GetId(), p.GetAddress(), p.GetState(), yesNo(p.GetVoter()), fmt.Sprint(p.GetCommitIndex()),
				fmt.Sprint(p.GetAppliedIndex()), fmt.Sprint(p.GetLag()), contact, yesNo(p.GetHealthy()), p.GetProblem())
		}
		return t.Write(w)
	})
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func removePeer(in *invocation) error {
	if err := in.irreversible("removing a server"); err != nil {
		return err
	}
	r, err := operatorCall(in, joulev1connect.OperatorServiceClient.RemovePeer, &joulev1.RemovePeerRequest{Peer: in.arg(0), Force: in.c.Bool("force")})
	if err != nil {
		return err
	}
	return in.done(r, 0, "server %s (%s) removed: %d voters left", r.GetName(), r.GetId(), r.GetVoters())
}

func recoverCluster(in *invocation) error {
	config, err := in.required("config")
	if err != nil {
		return err
	}
	if err := in.irreversible("a recovery"); err != nil {
		return err
	}
	r, err := in.deps.Recover(config, in.c.String("peers"))
	if err != nil {
		return err
	}
	return in.value(r, func(w io.Writer) error {
		var f output.Fields
		f.Add("recovered", "%s", r.Server)
		for _, p := range r.Peers {
			f.Add("server", "%s", p)
		}
		f.Add("block", "%d, digest %s", r.Block, r.Digest)
		return f.Write(w)
	})
}

func saveSnapshot(in *invocation) (err error) {
	c, err := in.operatorClient()
	if err != nil {
		return err
	}
	path := in.arg(0)
	if _, err := os.Lstat(path); err == nil {
		return Conflict(fmt.Errorf("%s: there already, and never overwritten", path))
	}
	ctx, _, cancel := in.progressing()
	defer cancel()
	s, err := c.SaveSnapshot(ctx, &joulev1.SaveSnapshotRequest{})
	if err != nil {
		return in.explain(client.Rebuild(in.c.String("addr"), err))
	}
	defer s.Close()
	tmp, err := os.CreateTemp(filepath.Dir(path), ".joule-backup-")
	if err != nil {
		return Invalid(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	var size int64
	for s.Receive() {
		in.moved()
		n, err := tmp.Write(s.Msg().GetChunk())
		if size += int64(n); err != nil {
			return errors.Join(err, tmp.Close())
		}
	}
	if err := s.Err(); err != nil {
		return errors.Join(in.explain(client.Rebuild(in.c.String("addr"), err)), tmp.Close())
	}
	if err := errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	// A link fails where the name was taken meanwhile; a rename would replace it.
	if err := os.Link(tmp.Name(), path); err != nil {
		return err
	}
	if err := os.Remove(tmp.Name()); err != nil {
		return err
	}
	return in.value(struct {
		File  string `json:"file"`
		Bytes int64  `json:"bytes"`
	}{path, size}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "saved %s: %d bytes; check it with `joule operator snapshot verify %s`\n", output.Clean(path), size, output.Clean(path))
		return err
	})
}

// progressing returns a context that ends when nothing moved for --timeout,
// until stop is called.
func (in *invocation) progressing() (ctx context.Context, stop func(), cancel func()) {
	ctx, end := context.WithCancelCause(in.c.Context)
	timer := time.AfterFunc(in.timeout, func() { end(context.DeadlineExceeded) })
	in.moved = func() { timer.Reset(in.timeout) }
	stop = func() { timer.Stop() }
	return ctx, stop, func() { stop(); end(nil) }
}

func showBackup(in *invocation, verify bool) error {
	m, err := in.deps.Backup(in.arg(0), verify)
	if err != nil {
		return Invalid(err)
	}
	return in.value(m, func(w io.Writer) error {
		var f output.Fields
		f.Add("created", "%s by %s, version %s", m.Created, m.Server, m.Program)
		f.Add("block", "%d", m.Block)
		f.Add("digest", "%s", m.Digest)
		f.Add("ledger time", "%s", moment(m.LedgerUnixMs))
		f.Add("content", "%d journal entries, %d accounts, %d leases", m.Entries, m.Accounts, m.Leases)
		if m.Verified {
			f.Add("verdict", "sums, chain of blocks, digest and balances are right")
		}
		return f.Write(w)
	})
}

func restoreSnapshot(in *invocation) error {
	if err := in.irreversible("a restore"); err != nil {
		return err
	}
	f, err := os.Open(in.arg(0))
	if err != nil {
		return Invalid(err)
	}
	defer f.Close()
	c, err := in.operatorClient()
	if err != nil {
		return err
	}
	ctx, sent, cancel := in.progressing()
	defer cancel()
	s, err := c.RestoreSnapshot(ctx)
	if err != nil {
		return in.explain(client.Rebuild(in.c.String("addr"), err))
	}
	r := bufio.NewReaderSize(f, chunkBytes)
	buf := make([]byte, chunkBytes)
	for {
		n, rerr := r.Read(buf)
		if n > 0 {
			in.moved()
			if err := s.Send(&joulev1.RestoreSnapshotRequest{Chunk: buf[:n]}); err != nil {
				break // the answer says why
			}
		}
		if errors.Is(rerr, io.EOF) {
			break
		}
		if rerr != nil {
			return rerr
		}
	}
	sent() // from here on it takes as long as it takes; Ctrl-C gives up waiting
	resp, err := s.CloseAndReceive()
	if err != nil {
		return in.explain(client.Rebuild(in.c.String("addr"), err))
	}
	return in.done(resp, 0, "restored block %d, digest %s", resp.GetBlock(), resp.GetDigest())
}
