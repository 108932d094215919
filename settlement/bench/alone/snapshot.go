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
// longest that one batch of 64 records (of a ledger of accounts: one deposit),
// the capture itself or its release kept Apply's caller waiting.
type Snapshot struct {
	CaptureMs   float64 `json:"capture_ms"`
	StallMs     float64 `json:"stall_ms"`       // elapsed
	StallCPUMs  float64 `json:"stall_cpu_ms"`   // processor time of the applying thread
	QuietMs     float64 `json:"quiet_stall_ms"` // elapsed, as long without a snapshot: what the machine does by itself
	QuietCPUMs  float64 `json:"quiet_cpu_ms"`
	WriteS      float64 `json:"write_s"`
	WriteRate   float64 `json:"records_per_s_while_written"` // or commands
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
// a ledger from it. The ledger that it was made of is let go before, as a server
// that restores has none.
func (m *meter) snapshot(ctx context.Context, quiet time.Duration) (*Snapshot, error) {
	const size = 64
	batches := make([]*ledger.UsageBatch, 1024)
	for i := range batches {
		batches[i] = new(ledger.UsageBatch)
	}
	left := batches[:0]
	next := func() ledger.Envelope {
		if len(left) == 0 {
			m.fill(batches, size)
			left = batches
		}
		b := left[0]
		left = left[1:]
		return ledger.Envelope{Command: b}
	}
	l := m.l
	m.l = nil
	out := &Snapshot{}
	var err error
	m.l, err = there(ctx, l, quiet, next, func() ledger.Time { return m.now }, out)
	return out, err
}

// there takes a ledger to a file and back, with commands going on beside.
func there(ctx context.Context, l *ledger.Ledger, quiet time.Duration, next func() ledger.Envelope, now func() ledger.Time, out *Snapshot) (*ledger.Ledger, error) {
	file, err := os.CreateTemp("", "joule-bench-snapshot-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	accounts, leases, entries := l.AccountCount(), l.LeaseCount(), l.EntryCount()
	if entries, err = written(ctx, l, file, quiet, next, now, out); err != nil {
		return nil, err
	}
	l = nil
	runtime.GC()
	if l, err = restore(file, out); err != nil {
		return nil, err
	}
	if l.AccountCount() != accounts || l.LeaseCount() != leases || l.EntryCount() != entries {
		return nil, fmt.Errorf("restored %d accounts, %d leases and %d entries, want %d, %d and %d",
			l.AccountCount(), l.LeaseCount(), l.EntryCount(), accounts, leases, entries)
	}
	return l, nil
}

// written applies commands for a while, then captures the ledger and goes on
// with them while the capture is written. It returns how many entries the
// snapshot has.
func written(ctx context.Context, l *ledger.Ledger, file *os.File, quiet time.Duration, next func() ledger.Envelope, now func() ledger.Time, out *Snapshot) (entries uint64, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	applied := 0
	apply := func(longest *longest) error {
		env := next()
		var res ledger.Result
		longest.step(func() {
			res = l.Apply(now(), &env)
			l.TakeEntries()
		})
		applied += max(1, len(res.Records))
		if res.Code != ledger.CodeOK || len(res.Records) > 0 && res.Records[0].Status != ledger.RecordAccepted {
			return fmt.Errorf("beside the snapshot: %T: got %d, %s", env.Command, res.Code, res.Msg)
		}
		return ctx.Err()
	}
	var calm, during longest
	for t0 := time.Now(); time.Since(t0) < quiet; {
		if err := apply(&calm); err != nil {
			return 0, err
		}
	}

	var capture *ledger.Capture
	entries = l.EntryCount()
	during.step(func() { capture = l.Capture() })
	out.CaptureMs = ms(during.wall)
	done := make(chan error, 1)
	t0 := time.Now()
	go func() {
		w := bufio.NewWriterSize(file, 1<<20)
		err := wire.WriteState(w, capture.State(), nil)
		if err == nil {
			err = w.Flush()
		}
		done <- err
	}()
	applied = 0
	for ended := false; !ended; {
		select {
		case werr := <-done:
			err = errors.Join(err, werr)
			ended = true
		default:
			if err == nil {
				err = apply(&during)
			}
		}
	}
	if err != nil {
		return 0, fmt.Errorf("snapshot: %w", err)
	}
	out.WriteS = time.Since(t0).Seconds()
	out.WriteRate = float64(applied) / out.WriteS
	during.step(func() { l.Release(capture) })
	out.QuietMs, out.QuietCPUMs = ms(calm.wall), ms(calm.cpu)
	out.StallMs, out.StallCPUMs = ms(during.wall), ms(during.cpu)
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	out.Bytes = info.Size()
	return entries, nil
}

// restore reads a ledger back and says what that took.
func restore(file *os.File, out *Snapshot) (*ledger.Ledger, error) {
	if _, err := file.Seek(0, 0); err != nil {
		return nil, err
	}
	before, err := proc.OwnCPU()
	if err != nil {
		return nil, err
	}
	t0 := time.Now()
	l, _, err := wire.ReadSnapshot(file)
	if err != nil {
		return nil, err
	}
	out.RestoreS = time.Since(t0).Seconds()
	after, err := proc.OwnCPU()
	out.RestoreCPUS = (after - before).Seconds()
	return l, err
}
