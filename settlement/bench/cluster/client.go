package cluster

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/api/joule/v1/joulev1connect"
	"github.com/joulecloud/joule/settlement/bench/workload"
	"github.com/joulecloud/joule/settlement/client"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// clientConfig is one process of hosts.
type clientConfig struct {
	URL    string        `json:"url"`
	TLSDir string        `json:"tls_dir"`
	Spec   workload.Spec `json:"spec"`
	Share  int           `json:"share"` // this process has every Of-th host, from Share on
	Of     int           `json:"of"`
}

type prepareArgs struct {
	Batch   int `json:"batch"`   // records in a batch
	Records int `json:"records"` // to make and sign, at least
}

type runArgs struct {
	Ms       int64 `json:"ms"`
	InFlight int   `json:"in_flight"` // batches on their way at once
}

// clientLoad is what a process's hosts got acknowledged during a run.
type clientLoad struct {
	Records int64     `json:"records"`
	Batches int64     `json:"batches"`
	Bytes   int64     `json:"bytes"`
	Ms      []float64 `json:"ms"` // from send to acknowledgement, of each batch
	Elapsed float64   `json:"elapsed_s"`
	Ran     bool      `json:"ran_dry"` // the prepared batches did not last
}

// signed is a batch as it goes over the wire.
type signed struct {
	n         int
	batch     []byte
	signature []byte
}

// host is one host with its session.
type host struct {
	feed   *workload.Feed
	key    ed25519.PrivateKey
	queue  []signed
	stream *connect.BidiStreamForClientSimple[joulev1.SessionUp, joulev1.SessionDown]
	number uint64
	acked  []signed // since the last note
}

type hosts struct {
	cfg   clientConfig
	hc    *http.Client
	hosts []*host
	acked map[ledger.LeaseID]uint64 // the last settled record of each lease
	mu    sync.Mutex
}

// Client is the part of this program that is a share of the hosts. Batches are
// made and signed before the clock runs: a host signs once in two seconds, and
// thousands of them have no part in this machine.
func Client(ctx context.Context, in io.Reader, out io.Writer) error {
	dec := json.NewDecoder(in)
	h := &hosts{acked: map[ledger.LeaseID]uint64{}}
	if err := dec.Decode(&h.cfg); err != nil {
		return err
	}
	for i, f := range h.cfg.Spec.Feeds(hash) {
		if i%h.cfg.Of != h.cfg.Share {
			continue
		}
		records := make([]ledger.Record, f.Leases())
		f.Fill(records) // the first round is settled already
		for i := range records {
			h.acked[records[i].Lease] = records[i].Seq
		}
		h.hosts = append(h.hosts, &host{feed: f, key: workload.HostKey(f.Host())})
	}
	var err error
	if h.hc, err = client.HTTPClient(h.cfg.URL, filepath.Join(h.cfg.TLSDir, caFile)); err != nil {
		return err
	}
	type args = json.RawMessage
	defer h.hc.CloseIdleConnections()
	return serve(ctx, io.MultiReader(dec.Buffered(), in), out, map[string]func(context.Context, args) (any, error){
		"connect": func(ctx context.Context, _ args) (any, error) { return len(h.hosts), h.connect(ctx) },
		"prepare": func(_ context.Context, a args) (any, error) {
			var p prepareArgs
			if err := json.Unmarshal(a, &p); err != nil {
				return nil, err
			}
			return h.prepare(p), nil
		},
		"run": func(ctx context.Context, a args) (any, error) {
			var r runArgs
			if err := json.Unmarshal(a, &r); err != nil {
				return nil, err
			}
			return h.run(ctx, r)
		},
		"settled": func(context.Context, args) (any, error) {
			var sum uint64
			for lease, seq := range h.acked {
				sum = settled(sum, lease, seq)
			}
			return sum, nil
		},
		"disconnect": func(context.Context, args) (any, error) {
			var errs []error
			for _, x := range h.hosts {
				errs = append(errs, x.stream.CloseRequest(), x.stream.CloseResponse())
			}
			return nil, errors.Join(errs...)
		},
	})
}

// connect opens every host's session.
func (h *hosts) connect(ctx context.Context) error {
	api := joulev1connect.NewHostServiceClient(h.hc, h.cfg.URL)
	for _, x := range h.hosts {
		name := workload.HostName(x.feed.Host())
		st, err := api.Session(ctx)
		if err != nil {
			return err
		}
		x.stream = st
		incarnation := make([]byte, 16)
		rand.Read(incarnation)
		if err := st.Send(&joulev1.SessionUp{Message: &joulev1.SessionUp_Hello{Hello: &joulev1.Hello{
			Host: name, Class: "datacenter", Version: "benchmark", Incarnation: incarnation, BootId: make([]byte, 16)}}}); err != nil {
			return err
		}
		m, err := st.Receive()
		if err != nil {
			return fmt.Errorf("session of %s: %w", name, err)
		}
		proof := ed25519.Sign(x.key, wire.SessionSigningBytes(m.GetChallenge().GetNonce(), name, incarnation))
		if err := st.Send(&joulev1.SessionUp{Message: &joulev1.SessionUp_Proof{Proof: &joulev1.Proof{Signature: proof}}}); err != nil {
			return err
		}
		if m, err = st.Receive(); err != nil {
			return fmt.Errorf("session of %s: %w", name, err)
		}
		if got := m.GetWelcome().GetHostId(); got != uint32(x.feed.Host()) {
			return fmt.Errorf("session of %s: host id %d, want %d", name, got, x.feed.Host())
		}
	}
	return nil
}

// prepare makes and signs batches, as many for each host; it returns how many
// records there are.
func (h *hosts) prepare(p prepareArgs) int {
	made := 0
	for _, x := range h.hosts {
		x.queue = nil
	}
	for made < p.Records {
		for _, x := range h.hosts {
			records := make([]ledger.Record, min(p.Batch, x.feed.Leases()))
			x.feed.Fill(records)
			b := wire.AppendBatch(make([]byte, 0, wire.BatchSize(len(records))), x.feed.Host(), [16]byte{}, records)
			x.queue = append(x.queue, signed{len(records), b, ed25519.Sign(x.key, wire.BatchSigningBytes(b))})
			made += len(records)
		}
	}
	return made
}

// run sends prepared batches until the time is over, and waits for what is
// under way.
func (h *hosts) run(ctx context.Context, r runArgs) (*clientLoad, error) {
	out := &clientLoad{}
	var failures []error
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t0 := time.Now()
	end := t0.Add(time.Duration(r.Ms) * time.Millisecond)
	var workers sync.WaitGroup
	n := min(r.InFlight, len(h.hosts))
	for w := range n {
		var mine []*host
		for i := w; i < len(h.hosts); i += n {
			mine = append(mine, h.hosts[i])
		}
		workers.Go(func() {
			for i := 0; ctx.Err() == nil && time.Now().Before(end); i++ {
				x := mine[i%len(mine)]
				if len(x.queue) == 0 {
					h.mu.Lock()
					out.Ran = true
					h.mu.Unlock()
					return
				}
				b := x.queue[0]
				x.queue = x.queue[1:]
				t := time.Now()
				err := x.send(b)
				took := time.Since(t)
				h.mu.Lock()
				if err != nil {
					failures = append(failures, err)
					cancel()
				} else {
					out.Records += int64(b.n)
					out.Batches++
					out.Bytes += int64(len(b.batch))
					out.Ms = append(out.Ms, float64(took)/float64(time.Millisecond))
					x.acked = append(x.acked, b)
				}
				h.mu.Unlock()
			}
		})
	}
	workers.Wait()
	out.Elapsed = time.Since(t0).Seconds()
	slices.Sort(out.Ms)
	return out, errors.Join(append(failures, h.note())...)
}

// note remembers what was acknowledged.
func (h *hosts) note() error {
	var batch ledger.UsageBatch
	for _, x := range h.hosts {
		for _, b := range x.acked {
			if err := wire.DecodeBatch(b.batch, &batch); err != nil {
				return err
			}
			for i := range batch.Records {
				h.acked[batch.Records[i].Lease] = batch.Records[i].Seq
			}
		}
		x.acked = nil
	}
	return nil
}

// send sends one batch and waits for its acknowledgement.
func (x *host) send(b signed) error {
	x.number++
	if err := x.stream.Send(&joulev1.SessionUp{Message: &joulev1.SessionUp_UsageBatch{UsageBatch: &joulev1.UsageBatch{
		Number: x.number, Batch: b.batch, Signature: b.signature}}}); err != nil {
		return err
	}
	m, err := x.stream.Receive()
	if err != nil {
		return err
	}
	ack := m.GetBatchAck()
	switch {
	case ack == nil:
		return fmt.Errorf("got %T, want an acknowledgement", m.Message)
	case ack.Error != nil:
		return fmt.Errorf("batch refused: %s", ack.Error.Message)
	case ack.Number != x.number || len(ack.Statuses) != b.n:
		return fmt.Errorf("acknowledgement of batch %d with %d records, want %d with %d", ack.Number, len(ack.Statuses), x.number, b.n)
	}
	for i, status := range ack.Statuses {
		if status != joulev1.RecordStatus_RECORD_STATUS_ACCEPTED {
			return fmt.Errorf("batch %d, record %d: %s", ack.Number, i, status)
		}
	}
	return nil
}
