package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/joulecloud/joule/raftstore"
	"github.com/joulecloud/joule/settlement/node"
)

// RecoverPeer is one server in the list that a recovery is given.
type RecoverPeer struct {
	ID       string `json:"id"`
	Address  string `json:"address"`
	NonVoter bool   `json:"non_voter,omitempty"`
}

// Recovery is what a recovery did, as it is kept in the data directory.
type Recovery struct {
	Time   string        `json:"time"`
	Server string        `json:"server"`
	Peers  []RecoverPeer `json:"peers"` // all servers of the cluster from now on
	Block  uint64        `json:"block"`
	Digest string        `json:"digest"`
}

// Recover makes the servers in peersFile, or with "" this one alone, the whole
// cluster. It is for a cluster that has lost a majority of its servers for
// good: what only the lost ones had is lost. This server must not be running,
// and the same list must be given on every server that is in it. The recovery
// is recorded in the data directory, and shown at every start.
func Recover(cfg Config, peersFile string, log *slog.Logger) (*Recovery, error) {
	dir, err := openDataDir(cfg.DataDir, cfg.Name, log)
	if err != nil {
		return nil, err
	}
	if !dir.state {
		return nil, fmt.Errorf("data_dir: no server ran in %s: there is nothing to recover", cfg.DataDir)
	}
	self := RecoverPeer{ID: dir.id, Address: cfg.RaftAdvertise}
	if self.Address == "" {
		self.Address = cfg.RaftAddr
	}
	out := &Recovery{Server: cfg.Name, Peers: []RecoverPeer{self}}
	if peersFile != "" {
		if out.Peers, err = readPeers(peersFile); err != nil {
			return nil, err
		}
	}
	var peers []raftstore.Peer
	voters := 0
	for _, p := range out.Peers {
		peers = append(peers, raftstore.Peer{ID: p.ID, Addr: p.Address, Nonvoter: p.NonVoter})
		if !p.NonVoter {
			voters++
		}
	}
	if voters == 0 {
		return nil, fmt.Errorf("peers: none of the %d servers has a vote", len(peers))
	}
	rc := raftstore.Default()
	rc.ID = dir.id
	rc.HeartbeatTimeout, rc.ElectionTimeout = raftstore.ClusterHeartbeatTimeout, raftstore.ClusterElectionTimeout
	rc.LeaderLeaseTimeout = raftstore.ClusterLeaderLease
	got, err := node.Recover(node.Config{Raft: rc, DataDir: cfg.DataDir}, peers, log)
	if err != nil {
		return nil, err
	}
	out.Time, out.Block, out.Digest = time.Now().UTC().Format(time.RFC3339), got.Block, fmt.Sprintf("%x", got.Digest)
	return out, dir.record(out)
}

func readPeers(path string) ([]RecoverPeer, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("peers: %w", err)
	}
	var peers []RecoverPeer
	dec := json.NewDecoder(strings.NewReader(string(text)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&peers); err != nil {
		return nil, fmt.Errorf(`peers: %s: want a list such as [{"id": "…", "address": "10.0.0.1:7434"}]: %w`, path, err)
	}
	if len(peers) == 0 {
		return nil, fmt.Errorf("peers: %s names no server", path)
	}
	for i, p := range peers {
		if p.ID == "" || !isHostPort(p.Address) {
			return nil, fmt.Errorf("peers: %s: entry %d wants an id and an address host:port, got %q and %q", path, i+1, p.ID, p.Address)
		}
	}
	return peers, nil
}

// record appends to the directory's list of recoveries.
func (d *dataDir) record(r *Recovery) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(d.file(recoverFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("record the recovery: %w", err)
	}
	_, err = f.Write(append(line, '\n'))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// recoveries are the records of earlier recoveries here.
func (d *dataDir) recoveries() []string {
	text, err := os.ReadFile(d.file(recoverFile))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}
