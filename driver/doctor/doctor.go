// Package doctor examines a supplier's host: what of it Joule's tasks need, what
// is missing, and what to do about it. It changes nothing that it doesn't undo.
//
// Everything that it reads goes through a System, whose root and answers are
// settings: so each check runs on a tree of files as well as on the machine.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/joulecloud/joule/driver/hostd"
)

// Status is how a check came out.
type Status string

// The statuses.
const (
	OK   Status = "ok"
	None Status = "none" // it isn't there, and needn't be
	Warn Status = "warn" // it works, but not as well as it could
	Fail Status = "fail" // tasks can't run, or aren't paid
)

// A Finding is what one check found.
type Finding struct {
	Area   string // "kernel", "cgroups", ...
	Check  string // unique within its area
	Status Status
	Found  string // what is there, with its values
	Advice string // what to do about it; "" where there is nothing to do
}

// Report is every finding, in the order of the checks.
type Report struct {
	Config   string // the path of hostd's configuration
	Host     string // the host's name; "" where the configuration can't be read
	Findings []Finding
}

// Count is how many findings have the status.
func (r *Report) Count(s Status) int {
	n := 0
	for _, f := range r.Findings {
		if f.Status == s {
			n++
		}
	}
	return n
}

// Options say what to examine.
type Options struct {
	Config     string        // path of hostd's configuration
	NomadAddr  string        // of the local agent's HTTP API
	NomadToken string        // "": none
	Timeout    time.Duration // of each question to another process or machine
}

// System is what the checks ask of the machine.
type System struct {
	Root    string // put before every path; "": the machine's own root
	Arch    string // GOARCH
	UID     int
	Version string // of this program

	Release       func() (string, error)                              // of the kernel, as uname has it
	Clock         func() (Clock, error)                               // adjtimex(2)
	Space         func(path string) (Space, error)                    // statfs(2)
	SyncFile      func(dir string) (time.Duration, error)             // write a file in dir, fsync and remove it
	MakeCgroup    func() error                                        // make one in every hierarchy, and remove it
	UserNamespace func(context.Context) error                         // run a program in a new one
	Stamps        func() error                                        // which of the kernel's stamps are missing, and why
	Trial         func(ctx context.Context, runtimePath string) error // run a container
	Executable    func() (string, error)                              // of this program
}

// Machine is the machine that this program runs on.
func Machine(version string) *System {
	return &System{
		Arch: runtime.GOARCH, UID: os.Geteuid(), Version: version,
		Release: release, Clock: adjtimex, Space: statfs, SyncFile: syncFile, MakeCgroup: makeCgroup,
		UserNamespace: userNamespace, Stamps: stamps, Trial: trial, Executable: os.Executable,
	}
}

// path is where the machine's p is.
func (s *System) path(p string) string {
	if s.Root == "" {
		return p
	}
	return filepath.Join(s.Root, p)
}

func (s *System) read(p string) (string, error) {
	b, err := os.ReadFile(s.path(p))
	return string(b), err
}

func (s *System) stat(p string) (fs.FileInfo, error) { return os.Stat(s.path(p)) }

func (s *System) exists(p string) bool {
	_, err := s.stat(p)
	return err == nil
}

// examination is a Report in the making.
type examination struct {
	sys    *System
	opt    Options
	cfg    hostd.Config // the zero value where haveCfg is false
	have   bool         // cfg is valid
	area   string
	report *Report
}

func (e *examination) add(status Status, check, advice, format string, args ...any) {
	e.report.Findings = append(e.report.Findings, Finding{
		Area: e.area, Check: check, Status: status, Found: fmt.Sprintf(format, args...), Advice: advice,
	})
}

func (e *examination) ok(check, format string, args ...any) { e.add(OK, check, "", format, args...) }

func (e *examination) none(check, format string, args ...any) {
	e.add(None, check, "", format, args...)
}

func (e *examination) warn(check, advice, format string, args ...any) {
	e.add(Warn, check, advice, format, args...)
}

func (e *examination) fail(check, advice, format string, args ...any) {
	e.add(Fail, check, advice, format, args...)
}

// Examine runs every check. It returns an error only where ctx has ended.
func Examine(ctx context.Context, sys *System, opt Options) (*Report, error) {
	if opt.Timeout <= 0 {
		return nil, fmt.Errorf("timeout: must be above 0 (got %v)", opt.Timeout)
	}
	e := &examination{sys: sys, opt: opt, report: &Report{Config: opt.Config}}
	for _, area := range []struct {
		name  string
		check func(context.Context, *examination)
	}{
		{"config", checkConfig},
		{"kernel", checkKernel},
		{"cgroups", checkCgroups},
		{"runtimes", checkRuntimes},
		{"metering", checkMetering},
		{"gpu", checkGPU},
		{"clock", checkClock},
		{"disk", checkDisk},
		{"hostd", checkHostd},
		{"servers", checkServers},
		{"nomad", checkNomad},
	} {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		e.area = area.name
		area.check(ctx, e)
	}
	return e.report, nil
}

// checkConfig loads hostd's configuration; each of its faults is a finding.
func checkConfig(_ context.Context, e *examination) {
	cfg, err := hostd.Load(e.sys.path(e.opt.Config))
	var faults hostd.Faults
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.fail("file", "install the package, or write it: README.md has an example; -config names another file", "%s: not there", e.opt.Config)
		return
	case errors.As(err, &faults):
		for _, f := range faults {
			e.fail(f.Field, "correct it in "+e.opt.Config, "%s", f.Problem)
		}
		return
	case err != nil:
		e.fail("file", "correct "+e.opt.Config, "%v", err)
		return
	}
	e.cfg, e.have, e.report.Host = cfg, true, cfg.Host
	if info, err := e.sys.stat(e.opt.Config); err == nil && info.Mode().Perm()&0o022 != 0 {
		e.warn("file", fmt.Sprintf("chmod go-w %s", e.opt.Config), "%s: others may write it (mode %04o)", e.opt.Config, info.Mode().Perm())
		return
	}
	e.ok("file", "%s: valid; host %s, class %s", e.opt.Config, cfg.Host, cfg.Class)
	if cfg.AllowHostRoot {
		e.warn("allow_host_root", "set allow_host_root = false unless you trust every customer",
			"tasks without an image see this machine's own programs and /etc, read-only")
	}
}

// needsConfig says that a check needs a valid configuration, where there is
// none.
func (e *examination) needsConfig(check string) bool {
	if e.have {
		return false
	}
	e.none(check, "not looked at: the configuration can't be used")
	return true
}
