// Package archtest checks the structure of the module: who may import whom,
// what the pure packages may touch, and a few things that reviewers forget.
// ARCHITECTURE.md says why; the table below is the rule.
package archtest

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/joulecloud/joule/"

// rule is one row of the table: what a package of ours may import. Test files
// are free.
type rule struct {
	ours []string // packages of this module
	// theirs are path prefixes of other modules; the standard library is free
	// unless the package is pure.
	theirs []string
	pure   bool
}

// outward is what may not appear in a pure package: the outside world, time
// and chance.
var outward = []string{"os", "io/fs", "net", "time", "math/rand", "math/rand/v2", "crypto/rand", "sync",
	"runtime", "syscall", "log", "log/slog", "context", "path/filepath", "unsafe"}

var apis = []string{"settlement/api/joule/v1", "settlement/api/joule/v1/joulev1connect"}

// table has every package. One that is not here fails the test.
var table = map[string]rule{
	"settlement/ledger":                      {pure: true},
	"settlement/wire":                        {pure: true, ours: []string{"settlement/ledger"}},
	"settlement/bill":                        {pure: true, ours: []string{"settlement/ledger"}},
	"settlement/money":                       {pure: true},
	"settlement/journal":                     {ours: []string{"settlement/ledger", "settlement/wire"}, theirs: []string{"golang.org/x/sys/unix"}},
	"settlement/audit":                       {ours: []string{"settlement/ledger", "settlement/wire", "settlement/journal"}},
	"settlement/node":                        {ours: []string{"raftstore", "settlement/backup", "settlement/ledger", "settlement/wire", "settlement/journal"}},
	"settlement/nomad":                       {ours: []string{"settlement/money"}, theirs: []string{"github.com/hashicorp/nomad/api"}},
	"settlement/api/joule/v1":                {theirs: []string{"google.golang.org/protobuf"}},
	"settlement/api/joule/v1/joulev1connect": {ours: apis[:1], theirs: []string{"connectrpc.com/connect"}},
	"settlement/refusal":                     {ours: []string{"settlement/ledger", "settlement/api/joule/v1"}, theirs: []string{"connectrpc.com/connect"}},
	"settlement/access":                      {theirs: []string{"github.com/hashicorp/hcl/v2"}},
	"settlement/server": {
		ours:   append([]string{"settlement/access", "settlement/ledger", "settlement/wire", "settlement/bill", "settlement/journal", "settlement/backup", "settlement/cluster", "settlement/node", "settlement/nomad", "settlement/refusal"}, apis...),
		theirs: []string{"connectrpc.com/connect"}},
	"settlement/enforce":   {ours: []string{"settlement/ledger", "settlement/nomad"}},
	"settlement/rate":      {pure: true},
	"settlement/rate/feed": {ours: []string{"settlement/rate"}},
	"settlement/client":    {ours: apis, theirs: []string{"connectrpc.com/connect"}},
	"settlement/backup":    {ours: []string{"settlement/ledger", "settlement/wire"}},
	"settlement/metrics": {
		ours:   []string{"raftstore", "settlement/cluster", "settlement/node"},
		theirs: []string{"github.com/prometheus/client_golang"}},
	"settlement/tlsca":    {},
	"settlement/loopback": {},
	"settlement/cluster": {
		ours:   append([]string{"raftstore", "settlement/backup", "settlement/journal", "settlement/node", "settlement/refusal"}, apis...),
		theirs: []string{"connectrpc.com/connect"}},
	"settlement/daemon": {
		ours: []string{"raftstore", "settlement/access", "settlement/cluster", "settlement/enforce", "settlement/journal", "settlement/metrics", "settlement/tlsca", "settlement/ledger", "settlement/money", "settlement/node", "settlement/nomad",
			"settlement/rate", "settlement/rate/feed", "settlement/server"},
		theirs: []string{"github.com/hashicorp/hcl/v2"}},

	"settlement/bench": {ours: []string{"settlement/bench/alone", "settlement/bench/cluster", "settlement/bench/postgres",
		"settlement/bench/workload"}, theirs: []string{"golang.org/x/sys/unix"}},
	"settlement/bench/joule-bench": {ours: []string{"settlement/bench"}},
	"settlement/bench/workload":    {ours: []string{"settlement/ledger"}},
	"settlement/bench/proc":        {theirs: []string{"golang.org/x/sys/unix"}},
	"settlement/bench/alone":       {ours: []string{"settlement/bench/proc", "settlement/bench/workload", "settlement/ledger", "settlement/wire"}},
	"settlement/bench/postgres": {ours: []string{"settlement/bench/proc", "settlement/bench/workload", "settlement/ledger"},
		theirs: []string{"github.com/jackc/pgx/v5"}},
	"settlement/bench/cluster": {
		ours: append([]string{"raftstore", "settlement/bench/proc", "settlement/bench/workload", "settlement/client",
			"settlement/ledger", "settlement/loopback", "settlement/node", "settlement/nomad", "settlement/server", "settlement/wire"}, apis...),
		theirs: []string{"connectrpc.com/connect"}},

	"raftstore": {theirs: []string{"github.com/hashicorp/raft", "github.com/hashicorp/go-hclog", "golang.org/x/sys/unix"}},

	"driver/hostapi":   {},
	"driver/cgroup":    {theirs: []string{"golang.org/x/sys/unix"}},
	"driver/procevent": {theirs: []string{"golang.org/x/sys/unix"}},
	"driver/meter":     {pure: true, ours: []string{"settlement/wire"}},
	"driver/oci": {theirs: []string{"github.com/containerd/go-runc", "github.com/moby/profiles/seccomp",
		"github.com/opencontainers/runtime-spec", "golang.org/x/sys/unix"}},
	"driver/image": {theirs: []string{"github.com/google/go-containerregistry", "github.com/klauspost/compress", "golang.org/x/sys/unix"}},
	"driver/shim": {
		ours:   []string{"driver/cgroup", "driver/procevent", "driver/oci"},
		theirs: []string{"golang.org/x/sys/unix", "github.com/containerd/go-runc"}},
	"driver/spool":   {ours: []string{"settlement/wire"}, theirs: []string{"go.etcd.io/bbolt"}},
	"driver/session": {ours: append([]string{"settlement/wire", "settlement/client"}, apis...), theirs: []string{"connectrpc.com/connect"}},
	"driver/hostd": {
		ours: append([]string{"driver/hostapi", "driver/cdi", "driver/cgroup", "driver/gpu", "driver/image", "driver/meter", "driver/oci", "driver/shim",
			"driver/spool", "driver/session", "settlement/wire"}, apis...),
		theirs: []string{"github.com/hashicorp/hcl/v2", "github.com/google/go-containerregistry/pkg/v1", "golang.org/x/sys/unix"}},
	"driver/doctor": {
		ours: append([]string{"driver/hostapi", "driver/cgroup", "driver/hostd", "driver/oci", "driver/procevent",
			"settlement/client", "settlement/wire"}, apis...),
		theirs: []string{"connectrpc.com/connect", "golang.org/x/sys/unix"}},
	"driver/plugin": {
		ours: []string{"driver/hostapi", "driver/gpu", "settlement/money"},
		theirs: []string{"github.com/hashicorp/nomad/", "github.com/hashicorp/go-hclog", "github.com/hashicorp/go-plugin",
			"github.com/hashicorp/hcl/v2", "golang.org/x/sys/unix", "github.com/creack/pty"}},
	"driver/cdi": {ours: []string{"driver/gpu"},
		theirs: []string{"tags.cncf.io/container-device-interface", "github.com/opencontainers/runtime-spec"}},
	"driver/gpu":                {theirs: []string{"golang.org/x/sys/unix"}},
	"driver/gpu/probe":          {ours: []string{"driver/gpu"}, theirs: []string{"github.com/NVIDIA/go-nvml"}},
	"driver/joule-gpu-probe":    {ours: []string{"driver/gpu/probe"}},
	"driver/nomad-driver-joule": {ours: []string{"driver/plugin"}, theirs: []string{"github.com/hashicorp/"}},
	"driver/joule-shim":         {ours: []string{"driver/shim"}},

	"cli/output":  {},
	"cli/outside": {theirs: []string{"golang.org/x/sys/unix"}},
	"cli/command": {
		ours:   append([]string{"cli/output", "settlement/access", "settlement/money", "settlement/client", "settlement/refusal"}, apis...),
		theirs: []string{"github.com/urfave/cli/v2", "connectrpc.com/connect", "google.golang.org/protobuf"}},
	"cli/devcluster": {
		ours:   append([]string{"driver/hostapi", "settlement/client", "settlement/loopback"}, apis...),
		theirs: []string{"github.com/hashicorp/nomad/api"}},
	"cli/demo": {
		ours:   append([]string{"cli/devcluster", "cli/outside", "driver/hostapi"}, apis...),
		theirs: []string{"github.com/hashicorp/nomad/api"}},
	"cli/mutants": {},
	"cli/joule":   {ours: []string{"cli/command", "cli/demo", "cli/devcluster", "settlement/money", "settlement/daemon", "settlement/client", "settlement/audit", "settlement/backup", "settlement/tlsca", "driver/doctor", "driver/hostd"}},
}

// testSupport are packages that only tests import.
var testSupport = []string{"cli/archtest", "cli/e2e", "driver/bench", "cli/command/commandtest", "driver/session/sessiontest",
	"driver/gpu/nvmlstub",
	"driver/procevent/tracetest", "raftstore/faultfs", "settlement/sim", "settlement/torture", "settlement/ledger/ledgertest"}

type goPackage struct {
	ImportPath string
	Dir        string
	Name       string
	GoFiles    []string
	Imports    []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Name,GoFiles,Imports", module+"...")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []goPackage
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func isStandard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

// Every package is in the table and imports only what its row allows.
func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		if slices.Contains(testSupport, name) {
			continue
		}
		r, ok := table[name]
		if !ok {
			t.Errorf("%s: not in the table of cli/archtest: give it a row, and a line in ARCHITECTURE.md", name)
			continue
		}
		for _, imp := range p.Imports {
			ours, isOurs := strings.CutPrefix(imp, module)
			switch {
			case isOurs:
				if !slices.Contains(r.ours, ours) {
					t.Errorf("%s may not import %s", name, ours)
				}
			case isStandard(imp):
				if r.pure && slices.Contains(outward, imp) {
					t.Errorf("%s is pure and may not import %s", name, imp)
				}
			case !slices.ContainsFunc(r.theirs, func(prefix string) bool { return strings.HasPrefix(imp, prefix) }):
				t.Errorf("%s may not import %s", name, imp)
			}
		}
	}
}

// driver and settlement share only the API, the wire format, the client and
// the money format.
func TestDriverAndSettlementAreApart(t *testing.T) {
	shared := append([]string{"settlement/wire", "settlement/client", "settlement/money"}, apis...)
	for name, r := range table {
		for _, imp := range r.ours {
			if strings.HasPrefix(name, "driver/") && strings.HasPrefix(imp, "settlement/") && !slices.Contains(shared, imp) {
				t.Errorf("the table lets %s import %s", name, imp)
			}
			if strings.HasPrefix(name, "settlement/") && strings.HasPrefix(imp, "driver/") {
				t.Errorf("the table lets %s import %s", name, imp)
			}
		}
	}
}

// NVIDIA's library can take its process down: only the probe may link it, and
// with it the C library.
func TestOnlyTheProbeLinksNVML(t *testing.T) {
	for _, main := range []string{"cli/joule", "driver/nomad-driver-joule", "driver/joule-shim"} {
		cmd := exec.Command("go", "list", "-deps", module+main)
		cmd.Dir = filepath.Join("..", "..")
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		for imp := range strings.FieldsSeq(string(out)) {
			if strings.Contains(imp, "go-nvml") || imp == module+"driver/gpu/probe" {
				t.Errorf("%s links %s", main, imp)
			}
		}
	}
}

// banned calls, with where they may stand after all.
var banned = map[string]func(pkg goPackage) bool{
	"time.Sleep":  func(goPackage) bool { return false },
	"os.Exit":     func(p goPackage) bool { return p.Name == "main" },
	"fmt.Print":   func(p goPackage) bool { return p.Name == "main" },
	"fmt.Printf":  func(p goPackage) bool { return p.Name == "main" },
	"fmt.Println": func(p goPackage) bool { return p.Name == "main" },
}

// Nothing sleeps where it could wait for an event, only main exits or prints,
// the pure packages have no float, no goroutine and no range over a map that
// could change a result.
func TestCode(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		if slices.Contains(testSupport, name) {
			continue
		}
		for _, file := range p.GoFiles {
			path := filepath.Join(p.Dir, file)
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			if ast.IsGenerated(f) {
				continue
			}
			if lines := fset.File(f.Pos()).LineCount(); lines > 600 {
				t.Errorf("%s/%s has %d lines: split it by noun", name, file, lines)
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.SelectorExpr:
					x, ok := n.X.(*ast.Ident)
					if !ok {
						break
					}
					call := x.Name + "." + n.Sel.Name
					if allowed, ok := banned[call]; ok && !allowed(p) {
						t.Errorf("%s: %s is banned", fset.Position(n.Pos()), call)
					}
				case *ast.GoStmt:
					if table[name].pure {
						t.Errorf("%s: a goroutine in a pure package", fset.Position(n.Pos()))
					}
				case *ast.Ident:
					if table[name].pure && (n.Name == "float64" || n.Name == "float32") {
						t.Errorf("%s: a float in a pure package", fset.Position(n.Pos()))
					}
				}
				return true
			})
		}
	}
}
