package hostd

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/joulecloud/joule/driver/session"
)

// Limits of a Config.
const (
	hostBytesMax   = 64  // a host's name
	socketBytesMax = 103 // the kernel takes 107, and the socket is made under a longer name first
	checkpointMin  = 10 * time.Millisecond
	checkpointMax  = time.Minute
)

// Config is a host daemon's configuration, in the form of its HCL file.
type Config struct {
	DataDir       string   // host key, tasks, spool; absolute
	Host          string   // the name it is enrolled under
	Servers       []string // URLs of the settlement servers
	CAFile        string   // PEM; "": the system's certificate authorities
	Class         string   // "crowd" or "datacenter"
	Runtimes      []string // OCI runtimes: names or absolute paths; the first that works is used
	AllowHostRoot bool     // tasks may see the host's own root, read-only
	Socket        string   // where the plugin and the CLI reach hostd
	Shim          string   // path of joule-shim; "": beside our executable, then on PATH
	Checkpoint    time.Duration
	Images        Images
	Isolation     Isolation
	GPU           GPUConfig
}

// file is the HCL form of a Config. Nothing is required here, so that Validate
// reports what is missing beside every other fault.
type file struct {
	DataDir       string   `hcl:"data_dir,optional"`
	Host          *string  `hcl:"host"`
	Servers       []string `hcl:"servers,optional"`
	CAFile        string   `hcl:"ca_file,optional"`
	Class         *string  `hcl:"class"`
	Runtimes      []string `hcl:"runtimes,optional"`
	AllowHostRoot bool     `hcl:"allow_host_root,optional"`
	Socket        string   `hcl:"socket,optional"`
	Shim          string   `hcl:"shim,optional"`
	Checkpoint    *string  `hcl:"checkpoint"`

	Images    *imagesFile    `hcl:"images,block"`
	Isolation *isolationFile `hcl:"isolation,block"`
	GPU       *gpuFile       `hcl:"gpu,block"`
}

// Default returns what a configuration file need not say.
func Default() Config {
	host, err := os.Hostname()
	if err != nil {
		host = "" // Validate asks for one
	}
	return Config{
		Host: host, Class: "crowd", Runtimes: []string{"runc"}, Checkpoint: 2 * time.Second,
		Images: defaultImages(), Isolation: defaultIsolation(), GPU: defaultGPU(),
	}
}

// Load reads a configuration file. What it doesn't say is as in Default. The
// result is valid; an error that is Faults holds everything that is wrong.
func Load(path string) (Config, error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read hostd's configuration: %w", err)
	}
	var f file
	faults, parsed := decodeHCL(path, src, &f)
	if !parsed {
		return Config{}, fmt.Errorf("parse hostd's configuration %q:\n%w", path, faults)
	}
	cfg := Default()
	cfg.DataDir, cfg.Servers, cfg.CAFile = f.DataDir, f.Servers, f.CAFile
	cfg.AllowHostRoot, cfg.Socket, cfg.Shim = f.AllowHostRoot, f.Socket, f.Shim
	if f.Host != nil {
		cfg.Host = *f.Host
	}
	if f.Class != nil {
		cfg.Class = *f.Class
	}
	if f.Runtimes != nil {
		cfg.Runtimes = f.Runtimes
	}
	cfg.Images.read(f.Images, &faults)
	cfg.Isolation.read(f.Isolation, &faults)
	cfg.GPU.read(f.GPU)
	if f.Checkpoint != nil {
		if cfg.Checkpoint, err = time.ParseDuration(*f.Checkpoint); err != nil {
			faults.add("checkpoint: must be a duration such as \"2s\" (got %q)", *f.Checkpoint)
			cfg.Checkpoint = Default().Checkpoint
		}
	}
	cfg.setPaths()
	faults.merge(cfg.validate())
	if len(faults) > 0 {
		return Config{}, fmt.Errorf("hostd's configuration %q:\n%w", path, faults)
	}
	return cfg, nil
}

// setPaths fills in what follows from the data directory.
func (c *Config) setPaths() {
	if c.Socket == "" && filepath.IsAbs(c.DataDir) {
		c.Socket = filepath.Join(c.DataDir, "hostd.sock")
	}
	if c.Images.CacheDir == "" && filepath.IsAbs(c.DataDir) {
		c.Images.CacheDir = filepath.Join(c.DataDir, "images")
	}
}

// Validate reports every fault, each with its field and value. It looks at no
// file; CheckFiles does.
func (c *Config) Validate() error { return c.validate().err() }

func (c *Config) validate() Faults {
	var faults Faults
	bad := faults.add
	if !filepath.IsAbs(c.DataDir) {
		bad("data_dir: must be an absolute path (got %q)", c.DataDir)
	}
	switch {
	case c.Host == "":
		bad("host: must not be empty")
	case len(c.Host) > hostBytesMax:
		bad("host: must have at most %d bytes (got %d: %q)", hostBytesMax, len(c.Host), c.Host)
	case strings.ContainsFunc(c.Host, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		bad("host: must not contain blanks or control characters (got %q)", c.Host)
	}
	if len(c.Servers) == 0 {
		bad("servers: must name at least one settlement server")
	}
	for i, s := range c.Servers {
		if err := session.ValidateURL(s); err != nil {
			bad("servers[%d]: %v", i, err)
		}
		if slices.Index(c.Servers, s) != i {
			bad("servers[%d]: named twice (got %q)", i, s)
		}
	}
	if c.CAFile != "" && !filepath.IsAbs(c.CAFile) {
		bad("ca_file: must be an absolute path (got %q)", c.CAFile)
	}
	if c.Class != "crowd" && c.Class != "datacenter" {
		bad("class: must be \"crowd\" or \"datacenter\" (got %q)", c.Class)
	}
	if len(c.Runtimes) == 0 {
		bad("runtimes: must name at least one OCI runtime")
	}
	for i, r := range c.Runtimes {
		if r == "" || (strings.Contains(r, "/") && !filepath.IsAbs(r)) {
			bad("runtimes[%d]: must be a name or an absolute path (got %q)", i, r)
		}
	}
	switch {
	case c.Socket == "" && !filepath.IsAbs(c.DataDir):
		// Follows from data_dir, which has been reported.
	case c.Socket != "" && !filepath.IsAbs(c.Socket):
		bad("socket: must be an absolute path (got %q)", c.Socket)
	case len(c.Socket) > socketBytesMax:
		bad("socket: must have at most %d bytes (got %d: %q)", socketBytesMax, len(c.Socket), c.Socket)
	}
	if c.Shim != "" && !filepath.IsAbs(c.Shim) {
		bad("shim: must be an absolute path (got %q)", c.Shim)
	}
	c.GPU.validate(bad)
	if c.Checkpoint < checkpointMin || c.Checkpoint > checkpointMax {
		bad("checkpoint: must be from %v to %v (got %v)", checkpointMin, checkpointMax, c.Checkpoint)
	}
	if filepath.IsAbs(c.DataDir) || c.Images.CacheDir != "" { // it follows from data_dir
		store := c.store()
		store.Validate(bad)
	}
	c.Isolation.validate(bad)
	return faults
}
