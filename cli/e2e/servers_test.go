package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/joulecloud/joule/cli/devcluster"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

// Three settlement servers with tokens, as `joule dev -servers 3 -tokens` has
// them: a task runs on and is billed whole while the server that leads is
// killed, and nobody is answered without a token.
func TestThreeServersWithTokens(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a whole cluster: not with -short")
	}
	p, missing, err := programs()
	if missing != "" {
		t.Skip(missing)
	}
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{programs: p}
	if f.dir, err = os.MkdirTemp("", "joule-e2e-"); err != nil { // sockets go below it: t.TempDir is too long
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(f.dir) })
	host := devcluster.TwoHosts()[0]
	host.Offer = &joulev1.Prices{BaseNusdPerHour: 360_000_000, CpuNusdPerHour: 40_000_000}
	f.cluster, err = devcluster.Start(t.Context(), devcluster.Config{Dir: f.dir, LogDir: filepath.Join(f.dir, "logs"), Programs: p,
		Servers: 3, Tokens: true, Hosts: []devcluster.HostSpec{host}, Out: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.cluster.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := f.cluster.Seed(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, alloc := f.submit(t, sleepFor(8*time.Second))
	lease := f.running(t, alloc)

	var leader *devcluster.Server
	eventually(t, 20*time.Second, "leader", func() error {
		for _, s := range f.cluster.Servers {
			if st, err := s.API.GetStatus(t.Context(), &joulev1.GetStatusRequest{}); err == nil && st.Leader {
				leader = s
				return nil
			}
		}
		return fmt.Errorf("none leads")
	})
	if err := leader.Kill(); err != nil {
		t.Fatal(err)
	}
	var others []*devcluster.Server
	for _, s := range f.cluster.Servers {
		if s != leader {
			others = append(others, s)
		}
	}
	f.cluster.API = others[0].API
	closed := f.closed(t, alloc, 60*time.Second)
	if closed.Id != lease.Id || closed.Billed.WallMs < 8000 || len(closed.Quality) > 0 {
		t.Errorf("got %v, want lease L%d billed whole, without flags", closed, lease.Id)
	}
	f.provenCharge(t, closed)
	if err := leader.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	joule := func(s *devcluster.Server, token string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), p.Joule, args...)
		cmd.Env = []string{"HOME=" + os.Getenv("HOME"), "JOULE_ADDR=" + s.URL, "JOULE_TOKEN_FILE=" + token}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, s := range f.cluster.Servers {
		out, err := joule(s, f.cluster.TokenFile(), "bill", "acme")
		if err != nil || !strings.Contains(out, fmt.Sprint(closed.Billed.WallMs)) {
			t.Errorf("the bill from %s: got %s, %v", s.URL, out, err)
		}
		if out, err := joule(s, "", "bill", "acme"); err == nil || !strings.Contains(out, "a token is needed") {
			t.Errorf("the bill from %s without a token: got %s, %v", s.URL, out, err)
		}
	}
}
