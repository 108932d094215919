package wire_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/joulecloud/joule/settlement/ledger"
	"github.com/joulecloud/joule/settlement/wire"
)

// Tables of many frames come back whole, and a snapshot has one form: frames
// that are cut another way are refused, though every row is right.
func TestSnapshotOfManyFrames(t *testing.T) {
	l := sampleLedger(t)
	for i := range 1500 {
		res := l.Apply(6000, &ledger.Envelope{Key: fmt.Sprint("d", i), Command: &ledger.OpenLease{Host: "dc-1", Namespace: "acme",
			Job: fmt.Sprint("job-", i%7), Group: "g", Task: "t", Alloc: fmt.Sprint("alloc-", i), Invocation: "i"}})
		if res.Code != ledger.CodeOK {
			t.Fatal(res.Msg)
		}
	}
	b := snapshotOf(t, l, []byte("extra"))
	again, _, err := wire.ReadSnapshot(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Verify(); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(snapshotOf(t, again, []byte("extra")), b) {
		t.Error("the restored ledger writes another snapshot")
	}
	x, okX := l.LeaseByKey("alloc-1400", "t", "i")
	y, okY := again.LeaseByKey("alloc-1400", "t", "i")
	if !okX || !okY || x != y {
		t.Errorf("a lease: got %+v, want %+v", y, x)
	}

	frames := framesOf(b)
	largest := 0
	for i := range frames {
		if len(frames[i]) > len(frames[largest]) {
			largest = i
		}
	}
	if len(frames[largest]) < 64<<10 {
		t.Fatalf("the largest of %d frames has %d bytes", len(frames), len(frames[largest]))
	}
	row := (len(frames[largest]) + len(frames[largest+1])) / 1502 // about
	for what, bend := range map[string]func([][]byte) [][]byte{
		"a frame cut short": func(f [][]byte) [][]byte {
			return slices.Replace(f, largest, largest+1, f[largest][:len(f[largest])-row], f[largest][len(f[largest])-row:])
		},
		"two frames as one": func(f [][]byte) [][]byte {
			return slices.Replace(f, largest, largest+2, slices.Concat(f[largest], f[largest+1]))
		},
		"an empty frame": func(f [][]byte) [][]byte { return slices.Insert(f, largest, nil) },
	} {
		forged := bytes.Clone(b[:9])
		for _, f := range bend(slices.Clone(frames)) {
			forged = append(binary.LittleEndian.AppendUint32(forged, uint32(len(f))), f...)
		}
		sum := sha256.Sum256(forged)
		_, _, err := wire.ReadSnapshot(bytes.NewReader(append(forged, sum[:]...)))
		if err == nil || !strings.Contains(err.Error(), "decode snapshot") {
			t.Errorf("%s: got %v, want it refused", what, err)
		}
	}
}

// framesOf are the frames of a snapshot.
func framesOf(b []byte) (frames [][]byte) {
	for b = b[9 : len(b)-sha256.Size]; len(b) > 0; {
		n := 4 + int(binary.LittleEndian.Uint32(b))
		frames = append(frames, b[4:n])
		b = b[n:]
	}
	return frames
}
