package access

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTokensAreKeptAsHashes(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tokens.hcl")
	want := map[string]Identity{}
	for _, tc := range []Identity{{"alice", Operator, ""}, {"bob", Operator, ""}, {"acme-ci", Customer, "acme"}, {"west", Supplier, "west-dc"}} {
		secret, tok, err := New(tc.Name, tc.Role, tc.Subject)
		if err != nil {
			t.Fatal(err)
		}
		if err := Append(path, tok); err != nil {
			t.Fatal(err)
		}
		want[secret] = tc
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := Load(path)
	if err != nil {
		t.Fatalf("load:\n%s\n%v", b, err)
	}
	for secret, id := range want {
		if strings.Contains(string(b), strings.TrimPrefix(secret, tokenPrefix)) {
			t.Errorf("the file holds the token of %s itself", id.Name)
		}
		if got, ok, err := tokens.Identify(secret); !ok || err != nil || got != id {
			t.Errorf("token of %s: got %v, %v, %v, want %v", id.Name, got, ok, err, id)
		}
	}
	for _, other := range []string{"", "joule-", "alice", hash("x")} {
		if got, ok, _ := tokens.Identify(other); ok {
			t.Errorf("token %q: got %v, want nobody", other, got)
		}
	}
}

func TestBadTokensFiles(t *testing.T) {
	t.Parallel()
	sum := hash("x")
	entry := func(name, sum, role, subject string) string {
		return Token{Name: name, SHA256: sum, Role: role, Subject: subject}.HCL()
	}
	for _, tc := range []struct {
		name, content string
		mode          os.FileMode
		word          string
	}{
		{"readable by others", entry("a", sum, "operator", ""), 0o640, "chmod 600"},
		{"no HCL", "token {", 0o600, "tokens"},
		{"an unknown role", entry("a", sum, "root", ""), 0o600, `"root"`},
		{"a customer without a subject", entry("a", sum, "customer", ""), 0o600, "subject"},
		{"an operator with a subject", entry("a", sum, "operator", "acme"), 0o600, `"acme"`},
		{"half a hash", entry("a", sum[:10], "operator", ""), 0o600, sum[:10]},
		{"a name with a space", entry("a b", sum, "operator", ""), 0o600, "name"},
		{"a name twice", entry("a", sum, "operator", "") + entry("a", hash("y"), "operator", ""), 0o600, "twice"},
		{"a hash twice", entry("a", sum, "operator", "") + entry("b", strings.ToUpper(sum), "operator", ""), 0o600, "twice"},
	} {
		path := filepath.Join(t.TempDir(), "tokens.hcl")
		if err := os.WriteFile(path, []byte(tc.content), tc.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, tc.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), tc.word) {
			t.Errorf("%s: got %v, want an error with %q", tc.name, err, tc.word)
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("no file: got no error")
	}
}

// Taking a token out of the file takes it back; a broken file changes nothing,
// and says so once.
func TestFileIsReadAgainWhenItChanges(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tokens.hcl")
	first, a, _ := New("a", Operator, "")
	second, b, _ := New("b", Operator, "")
	write := func(content string, age time.Duration) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-age)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	write(a.HCL(), 3*time.Hour)
	tokens, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	write(b.HCL(), 2*time.Hour)
	if err := tokens.Reload(); err != nil {
		t.Fatal(err)
	}
	if _, ok, _ := tokens.Identify(first); ok {
		t.Error("a token that was taken out is still known")
	}
	write("token {", time.Hour)
	if err := tokens.Reload(); err == nil {
		t.Error("a broken file: got no error")
	}
	if err := tokens.Reload(); err != nil {
		t.Errorf("the same broken file again: got %v, want no second word", err)
	}
	if _, ok, _ := tokens.Identify(second); !ok {
		t.Error("a broken file took the tokens away")
	}
}

func TestReadToken(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "token")
	secret, _, _ := New("a", Operator, "")
	for _, tc := range []struct {
		content string
		mode    os.FileMode
		ok      bool
	}{{secret + "\n", 0o600, true}, {secret, 0o604, false}, {"password", 0o600, false}, {"", 0o600, false}, {secret + "\nmore", 0o600, false}} {
		os.WriteFile(path, []byte(tc.content), 0o600)
		os.Chmod(path, tc.mode)
		if got, err := ReadToken(path); (err == nil) != tc.ok || tc.ok && got != secret {
			t.Errorf("%q with mode %o: got %q, %v", tc.content, tc.mode, got, err)
		}
	}
}
