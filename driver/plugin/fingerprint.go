package plugin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"

	"github.com/joulecloud/joule/driver/hostapi"
)

const (
	fingerprintEvery = 5 * time.Second
	// fingerprintWait bounds one round; it includes starting hostd. Nomad waits
	// for the first one before it places anything.
	fingerprintWait = 4 * time.Second
)

const attrPrefix = "driver." + Name

// Fingerprint sends what the host offers: at once, and then only what has
// changed, because each change is a write to Nomad's Raft and a change of the
// description is a node event. It looks every five seconds, and as soon as hostd
// is known to have come or gone.
func (d *Driver) Fingerprint(ctx context.Context) (<-chan *drivers.Fingerprint, error) {
	ch := make(chan *drivers.Fingerprint)
	go func() {
		defer close(ch)
		var last *drivers.Fingerprint
		for {
			fp, changed := d.fingerprint(ctx, last)
			if ctx.Err() != nil || d.ctx.Err() != nil {
				return
			}
			if !same(fp, last) {
				select {
				case ch <- fp:
					last = fp
				case <-ctx.Done():
					return
				case <-d.ctx.Done():
					return
				}
			}
			next := time.NewTimer(fingerprintEvery)
			select {
			case <-next.C:
			case <-changed:
			case <-ctx.Done():
			case <-d.ctx.Done():
			}
			next.Stop()
		}
	}()
	return ch, nil
}

// fingerprint asks hostd once, and has it started where it is not there. The
// channel is closed when it is worth asking again.
func (d *Driver) fingerprint(ctx context.Context, last *drivers.Fingerprint) (*drivers.Fingerprint, <-chan struct{}) {
	l, err := d.hostd()
	if err != nil {
		return &drivers.Fingerprint{Health: drivers.HealthStateUndetected, HealthDescription: err.Error()}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, fingerprintWait)
	defer cancel()
	changed := l.watch() // before asking, so that nothing is missed in between
	info, err := l.client.Host(ctx)
	if err != nil && !answered(err) && ctx.Err() == nil {
		if err = l.ensure(ctx); err == nil {
			changed = l.watch()
			info, err = l.client.Host(ctx)
		}
	}
	return describe(info, l.unreachable(err), last), changed
}

// unreachable gives every failure to ask hostd the same, stable words.
func (l *link) unreachable(err error) error {
	var u *unreachableError
	if err == nil || errors.As(err, &u) {
		return err
	}
	return &unreachableError{socket: l.set.socket, err: err}
}

// describe turns hostd's answer, or its absence, into a fingerprint. While hostd
// is away the attributes stay as they were: they describe the host.
func describe(info *hostapi.HostInfo, err error, last *drivers.Fingerprint) *drivers.Fingerprint {
	fp := &drivers.Fingerprint{Attributes: map[string]*pstructs.Attribute{}}
	if err != nil {
		fp.Health, fp.HealthDescription = drivers.HealthStateUnhealthy, err.Error()
		if last != nil {
			fp.Attributes = last.Attributes
		}
		return fp
	}
	set := func(name, value string) { fp.Attributes[attrPrefix+name] = pstructs.NewStringAttribute(value) }
	set("", "1")
	set(".host", info.Host)
	set(".class", info.Class)
	set(".version", info.Version)
	set(".cgroup", info.Cgroup)
	for name, version := range info.Runtimes {
		fp.Attributes[attrPrefix+".runtime."+name] = pstructs.NewBoolAttribute(true)
		set(".runtime."+name+".version", version)
	}
	for name, why := range info.RuntimeFaults {
		fp.Attributes[attrPrefix+".runtime."+name] = pstructs.NewBoolAttribute(false)
		set(".runtime."+name+".fault", why)
	}
	flag := func(name string, v bool) { fp.Attributes[attrPrefix+name] = pstructs.NewBoolAttribute(v) }
	flag(".host_root", info.HostRoot)
	flag(".isolation.user_namespace", info.Isolation.UserNamespace)
	flag(".isolation.seccomp", info.Isolation.Seccomp)
	set(".isolation", info.Isolation.Tier())
	gpuAttributes(info.GPU, func(name string, a *pstructs.Attribute) { fp.Attributes[attrPrefix+name] = a })
	if last != nil {
		// Nomad only forgets an attribute that it is sent as empty.
		for name := range last.Attributes {
			if fp.Attributes[name] == nil {
				fp.Attributes[name] = pstructs.NewStringAttribute("")
			}
		}
	}
	switch {
	case info.ProtocolVersion != hostapi.Version:
		fp.Health = drivers.HealthStateUnhealthy
		fp.HealthDescription = fmt.Sprintf("hostd speaks protocol %d, this plugin %d: upgrade the older one", info.ProtocolVersion, hostapi.Version)
	case len(info.Problems) > 0:
		fp.Health = drivers.HealthStateUnhealthy
		fp.HealthDescription = strings.Join(slices.Sorted(slices.Values(info.Problems)), "; ")
	default:
		fp.Health, fp.HealthDescription = drivers.HealthStateHealthy, drivers.DriverHealthy
		for _, name := range slices.Sorted(maps.Keys(info.RuntimeFaults)) {
			fp.HealthDescription += fmt.Sprintf("; runtime %s doesn't work: %s", name, info.RuntimeFaults[name])
		}
	}
	return fp
}

func same(a, b *drivers.Fingerprint) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Health == b.Health && a.HealthDescription == b.HealthDescription &&
		maps.EqualFunc(a.Attributes, b.Attributes, func(x, y *pstructs.Attribute) bool { return x.GoString() == y.GoString() })
}
