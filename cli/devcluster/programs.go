package devcluster

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Programs are the binaries that a cluster runs. Resolve makes them absolute.
type Programs struct {
	Joule     string
	Shim      string
	PluginDir string // holds nomad-driver-joule and nothing else
	Nomad     string
	Runtime   string // runc
}

// Flags adds one flag per program; the defaults fit a checkout after make.
func (p *Programs) Flags(fs *flag.FlagSet) {
	fs.StringVar(&p.Joule, "joule", "", "joule binary (default: this one)")
	fs.StringVar(&p.Shim, "shim", "", "joule-shim binary (default: beside joule)")
	fs.StringVar(&p.PluginDir, "plugin-dir", "", "directory of nomad-driver-joule (default: plugins beside joule)")
	fs.StringVar(&p.Nomad, "nomad", "", "nomad binary (default: on PATH)")
	fs.StringVar(&p.Runtime, "runc", "", "runc binary (default: on PATH)")
}

// Resolve fills the defaults in and makes every path absolute.
func (p *Programs) Resolve() error {
	var err error
	if p.Joule == "" {
		if p.Joule, err = os.Executable(); err != nil {
			return err
		}
	}
	beside := filepath.Dir(p.Joule)
	if p.Shim == "" {
		p.Shim = filepath.Join(beside, "joule-shim")
	}
	if p.PluginDir == "" {
		p.PluginDir = filepath.Join(beside, "plugins")
	}
	for _, f := range []struct{ flag, name string }{{"-nomad", "nomad"}, {"-runc", "runc"}} {
		into := &p.Nomad
		if f.name == "runc" {
			into = &p.Runtime
		}
		if *into != "" {
			continue
		}
		if *into, err = exec.LookPath(f.name); err != nil {
			return fmt.Errorf("%s: no %s on PATH; `make tools` builds one", f.flag, f.name)
		}
	}
	for _, f := range []struct {
		flag string
		path *string
	}{{"-joule", &p.Joule}, {"-shim", &p.Shim}, {"-plugin-dir", &p.PluginDir}, {"-nomad", &p.Nomad}, {"-runc", &p.Runtime}} {
		if *f.path, err = filepath.Abs(*f.path); err != nil {
			return err
		}
		if _, err := os.Stat(*f.path); err != nil {
			return fmt.Errorf("%s: %w", f.flag, err)
		}
	}
	return nil
}
