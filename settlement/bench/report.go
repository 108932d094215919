package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/joulecloud/joule/settlement/bench/alone"
	"github.com/joulecloud/joule/settlement/bench/cluster"
	"github.com/joulecloud/joule/settlement/bench/postgres"
)

// Report is what a run measured: Figures to compare runs by, then all of it.
type Report struct {
	Figures map[string]float64 `json:"-"` // inlined by JSON

	Started            time.Time        `json:"started"`
	Machine            string           `json:"machine"`
	Config             Config           `json:"config"`
	Ledgers            []alone.Result   `json:"ledgers,omitempty"`
	Accounts           *alone.Accounted `json:"accounts,omitempty"`
	Cluster            []cluster.Load   `json:"cluster,omitempty"`
	Postgres           []postgres.Load  `json:"postgres,omitempty"`
	PostgresReplicated []postgres.Load  `json:"postgres_replicated,omitempty"`
	CommandP50         float64          `json:"-"`
	CommandP99         float64          `json:"-"`
	ServerMemory       []int64          `json:"server_memory,omitempty"`
}

// figures in the order of the table, each with its unit and what it is.
var figures = []struct{ name, unit, what string }{
	{"ledger_ns_per_record", "ns", "ledger alone, 1 M leases, batches of 1,024: processor time"},
	{"ledger_ns_per_record_batch64", "ns", "the same in batches of 64"},
	{"ledger_allocs_per_record", "", "allocations"},
	{"snapshot_stall_ms", "ms", "longest wait of Apply while a snapshot of 10 M accounts is written"},
	{"snapshot_stall_cpu_ms", "ms", "its processor time alone"},
	{"snapshot_quiet_stall_ms", "ms", "longest wait of Apply without a snapshot: the machine's own"},
	{"snapshot_stall_leases_ms", "ms", "the same of the largest ledger of leases, batches of 64"},
	{"snapshot_stall_leases_cpu_ms", "ms", "its processor time alone"},
	{"restore_s", "s", "restore of a ledger of 10 M accounts"},
	{"restore_cpu_s", "s", "its processor time"},
	{"restore_leases_s", "s", "restore of the largest ledger of leases"},
	{"bytes_per_lease", "B", "memory of a lease with names, key and indexes"},
	{"bytes_per_account", "B", "memory of an account with its name"},
	{"cluster_records_per_s", "1/s", "three servers, batches of 1,024"},
	{"cluster_mb_per_s", "MB/s", "of signed batches"},
	{"cluster_cpu_us_per_record", "µs", "processor time, three servers and hosts"},
	{"cluster_records_per_s_batch64", "1/s", "three servers, batches of 64"},
	{"cluster_cpu_us_per_record_batch64", "µs", "processor time, three servers and hosts"},
	{"ack_ms_p50", "ms", "from send to acknowledgement, batches of 1,024 under full load"},
	{"ack_ms_p99", "ms", ""},
	{"command_ms_p50", "ms", "one small command at a time, no load"},
	{"command_ms_p99", "ms", ""},
	{"postgres_records_per_s", "1/s", "PostgreSQL 15 alone, batches of 1,024"},
	{"postgres_cpu_us_per_record", "µs", "processor time, server and client"},
	{"postgres_records_per_s_batch64", "1/s", "PostgreSQL 15 alone, batches of 64"},
	{"postgres_cpu_us_per_record_batch64", "µs", "processor time, server and client"},
	{"postgres_replicated_records_per_s", "1/s", "with two standbys, ANY 1, batches of 1,024"},
	{"postgres_replicated_cpu_us_per_record", "µs", "processor time, servers and client"},
	{"ratio_postgres", "×", "cluster to PostgreSQL, batches of 1,024"},
	{"ratio_postgres_batch64", "×", "the same, batches of 64"},
	{"ratio_postgres_replicated", "×", "the same, PostgreSQL with standbys"},
	{"ratio_postgres_cpu", "×", "by processor time, which a busy machine disturbs less"},
	{"ratio_postgres_cpu_batch64", "×", ""},
	{"ratio_postgres_replicated_cpu", "×", ""},
}

func machine() string {
	model := runtime.GOARCH
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(v)
				break
			}
		}
	}
	return fmt.Sprintf("%d × %s, %s", runtime.NumCPU(), model, runtime.Version())
}

// sum fills the figures in from what was measured; what was not is absent.
func (r *Report) sum() {
	f := map[string]float64{}
	r.Figures = f
	set := func(name string, v float64) {
		if v != 0 || name == "ledger_allocs_per_record" {
			f[name] = v
		}
	}
	for i := range r.Ledgers {
		l := &r.Ledgers[i]
		if l.Leases == 1_000_000 || i == 0 {
			for _, u := range l.Records {
				if u.Batch == 64 {
					set("ledger_ns_per_record_batch64", u.NsPerRecord)
					continue
				}
				set("ledger_ns_per_record", u.NsPerRecord)
				set("ledger_allocs_per_record", u.Allocs)
			}
			set("bytes_per_lease", l.BytesPerLease)
		}
		if s := l.Snapshot; s != nil {
			set("snapshot_stall_leases_ms", s.StallMs)
			set("snapshot_stall_leases_cpu_ms", s.StallCPUMs)
			set("restore_leases_s", s.RestoreS)
		}
	}
	if a := r.Accounts; a != nil {
		set("snapshot_stall_ms", a.Snapshot.StallMs)
		set("snapshot_stall_cpu_ms", a.Snapshot.StallCPUMs)
		set("snapshot_quiet_stall_ms", a.Snapshot.QuietMs)
		set("restore_s", a.Snapshot.RestoreS)
		set("restore_cpu_s", a.Snapshot.RestoreCPUS)
		set("bytes_per_account", a.BytesPerAccount)
	}
	ours := func(batch int, v func(*cluster.Load) float64) float64 {
		return middle(r.Cluster, func(l *cluster.Load) (float64, bool) { return v(l), l.Batch == batch })
	}
	theirs := func(loads []postgres.Load, batch int, v func(*postgres.Load) float64) float64 {
		return middle(loads, func(l *postgres.Load) (float64, bool) { return v(l), l.Batch == batch })
	}
	ourRate, ourCPU := func(l *cluster.Load) float64 { return l.PerS }, func(l *cluster.Load) float64 { return l.CPUUs + l.ClientCPUUs }
	rate, cpu := func(l *postgres.Load) float64 { return l.PerS }, func(l *postgres.Load) float64 { return l.CPUUs + l.ClientCPUUs }
	for batch, suffix := range map[int]string{1024: "", 64: "_batch64"} {
		set("cluster_records_per_s"+suffix, ours(batch, ourRate))
		set("cluster_cpu_us_per_record"+suffix, ours(batch, ourCPU))
		set("postgres_records_per_s"+suffix, theirs(r.Postgres, batch, rate))
		set("postgres_cpu_us_per_record"+suffix, theirs(r.Postgres, batch, cpu))
	}
	set("cluster_mb_per_s", ours(1024, func(l *cluster.Load) float64 { return l.MBPerS }))
	set("ack_ms_p50", ours(1024, func(l *cluster.Load) float64 { return l.P50Ms }))
	set("ack_ms_p99", ours(1024, func(l *cluster.Load) float64 { return l.P99Ms }))
	set("command_ms_p50", r.CommandP50)
	set("command_ms_p99", r.CommandP99)
	set("postgres_replicated_records_per_s", theirs(r.PostgresReplicated, 1024, rate))
	set("postgres_replicated_cpu_us_per_record", theirs(r.PostgresReplicated, 1024, cpu))
	ratio := func(name, a, b string) {
		if f[a] > 0 && f[b] > 0 {
			f[name] = f[a] / f[b]
		}
	}
	ratio("ratio_postgres", "cluster_records_per_s", "postgres_records_per_s")
	ratio("ratio_postgres_batch64", "cluster_records_per_s_batch64", "postgres_records_per_s_batch64")
	ratio("ratio_postgres_replicated", "cluster_records_per_s", "postgres_replicated_records_per_s")
	ratio("ratio_postgres_cpu", "postgres_cpu_us_per_record", "cluster_cpu_us_per_record")
	ratio("ratio_postgres_cpu_batch64", "postgres_cpu_us_per_record_batch64", "cluster_cpu_us_per_record_batch64")
	ratio("ratio_postgres_replicated_cpu", "postgres_replicated_cpu_us_per_record", "cluster_cpu_us_per_record")
}

// Table prints the figures.
func (r *Report) Table(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range figures {
		v, ok := r.Figures[f.name]
		text := "not measured"
		switch {
		case ok && v >= 1000:
			text = fmt.Sprintf("%.0f %s", v, f.unit)
		case ok:
			text = fmt.Sprintf("%.3g %s", v, f.unit)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\n", f.name, text, f.what)
	}
	return tw.Flush()
}

// MarshalJSON puts the figures at the top level.
func (r *Report) MarshalJSON() ([]byte, error) {
	type plain Report
	body, err := json.Marshal((*plain)(r))
	if err != nil {
		return nil, err
	}
	all := map[string]any{}
	if err := json.Unmarshal(body, &all); err != nil {
		return nil, err
	}
	for name, v := range r.Figures {
		all[name] = v
	}
	return json.Marshal(all)
}

// Write writes the report as JSON.
func (r *Report) Write(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// Names are the figures that a whole run has.
func Names() []string {
	var names []string
	for _, f := range figures {
		names = append(names, f.name)
	}
	slices.Sort(names)
	return names
}
