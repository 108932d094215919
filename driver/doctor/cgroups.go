package doctor

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/joulecloud/joule/driver/cgroup"
)

// controllersNeeded are those that hold a task to its limits.
var controllersNeeded = []string{"cpu", "memory", "pids"}

func checkCgroups(_ context.Context, e *examination) {
	root := e.sys.path(cgroup.DefaultRoot)
	host, err := cgroup.Detect(root)
	if err != nil {
		e.fail("hierarchy", "mount cgroups: mount -t cgroup2 none "+cgroup.DefaultRoot, "%s", strings.ReplaceAll(oneLine(err), e.sys.Root, ""))
		return
	}
	const toV2 = "boot with systemd.unified_cgroup_hierarchy=1 for v2"
	switch host.Mode {
	case cgroup.V2:
		e.ok("hierarchy", "v2")
	case cgroup.Hybrid:
		e.ok("hierarchy", "hybrid: v1 controllers; v2 meters, freezes and kills")
	default:
		e.warn("hierarchy", toV2+": v1 takes a standby milliseconds longer to wake", "v1")
	}
	found := host.Controllers()
	var missing []string
	for _, c := range controllersNeeded {
		if !slices.Contains(found, c) {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		advice := "mount the v1 controller, or " + toV2
		if host.Mode == cgroup.V2 {
			advice = "echo +" + strings.Join(missing, " +") + " > " + cgroup.DefaultRoot + "/cgroup.subtree_control; in a container delegate them to it (systemd: Delegate=yes)"
		}
		e.fail("controllers", advice, "no %s: tasks can't be held to their limits (there are %s)", strings.Join(missing, ", "), strings.Join(found, ", "))
	} else {
		e.ok("controllers", "%s", strings.Join(found, ", "))
	}
	if err := e.sys.MakeCgroup(); err != nil {
		e.fail("delegation", "hostd needs to make cgroups at the root of each hierarchy: run it as root, outside containers, with "+cgroup.DefaultRoot+" mounted read-write",
			"a cgroup can't be made: %s", oneLine(err))
	} else {
		e.ok("delegation", "cgroups can be made and removed")
	}
}

// makeCgroup makes and removes a cgroup in every hierarchy.
func makeCgroup() error {
	host, err := cgroup.Detect(cgroup.DefaultRoot)
	if err != nil {
		return err
	}
	group, err := host.Group("doctor-" + token())
	if err != nil {
		return err
	}
	defer tidy(host)()
	ctx, cancel := context.WithTimeout(context.Background(), cleanupWait)
	defer cancel()
	return errors.Join(group.CreateAll(), group.Remove(ctx))
}

// tidy removes the parents afterwards that were not there before: those that
// were are hostd's, which may be about to make a task's cgroup below.
func tidy(host *cgroup.Host) func() {
	if host.Parents() {
		return func() {}
	}
	return host.Tidy
}
