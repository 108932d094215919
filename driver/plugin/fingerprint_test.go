package plugin

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/joulecloud/joule/driver/hostapi"
)

func attrs(fp *drivers.Fingerprint) map[string]string {
	out := map[string]string{}
	for k, v := range fp.Attributes {
		out[k] = v.GoString()
	}
	return out
}

var crowdAttrs = map[string]string{
	"driver.joule":                      "1",
	"driver.joule.host":                 "crowd-1",
	"driver.joule.class":                "crowd",
	"driver.joule.version":              "0.1.0",
	"driver.joule.cgroup":               "hybrid",
	"driver.joule.runtime.runc":         "true",
	"driver.joule.runtime.runc.version": "1.5.2",

	"driver.joule.host_root":                "false",
	"driver.joule.isolation":                "weak",
	"driver.joule.isolation.seccomp":        "false",
	"driver.joule.isolation.user_namespace": "false",
}

// A runtime that doesn't work is there to be seen, and no reason to run nothing.
func TestFaultyRuntimeIsDescribed(t *testing.T) {
	info := &hostapi.HostInfo{ProtocolVersion: hostapi.Version, Host: "h", Class: "crowd", HostRoot: true,
		Runtimes: map[string]string{"runc": "1.5.2"}, RuntimeFaults: map[string]string{"crun": "it refuses this host"},
		Isolation: hostapi.Isolation{UserNamespace: true, Seccomp: true}}
	fp := describe(info, nil, nil)
	if want := "Healthy; runtime crun doesn't work: it refuses this host"; fp.Health != drivers.HealthStateHealthy || fp.HealthDescription != want {
		t.Errorf("got %s %q, want healthy %q", fp.Health, fp.HealthDescription, want)
	}
	got := attrs(fp)
	for name, want := range map[string]string{
		"driver.joule.runtime.crun": "false", "driver.joule.runtime.crun.fault": "it refuses this host", "driver.joule.runtime.runc": "true",
		"driver.joule.isolation": "shared-kernel", "driver.joule.isolation.seccomp": "true", "driver.joule.host_root": "true",
	} {
		if got[name] != want {
			t.Errorf("%s: got %q, want %q", name, got[name], want)
		}
	}
}

func TestFingerprintOverTheWire(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	began := time.Now()
	ch, err := r.Fingerprint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	fp := within(t, 3*time.Second, ch, "first fingerprint")
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %v, want it at once", took)
	}
	if fp.Err != nil || fp.Health != drivers.HealthStateHealthy || fp.HealthDescription != drivers.DriverHealthy {
		t.Errorf("got %+v, want healthy", fp)
	}
	if diff := cmp.Diff(crowdAttrs, attrs(fp)); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
}

// Every fingerprint that is sent costs a Raft write or a node event.
func TestFingerprintSendsOnlyChanges(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	ch, err := r.d.Fingerprint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	within(t, 3*time.Second, ch, "first fingerprint")
	l, _ := r.d.hostd()
	again := func() {
		n := len(r.fake.callsOf("GET host"))
		l.notify()
		eventually(t, "look again", func() bool { return len(r.fake.callsOf("GET host")) > n })
	}
	for range 3 {
		again()
		r.fake.set(func() { r.fake.info.SpoolRecords++; r.fake.info.Tasks++; r.fake.info.Pid++ })
	}
	select {
	case fp := <-ch:
		t.Errorf("got %+v, want nothing: nothing has changed", fp)
	case <-time.After(100 * time.Millisecond):
	}
	r.fake.set(func() { r.fake.info.Problems = []string{"no shim", "a disk is full"} })
	l.notify()
	fp := within(t, 3*time.Second, ch, "problems")
	if fp.Health != drivers.HealthStateUnhealthy || fp.HealthDescription != "a disk is full; no shim" {
		t.Errorf("got %v %q, want the problems, sorted", fp.Health, fp.HealthDescription)
	}
	r.fake.set(func() { r.fake.info.Problems = nil })
	l.notify()
	if fp = within(t, 3*time.Second, ch, "healthy again"); fp.Health != drivers.HealthStateHealthy {
		t.Errorf("got %+v, want healthy", fp)
	}
	cancel()
	for range ch { // ends: the sender selects on its context
	}
}

func TestFingerprintStartsHostdAndFollowsItsRecovery(t *testing.T) {
	h := newHost(t)
	d := startingDriver(t, h)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ch, err := d.Fingerprint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if fp := within(t, fingerprintWait+time.Second, ch, "first fingerprint"); fp.Health != drivers.HealthStateHealthy {
		t.Fatalf("got %+v, want healthy", fp)
	}
	// No task, no call: its end is noticed all the same, and the node stays as it was.
	if err := syscall.Kill(h.starts(t)[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "hostd is started again", func() bool { return len(h.starts(t)) == 2 })
	select {
	case fp := <-ch:
		t.Errorf("got %+v, want nothing: hostd was only away for a moment", fp)
	case <-time.After(200 * time.Millisecond):
	}
}

func TestFingerprintWithoutHostd(t *testing.T) {
	h := newHost(t)
	d := testDriver(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ch, err := d.Fingerprint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if fp := within(t, time.Second, ch, "not configured"); fp.Health != drivers.HealthStateUndetected {
		t.Errorf("got %+v, want undetected", fp)
	}
	cancel()

	d = testDriver(t)
	if err := d.SetConfig(h.pluginConfig(t, Config{HostdConfig: h.config}, true)); err != nil {
		t.Fatal(err)
	}
	if ch, err = d.Fingerprint(t.Context()); err != nil {
		t.Fatal(err)
	}
	fp := within(t, fingerprintWait+time.Second, ch, "no hostd")
	want := `hostd does not answer at "` + h.socket + `": no such file or directory`
	if fp.Health != drivers.HealthStateUnhealthy || fp.HealthDescription != want {
		t.Errorf("got %v %q, want unhealthy %q", fp.Health, fp.HealthDescription, want)
	}
	// It comes: any call that finds it again tells the fingerprint.
	newFake().listen(t, h.socket)
	l, _ := d.hostd()
	if err := l.ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if fp = within(t, time.Second, ch, "hostd"); fp.Health != drivers.HealthStateHealthy {
		t.Errorf("got %+v, want healthy", fp)
	}
}

func TestDescribe(t *testing.T) {
	info := newFake().info
	first := describe(&info, nil, nil)
	if diff := cmp.Diff(crowdAttrs, attrs(first)); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
	// Away: the attributes are the host's and stay.
	away := describe(nil, errors.New("gone"), first)
	if diff := cmp.Diff(crowdAttrs, attrs(away)); diff != "" || away.Health != drivers.HealthStateUnhealthy {
		t.Errorf("away: %v, attributes (-want +got):\n%s", away.Health, diff)
	}
	// A runtime is gone: Nomad forgets only what it is sent as empty.
	info.Runtimes = map[string]string{"runsc": "2026"}
	third := describe(&info, nil, away)
	got := attrs(third)
	for name, want := range map[string]string{
		"driver.joule.runtime.runc": "", "driver.joule.runtime.runc.version": "",
		"driver.joule.runtime.runsc": "true", "driver.joule.runtime.runsc.version": "2026",
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s: got %q (sent: %t), want %q", name, v, ok, want)
		}
	}
	if !same(third, describe(&info, nil, third)) {
		t.Error("the same answer twice makes another fingerprint")
	}
	info.ProtocolVersion = hostapi.Version + 1
	if fp := describe(&info, nil, third); fp.Health != drivers.HealthStateUnhealthy || fp.HealthDescription != "hostd speaks protocol 2, this plugin 1: upgrade the older one" {
		t.Errorf("got %v %q", fp.Health, fp.HealthDescription)
	}
}
