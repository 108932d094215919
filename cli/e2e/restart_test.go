package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/joulecloud/joule/driver/hostapi"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

// container is where a lease's task ran.
func container(l *joulev1.Lease) string {
	return hostapi.ContainerID(l.AllocId + "/" + l.Task + "/" + l.Invocation)
}

// Each restart that the job's policy allows is an invocation with a lease and a
// bill of its own.
func TestRestartPolicy(t *testing.T) {
	f := cluster(t)
	_, alloc := f.submit(t, task{command: "/bin/bash", args: []string{"-c", "sleep 0.2; echo again >> /alloc/runs; exit 3"}, mutate: func(j *api.Job) {
		j.TaskGroups[0].RestartPolicy = &api.RestartPolicy{Attempts: pointer(2), Interval: pointer(time.Minute), Delay: pointer(100 * time.Millisecond), Mode: pointer("fail")}
	}})
	failsWith(t, f, alloc, "Exit Code: 3", "Exceeded allowed attempts 2")
	f.says(t, alloc, "alloc/runs", "again\nagain\nagain\n")
	var leases []*joulev1.Lease
	eventually(t, 20*time.Second, "closed leases", func() error {
		leases = f.leases(t, alloc)
		for _, l := range leases {
			if l.State != "closed" {
				return fmt.Errorf("lease L%d is %s", l.Id, l.State)
			}
		}
		return nil
	})
	if len(leases) != 3 {
		t.Fatalf("got %d leases, want one for each of three runs", len(leases))
	}
	for _, l := range leases {
		f.exact(t, l, "bash")
	}
}

// A restart that a person asks for ends one invocation and begins another.
func TestAllocRestart(t *testing.T) {
	f := cluster(t)
	job, alloc := f.submit(t, task{kind: "service", command: "/bin/sleep", args: []string{"600"}})
	first := f.running(t, alloc)
	f.nomad(t, "alloc", "restart", alloc)
	eventually(t, 20*time.Second, "second lease", func() error {
		if n := len(f.leases(t, alloc)); n != 2 {
			return fmt.Errorf("%d leases", n)
		}
		return nil
	})
	f.nomad(t, "job", "stop", "-detach", job)
	eventually(t, 30*time.Second, "two closed leases", func() error {
		for _, l := range f.leases(t, alloc) {
			if l.State != "closed" {
				return fmt.Errorf("lease L%d is %s", l.Id, l.State)
			}
		}
		return nil
	})
	for _, l := range f.leases(t, alloc) {
		f.exact(t, l, "sleep")
		if l.Id == first.Id && l.Invocation != first.Invocation {
			t.Errorf("lease L%d changed its invocation", l.Id)
		}
	}
}

// A client that Nomad doesn't hear for a while comes back to the same task,
// which ran on, under the same lease: the bill has no gap.
func TestDisconnectedClient(t *testing.T) {
	f := cluster(t)
	h := f.cluster.Hosts[0]
	job, alloc := f.submit(t, task{kind: "service", command: "/bin/sleep", args: []string{"600"}, mutate: func(j *api.Job) {
		j.TaskGroups[0].Disconnect = &api.DisconnectStrategy{LostAfter: pointer(5 * time.Minute), Replace: pointer(false), Reconcile: pointer(api.ReconcileOptionKeepOriginal)}
	}})
	lease := f.running(t, alloc)
	status := func(want string) func() error {
		return func() error {
			a, _, err := f.cluster.NomadAPI.Allocations().Info(alloc, nil)
			if err == nil && a.ClientStatus != want {
				err = fmt.Errorf("allocation is %s", a.ClientStatus)
			}
			return err
		}
	}
	if err := h.Agent.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, 60*time.Second, "unknown allocation", status(api.AllocClientStatusUnknown))
	if err := h.Agent.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, 60*time.Second, "allocation running again", status(api.AllocClientStatusRunning))
	if ls := f.leases(t, alloc); len(ls) != 1 || ls[0].Id != lease.Id {
		t.Errorf("got leases %v, want still L%d alone", ls, lease.Id)
	}
	f.nomad(t, "job", "stop", "-detach", job)
	f.exact(t, f.closed(t, alloc, 30*time.Second), "sleep")
}
