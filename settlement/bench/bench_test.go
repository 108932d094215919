package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/joulecloud/joule/settlement/bench/postgres"
)

// The test program starts itself as servers and hosts.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && (os.Args[1] == serverPart || os.Args[1] == clientPart) {
		os.Exit(Main(context.Background(), os.Args, os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// The quick mode goes through everything, and its report has every figure.
func TestQuick(t *testing.T) {
	if testing.Short() {
		t.Skip("starts servers")
	}
	path := filepath.Join(t.TempDir(), "sub", "bench.json")
	args := []string{"joule-bench", "-quick", "-out", path}
	absent := postgres.Installed() != nil
	if absent {
		args = append(args, "-no-postgres")
	}
	var out, errw bytes.Buffer
	if code := Main(t.Context(), args, strings.NewReader(""), &out, &errw); code != 0 {
		t.Fatalf("exit code %d\n%s", code, &errw)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var report map[string]any
	if err := json.Unmarshal(b, &report); err != nil {
		t.Fatal(err)
	}
	for _, name := range Names() {
		v, ok := report[name].(float64)
		if absent && (strings.Contains(name, "postgres")) {
			continue
		}
		if !ok || v < 0 || v == 0 && name != "ledger_allocs_per_record" {
			t.Errorf("%s: got %v, want a figure", name, report[name])
		}
		if !strings.Contains(out.String(), name) {
			t.Errorf("the table lacks %s", name)
		}
	}
	t.Logf("%s\n%s", &errw, &out)
}

func TestFaultsOfFlags(t *testing.T) {
	for _, tc := range []struct{ args, want string }{
		{"-leases 10", "leases: want at least 1000, got 10"},
		{"-each 1ms", "each: want at least 100ms, got 1ms"},
		{"-rounds -1", "rounds: want at least 1, got -1"},
		{"more", `unexpected argument "more"`},
	} {
		var out, errw bytes.Buffer
		code := Main(t.Context(), append([]string{"joule-bench"}, strings.Fields(tc.args)...), strings.NewReader(""), &out, &errw)
		if code != 1 || !strings.Contains(errw.String(), tc.want) {
			t.Errorf("%s: exit code %d, got %q, want %q", tc.args, code, &errw, tc.want)
		}
	}
}
