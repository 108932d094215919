package ledger_test

import (
	"bytes"
	"testing"

	"github.com/joulecloud/joule/settlement/ledger"
)

// A capture is encoded by another goroutine while commands go on, leases open
// and pages are reused, and is always the ledger as it was.
func TestCaptureIsEncodedBesideApply(t *testing.T) {
	const leases = 3000
	l, now := manyLeases(t, leases)
	batch := &ledger.UsageBatch{Host: 1, Records: make([]ledger.Record, 64)}
	var next uint64
	for range 5 {
		want := snapshotBytes(t, l)
		c := l.Capture()
		got := make(chan []byte)
		go func() { got <- stateBytes(t, c.State()) }()
		for encoded := []byte(nil); encoded == nil; {
			if nextRound(batch, leases, &next) {
				now += 2000
			}
			if res := l.Apply(now, &ledger.Envelope{Command: batch}); res.Records[0].Status != ledger.RecordAccepted {
				t.Fatalf("record: %+v", res.Records[0])
			}
			open := openCommand("beside")
			open.Namespace, open.Invocation = "customer-1", string(rune('a'+next%26))
			l.Apply(now, &ledger.Envelope{Key: open.Invocation, Command: open})
			l.TakeEntries()
			select {
			case encoded = <-got:
				if !bytes.Equal(encoded, want) {
					t.Fatal("the capture changed while the ledger went on")
				}
			default:
			}
		}
		l.Release(c)
	}
	if err := l.Verify(); err != nil {
		t.Error(err)
	}
}
