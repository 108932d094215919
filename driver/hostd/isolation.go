package hostd

import (
	"fmt"
	"math"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/image"
	"github.com/joulecloud/joule/driver/oci"
)

// A demand says whether tasks run without a means of isolation that this host
// may not have.
type demand string

// The demands.
const (
	demandAuto     demand = "auto"     // used where the host has it
	demandRequired demand = "required" // without it, nothing runs
	demandOff      demand = "off"
)

func (d demand) valid() bool { return d == demandAuto || d == demandRequired || d == demandOff }

// Images is where images may come from and what they may take of the disk.
type Images struct {
	CacheDir   string
	CacheLimit int64 // bytes
	AuthFile   string
	Registries []string
	Insecure   []string
	LocalDirs  []string
}

// Isolation is what keeps tasks from the host and from each other.
type Isolation struct {
	UserNamespace demand
	Seccomp       demand
	CapAllow      []string // "CAP_…": what a task may have
	PidsMax       int64
	CPUHardLimit  bool // no task uses more CPU than it asked for
}

// imagesFile and isolationFile are their HCL forms.
type imagesFile struct {
	CacheDir   string   `hcl:"cache_dir,optional"`
	CacheLimit *string  `hcl:"cache_limit"`
	AuthFile   string   `hcl:"auth_file,optional"`
	Registries []string `hcl:"registries,optional"`
	Insecure   []string `hcl:"insecure_registries,optional"`
	LocalDirs  []string `hcl:"local_dirs,optional"`
}

type isolationFile struct {
	UserNamespace *string  `hcl:"user_namespace"`
	Seccomp       *string  `hcl:"seccomp"`
	CapAllow      []string `hcl:"cap_allow,optional"`
	PidsMax       *int64   `hcl:"pids_max"`
	CPUHardLimit  bool     `hcl:"cpu_hard_limit,optional"`
}

func defaultImages() Images { return Images{CacheLimit: 20 << 30, Registries: []string{"*"}} }

func defaultIsolation() Isolation {
	return Isolation{UserNamespace: demandAuto, Seccomp: demandAuto, CapAllow: oci.DefaultCapabilities, PidsMax: 4096}
}

func (c *Images) read(f *imagesFile, faults *Faults) {
	if f == nil {
		return
	}
	c.CacheDir, c.AuthFile, c.Insecure, c.LocalDirs = f.CacheDir, f.AuthFile, f.Insecure, f.LocalDirs
	if f.Registries != nil {
		c.Registries = f.Registries
	}
	if f.CacheLimit == nil {
		return
	}
	n, err := parseBytes(*f.CacheLimit)
	if err != nil {
		faults.add("images.cache_limit: %v", err)
		return
	}
	c.CacheLimit = n
}

func (c *Isolation) read(f *isolationFile, faults *Faults) {
	if f == nil {
		return
	}
	if f.UserNamespace != nil {
		c.UserNamespace = demand(*f.UserNamespace)
	}
	if f.Seccomp != nil {
		c.Seccomp = demand(*f.Seccomp)
	}
	if f.PidsMax != nil {
		c.PidsMax = *f.PidsMax
	}
	c.CPUHardLimit = f.CPUHardLimit
	if f.CapAllow == nil {
		return
	}
	c.CapAllow = nil
	for i, name := range f.CapAllow {
		k, err := oci.Capability(name)
		if err != nil {
			faults.add("isolation.cap_allow[%d]: %v", i, err)
			continue
		}
		c.CapAllow = append(c.CapAllow, k)
	}
}

func (c *Isolation) validate(bad func(string, ...any)) {
	if !c.UserNamespace.valid() {
		bad("isolation.user_namespace: must be \"auto\", \"required\" or \"off\" (got %q)", c.UserNamespace)
	}
	if !c.Seccomp.valid() {
		bad("isolation.seccomp: must be \"auto\", \"required\" or \"off\" (got %q)", c.Seccomp)
	}
	if c.PidsMax < 1 || c.PidsMax > 4<<20 {
		bad("isolation.pids_max: must be from 1 to %d (got %d)", 4<<20, c.PidsMax)
	}
}

// store is the image cache's configuration.
func (c *Config) store() image.Config {
	return image.Config{
		Dir: c.Images.CacheDir, RunDir: c.runDir(), LimitBytes: c.Images.CacheLimit, AuthFile: c.Images.AuthFile,
		Registries: c.Images.Registries, Insecure: c.Images.Insecure, LocalDirs: c.Images.LocalDirs,
	}
}

// runDir is where task roots are mounted: the way there is open to every user,
// as it must be for tasks in user namespaces, which data_dir is not.
func (c *Config) runDir() string {
	return filepath.Join("/run/joule", hostapi.ContainerID(c.DataDir)[:12])
}

var bytesPattern = regexp.MustCompile(`^([0-9]{1,12}) ?(MiB|GiB|TiB)$`)

// parseBytes reads "500MiB", "20GiB", "1TiB".
func parseBytes(s string) (int64, error) {
	m := bytesPattern.FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("must be a size such as \"20GiB\" (got %q)", s)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	shift := map[string]int{"MiB": 20, "GiB": 30, "TiB": 40}[m[2]]
	if err != nil || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("is too large (got %q)", s)
	}
	return n << shift, nil
}
