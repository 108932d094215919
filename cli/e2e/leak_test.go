package e2e

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/joulecloud/joule/cli/devcluster"
	"github.com/joulecloud/joule/driver/cgroup"
)

var leakTasks = flag.Int("leak-tasks", 100, "how many tasks TestTasksLeakNothing starts and stops")

// holdings is what the processes and the file system of a host hold.
type holdings struct {
	hostdFiles, pluginFiles int
	hostdGoroutines         int
	pluginThreads           int
	cgroups, mounts, shims  int
	tasks                   int // known to hostd
	taskDirs, containers    int // on disk
	dataFiles               int
}

func (f *fixture) holdings(t *testing.T, h *devcluster.Host) (v holdings, err error) {
	info, err := h.Hostd().Host(t.Context())
	if err != nil {
		return v, err
	}
	plugin := pluginPid(t, h)
	count := func(pattern string) int {
		found, globErr := filepath.Glob(pattern)
		err = errors.Join(err, globErr)
		return len(found)
	}
	v.hostdFiles, v.hostdGoroutines, v.tasks = count(fmt.Sprintf("/proc/%d/fd/*", info.Pid)), info.Goroutines, info.Tasks
	v.pluginFiles, v.pluginThreads = count(fmt.Sprintf("/proc/%d/fd/*", plugin)), count(fmt.Sprintf("/proc/%d/task/*", plugin))
	// Ours alone: other hosts of this machine have theirs below the same parent.
	dirs, globErr := filepath.Glob(filepath.Join(h.DataDir(), "tasks", "*"))
	err = errors.Join(err, globErr)
	v.taskDirs = len(dirs)
	for _, d := range dirs {
		id := filepath.Base(d)
		v.cgroups += count(cgroup.DefaultRoot+"/joule/"+id) + count(cgroup.DefaultRoot+"/*/joule/"+id)
	}
	v.containers = count(filepath.Join(h.DataDir(), "runtime", "*", "*"))
	v.shims = len(shims(t, h))
	mounts, readErr := os.ReadFile("/proc/self/mountinfo")
	v.mounts = strings.Count(string(mounts), h.DataDir()+"/")
	walkErr := filepath.WalkDir(h.DataDir(), func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			v.dataFiles++
		}
		return nil
	})
	return v, errors.Join(err, readErr, walkErr)
}

// Tasks that are started and stopped in a loop leave nothing: no open file, no
// goroutine, no cgroup, no mount, no process, no file.
func TestTasksLeakNothing(t *testing.T) {
	f := cluster(t)
	h := f.cluster.Hosts[0]
	const round = 20
	run := func(n int) {
		_, alloc := f.submit(t, task{command: "/bin/true", mutate: func(j *api.Job) { j.TaskGroups[0].Count = pointer(n) }})
		a, _, err := f.cluster.NomadAPI.Allocations().Info(alloc, nil)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, 120*time.Second, fmt.Sprintf("end of %d tasks", n), func() error {
			s, _, err := f.cluster.NomadAPI.Jobs().Summary(a.JobID, &api.QueryOptions{Namespace: a.Namespace})
			if err != nil {
				return err
			}
			if g := s.Summary["main"]; g.Complete != n {
				return fmt.Errorf("%+v", g)
			}
			return nil
		})
		if _, _, err := f.cluster.NomadAPI.Jobs().Deregister(a.JobID, true, &api.WriteOptions{Namespace: a.Namespace}); err != nil {
			t.Fatal(err)
		}
	}
	settled := func(want *holdings) (got holdings) {
		eventually(t, 60*time.Second, "settled host", func() (err error) {
			if err := f.cluster.NomadAPI.System().GarbageCollect(); err != nil {
				return err
			}
			if got, err = f.holdings(t, h); err != nil {
				return err
			}
			if got.tasks+got.taskDirs+got.containers+got.shims+got.cgroups+got.mounts > 0 {
				return fmt.Errorf("still there: %+v", got)
			}
			if want == nil {
				return nil
			}
			// Connections come and go, threads stay: a little more is no leak.
			const slack = 8
			if got.hostdFiles > want.hostdFiles+slack || got.hostdGoroutines > want.hostdGoroutines+slack || got.pluginFiles > want.pluginFiles+slack ||
				got.pluginThreads > want.pluginThreads+slack || got.dataFiles > want.dataFiles {
				return fmt.Errorf("got %+v, before %+v", got, *want)
			}
			return nil
		})
		return got
	}
	run(round) // what is made once is made
	before := settled(nil)
	for left := *leakTasks; left > 0; left -= round {
		run(min(round, left))
	}
	after := settled(&before)
	t.Logf("before %+v", before)
	t.Logf("after  %+v", after)
}
