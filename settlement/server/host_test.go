package server_test

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/client"
	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/nomad"
	"github.com/joulecloud/joule/settlement/wire"
)

func record(lease uint64, seq, wallMs uint64) ledger.Record {
	return ledger.Record{Lease: ledger.LeaseID(lease), Seq: seq, Epoch: 1, Known: ledger.KnownAll,
		Active: ledger.Totals{WallMs: wallMs, MemoryMiBMs: 64 * wallMs}}
}

func chained(prev, next ledger.Record) ledger.Record {
	next.Prev = wire.HashRecord(wire.AppendRecord(nil, &prev))
	return next
}

// Rule U3 at the door: what is not a new, whole, rightly signed batch charges
// nothing, and says what it is.
func TestUsageBatches(t *testing.T) {
	f := start(t)
	f.world()
	lease := f.openLease()
	s, err := f.connect("h1", "crowd", f.key)
	f.ok(err)
	r1 := record(lease.LeaseId, 1, 100)
	r2 := chained(r1, record(lease.LeaseId, 2, 200))
	r3 := chained(r2, record(lease.LeaseId, 3, 300))
	first := s.batch(r1)

	ack := s.send(first, s.sign(first))
	if ack.Error != nil || ack.Statuses[0] != joulev1.RecordStatus_RECORD_STATUS_ACCEPTED {
		t.Fatalf("got %v, want the first record accepted", ack)
	}
	third := s.batch(r3)
	if ack := s.send(third, s.sign(third)); ack.Statuses[0] != joulev1.RecordStatus_RECORD_STATUS_ACCEPTED {
		t.Fatalf("got %v, want a record after a gap accepted", ack)
	}
	before := f.charged(lease.LeaseId)
	if want := int64(300 * 360_000_000 / 3_600_000); before != want {
		t.Fatalf("charged %d nUSD, want %d", before, want)
	}

	flip := func(b []byte, bit int) []byte {
		b = append([]byte(nil), b...)
		b[bit/8] ^= 1 << (bit % 8)
		return b
	}
	otherTotals := record(lease.LeaseId, 3, 299)
	otherTotals.Prev = r3.Prev
	strange := record(lease.LeaseId, 4, 50)
	strange.Prev = wire.HashRecord(wire.AppendRecord(nil, &r3))
	for _, tc := range []struct {
		name      string
		batch     []byte
		signature func([]byte) []byte
		status    joulev1.RecordStatus
		reason    joulev1.ErrorReason
	}{
		{name: "a repeat", batch: third, status: joulev1.RecordStatus_RECORD_STATUS_REPEAT},
		{name: "an older one, late", batch: s.batch(r2), status: joulev1.RecordStatus_RECORD_STATUS_OLD},
		{name: "the same sequence with other content", batch: s.batch(otherTotals), status: joulev1.RecordStatus_RECORD_STATUS_EQUIVOCATION},
		{name: "totals that go backwards", batch: s.batch(strange), status: joulev1.RecordStatus_RECORD_STATUS_DECREASING},
		{name: "an unknown lease", batch: s.batch(record(999, 1, 1)), status: joulev1.RecordStatus_RECORD_STATUS_UNKNOWN_LEASE},
		{name: "truncated", batch: third[:len(third)-1], reason: joulev1.ErrorReason_ERROR_REASON_MALFORMED},
		{name: "empty", batch: nil, reason: joulev1.ErrorReason_ERROR_REASON_MALFORMED},
		{name: "no signature", batch: third, signature: func([]byte) []byte { return nil }, reason: joulev1.ErrorReason_ERROR_REASON_BAD_SIGNATURE},
		{name: "signed by another host", batch: third, reason: joulev1.ErrorReason_ERROR_REASON_BAD_SIGNATURE,
			signature: func(b []byte) []byte { return ed25519.Sign(f.other, wire.BatchSigningBytes(b)) }},
		{name: "in another host's name", batch: wire.AppendBatch(nil, ledger.HostID(s.hostID+1), [16]byte{}, []ledger.Record{r3}),
			reason: joulev1.ErrorReason_ERROR_REASON_FORBIDDEN},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sign := tc.signature
			if sign == nil {
				sign = s.sign
			}
			ack := s.send(tc.batch, sign(tc.batch))
			if got := ack.GetError().GetReason(); got != tc.reason {
				t.Fatalf("got error %v, want reason %v", ack.Error, tc.reason)
			}
			if tc.reason == 0 && (len(ack.Statuses) != 1 || ack.Statuses[0] != tc.status) {
				t.Errorf("got %v, want %v", ack.Statuses, tc.status)
			}
			if got := f.charged(lease.LeaseId); got != before {
				t.Errorf("charged %d nUSD, want still %d", got, before)
			}
		})
	}
	t.Run("every flipped bit", func(t *testing.T) {
		signature := s.sign(third)
		for bit := range len(third) * 8 {
			if ack := s.send(flip(third, bit), signature); ack.GetError().GetReason() != joulev1.ErrorReason_ERROR_REASON_BAD_SIGNATURE {
				t.Fatalf("bit %d: got %v, want a bad signature", bit, ack)
			}
		}
		if got := f.charged(lease.LeaseId); got != before {
			t.Errorf("charged %d nUSD, want still %d", got, before)
		}
	})
	// After all that, honest usage goes on.
	r4 := chained(r3, record(lease.LeaseId, 4, 400))
	r4.Final = true
	last := s.batch(r4)
	if ack := s.send(last, s.sign(last)); ack.Error != nil || ack.Statuses[0] != joulev1.RecordStatus_RECORD_STATUS_ACCEPTED {
		t.Errorf("got %v, want the last record accepted", ack)
	}
}

// A host cannot invent work: rule of opening in the design's section 5.
func TestOpenLeaseRefusals(t *testing.T) {
	f := start(t)
	f.world()
	f.allocs.tasks["a2"] = &nomad.Task{Namespace: "acme", Name: "main", Host: "h2", MilliCores: 1000}
	f.allocs.tasks["a3"] = &nomad.Task{Namespace: "nobody", Job: "j", Group: "g", Name: "main", Host: "h1", MilliCores: 1000}
	hosts := f.hosts()
	now := time.Now()
	for _, tc := range []struct {
		name        string
		alloc       string
		auth        func(body string) *joulev1.HostAuth
		nomad       error
		want        joulev1.ErrorReason
		wantInWords string
	}{
		{name: "an allocation that does not exist", alloc: "a9", want: joulev1.ErrorReason_ERROR_REASON_NO_ALLOCATION, wantInWords: "a9"},
		{name: "an allocation on another host", alloc: "a2", want: joulev1.ErrorReason_ERROR_REASON_WRONG_NODE, wantInWords: `"h2"`},
		{name: "a namespace without a customer", alloc: "a3", want: joulev1.ErrorReason_ERROR_REASON_NOT_FOUND, wantInWords: "nobody"},
		{name: "an allocation that is to stop", alloc: "a1", nomad: fmt.Errorf("%w: allocation a1 is to stop", nomad.ErrNotWanted),
			want: joulev1.ErrorReason_ERROR_REASON_ALLOCATION_STOPPED, wantInWords: "stop"},
		{name: "a Nomad that does not answer", alloc: "a1", nomad: fmt.Errorf("%w: connection refused", nomad.ErrUnreachable),
			want: joulev1.ErrorReason_ERROR_REASON_UNAVAILABLE, wantInWords: "nomad"},
		{name: "no authentication", alloc: "a1", auth: func(string) *joulev1.HostAuth { return nil },
			want: joulev1.ErrorReason_ERROR_REASON_UNAUTHENTICATED, wantInWords: "auth"},
		{name: "an unknown host", alloc: "a1", auth: func(b string) *joulev1.HostAuth { return signed(f.key, "h9", "OpenLease", b, now) },
			want: joulev1.ErrorReason_ERROR_REASON_UNAUTHENTICATED, wantInWords: `"h9"`},
		{name: "another host's key", alloc: "a1", auth: func(b string) *joulev1.HostAuth { return signed(f.other, "h1", "OpenLease", b, now) },
			want: joulev1.ErrorReason_ERROR_REASON_UNAUTHENTICATED, wantInWords: "signature"},
		{name: "a signature for another call", alloc: "a1", auth: func(b string) *joulev1.HostAuth { return signed(f.key, "h1", "CloseLease", b, now) },
			want: joulev1.ErrorReason_ERROR_REASON_UNAUTHENTICATED, wantInWords: "signature"},
		{name: "an old request", alloc: "a1", auth: func(b string) *joulev1.HostAuth {
			return signed(f.key, "h1", "OpenLease", b, now.Add(-time.Hour))
		}, want: joulev1.ErrorReason_ERROR_REASON_UNAUTHENTICATED, wantInWords: "clock"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f.allocs.err = tc.nomad
			defer func() { f.allocs.err = nil }()
			body := wire.OpenLeaseBody(tc.alloc, "main", "i1")
			auth := signed(f.key, "h1", "OpenLease", body, now)
			if tc.auth != nil {
				auth = tc.auth(body)
			}
			_, err := hosts.OpenLease(t.Context(), &joulev1.OpenLeaseRequest{Auth: auth, AllocId: tc.alloc, Task: "main", Invocation: "i1"})
			if reason(err) != tc.want || !strings.Contains(err.Error(), tc.wantInWords) {
				t.Errorf("got %v (%v), want %v with %q", err, reason(err), tc.want, tc.wantInWords)
			}
			r, err := f.api.ListLeases(t.Context(), &joulev1.ListLeasesRequest{})
			f.ok(err)
			if len(r.Leases) != 0 {
				t.Errorf("got leases %v, want none", r.Leases)
			}
		})
	}
}

// Opening is idempotent: a host that lost the answer asks again.
func TestOpenLeaseTwiceIsOneLease(t *testing.T) {
	f := start(t)
	f.world()
	if a, b := f.openLease(), f.openLease(); a.LeaseId != b.LeaseId || a.Hold != b.Hold {
		t.Errorf("got %v and %v, want the same lease", a, b)
	}
}

func TestSessionRefusals(t *testing.T) {
	f := start(t)
	f.world()
	for _, tc := range []struct {
		name, host, class string
		key               ed25519.PrivateKey
		want              string
	}{
		{"an unknown host", "h9", "crowd", f.key, `"h9"`},
		{"another class", "h1", "datacenter", f.key, "enrolled as crowd"},
		{"another host's key", "h1", "crowd", f.other, "signature"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := f.connect(tc.host, tc.class, tc.key)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q in it", err, tc.want)
			}
			var e *client.Error
			if !errors.As(err, &e) {
				t.Errorf("got %T, want a typed refusal", err)
			}
		})
	}
}

// A lease that settlement wants stopped is named again after each heartbeat.
func TestStopIsRepeated(t *testing.T) {
	f := start(t)
	f.world()
	lease := f.openLease()
	s, err := f.connect("h1", "crowd", f.key)
	f.ok(err)
	_, err = f.api.CloseLease(t.Context(), &joulev1.CloseLeaseRequest{Key: "close", LeaseId: lease.LeaseId})
	f.ok(err)
	for range 2 {
		f.ok(s.stream.Send(&joulev1.SessionUp{Message: &joulev1.SessionUp_Heartbeat{Heartbeat: &joulev1.Heartbeat{
			Number: 1, Leases: []*joulev1.LeaseTotals{{LeaseId: lease.LeaseId}}}}}))
		stopped := false
		for {
			m, err := s.stream.Receive()
			f.ok(err)
			if c := m.GetLeaseCommand(); c != nil && c.LeaseId == lease.LeaseId && c.Stop == joulev1.StopReason_STOP_REASON_OPERATOR {
				stopped = true
			}
			if m.GetHeartbeatAck() != nil {
				break
			}
		}
		if !stopped {
			t.Error("no stop command before the heartbeat's acknowledgement")
		}
	}
}
