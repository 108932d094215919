package alone

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/joulecloud/joule/settlement/bench/proc"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// Snapshot says what taking and restoring a snapshot cost. A stall is the
// longest that one batch of 64 records, or the capture itself, kept Apply's
// caller waiting.
type Snapshot struct {
	CaptureMs   float64 `json:"capture_ms"`
	StallMs     float64 `json:"stall_ms"`       // elapsed
	StallCPUMs  float64 `json:"stall_cpu_ms"`   // processor time of the applying thread
	QuietMs     float64 `json:"quiet_stall_ms"` // elapsed, as long without a snapshot: what the machine does by itself
	QuietCPUMs  float64 `json:"quiet_cpu_ms"`
	WriteS      float64 `json:"write_s"`
	WriteRate   float64 `json:"records_per_s_while_written"`
	Bytes       int64   `json:"bytes"`
	RestoreS    float64 `json:"restore_s"`
	RestoreCPUS float64 `json:"restore_cpu_s"`
}

// longest is the longest of many steps.
type longest struct{ wall, cpu time.Duration }

func (l *longest) step(fn func()) {
	c0, t0 := proc.ThreadCPU(), time.Now()
	fn()
	wall, cpu := time.Since(t0), proc.ThreadCPU()-c0
	l.wall, l.cpu = max(l.wall, wall), max(l.cpu, cpu)
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// snapshot writes a snapshot to a file while batches are applied, and restores
// a ledger from it.
func (m *meter) snapshot(ctx context.Context, quiet time.Duration) (*Snapshot, error) {
	file, err := os.CreateTemp("", "joule-bench-snapshot-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	out := &Snapshot{}
	if err := m.written(ctx, file, quiet, out); err != nil {
		return nil, err
	}
	return out, m.restored(file, out)
}

func (m *meter) written(ctx context.Context, file *os.File, quiet time.Duration, out *Snapshot) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	batches := make([]*ledger.UsageBatch, 1024)
	for i := range batches {
		batches[i] = new(ledger.UsageBatch)
	}
	var applied int
	turn := func(l *longest, more func() bool) error {
		for more() {
			m.fill(batches, 64)
			for _, b := range batches {
				if !more() {
					break
				}
				env := ledger.Envelope{Command: b}
				var res ledger.Result
				l.step(func() {
					res = m.l.Apply(m.now, &env)
					m.l.TakeEntries()
				})
				applied += len(res.Records)
				if got := res.Records[0].Status; res.Code != ledger.CodeOK || got != ledger.RecordAccepted {
					return fmt.Errorf("got %d, %s", got, res.Msg)
				}
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		return nil
	}
	var calm, during longest
	t0 := time.Now()
	if err := turn(&calm, func() bool { return time.Since(t0) < quiet }); err != nil {
		return err
	}

	var capture *ledger.Capture
	entries := m.l.EntryCount()
	t0 = time.Now()
	during.step(func() { capture = m.l.Capture() })
	out.CaptureMs = ms(time.Since(t0))
	done := make(chan error, 1)
	t0 = time.Now()
	go func() {
		w := bufio.NewWriterSize(file, 1<<20)
		err := wire.WriteState(w, capture.State(), nil)
		if err == nil {
			err = w.Flush()
		}
		done <- err
	}()
	var werr error
	ended := false
	applied = 0
	err := turn(&during, func() bool {
		if !ended {
			select {
			case werr = <-done:
				ended = true
				out.WriteS = time.Since(t0).Seconds()
				out.WriteRate = float64(applied) / out.WriteS
			default:
			}
		}
		return !ended
	})
	if !ended {
		werr = <-done
	}
	if err := errors.Join(err, werr); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	during.step(func() { m.l.Release(capture) })
	out.QuietMs, out.QuietCPUMs = ms(calm.wall), ms(calm.cpu)
	out.StallMs, out.StallCPUMs = ms(during.wall), ms(during.cpu)
	m.at = entries
	info, err := file.Stat()
	if err != nil {
		return err
	}
	out.Bytes = info.Size()
	return nil
}

// restored reads the snapshot back. The ledger that it was made of is let go
// first, as a server that restores has none.
func (m *meter) restored(file *os.File, out *Snapshot) error {
	count := m.l.LeaseCount()
	m.l = nil
	runtime.GC()
	l, err := restore(file, &out.RestoreS, &out.RestoreCPUS)
	if err != nil {
		return err
	}
	if l.LeaseCount() != count || l.EntryCount() != m.at {
		return fmt.Errorf("restored %d leases and %d entries, want %d and %d", l.LeaseCount(), l.EntryCount(), count, m.at)
	}
	m.l = l
	return nil
}
