package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
)

// network is what the first host makes networks of groups with: a bridge of its
// own, CNI's plugins, iptables.
type network struct {
	plugins string // CNI's; "": there are none here
	missing string // why there is no bridge
	forward []byte // ip_forward before us
	chains  map[string]bool
}

const (
	bridgeName   = "joule-e2e"
	bridgeSubnet = "10.203.117.0/24"
	ipForward    = "/proc/sys/net/ipv4/ip_forward"
)

// chainsOfBridges are those that Nomad and CNI's plugins leave in iptables.
var chainsOfBridges = []struct{ table, name, from string }{
	{"filter", "NOMAD-ADMIN", "CNI-FORWARD"}, {"filter", "CNI-FORWARD", "FORWARD"},
	{"nat", "CNI-HOSTPORT-DNAT", "PREROUTING"}, {"nat", "CNI-HOSTPORT-MASQ", "POSTROUTING"}, {"nat", "CNI-HOSTPORT-SETMARK", ""},
}

func newNetwork() (*network, error) {
	n := &network{chains: map[string]bool{}}
	for _, dir := range []string{"/opt/cni/bin", "/usr/lib/cni"} {
		if exists(filepath.Join(dir, "bridge")) {
			n.plugins = dir
			break
		}
	}
	if n.plugins == "" {
		n.missing = "needs CNI's plugins (containernetworking-plugins) in /opt/cni/bin or /usr/lib/cni"
		return n, nil
	}
	if _, err := exec.LookPath("iptables"); err != nil {
		n.missing = "needs iptables"
		return n, nil
	}
	for _, c := range chainsOfBridges {
		n.chains[c.name] = exec.Command("iptables", "-w", "-t", c.table, "-L", c.name).Run() == nil
	}
	var err error
	n.forward, err = os.ReadFile(ipForward)
	return n, err
}

// client is what the Nomad client is told of it.
func (n *network) client() string {
	if n.missing != "" {
		return ""
	}
	return fmt.Sprintf("  cni_path = %q\n  bridge_network_name = %q\n  bridge_network_subnet = %q\n", n.plugins, bridgeName, bridgeSubnet)
}

// remove removes what Nomad leaves of its bridge: it expects to be back.
func (n *network) remove() error {
	if n.missing != "" || !exists("/sys/class/net/"+bridgeName) {
		return nil
	}
	var errs []error
	run := func(args ...string) {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out)))
		}
	}
	run("ip", "link", "delete", bridgeName)
	for _, c := range chainsOfBridges {
		if n.chains[c.name] || exec.Command("iptables", "-w", "-t", c.table, "-L", c.name).Run() != nil {
			continue // not ours, or not there
		}
		// The rules that lead there are written as iptables itself lists them.
		run("sh", "-c", fmt.Sprintf("iptables -w -t %[1]s -S | grep -e '-j %[2]s$' | sed 's/^-A/-w -t %[1]s -D/' | xargs -r -L1 iptables", c.table, c.name))
		run("iptables", "-w", "-t", c.table, "-F", c.name)
		run("iptables", "-w", "-t", c.table, "-X", c.name)
	}
	return errors.Join(append(errs, os.WriteFile(ipForward, n.forward, 0))...)
}

// says waits until a file of a task's directory holds the words.
func (f *fixture) says(t *testing.T, alloc, path string, words ...string) string {
	t.Helper()
	var out string
	eventually(t, 30*time.Second, "text in "+path, func() error {
		r, err := f.cluster.NomadAPI.AllocFS().Cat(&api.Allocation{ID: alloc}, path, nil)
		if err != nil {
			return err
		}
		defer r.Close()
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		out = string(b)
		for _, w := range words {
			if !strings.Contains(out, w) {
				return fmt.Errorf("got %q, want %q in it", out, w)
			}
		}
		return nil
	})
	return out
}

// hears connects and reads what is said.
func hears(addr string) (string, error) {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

// answered waits until the address says who it is.
func answered(t *testing.T, addr, want string) {
	t.Helper()
	eventually(t, 15*time.Second, "answer at "+addr, func() error {
		got, err := hears(addr)
		if err == nil && got != want {
			err = fmt.Errorf("got %q, want %q", got, want)
		}
		return err
	})
}

// A task on the host's network listens on the port that Nomad gave it.
func TestHostNetwork(t *testing.T) {
	f := cluster(t)
	ref := f.pushImage(t, "app:net")
	job, alloc := f.submit(t, task{args: []string{"serve", "127.0.0.1:${NOMAD_PORT_http}"}, config: map[string]any{"image": ref}, kind: "service",
		mutate: func(j *api.Job) {
			j.TaskGroups[0].Networks = []*api.NetworkResource{{Mode: "host", DynamicPorts: []api.Port{{Label: "http"}}}}
		}})
	f.running(t, alloc)
	a, _, err := f.cluster.NomadAPI.Allocations().Info(alloc, nil)
	if err != nil {
		t.Fatal(err)
	}
	ports := a.AllocatedResources.Shared.Ports
	if len(ports) != 1 {
		t.Fatalf("got ports %v, want one", ports)
	}
	answered(t, fmt.Sprintf("127.0.0.1:%d", ports[0].Value), "hello from main\n")
	f.nomad(t, "job", "stop", "-detach", job)
	f.exact(t, f.closed(t, alloc, 20*time.Second), "escape")
}

// A task without a network sees a loopback of its own and no more.
func TestNoNetwork(t *testing.T) {
	f := cluster(t)
	_, alloc := f.submit(t, task{command: "/bin/bash", config: map[string]any{"network_mode": "none"},
		args: []string{"-c", "cat /proc/net/dev > /alloc/devices; cat /etc/hosts > /alloc/hosts; hostname > /alloc/name; sleep 0.5"}})
	f.exact(t, f.closed(t, alloc, 30*time.Second), "bash")
	devices := f.says(t, alloc, "alloc/devices", "lo:")
	if got := strings.Count(devices, ":"); got != 1 {
		t.Errorf("got %d network devices, want only lo:\n%s", got, devices)
	}
	f.says(t, alloc, "alloc/hosts", "127.0.0.1 localhost\n", "127.0.1.1 "+alloc[:8]+"\n")
	f.says(t, alloc, "alloc/name", alloc[:8]+"\n")

	// Nomad's own word for it can't be had: the client of v1.11.2 fails to set
	// such a group up before it asks any driver.
	_, alloc = f.submit(t, task{command: "/bin/true", mutate: func(j *api.Job) { j.TaskGroups[0].Networks = []*api.NetworkResource{{Mode: "none"}} }})
	failsWith(t, f, alloc, "network already configured but not found in state")
}

// A group on the bridge: its tasks share a namespace, a port below 1024 is open
// to an image's unprivileged user and mapped to one of the host, and the job's
// own DNS settings and host names are what the tasks see.
func TestBridgeNetwork(t *testing.T) {
	f := cluster(t)
	if f.network.missing != "" {
		t.Skip(f.network.missing)
	}
	ref := f.pushImage(t, "app:bridge")
	const peer = `cat /proc/net/dev > /alloc/devices; cat /etc/resolv.conf > /alloc/dns; cat /etc/hosts > /alloc/hosts
		until exec 3<>/dev/tcp/127.0.0.1/80; do sleep 0.1; done; cat <&3 > /alloc/heard; env > /alloc/env; sleep 600`
	job, alloc := f.submit(t, task{args: []string{"serve", ":80"}, config: map[string]any{"image": ref}, kind: "service",
		mutate: func(j *api.Job) {
			g := j.TaskGroups[0]
			g.Tasks[0].User = "4242"
			g.Networks = []*api.NetworkResource{{
				Mode: "bridge", DynamicPorts: []api.Port{{Label: "http", To: 80}},
				DNS: &api.DNSConfig{Servers: []string{"198.51.100.53"}, Searches: []string{"joule.test"}, Options: []string{"ndots:3"}},
			}}
			beside := api.NewTask("peer", "joule")
			beside.Config = map[string]any{"command": "/bin/bash", "args": []string{"-c", peer}}
			beside.Resources, beside.LogConfig = g.Tasks[0].Resources, g.Tasks[0].LogConfig
			g.AddTask(beside)
		}})
	f.says(t, alloc, "alloc/heard", "hello from main\n")
	var a *api.Allocation
	eventually(t, 10*time.Second, "network status", func() (err error) {
		// The client tells the server of it a moment later.
		if a, _, err = f.cluster.NomadAPI.Allocations().Info(alloc, nil); err == nil && a.NetworkStatus == nil {
			err = errors.New("none yet")
		}
		return err
	})
	port := a.AllocatedResources.Shared.Ports[0]
	answered(t, fmt.Sprintf("%s:%d", port.HostIP, port.Value), "hello from main\n")
	answered(t, a.NetworkStatus.Address+":80", "hello from main\n")
	f.says(t, alloc, "alloc/devices", "lo:", "eth0:")
	f.says(t, alloc, "alloc/dns", "search joule.test\nnameserver 198.51.100.53\noptions ndots:3\n")
	f.says(t, alloc, "alloc/hosts", "127.0.1.1 "+alloc[:8]+"\n")
	f.says(t, alloc, "alloc/env", "NOMAD_PORT_http=80\n", fmt.Sprintf("NOMAD_HOST_PORT_http=%d\n", port.Value))
	f.nomad(t, "job", "stop", "-detach", job)
	eventually(t, 30*time.Second, "two closed leases", func() error {
		ls := f.leases(t, alloc)
		for _, l := range ls {
			if l.State != "closed" {
				return fmt.Errorf("lease L%d is %s", l.Id, l.State)
			}
		}
		if len(ls) != 2 {
			return fmt.Errorf("%d leases", len(ls))
		}
		return nil
	})
	for _, l := range f.leases(t, alloc) {
		f.exact(t, l, map[string]string{"main": "escape", "peer": "bash"}[l.Task])
	}
	eventually(t, 30*time.Second, "namespace removed", func() error {
		if exists("/run/netns/" + alloc) {
			return errors.New("still there")
		}
		return nil
	})
}
