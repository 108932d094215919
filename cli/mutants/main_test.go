package main

import (
	"os"
	"path/filepath"
	"testing"
)

// Every fault can still be planted: code that has changed since needs its fault
// changed too (cli/mutants/mutants.txt).
func TestFaultsFitTheCode(t *testing.T) {
	mutants, err := parse(list)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		for _, c := range m.changes {
			src, err := os.ReadFile(filepath.Join("..", "..", c.file))
			if err != nil {
				t.Errorf("%s: %v", m.name, err)
				continue
			}
			if got, err := c.apply(string(src)); err != nil {
				t.Errorf("%s: %v", m.name, err)
			} else if got == string(src) {
				t.Errorf("%s: changes nothing", m.name)
			}
		}
	}
}

func TestFailedNamesTheSubtest(t *testing.T) {
	out := "=== RUN x\n--- FAIL: TestA (0.1s)\n    --- FAIL: TestA/b (0.1s)\nFAIL\n"
	if got := failed(out); got != "TestA/b" {
		t.Errorf("got %q, want TestA/b", got)
	}
	if got := failed("ok\n"); got != "" {
		t.Errorf("got %q, want none", got)
	}
}
