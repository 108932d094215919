package command_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/joulecloud/joule/cli/command"
	"github.com/joulecloud/joule/cli/command/commandtest"
	"github.com/joulecloud/joule/cli/output"
	"github.com/joulecloud/joule/settlement/access"
	"github.com/joulecloud/joule/settlement/loopback"
	"github.com/joulecloud/joule/settlement/money"
)

var update = flag.Bool("update", false, "rewrite testdata/*.txt; review the difference")

// TestGolden runs the scripts in testdata against a fake settlement server.
//
//	# a comment
//	@fail METHOD FAULT        see commandtest.Server.Fail
//	@norate                   the server was never told a rate
//	$ joule …                 one command; '' quotes words, $REFUSED is a URL that refuses connections
//
// What follows a command is what it did: "→" each request that reached the
// server, then standard output, standard error after "! ", and the exit code
// unless it is 0. Fresh idempotency keys are fresh-1, fresh-2, ….
func TestGolden(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("find scripts: got %d, %v, want some", len(paths), err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := newScript(t).run(string(want))
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s (-want +got; -update rewrites it):\n%s", path, diff)
			}
		})
	}
}

// script runs command lines against one fake server.
type script struct {
	t       *testing.T
	server  *commandtest.Server
	url     string
	refused string
	keys    int
}

func newScript(t *testing.T) *script {
	t.Helper()
	for _, v := range []string{"JOULE_ADDR", "JOULE_CA_FILE", "JOULE_TOKEN_FILE", "JOULE_OUTPUT", "JOULE_TIMEOUT"} {
		t.Setenv(v, "") // restores it afterwards
		os.Unsetenv(v)
	}
	s := &script{t: t, server: commandtest.New(), refused: refusedURL(t)}
	s.url = s.server.Serve(t)
	t.Setenv("JOULE_ADDR", s.url)
	return s
}

// refusedURL is a loopback address that nobody listens on.
func refusedURL(t *testing.T) string {
	t.Helper()
	addr, err := loopback.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	return "http://" + addr
}

func (s *script) run(text string) string {
	s.t.Helper()
	var out strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		args, isCommand := strings.CutPrefix(line, "$ ")
		switch {
		case isCommand:
			if out.Len() > 0 && !strings.HasSuffix(out.String(), "\n\n") {
				out.WriteString("\n")
			}
			out.WriteString(line + "\n" + s.command(args))
		case strings.HasPrefix(line, "# "):
			if out.Len() > 0 && !strings.HasPrefix(lastLine(out.String()), "# ") {
				out.WriteString("\n")
			}
			out.WriteString(line + "\n")
		case strings.HasPrefix(line, "@"):
			out.WriteString("\n" + line + "\n")
			s.directive(strings.Fields(line))
		}
	}
	return out.String()
}

func lastLine(s string) string {
	s = strings.TrimSuffix(s, "\n")
	return s[strings.LastIndex(s, "\n")+1:]
}

func (s *script) directive(words []string) {
	s.t.Helper()
	switch {
	case words[0] == "@fail" && len(words) == 3:
		if err := s.server.Fail(words[1], words[2]); err != nil {
			s.t.Fatal(err)
		}
	case words[0] == "@norate":
		s.server.ForgetRate()
	default:
		s.t.Fatalf("unknown directive %q", words)
	}
}

func (s *script) command(line string) string {
	s.t.Helper()
	words := split(strings.ReplaceAll(line, "$REFUSED", s.refused))
	stdout, stderr, code := s.exec(words)
	var out strings.Builder
	for _, call := range s.server.Calls() {
		fmt.Fprintf(&out, "→ %s %s\n", call.Method, oneLine(s.t, call.Request))
	}
	out.WriteString(stdout)
	if stdout != "" && !strings.HasSuffix(stdout, "\n") {
		out.WriteString("\n[no newline at the end]\n")
	}
	for l := range strings.Lines(stderr) {
		out.WriteString("! " + l)
	}
	if code != 0 {
		fmt.Fprintf(&out, "[exit %d]\n", code)
	}
	r := strings.NewReplacer(s.url, "http://SERVER", s.refused, "$REFUSED",
		strings.TrimPrefix(s.refused, "http://"), "REFUSED")
	return r.Replace(out.String())
}

// exec runs one command line; words[0] is the program's name.
func (s *script) exec(words []string) (stdout, stderr string, code int) {
	s.t.Helper()
	var out, errs bytes.Buffer
	code = command.Main(s.t.Context(), s.deps(&out, &errs), words)
	return out.String(), errs.String(), code
}

func (s *script) deps(out, errs io.Writer) command.Deps {
	return command.Deps{
		Out: out, Err: errs, Version: "v1.2.3",
		NewToken: func(name string, role access.Role, subject string) (string, access.Token, error) {
			const secret = "joule-AAAABBBBCCCCDDDDEEEEFFFFGG"
			_, t, err := access.New(name, role, subject)
			sum := sha256.Sum256([]byte(secret))
			t.SHA256 = hex.EncodeToString(sum[:])
			return secret, t, err
		},
		NewKey: func() string { s.keys++; return fmt.Sprintf("fresh-%d", s.keys) },
		CreateCA: func(o command.CertificateOptions) (*command.Certificate, error) {
			return &command.Certificate{CertFile: "joule-ca.pem", KeyFile: "joule-ca-key.pem", NotAfter: time.Unix(0, 0).Add(o.Validity)}, nil
		},
		CreateCert: func(o command.CertificateOptions) (*command.Certificate, error) {
			return &command.Certificate{CertFile: o.Name + ".pem", KeyFile: o.Name + "-key.pem", NotAfter: time.Unix(0, 0).Add(o.Validity), DNS: o.DNS,
				IPs: []string{fmt.Sprint(o.IPs)}}, nil
		},
		Recover: func(config, peers string) (*command.Recovery, error) {
			return &command.Recovery{Server: "s1", Peers: []string{"id-1 at 10.0.0.1:7434"}, Block: 40, Digest: commandtest.Digest}, nil
		},
		Backup: func(path string, verify bool) (*command.Backup, error) {
			if path == "broken" {
				return nil, errors.New("broken: the backup is damaged")
			}
			return &command.Backup{Created: "2026-01-01T00:00:00Z", Server: "s1", Program: "v1.2.3", Block: 40, Digest: commandtest.Digest,
				Entries: 42, Accounts: 9, Leases: 3, Verified: verify}, nil
		},
		RunServer: func(_ context.Context, config string, check bool) error {
			if config == "bad.hcl" {
				return command.Invalid(errors.New("listen: want host:port, got \"x\"\ndata_dir: want an absolute path, got \"\""))
			}
			if !check {
				fmt.Fprintf(errs, "server ran from %s\n", config)
			}
			return nil
		},
		RunHostd: func(_ context.Context, config string, check bool) error {
			if config == "bad.hcl" {
				return command.Invalid(errors.New("data_dir: must be an absolute path (got \"x\")\nservers: must name at least one settlement server"))
			}
			if !check {
				fmt.Fprintf(errs, "hostd ran from %s\n", config)
			}
			return nil
		},
		RunDoctor: func(_ context.Context, config string, timeout time.Duration) (*command.DoctorReport, error) {
			r := &command.DoctorReport{Config: config, Host: "dc-1", Findings: []command.DoctorFinding{
				{Area: "kernel", Check: "release", Status: "ok", Found: "Linux 6.1.0"},
				{Area: "kernel", Check: "overlayfs", Status: "ok", Found: "there"},
				{Area: "gpu", Check: "driver", Status: "none", Found: "no NVIDIA card"}}}
			switch config {
			case "broken.hcl":
				r.Findings = append(r.Findings,
					command.DoctorFinding{Area: "clock", Check: "synchronised", Status: "warn", Found: "no", Advice: "apt-get install chrony"},
					command.DoctorFinding{Area: "servers", Check: "https://s1", Status: "fail", Found: "not reachable: \x1b[2J", Advice: fmt.Sprint("asked for ", timeout)})
			case "nowhere.hcl":
				return nil, context.Canceled
			}
			return r, nil
		},
		RunDev:  func(_ context.Context, args []string) error { fmt.Fprintf(out, "dev %q\n", args); return nil },
		RunDemo: func(_ context.Context, args []string) error { fmt.Fprintf(out, "demo %q\n", args); return nil },
		RunAudit: func(_ context.Context, dir string) (*command.AuditReport, error) {
			if dir == "nowhere" {
				return nil, fmt.Errorf("open journal: %w", os.ErrNotExist)
			}
			r := &command.AuditReport{Dir: dir, Blocks: 12, Commands: 20, Entries: 42, Transfers: 30, Leases: 3, Records: 7,
				FromUnixMs: 1_793_534_400_000, ToUnixMs: 1_793_534_409_000, Digest: commandtest.Digest,
				Checks: []command.AuditCheck{{Name: "chain", Checked: 12}, {Name: "charges", Checked: 3}},
				Accounts: []command.AuditAccount{{Name: "external", Currency: money.USD, Balance: -5_000_000_000},
					{Name: "treasury", Currency: money.Joule, Balance: 999_973_337_681}},
				Findings: []command.AuditFinding{}}
			switch dir {
			case "torn":
				r.Checks[1].Stopped = "block 13 does not decode"
			case "growing":
				r.Note = "an unfinished block ends the journal"
			case "forged":
				r.Checks[1].Findings = 1
				r.Findings = append(r.Findings, command.AuditFinding{Check: "charges", BlockSeq: 7, EntrySeq: 30,
					Text: "lease 1: charged 232034 nUSD, usage and prices give 232033"})
			}
			return r, nil
		},
		PublicKey: func(config string) (ed25519.PublicKey, error) {
			if config != "hostd.hcl" {
				return nil, command.Invalid(fmt.Errorf("read configuration: open %s: no such file or directory", config))
			}
			return bytes.Repeat([]byte{0xab}, ed25519.PublicKeySize), nil
		},
	}
}

// split takes a command line apart at blanks; single quotes keep them.
func split(line string) []string {
	var words []string
	var word strings.Builder
	quoted, started := false, false
	for _, r := range line {
		switch {
		case r == '\'':
			quoted, started = !quoted, true
		case r == ' ' && !quoted:
			if started {
				words = append(words, word.String())
			}
			word.Reset()
			started = false
		default:
			word.WriteRune(r)
			started = true
		}
	}
	if started {
		words = append(words, word.String())
	}
	return words
}

func oneLine(t *testing.T, m proto.Message) string {
	t.Helper()
	var buf bytes.Buffer
	if err := output.JSON(&buf, command.PlainJSON(m)); err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(buf.String()), " ")
}
