package daemon

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/client"
	"github.com/joulecloud/joule/settlement/loopback"
)

func load(t *testing.T, text string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "server.hcl")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path)
}

func TestLoadKeepsDefaults(t *testing.T) {
	cfg, err := load(t, `data_dir = "/var/lib/joule"`)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.DataDir = "/var/lib/joule"
	if diff := cmp.Diff(want, cfg, cmpopts.IgnoreUnexported(Config{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Every fault is reported at once, with its field and value.
func TestFaultsAreReportedTogether(t *testing.T) {
	_, err := load(t, `
name      = "two words"
data_dir  = "relative"
listen    = "nowhere"
raft_addr = "x"
nomad     = "ftp://nomad"
key_file  = "k.pem"
log_level = "loud"`)
	if err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{`name`, `"two words"`, `data_dir`, `"relative"`, `listen`, `"nowhere"`, `raft_addr`, `"x"`,
		`nomad`, `"ftp://nomad"`, `cert_file`, `"k.pem"`, `log_level`, `"loud"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s in it", err, want)
		}
	}
}

// The API trusts its network, so without TLS it stays on loopback.
func TestOpenNetworkNeedsTLS(t *testing.T) {
	_, err := load(t, "data_dir = \"/x\"\nlisten = \"0.0.0.0:7433\"")
	if err == nil || !strings.Contains(err.Error(), "cert_file") {
		t.Errorf("got %v, want cert_file to be required", err)
	}
}

func TestTokenFileMustBePrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte("secret\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg := Config{NomadTokenFile: path}
	if _, err := cfg.token(); err == nil || !strings.Contains(err.Error(), "0644") || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v, want the mode and not the secret", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := cfg.token(); err != nil || got != "secret" {
		t.Errorf("got %q, %v, want the token", got, err)
	}
}

// A server starts, answers, stops when told to, and starts again on its data.
func TestRun(t *testing.T) {
	cfg := Default()
	cfg.Name, cfg.DataDir = "s1", t.TempDir()
	cfg.Listen, cfg.RaftAddr = freeAddr(t), freeAddr(t)
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		ready := make(chan string, 1)
		done := make(chan error, 1)
		go func() {
			done <- Run(ctx, cfg, "test", slog.New(slog.DiscardHandler), func(addr string) { ready <- addr })
		}()
		select {
		case addr := <-ready:
			api, err := client.Dial("http://"+addr, "")
			if err != nil {
				t.Fatal(err)
			}
			if round == 0 {
				if _, err := api.CreateSupplier(ctx, &joulev1.CreateSupplierRequest{Key: "k", Name: "lab"}); err != nil {
					t.Error(err)
				}
			}
			r, err := api.ListAccounts(ctx, &joulev1.ListAccountsRequest{Prefix: "supplier/lab"})
			if err != nil || len(r.Accounts) != 1 {
				t.Errorf("round %d: got %v, %v, want the supplier's account", round, r, err)
			}
		case err := <-done:
			t.Fatalf("round %d: ended: %v", round, err)
		case <-time.After(20 * time.Second):
			t.Fatal("not ready after 20 s")
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("round %d: got %v, want no error", round, err)
		}
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	addr, err := loopback.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}
