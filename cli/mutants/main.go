// Command mutants plants one fault after another in the code and runs the tests
// that must notice it. It changes no file: the faulty source is laid over the
// tree for the compiler alone (go test -overlay).
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"text/tabwriter"
)

//go:embed mutants.txt
var list string

func main() {
	only := flag.String("run", "", "plant only faults whose name matches this `regexp`")
	root := flag.String("root", ".", "the module's root `directory`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, *root, *only); err != nil {
		fmt.Fprintln(os.Stderr, "mutants: error:", err)
		os.Exit(1)
	}
}

// run plants the faults and prints what noticed each. It returns an error that
// names every fault that none of its tests noticed, or that could not be
// planted.
func run(ctx context.Context, out io.Writer, root, only string) error {
	wanted, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	mutants, err := parse(list)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	var bad []error
	n := 0
	for _, m := range mutants {
		if !wanted.MatchString(m.name) {
			continue
		}
		n++
		caught, err := m.try(ctx, root, dir)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("%s: %w", m.name, err))
			caught = "NOT CAUGHT: " + firstLine(err.Error())
		}
		fmt.Fprintf(w, "%s\t%s\n", m.name, caught)
		w.Flush()
	}
	fmt.Fprintf(out, "%d faults planted, %d caught\n", n, n-len(bad))
	return errors.Join(bad...)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// mutant is one planted fault.
type mutant struct {
	name    string
	changes []change
	tests   [][]string // arguments of go test; one that fails is enough
}

// change replaces a text that stands once in a file; with an empty old text the
// new one goes to the file's end.
type change struct{ file, old, new string }

// try returns the test that noticed the fault.
func (m *mutant) try(ctx context.Context, root, dir string) (string, error) {
	replace := map[string]string{}
	for i, c := range m.changes {
		path, err := filepath.Abs(filepath.Join(root, c.file))
		if err != nil {
			return "", err
		}
		from := path
		if before, ok := replace[path]; ok {
			from = before
		}
		src, err := os.ReadFile(from)
		if err != nil {
			return "", err
		}
		text, err := c.apply(string(src))
		if err != nil {
			return "", err
		}
		to := filepath.Join(dir, fmt.Sprintf("%d-%s", i, filepath.Base(path)))
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[path] = to
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlayPath := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlayPath, overlay, 0o600); err != nil {
		return "", err
	}
	for _, t := range m.tests {
		args := append([]string{"test", "-overlay", overlayPath, "-count=1", "-failfast", "-timeout=300s"}, t...)
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "SIM_TIME=40s", "SIM_SEED=1")
		b, err := cmd.CombinedOutput()
		if err == nil {
			continue
		}
		if name := failed(string(b)); name != "" {
			return name, nil
		}
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, b)
	}
	return "", errors.New("every test passes")
}

// apply makes the change in a source.
func (c *change) apply(src string) (string, error) {
	if c.old == "" {
		return src + c.new, nil
	}
	if n := strings.Count(src, c.old); n != 1 {
		return "", fmt.Errorf("%s has the text to change %d times, want once:\n%s", c.file, n, c.old)
	}
	return strings.Replace(src, c.old, c.new, 1), nil
}

var failLine = regexp.MustCompile(`(?m)^ *--- FAIL: (\S+)`)

// failed is the first test that an output of go test says has failed, the most
// particular of its subtests; "" if there is none.
func failed(output string) string {
	name := ""
	for _, f := range failLine.FindAllStringSubmatch(output, -1) {
		if name == "" || strings.HasPrefix(f[1], name+"/") {
			name = f[1]
		}
	}
	if name == "" && strings.Contains(output, "panic: ") && !strings.Contains(output, "[build failed]") {
		if m := regexp.MustCompile(`(?m)^(?:=== RUN +|panic: test timed out|.*\.)(Test\w+)`).FindStringSubmatch(output); m != nil {
			return m[1] + " (panic)"
		}
		return "a panic"
	}
	return name
}

// parse reads the list: a line "= name" begins a fault; "test ..." lines are
// arguments of go test; "file ..." begins a change, whose old text follows up
// to a line "---" and whose new one up to a line "...".
func parse(text string) ([]*mutant, error) {
	var out []*mutant
	var m *mutant
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		key, value, _ := strings.Cut(line, " ")
		switch {
		case line == "" || key == "#":
		case key == "=":
			m = &mutant{name: value}
			out = append(out, m)
		case m == nil:
			return nil, fmt.Errorf("mutants.txt:%d: %q stands before the first fault", i+1, line)
		case key == "test":
			m.tests = append(m.tests, strings.Fields(value))
		case key == "file":
			c := change{file: value}
			for _, part := range []struct {
				end  string
				text *string
			}{{"---", &c.old}, {"...", &c.new}} {
				var body []string
				for i++; i < len(lines) && lines[i] != part.end; i++ {
					body = append(body, lines[i])
				}
				if i == len(lines) {
					return nil, fmt.Errorf("mutants.txt: %s: a change without %q", m.name, part.end)
				}
				*part.text = strings.Join(body, "\n")
			}
			m.changes = append(m.changes, c)
		default:
			return nil, fmt.Errorf("mutants.txt:%d: %q is no line of a fault", i+1, line)
		}
	}
	for _, m := range out {
		if len(m.changes) == 0 || len(m.tests) == 0 {
			return nil, fmt.Errorf("mutants.txt: %s: must have a change and a test", m.name)
		}
	}
	return out, nil
}
