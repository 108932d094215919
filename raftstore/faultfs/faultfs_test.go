package faultfs

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"testing"
)

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// A test that runs on a disk which forgets nothing proves nothing.
func TestPowerLossTakesWhatWasNotSynced(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	synced, later := bytes.Repeat([]byte("s"), 3000), bytes.Repeat([]byte("l"), 3000)
	torn := 0
	for range 50 {
		d := New()
		f := must[*File](t)(d.Create("/d/a"))
		must[int](t)(f.Write(synced))
		if err := errors.Join(f.Sync(), d.SyncDir("/d")); err != nil {
			t.Fatal(err)
		}
		must[int](t)(f.Write(later))
		must[*File](t)(d.Create("/d/unsynced"))
		if got := d.Restart(r, KeptNothing).Content("/d/a"); !bytes.Equal(got, synced) {
			t.Fatalf("nothing kept: got %d bytes, want the %d synced", len(got), len(synced))
		}
		if got := d.Restart(r, KeptAll).Content("/d/a"); len(got) != 6000 {
			t.Fatalf("all kept: got %d bytes, want 6000", len(got))
		}
		got := d.Restart(r, KeptSome).Content("/d/a")
		if !bytes.HasPrefix(got, synced) {
			t.Fatal("synced bytes were lost")
		}
		if len(got) > 3000 && bytes.IndexByte(got[3000:], 0) >= 0 {
			torn++
		}
		if _, err := f.Write(later); !errors.Is(err, ErrPower) {
			t.Fatalf("write without power: got %v", err)
		}
	}
	if torn == 0 {
		t.Error("no write was torn in 50 losses of power")
	}
}

func TestNamesSurviveBySync(t *testing.T) {
	for _, strict := range []bool{false, true} {
		d := New()
		d.StrictNames = strict
		f := must[*File](t)(d.Create("/d/a"))
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		if got := d.Restart(nil, KeptNothing).Content("/d/a") != nil; got == strict {
			t.Errorf("strict names %t: after the file's sync its name survived: %t", strict, got)
		}
	}
	d := New()
	must[*File](t)(d.Create("/d/a"))
	if err := errors.Join(d.SyncDir("/d"), d.Remove("/d/a")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Open("/d/a"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("open a removed file: got %v", err)
	}
	if got := d.Restart(nil, KeptNothing).Paths("/d"); len(got) != 1 {
		t.Errorf("a removal that was not synced survived: %q", got)
	}
}

// What a failed sync was to write does not come back with the next one.
func TestFailedSyncLosesForGood(t *testing.T) {
	d := New()
	fail := false
	d.Fault = func(op Op) error {
		if fail && op.Kind == "sync" {
			return ErrIO
		}
		return nil
	}
	f := must[*File](t)(d.Create("/d/a"))
	must[int](t)(f.Write([]byte("lost")))
	fail = true
	if err := f.Sync(); !errors.Is(err, ErrIO) {
		t.Fatalf("got %v", err)
	}
	fail = false
	must[int](t)(f.Write([]byte("kept")))
	if err := errors.Join(f.Sync(), d.SyncDir("/d")); err != nil {
		t.Fatal(err)
	}
	if got := d.Restart(nil, KeptNothing).Content("/d/a"); !bytes.Equal(got, []byte("\x00\x00\x00\x00kept")) {
		t.Errorf("got %q", got)
	}
}

func TestFullDisk(t *testing.T) {
	d := New()
	d.Capacity = 10
	f := must[*File](t)(d.Create("/d/a"))
	if n, err := f.Write(make([]byte, 16)); n != 10 || !errors.Is(err, ErrFull) {
		t.Errorf("got %d, %v, want 10 bytes and a full disk", n, err)
	}
	if err := d.Remove("/d/a"); err != nil {
		t.Fatal(err)
	}
	f = must[*File](t)(d.Create("/d/b"))
	if _, err := f.Write(make([]byte, 10)); err != nil {
		t.Errorf("write where there is room again: %v", err)
	}
}
