// Package metrics shows a settlement server to Prometheus. Names have their
// base unit; counters end in _total. What is read is read when it is asked for,
// so that nothing here costs the paths that earn money.
package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/joulecloud/joule/raftstore"
	"github.com/joulecloud/joule/settlement/cluster"
	"github.com/joulecloud/joule/settlement/node"
)

// Node is the replica behind the server.
type Node interface {
	Status() node.Status
	Counts() node.Counts
	Sums() (usd, joule int64)
}

// Log is the replicated log.
type Log interface{ Stats() raftstore.Stats }

// Cluster is this server among the others.
type Cluster interface{ Peers() []cluster.Peer }

// Sources are what is shown; all are required.
type Sources struct {
	Server, Version string
	Node            Node
	Log             Log
	Cluster         Cluster
	Sessions        func() int       // hosts with a session here
	CertNotAfter    func() time.Time // when the certificate between servers ends; zero: there is none
}

// Handler serves the metrics of one server.
func Handler(s Sources) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(&collector{s}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}

type collector struct{ s Sources }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("joule_"+name, help, labels, nil)
}

var (
	descInfo        = desc("server_info", "1; who this server is.", "server", "version")
	descLeader      = desc("raft_leader", "1 where this server leads.")
	descTerm        = desc("raft_term", "The Raft term.")
	descLast        = desc("raft_last_index", "Newest entry of the replicated log on this server.")
	descCommit      = desc("raft_commit_index", "Newest entry that this server knows to be committed.")
	descApplied     = desc("raft_applied_index", "Newest entry that is applied on this server.")
	descSnapshot    = desc("raft_snapshot_index", "Newest entry in this server's newest snapshot.")
	descPending     = desc("raft_fsm_pending", "Batches that wait to be applied.")
	descContact     = desc("raft_leader_contact_seconds", "Time since the leader was heard; 0 on the leader itself, absent if it never was.")
	descPeerHealthy = desc("cluster_peer_healthy", "1 where a server is heard, has a leader, keeps up and has the same history.", "peer", "id")
	descPeerVoter   = desc("cluster_peer_voter", "1 where a server has a vote.", "peer", "id")
	descPeerLag     = desc("cluster_peer_lag_entries", "Entries that a server is behind the most advanced one.", "peer", "id")
	descPeerContact = desc("cluster_peer_contact_seconds", "Time since this server heard a server; absent if it never did.", "peer", "id")
	descCert        = desc("cluster_certificate_expiry_timestamp_seconds", "When this server's certificate between servers ends, Unix time.")
	descBlock       = desc("journal_blocks_total", "Blocks of the journal: applied batches of commands.")
	descVerified    = desc("journal_verified_block", "Last block of the journal's full files that was read again since the start, and is as it was written.")
	descEntries     = desc("journal_entries_total", "Entries of the journal: transfers and facts.")
	descCommands    = desc("node_commands_total", "Commands that this server took, by outcome.", "outcome")
	descRecords     = desc("node_usage_records_total", "Usage records in the commands that this server took and the ledger settled.")
	descForwarded   = desc("node_forwarded_batches_total", "Batches of commands that this server handed to the leader.")
	descWait        = desc("node_command_seconds_total", "Time that commands took from being given to being applied, summed.")
	descLedgerTime  = desc("ledger_timestamp_seconds", "The ledger's time, Unix time.")
	descSum         = desc("ledger_balance_sum", "Sum of all balances in billionths of the currency; always 0.", "currency")
	descRate        = desc("ledger_rate_usd_per_joule", "The rate in force; absent until one is set.")
	descRateAge     = desc("ledger_rate_set_timestamp_seconds", "When the rate in force was set, Unix time.")
	descSessions    = desc("server_sessions", "Hosts that have a session with this server.")
)

var descs = []*prometheus.Desc{descInfo, descLeader, descTerm, descLast, descCommit, descApplied, descSnapshot, descPending, descContact,
	descPeerHealthy, descPeerVoter, descPeerLag, descPeerContact, descCert, descBlock, descVerified, descEntries, descCommands, descRecords, descForwarded,
	descWait, descLedgerTime, descSum, descRate, descRateAge, descSessions}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	gauge(descInfo, 1, c.s.Server, c.s.Version)
	st := c.s.Log.Stats()
	gauge(descLeader, truth(st.State == "Leader"))
	gauge(descTerm, float64(st.Term))
	gauge(descLast, float64(st.LastIndex))
	gauge(descCommit, float64(st.CommitIndex))
	gauge(descApplied, float64(st.AppliedIndex))
	gauge(descSnapshot, float64(st.SnapshotIndex))
	gauge(descPending, float64(st.FSMPending))
	if st.LastContact >= 0 {
		gauge(descContact, st.LastContact.Seconds())
	}
	for _, p := range c.s.Cluster.Peers() {
		gauge(descPeerHealthy, truth(p.Healthy), p.Name, p.ID)
		gauge(descPeerVoter, truth(p.Voter), p.Name, p.ID)
		gauge(descPeerLag, float64(p.Lag), p.Name, p.ID)
		if p.LastContact >= 0 {
			gauge(descPeerContact, p.LastContact.Seconds(), p.Name, p.ID)
		}
	}
	if t := c.s.CertNotAfter(); !t.IsZero() {
		gauge(descCert, float64(t.Unix()))
	}
	n := c.s.Node.Status()
	count(descBlock, float64(n.Block))
	count(descEntries, float64(n.Entries))
	gauge(descLedgerTime, float64(n.LedgerTime)/1e3)
	usd, joule := c.s.Node.Sums()
	gauge(descSum, float64(usd), "USD")
	gauge(descSum, float64(joule), "JOULE")
	if n.Rate.ID != 0 {
		gauge(descRate, float64(n.Rate.NUSDPerJoule)/1e9)
		gauge(descRateAge, float64(n.Rate.Set)/1e3)
	}
	counts := c.s.Node.Counts()
	count(descCommands, float64(counts.Applied), "applied")
	count(descCommands, float64(counts.Refused), "refused")
	count(descCommands, float64(counts.Failed), "failed")
	count(descRecords, float64(counts.Records))
	gauge(descVerified, float64(counts.Verified))
	count(descForwarded, float64(counts.Forwarded))
	count(descWait, counts.Waited.Seconds())
	gauge(descSessions, float64(c.s.Sessions()))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
