package hostd

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Fault is one thing that is wrong with a configuration.
type Fault struct {
	Field   string // as in the file: "servers[1]"; "" where the file isn't HCL
	Problem string // with the value
}

// Faults is everything that is wrong with a configuration.
type Faults []Fault

// Error implements error: one line for each fault.
func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, fault := range f {
		lines[i] = fault.Problem
		if fault.Field != "" {
			lines[i] = fault.Field + ": " + fault.Problem
		}
	}
	return strings.Join(lines, "\n")
}

// err is nil where there is no fault.
func (f Faults) err() error {
	if len(f) == 0 {
		return nil
	}
	return f
}

// add appends "field: problem".
func (f *Faults) add(format string, args ...any) {
	field, problem, _ := strings.Cut(fmt.Sprintf(format, args...), ": ")
	*f = append(*f, Fault{field, problem})
}

// merge appends those whose field has none yet: a value of the wrong type is
// missing, too, and one fault says more than two.
func (f *Faults) merge(more Faults) {
	have := map[string]bool{}
	for _, fault := range *f {
		have[fault.Field] = true
	}
	for _, fault := range more {
		if name, _, _ := strings.Cut(fault.Field, "["); !have[name] && !have[fault.Field] {
			*f = append(*f, fault)
		}
	}
}

// decodeHCL reads a file of attributes into the struct into, as far as it can;
// parsed says that it is HCL. The faults name attribute, place and value.
func decodeHCL(path string, src []byte, into any) (faults Faults, parsed bool) {
	f, diags := hclsyntax.ParseConfig(src, filepath.Base(path), hcl.InitialPos)
	if diags.HasErrors() {
		for _, d := range diags {
			faults = append(faults, Fault{"", fmt.Sprintf("%s: %s", place(d.Subject), words(d))})
		}
		return faults, false
	}
	body := f.Body.(*hclsyntax.Body) // hclsyntax makes no other
	for _, d := range gohcl.DecodeBody(body, nil, into) {
		fault := Fault{"", fmt.Sprintf("%s: %s", place(d.Subject), words(d))}
		for name, attr := range body.Attributes {
			if d.Subject == nil || d.Subject.Start.Line != attr.SrcRange.Start.Line {
				continue
			}
			fault.Field = name
			if value := attr.Expr.Range(); d.Summary != "Unsupported argument" {
				fault.Problem += fmt.Sprintf(" (got %s)", value.SliceBytes(src))
			}
		}
		for _, block := range body.Blocks {
			if d.Subject != nil && d.Subject.Start.Line == block.TypeRange.Start.Line {
				fault.Field = block.Type
			}
		}
		faults = append(faults, fault)
	}
	return faults, true
}

func place(r *hcl.Range) string {
	if r == nil {
		return "somewhere"
	}
	return fmt.Sprintf("%s:%d", r.Filename, r.Start.Line)
}

// words are a diagnostic's that say something.
func words(d *hcl.Diagnostic) string {
	if d.Detail == "" {
		return d.Summary
	}
	return strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(d.Detail, "Unsuitable value: "), "."), "\n", " ")
}

// CheckFiles reports every fault of what a valid configuration points to. It
// changes nothing.
func (c *Config) CheckFiles() error {
	var faults Faults
	if info, err := os.Stat(c.DataDir); err == nil && !info.IsDir() {
		faults.add("data_dir: is no directory (got %q)", c.DataDir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) { // hostd makes it
		faults.add("data_dir: %v", err)
	}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			faults.add("ca_file: %v", err)
		} else if !x509.NewCertPool().AppendCertsFromPEM(pem) {
			faults.add("ca_file: holds no PEM certificate (got %q)", c.CAFile)
		}
	}
	if c.Shim != "" {
		if _, err := exec.LookPath(c.Shim); err != nil {
			faults.add("shim: %v (got %q)", errors.Unwrap(err), c.Shim)
		}
	}
	if _, err := readKey(filepath.Join(c.DataDir, KeyFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		faults.add("data_dir: %v", err)
	}
	if dir := filepath.Dir(c.Socket); dir != c.DataDir {
		if info, err := os.Stat(dir); err != nil {
			faults.add("socket: its directory: %v", err)
		} else if !info.IsDir() {
			faults.add("socket: its directory is none (got %q)", c.Socket)
		}
	}
	return faults.err()
}
