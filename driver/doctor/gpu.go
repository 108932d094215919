package doctor

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// probeName is the program that speaks to NVML.
const probeName = "joule-gpu-probe"

const nvidiaVendor = "0x10de"

// libraryDirs are where distributions and NVIDIA's installer put libraries.
var libraryDirs = []string{
	"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib",
	"/usr/lib/x86_64-linux-gnu/nvidia/current", "/usr/lib/wsl/lib", "/run/opengl-driver/lib",
}

func checkGPU(_ context.Context, e *examination) {
	cards := e.nvidiaCards()
	driver := driverVersion(e.sys)
	library := ""
	for _, dir := range libraryDirs {
		if p := dir + "/libnvidia-ml.so.1"; e.sys.exists(p) {
			library = p
			break
		}
	}
	specs, faults := e.cdiSpecs()
	switch {
	case driver != "":
		e.ok("driver", "NVIDIA driver %s, %d cards", driver, cards)
	case cards > 0:
		e.warn("driver", "install NVIDIA's driver: apt-get install nvidia-driver", "%d NVIDIA cards, but no driver: their hours can't be sold", cards)
	default:
		e.none("driver", "no NVIDIA card")
	}
	gpu := driver != ""
	switch {
	case library != "":
		e.ok("NVML", "%s", library)
	case gpu:
		e.warn("NVML", "install the library of the same version as the driver: apt-get install libnvidia-ml1", "no libnvidia-ml.so.1: use of the cards can't be measured")
	default:
		e.none("NVML", "no libnvidia-ml.so.1")
	}
	switch probe := e.besideUs(probeName); {
	case probe != "":
		e.ok("probe", "%s", probe)
	case gpu:
		e.warn("probe", "install "+probeName+" beside joule", "no %s", probeName)
	default:
		e.none("probe", "no %s", probeName)
	}
	for _, f := range faults {
		e.warn("CDI", "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml writes it anew", "%s", f)
	}
	switch {
	case len(specs) > 0:
		e.ok("CDI", "%s", strings.Join(specs, ", "))
	case gpu:
		e.warn("CDI", "apt-get install nvidia-container-toolkit; nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml", "no spec for nvidia.com/gpu: tasks can't be given cards")
	case len(faults) == 0:
		e.none("CDI", "no spec for nvidia.com/gpu")
	}
}

// nvidiaCards counts NVIDIA's display and 3D controllers on the PCI bus.
func (e *examination) nvidiaCards() int {
	devices, err := os.ReadDir(e.sys.path("/sys/bus/pci/devices"))
	if err != nil {
		return 0
	}
	n := 0
	for _, d := range devices {
		dir := "/sys/bus/pci/devices/" + d.Name()
		vendor, err1 := e.sys.read(dir + "/vendor")
		class, err2 := e.sys.read(dir + "/class")
		if err1 == nil && err2 == nil && strings.TrimSpace(vendor) == nvidiaVendor && strings.HasPrefix(class, "0x03") {
			n++
		}
	}
	return n
}

var versionWord = regexp.MustCompile(`\b[0-9]{3,}(\.[0-9]+)+\b`)

// driverVersion is the loaded NVIDIA driver's; "" where there is none.
func driverVersion(s *System) string {
	text, err := s.read("/proc/driver/nvidia/version")
	if err != nil {
		return ""
	}
	if v := versionWord.FindString(text); v != "" {
		return v
	}
	return "of an unknown version"
}

// cdiKind finds the kind of a CDI spec, in YAML.
var cdiKind = regexp.MustCompile(`(?m)^"?kind"?:\s*"?([^"\s]+)"?\s*$`)

// cdiSpecs are the files that name NVIDIA's devices, and what is wrong with
// others.
func (e *examination) cdiSpecs() (specs, faults []string) {
	for _, dir := range []string{"/etc/cdi", "/var/run/cdi"} {
		entries, err := os.ReadDir(e.sys.path(dir))
		if err != nil {
			continue
		}
		for _, entry := range entries {
			path := dir + "/" + entry.Name()
			ext := filepath.Ext(path)
			if !slices.Contains([]string{".json", ".yaml", ".yml"}, ext) {
				continue
			}
			text, err := e.sys.read(path)
			if err != nil {
				faults = append(faults, err.Error())
				continue
			}
			kind := ""
			if ext == ".json" {
				var spec struct{ Kind string }
				if err := json.Unmarshal([]byte(text), &spec); err != nil {
					faults = append(faults, path+": "+err.Error())
					continue
				}
				kind = spec.Kind
			} else if m := cdiKind.FindStringSubmatch(text); m != nil {
				kind = m[1]
			}
			switch {
			case kind == "":
				faults = append(faults, path+": names no kind")
			case strings.HasPrefix(kind, "nvidia.com/"):
				specs = append(specs, path+" ("+kind+")")
			}
		}
	}
	return specs, faults
}

// besideUs finds one of our programs beside this one; "" where it isn't.
func (e *examination) besideUs(name string) string {
	self, err := e.sys.Executable()
	if err != nil {
		return ""
	}
	for _, dir := range []string{filepath.Dir(self), "/usr/lib/joule", "/usr/bin", "/usr/local/bin"} {
		if p := filepath.Join(dir, name); e.sys.exists(p) {
			return p
		}
	}
	return ""
}
