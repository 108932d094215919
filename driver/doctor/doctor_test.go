package doctor

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "rewrite the want sections of testdata/*.txtar; review the difference")

// TestHosts examines the hosts in testdata. Each is an archive: its comment says
// what the system calls answer (see machine), its files are the host's, and
// want is what doctor finds.
func TestHosts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("got %d hosts, %v", len(paths), err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			host, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			root := t.TempDir()
			want := ""
			at := -1
			for i, f := range host.Files {
				if f.Name == "want" {
					want, at = string(f.Data), i
					continue
				}
				to := filepath.Join(root, f.Name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, f.Data, 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			sys, opt := machine(t, root, string(host.Comment))
			r, err := Examine(t.Context(), sys, opt)
			if err != nil {
				t.Fatal(err)
			}
			got := render(r, root)
			if *update {
				if at < 0 {
					host.Files = append(host.Files, txtar.File{Name: "want"})
					at = len(host.Files) - 1
				}
				host.Files[at].Data = []byte(got)
				if err := os.WriteFile(path, txtar.Format(host), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("findings (-want +got; -update rewrites them):\n%s", diff)
			}
		})
	}
}

// machine is a system whose answers are lines of "name value":
//
//	release, arch, uid   of the kernel and of us
//	clock                synced or not, and the largest error
//	space                free and total MiB, then words: memory, readonly, or files N
//	fsync, cgroup, userns, stamps, trial   an error, or how long fsync takes
//	chmod MODE PATH      of a file; link TO PATH makes a symbolic link
//	nomad VERSION …      what an agent says of itself; 403 refuses; without the line there is none
func machine(t *testing.T, root, script string) (*System, Options) {
	t.Helper()
	answers := map[string]string{"release": "6.1.0-18-amd64", "arch": "amd64", "uid": "0", "clock": "synced 3ms",
		"space": "102400 204800", "fsync": "1ms"}
	for line := range strings.Lines(script) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "", "#":
		case "chmod":
			mode, path, _ := strings.Cut(rest, " ")
			n, err := strconv.ParseUint(mode, 8, 32)
			if err := errors.Join(err, os.Chmod(filepath.Join(root, path), os.FileMode(n))); err != nil {
				t.Fatal(err)
			}
		case "link":
			to, path, _ := strings.Cut(rest, " ")
			if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755), os.Symlink(to, filepath.Join(root, path))); err != nil {
				t.Fatal(err)
			}
		default:
			answers[word] = rest
		}
	}
	says := func(word string) error {
		if answers[word] == "" {
			return nil
		}
		return errors.New(answers[word])
	}
	uid, err := strconv.Atoi(answers["uid"])
	if err != nil {
		t.Fatal(err)
	}
	sys := &System{
		Root: root, Arch: answers["arch"], UID: uid, Version: "v1.2.3",
		Release: func() (string, error) { return answers["release"], nil },
		Clock: func() (c Clock, err error) {
			f := strings.Fields(answers["clock"])
			c.Synced = f[0] == "synced"
			c.MaxError, err = time.ParseDuration(f[1])
			return c, err
		},
		Space: func(string) (s Space, err error) {
			f := strings.Fields(answers["space"])
			_, err = fmt.Sscan(strings.Join(f[:2], " "), &s.Free, &s.Total)
			s.Free, s.Total = s.Free<<20, s.Total<<20
			for i, word := range f[2:] {
				s.InMemory = s.InMemory || word == "memory"
				s.ReadOnly = s.ReadOnly || word == "readonly"
				if word == "files" {
					s.Files = 1000_000
					_, err = fmt.Sscan(f[2:][i+1], &s.FreeFiles)
				}
			}
			return s, err
		},
		SyncFile: func(string) (time.Duration, error) {
			if d, err := time.ParseDuration(answers["fsync"]); err == nil {
				return d, nil
			}
			return 0, says("fsync")
		},
		MakeCgroup:    func() error { return says("cgroup") },
		UserNamespace: func(context.Context) error { return says("userns") },
		Stamps:        func() error { return says("stamps") },
		Trial:         func(context.Context, string) error { return says("trial") },
		Executable:    func() (string, error) { return "/usr/bin/joule", nil },
	}
	opt := Options{Config: "/etc/joule/hostd.hcl", NomadAddr: "http://127.0.0.1:1", Timeout: 5 * time.Second}
	if n := strings.Fields(answers["nomad"]); len(n) > 0 {
		opt.NomadAddr = nomadAgent(t, n)
	}
	return sys, opt
}

// nomadAgent says of itself: its version, then words: client, driver (healthy),
// sick (its driver isn't), dir=PATH.
func nomadAgent(t *testing.T, words []string) string {
	t.Helper()
	has := func(w string) bool {
		for _, x := range words {
			if x == w {
				return true
			}
		}
		return false
	}
	dir := ""
	for _, w := range words {
		if d, ok := strings.CutPrefix(w, "dir="); ok {
			dir = d
		}
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case words[0] == "403":
			w.WriteHeader(http.StatusForbidden)
		case r.URL.Path == "/v1/agent/self":
			fmt.Fprintf(w, `{"config":{"PluginDir":%q,"Version":{"Version":%q},"Client":{"Enabled":%v}},"stats":{"client":{"node_id":"n1"}}}`,
				dir, words[0], has("client"))
		case r.URL.Path == "/v1/node/n1" && has("driver"):
			fmt.Fprint(w, `{"Drivers":{"joule":{"Detected":true,"Healthy":true}}}`)
		case r.URL.Path == "/v1/node/n1" && has("sick"):
			fmt.Fprint(w, `{"Drivers":{"joule":{"Detected":true,"Healthy":false,"HealthDescription":"no runtime"}}}`)
		case r.URL.Path == "/v1/node/n1":
			fmt.Fprint(w, `{"Drivers":{"exec":{"Detected":true,"Healthy":true}}}`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// What differs from run to run.
var (
	someMs   = regexp.MustCompile(`\(\d+ ms\)`)
	somePort = regexp.MustCompile(`127\.0\.0\.1:\d+`)
)

func render(r *Report, root string) string {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s %s / %s: %s\n", f.Status, f.Area, f.Check, f.Found)
		if f.Advice != "" {
			fmt.Fprintf(&b, "    %s\n", f.Advice)
		}
	}
	out := strings.ReplaceAll(b.String(), root, "")
	return somePort.ReplaceAllString(someMs.ReplaceAllString(out, "(N ms)"), "127.0.0.1:PORT")
}

// Advice is there where something is to be done, and only there; a check is
// named once.
func TestEveryFindingSaysWhatToDo(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		host, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range host.Files {
			if f.Name != "want" {
				continue
			}
			lines := strings.Split(strings.TrimSpace(string(f.Data)), "\n")
			for i, line := range lines {
				advised := i+1 < len(lines) && strings.HasPrefix(lines[i+1], "    ")
				bad := strings.HasPrefix(line, "warn ") || strings.HasPrefix(line, "fail ")
				if !strings.HasPrefix(line, "    ") && bad != advised {
					t.Errorf("%s: advice: got %v after %q", path, advised, line)
				}
			}
		}
	}
}

func TestParseRelease(t *testing.T) {
	for text, want := range map[string]kernelVersion{"6.1.0-18-amd64": {6, 1}, "5.4": {5, 4}, "6.18.44-fc": {6, 18}, "4.19rc2": {4, 19}} {
		if got, err := parseRelease(text); err != nil || got != want {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "x.y", "6"} {
		if got, err := parseRelease(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

func TestOlder(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{{"1.11.2", "1.11", false}, {"1.9.0", "1.11", true}, {"2.0.0", "1.11", false}, {"0.12.1", "1.7", true}, {"1.11.0-dev", "1.11", false}, {"x", "1.7", true}} {
		if got := older(tc.a, tc.b); got != tc.want {
			t.Errorf("older(%q, %q): got %v, want %v", tc.a, tc.b, got, tc.want)
		}
	}
}

func TestExamineNeedsATimeout(t *testing.T) {
	if _, err := Examine(t.Context(), Machine("v"), Options{}); err == nil || !strings.Contains(err.Error(), "timeout: must be above 0") {
		t.Errorf("got %v, want a fault of timeout", err)
	}
}
