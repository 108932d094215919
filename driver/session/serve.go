package session

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"time"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/wire"
)

// serve sends heartbeats and batches and takes what comes down, until the
// session breaks. worked says that the server acknowledged something.
func (st *stream) serve(ctx context.Context, every time.Duration) (worked bool, err error) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	if err := st.sendHeartbeat(); err != nil {
		return false, err
	}
	for {
		// A nil channel never takes the token: there is nothing to send now.
		var sending chan<- struct{}
		if st.dirty && st.flight == nil && !st.pausing {
			sending = st.s.sending
		}
		select {
		case <-ctx.Done():
			return worked, context.Cause(ctx)
		case m, ok := <-st.down:
			if !ok {
				return worked, st.why(ctx)
			}
			useful, err := st.take(m)
			worked = worked || useful
			if err != nil {
				return worked, err
			}
		case <-tick.C:
			if err := st.sendHeartbeat(); err != nil {
				return worked, err
			}
		case <-st.srv.wake:
			st.dirty = true
		case <-st.paused.C:
			st.pausing = false
		case <-st.late.C:
			return worked, fmt.Errorf("%s: left a batch without an answer for %v", st.srv.url, st.s.cfg.Silence)
		case sending <- struct{}{}:
			if err := st.sendBatch(); err != nil {
				return worked, err
			}
		}
	}
}

func (st *stream) sendHeartbeat() error {
	st.beat++
	totals := st.s.host.Totals()
	leases := make([]*joulev1.LeaseTotals, len(totals))
	for i, t := range totals {
		leases[i] = &joulev1.LeaseTotals{LeaseId: uint64(t.Lease), WallMs: t.WallMs, CpuMs: t.CPUMs}
	}
	return st.bidi.Send(&joulev1.SessionUp{Message: &joulev1.SessionUp_Heartbeat{
		Heartbeat: &joulev1.Heartbeat{Number: st.beat, Leases: leases},
	}})
}

// sendBatch sends what is pending. The session holds the sending token, and
// keeps it if it sent something.
func (st *stream) sendBatch() error {
	records, err := st.s.host.Pending(batchLimit())
	if err != nil {
		st.s.log.Error("usage records can't be read", "server", st.srv.url, "error", err)
		st.rest()
		<-st.s.sending
		return nil
	}
	if len(records) == 0 {
		st.dirty = false
		<-st.s.sending
		return nil
	}
	st.flight = records
	st.batch++
	st.late.Reset(st.s.cfg.Silence)
	batch := wire.AppendBatch(make([]byte, 0, wire.BatchSize(len(records))), st.hostID, st.s.cfg.BootID, records)
	return st.bidi.Send(&joulev1.SessionUp{Message: &joulev1.SessionUp_UsageBatch{UsageBatch: &joulev1.UsageBatch{
		Number:    st.batch,
		Batch:     batch,
		Signature: ed25519.Sign(st.s.cfg.Key, wire.BatchSigningBytes(batch)),
	}}})
}

// release ends the batch under way, if there is one.
func (st *stream) release() {
	if st.flight != nil {
		st.flight = nil
		st.late.Stop()
		<-st.s.sending
	}
}

// rest keeps this session from sending batches for a while, longer each time.
func (st *stream) rest() { st.restAtLeast(0) }

// restAtLeast is rest, for as long as a busy server asks for at the least.
func (st *stream) restAtLeast(least time.Duration) {
	st.pausing = true
	st.paused.Reset(max(jitter(st.pause), min(least, retryAfterMax)))
	st.pause = min(2*st.pause, st.s.cfg.BackoffMax)
}

// retryAfterMax bounds what a server can ask for.
const retryAfterMax = time.Minute

// take handles one message. useful says that it acknowledged something.
func (st *stream) take(m *joulev1.SessionDown) (useful bool, err error) {
	switch m := m.GetMessage().(type) {
	case *joulev1.SessionDown_HeartbeatAck:
		return true, nil
	case *joulev1.SessionDown_BatchAck:
		return st.takeBatchAck(m.BatchAck)
	case *joulev1.SessionDown_LeaseCommand:
		st.s.host.Stop(wire.LeaseID(m.LeaseCommand.GetLeaseId()), m.LeaseCommand.GetStop())
		return true, nil
	case *joulev1.SessionDown_Challenge, *joulev1.SessionDown_Welcome:
		return false, fmt.Errorf("%s: sent %T in the middle of the session", st.srv.url, m)
	}
	// A newer server may say things that this version doesn't know.
	return false, nil
}

func (st *stream) takeBatchAck(ack *joulev1.BatchAck) (useful bool, err error) {
	if st.flight == nil || ack.GetNumber() != st.batch {
		return false, nil // an answer given twice, or to a batch given up
	}
	sent := st.flight
	total := len(sent)
	st.release()
	if e := ack.GetError(); e != nil {
		st.s.log.Warn("batch turned away, its records will be sent again",
			"server", st.srv.url, "records", total, "reason", e.GetReason(), "error", words(e))
		st.restAtLeast(time.Duration(e.GetRetryAfterMs()) * time.Millisecond)
		return false, nil
	}
	statuses := ack.GetStatuses()
	if len(statuses) != total {
		return false, fmt.Errorf("%s: answered a batch of %d records with %d outcomes", st.srv.url, total, len(statuses))
	}
	settled := make([]Outcome, 0, total)
	for i, status := range statuses {
		// One that says nothing leaves the record to be sent again.
		if status != joulev1.RecordStatus_RECORD_STATUS_UNSPECIFIED {
			settled = append(settled, Outcome{Lease: sent[i].Lease, Seq: sent[i].Seq, Status: status})
		}
	}
	if len(settled) == 0 {
		return false, fmt.Errorf("%s: answered a batch of %d records with the outcome of none", st.srv.url, total)
	}
	if err := st.s.host.Settled(settled); err != nil {
		// The records are still there and will be sent again: a repeat.
		st.s.log.Error("acknowledged records can't be deleted", "server", st.srv.url, "records", len(settled), "error", err)
		st.rest()
		return true, nil
	}
	st.pause = st.s.cfg.BackoffMin
	return true, nil
}
