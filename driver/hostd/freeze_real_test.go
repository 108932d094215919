package hostd

import (
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/joulecloud/joule/driver/cgroup"
	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/shim"
)

// frozenFor is the kernel's own account of the task's cgroup.
func (r *realRig) frozenFor(req *hostapi.StartRequest) time.Duration {
	r.t.Helper()
	host, err := cgroup.Detect(cgroup.DefaultRoot)
	if err != nil {
		r.t.Fatal(err)
	}
	g, err := host.Group(hostapi.ContainerID(req.ID))
	if err != nil {
		r.t.Fatal(err)
	}
	d := g.FrozenFor()
	if d == nil {
		r.t.Skip("needs a kernel that accounts for frozen time (Linux 6.18)")
	}
	return *d
}

// hostd is killed while it freezes and thaws a real task, at any moment: what is
// billed as active and as standby is the kernel's account of both.
func TestRealTurnsAcrossKill9OfHostd(t *testing.T) {
	r := newRealRig(t)
	req := r.task(1, "while :; do :; done")
	if _, err := r.client.Start(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			// Cut off or not: the next hostd knows.
			if i%2 == 0 {
				_, _ = r.client.Freeze(t.Context(), req.ID)
			} else {
				_, _ = r.client.Thaw(t.Context(), req.ID, &hostapi.ThawRequest{})
			}
		}()
		time.Sleep(rand.N(12 * time.Millisecond))
		r.kill()
		<-answered
		r.launch()
		r.records(req, len(r.records(req, 1).Accepted)+1)
	}
	if _, err := r.client.Thaw(t.Context(), req.ID, &hostapi.ThawRequest{}); err != nil {
		t.Fatal(err)
	}
	frozen := r.frozenFor(req)
	if _, err := r.client.Stop(t.Context(), req.ID, &hostapi.StopRequest{Signal: "SIGKILL"}); err != nil {
		t.Fatal(err)
	}
	got := r.bill(req).Last()
	s, e := taskFileOf[shim.Started](r, req, shim.StartedFile), taskFileOf[shim.Exit](r, req, shim.ExitFile)
	whole := time.Duration(e.ExitMonoNs - s.ExecMonoNs)
	near := func(name string, ms uint64, truth, within time.Duration) {
		if d := (time.Duration(ms)*time.Millisecond - truth).Abs(); d > within {
			t.Errorf("%s: billed %d ms, truth %v", name, ms, truth)
		}
	}
	near("both", got.Active.WallMs+got.Standby.WallMs, whole, time.Millisecond)
	near("cpu", got.Active.CPUMs+got.Standby.CPUMs, time.Duration(*e.CPUUsec-s.CPUBaseUsec)*time.Microsecond, time.Millisecond)
	// A freeze that was answered is counted from the moment that the task stood
	// still, the kernel's account begins with the order to.
	near("standby", got.Standby.WallMs, frozen, 20*time.Millisecond)
	if got.Quality != 0 {
		t.Errorf("got quality %b, want none", got.Quality)
	}
	t.Logf("billed %d ms active and %d ms standby of %v; frozen for %v", got.Active.WallMs, got.Standby.WallMs, whole, frozen)
}

// The wall clock steps forward by an hour, then back by two, while a short, a
// long and a frozen task run and the spool is lost: every bill is exact and no
// sequence is given out twice.
func TestRealClockStep(t *testing.T) {
	r := newRealRig(t)
	short, long, frozen := r.task(1, "sleep 0.3"), r.task(2, "sleep 1.5"), r.task(3, "sleep 600")
	for _, req := range []*hostapi.StartRequest{short, long, frozen} {
		if _, err := r.client.Start(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.client.Freeze(t.Context(), frozen.ID); err != nil {
		t.Fatal(err)
	}
	for _, off := range []time.Duration{time.Hour, -time.Hour} {
		r.stepClock(off)
		r.records(frozen, len(r.records(frozen, 1).Accepted)+2)
		r.kill()
		r.damageSpool(t)
		r.launch()
		r.records(frozen, len(r.records(frozen, 1).Accepted)+2)
	}
	if _, err := r.client.Stop(t.Context(), frozen.ID, &hostapi.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	for _, req := range []*hostapi.StartRequest{short, long} {
		if _, err := r.client.Wait(t.Context(), req.ID); err != nil {
			t.Fatal(err)
		}
		if rec := r.wantStamped(req); rec.Quality != 0 {
			t.Errorf("%s: quality %b", req.ID, rec.Quality)
		}
	}
	l := r.bill(frozen)
	s, e := taskFileOf[shim.Started](r, frozen, shim.StartedFile), taskFileOf[shim.Exit](r, frozen, shim.ExitFile)
	whole := (e.ExitMonoNs - s.ExecMonoNs + 500_000) / 1_000_000
	if got := int64(l.Last().Active.WallMs + l.Last().Standby.WallMs); got < whole-1 || got > whole+1 || l.Last().Quality != 0 {
		t.Errorf("the frozen task was billed %d ms with quality %b, ran %d ms", got, l.Last().Quality, whole)
	}
	for i := 1; i < len(l.Accepted); i++ {
		if l.Accepted[i].Seq <= l.Accepted[i-1].Seq {
			t.Errorf("sequence %d came after %d", l.Accepted[i].Seq, l.Accepted[i-1].Seq)
		}
	}
	if damaged, _ := filepath.Glob(filepath.Join(r.cfg.DataDir, spoolFile+".damaged-*")); len(damaged) != 2 {
		t.Errorf("got %q set aside, want two spools", damaged)
	}
}
