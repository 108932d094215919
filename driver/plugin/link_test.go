package plugin

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
)

// startingDriver starts hostd itself: the test binary, as a process of its own.
func startingDriver(t *testing.T, h host) *Driver {
	t.Helper()
	h.killHostd(t)
	d := testDriver(t)
	c := h.pluginConfig(t, Config{HostdConfig: h.config, HostdBinary: os.Args[0], StartHostd: true}, true)
	if err := d.SetConfig(c); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestHostdIsStartedOnceAndDetached(t *testing.T) {
	t.Setenv("AWS_CA_BUNDLE", "/nonexistent")
	h := newHost(t)
	d := startingDriver(t, h)
	if got := h.starts(t); len(got) != 0 {
		t.Fatalf("got %v started by SetConfig, want none", got)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := d.InspectTask("a/b/c"); err != drivers.ErrTaskNotFound {
				t.Errorf("got %v, want %v", err, drivers.ErrTaskNotFound)
			}
		})
	}
	wg.Wait()
	pids := h.starts(t)
	if len(pids) != 1 {
		t.Fatalf("got %v started, want one", pids)
	}
	sid, err := syscall.Getpgid(pids[0])
	if err != nil || sid != pids[0] {
		t.Errorf("got process group %d, %v, want its own, %d", sid, err, pids[0])
	}
	b, _ := os.ReadFile(filepath.Join(h.dir, "starts"))
	_, env, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	for kv := range strings.SplitSeq(env, ",") {
		if name, _, _ := strings.Cut(kv, "="); name != "PATH" && name != "HOME" {
			t.Errorf("got %q in hostd's environment", kv)
		}
	}
	if cwd, err := os.Readlink(filepath.Join("/proc", strings.Fields(string(b))[0], "cwd")); err != nil || cwd != "/" {
		t.Errorf("got working directory %q, %v, want /", cwd, err)
	}
}

func TestKilledHostdIsStartedAgainAndTheWaitGoesOn(t *testing.T) {
	h := newHost(t)
	d := startingDriver(t, h)
	cfg := task(t, TaskConfig{Command: "virtual", Args: []string{"800ms", "6"}})
	if _, _, err := d.StartTask(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var waits []<-chan *drivers.ExitResult
	for range 3 {
		ch, err := d.WaitTask(ctx, cfg.ID)
		if err != nil {
			t.Fatal(err)
		}
		waits = append(waits, ch)
	}
	for n := 1; n <= 2; n++ {
		if err := syscall.Kill(h.starts(t)[n-1], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "hostd is started again", func() bool { return len(h.starts(t)) == n+1 })
	}
	for _, ch := range waits {
		if x := within(t, 15*time.Second, ch, "exit"); x.ExitCode != 6 || x.Err != nil {
			t.Errorf("got %+v, want exit code 6", x)
		}
	}
	if got := h.starts(t); len(got) != 3 {
		t.Errorf("got hostd started %d times, want 3", len(got))
	}
}

func TestHostdThatCannotStartIsSaidSo(t *testing.T) {
	h := newHost(t)
	if err := os.WriteFile(filepath.Join(h.dir, "broken"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := startingDriver(t, h)
	l, err := d.hostd()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	err = l.call(ctx, func(ctx context.Context) error { _, err := l.client.Host(ctx); return err })
	if err == nil || !strings.Contains(err.Error(), `hostd does not answer at "`+h.socket+`"`) {
		t.Errorf("got %v, want the socket named", err)
	}
	if err := l.ensure(t.Context()); err == nil || !strings.Contains(err.Error(), "hostd exited (exit status 3), see \""+filepath.Join(h.dir, "hostd.log")) {
		t.Errorf("got %v, want the exit and the log named", err)
	}
	if got, want := lastLine(filepath.Join(h.dir, "hostd.log")), "fake hostd: the spool is full"; got != want {
		t.Errorf("last line: got %q, want %q", got, want)
	}
	// Once what was wrong is right, it comes up.
	if err := os.Remove(filepath.Join(h.dir, "broken")); err != nil {
		t.Fatal(err)
	}
	if err := l.ensure(t.Context()); err != nil {
		t.Errorf("got %v, want hostd up", err)
	}
}

func TestHostdKeptBySomeoneElseIsWaitedFor(t *testing.T) {
	h := newHost(t)
	d := testDriver(t)
	if err := d.SetConfig(h.pluginConfig(t, Config{HostdConfig: h.config}, true)); err != nil {
		t.Fatal(err)
	}
	asked := make(chan error, 1)
	go func() { _, err := d.InspectTask("a/b/c"); asked <- err }()
	time.Sleep(200 * time.Millisecond)
	newFake().listen(t, h.socket)
	if err := within(t, 5*time.Second, asked, "answer"); err != drivers.ErrTaskNotFound {
		t.Errorf("got %v, want %v", err, drivers.ErrTaskNotFound)
	}
	if got := h.starts(t); len(got) != 0 {
		t.Errorf("got %v started, want none", got)
	}
}

func TestBackoffGrowsToItsLimit(t *testing.T) {
	var got []time.Duration
	for n := range 9 {
		got = append(got, backoff(n+1, restartMax)/time.Millisecond)
	}
	if want := []time.Duration{100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000}; !slices.Equal(got, want) {
		t.Errorf("got %v ms, want %v", got, want)
	}
	if got := backoff(1<<40, retryMax); got != retryMax {
		t.Errorf("got %v, want %v", got, retryMax)
	}
}

func TestHostdEnv(t *testing.T) {
	if got, want := hostdEnv(func(string) string { return "" }), []string{"PATH=" + defaultPath}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
