package spool

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/joulecloud/joule/settlement/wire"
)

const childEnv = "SPOOL_TEST_CHILD"

// TestMain runs the writer that TestKill9 kills when the environment says so.
func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		if err := writeForever(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// writeForever spools records of two leases and says each one's sequence once
// Put has returned.
func writeForever(path string) error {
	s, err := Open(path, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	for i := uint64(1); ; i++ {
		a, b := record(i), record(i)
		state := []byte(strconv.FormatUint(i, 10))
		if err := s.Put(Update{Lease: 1, Record: &a, State: state}, Update{Lease: 2, Record: &b, State: state}); err != nil {
			return err
		}
		fmt.Println(a.Seq, b.Seq)
		if i%7 == 0 {
			if err := s.Ack(Acked{1, a.Seq - 3}); err != nil {
				return err
			}
		}
	}
}

func TestKill9LosesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "spool.db")
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	var last wire.Record
	for round := range rounds {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), childEnv+"="+path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Kill it in the middle of whatever comes after a few records.
		said := ""
		sc := bufio.NewScanner(out)
		for n := 0; sc.Scan(); n++ {
			said = sc.Text()
			if n == 5+7*round {
				cmd.Process.Kill()
			}
		}
		cmd.Wait()

		s, err := Open(path, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatalf("round %d: Open: %v", round, err)
		}
		if s.SetAside() != "" {
			t.Fatalf("round %d: file found damaged after a kill", round)
		}
		chain, ok, err := s.Chain(2)
		if err != nil || !ok {
			t.Fatalf("round %d: Chain: %v %v", round, ok, err)
		}
		durable, _ := strconv.ParseUint(strings.Fields(said)[1], 10, 64)
		if chain.Seq < durable {
			t.Errorf("round %d: sequence %d was said to be durable, %d is stored", round, durable, chain.Seq)
		}
		// Record, chain and state are of one transaction, and no link is missing.
		rs := pending(t, s, 1<<20)
		var prev *wire.Record
		for i := range rs {
			if rs[i].Lease != 2 {
				continue
			}
			if prev != nil && (rs[i].Seq != prev.Seq+1 || rs[i].Prev != prev.Hash) {
				t.Fatalf("round %d: record %d doesn't follow record %d", round, rs[i].Seq, prev.Seq)
			}
			prev = &rs[i]
		}
		if prev == nil || prev.Seq != chain.Seq || prev.Hash != chain.Hash || string(chain.State) != strconv.FormatUint(prev.Active.WallMs, 10) {
			t.Fatalf("round %d: last record %+v, chain %+v", round, prev, chain)
		}
		if prev.Seq <= last.Seq {
			t.Fatalf("round %d: last sequence %d, was %d", round, prev.Seq, last.Seq)
		}
		last = *prev
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFullDiskLosesNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Skipf("needs permission to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	path := filepath.Join(dir, "spool.db")
	s, err := Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Close() }()
	putOne(t, s, 1, 1)
	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	f.Close()

	stored, full := 1, 0
	for i := uint64(2); full < 20 && i < 10_000; i++ {
		r := record(i)
		switch err := s.Put(Update{Lease: wire.LeaseID(1 + i%50), Record: &r, State: make([]byte, 300)}); {
		case err == nil:
			stored++
		case errors.Is(err, ErrFull):
			full++
			if r.Seq != 0 {
				t.Fatalf("a failed Put gave out sequence %d", r.Seq)
			}
		default:
			t.Fatalf("Put: got %v, want ErrFull", err)
		}
	}
	if full == 0 {
		t.Fatal("the disk never filled")
	}
	if got := len(pending(t, s, 1<<20)); got != stored || s.Count() != stored {
		t.Errorf("with the disk full: %d records (count %d), want %d", got, s.Count(), stored)
	}
	// A crash now, and again later with room.
	s.Close()
	if s, err = Open(path, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatalf("Open on a full disk: %v", err)
	}
	if s.SetAside() != "" || s.Count() != stored {
		t.Fatalf("after reopening on a full disk: %d records, set aside %q, want %d", s.Count(), s.SetAside(), stored)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if r := putOne(t, s, 1, 99); r.Seq == 0 {
		t.Error("no sequence")
	}
	if got := s.Count(); got != stored+1 {
		t.Errorf("with room again: got %d records, want %d", got, stored+1)
	}
}
