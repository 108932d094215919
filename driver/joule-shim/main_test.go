package main

import (
	"os/exec"
	"strings"
	"testing"
)

// There is a shim per task: it must stay small.
func TestShimIsSmall(t *testing.T) {
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("needs go")
	}
	out, err := exec.Command(goTool, "list", "-deps", ".").Output()
	if err != nil {
		t.Fatalf("list dependencies: %v", err)
	}
	for pkg := range strings.FieldsSeq(string(out)) {
		for _, heavy := range []string{"github.com/hashicorp/", "google.golang.org/", "connectrpc.com/", "net/http", "crypto/tls", "joule/settlement/"} {
			if strings.Contains(pkg, heavy) {
				t.Errorf("the shim links %s", pkg)
			}
		}
	}
}
