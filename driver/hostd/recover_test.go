package hostd

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"

	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/session"
	"github.com/joulecloud/joule/driver/session/sessiontest"
	"github.com/joulecloud/joule/settlement/wire"
)

func (r *rig) restart() {
	r.t.Helper()
	if err := r.stop(); err != nil {
		r.t.Fatal(err)
	}
	r.start()
}

// records waits until the server has accepted n records of the task.
func (r *rig) records(req *hostapi.StartRequest, n int) sessiontest.Lease {
	r.t.Helper()
	var l sessiontest.Lease
	r.await("usage records", func() bool {
		l, _ = r.srv.Lease(req.ID)
		return len(l.Accepted) >= n
	})
	return l
}

func TestRestartInTheMiddle(t *testing.T) {
	r := newRig(t).start()
	running, ended := request(1), request(2)
	before, p1 := r.run(running)
	_, p2 := r.run(ended)
	r.records(running, 2)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	p2.end(7, 0) // while there is no hostd
	r.start()
	st, err := r.client.Task(t.Context(), running.ID)
	if err != nil || st.State == hostapi.StateExited || st.LeaseID != before.LeaseID {
		t.Errorf("running task: got %+v, %v", st, err)
	}
	if st, err = r.client.Wait(t.Context(), ended.ID); err != nil || st.Exit.Code != 7 {
		t.Errorf("ended task: got %+v, %v", st, err)
	}
	r.wantExact(r.bill(ended), p2)
	n := len(r.records(running, 1).Accepted)
	r.records(running, n+2)
	r.restart() // and once more
	p1.end(0, 0)
	l := r.bill(running)
	r.wantExact(l, p1)
	// One chain, no sequence left out or given out twice: the server would have
	// complained of the latter.
	for i, rec := range l.Accepted {
		if rec.Seq != uint64(i+1) {
			t.Errorf("record %d has sequence %d", i, rec.Seq)
		}
	}
	r.emptySpool()
	// An ended task is still known after a restart, and not billed again.
	r.restart()
	r.await("the ended task", func() bool {
		st, err := r.client.Task(t.Context(), ended.ID)
		return err == nil && st.Exit != nil && st.Exit.Code == 7
	})
	r.emptySpool()
	// A restart may come between an outcome and its taking effect: a repeat.
	got, _ := r.srv.Lease(ended.ID)
	delete(got.Statuses, joulev1.RecordStatus_RECORD_STATUS_REPEAT)
	if len(got.Statuses) != 1 {
		t.Errorf("outcomes of the ended task: got %v, want only accepted ones", got.Statuses)
	}
}

func TestRestartWithoutAServer(t *testing.T) {
	r := newRig(t).start()
	req := request(1)
	_, p := r.run(req)
	r.records(req, 1)
	r.srv.Stop()
	time.Sleep(100 * time.Millisecond) // checkpoints that nobody hears of
	r.restart()
	p.end(0, 0)
	if _, err := r.client.Wait(t.Context(), req.ID); err != nil {
		t.Fatal(err)
	}
	// Destroyed and forgotten here, but not its records.
	if err := r.client.Destroy(t.Context(), req.ID, false); err != nil {
		t.Fatal(err)
	}
	r.restart()
	r.srv.Start(t)
	r.wantExact(r.bill(req), p)
	r.emptySpool()
	r.await("the problem's end", func() bool {
		info, err := r.client.Host(t.Context())
		return err == nil && len(info.Problems) == 0
	})
}

func TestShimDied(t *testing.T) {
	t.Run("with its task", func(t *testing.T) {
		r := newRig(t).start()
		req := request(1)
		_, p := r.run(req)
		last := r.records(req, 2).Last()
		p.die()
		st, err := r.client.Wait(t.Context(), req.ID)
		if err != nil || !strings.Contains(st.Exit.Error, "shim died") {
			t.Errorf("got %+v, %v", st, err)
		}
		l := r.bill(req)
		if got := l.Last(); got.Quality&wire.QualityExitEstimated == 0 || got.Active.WallMs < last.Active.WallMs {
			t.Errorf("final record: got %+v after %+v", got, last)
		}
		p.mu.Lock()
		if p.kills == 0 {
			t.Error("what was left of the task was not killed")
		}
		p.mu.Unlock()
		// It is still so after a restart.
		r.restart()
		r.await("the task", func() bool {
			again, err := r.client.Task(t.Context(), req.ID)
			return err == nil && cmp.Equal(again.Exit, st.Exit) && again.CompletedAt.Equal(st.CompletedAt)
		})
	})
	t.Run("and its task lived on", func(t *testing.T) {
		r := newRig(t)
		r.cfg.Checkpoint = time.Minute // no boundary but the start
		r.start()
		req := request(1)
		_, p := r.run(req)
		alive := p.started.ExecMonoNs + (2500 * time.Millisecond).Nanoseconds()
		p.mu.Lock()
		p.sampleAt = alive
		p.mu.Unlock()
		p.die()
		l := r.bill(req)
		r.wantTotals(l, alive)
		if l.Last().Quality != wire.QualityExitEstimated {
			t.Errorf("quality: got %b", l.Last().Quality)
		}
	})
}

func TestHostRestarted(t *testing.T) {
	r := newRig(t).start()
	lost, told := request(1), request(2)
	_, p1 := r.run(lost)
	_, p2 := r.run(told)
	r.records(lost, 2)
	r.records(told, 1)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	lastSeen, _ := r.srv.Lease(lost.ID)
	p1.die()
	p2.end(0, unix.SIGKILL) // its shim got its exit to disk before the end
	for _, req := range []*hostapi.StartRequest{lost, told} {
		dir := filepath.Join(r.cfg.DataDir, tasksDir, hostapi.ContainerID(req.ID))
		rec, err := readRecord(dir)
		if err != nil {
			t.Fatal(err)
		}
		rec.BootID = "4d6b2a0e-0000-0000-0000-000000000000"
		if err := writeRecord(dir, rec); err != nil {
			t.Fatal(err)
		}
	}
	r.start()
	l := r.bill(lost)
	if got := l.Last(); got.Quality != wire.QualityRebooted|wire.QualityExitEstimated || got.Active.WallMs < lastSeen.Last().Active.WallMs {
		t.Errorf("final record of the lost task: got %+v after %+v", got, lastSeen.Last())
	}
	st, err := r.client.Wait(t.Context(), lost.ID)
	if err != nil || !strings.Contains(st.Exit.Error, "host restarted") || p1.kills != 0 {
		t.Errorf("lost task: got %+v, %v, %d kills", st, err, p1.kills)
	}
	r.wantExact(r.bill(told), p2)
	r.emptySpool()
}

func TestUnreadCounterIsNotZero(t *testing.T) {
	r := newRig(t).start()
	req := request(1)
	_, p := r.run(req)
	p.mu.Lock()
	p.noCPU = true
	p.mu.Unlock()
	r.await("a flagged record", func() bool {
		l, _ := r.srv.Lease(req.ID)
		return l.Last().Quality&wire.QualityCPUUnread != 0
	})
	p.end(0, 0)
	r.wantExact(r.bill(req), p)
}

// TestCutOffStarts lays out what a kill -9 at each step of a start leaves.
func TestCutOffStarts(t *testing.T) {
	r := newRig(t)
	write := func(n int, grant *session.Grant) *hostapi.StartRequest {
		req := request(n)
		dir := filepath.Join(r.cfg.DataDir, tasksDir, hostapi.ContainerID(req.ID))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		rec := &record{Version: recordVersion, Request: *req, ContainerID: hostapi.ContainerID(req.ID), BootID: "b", Grant: grant}
		if err := writeRecord(dir, rec); err != nil {
			t.Fatal(err)
		}
		return req
	}
	intent := write(1, nil)
	r.srv.AddLease(2, "h1", request(2).ID)
	granted := write(2, &session.Grant{Lease: 2, Epoch: 1})
	empty := filepath.Join(r.cfg.DataDir, tasksDir, "empty")
	torn := filepath.Join(r.cfg.DataDir, tasksDir, "torn")
	for _, dir := range []string{empty, torn} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(torn, taskFile), []byte(`{"version":1,"requ`), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	if tasks, err := r.client.Tasks(t.Context()); err != nil || len(tasks) != 0 {
		t.Errorf("got %v, %v, want no task", tasks, err)
	}
	if left, _ := os.ReadDir(filepath.Join(r.cfg.DataDir, tasksDir)); len(left) != 0 {
		t.Errorf("left in the tasks directory: %v", left)
	}
	if _, err := os.Stat(filepath.Join(r.cfg.DataDir, damagedDir, "torn", taskFile)); err != nil {
		t.Errorf("the torn task was not set aside: %v", err)
	}
	if !strings.Contains(r.logs.String(), "level=ERROR") || !strings.Contains(r.logs.String(), filepath.Join(damagedDir, "torn")) {
		t.Errorf("the torn task is not named in the log")
	}
	// Whoever asked for them asks again, and gets them, on the same lease.
	for _, req := range []*hostapi.StartRequest{intent, granted} {
		_, p := r.run(req)
		p.end(0, 0)
		r.wantExact(r.bill(req), p)
	}
	if got := r.srv.Closed(); len(got) != 0 {
		t.Errorf("closed: got %v, want none", got)
	}
}

func TestFundsStopGoesOnAfterARestart(t *testing.T) {
	r := newRig(t).start()
	req := request(1)
	st, p := r.run(req)
	signalled := make(chan unix.Signal, 10)
	p.mu.Lock()
	p.onSignal = func(s unix.Signal) { signalled <- s } // deaf
	p.mu.Unlock()
	r.await("a session", func() bool { return r.srv.Sessions() > 0 })
	r.srv.Command(wire.LeaseID(st.LeaseID), joulev1.StopReason_STOP_REASON_FUNDS)
	<-signalled
	r.restart()
	select {
	case <-signalled:
	case <-time.After(5 * time.Second):
		t.Fatal("the next hostd forgot the stop")
	}
	p.end(0, unix.SIGTERM)
	st, err := r.client.Wait(t.Context(), req.ID)
	if err != nil || st.Exit.Reason != "stopped: the customer's funds ran out" {
		t.Errorf("got %+v, %v", st, err)
	}
}

// TestDamagedSpool loses the chains of running leases: their totals must stay
// exact and no sequence may be signed twice.
func TestDamagedSpool(t *testing.T) {
	r := newRig(t).start()
	req := request(1)
	_, p := r.run(req)
	before := r.records(req, 3).Last()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(r.cfg.DataDir, spoolFile)
	if err := os.WriteFile(path, []byte("not a spool"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	if !strings.Contains(r.logs.String(), path+".damaged-") {
		t.Error("the file set aside is not named in the log")
	}
	r.await("records after the loss", func() bool {
		l, _ := r.srv.Lease(req.ID)
		return l.Last().Seq > before.Seq+10
	})
	p.end(0, 0)
	l := r.bill(req)
	r.wantExact(l, p)
	delete(l.Statuses, joulev1.RecordStatus_RECORD_STATUS_REPEAT) // as above
	if len(l.Statuses) != 1 {
		t.Errorf("outcomes: got %v, want accepted ones only", l.Statuses)
	}
}

func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	r := newRig(t)
	if err := unix.Mount("tmpfs", r.cfg.DataDir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("needs permission to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(r.cfg.DataDir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	pub, err := PublicKey(r.cfg.DataDir) // on the new disk
	if err != nil {
		t.Fatal(err)
	}
	r.srv.Enroll("h1", pub)
	r.start()
	req := request(1)
	_, p := r.run(req)
	r.records(req, 1)
	r.srv.Stop() // so that acknowledgements free nothing
	ballast := filepath.Join(r.cfg.DataDir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	f.Close()
	r.await("the disk to be full", func() bool { return strings.Contains(r.logs.String(), "the disk that holds the spool is full") })
	if info, err := r.client.Host(t.Context()); err != nil || len(info.Problems) != 1 || !strings.Contains(info.Problems[0], "full") {
		t.Errorf("Host: got %+v, %v, want the problem named", info, err)
	}
	p.end(0, 0)
	if _, err := r.client.Wait(t.Context(), req.ID); err != nil {
		t.Errorf("Wait: %v; the task's end must not wait for the disk", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	r.srv.Start(t)
	r.wantExact(r.bill(req), p)
	r.emptySpool()
	r.await("the problem's end", func() bool {
		info, err := r.client.Host(t.Context())
		return err == nil && len(info.Problems) == 0
	})
}
