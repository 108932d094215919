package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

// What a Nomad operator does with a task: logs, exec, signal, stop, stats.
func TestNomadCommands(t *testing.T) {
	f := cluster(t)
	script := `trap 'echo got usr1' USR1; trap 'echo bye; exit 0' TERM; echo hello from $NOMAD_TASK_NAME; while :; do sleep 0.05; done`
	job, alloc := f.submit(t, task{kind: "service", command: "/bin/bash", args: []string{"-c", script},
		mutate: func(j *api.Job) { j.TaskGroups[0].Tasks[0].KillTimeout = pointer(5 * time.Second) }})
	f.running(t, alloc)
	logs := func(want string) {
		t.Helper()
		eventually(t, 10*time.Second, "log line", func() error {
			if out := f.nomad(t, "alloc", "logs", alloc); !strings.Contains(out, want) {
				return fmt.Errorf("got %q, want %q", out, want)
			}
			return nil
		})
	}
	logs("hello from main")
	if out := f.nomad(t, "alloc", "exec", alloc, "/bin/sh", "-c", "echo in $NOMAD_TASK_DIR; id -u"); !strings.Contains(out, "in /local") {
		t.Errorf("exec: got %q, want it in /local", out)
	}
	f.nomad(t, "alloc", "signal", "-s", "SIGUSR1", alloc)
	logs("got usr1")
	eventually(t, 10*time.Second, "resource use", func() error {
		a, _, err := f.cluster.NomadAPI.Allocations().Info(alloc, nil)
		if err != nil {
			return err
		}
		st, err := f.cluster.NomadAPI.Allocations().Stats(a, nil)
		if err != nil {
			return err
		}
		if st.ResourceUsage.MemoryStats.RSS+st.ResourceUsage.MemoryStats.Usage == 0 {
			return fmt.Errorf("no memory in %+v", st.ResourceUsage.MemoryStats)
		}
		return nil
	})
	f.nomad(t, "job", "stop", "-detach", job)
	lease := f.closed(t, alloc, 20*time.Second)
	logs("bye")
	f.exact(t, lease, "bash")
	if lease.Reason != "finished" {
		t.Errorf("got reason %q, want finished", lease.Reason)
	}
}

// A customer without funds: the task does not start, and Nomad says why.
func TestNoFunds(t *testing.T) {
	f := cluster(t)
	if err := f.customer(t.Context(), "broke", 0); err != nil {
		t.Fatal(err)
	}
	spec := sleepFor(time.Second)
	spec.namespace = "broke"
	_, alloc := f.submit(t, spec)
	failsWith(t, f, alloc, `customer "broke"`, "USD")
	if ls := f.leases(t, alloc); len(ls) != 0 {
		t.Errorf("got leases %v, want none", ls)
	}
}

// Funds that run out midway stop the task before the hold is overdrawn.
func TestFundsRunOut(t *testing.T) {
	f := cluster(t)
	// The first slice of a task here is 60 s of base, of every core, and of
	// 64 MiB; this is enough for it and a few seconds more.
	r, err := f.cluster.API.ListLeases(t.Context(), &joulev1.ListLeasesRequest{Customer: "acme", Host: "crowd-1"})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Leases) == 0 {
		_, alloc := f.submit(t, sleepFor(0))
		r.Leases = append(r.Leases, f.closed(t, alloc, 30*time.Second))
	}
	l := r.Leases[0]
	perHour := l.Prices.BaseNusdPerHour + int64(l.Resources.MilliCores)*l.Prices.CpuNusdPerHour/1000 +
		int64(l.Resources.MemoryMib)*l.Prices.MemoryNusdPerHour/1024
	if err := f.customer(t.Context(), "frugal", perHour/60+l.Prices.BaseNusdPerHour*4/3600); err != nil {
		t.Fatal(err)
	}
	spec := sleepFor(50 * time.Second)
	spec.namespace = "frugal"
	_, alloc := f.submit(t, spec)
	lease := f.closed(t, alloc, 45*time.Second)
	if lease.Reason != "funds" {
		t.Errorf("got reason %q, want funds", lease.Reason)
	}
	if lease.Billed.WallMs < 2000 || lease.Billed.WallMs > 25000 {
		t.Errorf("billed %d ms, want the task to be stopped after a few seconds", lease.Billed.WallMs)
	}
	f.exact(t, lease, "sleep")
	failsWith(t, f, alloc, "funds")
	accounts, err := f.cluster.API.ListAccounts(t.Context(), &joulev1.ListAccountsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range accounts.Accounts {
		if a.Balance < 0 && a.Name != "external" && a.Name != "issuance" {
			t.Errorf("account %s has %d", a.Name, a.Balance)
		}
	}
}

// A malformed config block fails the task with the field and the value.
func TestBadConfigBlock(t *testing.T) {
	f := cluster(t)
	for _, tc := range []struct {
		name string
		spec task
		want []string
	}{
		{"no command", task{command: ""}, []string{"command"}},
		{"a negative budget", task{command: "/bin/true", config: map[string]any{"budget": "-3"}}, []string{"budget", "-3"}},
		{"a price that is no number", task{command: "/bin/true", config: map[string]any{
			"max_price": []map[string]any{{"cpu": "cheap"}}}}, []string{"cpu", "cheap"}},
		{"an unknown key", task{command: "/bin/true", config: map[string]any{"comand": "x"}}, []string{"comand"}},
		{"a command that is not there", task{command: "/bin/no-such-program"}, []string{"no-such-program"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, alloc := f.submit(t, tc.spec)
			failsWith(t, f, alloc, tc.want...)
			for _, l := range f.leases(t, alloc) {
				if l.ChargedNusd != 0 {
					t.Errorf("lease L%d was charged %d nUSD", l.Id, l.ChargedNusd)
				}
			}
		})
	}
}

// A job whose max_price is below the host's offer is refused in plain words.
func TestTooDear(t *testing.T) {
	f := cluster(t)
	_, alloc := f.submit(t, task{command: "/bin/true", config: map[string]any{
		"max_price": []map[string]any{{"base": "0.10"}}}})
	failsWith(t, f, alloc, "base", "0.36", "0.1")
}

// failsWith waits until the allocation has failed, and checks that its events
// name what went wrong, as `nomad alloc status` shows them.
func failsWith(t *testing.T, f *fixture, alloc string, want ...string) {
	t.Helper()
	var a *api.Allocation
	eventually(t, 40*time.Second, "failed allocation", func() (err error) {
		if a, _, err = f.cluster.NomadAPI.Allocations().Info(alloc, nil); err != nil {
			return err
		}
		if a.ClientStatus != api.AllocClientStatusFailed {
			return fmt.Errorf("allocation is %s: %s", a.ClientStatus, taskEvents(a))
		}
		return nil
	})
	events := taskEvents(a)
	for _, w := range want {
		if !strings.Contains(events, w) {
			t.Errorf("got events %q, want %q in them", events, w)
		}
	}
	t.Log(events)
}

// A terminal works in exec: the shell sees a tty of the asked size.
func TestExecTTY(t *testing.T) {
	f := cluster(t)
	if _, err := exec.LookPath("script"); err != nil {
		t.Skip("needs script (bsdutils)")
	}
	job, alloc := f.submit(t, sleepFor(30*time.Second))
	f.running(t, alloc)
	cmd := exec.CommandContext(t.Context(), "script", "-qec",
		fmt.Sprintf("%s alloc exec -t -i %s /bin/sh -c 'tty; echo done'", f.programs.Nomad, alloc), "/dev/null")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "NOMAD_ADDR=" + f.cluster.NomadURL(), "NOMAD_NAMESPACE=acme"}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "/dev/pts/") || !strings.Contains(string(out), "done") {
		t.Errorf("got %v: %q, want a /dev/pts terminal and done", err, out)
	}
	f.nomad(t, "job", "stop", "-detach", job)
	f.closed(t, alloc, 20*time.Second)
}
