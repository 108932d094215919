package probe

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/joulecloud/joule/driver/gpu"
)

// DefaultLibrary is found by the system's loader.
const DefaultLibrary = "libnvidia-ml.so.1"

// Library answers by a management library. It is not safe for concurrent use.
type Library struct {
	path string
	nvml nvml.Interface
	up   bool // loaded and initialised
	has  map[string]bool
}

// New returns a Library at path, which the first request loads.
func New(path string) *Library {
	return &Library{path: path, nvml: nvml.New(nvml.WithLibraryPath(path)), has: map[string]bool{}}
}

// Answer implements Answerer.
func (l *Library) Answer(req gpu.Request) gpu.Response {
	resp := gpu.Response{ID: req.ID}
	if err := l.open(); err != nil {
		resp.Error = err.Error()
		return resp
	}
	var err error
	switch {
	case req.Inventory:
		resp.Inventory, err = l.inventory()
	case req.Accounting != nil:
		resp.Accounting, err = l.accounting(req.Accounting)
	default:
		resp.Read = make([]gpu.Reading, 0, len(req.Read))
		for _, q := range req.Read {
			resp.Read = append(resp.Read, l.read(q))
		}
	}
	if err != nil {
		resp.Error = err.Error()
	}
	return resp
}

// open loads and initialises the library, once. A failure is tried again by the
// next request: the driver may be installed meanwhile.
func (l *Library) open() error {
	if l.up {
		return nil
	}
	// Looked at before go-nvml calls into it unasked.
	lib := dl.New(l.path, dl.RTLD_LAZY|dl.RTLD_GLOBAL)
	if err := lib.Open(); err != nil {
		return fmt.Errorf("NVIDIA's library can't be loaded: %w", err)
	}
	if lib.Lookup("nvmlInit_v2") != nil && lib.Lookup("nvmlInit") != nil {
		return errors.Join(fmt.Errorf("%s is no management library of NVIDIA's: it has no nvmlInit", l.path), lib.Close())
	}
	ret := l.nvml.Init()
	// go-nvml holds the library by itself now.
	if err := lib.Close(); err != nil {
		return err
	}
	if ret != nvml.SUCCESS {
		return fmt.Errorf("NVIDIA's driver can't be used: %s", l.words(ret))
	}
	l.up = true
	return nil
}

// shut makes the next request initialise anew: something as deep as the driver
// has changed under us.
func (l *Library) shut() {
	if l.up && l.can("nvmlShutdown") {
		_ = l.nvml.Shutdown() // whatever it says, we begin anew
	}
	l.up = false
	clear(l.has)
}

// can says whether the library has any of the symbols.
func (l *Library) can(symbols ...string) bool {
	for _, s := range symbols {
		ok, known := l.has[s]
		if !known {
			ok = l.nvml.Extensions().LookupSymbol(s) == nil
			l.has[s] = ok
		}
		if ok {
			return true
		}
	}
	return false
}

// words are the library's own for a result.
func (l *Library) words(ret nvml.Return) string {
	if l.can("nvmlErrorString") {
		return l.nvml.ErrorString(ret)
	}
	return "error " + strconv.Itoa(int(ret))
}
