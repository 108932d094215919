package plugin

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsimple"
)

// socketBytesMax is what the kernel takes of a unix socket's path.
const socketBytesMax = 107

// hostdCommand is the binary whose "hostd" command is hostd.
const hostdCommand = "joule"

// Config is the plugin's configuration as Nomad decodes it.
type Config struct {
	// HostdConfig is the absolute path of hostd.hcl, which also names the socket.
	HostdConfig string `codec:"hostd_config"`
	// HostdBinary is the absolute path of the joule binary; "" is the one beside
	// the plugin's own executable (its real place: plugin_dir may hold a link to
	// it, and must not hold joule itself), or else the one on PATH.
	HostdBinary string `codec:"hostd_binary"`
	// StartHostd tells whether the plugin starts hostd where nothing listens on
	// its socket. Turn it off where systemd keeps hostd.
	StartHostd bool `codec:"start_hostd"`
}

// settings are a Config's consequences, all checked.
type settings struct {
	hostdConfig string
	hostdBinary string // "" when startHostd is false
	startHostd  bool
	dataDir     string
	socket      string
}

// resolve checks the whole configuration and reports every fault at once. It
// reads files and changes nothing.
func (c Config) resolve() (settings, error) {
	s := settings{hostdConfig: c.HostdConfig, startHostd: c.StartHostd}
	var faults []error
	switch {
	case c.HostdConfig == "":
		faults = append(faults, errors.New(`hostd_config: required: the absolute path of hostd.hcl (got "")`))
	case !filepath.IsAbs(c.HostdConfig):
		faults = append(faults, fmt.Errorf("hostd_config: must be absolute (got %q)", c.HostdConfig))
	default:
		if err := s.readHostdConfig(); err != nil {
			faults = append(faults, fmt.Errorf("hostd_config: %w", err))
		}
	}
	if bin, err := c.findHostd(); err != nil {
		faults = append(faults, fmt.Errorf("hostd_binary: %w", err))
	} else {
		s.hostdBinary = bin
	}
	return s, errors.Join(faults...)
}

// hostdFile is the little of hostd.hcl that the plugin needs; hostd itself
// checks the rest.
type hostdFile struct {
	DataDir string   `hcl:"data_dir,optional"` // required: readHostdConfig says so
	Socket  string   `hcl:"socket,optional"`
	Rest    hcl.Body `hcl:",remain"`
}

func (s *settings) readHostdConfig() error {
	// Read apart from parsing, so that a missing file is named as the system
	// names it.
	src, err := os.ReadFile(s.hostdConfig)
	if err != nil {
		return err
	}
	var f hostdFile
	if err := hclsimple.Decode(hclName(s.hostdConfig), src, nil, &f); err != nil {
		if diags, ok := errors.AsType[hcl.Diagnostics](err); ok {
			err = errors.Join(diags.Errs()...) // its own words are the first one and a count
		}
		return fmt.Errorf("parse %q: %w", s.hostdConfig, err)
	}
	var faults []error
	if !filepath.IsAbs(f.DataDir) {
		faults = append(faults, fmt.Errorf("data_dir in %q: must be absolute (got %q)", s.hostdConfig, f.DataDir))
	}
	s.dataDir = f.DataDir
	s.socket = f.Socket
	if s.socket == "" {
		s.socket = filepath.Join(f.DataDir, "hostd.sock")
	} else if !filepath.IsAbs(s.socket) {
		faults = append(faults, fmt.Errorf("socket in %q: must be absolute (got %q)", s.hostdConfig, f.Socket))
	}
	if filepath.IsAbs(s.socket) && len(s.socket) > socketBytesMax {
		faults = append(faults, fmt.Errorf("socket in %q: must have at most %d bytes (got %d: %q)", s.hostdConfig, socketBytesMax, len(s.socket), s.socket))
	}
	return errors.Join(faults...)
}

// hclName gives hclsimple, which chooses the syntax by it, the name that hostd
// gives it as well.
func hclName(path string) string {
	if filepath.Ext(path) == ".hcl" {
		return path
	}
	return path + ".hcl"
}

func (c Config) findHostd() (string, error) {
	if c.HostdBinary != "" && !filepath.IsAbs(c.HostdBinary) {
		return "", fmt.Errorf("must be absolute (got %q)", c.HostdBinary)
	}
	if !c.StartHostd {
		return "", nil
	}
	if c.HostdBinary != "" {
		return c.HostdBinary, executable(c.HostdBinary)
	}
	var beside string
	if self, err := os.Executable(); err == nil {
		beside = filepath.Join(filepath.Dir(self), hostdCommand)
		if executable(beside) == nil {
			return beside, nil
		}
	}
	found, err := exec.LookPath(hostdCommand)
	if err != nil {
		return "", fmt.Errorf("found %s neither at %q nor on PATH: set hostd_binary, or start_hostd = false where something else keeps hostd", hostdCommand, beside)
	}
	return filepath.Abs(found)
}

func executable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return fmt.Errorf("not an executable file (got %q)", path)
	}
	return nil
}
