// Package access knows who may speak to a settlement server: tokens with a
// role, kept as hashes in a file of the operator's.
//
// A token is 26 random characters behind "joule-": at 130 bits no one guesses
// it, so that a plain SHA-256 keeps it safe in the file. The file is read again
// when it changes, so that tokens are added and taken back without a restart.
package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclsimple"
	"github.com/hashicorp/hcl/v2/hclwrite"
)

// Role says what a token's bearer may do.
type Role uint8

// The roles. Tests walk them up to rolesEnd.
const (
	Nobody   Role = iota // no token, or one that is not known
	Operator             // everything
	Customer             // what concerns its own accounts, leases and jobs
	Supplier             // what concerns its own accounts, hosts, leases and fines
	rolesEnd
)

// Roles are the roles that a token can have.
func Roles() []Role { return []Role{Operator, Customer, Supplier} }

// String returns the role's name.
func (r Role) String() string {
	names := [...]string{"nobody", "operator", "customer", "supplier"}
	if r < rolesEnd {
		return names[r]
	}
	return fmt.Sprintf("role %d", r)
}

// ParseRole reads a role that a token can have.
func ParseRole(s string) (Role, error) {
	for _, r := range Roles() {
		if s == r.String() {
			return r, nil
		}
	}
	return Nobody, fmt.Errorf("role: want operator, customer or supplier, got %q", s)
}

// Identity is who asks.
type Identity struct {
	Name    string // of the token: an operator's name in fines and corrections
	Role    Role
	Subject string // the customer or supplier; "" for operators
}

// Token is one entry of the file.
type Token struct {
	Name    string `hcl:"name,label"`
	SHA256  string `hcl:"sha256"` // of the token, hex
	Role    string `hcl:"role"`
	Subject string `hcl:"subject,optional"` // the customer's or supplier's name
}

type fileForm struct {
	Tokens []Token `hcl:"token,block"`
}

// tokenPrefix tells a token from other secrets when one turns up where it
// should not.
const tokenPrefix = "joule-"

// New makes a token and its entry. The secret is not kept anywhere.
func New(name string, role Role, subject string) (secret string, t Token, err error) {
	secret = tokenPrefix + rand.Text()
	t = Token{Name: name, SHA256: hash(secret), Role: role.String(), Subject: subject}
	_, err = t.identity()
	return secret, t, err
}

func hash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// HCL is the entry as it stands in the file.
func (t Token) HCL() string {
	f := hclwrite.NewEmptyFile()
	f.Body().AppendBlock(gohcl.EncodeAsBlock(&t, "token"))
	return string(f.Bytes())
}

// nameBytesMax bounds names and subjects, as the ledger does.
const nameBytesMax = 64

func (t Token) identity() (Identity, error) {
	fault := func(format string, args ...any) (Identity, error) {
		return Identity{}, fmt.Errorf("token %q: %w", t.Name, fmt.Errorf(format, args...))
	}
	if t.Name == "" || len(t.Name) > nameBytesMax || strings.ContainsFunc(t.Name, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '$' || r == '%' }) {
		return fault("name: want 1 to %d printable ASCII characters without spaces and quotes", nameBytesMax)
	}
	role, err := ParseRole(t.Role)
	if err != nil {
		return fault("%w", err)
	}
	if (t.Subject == "") != (role == Operator) {
		return fault("subject: a customer's or supplier's token names one, an operator's none, got %q", t.Subject)
	}
	if b, err := hex.DecodeString(t.SHA256); err != nil || len(b) != sha256.Size {
		return fault("sha256: want %d hex digits, got %q", 2*sha256.Size, t.SHA256)
	}
	return Identity{Name: t.Name, Role: role, Subject: t.Subject}, nil
}

// Tokens are the tokens of a file. It is safe for concurrent use.
type Tokens struct {
	path string

	mu      sync.Mutex
	byHash  map[string]Identity
	looked  time.Time
	version version
	broken  error // why the file's present version was not taken
}

// version tells whether a file has changed.
type version struct {
	size  int64
	mtime time.Time
}

// lookEvery is how often the file is looked at for changes.
const lookEvery = time.Second

// Load reads a tokens file, which must be readable by its owner alone.
func Load(path string) (*Tokens, error) {
	t := &Tokens{path: path}
	var err error
	if t.byHash, t.version, err = read(path); err != nil {
		return nil, err
	}
	t.looked = time.Now()
	return t, nil
}

func read(path string) (map[string]Identity, version, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, version{}, fmt.Errorf("read tokens: %w", err)
	}
	v := version{info.Size(), info.ModTime()}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, v, fmt.Errorf("read tokens: %s is readable by others (mode %04o): chmod 600 it", path, info.Mode().Perm())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, v, fmt.Errorf("read tokens: %w", err)
	}
	var f fileForm
	if err := hclsimple.Decode(path+".hcl", b, nil, &f); err != nil {
		return nil, v, fmt.Errorf("read tokens: %w", err)
	}
	out := make(map[string]Identity, len(f.Tokens))
	names := make(map[string]bool, len(f.Tokens))
	var faults []error
	for _, t := range f.Tokens {
		id, err := t.identity()
		key := strings.ToLower(t.SHA256)
		if _, twice := out[key]; err == nil && (twice || names[t.Name]) {
			err = fmt.Errorf("token %q: its name or sha256 is there twice", t.Name)
		}
		if err != nil {
			faults = append(faults, err)
			continue
		}
		out[key], names[t.Name] = id, true
	}
	if err := errors.Join(faults...); err != nil {
		return nil, v, fmt.Errorf("tokens file %s:\n%w", path, err)
	}
	return out, v, nil
}

// Identify returns whose token secret is; ok is false if it is nobody's. err,
// said once for each change, tells that the file is not readable any more: the
// tokens stay as they were.
func (t *Tokens) Identify(secret string) (id Identity, ok bool, err error) {
	key := hash(secret)
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); now.Sub(t.looked) >= lookEvery {
		t.looked = now
		err = t.look()
	}
	id, ok = t.byHash[key]
	return id, ok, err
}

// Reload looks at the file at once.
func (t *Tokens) Reload() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.look()
}

func (t *Tokens) look() error {
	info, err := os.Stat(t.path)
	if err == nil && (version{info.Size(), info.ModTime()}) == t.version {
		return nil
	}
	byHash, v, err := read(t.path)
	if err != nil {
		if t.broken != nil && t.broken.Error() == err.Error() {
			return nil
		}
		t.broken = err
		return err
	}
	t.byHash, t.version, t.broken = byHash, v, nil
	return nil
}

// ReadToken reads a bearer's token from a file that others may not read.
func ReadToken(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("token file: %s is readable by others (mode %04o): chmod 600 it", path, info.Mode().Perm())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	secret := strings.TrimSpace(string(b))
	if !strings.HasPrefix(secret, tokenPrefix) || strings.ContainsAny(secret, " \t\r\n") {
		return "", fmt.Errorf("token file: %s holds no token: want %s…", path, tokenPrefix)
	}
	return secret, nil
}

// Append adds an entry to a tokens file, which is made if needed. An entry that
// does not go with those that are there is refused.
func Append(path string, t Token) error {
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("add token: %w", err)
	}
	if len(old) > 0 && old[len(old)-1] != '\n' {
		old = append(old, '\n')
	}
	// Beside the file, then in its place: a server that reads it meanwhile
	// sees the old one or the new one.
	tmp, err := os.CreateTemp(filepath.Dir(path), ".tokens-*") // made with mode 0600
	if err != nil {
		return fmt.Errorf("add token: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(old, t.HCL()...))
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return fmt.Errorf("add token: %w", err)
	}
	if _, _, err := read(tmp.Name()); err != nil {
		return fmt.Errorf("add token: %w", errors.New(strings.ReplaceAll(err.Error(), tmp.Name(), path)))
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return fmt.Errorf("add token: %w", err)
	}
	return nil
}
