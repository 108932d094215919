package gpu

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// VisibleEnv is where Nomad's NVIDIA device plugin says which devices a task
// was given: UUIDs, separated by commas.
const VisibleEnv = "NVIDIA_VISIBLE_DEVICES"

// EnvPrefix is that of variables that steer NVIDIA's container tools. A task's
// own are not passed on: an image or a job could ask for the devices of others.
const EnvPrefix = "NVIDIA_"

// UUIDBytesMax bounds a UUID.
const UUIDBytesMax = 64

// CDIName is the name under which nvidia-ctk describes a device.
func CDIName(uuid string) string { return "nvidia.com/gpu=" + uuid }

// ParseVisible reads the value of VisibleEnv. Anything but UUIDs is refused: an
// index means another device after the next boot.
func ParseVisible(value string) ([]string, error) {
	switch value {
	case "", "void", "none":
		return nil, nil
	}
	uuids := strings.Split(value, ",")
	if err := CheckUUIDs(VisibleEnv, uuids); err != nil {
		return nil, err
	}
	return uuids, nil
}

// CheckUUIDs reports every entry of a field that is no UUID of a GPU or a MIG
// device, or is there twice.
func CheckUUIDs(field string, uuids []string) error {
	var errs []error
	for i, u := range uuids {
		switch {
		case !isUUID(u):
			errs = append(errs, fmt.Errorf(`%s[%d]: must be the UUID of a GPU ("GPU-...") or of a MIG device ("MIG-...") (got %q)`, field, i, u))
		case slices.Index(uuids, u) != i:
			errs = append(errs, fmt.Errorf("%s[%d]: named twice (got %q)", field, i, u))
		}
	}
	return errors.Join(errs...)
}

func isUUID(s string) bool {
	rest, ok := strings.CutPrefix(s, "GPU-")
	if !ok {
		rest, ok = strings.CutPrefix(s, "MIG-")
	}
	return ok && rest != "" && len(s) <= UUIDBytesMax && !strings.ContainsFunc(rest, func(r rune) bool {
		return r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}
